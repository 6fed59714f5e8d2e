// What host entries cost on a real kernel: 2 MiB of guest RAM in so many pieces, as one entry for each piece or as one entry
// over a window, and 1 GiB in each way. Unit: 4 KiB pages; times in microseconds of the machine, of which only ratios mean
// something under software emulation.
import { HostBatch } from '../../../../src/host/context.ts';
import type { HostContext } from '../../../../src/host/context.ts';
import { GuestRam } from '../../../../src/host/guest-ram.ts';
import type { GuestEnv } from '../guest-env.ts';
import { openLab } from './lab.ts';

const RW = 3;
const WINDOW = 512;
/** Pages of guest RAM, over which I/O virtual memory runs again and again. */
const RAM_PAGES = 32 * WINDOW;
const ROUNDS = 24;
const GIB_WINDOWS = 512;
/** Room for 1 GiB of single pages. */
const LIMIT = GIB_WINDOWS * WINDOW + 1;

/** One shape of 2 MiB. */
export interface WindowCost {
  readonly pieces: number;
  /** Microseconds to map and unmap the window with an entry for each piece, and with one entry over a window. */
  readonly map: number;
  readonly unmap: number;
  readonly gather: number;
  readonly gatherUnmap: number;
}

/** One way to map 1 GiB. */
export interface GibCost {
  readonly way: string;
  readonly entries: number;
  readonly mapMs: number;
  readonly unmapMs: number;
}

/** Everything that is measured. */
export interface Costs {
  readonly windows: readonly WindowCost[];
  readonly gib: readonly GibCost[];
}

export async function measureCosts(env: GuestEnv): Promise<Costs> {
  const lab = await openLab(env, { limit: LIMIT, windowPieces: 4096 });
  const ram = GuestRam.create({ size: BigInt(RAM_PAGES) * 4096n, preallocate: true });
  const va = Number(ram.hva / 4096n);
  const shapes = Array.from({ length: 10 }, (_, i) => 2 ** i);
  // The first calls compile code and make page tables.
  measureWindow(lab.context, va, WINDOW);
  const windows = shapes.map((pieces) => measureWindow(lab.context, va, pieces));
  const gib = [
    measureGib(lab.context, 'single pages', (batch, iova) => single(batch, iova, va, WINDOW)),
    measureGib(lab.context, 'joined, 2 MiB', (batch, iova) => batch.map(iova, WINDOW, place(va, iova), RW)),
    measureGib(lab.context, 'gathered, 512 pieces', (batch, iova) => gathered(batch, iova, va, WINDOW)),
    measureGib(lab.context, 'gathered, 32 pieces', (batch, iova) => gathered(batch, iova, va, 32)),
    measureGib(lab.context, 'joined, 64 MiB', (batch, iova) => {
      if (iova % RAM_PAGES === 0) batch.map(iova, RAM_PAGES, va, RW);
    }),
  ];
  lab.close();
  ram.close();
  return { windows, gib };
}

/** The window of guest RAM behind 2 MiB of I/O virtual memory. */
function place(va: number, iova: number): number {
  return va + (iova % RAM_PAGES);
}

/** An entry for each piece; the pieces lie in falling order, so that none continues another. */
function single(batch: HostBatch, iova: number, va: number, pieces: number): void {
  const size = WINDOW / pieces;
  for (let i = 0; i < pieces; i++) batch.map(iova + i * size, size, place(va, iova) + WINDOW - (i + 1) * size, RW);
}

function gathered(batch: HostBatch, iova: number, va: number, pieces: number): void {
  const size = WINDOW / pieces;
  batch.gather(iova, WINDOW, RW);
  for (let i = 0; i < pieces; i++) batch.piece(place(va, iova) + WINDOW - (i + 1) * size, size);
}

function measureWindow(context: HostContext, va: number, pieces: number): WindowCost {
  const times: Record<'map' | 'unmap' | 'gather' | 'gatherUnmap', number[]> = {
    map: [],
    unmap: [],
    gather: [],
    gatherUnmap: [],
  };
  const batch = new HostBatch(WINDOW);
  const removal = new HostBatch();
  for (let round = 0; round < ROUNDS; round++) {
    const iova = (round % (RAM_PAGES / WINDOW)) * WINDOW;
    removal.clear();
    removal.unmap(iova, WINDOW);
    batch.clear();
    single(batch, iova, va, pieces);
    times.map.push(timed(() => apply(context, batch)));
    times.unmap.push(timed(() => apply(context, removal)));
    batch.clear();
    gathered(batch, iova, va, pieces);
    times.gather.push(timed(() => apply(context, batch)));
    times.gatherUnmap.push(timed(() => apply(context, removal)));
  }
  const { map, unmap, gather, gatherUnmap } = times;
  return {
    pieces,
    map: least(map),
    unmap: least(unmap),
    gather: least(gather),
    gatherUnmap: least(gatherUnmap),
  };
}

function measureGib(context: HostContext, way: string, fill: (batch: HostBatch, iova: number) => void): GibCost {
  const batch = new HostBatch(WINDOW);
  const left = context.entriesLeft();
  let us = 0;
  for (let window = 0; window < GIB_WINDOWS; window++) {
    batch.clear();
    fill(batch, window * WINDOW);
    us += timed(() => apply(context, batch));
  }
  const entries = left - context.entriesLeft();
  const unmapUs = timed(() => {
    if (context.unmapAll() !== 0) throw new Error('unmapAll was refused');
  });
  return { way, entries, mapMs: us / 1000, unmapMs: unmapUs / 1000 };
}

function apply(context: HostContext, batch: HostBatch): void {
  const built = context.buildWindows(batch, 0);
  const done = built === batch.count ? context.apply(batch, 0) : built;
  if (done !== batch.count) throw new Error(`operation ${done} was refused with errno ${batch.errno[done]}`);
}

function timed(run: () => void): number {
  const begin = performance.now();
  run();
  return (performance.now() - begin) * 1000;
}

/** What the host's other work adds is no cost of the kernel. */
function least(values: readonly number[]): number {
  return Math.min(...values);
}

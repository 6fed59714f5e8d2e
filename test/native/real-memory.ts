// The buffers of the contract cases (src/host/simulated/type1-cases.ts, gather-case.ts) in real memory, for a bench on a real
// container. Not here: the container, and a device that does DMA. Free of vitest, so that it runs inside a virtual machine.
// Addresses are bytes as bigint; each page of a gather buffer has a first 32-bit word of its own.
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import type { NativeProbe, NativeRam } from '../../src/host/native-api.ts';
import { lockedMemory, loadNative } from '../../src/host/native.ts';
import type { GatherBuffer } from '../../src/host/simulated/gather-case.ts';
import type { BufferName } from '../../src/host/simulated/type1-cases.ts';

const K4 = 4096;
const M2 = 1 << 21;
const SMALL = 64 * K4;
/** `access` of the addon. */
const Access = { none: 0, read: 1, readWrite: 2 } as const;
/** F_SEAL_SHRINK and F_SEAL_FUTURE_WRITE. */
const SHRINK = 2;
const FUTURE_WRITE = 16;

/** Everything that must be given back, in reverse order. */
class Kept {
  readonly #undo: (() => void)[] = [];

  keep<T extends { close(...windows: never[]): void }>(value: T, close: (value: T) => void): T {
    this.#undo.push(() => close(value));
    return value;
  }

  probe(length: number): NativeProbe {
    return this.keep(loadNative().NativeProbe.create(length), (probe) => probe.close());
  }

  /** A memfd, and one descriptor of it that lives as long. */
  file(length: number, seals: number, hugeShift = 0): { readonly ram: NativeRam; readonly fd: number } {
    const ram = loadNative().NativeRam.create('contract', BigInt(length), hugeShift, seals);
    const fd = ram.duplicate();
    this.#undo.push(() => closeSync(fd));
    this.#undo.push(() => ram.close([]));
    return { ram, fd };
  }

  /** Read-only descriptor of a memfd. */
  readOnly(fd: number): number {
    const other = openSync(`/proc/self/fd/${fd}`, 'r');
    this.#undo.push(() => closeSync(other));
    return other;
  }

  close(): void {
    for (const undo of this.#undo.splice(0).reverse()) undo();
  }
}

/** First addresses of the buffers of type1 cases; `device`: that of 64 KiB of a mapped BAR. */
export function type1Buffers(device: bigint): {
  readonly addresses: Readonly<Record<BufferName, bigint>>;
  readonly close: () => void;
} {
  const kept = new Kept();
  const ram = kept.probe(4 * M2);
  const start = Number(-ram.address() & BigInt(M2 - 1));
  ram.file(start, kept.file(2 * M2, SHRINK).fd, 0n, 2 * M2, Access.readWrite);
  const readOnly = kept.probe(SMALL);
  readOnly.anonymous(0, 16 * K4, Access.read);
  const noAccess = kept.probe(SMALL);
  noAccess.anonymous(0, 16 * K4, Access.none);
  // The hole is registered, so that the kernel, and not our guard, finds it.
  const holed = kept.probe(SMALL);
  holed.anonymous(0, K4, Access.readWrite);
  holed.anonymous(K4, K4, Access.none);
  holed.anonymous(2 * K4, 14 * K4, Access.readWrite);
  const addresses = {
    ram: ram.address() + BigInt(start),
    readOnly: readOnly.address(),
    noAccess: noAccess.address(),
    holed: holed.address(),
    device,
    nothing: 0x10_0000n,
    kernel: 0xffff_8000_0000_0000n,
  };
  return { addresses, close: () => kept.close() };
}

/** The buffers of gather cases. */
export interface GatherMemory {
  pageOf(buffer: GatherBuffer): number;
  wordOf(buffer: GatherBuffer, page: number): number;
  /** The first words of all pages of all buffers. */
  words(): Uint32Array;
  protectionOf(page: number): 'rw' | 'r' | 'none' | undefined;
  /** First page of [start, end) that is not mapped, or that the process may access. */
  firstOpen(start: number, end: number): number | undefined;
  crowd(on: boolean): void;
  /** Pages that the process keeps locked (VmLck). */
  locked(): number;
  close(): void;
}

/** Makes the buffers; `huge` only where the host has two free huge pages, else it is the same as `nothing`. */
export function gatherMemory(withHuge: boolean): GatherMemory {
  const kept = new Kept();
  const addresses = new Map<GatherBuffer, bigint>([['nothing', 0x10_0000n]]);
  const files = new Map<GatherBuffer, number>();
  const make = (buffer: GatherBuffer, pages: number, seals = SHRINK, hugeShift = 0): number => {
    const { ram, fd } = kept.file(pages * K4, seals, hugeShift);
    tag(ram, (addresses.size + 1) << 16);
    files.set(buffer, fd);
    if (hugeShift > 0) addresses.set(buffer, ram.address());
    return fd;
  };
  const lay = (buffer: GatherBuffer, fd: number, parts: readonly (readonly [number, number, number])[]): void => {
    // Inaccessible, unregistered addresses follow, so that nothing else stands there.
    const probe = kept.probe(2 * 1024 * K4);
    for (const [page, pages, access] of parts) probe.file(page * K4, fd, BigInt(page * K4), pages * K4, access);
    addresses.set(buffer, probe.address());
  };
  lay('ram', make('ram', 1024), [[0, 1024, Access.readWrite]]);
  lay('sealed', make('sealed', 64, SHRINK | FUTURE_WRITE), [[0, 64, Access.read]]);
  lay('readOnly', kept.readOnly(make('readOnly', 64)), [[0, 64, Access.read]]);
  lay('parted', make('parted', 64), [
    [0, 16, Access.readWrite],
    [16, 16, Access.read],
    [32, 32, Access.readWrite],
  ]);
  lay('holed', make('holed', 64), [
    [0, 16, Access.readWrite],
    [17, 47, Access.readWrite],
  ]);
  const anonymous = kept.probe(2 * SMALL);
  anonymous.anonymous(0, SMALL, Access.readWrite);
  addresses.set('anonymous', anonymous.address());
  if (withHuge) make('huge', 1024, SHRINK, 21);
  const crowd = new Crowd();
  return {
    pageOf: (buffer) => Number(addresses.get(buffer) ?? 0x10_0000n) / K4,
    wordOf: (buffer, page) => wordAt(files.get(buffer), page),
    words: () => wordsOf([...files.values()]),
    protectionOf,
    firstOpen,
    crowd: (on) => (on ? crowd.fill() : crowd.relieve()),
    locked: () => lockedMemory().locked / K4,
    close: () => {
      crowd.relieve();
      kept.close();
    },
  };
}

/** Writes the first word of every page through a mapping that is older than the seals. */
function tag(ram: NativeRam, first: number): void {
  const windows = ram.windows(2 ** 30);
  const words = new Uint32Array(windows[0]!);
  for (let i = 0; i < words.length; i += K4 / 4) words[i] = first + i / (K4 / 4);
}

function wordAt(fd: number | undefined, page: number): number {
  const word = new Uint32Array(1);
  if (fd !== undefined) readSync(fd, new Uint8Array(word.buffer), 0, 4, page * K4);
  return fd === undefined ? -1 : word[0]!;
}

function wordsOf(files: readonly number[]): Uint32Array {
  const page = new Uint32Array(K4 / 4);
  const bytes = new Uint8Array(page.buffer);
  const words: number[] = [];
  for (const fd of files) {
    for (let at = 0; readSync(fd, bytes, 0, K4, at) === K4; at += K4) words.push(page[0]!);
  }
  return Uint32Array.from(words);
}

interface Area {
  readonly start: number;
  readonly end: number;
  readonly protection: 'rw' | 'r' | 'none';
}

/** The areas of this process (/proc/self/maps) that share a page with [start, end), in order. */
function areasIn(start: number, end: number): Area[] {
  const areas: Area[] = [];
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (r|-)(w|-)/.exec(line);
    if (match === null) continue;
    const [first, last] = [parseInt(match[1]!, 16) / K4, parseInt(match[2]!, 16) / K4];
    if (first >= end || last <= start) continue;
    areas.push({ start: first, end: last, protection: match[4] === 'w' ? 'rw' : match[3] === 'r' ? 'r' : 'none' });
  }
  return areas;
}

/** What the process may do with a virtual page. */
export function protectionOf(page: number): 'rw' | 'r' | 'none' | undefined {
  return areasIn(page, page + 1)[0]?.protection;
}

function firstOpen(start: number, end: number): number | undefined {
  let at = start;
  for (const area of areasIn(start, end)) {
    if (area.start > at || area.protection !== 'none') return at;
    at = area.end;
  }
  return at < end ? at : undefined;
}

/** Mappings that fill the process up to vm.max_map_count: every other page of a stretch gets another protection. */
class Crowd {
  #probe: NativeProbe | undefined;

  fill(): void {
    const limit = Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8'));
    this.#probe = loadNative().NativeProbe.create((limit + 2) * K4);
    try {
      for (let i = 1; i < limit; i += 2) this.#probe.anonymous(i * K4, K4, Access.read);
    } catch {
      // The kernel makes no more: that is what was wanted.
    }
  }

  relieve(): void {
    this.#probe?.close();
    this.#probe = undefined;
  }
}

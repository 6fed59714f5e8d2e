// Random calls on the real container and on the simulated one side by side: errno, sizes, entries, locked pages, and what the
// device reaches must agree at every step. A difference is a bug of the simulation. Unit: 4 KiB pages; calls in bytes.
import { Errno } from '../../../../src/base/errors.ts';
import { HostBatch, HostOp } from '../../../../src/host/context.ts';
import type { HostContext } from '../../../../src/host/context.ts';
import type { GatherBuffer } from '../../../../src/host/simulated/gather-case.ts';
import { SimulatedAddressSpace } from '../../../../src/host/simulated/address-space.ts';
import { SimulatedHost } from '../../../../src/host/simulated/host.ts';
import type { SimulatedType1Context } from '../../../../src/host/simulated/type1-context.ts';
import type { IoctlResult } from '../../../../src/host/simulated/type1-rules.ts';
import type { GatherMemory } from '../../../native/real-memory.ts';
import { gatherMemory } from '../../../native/real-memory.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { DeviceProbe } from './device-probe.ts';
import { kernelVersion, lockedPages, openLab } from './lab.ts';
import type { Lab } from './lab.ts';
import { Random } from './random.ts';

const K4 = 4096n;
const SEQUENCES = Number(process.env['VIOMMU_SEQUENCES'] ?? 6);
const STEPS = 250;
/** Looks of the device in each sequence; one takes a fifth of a second. */
const LOOKS = 3;
const PAGES: Readonly<Record<Exclude<GatherBuffer, 'huge' | 'nothing'>, number>> = {
  ram: 1024,
  sealed: 64,
  readOnly: 64,
  anonymous: 64,
  parted: 64,
  holed: 64,
};
type Buffer = keyof typeof PAGES;
const BUFFERS = Object.keys(PAGES) as Buffer[];
const MAX_PAGES = 48;
const MAX_PIECE = 4;
/** First pages around which the aperture of VT-d has its edges. */
const EDGES = [0xfee00, 0xfef00, 2 ** 36];

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const seed = Number(process.env['VIOMMU_SEED'] ?? 1);
  for (let i = 0; i < SEQUENCES; i++) {
    const wrong = await runSequence(env, new Random(seed * 1000 + i));
    const name = `random calls ${seed * 1000 + i}`;
    report.result({ name, ok: wrong === undefined, ...(wrong === undefined ? {} : { detail: wrong }) });
  }
}

/** The two worlds. */
interface Pair {
  readonly lab: Lab;
  readonly memory: GatherMemory;
  readonly probe: DeviceProbe;
  readonly host: SimulatedHost;
  readonly simulated: SimulatedType1Context;
  readonly simulatedPage: ReadonlyMap<Buffer, number>;
  readonly lockedBefore: number;
  /** A limit of locked memory holds: what fills it must stay, and the guard's EFAULT would come before its ENOMEM. */
  readonly limited: boolean;
}

async function runSequence(env: GuestEnv, random: Random): Promise<string | undefined> {
  const limit = random.pick([3, 8, 40]);
  const memlock = random.below(3) === 0 ? random.pick([4, 40, 200]) : undefined;
  const memory = gatherMemory(false);
  const lab = await openLab(env, { limit: limit + (memlock === undefined ? 0 : 1), memlock, windowPieces: 64 });
  const probe = new DeviceProbe(lab);
  const pair = {
    lab,
    memory,
    probe,
    ...simulate(env, lab, memory, limit, memlock),
    lockedBefore: lockedPages(),
    limited: memlock !== undefined,
  };
  const wrong = lab.run(() => runSteps(pair, random));
  lab.close();
  probe.close();
  memory.close();
  return wrong;
}

function simulate(env: GuestEnv, { context }: Lab, memory: GatherMemory, entryLimit: number, memlock?: number) {
  const space = new SimulatedAddressSpace();
  const host = new SimulatedHost({ addressSpace: space });
  const { usableRanges, pageSizes } = context.limits;
  const simulated = host.createContext({
    group: 1,
    endpoints: [1],
    kernel: kernelVersion(env),
    entryLimit,
    memlockLimit: memlock ?? Infinity,
    usableRanges,
    pageSizes,
    windowPieces: 64,
    writeOnlyReadable: env.iommu === 'VT-d',
  });
  return { host, simulated, simulatedPage: simulatedBuffers(space, memory) };
}

/** The buffers of real-memory.ts, with the same words in their pages. */
function simulatedBuffers(space: SimulatedAddressSpace, memory: GatherMemory): Map<Buffer, number> {
  const pages = new Map<Buffer, number>();
  for (const buffer of BUFFERS) {
    const length = BigInt(PAGES[buffer]) * K4;
    const { hva, object } = space.mmap({
      length,
      kind: buffer === 'anonymous' ? 'anonymous' : 'memfd',
      ...(buffer === 'sealed' ? { seals: ['shrink', 'future-write'], prot: 'rw' } : {}),
      ...(buffer === 'readOnly' ? { prot: 'r', fileMode: 'r' } : {}),
    });
    if (buffer === 'sealed') space.mprotect(hva, length, 'r');
    if (buffer === 'parted') space.mprotect(hva + 16n * K4, 16n * K4, 'r');
    if (buffer === 'holed') space.munmap(hva + 16n * K4, K4);
    const word = new Uint32Array(1);
    for (let page = 0; page < PAGES[buffer] && buffer !== 'anonymous'; page++) {
      word[0] = memory.wordOf(buffer, page);
      object.write(page * 4096, new Uint8Array(word.buffer));
    }
    pages.set(buffer, Number(hva / K4));
  }
  return pages;
}

function runSteps(pair: Pair, random: Random): string | undefined {
  for (let step = 0; step < STEPS; step++) {
    const difference = random.below(3) === 0 ? runBatch(pair, random) : runCall(pair, random);
    const states = [stateOf(pair, true), stateOf(pair, false)];
    if (difference !== undefined || states[0] !== states[1]) {
      return `step ${step}: ${difference ?? ''} kernel ${states[0]}, simulation ${states[1]}`;
    }
    // The page through which the device looks would not fit into the limit.
    if (!pair.limited && step % Math.floor(STEPS / LOOKS) === Math.floor(STEPS / LOOKS) - 1) {
      const look = lookAt(pair, random);
      if (look !== undefined) return `step ${step}: ${look}`;
    }
  }
  return undefined;
}

function stateOf({ lab, host, simulated, lockedBefore }: Pair, real: boolean): string {
  const left = real ? lab.context.entriesLeft() : simulated.entriesLeft();
  const locked = real ? lockedPages() - lockedBefore : host.lockedPages;
  return `${left} entries left, ${locked} pages locked`;
}

/** A page of I/O virtual memory that the device may or may not reach. */
function lookAt({ probe, host, simulated, lab }: Pair, random: Random): string | undefined {
  if (lab.context.entriesLeft() === 0) return undefined;
  const [entry] = simulated.entries().filter(({ iova }) => iova < 2 ** 20);
  const page = entry === undefined ? random.below(64) : entry.iova;
  const bytes = host.prober(1).read(BigInt(page) * K4, 4);
  const word = bytes === undefined ? undefined : new DataView(bytes.buffer).getUint32(0, true);
  const expected = word === 0 ? undefined : word;
  const real = probe.read(page);
  return real === expected ? undefined : `the device reads ${real} at page ${page}, in the simulation ${expected}`;
}

/** A single map or unmap with any argument. */
function runCall({ lab, memory, simulated, simulatedPage, limited }: Pair, random: Random): string | undefined {
  const [iova, size] = [anyAddress(random), anySize(random, limited)];
  const argsz = random.below(20) === 0 ? random.pick([0, 23, 24, 31, 32, 4096]) : undefined;
  const withSize = argsz === undefined ? {} : { argsz };
  if (random.below(3) === 0) {
    const flags = random.pick([0, 0, 0, 0, 2, 2, 1, 8, 0x8000_0000]);
    const isAll = flags === 2 && random.below(3) > 0 && !limited;
    const args = { flags, iova: isAll ? 0n : iova, size: isAll ? 0n : size, ...withSize };
    return compare('unmap', args, lab.context.unmapDma(args), simulated.unmapDma(args));
  }
  const buffer = anyBuffer(random, limited);
  const room = limited ? MAX_PAGES : 0;
  const [page, odd] = [random.below(PAGES[buffer] - room), random.below(30) === 0 ? 8n : 0n];
  const flags = random.pick([3, 3, 3, 3, 1, 2, 0, 4, 7, 8, 11]);
  const args = { flags, iova, size, ...withSize };
  const vaddr = (base: number): bigint => BigInt(base + page) * K4 + odd;
  const foreign =
    random.below(25) === 0 ? random.pick([0x10_0000n, 0xffff_8000_0000_0000n, 2n ** 64n - K4]) : undefined;
  const real = lab.context.mapDma({ ...args, vaddr: foreign ?? vaddr(memory.pageOf(buffer)) });
  return compare(
    `map of ${buffer} ${page}`,
    args,
    real,
    simulated.mapDma({ ...args, vaddr: foreign ?? vaddr(simulatedPage.get(buffer)!) }),
  );
}

function compare(what: string, args: object, real: IoctlResult, simulated: IoctlResult): string | undefined {
  if (real.errno === simulated.errno && real.size === simulated.size) return undefined;
  const text = Object.entries(args).map(([name, value]) => `${name} ${Number(value).toString(16)}`);
  const show = ({ errno, size }: IoctlResult): string => `${errno}/${size.toString(16)}`;
  return `${what} ${text.join(' ')}: kernel ${show(real)}, simulation ${show(simulated)};`;
}

/** A batch of maps, gathers and unmaps through the columns. */
function runBatch({ lab, memory, simulated, simulatedPage, limited }: Pair, random: Random): string | undefined {
  const batches = [new HostBatch(), new HostBatch()] as const;
  const base = (buffer: Buffer): [number, number] => [memory.pageOf(buffer), simulatedPage.get(buffer)!];
  for (let operations = 1 + random.below(4); operations > 0; operations--) {
    const iova = random.below(48);
    const rights = random.pick([3, 3, 3, 1, 2]);
    const kind = random.pick([HostOp.map, HostOp.unmap, HostOp.gather, HostOp.gather]);
    const pieces = Array.from({ length: kind === HostOp.gather ? 1 + random.below(12) : 1 }, () =>
      anyPiece(random, limited),
    );
    const pages = pieces.reduce((sum, { count }) => sum + count, 0);
    batches.forEach((batch, world) => {
      if (kind === HostOp.unmap) batch.unmap(iova, pages);
      else if (kind === HostOp.map) batch.map(iova, pages, base(pieces[0]!.buffer)[world]! + pieces[0]!.page, rights);
      else {
        batch.gather(iova, pages, rights);
        for (const { buffer, page, count } of pieces) batch.piece(base(buffer)[world]! + page, count);
      }
    });
  }
  const [real, made] = [outcome(lab.context, batches[0]), outcome(simulated, batches[1])];
  return real === made
    ? undefined
    : `batch ${[...batches[0].kind.subarray(0, batches[0].count)].join()}: ${real} / ${made};`;
}

/** With a limit of locked memory only such as are there to their end: our guard would come before that limit. */
function anyBuffer(random: Random, limited: boolean): Buffer {
  const buffer = random.pick(BUFFERS);
  return limited && buffer === 'holed' ? 'ram' : buffer;
}

function anyPiece(random: Random, limited: boolean): { buffer: Buffer; page: number; count: number } {
  const buffer = random.below(3) > 0 ? 'ram' : anyBuffer(random, limited);
  return { buffer, page: random.below(PAGES[buffer] - (limited ? MAX_PIECE : 0)), count: 1 + random.below(MAX_PIECE) };
}

/** What building and applying leaves in the columns; windows and addresses are each world's own. */
function outcome(context: HostContext, batch: HostBatch): string {
  const built = context.buildWindows(batch, 0);
  if (built < batch.count) return `built to ${built} with ${batch.errno[built]}`;
  const applied = context.apply(batch, 0);
  const errno = applied < batch.count ? batch.errno[applied]! : 0;
  context.dropWindows(batch);
  const left = batch.window
    .subarray(0, batch.count)
    .some((window, i) => batch.kind[i] === HostOp.gather && window !== 0);
  const done = [...batch.done.subarray(0, applied)].filter((_, i) => batch.kind[i] === HostOp.unmap);
  return `applied to ${applied} with ${errno === Errno.EFAULT ? 'EFAULT' : errno}, unmapped ${done.join()}${left ? ', windows left' : ''}`;
}

/** Mostly among the first pages, where calls meet; sometimes at an edge, or no whole page. */
function anyAddress(random: Random): bigint {
  const page = random.below(12) === 0 ? random.pick(EDGES) - random.below(3) : random.below(48);
  return BigInt(page) * K4 + (random.below(30) === 0 ? 1n : 0n);
}

function anySize(random: Random, limited: boolean): bigint {
  const odd = random.below(30) === 0 ? random.pick([1n, -1n]) : 0n;
  const pages = random.pick([1n, 1n, 2n, 3n, 8n, 16n, BigInt(MAX_PAGES)]);
  if (!limited && random.below(40) === 0)
    return random.pick([0n, 2n ** 63n, 2n ** 64n - K4, 2n ** 64n - 1n, 1n << 36n]);
  return pages * K4 + odd;
}

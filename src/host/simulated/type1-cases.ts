// The rules of a VFIO type1 v2 container as data: calls in order and the errno of each, for any implementation.
// The same list runs against the simulated host and against a real kernel. Bytes as bigint; sizes, not ends.
import { Errno, errnoName } from '../../base/errors.ts';
import { hex } from '../../base/check.ts';
import type { IoctlResult, KernelVersion, MapArguments, UnmapArguments } from './type1-rules.ts';
import { MapFlag, UnmapFlag } from './type1-rules.ts';

/**
 * Memory that a bench provides. `ram`: 4 MiB, read-write, 2M-aligned; `readOnly`, `noAccess`: 64 KiB of PROT_READ and
 * PROT_NONE; `holed`: 64 KiB whose second page is not mapped; `device`: 64 KiB of a mapped BAR; `nothing`: 64 KiB of
 * unmapped addresses; `kernel`: an address of the kernel's half.
 */
export type BufferName = 'ram' | 'readOnly' | 'noAccess' | 'holed' | 'device' | 'nothing' | 'kernel';

type Expected = number | Readonly<Record<KernelVersion, number>>;

/** One call; a refused one must have changed nothing. */
export type Type1Step =
  | (Omit<MapArguments, 'vaddr'> & {
      readonly call: 'map';
      readonly buffer: BufferName;
      readonly offset?: bigint;
      readonly errno: Expected;
    })
  | (UnmapArguments & { readonly call: 'unmap'; readonly errno: Expected; readonly done?: bigint });

/** Calls on a fresh container. */
export interface Type1Case {
  readonly title: string;
  /** dma_entry_limit when the container is opened; default any value of 16 or more. */
  readonly limit?: number;
  /** RLIMIT_MEMLOCK in pages, without CAP_IPC_LOCK; default no limit. */
  readonly memlock?: number;
  readonly steps: readonly Type1Step[];
  /** Entries after the last step. */
  readonly entries: number;
}

/** A fresh container of an implementation under test. */
export interface Type1Bench {
  readonly kernel: KernelVersion;
  mapDma(args: MapArguments): IoctlResult;
  unmapDma(args: UnmapArguments): IoctlResult;
  entriesLeft(): number;
  /** First address of a buffer. */
  address(buffer: BufferName): bigint;
  /** Everything that must be unchanged after a refusal, as a comparable text. */
  snapshot(): string;
}

const K4 = 0x1000n;
const M2 = 0x20_0000n;
const RW = MapFlag.read | MapFlag.write;
const { EINVAL, EEXIST, ENOSPC, EFAULT, ENOMEM, ENOENT, EOVERFLOW } = Errno;
const WRAP = { '6.1': EINVAL, '6.12': EINVAL, '7.2': EOVERFLOW };
const U64_TOP = (1n << 64n) - K4;

type MapStep = Extract<Type1Step, { call: 'map' }>;
type UnmapStep = Extract<Type1Step, { call: 'unmap' }>;

function map(iova: bigint, size: bigint, errno: Expected = 0, more: Partial<MapStep> = {}): Type1Step {
  return { call: 'map', iova, size, flags: RW, buffer: 'ram', errno, ...more };
}

function unmap(iova: bigint, size: bigint, errno: Expected, done = 0n, more: Partial<UnmapStep> = {}): Type1Step {
  return { call: 'unmap', iova, size, errno, done, ...more };
}

function one(title: string, entries: number, ...steps: Type1Step[]): Type1Case {
  return { title, entries, steps };
}

const MAP_ARGUMENTS: readonly Type1Case[] = [
  one('map: argsz one short', 0, map(0n, K4, EINVAL, { argsz: 31 })),
  one('map: argsz exact, and larger', 2, map(0n, K4, 0, { argsz: 32 }), map(K4, K4, 0, { argsz: 4096 })),
  one('map: unknown flag', 0, map(0n, K4, EINVAL, { flags: RW | 8 }), map(0n, K4, EINVAL, { flags: 0x8000_0000 })),
  one('map: size 0', 0, map(0n, 0n, EINVAL), map(K4, 0n, EINVAL, { flags: 0 })),
  one('map: size 0 comes before unaligned', 0, map(1n, 0n, EINVAL, { offset: 1n })),
  one('map: iova wraps', 0, map(U64_TOP, 2n * K4, WRAP)),
  one('map: vaddr wraps', 0, map(0n, U64_TOP, WRAP, { buffer: 'kernel' })),
  one('map: wrap comes before rights and alignment', 0, map(U64_TOP + 1n, 2n * K4, WRAP, { flags: 0 })),
  one('map: the last page of 2^64 does not wrap, but is outside', 0, map(U64_TOP, K4, EINVAL)),
  one('map: no rights', 0, map(0n, K4, EINVAL, { flags: 0 })),
  one('map: rights with the VADDR flag', 0, map(0n, K4, EINVAL, { flags: RW | MapFlag.vaddr })),
  one('map: VADDR flag alone without an entry', 0, map(0n, K4, ENOENT, { flags: MapFlag.vaddr })),
  one('map: VADDR flag on a valid entry', 1, map(0n, K4), map(0n, K4, EINVAL, { flags: MapFlag.vaddr })),
  one('map: unaligned iova', 0, map(1n, K4, EINVAL), map(0x800n, K4, EINVAL)),
  one('map: unaligned vaddr', 0, map(0n, K4, EINVAL, { offset: 1n }), map(0n, K4, EINVAL, { offset: 0x800n })),
  one('map: unaligned size', 0, map(0n, K4 - 1n, EINVAL), map(0n, K4 + 1n, EINVAL)),
  one('map: read only and write only', 2, map(0n, K4, 0, { flags: 1 }), map(K4, K4, 0, { flags: 2 })),
];

const MAP_STATE: readonly Type1Case[] = [
  one('map: identical entry', 1, map(0n, M2), map(0n, M2, EEXIST)),
  one('map: overlap at the head', 1, map(M2, M2), map(M2 - K4, 2n * K4, EEXIST)),
  one('map: overlap at the tail', 1, map(0n, M2), map(M2 - K4, 2n * K4, EEXIST)),
  one('map: inside an entry', 1, map(0n, M2), map(K4, K4, EEXIST)),
  one('map: around an entry', 1, map(K4, K4), map(0n, 3n * K4, EEXIST)),
  one('map: neighbours on both sides stay apart', 3, map(K4, K4), map(0n, K4), map(2n * K4, K4)),
  one('map: overlap comes before EFAULT', 1, map(0n, K4), map(0n, K4, EEXIST, { buffer: 'nothing' })),
  { ...one('map: limit reached', 2, map(0n, K4), map(K4, M2), map(M2 * 2n, K4, ENOSPC)), limit: 2 },
  { ...one('map: limit 0', 0, map(0n, K4, ENOSPC)), limit: 0 },
  { ...one('map: overlap comes before the limit', 1, map(0n, K4), map(0n, K4, EEXIST)), limit: 1 },
  { ...one('map: limit comes before range validity', 1, map(0n, K4), map(0xfee0_0000n, K4, ENOSPC)), limit: 1 },
  { ...one('map: arguments come before the limit', 0, map(0n, 0n, EINVAL), map(1n, K4, EINVAL)), limit: 0 },
  { ...one('map: an unmap makes room', 1, map(0n, K4), unmap(0n, K4, 0, K4), map(K4, K4)), limit: 1 },
];

const MAP_RANGES: readonly Type1Case[] = [
  one('map: inside the MSI window', 0, map(0xfee0_0000n, K4, EINVAL), map(0xfeef_f000n, K4, EINVAL)),
  one('map: up to and from the MSI window', 2, map(0xfedf_f000n, K4), map(0xfef0_0000n, K4)),
  one('map: one page into the MSI window', 0, map(0xfedf_f000n, 2n * K4, EINVAL), map(0xfeef_f000n, 2n * K4, EINVAL)),
  one('map: over the MSI window', 0, map(0xfed0_0000n, M2, EINVAL)),
  one('map: beyond the aperture', 0, map(1n << 48n, K4, EINVAL)),
  one('map: range validity comes before EFAULT', 0, map(0xfee0_0000n, K4, EINVAL, { buffer: 'nothing' })),
];

const MAP_PINNING: readonly Type1Case[] = [
  one('map: vaddr unmapped', 0, map(0n, K4, EFAULT, { buffer: 'nothing' })),
  one('map: kernel address', 0, map(0n, K4, EFAULT, { buffer: 'kernel' })),
  one('map: hole at the second page', 0, map(0n, 2n * K4, EFAULT, { buffer: 'holed' })),
  one('map: hole in the middle', 0, map(0n, 16n * K4, EFAULT, { buffer: 'holed' })),
  one(
    'map: the page before the hole, and after it',
    2,
    map(0n, K4, 0, { buffer: 'holed' }),
    map(K4, 14n * K4, 0, { buffer: 'holed', offset: 2n * K4 }),
  ),
  one('map: one page past the end', 0, map(0n, M2, EFAULT, { offset: M2 + K4 })),
  one(
    'map: no access',
    0,
    map(0n, K4, EFAULT, { buffer: 'noAccess', flags: 1 }),
    map(0n, K4, EFAULT, { buffer: 'noAccess' }),
  ),
  one(
    'map: write on read-only memory',
    0,
    map(0n, K4, EFAULT, { buffer: 'readOnly' }),
    map(0n, K4, EFAULT, { buffer: 'readOnly', flags: 2 }),
  ),
  one('map: read on read-only memory', 1, map(0n, K4, 0, { buffer: 'readOnly', flags: 1 })),
  one('map: a mapped BAR', 1, map(0n, 16n * K4, 0, { buffer: 'device' })),
  one(
    'map: a refused map leaves room for the next',
    1,
    map(0n, 2n * K4, EFAULT, { buffer: 'holed' }),
    map(0n, 2n * K4),
  ),
  { ...one('map: locked memory up to the limit', 1, map(0n, 16n * K4), map(M2, K4, ENOMEM)), memlock: 16 },
  { ...one('map: locked memory one over', 0, map(0n, 17n * K4, ENOMEM)), memlock: 16 },
  { ...one('map: the same page counts twice', 2, map(0n, K4), map(K4, K4), map(2n * K4, K4, ENOMEM)), memlock: 2 },
  { ...one('map: locked memory comes back', 1, map(0n, K4), unmap(0n, K4, 0, K4), map(0n, K4)), memlock: 1 },
  { ...one('map: a BAR is not locked memory', 1, map(0n, 16n * K4, 0, { buffer: 'device' })), memlock: 0 },
  { ...one('map: a hole before the memlock limit', 0, map(0n, 2n * K4, EFAULT, { buffer: 'holed' })), memlock: 1 },
  { ...one('map: the memlock limit before a hole', 0, map(0n, 2n * K4, ENOMEM, { buffer: 'holed' })), memlock: 0 },
];

const TWO = [map(M2, M2), map(2n * M2, M2)];

const UNMAP: readonly Type1Case[] = [
  one('unmap: head of an entry', 2, ...TWO, unmap(M2, K4, EINVAL)),
  one('unmap: middle of an entry', 2, ...TWO, unmap(M2 + K4, K4, EINVAL)),
  one('unmap: tail of an entry', 2, ...TWO, unmap(2n * M2 - K4, K4, EINVAL)),
  one('unmap: cuts the first of two', 2, ...TWO, unmap(M2 + K4, 2n * M2 - K4, EINVAL)),
  one('unmap: cuts the second of two', 2, ...TWO, unmap(M2, 2n * M2 - K4, EINVAL)),
  one('unmap: end one page into an entry', 2, ...TWO, unmap(0n, M2 + K4, EINVAL)),
  one('unmap: up to the start of an entry', 2, ...TWO, unmap(0n, M2, 0)),
  one('unmap: exact', 1, ...TWO, unmap(M2, M2, 0, M2)),
  one('unmap: several', 0, ...TWO, unmap(M2, 2n * M2, 0, 2n * M2)),
  one('unmap: superset with holes', 0, ...TWO, map(8n * M2, K4), unmap(0n, 16n * M2, 0, 2n * M2 + K4)),
  one('unmap: nothing there', 0, unmap(0n, M2, 0), unmap(0xfee0_0000n, K4, 0)),
  one('unmap: size 0', 1, map(0n, K4), unmap(0n, 0n, EINVAL)),
  one('unmap: unaligned', 1, map(0n, K4), unmap(1n, K4, EINVAL), unmap(0n, K4 + 1n, EINVAL), unmap(0n, 1n, EINVAL)),
  one('unmap: unknown flag', 1, map(0n, K4), unmap(0n, K4, EINVAL, 0n, { flags: 0x80 })),
  one('unmap: argsz one short', 1, map(0n, K4), unmap(0n, K4, EINVAL, 0n, { argsz: 23 })),
  one('unmap: dirty bitmap without tracking', 1, map(0n, K4), unmap(0n, K4, EINVAL, 0n, { flags: UnmapFlag.getDirty })),
  one('unmap: wrap', 1, map(0n, K4), unmap(2n * K4, U64_TOP, WRAP), unmap(U64_TOP, 2n * K4, WRAP)),
  one('unmap: the largest range', 0, ...TWO, unmap(0n, U64_TOP, 0, 2n * M2)),
  one('unmap: ALL', 0, ...TWO, unmap(0n, 0n, 0, 2n * M2, { flags: UnmapFlag.all })),
  one('unmap: ALL of nothing', 0, unmap(0n, 0n, 0, 0n, { flags: UnmapFlag.all })),
  one('unmap: ALL with a size', 2, ...TWO, unmap(0n, K4, EINVAL, 0n, { flags: UnmapFlag.all })),
  one('unmap: ALL with an iova', 2, ...TWO, unmap(K4, 0n, EINVAL, 0n, { flags: UnmapFlag.all })),
];

/** All cases. */
export const TYPE1_CASES: readonly Type1Case[] = [
  ...MAP_ARGUMENTS,
  ...MAP_STATE,
  ...MAP_RANGES,
  ...MAP_PINNING,
  ...UNMAP,
];

/** Runs one case on a fresh container; returns what deviates, an empty list when all is as it must be. */
export function runType1Case(testCase: Type1Case, bench: Type1Bench): string[] {
  const wrong: string[] = [];
  const left = bench.entriesLeft();
  testCase.steps.forEach((step, i) => {
    const before = bench.snapshot();
    const result = runStep(step, bench);
    const expected = typeof step.errno === 'number' ? step.errno : step.errno[bench.kernel];
    const where = `step ${i} (${step.call} ${hex(step.iova)} + ${hex(step.size)})`;
    if (result.errno !== expected) {
      wrong.push(`${where}: ${nameOf(result.errno)} instead of ${nameOf(expected)}`);
    }
    const size = step.call === 'unmap' && expected === 0 ? (step.done ?? 0n) : step.size;
    if (result.size !== size) wrong.push(`${where}: size ${hex(result.size)} instead of ${hex(size)}`);
    if (result.errno !== 0 && bench.snapshot() !== before) wrong.push(`${where}: a refused call has changed something`);
  });
  const entries = left - bench.entriesLeft();
  if (entries !== testCase.entries) wrong.push(`${entries} entries at the end instead of ${testCase.entries}`);
  return wrong;
}

function nameOf(errno: number): string {
  return errno === 0 ? 'success' : errnoName(errno);
}

function runStep(step: Type1Step, bench: Type1Bench): IoctlResult {
  if (step.call === 'unmap') return bench.unmapDma(step);
  const { iova, size, flags } = step;
  const vaddr = bench.address(step.buffer) + (step.offset ?? 0n);
  return bench.mapDma({ iova, size, flags, vaddr, ...(step.argsz === undefined ? {} : { argsz: step.argsz }) });
}

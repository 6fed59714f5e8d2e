// One case of the iommufd rules, what it runs on, and the runner. The cases themselves are in iommufd-cases.ts.
// Bytes as bigint; sizes, not ends.
import { hex } from '../../base/check.ts';
import { errnoName } from '../../base/errors.ts';
import type { IommufdMode } from './iommufd-context.ts';
import type { IoasMapArguments, IoasUnmapArguments } from './iommufd-rules.ts';
import type { BufferName } from './type1-cases.ts';
import type { IoctlResult, UnmapArguments } from './type1-rules.ts';

/** Kernels that have iommufd and whose rules are known. */
export type IommufdKernel = '6.12' | '7.2';

/** The errno, on all kernels or by kernel. */
export type Expected = number | Readonly<Record<IommufdKernel, number>>;

/** The IOAS that the devices use, or a second one without devices ("vault") that holds memory for copies. */
export type IoasName = 'device' | 'vault';

interface Outcome {
  readonly errno: Expected;
  /** The refusal is not atomic: areas were removed, or cut, before it. */
  readonly partial?: boolean;
}

/** One call; a refused one without `partial` must have changed nothing. */
export type IommufdStep = Outcome &
  (
    | (Omit<IoasMapArguments, 'userVa'> & {
        readonly call: 'map';
        readonly ioas: IoasName;
        readonly buffer: BufferName;
        readonly offset: bigint;
      })
    | (IoasUnmapArguments & { readonly call: 'unmap'; readonly done: bigint })
    | (UnmapArguments & { readonly call: 'unmapDma'; readonly done: bigint })
    | {
        readonly call: 'copy';
        readonly flags: number;
        readonly sourceIova: bigint;
        readonly iova: bigint;
        readonly length: bigint;
      }
    | { readonly call: 'attach' }
    | { readonly call: 'detach' }
  );

/** Calls on fresh IOAS; the devices are attached unless `attached` is false. */
export interface IommufdCase {
  readonly title: string;
  readonly mode?: IommufdMode;
  readonly attached?: boolean;
  /** For hosts that take no I/O virtual address from 2^48 on. */
  readonly limited?: true;
  /** RLIMIT_MEMLOCK in pages, without CAP_IPC_LOCK; default no limit. */
  readonly memlock?: number;
  readonly steps: readonly IommufdStep[];
  /** Areas of the device's IOAS after the last step. */
  readonly areas: number;
  /** Pages locked for the user after the last step. */
  readonly locked?: number;
}

/** Fresh IOAS of an implementation under test. */
export interface IommufdBench {
  readonly kernel: IommufdKernel;
  map(ioas: IoasName, args: IoasMapArguments): IoctlResult;
  unmap(args: IoasUnmapArguments): IoctlResult;
  unmapDma(args: UnmapArguments): IoctlResult;
  /** From the vault into the device's IOAS. */
  copy(args: { flags: number; sourceIova: bigint; iova: bigint; length: bigint }): IoctlResult;
  attach(): number;
  detach(): void;
  areas(): number;
  locked(): number;
  /** First address of a buffer. */
  address(buffer: BufferName): bigint;
  /** Everything that must be unchanged after an atomic refusal, as a comparable text. */
  snapshot(): string;
}

/** Runs one case on fresh IOAS; returns what deviates, an empty list when all is as it must be. */
export function runIommufdCase(testCase: IommufdCase, bench: IommufdBench): string[] {
  const wrong: string[] = [];
  testCase.steps.forEach((step, i) => {
    const before = bench.snapshot();
    const { errno, size } = runStep(step, bench);
    const expected = typeof step.errno === 'number' ? step.errno : step.errno[bench.kernel];
    const where = `step ${i} (${step.call})`;
    if (errno !== expected) wrong.push(`${where}: ${nameOf(errno)} instead of ${nameOf(expected)}`);
    if (size !== sizeAfter(step)) wrong.push(`${where}: size ${hex(size)} instead of ${hex(sizeAfter(step))}`);
    const same = bench.snapshot() === before;
    if (errno !== 0 && same === (step.partial === true)) {
      wrong.push(`${where}: a refused call has ${same ? 'changed nothing' : 'changed something'}`);
    }
  });
  const areas = bench.areas();
  if (areas !== testCase.areas) wrong.push(`${areas} areas at the end instead of ${testCase.areas}`);
  const locked = bench.locked();
  if (locked !== (testCase.locked ?? locked)) wrong.push(`${locked} pages locked instead of ${testCase.locked ?? 0}`);
  return wrong;
}

function nameOf(errno: number): string {
  return errno === 0 ? 'success' : errnoName(errno);
}

/** The size field that the call leaves. */
function sizeAfter(step: IommufdStep): bigint {
  if (step.call === 'unmap' || step.call === 'unmapDma') return step.done;
  return step.call === 'attach' || step.call === 'detach' ? 0n : step.length;
}

function runStep(step: IommufdStep, bench: IommufdBench): IoctlResult {
  switch (step.call) {
    case 'map': {
      const userVa = bench.address(step.buffer) + step.offset;
      return bench.map(step.ioas, { flags: step.flags, iova: step.iova, length: step.length, userVa });
    }
    case 'unmap':
      return bench.unmap(step);
    case 'unmapDma':
      return bench.unmapDma(step);
    case 'copy':
      return bench.copy(step);
    case 'attach':
      return { errno: bench.attach(), size: 0n };
    case 'detach':
      bench.detach();
      return { errno: 0, size: 0n };
  }
}

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
  /** Whose IOAS is acted on, and who attaches and detaches; default the first context, in cases with a second one. */
  readonly on?: 'second';
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
    /** The second context attaches to the IOAS of the first: attachTo(). */
    | { readonly call: 'join' }
    /** The second context attaches to an IOAS of its own: attachAlone(). */
    | { readonly call: 'part' }
    /** The first context does. */
    | { readonly call: 'leave' }
  );

/** Calls on fresh IOAS; the devices are attached unless `attached` is false. */
export interface IommufdCase {
  readonly title: string;
  readonly mode?: IommufdMode;
  /** A second context of another group, on the same file and in the same mode, attached to a fresh IOAS of its own. */
  readonly second?: true;
  readonly attached?: boolean;
  /** For hosts that take no I/O virtual address from 2^48 on. */
  readonly limited?: true;
  /** RLIMIT_MEMLOCK in pages, without CAP_IPC_LOCK; default no limit. */
  readonly memlock?: number;
  readonly steps: readonly IommufdStep[];
  /** Areas of the device's IOAS after the last step. */
  readonly areas: number;
  /** Those of the IOAS that the second context uses then. */
  readonly secondAreas?: number;
  /** Pages locked for the user after the last step. */
  readonly locked?: number;
}

/** One context of an implementation under test: what it does to the IOAS that it uses at the moment. */
export interface IommufdSide {
  map(ioas: IoasName, args: IoasMapArguments): IoctlResult;
  unmap(args: IoasUnmapArguments): IoctlResult;
  unmapDma(args: UnmapArguments): IoctlResult;
  /** From the vault into the device's IOAS. */
  copy(args: { flags: number; sourceIova: bigint; iova: bigint; length: bigint }): IoctlResult;
  attach(): number;
  detach(): void;
  areas(): number;
}

/** Fresh IOAS of an implementation under test; the bench itself is the first context. */
export interface IommufdBench extends IommufdSide {
  readonly kernel: IommufdKernel;
  /** In cases with two contexts. */
  readonly second?: IommufdSide | undefined;
  /** Calls of cases with two contexts. */
  join(): number;
  part(): number;
  leave(): number;
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
  const { secondAreas } = testCase;
  const found = bench.second?.areas();
  if (secondAreas !== undefined && found !== secondAreas) {
    wrong.push(`${found} areas of the second at the end instead of ${secondAreas}`);
  }
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
  return 'length' in step ? step.length : 0n;
}

function runStep(step: IommufdStep, bench: IommufdBench): IoctlResult {
  const side = step.on === 'second' ? bench.second! : bench;
  switch (step.call) {
    case 'map': {
      const userVa = bench.address(step.buffer) + step.offset;
      return side.map(step.ioas, { flags: step.flags, iova: step.iova, length: step.length, userVa });
    }
    case 'unmap':
      return side.unmap(step);
    case 'unmapDma':
      return side.unmapDma(step);
    case 'copy':
      return side.copy(step);
    case 'attach':
      return { errno: side.attach(), size: 0n };
    case 'detach':
      side.detach();
      return { errno: 0, size: 0n };
    default:
      return { errno: bench[step.call](), size: 0n };
  }
}

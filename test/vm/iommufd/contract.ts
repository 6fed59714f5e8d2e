// The contract cases of iommufd on the real one: the list that the simulated one passes, unchanged. Runs in the machine.
import { IommufdContext } from '../../../src/host/iommufd.ts';
import type { IommufdIoas } from '../../../src/host/iommufd.ts';
import type {
  IommufdBench,
  IommufdCase,
  IommufdKernel,
  IommufdSide,
} from '../../../src/host/simulated/iommufd-case.ts';
import { runIommufdCase } from '../../../src/host/simulated/iommufd-case.ts';
import { IOMMUFD_CASES } from '../../../src/host/simulated/iommufd-cases.ts';
import type { BufferName } from '../../../src/host/simulated/type1-cases.ts';
import { Errno } from '../../../src/base/errors.ts';
import { type1Buffers } from '../../native/real-memory.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { bindToVfio, groupOf } from '../host/guest-env.ts';
import { PEER } from './peer.ts';
import { asUser, pinnedPages } from './process.ts';

/** Bytes of BAR 0 that stand for device registers. */
const DEVICE_BYTES = 0x1_0000n;
const U64 = (1n << 64n) - 1n;

/** Runs the cases that want this limit of locked memory, in pages, which the process was started with. */
export function runCases(report: Reporter, env: GuestEnv, memlock?: number): void {
  const buffers = type1Buffers(0n);
  const kernel = kernelOf(env);
  bindToVfio(PEER);
  // AMD's IOMMU takes all of 2^64.
  const cases = IOMMUFD_CASES.filter((each) => env.iommu === 'VT-d' || each.limited !== true);
  for (const testCase of cases.filter((each) => each.memlock === memlock)) {
    const wrong = runCase(testCase, kernel, env.edu.group, buffers.addresses);
    report.result({ name: testCase.title, ok: wrong.length === 0, detail: wrong.join('; ') });
  }
  buffers.close();
}

function runCase(
  testCase: IommufdCase,
  kernel: IommufdKernel,
  group: number,
  buffers: Readonly<Record<BufferName, bigint>>,
): string[] {
  const { mode = 'large', attached = true, memlock } = testCase;
  const contexts = [IommufdContext.open({ group, mode, attached })];
  try {
    if (testCase.second === true) contexts.push(IommufdContext.open({ group: groupOf(PEER), mode }));
    const registers = contexts[0]!.devices[0]!.mapRegion(0, 0n, DEVICE_BYTES);
    const bench = benchOf(contexts, kernel, { ...buffers, device: registers.hva });
    const run = (): string[] => runIommufdCase(testCase, bench);
    const wrong = memlock === undefined ? run() : asUser(run);
    wrong.push(...contexts.flatMap(({ ioas }) => checkRecord(ioas)));
    registers.close();
    return wrong;
  } finally {
    for (const context of contexts) context.close();
  }
}

function kernelOf({ kernel }: GuestEnv): IommufdKernel {
  return kernel.startsWith('6.') ? '6.12' : '7.2';
}

function benchOf(
  contexts: readonly IommufdContext[],
  kernel: IommufdKernel,
  addresses: Readonly<Record<BufferName, bigint>>,
): IommufdBench {
  const [first, second] = contexts as [IommufdContext, IommufdContext | undefined];
  const vault = first.allocate();
  const before = pinnedPages();
  return {
    ...sideOf(first, vault),
    kernel,
    second: second && sideOf(second, vault),
    join: () => second!.attachTo(first),
    part: () => second!.attachAlone(),
    leave: () => first.attachAlone(),
    locked: () => pinnedPages() - before,
    address: (buffer) => addresses[buffer],
    snapshot: () => {
      const spaces = [...contexts.map(({ ioas }) => ioas), vault];
      const areas = spaces.map((ioas) => ioas.areas().map(({ start, end }) => `${start}-${end}`));
      return `${areas.join(' / ')} ${contexts.map(({ attached }) => attached).join()} ${pinnedPages()}`;
    },
  };
}

function sideOf(context: IommufdContext, vault: IommufdIoas): IommufdSide {
  return {
    map: (name, args) => (name === 'vault' ? vault : context.ioas).map(args),
    unmap: (args) => context.ioas.unmap(args),
    unmapDma: (args) => context.unmapDma(args),
    copy: (args) => context.ioas.copy({ source: vault, ...args }),
    attach: () => context.attach(),
    detach: () => context.detach(),
    areas: () => context.ioas.areaCount,
  };
}

/**
 * The kernel does not list its areas, so what this process believes is proved by removing them: no part of an area can be
 * unmapped, each goes with exactly its own size, and nothing is left.
 */
function checkRecord(ioas: IommufdIoas): string[] {
  const wrong: string[] = [];
  for (const { start, end } of ioas.areas()) {
    const length = end - start + 1n;
    for (const part of length > 4096n ? [4096n, length - 4096n] : []) {
      const { errno } = ioas.unmap({ iova: start, length: part });
      if (errno !== Errno.ENOENT) wrong.push(`a part of the area at ${start} was removed`);
    }
    const { errno, size } = ioas.unmap({ iova: start, length });
    if (errno !== 0 || size !== length) wrong.push(`the area at ${start} was not there as a whole (${errno}, ${size})`);
  }
  const { size } = ioas.unmap({ iova: 0n, length: U64 });
  if (size !== 0n) wrong.push(`${size} bytes were mapped that nobody knew of`);
  return wrong;
}

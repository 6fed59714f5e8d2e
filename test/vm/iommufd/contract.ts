// The contract cases of iommufd on the real one: the list that the simulated one passes, unchanged. Runs in the machine.
import { IommufdContext } from '../../../src/host/iommufd.ts';
import type { IommufdIoas } from '../../../src/host/iommufd.ts';
import type { IommufdBench, IommufdCase, IommufdKernel } from '../../../src/host/simulated/iommufd-case.ts';
import { runIommufdCase } from '../../../src/host/simulated/iommufd-case.ts';
import { IOMMUFD_CASES } from '../../../src/host/simulated/iommufd-cases.ts';
import type { BufferName } from '../../../src/host/simulated/type1-cases.ts';
import { Errno } from '../../../src/base/errors.ts';
import { type1Buffers } from '../../native/real-memory.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { asUser, pinnedPages } from './process.ts';

/** Bytes of BAR 0 that stand for device registers. */
const DEVICE_BYTES = 0x1_0000n;
const U64 = (1n << 64n) - 1n;

/** Runs the cases that want this limit of locked memory, in pages, which the process was started with. */
export function runCases(report: Reporter, env: GuestEnv, memlock?: number): void {
  const buffers = type1Buffers(0n);
  const kernel = kernelOf(env);
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
  const context = IommufdContext.open({ group, mode, attached });
  try {
    const registers = context.devices[0]!.mapRegion(0, 0n, DEVICE_BYTES);
    const bench = benchOf(context, kernel, { ...buffers, device: registers.hva });
    const run = (): string[] => runIommufdCase(testCase, bench);
    const wrong = memlock === undefined ? run() : asUser(run);
    wrong.push(...checkRecord(context.ioas));
    registers.close();
    return wrong;
  } finally {
    context.close();
  }
}

function kernelOf({ kernel }: GuestEnv): IommufdKernel {
  return kernel.startsWith('6.') ? '6.12' : '7.2';
}

function benchOf(
  context: IommufdContext,
  kernel: IommufdKernel,
  addresses: Readonly<Record<BufferName, bigint>>,
): IommufdBench {
  const { ioas } = context;
  const vault = context.allocate();
  const before = pinnedPages();
  return {
    kernel,
    map: (name, args) => (name === 'vault' ? vault : ioas).map(args),
    unmap: (args) => ioas.unmap(args),
    unmapDma: (args) => context.unmapDma(args),
    copy: (args) => ioas.copy({ source: vault, ...args }),
    attach: () => context.attach(),
    detach: () => context.detach(),
    areas: () => ioas.areaCount,
    locked: () => pinnedPages() - before,
    address: (buffer) => addresses[buffer],
    snapshot: () => {
      const areas = [...ioas.areas(), ...vault.areas()].map(({ start, end }) => `${start}-${end}`);
      return `${areas.join()} ${context.attached} ${pinnedPages()}`;
    },
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

// One machine of the host tests by hand, with all its lines: other IOMMUs and sizes than the test run has.
// Usage: tsx test/vm/host/run.ts [--kind main|contract|rmrr|installation] [--kernel 6.1|6.12] [--iommu vtd|amd] [--install MIB]
// `--install` is the size of the installation scenario. Ends with `N passed, N failed` and exit status 1 for a failure.
import { parseArgs } from 'node:util';
import type { KernelSeries } from '../base/packages.ts';
import { KERNELS } from '../base/packages.ts';
import { readReport } from '../base/report.ts';
import { bootKind, bootRmrr } from './host-machine.ts';

const { values } = parseArgs({
  options: {
    kind: { type: 'string', default: 'main' },
    kernel: { type: 'string', default: '6.12' },
    iommu: { type: 'string', default: 'vtd' },
    install: { type: 'string', default: '256' },
  },
});
process.exitCode = await main(values);

async function main({
  kind,
  kernel,
  iommu,
  install,
}: Record<'kind' | 'kernel' | 'iommu' | 'install', string>): Promise<number> {
  if (!KERNELS.some((each) => each === kernel)) throw new RangeError(`--kernel must be one of ${KERNELS.join(', ')}`);
  if (iommu !== 'vtd' && iommu !== 'amd') throw new RangeError('--iommu must be vtd or amd');
  const series = kernel as KernelSeries;
  const boot = await (kind === 'rmrr' ? bootRmrr(series) : bootKind(kind, series, iommu, Number(install)));
  const { results } = readReport(boot.lines);
  const failed = results.filter(({ ok }) => !ok).length;
  console.log(boot.lines.join('\n'));
  console.log(`${boot.exit} after ${boot.seconds.toFixed(1)} s`);
  console.log(`${results.length - failed} passed, ${failed} failed`);
  return boot.exit === 'pass' ? 0 : 1;
}

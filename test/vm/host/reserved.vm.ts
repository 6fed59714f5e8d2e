// Devices with memory that firmware wants mapped 1:1, on real kernels with an overridden DMAR table.
import { describe } from 'vitest';
import { KERNELS } from '../base/packages.ts';
import { declareTests } from '../base/report.ts';
import { bootRmrr } from './host-machine.ts';
import { sectionsOf } from './scenarios.ts';

const boots = await Promise.all(KERNELS.map(async (series) => ({ series, boot: await bootRmrr(series) })));

for (const { series, boot } of boots) {
  describe(`Linux ${series}`, () => declareTests(boot, sectionsOf('rmrr')));
}

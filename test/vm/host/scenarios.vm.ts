// The scenarios on real kernels with an emulated VT-d: real bytes through real page tables.
import { describe } from 'vitest';
import { KERNELS } from '../base/packages.ts';
import { declareTests } from '../base/report.ts';
import { bootKind } from './host-machine.ts';
import { sectionsOf } from './scenarios.ts';

const boots = await Promise.all(KERNELS.map(async (series) => ({ series, boot: await bootKind('main', series) })));

for (const { series, boot } of boots) {
  describe(`Linux ${series}`, () => declareTests(boot, sectionsOf('main')));
}

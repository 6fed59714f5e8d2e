// A few hundred random lists of steps for the default suite, each policy in turn, and with a refusal at every host
// operation. Many more: test/planner/main.ts. VIOMMU_SEED sets the seed.
import { describe, expect, it } from 'vitest';
import { POLICIES } from '../../src/coalesce/settings.ts';
import { Runner, listSeed } from './run.ts';
import { describeFailure, shrink } from './shrink.ts';

const SEED = Number(process.env['VIOMMU_SEED'] ?? 1);
const RUNS = 90;

describe.each(POLICIES)('policy %s', (policy) => {
  it(`keeps the invariants of the host plan in ${RUNS} random runs (seed ${SEED})`, () => {
    const runner = new Runner({ policy });
    for (let i = 0; runner.counts.runs < RUNS; i++) {
      const failure = runner.run(listSeed(SEED, i), RUNS - runner.counts.runs);
      if (failure !== undefined) expect.fail(describeFailure(shrink(runner, failure)));
    }
  });
});

describe.each([
  ['hosts with no, one or two entries', { limits: [0, 1, 2] }],
  ['hosts that cut entries', { cuts: true }],
  ['hosts whose address spaces are shared', { share: true }],
])('%s', (_name, wishes) => {
  it('keep the invariants of the host plan', () => {
    const runner = new Runner(wishes);
    for (let i = 0; runner.counts.runs < RUNS; i++) {
      const failure = runner.run(listSeed(SEED, i), RUNS - runner.counts.runs);
      if (failure !== undefined) expect.fail(describeFailure(shrink(runner, failure)));
    }
  });
});

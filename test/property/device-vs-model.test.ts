// The device behind a real ring against the reference model: random sequences of requests, resets and DMA, fixed seed.
// VIOMMU_PROPERTY_RUNS sets how many, VIOMMU_SEED which; `test/property/main.ts` runs them by the ten thousand.
import { describe, expect, it } from 'vitest';
import { SequenceRunner, sequenceSeed } from './run.ts';
import type { Op } from './sequence.ts';

const RUNS = Number(process.env['VIOMMU_PROPERTY_RUNS'] ?? 400);
const SEED = Number(process.env['VIOMMU_SEED'] ?? 1);

describe('device against the reference model', () => {
  it(`agree in ${RUNS} random sequences of seed ${SEED}`, { timeout: 600_000 }, () => {
    console.info(`property: seed ${SEED}, ${RUNS} sequences`);
    const runner = new SequenceRunner();
    for (let i = 0; i < RUNS; i++) {
      const failure = runner.run(sequenceSeed(SEED, i));
      if (failure !== undefined) throw new Error(runner.report(failure));
    }
    const { requests, statuses, events, mirrorChecks } = runner.counts;
    expect(requests).toBeGreaterThan(20 * RUNS);
    expect(events).toBeGreaterThan(RUNS);
    expect(mirrorChecks).toBeGreaterThan(RUNS / 10);
    // The generator is worth something only while requests succeed and fail in every way.
    for (const name of ['OK', 'INVAL', 'RANGE', 'NOENT', 'NOMEM', 'DEVERR', 'NOT_WRITTEN']) {
      expect(statuses[name], name).toBeGreaterThan(requests / 1000);
    }
  });

  it('finds a wrong model and makes the list of requests small', () => {
    const runner = new SequenceRunner();
    for (let i = 0; i < 200; i++) {
      const seed = sequenceSeed(SEED, i);
      const failure = runner.run(seed, (model) => {
        const right = model.request.bind(model);
        // A model that takes UNMAP for MAP as soon as something is mapped.
        model.request = (readable, ...rest) => {
          const mapped = model.state.endpoints.some(({ domain }) => (domain?.mappings.length ?? 0) > 0);
          return right(mapped && readable[0] === 4 ? readable.with(0, 3) : readable, ...rest);
        };
      });
      // A short one: shrinking costs a run per step.
      if (failure === undefined || failure.ops.length > 16) continue;
      const { small, text } = runner.shrunk(failure);
      const requests = small.filter((op: Op) => op.op === 'request');
      expect(requests.length).toBeLessThanOrEqual(3);
      expect(text).toContain('UNMAP');
      expect(text).toContain(`seed ${seed}`);
      return;
    }
    expect.unreachable('no sequence showed the difference');
  });
});

// A short run of both fuzzers with a fixed seed; `test/fuzz/main.ts` runs them by the million.
import { describe, expect, it } from 'vitest';
import { sequenceSeed } from '../property/run.ts';
import { runDoubleFetch } from './double-fetch.ts';
import { FuzzMemory } from './fuzz-memory.ts';
import { CASES_PER_BLOCK, emptyFuzzCounts, runBlock } from './ring-fuzz.ts';

const CASES = Number(process.env['VIOMMU_FUZZ_CASES'] ?? 30_000);
const REQUESTS = Number(process.env['VIOMMU_DOUBLE_FETCH_REQUESTS'] ?? 20_000);
const SEED = Number(process.env['VIOMMU_SEED'] ?? 1);

describe('fuzz', () => {
  it(`survives ${CASES} cases of seed ${SEED} and does what the oracle says`, { timeout: 600_000 }, () => {
    console.info(`ring fuzz: seed ${SEED}, ${CASES} cases`);
    const memory = new FuzzMemory();
    const counts = emptyFuzzCounts();
    for (let block = 0; block < CASES / CASES_PER_BLOCK; block++) {
      const seed = sequenceSeed(SEED, block);
      const failure = runBlock(memory, seed, counts);
      if (failure !== undefined) throw new Error(`block seed ${seed}, ${failure}`);
    }
    expect(counts.served).toBeGreaterThan(CASES / 2);
    expect(counts.broken).toBeGreaterThan(CASES / 100);
    expect(counts.ambiguous).toBeLessThan(CASES / 100);
    expect(counts.statuses['OK']).toBeGreaterThan(CASES / 10);
  });

  it(`reads every byte once in ${REQUESTS} requests that change under it`, { timeout: 600_000 }, async () => {
    const result = await runDoubleFetch({ requests: REQUESTS, chaosKicks: 2000, seed: SEED });
    expect(result.failure).toBeUndefined();
    expect(result.requests).toBeGreaterThanOrEqual(REQUESTS);
    expect(result.seen.size).toBeGreaterThan(20);
  });
});

// Every vector case, run against the reference model: our cases and our decisions say the same.
import { describe, expect, it } from 'vitest';
import type { VectorCase } from '../vector-format.ts';
import { OWN_VECTORS, extraVectors, readVectorFolder } from '../vector-files.ts';
import type { CaseResult } from './run-case.ts';
import { runCase } from './run-case.ts';

/** Runs a folder, prints what could not be seen, returns the failures. */
function runFolder(label: string, folder: string): { total: number; failed: CaseResult[] } {
  const cases = readVectorFolder(folder).flatMap((file) => file.content as VectorCase[]);
  const results = cases.map(runCase);
  const skipped = results.filter((result) => result.outcome === 'skip');
  const unseen = results.reduce((sum, result) => sum + result.unseen, 0);
  const passed = results.filter((result) => result.outcome === 'pass').length;
  console.info(
    `${label}: ${passed} of ${results.length} agree with the model, ${skipped.length} skipped because they need a ring` +
      ` (${skipped.map((result) => result.id).join(' ')}), ${unseen} aspects of framing or memory not visible to it`,
  );
  return { total: results.length, failed: results.filter((result) => result.outcome === 'fail') };
}

describe('vectors against the reference model', () => {
  it('agree, every case of our own', () => {
    const { total, failed } = runFolder('own vectors', OWN_VECTORS);
    expect(failed).toEqual([]);
    expect(total).toBeGreaterThanOrEqual(170);
  });

  it('agree, every case of VIOMMU_EXTRA_DATA', () => {
    const folder = extraVectors();
    if (folder === undefined) {
      console.info('VIOMMU_EXTRA_DATA is not set: no extra vectors were run');
      return;
    }
    const { total, failed } = runFolder('extra vectors', folder);
    expect(failed).toEqual([]);
    expect(total).toBeGreaterThan(0);
  });
});

// A short run of both fuzzers with a fixed seed; test/vfio-user/main.ts runs them by the million.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeNative } from '../native/addon.ts';
import { FuzzFiles } from './fuzz/files.ts';
import type { FuzzCounts } from './fuzz/handler.ts';
import { fuzzHandler } from './fuzz/handler.ts';
import { fuzzStream } from './fuzz/stream.ts';

const SEED = Number(process.env['VIOMMU_SEED'] ?? 1);

describeNative('hostile messages', () => {
  let files: FuzzFiles;
  beforeAll(() => void (files = new FuzzFiles()));
  afterAll(() => files.close());
  const none = (): FuzzCounts => ({ messages: 0, ended: 0, refused: 0, mapped: 0, checks: 0 });

  it(`do what the oracle says in the handler, seed ${SEED}`, async () => {
    const counts = none();
    expect(await fuzzHandler(8000, SEED, files, counts)).toBeUndefined();
    expect(counts.mapped).toBeGreaterThan(500);
    expect(counts.refused).toBeGreaterThan(1000);
    expect(counts.ended).toBeGreaterThan(100);
  }, 60_000);

  it(`do what the oracle says over a socket, seed ${SEED}`, async () => {
    const counts = none();
    expect(await fuzzStream(1500, SEED, files, counts)).toBeUndefined();
    expect(counts.ended).toBeGreaterThan(30);
  }, 60_000);
});

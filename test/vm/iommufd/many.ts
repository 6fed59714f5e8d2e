// More entries than a container of type 1 can have. Runs in the machine.
import assert from 'node:assert/strict';
import { HostBatch } from '../../../src/host/context.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { Lab, RW } from './lab.ts';
import { pinnedPages } from './process.ts';

const OUT = 0x100;
/** Every other I/O page from here on. */
const BASE = 2 ** 19;
/** The limit of type 1 is 65,535. */
const ENTRIES = 70_000;
const PER_CALL = 10_000;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  for (const mode of ['large', 'cut'] as const) {
    await Lab.with(env, 64, { mode }, async (lab) => {
      assert.equal(lab.map(OUT, 1, 0), 0);
      await report.check(`${mode}: ${ENTRIES} entries`, () => fill(report, lab));
      await report.check(
        `${mode}: the first, the 65,535th, the next ones and the last reach their memory`,
        async () => {
          for (const i of [0, 65_534, 65_535, 65_536, ENTRIES - 1]) {
            assert.ok(await lab.reads(BASE + 2 * i, 1 + (i % 63), OUT), `entry ${i}`);
            assert.ok(await lab.writes(BASE + 2 * i, 1 + (i % 63), OUT), `entry ${i}`);
          }
        },
      );
      await report.check(`${mode}: all go at once`, async () => {
        const begin = performance.now();
        assert.deepEqual(lab.unmap(BASE, 2 * ENTRIES), [0, ENTRIES]);
        report.note(`${mode}: one unmap of ${ENTRIES} entries ${(performance.now() - begin).toFixed(0)} ms`);
        assert.equal(await lab.writes(BASE + 2 * 65_535, 1 + (65_535 % 63), OUT), false);
      });
    });
  }
}

function fill(report: Reporter, { context, va }: Lab): void {
  const batch = new HostBatch();
  const before = pinnedPages();
  const begin = performance.now();
  for (let first = 0; first < ENTRIES; first += PER_CALL) {
    batch.clear();
    for (let i = first; i < first + PER_CALL; i++) batch.map(BASE + 2 * i, 1, va + 1 + (i % 63), RW);
    assert.equal(context.apply(batch, 0), PER_CALL);
  }
  const each = ((performance.now() - begin) * 1000) / ENTRIES;
  report.note(`${context.mode}: ${each.toFixed(1)} us for each map of a page`);
  assert.equal(context.entriesLeft(), Infinity);
  assert.equal(context.ioas.areaCount, ENTRIES + 1);
  assert.equal(pinnedPages() - before, ENTRIES);
}

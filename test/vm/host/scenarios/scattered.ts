// The main job on a real kernel: 64 MiB of L2 RAM in 16,384 shuffled pages, mapped while the device is quiet, under `exact`.
import assert from 'node:assert/strict';
import { lockedMemory } from '../../../../src/host/native.ts';
import { l2Layout } from '../../../../src/testing/l2-memory.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { DOMAIN, RealMachine } from '../real-machine.ts';

const MIB = 2 ** 20;
/** 32 windows of 2 MiB, and the entry through which the tests look. */
const MOST_ENTRIES = 33;
const WINDOW = 512;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const layout = l2Layout({ bytes: 64 * MIB, pattern: 'scattered', page: '4k' });
  const [ram] = layout.l1RamRanges;
  assert.ok(ram);
  await RealMachine.with(env, { ramBytes: ram.size }, async (machine) => {
    const { driver, model } = machine;
    machine.boot();
    machine.mapScratch();
    for (let page = 0; page < layout.pages; page++) machine.stamp(layout.physPageOf(page));
    await report.check('16384 shuffled pages stand in 32 entries', () => {
      assert.equal(layout.pages, 16_384);
      const begin = performance.now();
      assert.equal(driver.send(model.mapL2(layout, DOMAIN.l2)), 0);
      machine.setBusMaster(true);
      report.note(`mapped in ${((performance.now() - begin) / 1000).toFixed(1)} s, ${driver.totals.requests} requests`);
      assert.ok(machine.kernelEntries <= MOST_ENTRIES, `${machine.kernelEntries} entries`);
      assert.equal(machine.stats.entries, machine.kernelEntries);
      assert.equal(machine.stats.gathered, 32);
    });
    await report.check('the windows are gone, the memory is locked', () => {
      assert.equal(machine.context.windowState().pieces, 0);
      assert.ok(lockedMemory().locked >= 64 * MIB);
    });
    await report.check('every probed page has the right bytes: the first, the last and two of each entry', async () => {
      const pages = Array.from({ length: layout.pages / WINDOW }, (_, i) => i * WINDOW).flatMap((first, i) => [
        first,
        first + ((i * 37) % WINDOW),
        first + WINDOW - 1,
      ]);
      await machine.readBack(pages.map((page) => [page, layout.physPageOf(page)]));
    });
    await report.check('writes arrive on the right pages', async () => {
      for (const page of [0, 5000, layout.pages - 1]) {
        assert.equal(await machine.writes(page, layout.physPageOf(page)), true);
      }
      assert.equal(await machine.writes(layout.pages, layout.physPageOf(0)), false);
    });
    await report.check('a page that L1 remaps shows its new memory', async () => {
      const other = 0x900;
      machine.stamp(other);
      assert.equal(machine.unmap(700, 1), 'OK');
      assert.equal(machine.map(700, 1, other), 'OK');
      const pairs = [699, 701, 512, 1023].map((page) => [page, layout.physPageOf(page)] as const);
      await machine.readBack([[700, other], ...pairs]);
      assert.equal(machine.stats.demotions, 1);
    });
    await report.check('UNMAP of all leaves nothing, and the device reaches nothing', async () => {
      machine.setBusMaster(false);
      assert.equal(driver.send(model.unmapL2(layout, DOMAIN.l2)), 0);
      machine.setBusMaster(true);
      assert.equal(machine.kernelEntries, 1);
      assert.equal(await machine.writes(512, layout.physPageOf(512)), false);
    });
  });
  await report.check('nothing stays locked', () => assert.equal(lockedMemory().locked, 0));
}

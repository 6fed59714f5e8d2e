// What the step from a quiet to a live device costs: scattered L2 RAM mapped with bus master off, then the bit is set.
// VIOMMU_INSTALL_MIB chooses the size (default 256).
import assert from 'node:assert/strict';
import { l2Layout } from '../../../../src/testing/l2-memory.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { DOMAIN, RealMachine } from '../real-machine.ts';

const GOAL_MS = 50;
const WINDOW = 512;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const { VIOMMU_INSTALL_MIB = '256' } = process.env;
  const mib = Number(VIOMMU_INSTALL_MIB);
  const layout = l2Layout({ bytes: mib * 2 ** 20, pattern: 'scattered', page: '4k' });
  const [ram] = layout.l1RamRanges;
  assert.ok(ram);
  await RealMachine.with(env, { ramBytes: ram.size }, async (machine) => {
    machine.boot();
    machine.mapScratch();
    await report.check(`${mib} MiB of shuffled pages: setting bus master maps at most once for each run`, () => {
      const begin = performance.now();
      assert.equal(machine.driver.send(machine.model.mapL2(layout, DOMAIN.l2)), 0);
      const mapped = machine.stats;
      const enabling = performance.now();
      machine.setBusMaster(true);
      const live = machine.stats;
      const [mapMs, enableMs] = [enabling - begin, performance.now() - enabling];
      const calls = live.mapCalls - mapped.mapCalls;
      report.note(
        `${mib} MiB, ${layout.pages} MAPs: mapped in ${mapMs.toFixed(0)} ms; bus master on: ${calls} map calls for ` +
          `${mapped.planned} planned runs in ${enableMs.toFixed(1)} ms (goal ${GOAL_MS} ms), ${live.entries} entries`,
      );
      assert.ok(calls <= mapped.planned, `${calls} calls, ${mapped.planned} runs`);
      assert.equal(live.planned, 0);
      assert.ok(live.entries <= Math.ceil(layout.pages / WINDOW) + 1, `${live.entries} entries`);
      assert.equal(machine.kernelEntries, live.entries);
    });
    await report.check('every probed page has the right bytes', async () => {
      const pages = [0, 511, 512, 30_000, layout.pages - 512, layout.pages - 1];
      for (const page of pages) machine.stamp(layout.physPageOf(page));
      await machine.readBack(pages.map((page) => [page, layout.physPageOf(page)]));
    });
  });
}

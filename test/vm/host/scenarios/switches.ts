// What changes under a running guest, with DMA between the steps: entries that are put together and taken apart, and a
// container that goes from bypass to blocked to one domain and another.
import assert from 'node:assert/strict';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { DOMAIN, RealMachine, SCRATCH_IOVA } from '../real-machine.ts';

const RAM = { ramBytes: BigInt(32 * 2 ** 20) };
const FIRST = 0x1000;
const PAGE = 4096n;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await compaction(report, env);
  await demotion(report, env);
  await domains(report, env);
  await bypassAndBlocked(report, env);
}

/** A page of L1 for each of `count` IOVA pages, no two neighbours in order. */
function shuffled(count: number): number[] {
  return Array.from({ length: count }, (_, i) => FIRST + ((i * 29) % count));
}

function stampAll(machine: RealMachine, targets: readonly number[]): [number, number][] {
  return targets.map((gpaPage, i) => {
    machine.stamp(gpaPage);
    return [i, gpaPage];
  });
}

async function compaction(report: Reporter, env: GuestEnv): Promise<void> {
  await RealMachine.with(env, { ...RAM, limit: 64, device: { policy: 'forward' } }, async (machine) => {
    const targets = shuffled(60);
    machine.boot();
    machine.mapScratch();
    machine.setBusMaster(true);
    targets.forEach((gpaPage, i) => assert.equal(machine.map(i, 1, gpaPage), 'OK'));
    const pairs = stampAll(machine, targets);
    await report.check('compaction: 60 entries of a live device become one when it is quiet', async () => {
      machine.iommu.core.setPolicy('exact');
      await machine.readBack([pairs[0]!, pairs[30]!]);
      assert.equal(machine.kernelEntries, 61);
      machine.setBusMaster(false);
      assert.equal(machine.stats.compactions, 1);
      assert.equal(machine.kernelEntries, 2);
      machine.setBusMaster(true);
      await machine.readBack([0, 1, 29, 58, 59].map((i) => pairs[i]!));
      assert.equal(await machine.writes(59, targets[59]!), true);
    });
    await report.check('compaction: a live device keeps its memory under `lossy`', async () => {
      machine.iommu.core.setPolicy('lossy');
      const count = machine.context.entriesLeft() + 4;
      const more = Array.from({ length: count }, (_, i) => FIRST + 0x100 + ((i * 29) % count));
      more.forEach((gpaPage, i) => {
        machine.stamp(gpaPage);
        assert.equal(machine.map(0x100 + i, 1, gpaPage), 'OK');
      });
      assert.ok(machine.stats.compactions > 1);
      assert.ok(machine.stats.windows.count > 0);
      assert.equal(machine.stats.windows.open, 0);
      report.note(`longest time without access while entries were replaced: ${machine.stats.windows.longestMs} ms`);
      const last = more.length - 1;
      await machine.readBack([pairs[0]!, pairs[59]!, [0x100, more[0]!], [0x100 + last, more[last]!]]);
    });
  });
}

async function demotion(report: Reporter, env: GuestEnv): Promise<void> {
  await RealMachine.with(env, RAM, async (machine) => {
    const targets = shuffled(511); // 29 and 511 have no common factor
    machine.boot();
    machine.mapScratch();
    targets.forEach((gpaPage, i) => assert.equal(machine.map(i, 1, gpaPage), 'OK'));
    const pairs = stampAll(machine, targets);
    machine.setBusMaster(true);
    await report.check('demotion: a gathered entry', async () => {
      assert.equal(machine.kernelEntries, 2);
      assert.equal(machine.stats.gathered, 1);
      await machine.readBack([pairs[99]!, pairs[100]!, pairs[101]!]);
    });
    await report.check('demotion: UNMAP of one page takes the entry apart, and only that page away', async () => {
      assert.equal(machine.unmap(100, 1), 'OK');
      assert.equal(machine.stats.demotions, 1);
      assert.equal(machine.stats.entries, machine.kernelEntries);
      assert.equal(machine.stats.revoked, 0);
      await machine.readBack([0, 63, 64, 99, 101, 128, 510].map((i) => pairs[i]!));
      assert.equal(await machine.writes(100, targets[100]!), false);
      assert.equal(await machine.writes(101, targets[101]!), true);
    });
    await report.check('demotion: a range over several entries goes, the rest stays', async () => {
      for (let i = 60; i < 200; i++) if (i !== 100) assert.equal(machine.unmap(i, 1), 'OK');
      assert.equal(machine.stats.entries, machine.kernelEntries);
      await machine.readBack([0, 59, 200, 510].map((i) => pairs[i]!));
      for (const i of [60, 199]) assert.equal(await machine.writes(i, targets[i]!), false);
    });
  });
}

/** The same IOVA in two domains. */
async function domains(report: Reporter, env: GuestEnv): Promise<void> {
  await RealMachine.with(env, RAM, async (machine) => {
    const { driver, endpoint } = machine;
    const other = DOMAIN.l2 + 1;
    machine.boot();
    machine.mapScratch();
    machine.setBusMaster(true);
    machine.stamp(FIRST);
    machine.stamp(FIRST + 1);
    assert.equal(machine.map(5, 1, FIRST), 'OK');
    await report.check('another domain: its memory, and none of the former one', async () => {
      await machine.readBack([[5, FIRST]]);
      assert.equal(driver.attach(other, endpoint).status, 0);
      assert.equal(machine.kernelEntries, 0);
      assert.equal(driver.map(other, 5n * PAGE, 6n * PAGE - 1n, BigInt(FIRST + 1) * PAGE).status, 0);
      const scratch = { iova: SCRATCH_IOVA, gpa: 0x80_0000n };
      assert.equal(driver.map(other, scratch.iova, scratch.iova + 0xffffn, scratch.gpa).status, 0);
      await machine.readBack([[5, FIRST + 1]]);
      assert.equal(await machine.writes(5, FIRST), false);
    });
    await report.check('detached it blocks or passes as config.bypass says', async () => {
      driver.setBypass(0);
      assert.equal(driver.detach(other, endpoint).status, 0);
      assert.equal(machine.stats.state, 'blocked');
      assert.equal(machine.kernelEntries, 0);
      machine.stamp(FIRST);
      const before = machine.bytes(FIRST * 4096, 64).slice();
      await machine.edu.store(BigInt(FIRST) * PAGE, 64);
      assert.deepEqual(machine.bytes(FIRST * 4096, 64), before);
      driver.setBypass(1);
      assert.equal(machine.stats.state, 'bypass');
      await machine.edu.copy(BigInt(FIRST) * PAGE, BigInt(FIRST + 2) * PAGE, 64);
      assert.deepEqual(machine.bytes((FIRST + 2) * 4096, 64), before);
    });
  });
}

async function bypassAndBlocked(report: Reporter, env: GuestEnv): Promise<void> {
  await RealMachine.with(env, RAM, async (machine) => {
    const copies = async (): Promise<boolean> => {
      machine.stamp(FIRST);
      const target = machine.bytes((FIRST + 1) * 4096, 64).fill(0);
      await machine.edu.copy(BigInt(FIRST) * PAGE, BigInt(FIRST + 1) * PAGE, 64);
      return Buffer.compare(target, machine.bytes(FIRST * 4096, 64)) === 0;
    };
    machine.setBusMaster(true);
    await report.check('bypass before the driver, nothing while VFIO holds an empty domain', async () => {
      assert.equal(machine.stats.state, 'bypass');
      assert.equal(await copies(), true);
      machine.boot();
      assert.equal(machine.stats.state, 'domain');
      assert.equal(await copies(), false);
    });
    await report.check('a device reset brings bypass back', async () => {
      machine.driver.start();
      assert.equal(machine.stats.state, 'bypass');
      assert.equal(await copies(), true);
    });
    await report.check('a bypass domain passes; without it config.bypass decides, until a system reset', async () => {
      assert.equal(machine.driver.attach(9, machine.endpoint, 1).status, 0);
      assert.equal(await copies(), true);
      machine.iommu.core.setBypass(0);
      assert.equal(await copies(), true);
      assert.equal(machine.driver.detach(9, machine.endpoint).status, 0);
      assert.equal(await copies(), false);
      machine.iommu.core.systemReset();
      assert.equal(await copies(), true);
    });
  });
}

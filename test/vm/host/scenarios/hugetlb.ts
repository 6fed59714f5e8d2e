// L1 memory in huge pages of hugetlbfs: pieces of them cannot stand in a window, whole ones join where they are contiguous.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import type { L2Layout } from '../../../../src/testing/l2-memory.ts';
import { l2Layout } from '../../../../src/testing/l2-memory.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { DOMAIN, RealMachine } from '../real-machine.ts';

const MIB = 2 ** 20;
const PER_HUGE = 512;
const POOL = '/proc/sys/vm/nr_hugepages';

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const layout = l2Layout({ bytes: 16 * MIB, pattern: 'scattered', page: '2m' });
  const [ram] = layout.l1RamRanges;
  assert.ok(ram);
  const pool = readFileSync(POOL, 'utf8');
  writeFileSync(POOL, String(ram.size / BigInt(2 * MIB)));
  try {
    const options = { ramBytes: ram.size, hugePages: '2M' as const, kernel: '4k' as const };
    await RealMachine.with(env, options, async (machine) => {
      machine.boot();
      machine.mapScratch();
      for (let page = 0; page < layout.pages; page++) machine.stamp(layout.physPageOf(page));
      await joined(report, machine, layout);
      await pieces(report, machine);
    });
  } finally {
    writeFileSync(POOL, pool);
  }
}

async function joined(report: Reporter, machine: RealMachine, layout: L2Layout): Promise<void> {
  const { pages } = layout;
  await report.check('4096 mappings of 4 KiB in shuffled huge pages join to one entry for each huge page', async () => {
    assert.equal(machine.region.file?.pageSize, 2 * MIB);
    assert.equal(machine.driver.send(machine.model.mapL2(layout, DOMAIN.l2)), 0);
    machine.setBusMaster(true);
    assert.equal(machine.stats.guestMappings, pages + 1);
    assert.equal(machine.stats.joined, pages / PER_HUGE);
    assert.equal(machine.stats.gathered, 0);
    assert.equal(machine.kernelEntries, pages / PER_HUGE + 1);
    const probes = [0, 1, 511, 512, 2047, 2048, 3000, pages - 1];
    await machine.readBack(probes.map((page) => [page, layout.physPageOf(page)]));
  });
  await report.check('writes arrive at both ends of a huge page', async () => {
    for (const page of [1024, 1535]) assert.equal(await machine.writes(page, layout.physPageOf(page)), true);
  });
}

/** Pages of 4 KiB out of order: no window can show a part of a huge page. */
async function pieces(report: Reporter, machine: RealMachine): Promise<void> {
  await report.check('pieces of huge pages stay entries of their own, with the right bytes', async () => {
    machine.setBusMaster(false);
    const before = machine.kernelEntries;
    const targets = Array.from({ length: 64 }, (_, i) => 0x900 + ((i * 29) % 64));
    targets.forEach((gpaPage, i) => {
      machine.stamp(gpaPage);
      assert.equal(machine.map(0x2_0000 + i, 1, gpaPage), 'OK');
    });
    machine.setBusMaster(true);
    assert.equal(machine.stats.gathered, 0);
    assert.equal(machine.kernelEntries - before, targets.length);
    await machine.readBack([0, 1, 31, 63].map((i) => [0x2_0000 + i, targets[i]!]));
  });
}

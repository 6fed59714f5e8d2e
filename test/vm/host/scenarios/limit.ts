// The limit of entries of a container, real: with the module parameter at 16, and as the kernel ships it. Policy `forward`,
// which makes one entry for each mapping.
import assert from 'node:assert/strict';
import { Kick } from '../../../../src/testing/kick.ts';
import type { KickSource } from '../../../../src/testing/kick.ts';
import { l2Layout } from '../../../../src/testing/l2-memory.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { DOMAIN, RealMachine } from '../real-machine.ts';

const MIB = 2 ** 20;
const FIRST = 0x1000;
const NOMEM = 8;
const KERNEL_LIMIT = 65_535;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await small(report, env);
  await full(report, env);
}

async function small(report: Reporter, env: GuestEnv): Promise<void> {
  const options = { ramBytes: BigInt(32 * MIB), limit: 16, device: { policy: 'forward' as const } };
  await RealMachine.with(env, options, async (machine) => {
    machine.boot();
    machine.setBusMaster(true);
    machine.mapScratch(); // the first of 16 entries
    await report.check('dma_entry_limit 16: `forward` is refused at 17', () => {
      assert.equal(machine.context.limits.entryLimit, 16);
      const answers = Array.from({ length: 17 }, (_, i) => machine.map(i, 1, FIRST + i));
      assert.deepEqual(answers, [...Array.from({ length: 15 }, () => 'OK'), 'NOMEM', 'NOMEM']);
      assert.equal(machine.kernelEntries, 16);
      assert.equal(machine.stats.entries, 16);
    });
    await report.check('the guest is told by an event, and the errno has a remedy', () => {
      const [event] = machine.events.filter(({ type }) => type === 'host-refusal');
      assert.ok(event);
      assert.match(machine.context.explain(28), /all 16 entries .*dma_entry_limit/);
    });
    await report.check('what was there works on, what was refused is not reachable', async () => {
      for (const i of [0, 14, 15]) machine.stamp(FIRST + i);
      await machine.readBack([
        [0, FIRST],
        [14, FIRST + 14],
      ]);
      assert.equal(await machine.writes(15, FIRST + 15), false);
    });
    await report.check('an UNMAP makes room for one more', async () => {
      assert.equal(machine.unmap(3, 1), 'OK');
      assert.equal(machine.map(15, 1, FIRST + 15), 'OK');
      assert.equal(machine.map(16, 1, FIRST + 16), 'NOMEM');
      await machine.readBack([[15, FIRST + 15]]);
    });
  });
}

async function full(report: Reporter, env: GuestEnv): Promise<void> {
  const layout = l2Layout({ bytes: 256 * MIB, pattern: 'scattered', page: '4k' });
  const [ram] = layout.l1RamRanges;
  assert.ok(ram);
  const options = { ramBytes: ram.size, kernel: '4k' as const, device: { policy: 'forward' as const } };
  await RealMachine.with(env, options, async (machine) => {
    machine.boot();
    machine.setBusMaster(true);
    await report.check(`the kernel's limit: \`forward\` is refused at ${KERNEL_LIMIT + 1}`, () => {
      assert.equal(machine.context.limits.entryLimit, KERNEL_LIMIT);
      const begin = performance.now();
      const refused = refusals(machine, machine.model.mapL2(layout, DOMAIN.l2));
      report.note(`${layout.pages} single pages mapped one by one in ${seconds(begin)} s`);
      assert.deepEqual(refused, [[KERNEL_LIMIT, NOMEM]]);
      assert.equal(machine.kernelEntries, KERNEL_LIMIT);
      assert.equal(machine.stats.entries, KERNEL_LIMIT);
    });
    await report.check('with all entries taken the device still reaches the right pages', async () => {
      assert.equal(machine.unmap(7, 1), 'OK');
      machine.mapScratch(); // in its place
      const pages = [0, 6, 8, 32_768, 65_533, KERNEL_LIMIT - 1];
      const pairs = pages.map((page) => [page, layout.physPageOf(page)] as const);
      for (const [, gpaPage] of pairs) machine.stamp(gpaPage);
      await machine.readBack(pairs);
      assert.equal(await machine.writes(KERNEL_LIMIT, layout.physPageOf(KERNEL_LIMIT)), false);
      assert.equal(await machine.writes(7, layout.physPageOf(7)), false);
    });
    await report.check('they all go when L1 takes the device back', () => {
      const begin = performance.now();
      const { driver, model, endpoint } = machine;
      const close = { endpoint, blockingDomain: DOMAIN.blocking, defaultDomain: DOMAIN.standard };
      assert.equal(driver.send(model.closeVfio(close)), 0);
      report.note(`${KERNEL_LIMIT} entries removed in ${seconds(begin)} s`);
      assert.equal(machine.kernelEntries, 0);
    });
  });
}

/** Sends requests; [position, status] of those that were not answered OK. */
function refusals(machine: RealMachine, source: KickSource): [number, number][] {
  const kick = new Kick(machine.driver.ringCapacity);
  const statuses = new Uint8Array(kick.capacity);
  const list: [number, number][] = [];
  for (let sent = 0; source.next(kick); sent += kick.count) {
    machine.driver.sendKick(kick, statuses);
    for (let i = 0; i < kick.count; i++) if (statuses[i] !== 0) list.push([sent + i, statuses[i]!]);
  }
  return list;
}

function seconds(begin: number): string {
  return ((performance.now() - begin) / 1000).toFixed(1);
}

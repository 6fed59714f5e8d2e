// A thousand containers, one after the other: nothing of them stays in the process or in the kernel.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { HostBatch } from '../../../../src/host/context.ts';
import { EventCounter } from '../../../../src/host/event-counter.ts';
import { GuestRam } from '../../../../src/host/guest-ram.ts';
import { VfioType1Context } from '../../../../src/host/vfio-type1.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { lockedPages } from './lab.ts';

const CYCLES = 1000;
const RW = 3;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await report.check(`${CYCLES} containers leave descriptors and mappings as they were`, () => {
    // The first ones load code and fill caches.
    for (let i = 0; i < 20; i++) cycle(env);
    const before = state();
    const begin = performance.now();
    for (let i = 0; i < CYCLES; i++) cycle(env);
    report.note(`${((performance.now() - begin) / CYCLES).toFixed(1)} ms for each`);
    assert.deepEqual(state(), before);
  });
}

/** Everything that a container can take, and closes it. */
function cycle({ edu: { group } }: GuestEnv): void {
  const ram = GuestRam.create({ size: 0x1_0000n });
  const context = VfioType1Context.open({ group });
  const device = context.devices[0]!;
  const counter = new EventCounter();
  device.setIrqs('msi', 0, [counter]);
  device.mapRegion(0, 0n, 4096n);
  const page = Number(ram.hva / 4096n);
  const batch = new HostBatch();
  batch.map(0, 4, page, RW);
  batch.gather(16, 3, RW);
  batch.piece(page + 9, 1);
  batch.piece(page + 6, 2);
  assert.equal(context.buildWindows(batch, 0), 2);
  assert.equal(context.apply(batch, 0), 2);
  counter.close();
  context.close();
  ram.close();
}

/** What the process has open, has mapped by name or reserved, and has locked; its own heap may change. */
function state(): { fds: string[]; maps: string[]; locked: number } {
  const fds = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return `${fd} ${readlinkSync(`/proc/self/fd/${fd}`)}`;
    } catch {
      return '';
    }
  });
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const maps = lines.filter((line) => line.includes('/') || line.includes('memfd') || isLarge(line));
  return { fds: fds.filter((text) => !text.includes('/proc/')), maps, locked: lockedPages() };
}

/** Reserves of windows are larger than anything that Node takes after its start. */
function isLarge(line: string): boolean {
  const [start = '0', end = '0'] = line.split(' ')[0]!.split('-');
  return parseInt(end, 16) - parseInt(start, 16) >= 2 ** 32;
}

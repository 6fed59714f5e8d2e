// The whole chain in the L0 machine: `serve` holds the edu device through VFIO and shows it, and the virtio-iommu, to QEMU; L1 boots on
// them with the kernel's own virtio_iommu and vfio_iommu_type1 drivers, and its program (l1-edu.c) drives the device.
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { ServeReport } from '../../../src/cli/serve-report.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { dmarFaults } from './dmar-faults.ts';
import { INNER_QEMU, L1_INITRD, L1_KERNEL } from './files.ts';
import { Served } from './served.ts';

/** L1's serial line. Kernel parameters: what costs time under emulation, or measures it, is left out. */
const L1 = [
  ...['-accel', 'tcg', '-cpu', 'max', '-smp', '1', '-no-reboot', '-nographic', '-monitor', 'none', '-serial', 'stdio'],
  ...['-kernel', L1_KERNEL, '-initrd', L1_INITRD, '-append'],
  'console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check mitigations=off nokaslr nowatchdog rcupdate.rcu_cpu_stall_suppress=1',
];
const MEMORY_MIB = 192;
/** Mappings of L1 at each mark (l1-edu.c): two pages, 64 scattered ones, and one of these unmapped. */
const MAPPINGS: Readonly<Record<string, number>> = { mapped: 66, live: 66, blocked: 66, quiet: 65 };
/** What the 66 are in the host: the two pages, and one entry for all that are scattered. */
const ENTRIES = 3;
/** The printed arguments name a folder that both processes know. */
const FOLDER = '/tmp/nested';

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  mkdirSync(FOLDER);
  const served = await Served.start(
    FOLDER,
    ...['--endpoint', `vfio:${env.edu.name}@4.0`, '--memory', `${MEMORY_MIB}M`, '--msg-timeout', '600000'],
  );
  const begin = performance.now();
  const [program = '', ...args] = INNER_QEMU;
  const qemu = spawn(program, [...args, ...served.qemuArgs, ...L1], { stdio: ['pipe', 'pipe', 'inherit'] });
  const status = await follow(qemu, report, async (mark) => {
    report.note(`L1 is at "${mark}" after ${((performance.now() - begin) / 1000).toFixed(0)} s`);
    await look(mark, report, served);
  });
  await report.check('L1 ran to its end', () => assert.equal(status, 0));
  report.note(`L1 took ${((performance.now() - begin) / 1000).toFixed(0)} s`);
  await report.check('when QEMU is gone, nothing is left in the container', async () => {
    const last = await settled(served);
    assert.deepEqual([last.functions[1]!.host!.entries, served.lockedPages()], [0, 0]);
    report.note(JSON.stringify(last.iommu.requests));
  });
  const { code, stderr } = await served.stop();
  report.note(stderr.trim());
  await report.check('serve ends well', () => assert.equal(code, 0));
}

/** Relays L1's lines; answers each mark when it was looked at. Resolves to the status that L1 ended with. */
function follow(qemu: ChildProcess, report: Reporter, marked: (mark: string) => Promise<void>): Promise<number> {
  let status = -1;
  const own = report.section('nested > L1');
  createInterface({ input: qemu.stdout! }).on('line', (line) => {
    const at = line.indexOf('@@ {');
    const value = at < 0 ? undefined : parsed(line.slice(at + 3));
    if (value === undefined) console.log(`L1: ${line}`);
    else if (typeof value['mark'] === 'string') {
      void marked(value['mark']).finally(() => void qemu.stdin!.write('\n'));
    } else if (typeof value['exit'] === 'number') status = value['exit'];
    else if (typeof value['note'] === 'string') own.note(value['note']);
    else {
      const ok = value['ok'] === true;
      own.result({ name: String(value['name']), ok, ...(ok ? {} : { detail: JSON.stringify(value['detail']) }) });
    }
  });
  return new Promise((resolve, reject) => {
    qemu.on('error', reject);
    qemu.on('close', () => resolve(status));
  });
}

/** What must hold in L0 while L1 waits. */
async function look(mark: string, report: Reporter, served: Served): Promise<void> {
  const state = await served.stats();
  const passed = state.functions.find(({ device }) => device === 'vfio')!;
  const { host, translation } = passed;
  const seen = { host, translation, locked: served.lockedPages() };
  await report.check(`${mark}: the host's container holds what L1 has mapped`, () => {
    assert.ok(host !== null && translation !== null && translation.domain !== null, JSON.stringify(seen));
    assert.equal(translation.mappings, MAPPINGS[mark]);
    if (mark === 'mapped') assert.equal(host.quiet, true);
    if (mark !== 'live' && mark !== 'blocked') return;
    assert.deepEqual([host.state, host.entries, host.quiet, seen.locked], ['domain', ENTRIES, false, MAPPINGS[mark]]);
  });
  if (mark === 'blocked') {
    await report.check('blocked: the host IOMMU has refused a write', () => assert.ok(dmarFaults() > 0));
  }
  if (mark === 'quiet') {
    await report.check('quiet: bus master is off, and the plan knows it', () => assert.equal(host?.quiet, true));
  }
  report.note(`${mark}: ${JSON.stringify(seen)}`);
}

async function settled(served: Served): Promise<ServeReport> {
  for (let i = 0; ; i++) {
    const state = await served.stats();
    if (i === 100 || state.functions.every(({ server }) => !server.connected)) return state;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

// DMA of a real device through IOVAs, both ways, and what must not arrive: it is looked for in memory, not in kernel logs.
import assert from 'node:assert/strict';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { RealMachine, SCRATCH_IOVA } from '../real-machine.ts';

const PAGE = 4096;
const MIB = 2 ** 20;
/** L1 pages behind the mappings of this scenario, each at an IOVA that is not its address. */
const [A, B, READ_ONLY, WRITE_ONLY] = [0x1000, 0x1001, 0x1010, 0x1020];
const [IOVA_A, IOVA_B, IOVA_READ_ONLY, IOVA_WRITE_ONLY] = [0x300, 0x301, 0x310, 0x320];
const NOWHERE = 0x400;
const READ = 1;
const WRITE = 2;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await RealMachine.with(env, { ramBytes: BigInt(32 * MIB), device: { policy: 'forward' } }, async (machine) => {
    await bypass(report, machine);
    machine.boot();
    machine.mapScratch();
    machine.setBusMaster(true);
    for (const page of [A, B, READ_ONLY, WRITE_ONLY]) machine.stamp(page);
    assert.equal(machine.map(IOVA_A, 2, A), 'OK');
    assert.equal(machine.map(IOVA_READ_ONLY, 1, READ_ONLY, READ), 'OK');
    assert.equal(machine.map(IOVA_WRITE_ONLY, 1, WRITE_ONLY, WRITE), 'OK');
    await mapped(report, machine);
    await blocked(report, machine);
    await unmapped(report, machine);
    await busMasterOff(report, machine);
  });
}

/** Firmware's DMA, before a driver is there. */
async function bypass(report: Reporter, machine: RealMachine): Promise<void> {
  await report.check('in bypass the device reaches memory at its own address', async () => {
    machine.setBusMaster(true);
    machine.stamp(A);
    await machine.edu.copy(BigInt(A * PAGE), BigInt(B * PAGE), PAGE);
    assert.deepEqual(machine.bytes(B * PAGE, PAGE), machine.bytes(A * PAGE, PAGE));
    machine.setBusMaster(false);
  });
}

async function mapped(report: Reporter, machine: RealMachine): Promise<void> {
  await report.check('memory to device to memory, a page across two pages', async () => {
    const from = machine.bytes(A * PAGE + 100, PAGE);
    for (let i = 0; i < PAGE; i++) from[i] = (i * 11) & 0xff;
    await machine.edu.copy(BigInt(IOVA_A * PAGE + 100), SCRATCH_IOVA + 50n, PAGE);
    assert.deepEqual(machine.bytes(0x80_0000 + 50, PAGE), from);
    for (const page of [A, B]) machine.stamp(page);
  });
  await report.check('each page shows its own bytes', () =>
    machine.readBack([
      [IOVA_A, A],
      [IOVA_B, B],
      [IOVA_READ_ONLY, READ_ONLY],
    ]),
  );
  await report.check('a write arrives, also through a write-only mapping', async () => {
    assert.equal(await machine.writes(IOVA_B, B), true);
    assert.equal(await machine.writes(IOVA_WRITE_ONLY, WRITE_ONLY), true);
  });
}

async function blocked(report: Reporter, machine: RealMachine): Promise<void> {
  await report.check('a write to a read-only mapping does not arrive', async () => {
    assert.equal(await machine.writes(IOVA_READ_ONLY, READ_ONLY), false);
    await machine.readBack([[IOVA_READ_ONLY, READ_ONLY]]);
  });
  await report.check('a write to an address without mapping reaches no memory', async () => {
    const before = machine.bytes(0, 32 * MIB).slice();
    await machine.edu.load(BigInt(IOVA_A * PAGE), PAGE);
    await machine.edu.store(BigInt(NOWHERE * PAGE), PAGE);
    await machine.edu.store(BigInt(A * PAGE), PAGE); // the page's address in memory is not its IOVA
    assert.equal(Buffer.compare(machine.bytes(0, 32 * MIB), before), 0);
  });
  await report.check('a read from an address without mapping shows no memory', async () => {
    machine.stamp(NOWHERE);
    await reads(machine, NOWHERE * PAGE, NOWHERE * PAGE, false);
  });
  const shown = await reads(machine, IOVA_WRITE_ONLY * PAGE, WRITE_ONLY * PAGE).catch(() => undefined);
  report.note(`a read through a write-only mapping is ${shown === true ? 'allowed' : 'blocked'} by the IOMMU`);
}

async function unmapped(report: Reporter, machine: RealMachine): Promise<void> {
  await report.check('after UNMAP neither reads nor writes arrive', async () => {
    assert.equal(machine.unmap(IOVA_A, 2), 'OK');
    assert.equal(await machine.writes(IOVA_A, A), false);
    assert.equal(await machine.writes(IOVA_B, B), false);
    await reads(machine, IOVA_A * PAGE, A * PAGE, false);
  });
  await report.check('an IOVA that is mapped again shows the new page at once', async () => {
    assert.equal(machine.map(IOVA_A, 1, B), 'OK');
    machine.stamp(B);
    await machine.readBack([[IOVA_A, B]]);
    assert.equal(await machine.writes(IOVA_A, A), false);
    assert.equal(await machine.writes(IOVA_A, B), true);
  });
}

async function busMasterOff(report: Reporter, machine: RealMachine): Promise<void> {
  await report.check('with bus master off a write is lost, and arrives when it is on', async () => {
    machine.setBusMaster(false);
    assert.equal(machine.passed.busMaster(), false);
    await machine.edu.store(BigInt(IOVA_A * PAGE) + 2048n, 64);
    machine.setBusMaster(true);
    assert.equal(await machine.writes(IOVA_A, B), true);
  });
}

/** Whether the device, reading at `iova`, sees the bytes at `gpa`; with `expected`, asserts it. */
async function reads(machine: RealMachine, iova: number, gpa: number, expected?: boolean): Promise<boolean> {
  const { edu } = machine;
  machine.bytes(0x80_0000, 64).fill(0x5a);
  await edu.load(SCRATCH_IOVA, 64);
  await edu.load(BigInt(iova), 64);
  await edu.store(SCRATCH_IOVA + 4096n, 64);
  const same = Buffer.compare(machine.bytes(0x80_0000 + PAGE, 64), machine.bytes(gpa, 64)) === 0;
  if (expected !== undefined) assert.equal(same, expected);
  return same;
}

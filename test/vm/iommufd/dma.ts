// DMA through an address space of iommufd: what the device reaches, and what it does not. Runs in the machine.
import assert from 'node:assert/strict';
import { Errno } from '../../../src/base/errors.ts';
import { HostBatch } from '../../../src/host/context.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { Lab } from './lab.ts';

const READ = 1;
/** I/O page of RAM page 0, for what comes from and goes to the device. */
const OUT = 0x100;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await Lab.with(env, 16, {}, async (lab) => {
    const { context } = lab;
    assert.equal(lab.map(OUT, 1, 0), 0);
    await report.check('limits are those of the group', () => {
      const { pageSizes, usableRanges, entryLimit, windowPieces } = context.limits;
      assert.equal(pageSizes & 4096n, 4096n);
      assert.equal(usableRanges[0]!.start, 0n);
      assert.ok(usableRanges.length >= 2, 'the MSI window is no hole');
      assert.deepEqual([entryLimit, windowPieces, context.entriesLeft()], [Infinity, 0, Infinity]);
      assert.deepEqual(context.refreshLimits(), context.limits);
    });
    await report.check('memory is reached both ways', async () => {
      assert.equal(lab.map(0x200, 2, 1), 0);
      assert.deepEqual([await lab.reads(0x200, 1, OUT), await lab.reads(0x201, 2, OUT)], [true, true]);
      assert.deepEqual([await lab.writes(0x200, 1, OUT), await lab.writes(0x201, 2, OUT)], [true, true]);
    });
    await report.check('beside it nothing is', async () => {
      assert.deepEqual([await lab.reads(0x202, 3, OUT), await lab.writes(0x202, 3, OUT)], [false, false]);
      assert.deepEqual([await lab.reads(0x1ff, 3, OUT), await lab.writes(0x1ff, 3, OUT)], [false, false]);
    });
    await report.check('read-only memory is read and not written', async () => {
      assert.equal(lab.map(0x300, 1, 3, READ), 0);
      assert.deepEqual([await lab.reads(0x300, 3, OUT), await lab.writes(0x300, 3, OUT)], [true, false]);
    });
    await report.check('after an unmap nothing is reached', async () => {
      assert.deepEqual(lab.unmap(0x200, 2), [0, 2]);
      assert.deepEqual([await lab.reads(0x200, 1, OUT), await lab.writes(0x201, 2, OUT)], [false, false]);
    });
    await report.check('an address shows other memory after it was mapped anew', async () => {
      assert.equal(lab.map(0x200, 1, 7), 0);
      assert.deepEqual([await lab.reads(0x200, 7, OUT), await lab.writes(0x200, 7, OUT)], [true, true]);
    });
    await report.check('up to the MSI window, and from its end on', async () => {
      for (const [i, at] of [0xfedff, 0xfef00].entries()) {
        assert.equal(lab.map(at, 1, 8 + i), 0);
        assert.deepEqual([await lab.reads(at, 8 + i, OUT), await lab.writes(at, 8 + i, OUT)], [true, true]);
      }
      assert.deepEqual([lab.map(0xfee00, 1, 8), lab.map(0xfeeff, 1, 8)], [Errno.EINVAL, Errno.EINVAL]);
    });
    await report.check('detached, the device reaches nothing; attached again, all of it', async () => {
      context.detach();
      assert.deepEqual([context.attached, await lab.writes(0x200, 7, OUT)], [false, false]);
      assert.deepEqual([context.attach(), context.attached], [0, true]);
      assert.deepEqual([await lab.reads(0x200, 7, OUT), await lab.writes(0x200, 7, OUT)], [true, true]);
    });
    await report.check('a batch stops at the first refusal, in one call', () => {
      const batch = new HostBatch();
      batch.map(0x400, 4, lab.va, 3);
      batch.unmap(0x400, 4);
      batch.map(0x400, 2, lab.va, 3);
      batch.map(0x401, 1, lab.va, 3);
      batch.map(0x500, 1, lab.va, 3);
      assert.equal(context.apply(batch, 0), 3);
      assert.deepEqual([...batch.errno.subarray(0, 4), batch.done[1]], [0, 0, 0, Errno.EEXIST, 4]);
      assert.deepEqual(lab.unmap(0x400, 2), [0, 2]);
    });
    await report.check('memory that is no guest RAM is refused', () => {
      assert.equal(lab.mapVa(0x600, 1, 0x1234), Errno.EFAULT);
      assert.equal(lab.mapVa(0x600, 17, lab.va), Errno.EFAULT);
      assert.match(context.explain(Errno.EFAULT), /guest RAM/);
    });
    await report.check('unmapAll leaves nothing', async () => {
      assert.deepEqual([context.unmapAll(), context.ioas.areaCount, context.unmapAll()], [0, 0, 0]);
      assert.equal(await lab.writes(0x300, 3, OUT), false);
    });
    await report.check('bus master is cleared, and the device is reset where it can be', () => {
      assert.equal(context.clearBusMaster(), 0);
      const device = context.devices[0]!;
      assert.equal(device.busMaster(), false);
      assert.equal(context.resetDevices() === 0, device.info().canReset);
    });
  });
}

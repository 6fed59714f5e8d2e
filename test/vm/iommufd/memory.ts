// How locked memory is counted and limited, and memory that is shown twice. Runs in the machine.
import assert from 'node:assert/strict';
import { chmodSync, readdirSync } from 'node:fs';
import { Errno } from '../../../src/base/errors.ts';
import { GuestRam } from '../../../src/host/guest-ram.ts';
import { IommufdContext } from '../../../src/host/iommufd.ts';
import { lockedMemory } from '../../../src/host/native.ts';
import { IoasFlag } from '../../../src/host/simulated/iommufd-rules.ts';
import type { Reporter } from '../base/reporter.ts';
import type { GuestEnv } from '../host/guest-env.ts';
import { Lab } from './lab.ts';
import { asUser, lockedPages, pinnedPages } from './process.ts';

const OUT = 0x100;
const K4 = 4096n;
const FLAGS = IoasFlag.fixed | IoasFlag.readable | IoasFlag.writeable;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  const limit = asUser(lockedMemory).limit / 4096;
  assert.ok(limit <= 4096, 'the limit of locked memory is too high to be filled');
  for (const accounting of ['user', 'process'] as const) {
    await Lab.with(env, limit + 1, { accounting }, async (lab) => {
      await report.check(`${accounting}: the limit of ${limit} pages holds without privileges`, () =>
        asUser(() => {
          const [pinned, locked] = [pinnedPages(), lockedPages()];
          assert.equal(lab.map(0, limit, 0), 0);
          assert.equal(lab.map(2 ** 20, 1, limit), Errno.ENOMEM);
          assert.match(lab.context.explain(Errno.ENOMEM), /RLIMIT_MEMLOCK/);
          assert.deepEqual([pinnedPages() - pinned, lab.context.ioas.areaCount], [limit, 1]);
          assert.equal(lockedPages() - locked, accounting === 'process' ? limit : 0);
          assert.deepEqual(lab.unmap(0, limit), [0, limit]);
          assert.deepEqual([pinnedPages(), lockedPages()], [pinned, locked]);
          assert.equal(lab.map(2 ** 20, 1, limit), 0);
          assert.deepEqual(lab.unmap(2 ** 20, 1), [0, 1]);
        }),
      );
      await report.check(`${accounting}: a page of two maps counts twice`, () =>
        asUser(() => {
          assert.equal(lab.map(0, limit / 2, 0), 0);
          assert.equal(lab.map(2 ** 20, limit / 2, 0), 0);
          assert.equal(lab.map(2 ** 21, 1, 0), Errno.ENOMEM);
          assert.equal(lab.context.unmapAll(), 0);
        }),
      );
      await report.check(`${accounting}: root has no limit`, () => {
        assert.equal(lab.map(0, limit + 1, 0), 0);
        assert.equal(lab.map(2 ** 20, limit + 1, 0), 0);
        assert.equal(lab.context.unmapAll(), 0);
      });
    });
  }
  await report.check('counting by process takes a privilege', () => {
    chmodSync('/dev/iommu', 0o666);
    const open = (): unknown => IommufdContext.open({ group: env.edu.group, accounting: 'process' });
    assert.throws(() => asUser(open), {
      code: 'ERR_VIOMMU_HOST_REFUSED',
      errno: Errno.EPERM,
      message: /CAP_SYS_RESOURCE/,
    });
  });
  await report.check('without any privilege the device can be used', () => {
    for (const name of readdirSync('/dev/vfio/devices')) chmodSync(`/dev/vfio/devices/${name}`, 0o666);
    asUser(() => new Lab(env, 4, {}).close());
  });
  await copies(report, env);
  await files(report, env);
}

async function copies(report: Reporter, env: GuestEnv): Promise<void> {
  await Lab.with(env, 64, {}, async (lab) => {
    const { context, ram } = lab;
    const vault = context.allocate();
    await report.check('a vault pins nothing, and copies out of it pin once', async () => {
      const before = pinnedPages();
      assert.equal(vault.map({ flags: FLAGS, userVa: ram.hva, iova: 0n, length: 64n * K4 }).errno, 0);
      assert.equal(pinnedPages(), before);
      const copy = (sourceIova: bigint, iova: bigint, length: bigint): number =>
        context.ioas.copy({ source: vault, flags: FLAGS, sourceIova, iova, length }).errno;
      assert.equal(copy(0n, BigInt(OUT) * K4, K4), 0);
      assert.equal(copy(8n * K4, 0x200n * K4, 8n * K4), 0);
      assert.equal(copy(10n * K4, 0x300n * K4, 2n * K4), 0);
      assert.equal(pinnedPages() - before, 9);
      assert.deepEqual([await lab.reads(0x202, 10, OUT), await lab.writes(0x300, 10, OUT)], [true, true]);
      assert.deepEqual(lab.unmap(0x200, 8), [0, 8]);
      assert.equal(pinnedPages() - before, 3);
      assert.deepEqual([await lab.writes(0x202, 10, OUT), await lab.writes(0x301, 11, OUT)], [false, true]);
    });
    await report.check('a vault goes away, the copies stay', async () => {
      assert.equal(context.destroy(vault), 0);
      assert.equal(await lab.writes(0x301, 11, OUT), true);
    });
  });
  await report.check('memory that was given back is not pinned later', () => {
    const context = IommufdContext.open({ group: env.edu.group, attached: false });
    const ram = GuestRam.create({ size: 4n * K4 });
    const args = { flags: FLAGS, userVa: ram.hva, iova: 0n, length: 4n * K4 };
    assert.equal(context.ioas.map(args).errno, 0);
    ram.close();
    // Whatever this process has at these addresses next must not become visible to the device.
    assert.equal(context.attach(), Errno.EFAULT);
    assert.equal(context.attached, false);
    context.close();
  });
}

/** IOMMU_IOAS_MAP_FILE came with Linux 6.13: an older kernel refuses it, and maps by address still work. */
async function files(report: Reporter, env: GuestEnv): Promise<void> {
  const known = !/^6\.([0-9]|1[0-2])\./.test(env.kernel);
  await Lab.with(env, 64, {}, async (lab) => {
    await report.check(known ? 'memory is mapped by its file' : 'the kernel does not know maps by file', async () => {
      assert.equal(lab.map(OUT, 1, 0), 0);
      const args = { flags: FLAGS, userVa: lab.ram.hva + 4n * K4, iova: 0x200n * K4, length: 8n * K4 };
      assert.equal(lab.context.ioas.map(args, true).errno, known ? 0 : Errno.ENOTTY);
      assert.equal(await lab.writes(0x201, 5, OUT), known);
      assert.equal(lab.context.ioas.map({ ...args, userVa: 0x1000n }, true).errno, Errno.EFAULT);
    });
  });
}

// What opening and using a real container says when something is wrong: the code, the errno, and what to do about it.
// Not here: the cases that need no VFIO at all (test/native) and errno tables (type1.ts).
import assert from 'node:assert/strict';
import { chmodSync, chownSync, closeSync, readdirSync, readlinkSync } from 'node:fs';
import { Errno, isHostError } from '../../../../src/base/errors.ts';
import { HostBatch } from '../../../../src/host/context.ts';
import { GuestRam } from '../../../../src/host/guest-ram.ts';
import type { VfioType1Options } from '../../../../src/host/vfio-type1.ts';
import { VfioType1Context } from '../../../../src/host/vfio-type1.ts';
import type { Reporter } from '../../base/reporter.ts';
import type { GuestEnv } from '../guest-env.ts';
import { bindToVfio, findDevice, groupOf } from '../guest-env.ts';
import { asUser, openLab } from './lab.ts';

const K4 = 4096;
const RW = 3;
/** A function that vfio-pci takes, and in whose group another one has a driver of the host. */
const SHARED = { vendor: '0x1b36', device: '0x0005' };
const USER = 1000;
const EBADF = 9;

export async function run(report: Reporter, env: GuestEnv): Promise<void> {
  await openings(report, env);
  await permissions(report, env);
  await report.check('a descriptor that was closed under us: an errno each, and close() still works', () => lost(env));
  await report.check('numbers at the edges of 64 bits, and values of wrong types', () => edges(env));
  await report.check('an error of a map says what to do', () => explained(env));
  await report.check('the last page of 64 bits is not usable', () => lastPage(report, env));
}

/** Code, errno and message of what opening throws. */
function refusal(options: VfioType1Options): string {
  try {
    VfioType1Context.open(options).close();
  } catch (error) {
    if (isHostError(error)) return `${error.code.slice('ERR_VIOMMU_HOST_'.length)} ${error.errno} ${error.message}`;
    throw error;
  }
  return 'opened';
}

async function openings(report: Reporter, env: GuestEnv): Promise<void> {
  const { group, name } = env.edu;
  const bridge = groupOf('0000:00:00.0');
  await report.check('no /dev/vfio', () => {
    assert.match(refusal({ group, deviceFolder: '/nowhere' }), /^UNAVAILABLE 2 .* is missing: .*modprobe vfio-pci/);
  });
  await report.check('no such group', () => {
    assert.match(refusal({ group: 4711 }), /^UNAVAILABLE 2 there is no IOMMU group 4711 .*: look at the ids/);
  });
  await report.check('a group whose device has no VFIO driver', () => {
    const expected = new RegExp(`^UNAVAILABLE 2 /dev/vfio/${bridge} is missing: bind 0000:00:00\\.0 to vfio-pci`);
    assert.match(refusal({ group: bridge }), expected);
  });
  await report.check('a group in use', async () => {
    const lab = await openLab(env);
    assert.match(refusal({ group }), new RegExp(`^UNAVAILABLE 16 group ${group} is in use: .*/dev/vfio/${group}`));
    lab.close();
    assert.equal(refusal({ group }), 'opened');
  });
  await report.check('a device of another group, and one that is not there', () => {
    const foreign = new RegExp(`^UNAVAILABLE \\d+ 0000:00:00\\.0 is not in group ${group}, which has ${name}`);
    assert.match(refusal({ group, devices: ['0000:00:00.0'] }), foreign);
    assert.match(refusal({ group, devices: ['ffff:ff:1f.7'] }), /^UNAVAILABLE \d+ ffff:ff:1f\.7 is not in group/);
    assert.equal(refusal({ group }), 'opened');
  });
  await report.check('a group that is not viable', () => {
    const shared = findDevice(SHARED);
    bindToVfio(shared);
    const message = refusal({ group: groupOf(shared) });
    assert.match(
      message,
      /^INCOMPATIBLE 0 group \d+ is not viable, host drivers have \S+ \(serial\): bind all members/,
    );
  });
}

async function permissions(report: Reporter, env: GuestEnv): Promise<void> {
  const { group } = env.edu;
  const file = `/dev/vfio/${group}`;
  await report.check('no permission for the group, and how to get it', () => {
    assert.match(
      asUser(() => refusal({ group })),
      new RegExp(`^UNAVAILABLE 13 no permission for ${file}: .*chown`),
    );
    chownSync(file, USER, USER);
    assert.equal(
      asUser(() => refusal({ group })),
      'opened',
    );
    chownSync(file, 0, 0);
  });
  await report.check('no permission for /dev/vfio/vfio', () => {
    chmodSync('/dev/vfio/vfio', 0o600);
    const message = asUser(() => refusal({ group }));
    chmodSync('/dev/vfio/vfio', 0o666);
    assert.match(message, /^UNAVAILABLE 13 no permission for \/dev\/vfio\/vfio/);
  });
  await report.check('too little locked memory', () => tooLittleLocked(env));
}

/** The limit of a process without privileges: what a map says, what explain() says, and that nothing is left. */
async function tooLittleLocked(env: GuestEnv): Promise<void> {
  const ram = GuestRam.create({ size: BigInt(64 * K4) });
  const lab = await openLab(env, { memlock: 16 });
  const { context } = lab;
  const batch = new HostBatch();
  batch.map(0, 64, Number(ram.hva / 4096n), RW);
  const left = context.entriesLeft();
  const text = lab.run(() => {
    assert.equal(context.apply(batch, 0), 0);
    return context.explain(batch.errno[0]!);
  });
  assert.equal(batch.errno[0], Errno.ENOMEM);
  assert.match(text, /^locked memory may be too low: \d+ of \d+ bytes are locked, .*raise RLIMIT_MEMLOCK/);
  assert.equal(context.entriesLeft(), left);
  assert.equal(context.apply(batch, 0), 1, 'root has no limit');
  lab.close();
  ram.close();
}

/** Closes the descriptor of this process that shows `target`. */
function steal(target: RegExp): void {
  const found = readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return target.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false;
    }
  });
  assert.equal(found.length, 1, String(target));
  closeSync(Number(found[0]));
}

async function lost(env: GuestEnv): Promise<void> {
  const ram = GuestRam.create({ size: BigInt(K4) });
  const { context, device, close } = await openLab(env);
  const page = Number(ram.hva / 4096n);
  const batch = new HostBatch();
  batch.map(0, 1, page, RW);
  assert.equal(context.apply(batch, 0), 1);
  steal(/^\/dev\/vfio\/vfio$/);
  batch.clear();
  batch.map(1, 1, page, RW);
  assert.deepEqual([context.apply(batch, 0), batch.errno[0]], [0, EBADF]);
  batch.clear();
  batch.unmap(0, 1);
  assert.deepEqual([context.apply(batch, 0), batch.errno[0]], [0, EBADF]);
  assert.deepEqual([context.unmapAll(), context.entriesLeft()], [EBADF, 0]);
  const bytes = { iova: 0n, size: 4096n };
  assert.equal(context.mapDma({ flags: RW, vaddr: ram.hva, ...bytes }).errno, EBADF);
  assert.equal(context.unmapDma(bytes).errno, EBADF);
  assert.match(context.explain(EBADF), /closed its descriptor: close this object and open it again/);
  assert.throws(() => context.refreshLimits(), { code: 'ERR_VIOMMU_HOST_REFUSED', errno: EBADF });
  steal(/vfio-device/);
  assert.deepEqual([context.clearBusMaster(), context.resetDevices(), device.reset()], [EBADF, EBADF, EBADF]);
  assert.throws(() => device.readConfig(0, 2), { code: 'ERR_VIOMMU_HOST_REFUSED', errno: EBADF, syscall: 'pread' });
  assert.throws(() => device.irqCount('msi'), { errno: EBADF });
  assert.throws(() => device.mapRegion(0, 0n, 4096n), { errno: EBADF });
  close();
  ram.close();
  // What is left of the container went with its last descriptor.
  assert.equal(refusal({ group: env.edu.group }), 'opened');
}

async function edges(env: GuestEnv): Promise<void> {
  const { context, device, close } = await openLab(env);
  const map = { flags: RW, vaddr: 0n, iova: 0n, size: 4096n };
  // AMD-Vi has addresses up to 64 bits, so there the memory is what is wrong.
  const iovaErrno = env.iommu === 'VT-d' ? Errno.EINVAL : Errno.EFAULT;
  for (const value of [2n ** 63n, 2n ** 64n - 4096n]) {
    if (value < 2n ** 64n - 4096n || env.iommu === 'VT-d') {
      assert.equal(context.mapDma({ ...map, iova: value }).errno, iovaErrno, 'iova');
    }
    assert.equal(context.mapDma({ ...map, size: value }).errno, Errno.EINVAL, 'size');
    assert.equal(context.mapDma({ ...map, vaddr: value }).errno, Errno.EFAULT, 'vaddr');
    assert.equal(context.unmapDma({ iova: value, size: 4096n }).errno, 0, 'unmap');
    assert.throws(() => device.mapRegion(0, value, 4096n), RangeError);
    assert.throws(() => device.mapRegion(0, 0n, value), RangeError);
    assert.throws(() => device.readRegion(0, value, new Uint8Array(4)), RangeError);
  }
  for (const value of [-1n, 2n ** 64n, 1, '0', null, undefined, {}, Number.NaN]) {
    for (const name of ['iova', 'vaddr', 'size']) {
      assert.throws(
        () => context.mapDma({ ...map, [name]: value as bigint }),
        new RegExp(`^(Type|Range)Error: ${name} `),
      );
    }
    assert.throws(() => device.mapRegion(0, value as bigint, 4096n), /^(Type|Range)Error: offset /);
  }
  for (const value of [{}, [], null, new Uint8Array(8), undefined]) {
    assert.throws(() => context.apply(value as HostBatch, 0), TypeError);
  }
  const { size } = device.region(0);
  assert.throws(() => device.mapRegion(0, 1n, 4096n), RangeError);
  assert.throws(() => device.mapRegion(0, 0n, 4095n), RangeError);
  assert.throws(() => device.mapRegion(0, 0n, size + 4096n), RangeError);
  assert.throws(() => device.mapRegion(7, 0n, 0x1000n), /^(HostError|RangeError): /);
  assert.throws(() => device.region(2 ** 31), { code: 'ERR_VIOMMU_HOST_REFUSED', errno: Errno.EINVAL });
  assert.throws(() => device.readRegion(0, size - 2n, new Uint8Array(4)), RangeError);
  assert.throws(() => device.readConfig(4096, 4), RangeError);
  device.mapRegion(0, size - 4096n, 4096n).close();
  close();
}

/** Where the IOMMU has it, the kernel maps it and never finds it again; the usable ranges end before it. */
async function lastPage(report: Reporter, env: GuestEnv): Promise<void> {
  const last = { iova: 2n ** 64n - 4096n, size: 4096n };
  const ram = GuestRam.create({ size: 4096n });
  const { context, close } = await openLab(env);
  const left = context.entriesLeft();
  assert.ok(context.limits.usableRanges.every(({ end }) => end < last.iova));
  const { errno } = context.mapDma({ flags: RW, vaddr: ram.hva, ...last });
  assert.equal(errno, env.iommu === 'VT-d' ? Errno.EINVAL : 0);
  const { size } = context.unmapDma(last);
  const kept = left - context.entriesLeft();
  report.note(`a map of the last page of 64 bits: errno ${errno}, unmapped ${size} bytes, entries kept ${kept}`);
  close();
  ram.close();
}

async function explained(env: GuestEnv): Promise<void> {
  const ram = GuestRam.create({ size: BigInt(8 * K4) });
  const { context, close } = await openLab(env, { limit: 2 });
  const map = { flags: RW, vaddr: ram.hva, iova: 0n, size: 4096n };
  const errno = (more: Partial<typeof map>): string => context.explain(context.mapDma({ ...map, ...more }).errno);
  assert.equal(context.mapDma(map).errno, 0);
  assert.match(errno({}), /^an entry exists there already$/);
  assert.match(errno({ iova: 0xfee0_0000n }), /not inside one usable range/);
  assert.match(errno({ iova: 4096n, vaddr: 0x1000n }), /not guest RAM or a BAR mapping/);
  assert.equal(context.mapDma({ ...map, iova: 4096n }).errno, 0);
  assert.match(errno({ iova: 8192n }), /^all 2 entries of the container are taken: raise .*dma_entry_limit/);
  close();
  ram.close();
}

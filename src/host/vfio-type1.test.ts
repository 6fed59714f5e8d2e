// VfioType1Context on an addon made of the simulated host: the contract cases of type1 and of gathers through the columns and
// calls that a real kernel gets, what open() refuses, limits, devices, close. The real addon: test/native.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { Errno, isHostError } from '../base/errors.ts';
import { HostBatch } from './context.ts';
import type { NativeAddon, NativeDevice, NativeType1, NativeType1Facts } from './native-api.ts';
import { NativeRun } from './native-api.ts';
import { SimulatedHost } from './simulated/host.ts';
import type { SimulatedType1Context } from './simulated/type1-context.ts';
import type { BufferName } from './simulated/type1-cases.ts';
import { TYPE1_CASES, runType1Case } from './simulated/type1-cases.ts';
import type { VfioType1Options } from './vfio-type1.ts';
import { VfioType1Context } from './vfio-type1.ts';

const K4 = 4096n;
const M2 = 1n << 21n;

/** What the made-up addon does; set by each test. */
interface Script {
  context: SimulatedType1Context;
  openFails?: [call: string, errno: number];
  deviceErrno: number;
  facts: (facts: NativeType1Facts) => NativeType1Facts;
  readonly calls: unknown[];
}

let script: Script;

vi.mock('./native.ts', async (importOriginal) => ({
  ...(await importOriginal<typeof import('./native.ts')>()),
  loadNative: () => ({ NativeType1: { open: openMade } }) as unknown as NativeAddon,
  mappingsLeft: () => 1000,
}));

function failure(call: string, errno: number): Error {
  return Object.assign(new Error(`${call} ${errno}`), { code: 'ERR_NATIVE' });
}

function openMade(container: string, group: string): NativeType1 {
  script.calls.push(['open', container, group]);
  if (script.openFails !== undefined) throw failure(...script.openFails);
  const { context } = script;
  return {
    facts: () =>
      script.facts({
        pageSizes: context.limits.pageSizes,
        ranges: BigUint64Array.from(context.limits.usableRanges.flatMap(({ start, end }) => [start, end])),
        available: context.entriesLeft(),
        migration: true,
      }),
    device: (name) => madeDevice(name),
    reserveWindows: (bytes, pieces) => void script.calls.push(['reserve', bytes, pieces]),
    windowState: () => [0x7000_0000_0000n, 1n << 36n, 3n],
    run: (what, from, count, ...columns) => runMade(what, from, count, columns),
    mapDma: (argsz, flags, vaddr, iova, size) => context.mapDma({ argsz, flags, vaddr, iova, size }),
    unmapDma: (argsz, flags, iova, size) => context.unmapDma({ argsz, flags, iova, size }),
    unmapAll: () => context.unmapAll(),
    close: () => void script.calls.push('close'),
  };
}

function runMade(what: number, from: number, count: number, columns: readonly unknown[]): number {
  const names = 'kind iova pages va rights pieces window errno done pieceVa piecePages'.split(' ');
  const batch = Object.assign(new HostBatch(), Object.fromEntries(names.map((name, i) => [name, columns[i]])));
  batch.count = count;
  batch.pieceCount = batch.pieceVa.length;
  if (what === NativeRun.apply) return script.context.apply(batch, from);
  if (what === NativeRun.buildWindows) return script.context.buildWindows(batch, from);
  script.context.dropWindows(batch);
  return count;
}

function madeDevice(name: string): NativeDevice {
  if (script.deviceErrno !== 0) throw failure('VFIO_GROUP_GET_DEVICE_FD', script.deviceErrno);
  const command = Uint8Array.of(7, 0);
  return {
    info: () => [1, 9, 5],
    region: () => ({ flags: 3, size: 256n, offset: 0n, msixMappable: false }),
    read: (into, position) => {
      into.set(position === 4n ? command : new Uint8Array(into.length));
      return into.length;
    },
    write: (from) => {
      command.set(from);
      return from.length;
    },
    reset: () => {
      if (name.endsWith('1')) throw failure('VFIO_DEVICE_RESET', Errno.EINVAL);
    },
    irq: () => [0, 0],
    setIrqs: () => undefined,
    maskIrqs: () => undefined,
    map: () => ({ address: () => 0n, close: () => undefined }),
    close: () => void script.calls.push(`close ${name}`),
  };
}

const host = new SimulatedHost();
let group = 0;

beforeEach(() => {
  const context = host.createContext({ group: ++group, endpoints: [group] });
  script = { context, deviceErrno: 0, facts: (facts) => facts, calls: [] };
});

function open(options: Partial<VfioType1Options> = {}): VfioType1Context {
  return VfioType1Context.open({ group: 7, devices: ['0000:00:04.0'], sysfs: '/nowhere', ...options });
}

function refusal(options?: Partial<VfioType1Options>): string {
  try {
    open(options);
  } catch (error) {
    if (isHostError(error)) return `${error.code} ${error.errno} ${error.message}`;
    throw error;
  }
  return 'opened';
}

describe('the contract', () => {
  it.each(TYPE1_CASES)('$title', (testCase) => {
    const machine = new SimulatedHost();
    const space = machine.addressSpace;
    script.context = machine.createContext({
      group: 1,
      endpoints: [1],
      entryLimit: testCase.limit ?? 16,
      memlockLimit: testCase.memlock ?? Infinity,
    });
    const holed = space.mmap({ length: 16n * K4, kind: 'memfd' }).hva;
    space.munmap(holed + K4, K4);
    const addresses: Record<BufferName, bigint> = {
      ram: space.mmap({ length: 2n * M2, kind: 'memfd' }).hva,
      readOnly: space.mmap({ length: 16n * K4, kind: 'memfd', prot: 'r' }).hva,
      noAccess: space.mmap({ length: 16n * K4, kind: 'anonymous', prot: 'none' }).hva,
      holed,
      device: space.mmap({ length: 16n * K4, kind: 'pfnmap' }).hva,
      nothing: 0x10_0000n,
      kernel: 0xffff_8000_0000_0000n,
    };
    const context = open({ windowPieces: 0 });
    const bench = {
      kernel: '6.12' as const,
      mapDma: context.mapDma.bind(context),
      unmapDma: context.unmapDma.bind(context),
      entriesLeft: () => context.entriesLeft(),
      address: (buffer: BufferName) => addresses[buffer],
      snapshot: () => JSON.stringify([script.context.entries(), machine.lockedPages]),
    };
    expect(runType1Case(testCase, bench)).toEqual([]);
  });

  it('passes batches and windows on, from any index', () => {
    const context = open();
    const va = Number(host.addressSpace.mmap({ length: M2, kind: 'memfd' }).hva / K4);
    const batch = new HostBatch(1);
    batch.map(0, 4, va, 3);
    batch.gather(8, 3, 3);
    batch.piece(va + 9, 1);
    batch.piece(va + 2, 2);
    batch.map(3, 1, va, 1);
    batch.unmap(0, 64);
    expect([context.buildWindows(batch, 0), batch.window[1]! > 0]).toEqual([4, true]);
    expect([context.apply(batch, 0), batch.errno[2], batch.window[1]]).toEqual([2, Errno.EEXIST, 0]);
    expect(script.context.entries()).toEqual([
      { iova: 0, pages: 4, rights: 3 },
      { iova: 8, pages: 3, rights: 3 },
    ]);
    expect([context.apply(batch, 3), batch.done[3]]).toEqual([4, 7]);
    expect(context.buildWindows(batch, 0)).toBe(4);
    context.dropWindows(batch);
    expect([batch.window[1], script.context.stats().windows]).toEqual([0, 0]);
    expect([context.unmapAll(), context.entriesLeft()]).toEqual([0, 65535]);
  });

  it('names an illegal column before anything happens', () => {
    const context = open();
    const spoil: [(batch: HostBatch) => void, RegExp][] = [
      [(batch) => (batch.iova[1] = 0.5), /^batch.iova\[1\] /],
      [(batch) => (batch.pages[1] = -1), /^batch.pages\[1\] /],
      [(batch) => (batch.va[0] = NaN), /^batch.va\[0\] /],
      [(batch) => (batch.rights[0] = 8), /^batch.rights\[0\] /],
      [(batch) => (batch.rights[1] = 4), /^batch.rights\[1\] /],
      [(batch) => (batch.kind[1] = 4), /^batch.kind\[1\] /],
      [(batch) => (batch.pieces[1] = 2), /^batch.pieces\[1\] /],
      [(batch) => (batch.piecePages[0] = 0), /^batch.piecePages\[0\] /],
      [(batch) => (batch.pieceVa[0] = Infinity), /^batch.pieceVa\[0\] /],
      [(batch) => (batch.pages[1] = 3), /^batch.pages\[1\] must be 2/],
    ];
    for (const [change, message] of spoil) {
      const batch = new HostBatch();
      batch.map(0, 1, 1, 3);
      batch.gather(1, 2, 3);
      batch.piece(5, 2);
      change(batch);
      expect(() => context.apply(batch, 0)).toThrow(message);
      expect(() => context.buildWindows(batch, 0)).toThrow(message);
    }
    expect(() => context.apply(new HostBatch(), 1)).toThrow(/^from /);
    expect(() => context.apply(Object({ count: 0 }) as HostBatch, 0)).toThrow(/^batch must be a HostBatch/);
    expect(() => context.dropWindows(undefined as unknown as HostBatch)).toThrow(/^batch must be a HostBatch/);
    expect(() => context.mapDma({ flags: 3, vaddr: 0n, iova: 2n ** 64n, size: K4 })).toThrow(/^iova /);
    expect(() => context.unmapDma({ iova: -1n, size: K4 })).toThrow(/^iova /);
    expect(script.context.stats()).toMatchObject({ mapCalls: 0, windowCalls: 0 });
  });
});

describe('open', () => {
  it('opens the device files of the group, and knows its limits', () => {
    const context = open();
    expect([context.name, context.flavour, context.limits]).toEqual([
      'type1 group 7',
      'type1',
      {
        pageSizes: 0x4020_1000n,
        usableRanges: [
          { start: 0n, end: 0xfedf_ffffn },
          { start: 0xfef0_0000n, end: 2n ** 47n - 1n },
        ],
        entryLimit: 65535,
        windowPieces: 500,
      },
    ]);
    expect(script.calls).toEqual([
      ['open', '/dev/vfio/vfio', '/dev/vfio/7'],
      ['reserve', 1n << 36n, 500],
    ]);
  });

  it('never gathers for mediated devices, nor when told so', () => {
    expect(open({ windowPieces: 0 }).limits.windowPieces).toBe(0);
    script.facts = ({ pageSizes, migration }) => ({ pageSizes, migration, available: 5 });
    const { limits } = open();
    expect([limits.windowPieces, limits.entryLimit, limits.usableRanges]).toEqual([
      0,
      5,
      [{ start: 0n, end: 2n ** 64n - 4097n }],
    ]);
    expect(script.calls.filter((call) => Array.isArray(call) && call[0] === 'reserve')).toEqual([]);
  });

  it('leaves out the last page of 64 bits, which the kernel does not find again', () => {
    const last = 2n ** 64n - 4096n;
    const usable = (...numbers: bigint[]): string => {
      script.facts = (facts) => ({ ...facts, ranges: BigUint64Array.from(numbers) });
      return open()
        .limits.usableRanges.map(({ start, end }) => `${start.toString(16)}-${end.toString(16)}`)
        .join();
    };
    expect(usable(0n, 0xfffn, 1n << 40n, 2n ** 64n - 1n)).toBe('0-fff,10000000000-ffffffffffffefff');
    expect(usable(0n, last - 1n)).toBe('0-ffffffffffffefff');
    expect(usable(0n, last)).toBe('0-ffffffffffffefff');
    expect(usable(0n, 0xfffn, last, 2n ** 64n - 1n)).toBe('0-fff');
  });

  it('keeps the entry limit when it looks at the ranges again', () => {
    const context = open();
    script.facts = (facts) => ({ ...facts, available: 3, ranges: BigUint64Array.of(0n, 0xffffn) });
    expect(context.refreshLimits()).toMatchObject({ entryLimit: 65535, usableRanges: [{ start: 0n, end: 0xffffn }] });
    expect(context.entriesLeft()).toBe(3);
  });

  it('has no entries left when the kernel does not answer any more', () => {
    const context = open();
    script.facts = () => {
      throw failure('VFIO_IOMMU_GET_INFO', 9);
    };
    expect(context.entriesLeft()).toBe(0);
    expect(() => context.refreshLimits()).toThrow(/^VFIO_IOMMU_GET_INFO was refused: EBADF, .*open it again$/);
    expect(context.explain(9)).toMatch(/closed its descriptor/);
  });

  it('opens the members of the group that a VFIO driver has', () => {
    const folder = mkdtempSync(join(tmpdir(), 'viommu-'));
    const members = join(folder, 'kernel/iommu_groups/7/devices');
    for (const [name, driver] of [
      ['0000:00:04.1', 'vfio-pci'],
      ['0000:00:04.0', 'mlx5_vfio_pci'],
      ['0000:00:04.2', 'nvme'],
      ['0000:00:04.3', undefined],
      ['platform-thing', 'vfio-pci'],
    ] as const) {
      mkdirSync(join(members, name), { recursive: true });
      if (driver !== undefined) mkdirSync(join(folder, 'drivers', driver), { recursive: true });
      if (driver !== undefined) symlinkSync(join(folder, 'drivers', driver), join(members, name, 'driver'));
    }
    const names = (group: number): string[] => {
      const { devices } = VfioType1Context.open({ group, sysfs: folder });
      return devices.map(({ name }) => name);
    };
    expect([names(7), names(8)]).toEqual([['0000:00:04.0', '0000:00:04.1'], []]);
    rmSync(folder, { recursive: true });
  });

  it('says what is wrong with the host, and leaves nothing open', () => {
    script.openFails = ['VFIO_SET_IOMMU', Errno.EPERM];
    expect(refusal()).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 1 group 7 .*interrupt remapping/);
    delete script.openFails;
    script.deviceErrno = Errno.ENODEV;
    expect(refusal()).toMatch(/^ERR_VIOMMU_HOST_UNAVAILABLE 19 0000:00:04.0 cannot be opened/);
    script.deviceErrno = 0;
    script.facts = ({ pageSizes }) => ({ pageSizes, migration: false });
    expect(refusal()).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 0 .*Linux 5\.12/);
    script.facts = (facts) => ({ ...facts, migration: false, available: 0xffff_ffff });
    expect(refusal()).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 0 .*served by iommufd/);
    expect(script.calls.filter((call) => call === 'close')).toHaveLength(3);
  });

  it('names a wrong option', () => {
    const wrong: readonly [object, RegExp][] = [
      [{ group: '7' }, /^options.group must be an integer/],
      [{ group: -1 }, /^options.group must be in/],
      [{ devices: '0000:00:04.0' }, /^options.devices must be an array/],
      [{ devices: [4] }, /^options.devices\[0\] must be a string/],
      [{ devices: ['00:04.0'] }, /^options.devices\[0\] must be like/],
      [{ devices: ['0000:00:04.0\0'] }, /^options.devices\[0\] must be like/],
      [{ windowPieces: -1 }, /^options.windowPieces must be in/],
      [{ sysfs: 1 }, /^options.sysfs must be a string/],
      [{ deviceFolder: null }, /^options.deviceFolder must be a string/],
      [{ iommu: 1 }, /^options.iommu is not an option/],
    ];
    for (const [options, message] of wrong) expect(() => open(options)).toThrow(message);
    expect(script.calls).toEqual([]);
  });
});

describe('devices and close', () => {
  it('clears and resets every device, and tells the first errno', () => {
    const context = open({ devices: ['0000:00:04.0', '0000:00:04.1', '0000:00:04.2'] });
    expect(context.devices.map((device) => device.busMaster())).toEqual([true, true, true]);
    expect(context.clearBusMaster()).toBe(0);
    expect(context.devices.map((device) => device.busMaster())).toEqual([false, false, false]);
    expect(context.resetDevices()).toBe(Errno.EINVAL);
    context.close();
    context.close();
    expect(script.calls.slice(2)).toEqual(['close 0000:00:04.0', 'close 0000:00:04.1', 'close 0000:00:04.2', 'close']);
  });

  it('cannot stop a device that it does not have', () => {
    const context = open({ devices: [] });
    expect([context.clearBusMaster(), context.resetDevices()]).toEqual([Errno.ENODEV, Errno.ENODEV]);
  });

  it('explains an errno', () => {
    expect(open().explain(Errno.ENOSPC)).toMatch(/^all 65535 entries/);
  });

  it('makes every use after it an error', () => {
    const context = open();
    context.close();
    const batch = new HostBatch();
    for (const use of [
      () => context.apply(batch, 0),
      () => context.buildWindows(batch, 0),
      () => context.dropWindows(batch),
      () => context.unmapAll(),
      () => context.entriesLeft(),
      () => context.clearBusMaster(),
      () => context.resetDevices(),
      () => context.refreshLimits(),
      () => context.windowState(),
      () => context.explain(1),
      () => context.mapDma({ flags: 3, vaddr: 0n, iova: 0n, size: K4 }),
      () => context.unmapDma({ iova: 0n, size: K4 }),
    ]) {
      expect(use).toThrow('type1 group 7 is closed');
    }
    expect(context.closed).toBe(true);
  });
});

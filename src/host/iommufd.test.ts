// IommufdContext on an addon made of the simulated host: the contract cases of iommufd through the calls that a real kernel
// gets, what open() refuses, limits, several devices, close. Several groups: iommufd/sharing.test.ts; the real addon:
// test/native; real kernels: test/vm/iommufd.
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Errno, isHostError } from '../base/errors.ts';
import { HostBatch } from './context.ts';
import type { IommufdOptions } from './iommufd.ts';
import { IommufdContext, IommufdIoas, iommufdIsAvailable, iommufdLack } from './iommufd.ts';
import { explainIommufdErrno } from './iommufd/verdicts.ts';
import type { NativeAddon, NativeDevice, NativeIommufd } from './native-api.ts';
import { SimulatedHost } from './simulated/host.ts';
import { runIommufdCase } from './simulated/iommufd-case.ts';
import { IOMMUFD_CASES } from './simulated/iommufd-cases.ts';
import type { SimulatedIommufdContext } from './simulated/iommufd-context.ts';
import { IoasFlag } from './simulated/iommufd-rules.ts';
import type { BufferName } from './simulated/type1-cases.ts';

const K4 = 4096n;
const M2 = 1n << 21n;
const RW = IoasFlag.fixed | IoasFlag.readable | IoasFlag.writeable;
const DEVICE_IOAS = 5;

/** What the made-up addon does; set by each test. */
interface Script {
  readonly host: SimulatedHost;
  readonly spaces: Map<number, SimulatedIommufdContext>;
  readonly fails: Map<string, number>;
  attachErrno: (device: NativeDevice) => number;
  alignment: bigint;
  mmio: boolean;
  readonly calls: unknown[];
}

let script: Script;

vi.mock('./native.ts', async (importOriginal) => ({
  ...(await importOriginal<typeof import('./native.ts')>()),
  loadNative: () => ({ NativeIommufd: { open: openMade } }) as unknown as NativeAddon,
  lockedMemory: () => ({ locked: 0, limit: 8 << 20 }),
}));

/** Logs a call and throws the failure that a test wants of it. */
function called(call: string, ...args: unknown[]): void {
  script.calls.push([call, ...args]);
  const errno = script.fails.get(call);
  if (errno !== undefined) throw Object.assign(new Error(`${call} ${errno}`), { code: 'ERR_NATIVE' });
}

function openMade(path: string, perProcess: boolean): NativeIommufd {
  called('open iommufd', path, perProcess);
  if (perProcess) called('IOMMU_OPTION_RLIMIT_MODE');
  const space = (ioas: number): SimulatedIommufdContext => script.spaces.get(ioas)!;
  let ids = DEVICE_IOAS;
  return {
    allocate: () => {
      called('IOMMU_IOAS_ALLOC');
      return ids++;
    },
    destroy: (ioas) => called('IOMMU_DESTROY', ioas),
    smallPages: (ioas) => called('IOMMU_OPTION_HUGE_PAGES', ioas),
    ranges: (ioas) => ({
      ranges: BigUint64Array.from(space(ioas).limits.usableRanges.flatMap(({ start, end }) => [start, end])),
      alignment: script.alignment,
    }),
    bind: (file) => {
      called('VFIO_DEVICE_BIND_IOMMUFD', file);
      return madeDevice(file);
    },
    attach: (device, ioas) => script.attachErrno(device) || space(ioas).attach(),
    detach: () => {
      script.calls.push('detach');
      space(DEVICE_IOAS).detach();
      return 0;
    },
    mapsRegisters: () => script.mmio,
    areaCount: (ioas) => space(ioas).entries().length,
    areas: (ioas) => {
      const entries = space(ioas).entries();
      return BigUint64Array.from(
        entries.flatMap(({ iova, pages }) => [BigInt(iova) * K4, BigInt(iova + pages) * K4 - 1n]),
      );
    },
    map: (ioas, byFile, flags, userVa, length, iova) =>
      byFile ? Errno.ENOTTY : space(ioas).ioasMap({ flags, userVa, length, iova }).errno,
    copy: (ioas, source, flags, sourceIova, length, iova) =>
      space(ioas).ioasCopy({ source: space(source), flags, sourceIova, length, iova }).errno,
    unmap: (ioas, iova, length) => space(ioas).ioasUnmap({ iova, length }),
    unmapDma: (ioas, argsz, flags, iova, size) => space(ioas).unmapDma({ argsz, flags, iova, size }),
    run: (ioas, _cut, from, count, ...columns) => runMade(space(ioas), from, count, columns),
    close: () => void script.calls.push('close'),
  };
}

function runMade(context: SimulatedIommufdContext, from: number, count: number, columns: readonly unknown[]): number {
  const names = 'kind iova pages va rights errno done'.split(' ');
  const batch = Object.assign(new HostBatch(), Object.fromEntries(names.map((name, i) => [name, columns[i]])));
  batch.count = count;
  return context.apply(batch, from);
}

function madeDevice(file: string): NativeDevice {
  const command = Uint8Array.of(7, 0);
  return {
    info: () => [1, 9, 5],
    region: () => {
      called('VFIO_DEVICE_GET_REGION_INFO');
      return { flags: 3, size: 256n, offset: 0n, msixMappable: false };
    },
    read: (into, position) => {
      into.set(position === 4n ? command : new Uint8Array(into.length));
      return into.length;
    },
    write: (from) => {
      command.set(from);
      return from.length;
    },
    reset: () => {
      if (file.endsWith('1')) called('VFIO_DEVICE_RESET');
    },
    irq: () => [0, 0],
    setIrqs: () => undefined,
    maskIrqs: () => undefined,
    map: () => ({ address: () => 0n, close: () => undefined }),
    close: () => void script.calls.push(`close ${file}`),
  };
}

/** A copy of /sys: group 7 with three functions, of which vfio-pci has the first two; group 8 without VFIO. */
const sysfs = mkdtempSync(join(tmpdir(), 'viommu-iommufd-'));
function addFunction(group: number, name: string, driver?: string, vfio?: string): void {
  const device = join(sysfs, 'bus/pci/devices', name);
  mkdirSync(vfio === undefined ? device : join(device, 'vfio-dev', vfio), { recursive: true });
  if (driver !== undefined) {
    mkdirSync(join(sysfs, 'drivers', driver), { recursive: true });
    symlinkSync(join(sysfs, 'drivers', driver), join(device, 'driver'));
  }
  mkdirSync(join(sysfs, `kernel/iommu_groups/${group}/devices`), { recursive: true });
  symlinkSync(device, join(sysfs, `kernel/iommu_groups/${group}/devices`, name));
}
addFunction(7, '0000:00:04.0', 'vfio-pci', 'vfio0');
addFunction(7, '0000:00:04.1', 'mlx5_vfio_pci', 'vfio1');
addFunction(7, '0000:00:04.2', 'pcieport');
addFunction(8, '0000:00:05.0', 'nvme');
addFunction(9, '0000:00:06.0', 'vfio-pci');
const RESERVED = join(sysfs, 'kernel/iommu_groups/7/reserved_regions');
afterAll(() => rmSync(sysfs, { recursive: true }));

beforeEach(() => {
  rmSync(RESERVED, { force: true });
  make();
});

function make(memlockLimit = Infinity, mode: 'large' | 'cut' = 'large'): void {
  const host = new SimulatedHost({ memlockLimit });
  const spaces = new Map([
    [DEVICE_IOAS, host.createContext({ group: 1, endpoints: [1], flavour: 'iommufd', mode, attached: false })],
    [DEVICE_IOAS + 1, host.createContext({ group: 2, endpoints: [2], flavour: 'iommufd', attached: false })],
  ]);
  script = {
    host,
    spaces,
    fails: new Map(),
    attachErrno: () => 0,
    alignment: K4,
    mmio: false,
    calls: [],
  };
}

const opened: IommufdContext[] = [];
afterEach(() => {
  script.fails.clear();
  for (const context of opened.splice(0)) context.close();
});

function open(options: Partial<IommufdOptions> = {}): IommufdContext {
  const context = IommufdContext.open({ group: 7, sysfs, ...options });
  opened.push(context);
  return context;
}

function refusal(options?: Partial<IommufdOptions>): string {
  try {
    open(options);
  } catch (error) {
    if (isHostError(error)) return `${error.code} ${error.errno} ${error.message}`;
    throw error;
  }
  return 'opened';
}

const never = (): never => expect.unreachable();

describe('the contract', () => {
  // Those of two contexts: test/vm/iommufd.
  it.each(IOMMUFD_CASES.filter(({ second }) => second !== true))('$title', (testCase) => {
    const { mode = 'large', attached = true, memlock } = testCase;
    make(memlock, mode);
    const { host, spaces } = script;
    const space = host.addressSpace;
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
    const context = open({ mode, attached });
    const vault = context.allocate();
    const bench = {
      kernel: '6.12' as const,
      map: (ioas: string, args: Parameters<IommufdIoas['map']>[0]) =>
        (ioas === 'vault' ? vault : context.ioas).map(args),
      unmap: context.ioas.unmap.bind(context.ioas),
      unmapDma: context.unmapDma.bind(context),
      copy: (args: Omit<Parameters<IommufdIoas['copy']>[0], 'source'>) => context.ioas.copy({ source: vault, ...args }),
      attach: () => context.attach(),
      detach: () => context.detach(),
      areas: () => context.ioas.areaCount,
      ...{ join: never, part: never, leave: never },
      locked: () => host.lockedPages,
      address: (buffer: BufferName) => addresses[buffer],
      snapshot: () => JSON.stringify([[...spaces.values()].map((each) => each.entries()), host.lockedPages]),
    };
    expect(runIommufdCase(testCase, bench)).toEqual([]);
  });

  it('passes batches on, from any index, and refuses gathers', () => {
    const context = open();
    const va = Number(script.host.addressSpace.mmap({ length: M2, kind: 'memfd' }).hva / K4);
    const batch = new HostBatch(1);
    batch.map(0, 4, va, 3);
    batch.unmap(0, 4);
    batch.unmap(0, 4);
    expect([context.apply(batch, 0), batch.errno[2], batch.done[1]]).toEqual([2, Errno.ENOENT, 4]);
    expect([context.buildWindows(batch, 0), context.buildWindows(batch, 3)]).toEqual([3, 3]);
    batch.gather(8, 3, 3);
    batch.piece(va, 3);
    expect([context.buildWindows(batch, 1), batch.errno[3]]).toEqual([3, Errno.EOPNOTSUPP]);
    context.dropWindows(batch);
    expect([context.unmapAll(), context.entriesLeft()]).toEqual([0, Infinity]);
  });

  it('names an illegal argument before anything happens', () => {
    const context = open();
    const batch = new HostBatch();
    batch.map(0, 1, 1, 3);
    batch.iova[0] = 0.5;
    expect(() => context.apply(batch, 0)).toThrow(/^batch.iova\[0\] /);
    expect(() => context.buildWindows(batch, 2)).toThrow(/^from /);
    expect(() => context.dropWindows(undefined as unknown as HostBatch)).toThrow(/^batch must be a HostBatch/);
    const args = { flags: RW, userVa: 0n, iova: 0n, length: K4 };
    expect(() => context.ioas.map({ ...args, iova: 2n ** 64n })).toThrow(/^iova /);
    expect(() => context.ioas.map({ ...args, flags: IoasFlag.readable })).toThrow(/FIXED_IOVA/);
    expect(() => context.ioas.map(args, 1 as unknown as boolean)).toThrow(/^byFile /);
    expect(() => context.ioas.unmap({ iova: -1n, length: K4 })).toThrow(/^iova /);
    const other = open({ share: false }).allocate();
    expect(() => context.ioas.copy({ ...args, sourceIova: 0n, source: other })).toThrow(/same file/);
    expect(() => context.ioas.copy({ ...args, sourceIova: 0n, source: Object({}) as IommufdIoas })).toThrow(
      /^source must be/,
    );
    expect(() => context.destroy(context.ioas)).toThrow(/^ioas must be of allocate/);
    expect(() => context.destroy(other)).toThrow(/^ioas must be of allocate/);
    expect(() => context.destroy(Object({}) as IommufdIoas)).toThrow(/^ioas must be/);
    expect(() => context.unmapDma({ iova: 0n, size: -1n })).toThrow(/^size /);
    expect(script.spaces.get(DEVICE_IOAS)!.stats()).toMatchObject({ mapCalls: 0, unmapCalls: 0 });
  });
});

describe('open', () => {
  it('says in its limits that registers cannot be mapped unless a BAR was', () => {
    for (const mmio of [false, true]) {
      script.mmio = mmio;
      const context = open();
      expect([context.mmio, context.limits.mmio]).toEqual([mmio, mmio ? undefined : false]);
      context.close();
    }
  });

  it('opens the members of the group that a VFIO driver has, in an address space of its own', () => {
    const context = open();
    const { name, flavour, group, mode, attached, mmio, limits, devices } = context;
    expect([name, flavour, group, mode, attached, mmio]).toEqual([
      'iommufd group 7',
      'iommufd',
      7,
      'large',
      true,
      false,
    ]);
    expect(limits).toEqual({
      pageSizes: 2n ** 64n - K4,
      usableRanges: script.spaces.get(DEVICE_IOAS)!.limits.usableRanges,
      entryLimit: Infinity,
      mmio: false,
      windowPieces: 0,
    });
    expect(devices.map((device) => device.name)).toEqual(['0000:00:04.0', '0000:00:04.1']);
    expect(script.calls.filter((call) => Array.isArray(call) && !String(call[0]).includes('REGION'))).toEqual([
      ['open iommufd', '/dev/iommu', false],
      ['VFIO_DEVICE_BIND_IOMMUFD', '/dev/vfio/devices/vfio0'],
      ['VFIO_DEVICE_BIND_IOMMUFD', '/dev/vfio/devices/vfio1'],
      ['IOMMU_IOAS_ALLOC'],
    ]);
  });

  it('does as the options say', () => {
    script.mmio = true;
    script.alignment = 0x1_0000n;
    const options = { devices: ['0000:00:04.1'], mode: 'cut', accounting: 'process', attached: false } as const;
    const context = open({ ...options, deviceFolder: '/nowhere' });
    expect([context.mode, context.attached, context.mmio, context.limits.cuts]).toEqual(['cut', false, true, true]);
    expect(context.limits.pageSizes & -context.limits.pageSizes).toBe(0x1_0000n);
    expect(script.calls).toContainEqual(['open iommufd', '/nowhere/iommu', true]);
    expect(script.calls).toContainEqual(['VFIO_DEVICE_BIND_IOMMUFD', '/nowhere/vfio/devices/vfio1']);
    expect(script.calls).toContainEqual(['IOMMU_OPTION_HUGE_PAGES', DEVICE_IOAS]);
    // The limits stay those of the group while nothing is attached.
    script.alignment = 1n;
    expect(context.refreshLimits().pageSizes & 0xffffn).toBe(0n);
    expect([context.attach(), context.refreshLimits().pageSizes]).toEqual([0, 2n ** 64n - 1n]);
  });

  it.each([
    ['open iommufd', Errno.ENOENT, /^ERR_VIOMMU_HOST_UNAVAILABLE 2 \/dev\/iommu is missing: .*modprobe iommufd/],
    ['open iommufd', Errno.EACCES, /^ERR_VIOMMU_HOST_UNAVAILABLE 13 no permission for \/dev\/iommu: .*chown/],
    ['open iommufd', Errno.EINTR, /^ERR_VIOMMU_HOST_UNAVAILABLE 4 .*cannot be opened: EINTR/],
    ['IOMMU_OPTION_RLIMIT_MODE', Errno.EPERM, /^ERR_VIOMMU_HOST_REFUSED 1 .*CAP_SYS_RESOURCE/],
    ['IOMMU_IOAS_ALLOC', Errno.ENOMEM, /^ERR_VIOMMU_HOST_REFUSED 12 IOMMU_IOAS_ALLOC was refused/],
    ['IOMMU_OPTION_HUGE_PAGES', Errno.EINVAL, /^ERR_VIOMMU_HOST_REFUSED 22 IOMMU_OPTION_HUGE_PAGES was refused/],
    ['VFIO_DEVICE_BIND_IOMMUFD', Errno.EBUSY, /^ERR_VIOMMU_HOST_UNAVAILABLE 16 .*open already/],
    ['VFIO_DEVICE_BIND_IOMMUFD', Errno.EINVAL, /^ERR_VIOMMU_HOST_UNAVAILABLE 22 .*open already.*not coherent/],
    ['VFIO_DEVICE_BIND_IOMMUFD', Errno.EPERM, /^ERR_VIOMMU_HOST_INCOMPATIBLE 1 .*iommufd.allow_unsafe_interrupts=1/],
    ['VFIO_DEVICE_BIND_IOMMUFD', Errno.ENOMEM, /^ERR_VIOMMU_HOST_REFUSED 12 .*cannot be opened/],
    ['VFIO_DEVICE_GET_REGION_INFO', Errno.EIO, /^ERR_VIOMMU_HOST_REFUSED 5 VFIO_DEVICE_GET_REGION_INFO/],
  ] as const)('says what is wrong when %s gives %i, and leaves nothing open', (call, errno, message) => {
    script.fails.set(call, errno);
    expect(refusal({ accounting: 'process', mode: 'cut' })).toMatch(message);
    const opened = script.calls.filter((each) => Array.isArray(each) && each[0] === 'VFIO_DEVICE_BIND_IOMMUFD').length;
    const closed = script.calls.filter((each) => typeof each === 'string' && each.startsWith('close /dev')).length;
    expect(closed).toBe(call === 'VFIO_DEVICE_BIND_IOMMUFD' ? opened - 1 : opened);
    const made = call !== 'open iommufd' && call !== 'IOMMU_OPTION_RLIMIT_MODE';
    expect(script.calls.filter((each) => each === 'close')).toHaveLength(made ? 1 : 0);
    const destroyed = script.calls.filter((each) => Array.isArray(each) && each[0] === 'IOMMU_DESTROY').length;
    expect(destroyed).toBe(call === 'IOMMU_OPTION_HUGE_PAGES' ? 1 : 0);
  });

  it('names reserved memory that firmware wants mapped, and only that', () => {
    writeFileSync(
      RESERVED,
      '0x00000000fee00000 0x00000000feefffff msi\n0x000000001f000000 0x000000001f0fffff direct\n',
    );
    script.fails.set('VFIO_DEVICE_BIND_IOMMUFD', Errno.EINVAL);
    expect(refusal()).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 22 .*mapped 1:1 .*: 0x1f000000-0x1f0fffff\)/);
    writeFileSync(RESERVED, '0x000000001f000000 0x000000001f0fffff direct-relaxable\n');
    expect(refusal()).toMatch(/open already/);
  });

  it('says which device is missing, and what to do', () => {
    expect(refusal({ group: 6 })).toMatch(/^ERR_VIOMMU_HOST_UNAVAILABLE 2 there is no IOMMU group 6 .*look at the ids/);
    expect(refusal({ group: 6, sysfs: '/nowhere' })).toMatch(/turn the IOMMU on/);
    expect(refusal({ group: 8 })).toMatch(
      /^ERR_VIOMMU_HOST_UNAVAILABLE 2 group 8 has no device .*bind 0000:00:05.0 to it/,
    );
    expect(refusal({ group: 9 })).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 2 .*CONFIG_VFIO_DEVICE_CDEV; use type 1/);
    const named = (name: string): string => refusal({ devices: [name] });
    expect(named('0000:00:04.2')).toMatch(/^ERR_VIOMMU_HOST_UNAVAILABLE 2 .*bind it to vfio-pci \(now: pcieport\)/);
    expect(named('0000:00:05.0')).toMatch(/is not in group 7, which has 0000:00:04.0, /);
  });

  it('takes all devices of the group, or none', () => {
    let attached = 0;
    script.attachErrno = () => (attached++ === 1 ? Errno.EBUSY : 0);
    expect(refusal()).toMatch(/^ERR_VIOMMU_HOST_UNAVAILABLE 16 0000:00:04.0, 0000:00:04.1 cannot be attached/);
    expect(script.calls.filter((each) => each === 'detach')).toHaveLength(1);
    attached = 0;
    script.attachErrno = () => (attached++ === 0 ? Errno.EINVAL : 0);
    expect(refusal()).toMatch(/^ERR_VIOMMU_HOST_INCOMPATIBLE 22 .*cannot be attached/);
  });

  it('names a wrong option', () => {
    const wrong: readonly [object, RegExp][] = [
      [{ group: '7' }, /^options.group must be an integer/],
      [{ group: -1 }, /^options.group must be in/],
      [{ devices: '0000:00:04.0' }, /^options.devices must be an array/],
      [{ devices: [4] }, /^options.devices\[0\] must be a string/],
      [{ devices: ['00:04.0'] }, /^options.devices\[0\] must be like/],
      [{ mode: 'small' }, /^options.mode must be/],
      [{ accounting: 'group' }, /^options.accounting must be/],
      [{ attached: 1 }, /^options.attached must be/],
      [{ share: 1 }, /^options.share must be/],
      [{ sysfs: 1 }, /^options.sysfs must be a string/],
      [{ deviceFolder: null }, /^options.deviceFolder must be a string/],
      [{ windowPieces: 1 }, /^options.windowPieces is not an option/],
    ];
    for (const [options, message] of wrong) expect(() => open(options)).toThrow(message);
    expect(script.calls).toEqual([]);
  });
});

describe('devices and close', () => {
  it('clears and resets every device, and tells the first errno', () => {
    const context = open();
    expect(context.clearBusMaster()).toBe(0);
    expect(context.devices.map((device) => device.busMaster())).toEqual([false, false]);
    script.fails.set('VFIO_DEVICE_RESET', Errno.ENOTTY);
    expect([context.resetDevices(), open({ devices: ['0000:00:04.0'] }).resetDevices()]).toEqual([Errno.ENOTTY, 0]);
  });

  it('leaves bus master off after a reset, and goes past a device that was closed', () => {
    const context = open();
    expect(context.devices.length).toBeGreaterThan(1);
    for (const device of context.devices) device.setBusMaster(true);
    context.devices[0]!.close();
    expect(context.resetDevices()).toBe(0);
    expect(context.devices.slice(1).some((device) => device.busMaster())).toBe(false);
    context.detach();
    expect(context.attach()).toBe(0);
    for (const device of context.devices.slice(1)) device.setBusMaster(true);
    expect(context.clearBusMaster()).toBe(0);
    expect(context.devices.slice(1).some((device) => device.busMaster())).toBe(false);
  });

  it('removes address spaces, and says when it cannot', () => {
    const context = open();
    const vault = context.allocate();
    script.fails.set('IOMMU_DESTROY', Errno.EBUSY);
    expect([vault.id, context.destroy(vault), vault.areaCount]).toEqual([DEVICE_IOAS + 1, Errno.EBUSY, 0]);
    script.fails.clear();
    expect(context.destroy(vault)).toBe(0);
    // The kernel may give its id to another one at once.
    expect(() => vault.areaCount).toThrow(expect.objectContaining({ code: 'ERR_VIOMMU_HOST_CLOSED' }) as Error);
    expect(() => context.destroy(vault)).toThrow(/^ioas must be .*not destroyed yet/);
  });

  it('closes devices before the file, once; later calls are errors', () => {
    const context = open();
    const vault = context.allocate();
    script.calls.length = 0;
    context.close();
    context.close();
    expect([script.calls, context.closed]).toEqual([
      [
        'close /dev/vfio/devices/vfio0',
        'close /dev/vfio/devices/vfio1',
        ['IOMMU_DESTROY', vault.id],
        ['IOMMU_DESTROY', DEVICE_IOAS],
        'close',
      ],
      true,
    ]);
    const late: (() => unknown)[] = [
      () => context.apply(new HostBatch(), 0),
      () => context.buildWindows(new HostBatch(), 0),
      () => context.dropWindows(new HostBatch()),
      () => context.unmapAll(),
      () => context.entriesLeft(),
      () => context.clearBusMaster(),
      () => context.resetDevices(),
      () => context.refreshLimits(),
      () => context.attach(),
      () => context.detach(),
      () => context.attachTo(context),
      () => context.attachAlone(),
      () => context.ioas,
      () => context.allocate(),
      () => context.destroy(vault),
      () => context.explain(1),
      () => context.unmapDma({ iova: 0n, size: 0n }),
      () => vault.areaCount,
      () => vault.areas(),
      () => vault.map({ flags: RW, userVa: 0n, iova: 0n, length: K4 }),
      () => vault.unmap({ iova: 0n, length: K4 }),
    ];
    for (const call of late) expect(call).toThrow(expect.objectContaining({ code: 'ERR_VIOMMU_HOST_CLOSED' }) as Error);
  });

  it('explains each errno', () => {
    const facts = { lockLimit: 8 << 20, perProcess: false, mode: 'large', mmio: false } as const;
    const rows: readonly [number, object, RegExp][] = [
      [Errno.ENOMEM, {}, /of all processes of this user, .* 8388608 bytes .*RLIMIT_MEMLOCK/],
      [Errno.ENOMEM, { perProcess: true }, /of this process, /],
      [Errno.ENOMEM, { lockLimit: Infinity }, /no memory for its tables/],
      [Errno.EFAULT, {}, /or is gone; this kernel maps no registers/],
      [Errno.EFAULT, { mmio: true }, /or is gone$/],
      [Errno.ENOENT, {}, /mode `cut`/],
      [Errno.ENOENT, { mode: 'cut' }, /^there is no entry$/],
      [Errno.EEXIST, {}, /exists/],
      [Errno.EINVAL, {}, /reserved/],
      [Errno.EOVERFLOW, {}, /2\^64/],
      [Errno.EADDRINUSE, {}, /reserved addresses/],
      [Errno.EOPNOTSUPP, {}, /registers/],
      [Errno.EIO, {}, /EIO/],
    ];
    for (const [errno, more, message] of rows)
      expect(explainIommufdErrno(errno, { ...facts, ...more })).toMatch(message);
    expect(open().explain(Errno.ENOMEM)).toMatch(/8388608/);
  });
});

describe('availability', () => {
  it('is told by the file', () => {
    const folder = mkdtempSync(join(tmpdir(), 'viommu-dev-'));
    expect([iommufdIsAvailable(folder), iommufdLack(folder)]).toEqual([
      false,
      expect.stringMatching(/there is no .*iommu/),
    ]);
    writeFileSync(join(folder, 'iommu'), '');
    expect([iommufdIsAvailable(folder), iommufdLack(folder)]).toEqual([true, undefined]);
    chmodSync(join(folder, 'iommu'), 0);
    // Root may open it all the same.
    if (process.getuid?.() !== 0) expect(iommufdLack(folder)).toMatch(/no permission/);
    rmSync(folder, { recursive: true });
  });
});

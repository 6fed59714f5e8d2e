// From regions to verdicts, ties, RESV_MEM lists and holes.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { AddressRange } from '../../src/base/ranges.ts';
import { overlaps } from '../../src/base/ranges.ts';
import type { DeviceRef } from '../../src/firmware/device-ref.ts';
import { formatDevice, parseDeviceName, refMayName, refNames } from '../../src/firmware/device-ref.ts';
import { assignability, classifyRelaxable } from '../../src/firmware/eligibility.ts';
import { entangle, sharedPairs } from '../../src/firmware/entanglement.ts';
import { checkHotAdd, guestHoles, layRam, pcRam } from '../../src/firmware/holes.ts';
import { eraOf, parseKernelVersion } from '../../src/firmware/kernel-version.ts';
import { diffRegions } from '../../src/firmware/region-diff.ts';
import type { HostRegion } from '../../src/firmware/region.ts';
import { buildReport } from '../../src/firmware/report.ts';
import { endpointReserved, toResvMem } from '../../src/firmware/resv-mem.ts';
import type { SysfsDevice, SysfsSnapshot } from '../../src/firmware/sysfs.ts';
import { snapshotRegions } from '../../src/firmware/sysfs.ts';
import { PciTopology } from '../../src/firmware/topology.ts';
import { dmar, rmrr, scope } from './acpi-builder.ts';
import { parseAnySource } from '../../src/firmware/any-source.ts';
import { WarningList } from '../../src/firmware/warnings.ts';

const dev = (name: string): DeviceRef => parseDeviceName(name)!;
const region = (base: bigint, limit: bigint, more: Partial<HostRegion> = {}): HostRegion => ({
  source: 'dmar',
  base,
  limit,
  segment: 0,
  type: 'direct',
  devices: [],
  where: 'offset 0x30',
  platform: 'intel',
  ...more,
});
const on = (names: string[], base: bigint, limit: bigint, more: Partial<HostRegion> = {}): HostRegion =>
  region(base, limit, { devices: names.map(dev), ...more });
const kernel = (text: string): NonNullable<ReturnType<typeof parseKernelVersion>> => parseKernelVersion(text)!;
const show = (ranges: readonly (AddressRange & { kind?: string })[]): string[] =>
  ranges.map(
    ({ start, end, kind }) => `${start.toString(16)}-${end.toString(16)}${kind === undefined ? '' : ` ${kind}`}`,
  );

describe('device names', () => {
  it('reads what it writes', () => {
    for (const name of [
      '0000:00:1d.7',
      'ffff:ff:1f.7',
      '10000:e1:00.0',
      '0000:00:00.0-0000:0f:1f.7',
      '0000:00/1c.7/00.0',
      '0001:80/01.1/00.0/1f.7',
    ]) {
      expect(formatDevice(dev(name))).toBe(name);
    }
    expect(formatDevice(dev('01:00.0'))).toBe('0000:01:00.0');
    for (const bad of [
      '',
      '-',
      '01:00.0-',
      '01:00.0-00:00.0',
      '01:00.0-0001:02:00.0',
      '01:20.0',
      '01:00.8',
      '0000:00/',
      '1:00.0',
      '0000:00:1d.7x',
    ])
      expect(parseDeviceName(bad)).toBeUndefined();
  });

  it('knows what a range and an unresolved path can mean', () => {
    const range: DeviceRef = { kind: 'pci-range', segment: 0, first: 8, last: 16 };
    expect(['00:00.7', '00:01.0', '00:02.0', '00:02.1'].map((name) => refNames(range, dev(name)))).toEqual([
      false,
      true,
      true,
      false,
    ]);
    const path = dev('0000:00/1c.7/00.2');
    expect(['01:00.2', '01:00.0', '00:00.2'].map((name) => refMayName(path, dev(name)))).toEqual([true, false, false]);
    const bridge: DeviceRef = { kind: 'pci', segment: 0, rid: 0xe0, bridge: true };
    expect(['01:00.0', '00:1f.0', '0001:01:00.0'].map((name) => refMayName(bridge, dev(name)))).toEqual([
      true,
      false,
      false,
    ]);
    expect(refMayName(dev('00:1c.0'), dev('01:00.0'))).toBe(false);
  });
});

describe('eligibility', () => {
  const judge = (version: string, classCode: number | undefined, more: Partial<HostRegion> = {}): string => {
    const members = [{ name: '0000:01:00.0', classCode, regions: [region(0x1000000n, 0x1000fffn, more)] }];
    const { verdict, errno, approximate } = assignability(members, kernel(version));
    return `${verdict}${errno === undefined ? '' : ` ${errno}`}${approximate ? ' ~' : ''}`;
  };

  it.each([
    ['3.16', 0x020000, 'assignable'],
    ['3.17', 0x020000, 'refused EPERM'],
    ['3.17', 0x0c0320, 'relaxable'],
    ['3.18', 0x030000, 'refused EPERM'],
    ['4.0', 0x030000, 'refused EPERM ~'],
    ['4.1', 0x030000, 'relaxable ~'],
    ['4.19', 0x030000, 'relaxable'],
    ['5.3', 0x020000, 'refused EPERM'],
    ['6.5', 0x010400, 'refused EPERM'],
    ['6.6', 0x010400, 'refused EINVAL ~'],
    ['6.12', 0x010400, 'refused EINVAL'],
    ['6.12', 0x038000, 'relaxable'],
    ['6.12', 0x0c0330, 'relaxable'],
    ['6.12', 0x0c0500, 'refused EINVAL'],
    ['7.2', undefined, 'refused EINVAL ~'],
  ])('Linux %s, class %s: %s', (version, classCode, expected) => {
    expect(judge(version, classCode)).toBe(expected);
  });

  it('refuses IVMD and RMR devices only from 6.6 on', () => {
    expect(judge('6.5', 0x020000, { platform: 'amd' })).toBe('assignable ~');
    expect(judge('6.12', 0x030000, { platform: 'amd' })).toBe('refused EINVAL');
    expect(judge('6.12', 0x020000, { platform: 'arm', type: 'direct-relaxable' })).toBe('relaxable');
  });

  it('gives the message of the time and blames the locking member of the group', () => {
    const members = [
      { name: '0000:01:00.0', classCode: 0x020000, regions: [] },
      { name: '0000:01:00.1', classCode: 0x020000, regions: [region(0x1000000n, 0x1000fffn)] },
    ];
    expect(assignability(members, kernel('4.4'))).toMatchObject({ errno: 'EPERM', lockedBy: '0000:01:00.1' });
    expect(assignability(members, kernel('4.4')).message).toMatch(/^vfio-pci 0000:01:00.1: Device is ineligible/);
    expect(assignability(members, kernel('5.15')).message).toMatch(
      /^vfio-pci 0000:01:00.1: DMAR: Device is ineligible/,
    );
    expect(assignability(members, kernel('6.12')).message).toMatch(/Firmware has requested this device have a 1:1/);
    expect(assignability(members, kernel('6.12'), { relaxRmrr: true }).verdict).toBe('relaxable');
  });

  it('lets virtual functions, MSI windows and the ISA map go', () => {
    const list = [region(0x1000000n, 0x1000fffn)];
    const vf = assignability(
      [{ name: 'x', virtualFunction: true, classCode: 0x020000, regions: list }],
      kernel('6.12'),
    );
    expect(vf.verdict).toBe('assignable');
    expect(judge('6.12', 0x060100, { pseudo: true })).toBe('assignable');
    expect(judge('6.12', 0x020000, { type: 'msi' })).toBe('assignable');
    expect(judge('6.12', 0x020000, { type: 'reserved' })).toBe('assignable');
  });

  it('reads versions and their eras', () => {
    expect(
      ['3.16.7', '3.17', '4.0', '4.1-rc3', 'v5.2.21', '5.3', '6.5.10', '6.6', '10.0'].map((text) =>
        eraOf(kernel(text)),
      ),
    ).toEqual([
      'none',
      'usb',
      'usb',
      'usb-display',
      'usb-display',
      'typed',
      'typed',
      'require-direct',
      'require-direct',
    ]);
    for (const bad of ['', '6', 'six', '6.x', '1234.5']) expect(parseKernelVersion(bad)).toBeUndefined();
    expect(classifyRelaxable(0x0c0320, kernel('3.10')).relaxable).toBe(true);
  });
});

describe('entanglement', () => {
  it('ties devices of one region and of overlapping regions, transitively, not of adjacent ones', () => {
    const found = entangle([
      on(['02:00.0', '01:00.0'], 0x1000n, 0x1fffn),
      on(['03:00.0'], 0x1fffn, 0x2fffn),
      on(['04:00.0'], 0x3000n, 0x3fffn),
      on(['03:00.0', '05:00.0'], 0x8000n, 0x8fffn),
    ]);
    expect(found.map((component) => component.devices)).toEqual([
      ['0000:01:00.0', '0000:02:00.0', '0000:03:00.0', '0000:05:00.0'],
      ['0000:04:00.0'],
    ]);
  });

  it('is not tied by MSI windows, platform holes, the ISA map or broken ranges', () => {
    const found = entangle([
      on(['01:00.0', '02:00.0'], 0xfee00000n, 0xfeefffffn, { type: 'msi' }),
      on(['01:00.0', '02:00.0'], 0xfd00000000n, 0xffffffffffn, { type: 'reserved' }),
      on(['00:1f.0'], 0n, 0xffffffn, { pseudo: true }),
      on(['01:00.0'], 0xe8000n, 0xe8fffn),
      on(['02:00.0'], 0xf0000n, 0x1000n),
    ]);
    expect(found.map((component) => component.devices)).toEqual([['0000:00:1f.0'], ['0000:01:00.0'], ['0000:02:00.0']]);
  });

  it('ties a range of functions to those it holds', () => {
    const range: DeviceRef = { kind: 'pci-range', segment: 0, first: 0, last: 0xfff };
    const found = entangle([
      region(0x1000n, 0x1fffn, { devices: [range] }),
      on(['0f:1f.7'], 0x9000n, 0x9fffn),
      on(['10:00.0'], 0xa000n, 0xafffn),
    ]);
    expect(found.map((component) => component.devices.length)).toEqual([2, 1]);
  });

  it('agrees with a naive closure', () => {
    const item = fc.record({
      device: fc.integer({ min: 0, max: 9 }),
      other: fc.integer({ min: 0, max: 9 }),
      base: fc.integer({ min: 0, max: 60 }),
      size: fc.integer({ min: 0, max: 5 }),
    });
    fc.assert(
      fc.property(fc.array(item, { maxLength: 12 }), (items) => {
        const regions = items.map(({ device, other, base, size }) =>
          on([`0${device}:00.0`, `0${other}:00.0`], BigInt(base), BigInt(base + size)),
        );
        const sets = regions.map((r) => new Set(r.devices.map(formatDevice)));
        for (let changed = true; changed;) {
          changed = false;
          for (const [i, a] of regions.entries()) {
            for (const [j, b] of regions.entries()) {
              const tied = (a.base <= b.limit && b.base <= a.limit) || [...sets[i]!].some((name) => sets[j]!.has(name));
              for (const name of sets[j]!) if (tied && !sets[i]!.has(name)) changed = sets[i]!.add(name).size > 0;
            }
          }
        }
        const naive = [...new Set(sets.map((set) => [...set].sort().join(' ')))].sort();
        expect(
          entangle(regions)
            .map((component) => component.devices.join(' '))
            .sort(),
        ).toEqual(naive);
      }),
    );
  });

  it('lists shared ranges per pair', () => {
    const pairs = sharedPairs([
      on(['01:00.0', '02:00.0'], 0x1000n, 0x1fffn),
      on(['02:00.0', '01:00.0'], 0x5000n, 0x5fffn),
    ]);
    expect(pairs).toHaveLength(1);
    expect(show(pairs[0]!.ranges)).toEqual(['1000-1fff', '5000-5fff']);
  });
});

describe('RESV_MEM', () => {
  it('rounds, merges per kind, lets MSI win, sorts', () => {
    const { reserved, bytes } = toResvMem([region(0xfed00800n, 0xfef00000n), region(0n, 0n), region(0x1000n, 0x1fffn)]);
    expect(show(reserved)).toEqual([
      '0-1fff reserved',
      'fed00000-fedfffff reserved',
      'fee00000-feefffff msi',
      'fef00000-fef00fff reserved',
    ]);
    expect(bytes).toBe(96);
  });

  it('reports relaxable regions by default, names what that costs, and omits them on request', () => {
    const list = [region(0x1000000n, 0x1ffffffn, { type: 'direct-relaxable' }), region(0x1800000n, 0x18fffffn)];
    expect(toResvMem(list)).toMatchObject({ relaxableBytes: 0xf00000n });
    expect(show(toResvMem(list, { relaxable: 'omit' }).reserved)).toEqual([
      '1800000-18fffff reserved',
      'fee00000-feefffff msi',
    ]);
  });

  it('keeps an Arm software window to the host, takes doorbells by option', () => {
    const list = [
      region(0x8000000n, 0x80fffffn, { type: 'msi' }),
      region(0x1000000n, 0x10ffffffn, { type: 'direct-relaxable' }),
    ];
    expect(show(toResvMem(list, { arch: 'arm' }).reserved)).toEqual(['1000000-10ffffff reserved']);
    expect(show(toResvMem(list, { arch: 'arm', msi: [{ start: 0x8020000n, end: 0x8020fffn }] }).reserved)).toEqual([
      '1000000-801ffff reserved',
      '8020000-8020fff msi',
      '8021000-10ffffff reserved',
    ]);
    expect(() => toResvMem([], { msi: [{ start: 0x8000000n, end: 0x8000fffn }] })).toThrow(
      /regions holds 2 separate MSI/,
    );
  });

  it('lets nothing but the x86 window pass as MSI, whatever a source calls msi', () => {
    const list = [region(0xfed00000n, 0xfef00fffn, { type: 'msi' })];
    expect(show(toResvMem(list).reserved)).toEqual([
      'fed00000-fedfffff reserved',
      'fee00000-feefffff msi',
      'fef00000-fef00fff reserved',
    ]);
    expect(toResvMem([region(0n, (1n << 64n) - 1n, { type: 'msi' })]).reserved).toHaveLength(3);
  });

  it('names the probe size that is needed and merges nearest neighbours only on request', () => {
    const list = [0x1000n, 0x4000n, 0x6000n, 0x20000n].map((base) => region(base, base + 0xfffn));
    expect(toResvMem(list, { probeSize: 120 }).reserved).toHaveLength(5);
    expect(() => toResvMem(list, { probeSize: 119 })).toThrow(/probeSize must be at least 120, got 119/);
    const merged = toResvMem(list, { probeSize: 96, overflow: 'merge' });
    expect(show(merged.reserved)).toEqual([
      '1000-1fff reserved',
      '4000-6fff reserved',
      '20000-20fff reserved',
      'fee00000-feefffff msi',
    ]);
    expect(merged.mergedBytes).toBe(0x1000n);
    const across = [region(0xfed00000n, 0xfed00fffn), region(0xfef00000n, 0xfef00fffn)];
    expect(() => toResvMem(across, { probeSize: 48, overflow: 'merge' })).toThrow(/at least 72/);
  });

  it('never reports all 64 bits, clips to the input range, leaves broken ranges out', () => {
    const all = [region(0n, (1n << 64n) - 1n)];
    expect(() => toResvMem(all, { arch: 'arm' })).toThrow(/nothing is left to map/);
    expect(show(toResvMem(all).reserved)).toEqual([
      '0-fedfffff reserved',
      'fee00000-feefffff msi',
      'fef00000-ffffffffffffffff reserved',
    ]);
    expect(show(toResvMem(all, { arch: 'arm', inputRange: { start: 0n, end: 0xffffffffn } }).reserved)).toEqual([
      '0-ffffffff reserved',
    ]);
    expect(toResvMem([region(0x2000n, 0x1000n)], { arch: 'arm' }).reserved).toEqual([]);
  });

  it('keeps both the literal range and the one Linux uses', () => {
    const list = [region(0x1001001n, 0x1002800n, { effective: { start: 0x1002000n, end: 0x1003fffn } })];
    expect(show(toResvMem(list, { arch: 'arm' }).reserved)).toEqual(['1001000-1003fff reserved']);
  });

  it('picks the regions of a device, and nameless ones unless told not to', () => {
    const list = [
      on(['01:00.0'], 0x1000000n, 0x1000fffn),
      on(['02:00.0'], 0x2000000n, 0x2000fffn),
      region(0x3000000n, 0x3000fffn),
    ];
    const pick = (options: Parameters<typeof endpointReserved>[1]): string[] =>
      show(endpointReserved(list, { arch: 'arm', ...options }));
    expect(pick({})).toHaveLength(3);
    expect(pick({ devices: [dev('01:00.0')] })).toEqual(['1000000-1000fff reserved', '3000000-3000fff reserved']);
    expect(pick({ devices: [dev('01:00.0')], nameless: 'omit' })).toEqual(['1000000-1000fff reserved']);
  });

  it('checks its options by name', () => {
    expect(() => toResvMem([], { granule: 3n })).toThrow(/granule must be a power of two/);
    expect(() => toResvMem([], { probeSize: -1 })).toThrow(/probeSize/);
    expect(() => toResvMem([], { relaxed: 'omit' } as never)).toThrow(/relaxed is not an option/);
  });

  it('gives a sorted list without overlap for any regions', () => {
    const edge = fc.oneof(
      fc.bigInt({ min: 0n, max: 1n << 33n }),
      fc.bigInt({ min: (1n << 64n) - 0x10000n, max: (1n << 64n) - 1n }),
    );
    const type = fc.constantFrom('direct', 'direct-relaxable', 'reserved', 'msi');
    fc.assert(
      fc.property(fc.array(fc.tuple(edge, edge, type), { maxLength: 20 }), (list) => {
        const { reserved } = toResvMem(
          list.map(([base, limit, kind]) => region(base, limit, { type: kind })),
          { probeSize: 1 << 16 },
        );
        for (const [i, one] of reserved.entries()) {
          expect(one.start % 4096n).toBe(0n);
          expect(one.end % 4096n).toBe(4095n);
          const next = reserved[i + 1];
          if (next !== undefined) expect(one.end < next.start).toBe(true);
        }
        expect(reserved.filter(({ kind }) => kind === 'msi')).toHaveLength(1);
        for (const [base, limit, kind] of list) {
          if (kind === 'msi' || limit < base) continue;
          expect(reserved.some((one) => overlaps(one, { start: base, end: limit }))).toBe(true);
        }
      }),
    );
  });
});

describe('holes', () => {
  const reserved = toResvMem([region(0x1000000n, 0x1ffffffn), region(0x100000000n, 0x1000fffffn)]).reserved;

  it('needs holes where guest-physical = I/O addresses only', () => {
    expect(guestHoles([reserved], 'translated')).toEqual([]);
    expect(show(guestHoles([reserved, reserved], 'bypass'))).toEqual([
      '1000000-1ffffff reserved',
      'fee00000-feefffff msi',
      '100000000-1000fffff reserved',
    ]);
    expect(guestHoles([reserved], 'nested')).toEqual(guestHoles([reserved], 'bypass'));
    expect(() => guestHoles([], 'other' as never)).toThrow(RangeError);
  });

  it('has a hole beyond the addresses that an endpoint translates', () => {
    const inputRange = { start: 0n, end: (1n << 39n) - 1n };
    expect(show(guestHoles([reserved], 'bypass', inputRange).slice(-1))).toEqual([
      '8000000000-ffffffffffffffff beyond',
    ]);
    expect(guestHoles([reserved], 'translated', inputRange)).toEqual([]);
  });

  it('cuts RAM at hole edges and counts what is lost', () => {
    const layout = layRam(pcRam(4n << 30n), guestHoles([reserved], 'bypass'));
    expect(show(layout.ram)).toEqual(['0-ffffff', '2000000-bfffffff', '100100000-13fffffff']);
    expect(layout.lost).toBe(0x1100000n);
  });

  it('lays out a PC', () => {
    expect(show(pcRam(3n << 30n))).toEqual(['0-bfffffff']);
    expect(show(pcRam((3n << 30n) + 1n))).toEqual(['0-bfffffff', '100000000-100000000']);
    expect(pcRam(0n)).toEqual([]);
  });

  it('refuses a hot-added device over RAM unless all its DMA is translated', () => {
    expect(checkHotAdd(reserved, pcRam(4n << 30n), 'bypass')).toMatchObject({
      allowed: false,
      conflicts: [{ start: 0x1000000n }, { start: 0x100000000n }],
    });
    expect(checkHotAdd(reserved, pcRam(4n << 30n), 'translated').allowed).toBe(true);
    expect(checkHotAdd(reserved, pcRam(0x1000000n), 'nested').allowed).toBe(true);
  });
});

describe('diff', () => {
  it('lists what one source has and another has not, also halves of ranges', () => {
    const diff = diffRegions(
      [
        region(0x1000000n, 0x1001fffn),
        region(0x5000000n, 0x5000fffn),
        region(0x1000000n, 0x1000fffn, { source: 'sysfs' }),
        region(0n, 0xffffffn, { source: 'sysfs', pseudo: true }),
      ],
      ['dmar', 'sysfs'],
    );
    expect(diff.differences.map((d) => `${show([d])[0]!} ${d.present} ${d.missing}`)).toEqual([
      '1001000-1001fff dmar sysfs',
      '5000000-5000fff dmar sysfs',
      '0-ffffff sysfs dmar',
    ]);
    expect(diff.differences[1]?.why).toMatch(/no group that was read lists it/);
    expect(diff.differences[2]?.why).toMatch(/ISA bridge/);
    expect(show(diff.common)).toEqual(['1000000-1000fff']);
  });
});

describe('topology', () => {
  const device = (name: string, more: Partial<SysfsDevice> = {}): SysfsDevice => ({
    name,
    classCode: 0x020000,
    group: undefined,
    secondaryBus: undefined,
    subordinateBus: undefined,
    headerType: 0,
    virtualFunction: false,
    driver: undefined,
    ...more,
  });
  const bridge = (name: string, secondaryBus: number, subordinateBus = secondaryBus): SysfsDevice =>
    device(name, { classCode: 0x060400, headerType: 1, secondaryBus, subordinateBus });
  const topology = new PciTopology({
    groups: [],
    devices: [
      bridge('0000:00:1c.0', 1, 3),
      bridge('0000:01:00.0', 2, 3),
      device('0000:02:03.0'),
      device('0000:02:03.1', { virtualFunction: true }),
      bridge('0000:02:04.0', 3),
      device('0000:03:00.0'),
      device('0000:00:1f.0', { classCode: 0x068000 }),
    ],
  });
  const resolve = (ref: DeviceRef): string[] | undefined =>
    topology.resolve(ref, '', new WarningList())?.map(formatDevice);

  it('walks paths through secondary buses', () => {
    expect(resolve(dev('0000:00/1c.0/00.0/03.0'))).toEqual(['0000:02:03.0']);
    expect(resolve(dev('0000:00/1c.0/00.0/05.0'))).toBeUndefined();
    expect(resolve(dev('0000:00/1c.0/00.1/03.0'))).toBeUndefined();
    expect(resolve(dev('0000:01/00.0/03.0'))).toEqual([]);
  });

  it('takes one hop literally also off the root bus, but never for a virtual function', () => {
    const warnings = new WarningList();
    expect(topology.resolve(dev('02:03.0'), 'offset 0x1', warnings)?.map(formatDevice)).toEqual(['0000:02:03.0']);
    expect(warnings.list()[0]?.what).toMatch(/broken \(one hop/);
    expect(resolve(dev('02:03.1'))).toEqual([]);
    expect(resolve(dev('09:00.0'))).toBeUndefined();
  });

  it('expands bridge scopes and refuses scopes that do not fit the header type', () => {
    const scoped = (name: string): DeviceRef => ({ ...(dev(name) as DeviceRef & { kind: 'pci' }), bridge: true });
    expect(resolve(scoped('00:1c.0'))).toEqual([
      '0000:00:1c.0',
      '0000:01:00.0',
      '0000:02:03.0',
      '0000:02:03.1',
      '0000:02:04.0',
      '0000:03:00.0',
    ]);
    expect(resolve(dev('00:1c.0'))).toEqual([]);
    expect(resolve(scoped('02:03.0'))).toEqual([]);
    expect(resolve(scoped('00:1f.0'))).toEqual(['0000:00:1f.0']);
    expect(resolve({ kind: 'pci-range', segment: 0, first: 0x200, last: 0x2ff })).toEqual([
      '0000:02:03.0',
      '0000:02:03.1',
      '0000:02:04.0',
    ]);
  });
});

describe('a file of any kind', () => {
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

  it('is recognised and becomes the reserved regions of an endpoint in one call', () => {
    const sources = [
      parseAnySource(dmar([rmrr(0x1000000n, 0x1000fffn, [scope(1, 0, [[2, 0]])])])),
      parseAnySource(bytes('0x0000000001000000 0x0000000001000fff direct\n')),
      parseAnySource(bytes('[ 0.1] DMAR: RMRR base: 0x00000001000000 end: 0x00000001000fff\n')),
    ];
    expect(sources.map((source) => source?.kind)).toEqual(['dmar', 'sysfs', 'dmesg']);
    for (const source of sources) {
      const list = endpointReserved(source!.regions, { arch: source!.arch, devices: [dev('00:02.0')] });
      expect(show(list)).toEqual(['1000000-1000fff reserved', 'fee00000-feefffff msi']);
    }
  });

  it('is undefined when it is none of them', () => {
    expect(parseAnySource(bytes('hello'))).toBeUndefined();
    expect(parseAnySource(bytes('DMAR'))).toBeUndefined();
    expect(parseAnySource(new Uint8Array())).toBeUndefined();
    expect(parseAnySource(bytes('0x0000000008000000 0x00000000080fffff msi\n'))?.arch).toBe('arm');
  });
});

describe('report', () => {
  it('judges a function that only a range of an IVMD names', () => {
    const range: DeviceRef = { kind: 'pci-range', segment: 0, first: 0, last: 0xfff };
    const list = [region(0x1000000n, 0x1000fffn, { source: 'ivrs', platform: 'amd', devices: [range] })];
    const report = buildReport({
      sources: [{ kind: 'ivrs', name: 'f', warnings: [], regions: list }],
      named: ['0000:03:00.0', '0000:10:00.0'],
    });
    expect(report.devices.map(({ name, eligibility }) => `${name} ${eligibility.verdict}`)).toEqual([
      '0000:00:00.0-0000:0f:1f.7 refused',
      '0000:03:00.0 refused',
      '0000:10:00.0 assignable',
    ]);
    expect(show(report.devices[1]?.resv?.reserved ?? [])).toEqual([
      '1000000-1000fff reserved',
      'fee00000-feefffff msi',
      'fd00000000-ffffffffff reserved',
    ]);
  });

  const text = '0x0000000001000000 0x0000000001000fff direct\n0x00000000fee00000 0x00000000feefffff msi\n';
  const bare = {
    secondaryBus: undefined,
    subordinateBus: undefined,
    headerType: 0,
    virtualFunction: false,
    driver: undefined,
  };
  const snapshot: SysfsSnapshot = {
    groups: [{ id: '5', reservedRegions: text, devices: ['0000:02:00.0', '0000:02:00.1'] }],
    devices: [
      { name: '0000:02:00.0', classCode: 0x020000, group: '5', ...bare },
      { name: '0000:02:00.1', classCode: 0x020000, group: '5', ...bare },
      {
        name: '0000:00:1c.0',
        classCode: 0x060400,
        group: undefined,
        ...bare,
        headerType: 1,
        secondaryBus: 2,
        subordinateBus: 2,
      },
    ],
  };

  it('resolves a table on sysfs, judges the group as one, and agrees with what sysfs lists', () => {
    const table = {
      kind: 'dmar' as const,
      name: 'DMAR',
      warnings: [],
      regions: [on(['0000:00/1c.0/00.0'], 0x1000000n, 0x1000fffn)],
    };
    const sysfs = { kind: 'sysfs' as const, name: 'sys', ...snapshotRegions(snapshot) };
    const report = buildReport({ sources: [table, sysfs], snapshot, kernel: kernel('6.12') });
    expect(report.regions[0]?.devices.map(formatDevice)).toEqual(['0000:02:00.0']);
    const second = report.devices.find(({ name }) => name === '0000:02:00.1');
    expect(second).toMatchObject({
      group: '5',
      mates: ['0000:02:00.0'],
      eligibility: { verdict: 'refused', errno: 'EINVAL' },
    });
    expect(show(second?.resv?.reserved ?? [])).toEqual(['1000000-1000fff reserved', 'fee00000-feefffff msi']);
    expect(diffRegions(report.regions, report.sources).differences).toEqual([]);
  });

  it('says unknown where a path or a nameless range may be the named device', () => {
    const of = (list: HostRegion[], named: string): string => {
      const report = buildReport({
        sources: [{ kind: 'dmar', name: 'f', warnings: [], regions: list }],
        named: [named],
      });
      return report.devices.find(({ name }) => name === named)!.eligibility.verdict;
    };
    const path = on(['0000:00/1c.7/00.0'], 0x1000000n, 0x1000fffn);
    expect(of([path], '0000:01:00.0')).toBe('unknown');
    expect(of([path], '0000:01:00.1')).toBe('assignable');
    expect(of([path], '0000:00:00.0')).toBe('assignable');
    expect(of([region(0x1000000n, 0x1000fffn, { source: 'dmesg' })], '0000:00:02.0')).toBe('unknown');
    expect(of([path], '0000:00/1c.7/00.0')).toBe('refused');
  });

  it('names the probe size that a device needs and shows its list all the same', () => {
    const list = Array.from({ length: 21 }, (_, i) =>
      on(['01:00.0'], BigInt(0x1000000 + i * 0x10000), BigInt(0x1000fff + i * 0x10000)),
    );
    const report = buildReport({ sources: [{ kind: 'dmar', name: 'f', warnings: [], regions: list }] });
    expect(report.warnings).toEqual([
      { where: '0000:01:00.0', what: 'RESV_MEM: regions need 22 properties: probeSize must be at least 528, got 512' },
    ]);
    expect(report.devices[0]?.resv?.reserved).toHaveLength(22);
  });

  it('takes a refusal and a broken scope of a log as evidence', () => {
    const refusals = [{ device: '0000:01:00.1', driver: 'vfio-pci', rule: 'rmrr-locked' as const, line: 3 }];
    const report = buildReport({ sources: [], refusals, bound: ['0000:03:00.0'], kernel: kernel('5.15') });
    expect(
      report.devices.map(({ name, eligibility }) => `${name} ${eligibility.verdict} ${eligibility.errno ?? ''}`),
    ).toEqual(['0000:01:00.1 refused EPERM', '0000:03:00.0 refused EPERM']);
  });

  it('keeps the HyperTransport range from every endpoint of an AMD host, also where no table names it', () => {
    const list = [on(['03:00.0'], 0x1000000n, 0x1000fffn, { source: 'ivrs', platform: 'amd' })];
    const source = { kind: 'ivrs' as const, name: 'f', warnings: [], regions: list };
    const report = buildReport({ sources: [source] });
    expect(report.regions).toHaveLength(1);
    expect(show(report.devices[0]?.resv?.reserved ?? []).at(-1)).toBe('fd00000000-ffffffffff reserved');
    expect(show(report.holes).at(-1)).toBe('fd00000000-ffffffffff reserved');
    expect(report.notes.join()).toMatch(/HyperTransport/);
    const narrow = buildReport({ sources: [source], resv: { inputRange: { start: 0n, end: 0xffffffffffn >> 1n } } });
    expect(show(narrow.devices[0]?.resv?.reserved ?? [])).toHaveLength(2);
    expect(buildReport({ sources: [{ ...source, regions: [] }] }).holes).toHaveLength(2);
  });

  it('judges an AMD host by its own rules also when a log is there', () => {
    const list = [on(['03:00.0'], 0x1000000n, 0x1000fffn, { source: 'ivrs', platform: 'amd' })];
    const report = buildReport({
      sources: [
        { kind: 'dmesg', name: 'log', warnings: [], regions: [] },
        { kind: 'ivrs', name: 'f', warnings: [], regions: list },
        {
          kind: 'sysfs',
          name: 's',
          warnings: [],
          regions: [{ ...list[0]!, source: 'sysfs', platform: undefined } as never],
        },
      ],
      kernel: kernel('5.15'),
    });
    expect(report.devices[0]?.eligibility.verdict).toBe('assignable');
  });

  it('sees in sysfs that the relax_rmrr patch is active', () => {
    const of = (classCode: number, type: 'direct' | 'direct-relaxable'): string => {
      const regions = [on(['03:00.0'], 0x1000000n, 0x1000fffn, { source: 'sysfs', type, group: 'group 1' })];
      const classes = new Map([['0000:03:00.0', classCode]]);
      return buildReport({ sources: [{ kind: 'sysfs', name: 's', warnings: [], regions }], classes }).relaxRmrr;
    };
    expect([of(0x020000, 'direct-relaxable'), of(0x0c0330, 'direct-relaxable'), of(0x020000, 'direct')]).toEqual([
      'active',
      'unknown',
      'unknown',
    ]);
  });

  it('says unknown for a function that may be behind a bridge scope', () => {
    const bridge: DeviceRef = { kind: 'pci', segment: 0, rid: 0xe0, bridge: true };
    const report = buildReport({
      sources: [
        { kind: 'dmar', name: 'f', warnings: [], regions: [region(0x1000000n, 0x1000fffn, { devices: [bridge] })] },
      ],
      named: ['0000:02:00.0'],
    });
    expect(report.devices.find(({ name }) => name === '0000:02:00.0')?.eligibility.verdict).toBe('unknown');
  });

  it('leaves an ACPI scope of a DMAR table open, which Linux binds to no device', () => {
    const acpi: DeviceRef = { kind: 'acpi', name: '\\_SB.I2C0' };
    const report = buildReport({
      sources: [
        { kind: 'dmar', name: 'f', warnings: [], regions: [region(0x1000000n, 0x1000fffn, { devices: [acpi] })] },
      ],
    });
    expect(report.devices[0]?.eligibility).toMatchObject({ verdict: 'unknown', errno: undefined });
    expect(report.devices[0]?.remedies).toHaveLength(1);
  });

  it("takes a table region that names no device as nobody's, not as a doubt", () => {
    const source = { kind: 'ivrs' as const, name: 'f', warnings: [], regions: [region(0x1000000n, 0x1000fffn)] };
    const report = buildReport({ sources: [source], named: ['0000:02:00.0'] });
    expect(report.devices[0]?.eligibility.verdict).toBe('assignable');
  });

  it('gives a range of functions also the regions of a wider range', () => {
    const range = (last: number): DeviceRef => ({ kind: 'pci-range', segment: 0, first: 0, last });
    const list = [0xffff, 0xfff].map((last, i) =>
      region(BigInt(i + 1) << 24n, (BigInt(i + 1) << 24n) + 0xfffn, { platform: 'amd', devices: [range(last)] }),
    );
    const report = buildReport({ sources: [{ kind: 'ivrs', name: 'f', warnings: [], regions: list }] });
    expect(report.devices.map(({ name, regions }) => [name, regions.length])).toEqual([
      ['0000:00:00.0-0000:0f:1f.7', 2],
      ['0000:00:00.0-0000:ff:1f.7', 1],
    ]);
  });

  it('warns where the doorbells of a Linux guest would fall into a reserved region', () => {
    const list = [
      region(0x1000000n, 0x10ffffffn, {
        source: 'sysfs',
        platform: 'arm',
        type: 'direct-relaxable',
        devices: [dev('01:00.0')],
      }),
    ];
    const source = { kind: 'sysfs' as const, name: 's', warnings: [], regions: list };
    const of = (msi: readonly AddressRange[]): string =>
      buildReport({ sources: [source], resv: { arch: 'arm', msi } })
        .warnings.map(({ what }) => what)
        .join();
    expect(of([])).toMatch(/0x8000000-0x80fffff .* 0x1000000-0x10ffffff/);
    expect(of([{ start: 0x8000000n, end: 0x80fffffn }])).toBe('');
  });

  it('names the RAM that reporting relaxable regions costs', () => {
    const list = [on(['00:02.0'], 0x80000000n, 0x8fffffffn), on(['01:00.0'], 0x80000000n, 0x80ffffffn)];
    const classes = new Map([['0000:00:02.0', 0x030000]]);
    const report = buildReport({ sources: [{ kind: 'dmar', name: 'f', warnings: [], regions: list }], classes });
    expect(report.regions.map(({ type }) => type)).toEqual(['direct-relaxable', 'direct']);
    expect(report.relaxableCost).toBe(0xf000000n);
    const ram = [{ start: 0n, end: 0x87ffffffn }];
    const laid = buildReport({ sources: [{ kind: 'dmar', name: 'f', warnings: [], regions: list }], classes, ram });
    expect(laid).toMatchObject({ relaxableCost: 0x7000000n, layout: { lost: 0x8000000n } });
  });
});

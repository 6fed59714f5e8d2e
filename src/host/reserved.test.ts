// Reserved regions of a real host for endpoints, and what the limits of a context become in the configuration that the guest
// reads: page_size_mask, input_range, RESV_MEM.
import { afterAll, describe, expect, it } from 'vitest';
import { ARM_MSI, FakeMachine, HYPERTRANSPORT, MSI, region } from '../../test/cli-host-tree.ts';
import { isHostError } from '../base/errors.ts';
import type { AddressRange } from '../base/ranges.ts';
import { groupReserved } from '../firmware/group-reserved.ts';
import type { EndpointInit } from '../iommu/endpoints.ts';
import { VirtioIommu } from '../iommu/virtio-iommu.ts';
import { GuestMemory } from '../virtio/memory.ts';
import { groupOfDevice, hostReserved, passthroughEndpoint } from './reserved.ts';
import { SimulatedHost } from './simulated.ts';

const machine = new FakeMachine();
const sysfs = machine.path('sys');
machine
  .pci('0000:00:14.0', { classCode: '0x0c0330', group: 4 })
  .pci('0000:00:1f.0', { classCode: '0x060100', group: 5 })
  .pci('0000:00:1f.3', { classCode: '0x040300', group: 5 })
  .pci('0000:03:00.0', { group: 6 })
  .pci('0000:04:00.0', { group: 7 })
  .pci('0000:05:00.0', {})
  .group(4, region(0x7d000000, 0x7dffffff, 'direct-relaxable') + MSI)
  .group(5, region(0, 0xffffff, 'direct-relaxable') + region(0x7c000000, 0x7c000fff, 'direct') + MSI)
  .group(6, MSI + HYPERTRANSPORT)
  .group(7, region(0x1000000, 0x10ffffff, 'direct-relaxable').replace('\n', '\n') + ARM_MSI);
machine.put('sys/kernel/iommu_groups/9/devices/keep', '');
afterAll(() => {
  machine.remove();
});

const X86_MSI = { start: 0xfee0_0000n, end: 0xfeef_ffffn, kind: 'msi' } as const;
const reserved = (start: bigint, end: bigint): { start: bigint; end: bigint; kind: 'reserved' } => ({
  start,
  end,
  kind: 'reserved',
});

describe('the reserved regions of a host group', () => {
  it('are those of all its members: direct, relaxable and reserved are RESERVED, the x86 window is MSI', () => {
    expect(hostReserved({ device: '0000:00:14.0' }, { sysfs })).toEqual([reserved(0x7d000000n, 0x7dffffffn), X86_MSI]);
    const both = [reserved(0n, 0xffffffn), reserved(0x7c000000n, 0x7c000fffn), X86_MSI];
    expect(hostReserved({ device: '0000:00:1f.3' }, { sysfs })).toEqual(both);
    expect(hostReserved({ group: 5 }, { sysfs })).toEqual(both);
    expect(hostReserved({ group: 6 }, { sysfs })).toEqual([X86_MSI, reserved(0xfd00000000n, 0xffffffffffn)]);
  });

  it('leave relaxable ones out when asked to, and nothing else', () => {
    expect(hostReserved({ group: 5 }, { sysfs, relaxable: 'omit' })).toEqual([
      reserved(0x7c000000n, 0x7c000fffn),
      X86_MSI,
    ]);
  });

  it('of an Arm host forward no software MSI window, but the doorbell that is given', () => {
    expect(hostReserved({ group: 7 }, { sysfs })).toEqual([reserved(0x1000000n, 0x10ffffffn)]);
    const doorbell = { start: 0x8080000n, end: 0x808ffffn };
    expect(hostReserved({ group: 7 }, { sysfs, msi: [doorbell] })).toEqual([
      reserved(0x1000000n, 0x807ffffn),
      { ...doorbell, kind: 'msi' },
      reserved(0x8090000n, 0x10ffffffn),
    ]);
    expect(hostReserved({ group: 7 }, { sysfs, arch: 'x86' })).toContainEqual(X86_MSI);
  });

  it('are refused where the text cannot be trusted', () => {
    const full = Array.from({ length: 90 }, (_, i) => region(i * 0x10000, i * 0x10000 + 0xfff, 'reserved')).join('');
    for (const [text, message] of [
      ['nonsense\n', /line 1: "nonsense" is no region/],
      [`${MSI}\n0x12 0x\n`, /line 3: .* is no region/],
      [region(0x2000, 0x1000, 'direct'), /line 1: ends before it starts/],
      [full.slice(0, 4090), /line \d+: .* is no region/],
    ] as const) {
      expect(() => groupReserved(text)).toThrow(message);
    }
    expect(() => groupReserved(region(0n, 0xffff_ffff_ffff_ffffn, 'reserved'))).not.toThrow();
    expect(() => groupReserved(region(0n, 0xffff_ffff_ffff_ffffn, 'reserved'), { arch: 'arm' })).toThrow(
      /nothing is left/,
    );
  });

  it('tell a list that the kernel cut at its page from one that just fits', () => {
    const line = region(0x1000, 0x1fff, 'reserved').trimEnd();
    const fits = `${line}\n`.repeat(86).trimEnd();
    expect(`${line}\n`.length).toBe(47);
    expect(fits.length).toBeLessThan(4094);
    expect(groupReserved(fits)).toHaveLength(2);
    const filled = `${fits}\n${' '.repeat(4094 - fits.length - 1)}`;
    expect(() => groupReserved(filled)).toThrow(/4094 bytes: the kernel prints one page/);
    expect(() => groupReserved(filled.slice(0, -1))).not.toThrow();
  });

  it('of an unknown type are kept free', () => {
    expect(groupReserved(region(0x1000, 0x1fff, 'translated'))).toEqual([reserved(0x1000n, 0x1fffn), X86_MSI]);
  });

  it.each([
    ['no function', { device: '0000:07:00.0' }, /no PCI function 0000:07:00.0/],
    ['no IOMMU', { device: '0000:05:00.0' }, /0000:05:00.0 is in no IOMMU group: no IOMMU translates/],
    ['no group', { group: 99 }, /no IOMMU group 99: look at the ids/],
    ['a kernel before 4.11', { group: 9 }, /group 9 has no reserved_regions: Linux 4.11/],
  ])('are a clear error with %s', (_, of, message) => {
    try {
      hostReserved(of, { sysfs });
      expect.unreachable();
    } catch (error) {
      expect(isHostError(error)).toBe(true);
      expect(String(error)).toMatch(message);
    }
  });

  it('without an IOMMU say how to turn it on', () => {
    const none = machine.path('empty');
    expect(() => hostReserved({ group: 1 }, { sysfs: none })).toThrow(/intel_iommu=on/);
    expect(() => groupOfDevice('0000:00:14.0', none)).toThrow(/no PCI function/);
  });

  it('belong to a group that has a number', () => {
    expect([groupOfDevice('0000:00:14.0', sysfs), groupOfDevice('0000:00:1f.0', sysfs)]).toEqual([4, 5]);
  });

  it('refuse wrong arguments before anything is read', () => {
    expect(() => hostReserved({ device: '00:14.0' }, { sysfs })).toThrow(RangeError);
    expect(() => hostReserved({ device: '0000:00:20.0' }, { sysfs })).toThrow(RangeError);
    expect(() => hostReserved({ device: 7 as unknown as string })).toThrow(TypeError);
    expect(() => hostReserved(null as never)).toThrow(TypeError);
    expect(() => hostReserved({ group: -1 })).toThrow(RangeError);
    expect(() => hostReserved({ group: 1 }, { relaxed: 'omit' } as never)).toThrow(/relaxed is not an option/);
    expect(() => hostReserved({ group: 1 }, { relaxable: 'drop' } as never)).toThrow(/relaxable/);
    expect(() => hostReserved({ group: 1 }, { arch: 'mips' } as never)).toThrow(/arch/);
    expect(() => hostReserved({ group: 1 }, { msi: [{ start: 2n, end: 1n }] })).toThrow(/msi\[0\]\.end/);
    expect(() => hostReserved({ group: 1 }, { msi: 'x' } as never)).toThrow(/msi must be an array/);
    expect(() => hostReserved({ group: 1 }, { sysfs: 1 } as never)).toThrow(/sysfs must be a string/);
    expect(() => groupOfDevice('x', sysfs)).toThrow(RangeError);
  });
});

const VTD = (bits: number): AddressRange[] => [
  { start: 0n, end: 0xfedf_ffffn },
  { start: 0xfef0_0000n, end: (1n << BigInt(bits)) - 1n },
];
const ALL_PAGES = 0xffff_ffff_ffff_f000n;

/** A device with one endpoint made by `passthroughEndpoint`, and what its guest reads. */
function guestSees(
  device: string,
  usableRanges: readonly AddressRange[],
  pageSizes: bigint,
  more: object = {},
): {
  readonly mask: bigint;
  readonly range: AddressRange;
  readonly properties: readonly { readonly kind: string; readonly start: bigint; readonly end: bigint }[];
} {
  const context = new SimulatedHost().createContext({ group: 1, endpoints: [8], usableRanges, pageSizes });
  const endpoint: EndpointInit = passthroughEndpoint({ context, device, id: 8, sysfs, ...more });
  const iommu = new VirtioIommu({
    memory: new GuestMemory(),
    interrupt: { queue: () => undefined, config: () => undefined },
  });
  iommu.addEndpoint(endpoint);
  const bytes = new Uint8Array(iommu.configLength);
  iommu.readConfig(bytes);
  const properties = iommu.core.state.endpoints.get(8)?.regions ?? [];
  // [5.13.4] little-endian: page_size_mask, then input_range, both ends inclusive.
  const view = new DataView(bytes.buffer);
  iommu.close();
  context.close();
  const range = { start: view.getBigUint64(8, true), end: view.getBigUint64(16, true) };
  return { mask: view.getBigUint64(0, true), range, properties };
}

describe('an endpoint of a passed-through function', () => {
  it.each([
    ['VT-d 39 bits', VTD(39), 0x4020_1000n, 0x7f_ffff_ffffn],
    ['VT-d 47 bits (first level)', VTD(47), 0x4020_1000n, 0x7fff_ffff_ffffn],
    ['VT-d 48 bits', VTD(48), 0x4020_1000n, 0xffff_ffff_ffffn],
    ['virtio-iommu', VTD(64), ALL_PAGES, 0xffff_ffff_ffff_ffffn],
  ])('puts the limits of %s into page_size_mask and input_range', (_, ranges, pages, end) => {
    const seen = guestSees('0000:00:14.0', ranges, pages);
    expect(seen).toEqual({
      mask: 0x4020_1000n,
      range: { start: 0n, end },
      properties: [reserved(0x7d000000n, 0x7dffffffn), X86_MSI],
    });
  });

  it('shows the three ranges of AMD as holes, also where sysfs did not list them', () => {
    const amd = [
      { start: 0n, end: 0xfedf_ffffn },
      { start: 0xfef0_0000n, end: 0xfc_ffff_ffffn },
      { start: 0x100_0000_0000n, end: 0xffff_ffff_ffff_ffffn },
    ];
    const holes = [X86_MSI, reserved(0xfd00000000n, 0xffffffffffn)];
    const expected = { mask: 0x4020_1000n, range: { start: 0n, end: 0xffff_ffff_ffff_ffffn } };
    expect(guestSees('0000:03:00.0', amd, 0xf_fff7_ffff_f000n)).toEqual({ ...expected, properties: holes });
    expect(guestSees('0000:00:14.0', amd, 0xf_fff7_ffff_f000n)).toEqual({
      ...expected,
      properties: [reserved(0x7d000000n, 0x7dffffffn), ...holes],
    });
  });

  it('has larger host pages as its granule, and regions rounded to them', () => {
    const seen = guestSees('0000:00:1f.3', [{ start: 0n, end: (1n << 44n) - 1n }], 0x2001_0000n, { arch: 'arm' });
    expect(seen.mask).toBe(0x1_0000n);
    expect(seen.properties).toEqual([reserved(0n, 0xffffffn), reserved(0x7c000000n, 0x7c00ffffn)]);
  });

  it('takes the bus-master bit of the device that the context opened', () => {
    const context = new SimulatedHost().createContext({ group: 1, endpoints: [8] });
    const endpoint = (devices: unknown, more: object = {}): unknown =>
      passthroughEndpoint({
        context: Object.assign(Object.create(context) as typeof context, { devices }),
        device: '0000:00:14.0',
        id: 8,
        sysfs,
        ...more,
      });
    const opened = (on: boolean): object => ({ name: '0000:00:14.0', busMaster: () => on });
    expect(endpoint([opened(false)])).toMatchObject({ busMaster: false });
    expect(endpoint([opened(true)])).toMatchObject({ busMaster: true });
    expect(endpoint([opened(true)], { busMaster: false })).toMatchObject({ busMaster: false });
    expect(endpoint([])).not.toHaveProperty('busMaster');
    expect(endpoint(undefined)).not.toHaveProperty('busMaster');
    expect(() => endpoint([{ ...opened(true), name: '0000:00:1f.3' }])).toThrow(
      /0000:00:14.0 is not open in .*0000:00:1f.3/,
    );
  });

  it('shares context and regions with every other function of its group', () => {
    const context = new SimulatedHost().createContext({ group: 1, endpoints: [8, 9], usableRanges: VTD(39) });
    const iommu = new VirtioIommu({
      memory: new GuestMemory(),
      interrupt: { queue: () => undefined, config: () => undefined },
    });
    for (const [id, device] of [
      [8, '0000:00:1f.0'],
      [9, '0000:00:1f.3'],
    ] as const) {
      iommu.addEndpoint(passthroughEndpoint({ context, device, id, sysfs }));
    }
    const regions = [8, 9].map((id) => iommu.core.state.endpoints.get(id)?.regions);
    expect(regions[0]).toEqual([reserved(0n, 0xffffffn), reserved(0x7c000000n, 0x7c000fffn), X86_MSI]);
    expect(regions[1]).toEqual(regions[0]);
    expect(iommu.core.stats().contexts).toHaveLength(1);
    iommu.close();
    context.close();
  });

  it('refuses wrong options', () => {
    const context = new SimulatedHost().createContext({ group: 1, endpoints: [8] });
    const make = (change: object): unknown =>
      passthroughEndpoint({ context, device: '0000:00:14.0', id: 8, sysfs, ...change });
    expect(make({})).toMatchObject({ id: 8, host: context });
    expect(() => make({ context: null })).toThrow(/options.context must be a HostContext/);
    expect(() => make({ context: undefined })).toThrow(TypeError);
    expect(() => make({ id: 2 ** 32 })).toThrow(RangeError);
    expect(() => make({ id: -1 })).toThrow(RangeError);
    expect(() => make({ id: 1.5 })).toThrow(TypeError);
    expect(() => make({ busMaster: 1 })).toThrow(/busMaster must be a boolean/);
    expect(() => make({ busmaster: true })).toThrow(/busmaster is not an option/);
  });
});

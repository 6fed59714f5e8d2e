// VIOT against two byte-exact tables that iasl decoded and recompiled outside this project; device-tree fragments against
// text and cells written by hand after the Linux binding's layout.
import { describe, expect, it } from 'vitest';
import {
  encodeIommuMap,
  iommuMapAround,
  iommuMapText,
  iommusText,
  mmioIommuNode,
  pciIommuNode,
} from '../../src/firmware/device-tree.ts';
import type { ViotConfig, ViotEndpoint } from '../../src/firmware/viot.ts';
import { buildViot, viotAroundPci } from '../../src/firmware/viot.ts';

const header = {
  oemId: 'TSVMM',
  oemTableId: 'TSIOMMU',
  oemRevision: 1,
  creatorId: 'INTL',
  creatorRevision: 0x20250404,
};
const hex = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const EXAMPLE_A = `
56494f54 70000000 00cd5453 564d4d20 5453494f 4d4d5520 01000000 494e544c
04042520 03003000 00000000 00000000 03001000 00000800 00000000 00000000
01001800 00000000 00000000 00000700 30000000 00000000 01001800 09000000
00000000 0900ffff 30000000 00000000`.replace(/\s/g, '');
const EXAMPLE_B = `
56494f54 70000000 00ff5453 564d4d20 5453494f 4d4d5520 01000000 494e544c
04042520 03003000 00000000 00000000 04001000 00000000 000000d0 00000000
01001800 00000000 00000000 0000ffff 30000000 00000000 02001800 00000100
0000001c 00000000 30000000 00000000`.replace(/\s/g, '');

const range = (more: Partial<ViotEndpoint & { kind: 'pci-range' }> = {}): ViotEndpoint => ({
  kind: 'pci-range',
  iommu: 0,
  endpointStart: 0,
  segmentStart: 0,
  segmentEnd: 0,
  bdfStart: 0,
  bdfEnd: 0xffff,
  ...more,
});

describe('VIOT', () => {
  it('is byte-identical to the table around a PCI IOMMU', () => {
    expect(hex(buildViot({ ...viotAroundPci({ segment: 0, bdf: 8 }), header }))).toBe(EXAMPLE_A);
  });

  it('is byte-identical to the table of an MMIO IOMMU', () => {
    const config: ViotConfig = {
      iommus: [{ kind: 'mmio', base: 0xd0000000n }],
      endpoints: [range(), { kind: 'mmio', iommu: 0, endpoint: 0x10000, base: 0x1c000000n }],
      header,
    };
    expect(hex(buildViot(config))).toBe(EXAMPLE_B);
  });

  it('leaves out an empty side at bdf 0 and at bdf 0xffff', () => {
    expect(viotAroundPci({ segment: 3, bdf: 0 }).endpoints).toEqual([
      range({ endpointStart: 1, bdfStart: 1, segmentStart: 3, segmentEnd: 3 }),
    ]);
    expect(viotAroundPci({ segment: 0, bdf: 0xffff }).endpoints).toEqual([range({ bdfEnd: 0xfffe })]);
  });

  it('writes several segments and IOMMUs, and a sum of zero', () => {
    const bytes = buildViot({
      iommus: [
        { kind: 'pci', segment: 1, bdf: 0x10 },
        { kind: 'mmio', base: 0x1000n },
      ],
      endpoints: [
        range({ segmentEnd: 1 }),
        range({ iommu: 1, segmentStart: 2, segmentEnd: 2, bdfStart: 8, bdfEnd: 8, endpointStart: 5 }),
      ],
    });
    const view = new DataView(bytes.buffer);
    expect(bytes.reduce((sum, byte) => sum + byte, 0) & 0xff).toBe(0);
    expect([view.getUint16(36, true), view.getUint16(80 + 16, true), view.getUint16(104 + 16, true)]).toEqual([
      4, 48, 64,
    ]);
  });

  const iommus = [{ kind: 'pci', segment: 0, bdf: 8 }] as const;
  it.each<[string, ViotConfig, RegExp]>([
    ['no IOMMU', { iommus: [], endpoints: [] }, /iommus must not be empty/],
    ['an unknown IOMMU', { iommus, endpoints: [range({ iommu: 1 })] }, /endpoints\[0\]\.iommu/],
    ['one IOMMU twice', { iommus: [...iommus, ...iommus], endpoints: [] }, /iommus\[1\]/],
    [
      'overlapping ranges',
      { iommus, endpoints: [range({ bdfEnd: 8 }), range({ bdfStart: 8, endpointStart: 0x20000 })] },
      /endpoints\[1\]\.bdfStart/,
    ],
    [
      'one id for two functions',
      { iommus, endpoints: [range({ bdfEnd: 7 }), range({ bdfStart: 9, endpointStart: 7 })] },
      /endpoints\[1\] gives the id 0x7/,
    ],
    [
      'an id for a function and a device',
      { iommus, endpoints: [range(), { kind: 'mmio', iommu: 0, endpoint: 0xffff, base: 1n }] },
      /gives the id 0xffff/,
    ],
    [
      'one MMIO base twice',
      { iommus, endpoints: [1, 2].map((endpoint) => ({ kind: 'mmio', iommu: 0, endpoint, base: 1n })) },
      /endpoints\[1\]\.base/,
    ],
    [
      'an id beyond 32 bits',
      { iommus, endpoints: [range({ endpointStart: 0xffff0001 })] },
      /endpoints\[0\]\.endpointStart/,
    ],
    ['a range that ends before it starts', { iommus, endpoints: [range({ bdfStart: 2, bdfEnd: 1 })] }, /bdfEnd/],
    [
      'segments that end before they start',
      { iommus, endpoints: [range({ segmentStart: 2, segmentEnd: 1 })] },
      /segmentEnd/,
    ],
    [
      'a bdf beyond 16 bits',
      { iommus: [{ kind: 'pci', segment: 0, bdf: 0x10000 }], endpoints: [] },
      /iommus\[0\]\.bdf/,
    ],
    ['a long OEM id', { iommus, endpoints: [], header: { oemId: 'SEVENCH' } }, /header\.oemId/],
    [
      'more IOMMUs than 16-bit offsets reach',
      { iommus: Array.from({ length: 4094 }, (_, bdf) => ({ kind: 'pci', segment: 0, bdf })), endpoints: [] },
      /at most 4093/,
    ],
  ])('refuses %s', (_, config, message) => {
    expect(() => buildViot(config)).toThrow(message);
    expect(() => buildViot(config)).toThrow(RangeError);
  });

  it('takes ids up to the last 32-bit one and 4093 IOMMUs', () => {
    expect(buildViot({ iommus, endpoints: [range({ endpointStart: 0xffff0000 })] })).toHaveLength(88);
    expect(
      buildViot({
        iommus: Array.from({ length: 4093 }, (_, bdf) => ({ kind: 'pci' as const, segment: 0, bdf })),
        endpoints: [],
      }),
    ).toHaveLength(48 + 4093 * 16);
    expect(() => buildViot({ iommus: 1, endpoints: [] } as never)).toThrow(TypeError);
  });
});

describe('device tree', () => {
  it('writes the layout of the Linux binding for an IOMMU at 00:01.0', () => {
    expect(iommuMapText(iommuMapAround(8), 'iommu0')).toBe(
      'iommu-map = <0x0 &iommu0 0x0 0x8\n             0x9 &iommu0 0x9 0xfff7>;\n',
    );
    expect(hex(encodeIommuMap(iommuMapAround(8), 1))).toBe(
      '00000000000000010000000000000008' + '0000000900000001000000090000fff7',
    );
    expect(pciIommuNode({ rid: 8, label: 'iommu0' })).toBe(
      'iommu0: iommu@1,0 {\n\tcompatible = "pci1af4,1057";\n\treg = <0x800 0x0 0x0 0x0 0x0>;\n\t#iommu-cells = <1>;\n};\n',
    );
    expect(iommusText('iommu0', 0x10000)).toBe('iommus = <&iommu0 0x10000>;\n');
  });

  it('writes an MMIO IOMMU with one and with two address cells', () => {
    const options = { base: 0x3100n, size: 0x100n, interrupts: [43], label: 'viommu' };
    expect(mmioIommuNode({ ...options, addressCells: 1 })).toBe(
      'viommu: iommu@3100 {\n\tcompatible = "virtio,mmio";\n\treg = <0x3100 0x100>;\n\tinterrupts = <0x2b>;\n\t#iommu-cells = <1>;\n};\n',
    );
    expect(mmioIommuNode({ ...options, base: 0x12_0000_0000n })).toContain('reg = <0x12 0x0 0x0 0x100>;');
    expect(() => mmioIommuNode({ ...options, base: 1n << 32n, addressCells: 1 })).toThrow(/base/);
  });

  it('leaves the IOMMU out at both ends, or covers all for an MMIO IOMMU', () => {
    expect(iommuMapAround(undefined)).toEqual([{ rid: 0, endpoint: 0, length: 0x10000 }]);
    expect(iommuMapAround(0)).toEqual([{ rid: 1, endpoint: 1, length: 0xffff }]);
    expect(iommuMapAround(0xffff)).toEqual([{ rid: 0, endpoint: 0, length: 0xffff }]);
    expect(() => iommuMapAround(0x10000)).toThrow(/iommuRid/);
  });

  it('refuses overlaps, bad labels and phandles', () => {
    const entry = { rid: 0, endpoint: 0, length: 9 };
    expect(() => encodeIommuMap([entry, { ...entry, rid: 8 }], 1)).toThrow(/entries\[1\]\.rid/);
    expect(() => encodeIommuMap([{ ...entry, length: 0x10001 }], 1)).toThrow(/entries\[0\]\.length/);
    expect(() => encodeIommuMap([entry], 0)).toThrow(/phandle/);
    expect(() => iommuMapText([entry], 'a b')).toThrow(/label/);
  });
});

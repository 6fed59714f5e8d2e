// Golden tests of the table readers on synthetic tables: every structure and every known trap.
import { describe, expect, it } from 'vitest';
import { formatDevice } from '../../src/firmware/device-ref.ts';
import { parseDmar } from '../../src/firmware/dmar.ts';
import { parseIort } from '../../src/firmware/iort.ts';
import { parseIvrs } from '../../src/firmware/ivrs.ts';
import type { HostRegion } from '../../src/firmware/region.ts';
import type { Warning } from '../../src/firmware/warnings.ts';
import {
  acpi,
  codes,
  dmar,
  idMapping,
  iort,
  iortNode,
  ivmd,
  ivrs,
  le,
  rmrContent,
  rmrr,
  rootContent,
  scope,
  structure,
} from './acpi-builder.ts';

const endpoint = (bus: number, ...path: [number, number][]): number[] => scope(1, bus, path);
const names = (region: HostRegion | undefined): string[] => (region?.devices ?? []).map(formatDevice);
const says = (warnings: readonly Warning[], part: string): Warning[] =>
  warnings.filter(({ what }) => what.includes(part));

describe('DMAR', () => {
  it('reads ranges, segment and scopes of a clean table without a warning', () => {
    const table = parseDmar(
      dmar([
        structure(0, [1, 0, ...le(0, 2), ...le(0xfed90000n, 8)]),
        rmrr(0x7dffd000n, 0x7dffffffn, [endpoint(0, [0x1d, 0]), endpoint(0, [0x1c, 7], [0, 2])], 1),
      ]),
    );
    expect(table.warnings).toEqual([]);
    expect(table.hostAddressWidth).toBe(39);
    expect(table.header?.checksumOk).toBe(true);
    expect([...table.structures]).toEqual([
      [0, 1],
      [1, 1],
    ]);
    const [region] = table.regions;
    expect(region).toMatchObject({
      base: 0x7dffd000n,
      limit: 0x7dffffffn,
      segment: 1,
      type: 'direct',
      where: 'offset 0x40',
    });
    expect(names(region)).toEqual(['0001:00:1d.0', '0001:00/1c.7/00.2']);
  });

  it('skips every other known type silently and unknown types with a warning', () => {
    const others = [0, 2, 3, 5, 6].map((type) => structure(type, le(0, 12)));
    const table = parseDmar(
      dmar([...others, structure(99, le(0, 3)), rmrr(0x1000000n, 0x1000fffn, [endpoint(0, [2, 0])])]),
    );
    expect(table.regions).toHaveLength(1);
    expect(table.warnings.map(({ what }) => what)).toEqual(['structure type 99 is not known and skipped']);
  });

  it('stops at a structure of length 0, of 3 bytes, or past the end, and keeps what came before', () => {
    const good = rmrr(0x1000000n, 0x1000fffn, [endpoint(0, [2, 0])]);
    for (const [bad, part] of [
      [[...le(1, 2), ...le(0, 2)], 'length 0'],
      [[...le(1, 2), ...le(3, 2)], 'too short'],
      [[...le(1, 2), ...le(64, 2)], 'passes the end'],
      [[...le(1, 2)], 'too few for a structure'],
    ] as const) {
      const table = parseDmar(dmar([good, [...bad]]));
      expect(table.regions).toHaveLength(1);
      expect(says(table.warnings, part)).toHaveLength(1);
      expect(says(table.warnings, part)[0]?.where).toBe(`offset 0x${(48 + good.length).toString(16)}`);
    }
  });

  it('flags checksum, revision, signature, truncation and trailing bytes', () => {
    const bytes = dmar([rmrr(0x1000000n, 0x1000fffn, [endpoint(0, [2, 0])])]);
    const broken = bytes.slice();
    broken[40] = 0xff;
    expect(says(parseDmar(broken).warnings, 'checksum')).toHaveLength(1);
    expect(says(parseDmar(dmar([], 39, 9)).warnings, 'revision 9')).toHaveLength(1);
    expect(parseDmar(acpi('IVRS', 1, le(0, 12))).header).toBeUndefined();
    expect(parseDmar(bytes.slice(0, 47)).header).toBeUndefined();
    expect(says(parseDmar(bytes.slice(0, -1)).warnings, 'only')).toHaveLength(1);
    expect(says(parseDmar(Uint8Array.from([...bytes, 0])).warnings, '1 bytes follow')).toHaveLength(1);
    expect(() => parseDmar('x' as never)).toThrow(TypeError);
  });

  it('flags ranges and keeps them literally', () => {
    const cases: [bigint, bigint, string][] = [
      [0n, 0n, 'one byte long'],
      [0x2000n, 0x1fffn, 'ends before it starts'],
      [0x1000800n, 0x1001fffn, 'not aligned'],
      [0xfed00000n, 0xfeffffffn, 'contains the MSI window'],
      [0xfeefffffn + 1n, 0xfef00fffn, ''],
      [0xfeeff000n, 0xfef00fffn, 'touches the MSI window'],
      [0xe8000n, 0xe8fffn, 'below 1 MiB'],
      [0xfffff000n, 0x100000fffn, 'crosses 4 GiB'],
      [0x7ffffff000n, 0x7fffffffffn, ''],
      [0x8000000000n, 0x8000000fffn, 'exceeds the address width of 39 bits'],
      [0x1000000n, 0x1000000n + (1100n << 20n) - 1n, ''],
      [0x1000000n, 0x1000000n + (1100n << 20n) + 0xfffn, 'larger than any known'],
      [0xbdff6000n, 0xbdfffcfffn, 'typo of 0xbdffcfff'],
    ];
    for (const [base, limit, part] of cases) {
      const table = parseDmar(dmar([rmrr(base, limit, [endpoint(0, [2, 0])])]));
      expect(table.regions[0]).toMatchObject({ base, limit });
      if (part === '') expect(table.warnings).toEqual([]);
      else expect(says(table.warnings, part), part).toHaveLength(1);
    }
  });

  it('flags overlapping RMRRs, not adjacent ones', () => {
    const of = (base: bigint): Uint8Array =>
      dmar([rmrr(0x1000000n, 0x1001fffn, [endpoint(0, [2, 0])]), rmrr(base, 0x1003fffn, [endpoint(0, [3, 0])])]);
    expect(says(parseDmar(of(0x1001000n)).warnings, 'overlaps')).toHaveLength(1);
    expect(parseDmar(of(0x1002000n)).warnings).toEqual([]);
  });

  it('knows the scope traps: one hop on another bus, bridge, namespace device, IOAPIC, no path', () => {
    const andd = structure(4, [0, 0, 0, 7, ...codes('\\_SB.I2C0'), 0]);
    const list = [
      endpoint(6, [0, 0]),
      scope(2, 0, [[0x1c, 0]]),
      scope(5, 0, [[0x15, 0]], 7),
      scope(3, 0, [[0x1e, 0]], 2),
      scope(1, 0, []),
    ];
    const table = parseDmar(dmar([andd, rmrr(0x1000000n, 0x1000fffn, list)]));
    expect(names(table.regions[0])).toEqual(['0000:06:00.0', '0000:00:1c.0', 'acpi:\\_SB.I2C0']);
    for (const part of ['one-hop path on bus 06', 'bridge scope', 'never binds', 'scope type 3', 'without a path']) {
      expect(says(table.warnings, part), part).toHaveLength(1);
    }
    expect(table.regions[0]?.devices[1]).toMatchObject({ bridge: true });
  });

  it('survives scopes that are too short, too long or end in half a hop', () => {
    const read = (bytes: number[]): ReturnType<typeof parseDmar> =>
      parseDmar(dmar([rmrr(0x1000000n, 0x1000fffn, [endpoint(0, [2, 0]), bytes])]));
    for (const bytes of [
      [1, 0, 0, 0, 0, 0],
      [1, 5, 0, 0, 0, 0],
      [1, 9, 0, 0, 0, 0, 1, 0],
      [1, 8],
    ]) {
      const table = read(bytes);
      expect(names(table.regions[0])).toEqual(['0000:00:02.0']);
      expect(says(table.warnings, 'does not fit')).toHaveLength(1);
    }
    expect(says(read([1, 9, 0, 0, 0, 0, 1, 0, 2]).warnings, 'half a path hop')).toHaveLength(1);
    expect(says(read([1, 8, 0, 0, 0, 0, 32, 8]).warnings, 'no PCI device')).toHaveLength(1);
  });

  it('reads a full 64 KiB table and bounds its warnings', () => {
    const one = rmrr(0n, 0n, [endpoint(0, [2, 0])]);
    const table = parseDmar(dmar(Array.from({ length: 2046 }, () => one)));
    expect(table.regions).toHaveLength(2046);
    expect(table.warnings).toHaveLength(257);
    expect(table.warnings.at(-1)?.what).toMatch(/more warnings were left out/);
  });
});

describe('IVRS', () => {
  const unity = ivmd({ type: 0x21, flags: 7, deviceId: 0x60, start: 0x7d900000n, length: 0x100000n });

  it('turns lengths into inclusive limits and device ids into names', () => {
    const table = parseIvrs(ivrs([[0x10, 0, ...le(24, 2), ...le(0, 20)], unity]));
    expect(table.warnings).toEqual([]);
    expect(table.hostAddressWidth).toBe(48);
    expect(table.regions[0]).toMatchObject({ base: 0x7d900000n, limit: 0x7d9fffffn, segment: 0, type: 'direct' });
    expect(names(table.regions[0])).toEqual(['0000:00:0c.0']);
  });

  it('reports exclusion ranges as direct and flags them', () => {
    const table = parseIvrs(
      ivrs([ivmd({ type: 0x21, flags: 8, deviceId: 0xc407, segment: 2, start: 0x75e00000n, length: 0x20000n })]),
    );
    expect(table.regions[0]).toMatchObject({ type: 'direct', exclusion: true, limit: 0x75e1ffffn, segment: 2 });
    expect(names(table.regions[0])).toEqual(['0002:c4:00.7']);
    expect(says(table.warnings, 'exclusion range')).toHaveLength(1);
  });

  it('aligns a start upwards as Linux does, beside the literal range', () => {
    const table = parseIvrs(ivrs([ivmd({ type: 0x21, flags: 7, deviceId: 8, start: 0x1001001n, length: 1n })]));
    expect(table.regions[0]).toMatchObject({
      base: 0x1001001n,
      limit: 0x1001001n,
      effective: { start: 0x1002000n, end: 0x1002fffn },
    });
    expect(says(table.warnings, 'moves it up')).toHaveLength(1);
  });

  it('names ranges, all devices, and flags a one-byte exclusion that locks a whole machine', () => {
    const table = parseIvrs(
      ivrs([
        ivmd({ type: 0x22, flags: 8, deviceId: 0, aux: 0xfff, start: 0x2000000n, length: 1n }),
        ivmd({ type: 0x20, flags: 7, deviceId: 0, start: 0x3000000n, length: 0x1000n }),
        ivmd({ type: 0x22, flags: 7, deviceId: 9, aux: 8, start: 0x4000000n, length: 0x1000n }),
        ivmd({ type: 0x22, flags: 7, deviceId: 8, aux: 8, start: 0x5000000n, length: 0x1000n }),
      ]),
    );
    expect(table.regions.map(names)).toEqual([
      ['0000:00:00.0-0000:0f:1f.7'],
      ['0000:00:00.0-0000:ff:1f.7'],
      [],
      ['0000:00:01.0'],
    ]);
    expect(says(table.warnings, 'locks 4096 device ids')).toHaveLength(1);
    expect(says(table.warnings, 'before it starts')).toHaveLength(1);
  });

  it('leaves out blocks that Linux ignores, empty ones and short ones, with a warning', () => {
    const block = (flags: number, length: bigint): number[] =>
      ivmd({ type: 0x21, flags, deviceId: 8, start: 0x1000000n, length });
    const table = parseIvrs(
      ivrs([block(6, 0x1000n), block(7, 0n), [0x21, 7, ...le(8, 2), ...le(0, 4)], [0x51, 0, ...le(4, 2)], unity]),
    );
    expect(table.regions).toHaveLength(1);
    for (const part of ['Linux ignores it', 'is empty', 'too short', '0x51 is not known'])
      expect(says(table.warnings, part), part).toHaveLength(1);
  });

  it('stops at a block of length 0 and clips a length that wraps', () => {
    const table = parseIvrs(
      ivrs([
        ivmd({ type: 0x21, flags: 7, deviceId: 8, start: (1n << 64n) - 0x1000n, length: 0x2000n }),
        [0x10, 0, 0, 0],
        unity,
      ]),
    );
    expect(table.regions).toHaveLength(1);
    expect(table.regions[0]?.limit).toBe((1n << 64n) - 1n);
    expect(says(table.warnings, 'passes the end of the address space')).toHaveLength(1);
    expect(says(table.warnings, 'cannot be skipped')).toHaveLength(1);
  });
});

describe('IORT', () => {
  const smmu = (): number[] => iortNode(4, 4, le(0, 52));
  const smmuAt = 48;

  it('follows stream ids back through a root complex and a named component', () => {
    const root = iortNode(2, 3, rootContent(1), [idMapping(0x100, 0x100, 0x5000, smmuAt)]);
    const named = iortNode(1, 4, [...le(0, 13), ...codes('\\_SB.DEV0\0')], [idMapping(0, 1, 0x9000, smmuAt)]);
    const rmr = (sid: number, count: number, flags: number): number[] =>
      iortNode(6, 3, rmrContent(flags, [[0x10000000n, 0x10000n]]), [idMapping(0, count, sid, smmuAt)]);
    const table = parseIort(
      iort([smmu(), root, named, rmr(0x5008, 1, 0), rmr(0x5010, 4, 1), rmr(0x9000, 1, 1), rmr(0x7000, 2, 1)]),
    );
    expect(table.regions.map(names)).toEqual([
      ['0001:01:01.0'],
      ['0001:01:02.0-0001:01:02.3'],
      ['acpi:\\_SB.DEV0'],
      ['smmu@0x30:0x7000-0x7001'],
    ]);
    expect(table.regions.map(({ type }) => type)).toEqual([
      'direct',
      'direct-relaxable',
      'direct-relaxable',
      'direct-relaxable',
    ]);
    expect(table.regions[0]).toMatchObject({ base: 0x10000000n, limit: 0x1000ffffn, segment: 1 });
    expect(says(table.warnings, 'overlaps')).toHaveLength(3);
  });

  it('honours the node offset, flags a mapping to no SMMU, and aligns ranges below 64 KiB outwards', () => {
    const rmr = iortNode(6, 3, rmrContent(1, [[0x10000800n, 0x1000n]]), [idMapping(0, 1, 0, 0)]);
    const table = parseIort(iort([smmu(), rmr], 4));
    expect(table.regions[0]).toMatchObject({
      base: 0x10000800n,
      limit: 0x100017ffn,
      effective: { start: 0x10000000n, end: 0x10001fffn },
    });
    expect(names(table.regions[0])).toEqual(['smmu@0x0:0x0']);
    expect(says(table.warnings, 'no SMMU node')).toHaveLength(1);
    expect(says(table.warnings, 'not aligned to 64 KiB')).toHaveLength(1);
  });

  it('flags counts that do not fit, empty descriptors, old revisions and nodes past the end', () => {
    const short = iortNode(6, 3, rmrContent(1, [[0x10000000n, 0x10000n]]), []);
    short.splice(20, 4, ...le(0xffffffff, 4));
    const empty = iortNode(6, 2, rmrContent(1, [[0x20000000n, 0n]]), [idMapping(0, 1, 0, smmuAt)]);
    const table = parseIort(iort([smmu(), short, empty, [9, ...le(4, 2), 0]], 0, 3));
    expect(table.regions).toHaveLength(1);
    for (const part of [
      'do not fit into their node',
      'is empty',
      'revision 2',
      'does not fit',
      'from table revision 5 on (approximate)',
      'without an id mapping',
    ]) {
      expect(says(table.warnings, part), part).toHaveLength(1);
    }
    expect(parseIort(iort([], 0xffff)).regions).toEqual([]);
  });
});

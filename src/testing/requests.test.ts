import { expect, test } from 'vitest';
import type { DriverCommand } from './requests.ts';
import { VIRTIO_IOMMU_T_DETACH } from '../wire/abi.ts';
import { Kick } from './kick.ts';
import { RequestEncoder, parseFault, parseProperties } from './requests.ts';

const encoder = new RequestEncoder();

function bytesOf(length: number): string {
  return Buffer.from(encoder.bytes.subarray(0, length)).toString('hex');
}

test.each<[DriverCommand, string]>([
  [{ op: 'attach', domain: 0x01020304, endpoint: 0xfffffffe, flags: 1 }, '0100000004030201feffffff0100000000000000'],
  [{ op: 'attach', domain: 1, endpoint: 2 }, '0100000001000000020000000000000000000000'],
  [{ op: 'detach', domain: 7, endpoint: 9 }, '0200000007000000090000000000000000000000'],
  [
    { op: 'map', domain: 1, virtStart: 0x1000n, virtEnd: 2n ** 64n - 1n, physStart: 0x123456789000n, flags: 5 },
    '03000000010000000010000000000000ffffffffffffffff009078563412000005000000',
  ],
  [
    { op: 'unmap', domain: 2, virtStart: 0n, virtEnd: 0xfffn },
    '04000000020000000000000000000000ff0f00000000000000000000',
  ],
  [{ op: 'probe', endpoint: 40 }, `0500000028000000${'00'.repeat(64)}`],
])('requests have the layout of the standard: %o', (command, expected) => {
  encoder.bytes.fill(0xee);
  expect(bytesOf(encoder.encode(command))).toBe(expected);
});

test('entries of a kick equal the same commands, up to the last page of 64 bits', () => {
  const kick = new Kick(8);
  const last = 2 ** 52 - 1;
  kick.pushMap(1, 5, 7, 2, 3);
  kick.pushMap(1, 0x10_0000 - 1, 0xf_ffff_ffff, 2, 3);
  kick.pushMap(1, last, last, 1, 3);
  kick.pushMap(1, 0, 0, 2 ** 52, 3);
  kick.pushUnmap(9, last - 1, 2);
  kick.pushAttach(4, 40, 1);
  kick.pushProbe(41);
  const map = (start: number, phys: number, pages: number): DriverCommand => ({
    op: 'map',
    domain: 1,
    virtStart: BigInt(start) * 4096n,
    virtEnd: BigInt(start + pages) * 4096n - 1n,
    physStart: BigInt(phys) * 4096n,
    flags: 3,
  });
  const commands: DriverCommand[] = [
    map(5, 7, 2),
    map(0x10_0000 - 1, 0xf_ffff_ffff, 2),
    map(last, last, 1),
    map(0, 0, 2 ** 52),
    { op: 'unmap', domain: 9, virtStart: 2n ** 64n - 8192n, virtEnd: 2n ** 64n - 1n },
    { op: 'attach', domain: 4, endpoint: 40, flags: 1 },
    { op: 'probe', endpoint: 41 },
  ];
  commands.forEach((command, i) => {
    const expected = bytesOf(encoder.encode(command));
    encoder.bytes.fill(0xee);
    expect(bytesOf(encoder.encodeEntry(kick, i))).toBe(expected);
  });
  kick.op[5] = VIRTIO_IOMMU_T_DETACH;
  expect(bytesOf(encoder.encodeEntry(kick, 5))).toBe('0200000004000000280000000000000000000000');
});

/** A RESV_MEM property; `length` overrides the value's length. */
function property(subtype: number, start: bigint, end: bigint, length = 20, type = 1): number[] {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, type, true);
  view.setUint16(2, length, true);
  view.setUint8(4, subtype);
  view.setBigUint64(8, start, true);
  view.setBigUint64(16, end, true);
  return [...bytes];
}

const MSI = property(1, 0xfee0_0000n, 0xfeef_ffffn);
const MSI_REGION = { kind: 'msi', subtype: 1, start: 0xfee0_0000n, end: 0xfeef_ffffn };

test('properties are read until type 0 or the end of the buffer', () => {
  const two = [...property(0, 0n, 0xfffn), ...MSI];
  const regions = [{ kind: 'reserved', subtype: 0, start: 0n, end: 0xfffn }, MSI_REGION];
  for (const probeSize of [48, 49, 512]) {
    const writable = new Uint8Array(probeSize + 4);
    writable.set(two);
    expect(parseProperties(writable, probeSize)).toEqual({ regions, unknownTypes: [], error: undefined });
  }
  const stopped = Uint8Array.from([...MSI, 0, 0, 0, 0, ...MSI]);
  expect(parseProperties(stopped, 52).regions).toEqual([MSI_REGION]);
  expect(parseProperties(new Uint8Array(0), 512)).toEqual({ regions: [], unknownTypes: [], error: undefined });
  expect(parseProperties(Uint8Array.from(MSI), 0).regions).toEqual([]);
});

test('as Linux: reserved type bits are masked off, unknown types are stepped over, unknown subtypes are reserved', () => {
  const bytes = Uint8Array.from([
    ...property(0, 0n, 0n, 20, 0xf001),
    ...property(0, 1n, 2n, 20, 0x7ff),
    ...property(9, 0x1000n, 0x1fffn),
    ...[5, 0, 0, 0],
    ...MSI,
  ]);
  expect(parseProperties(bytes, bytes.length)).toEqual({
    regions: [
      { kind: 'reserved', subtype: 0, start: 0n, end: 0n },
      { kind: 'reserved', subtype: 9, start: 0x1000n, end: 0x1fffn },
      MSI_REGION,
    ],
    unknownTypes: [0x7ff, 5],
    error: undefined,
  });
});

test('as Linux: faults of a property count only when no good one follows', () => {
  const all = property(0, 0n, 2n ** 64n - 1n);
  const short = property(0, 0n, 0xfffn, 19);
  const parse = (bytes: number[]): unknown => parseProperties(Uint8Array.from(bytes), bytes.length).error;
  expect(parse(all)).toBe('EOVERFLOW');
  expect(parse(property(0, 0x1000n, 0xfffn))).toBe('EOVERFLOW');
  expect(parse(property(0, 0n, 2n ** 64n - 2n))).toBeUndefined();
  expect(parse(short)).toBe('EINVAL');
  expect(parse(property(0, 0n, 2n ** 64n - 1n, 19))).toBe('EOVERFLOW');
  expect(parse([...all, ...MSI])).toBeUndefined();
  expect(parse([...MSI, ...all])).toBe('EOVERFLOW');
  expect(parse(property(0, 0n, 0n, 0xfffc))).toBe('ENDLESS');
  expect(parse(property(0, 0n, 0n, 0xfffc, 3))).toBe('ENDLESS');
});

test('a property that is cut short by the end of the buffer reads on into the tail', () => {
  const bytes = Uint8Array.from([...MSI.slice(0, 20), 0xaa, 0, 0, 0]);
  expect(parseProperties(bytes, 20).regions).toEqual([{ ...MSI_REGION, end: 0xaa_feef_ffffn }]);
});

test('fault records: fields, omitted address, and what Linux ignores', () => {
  const record = (head: number, flags: number): Uint8Array => {
    const bytes = new Uint8Array(24);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, head, true);
    view.setUint32(4, flags, true);
    view.setUint32(8, 40, true);
    view.setUint32(12, 0xffff_ffff, true);
    view.setBigUint64(16, 0x7000_2000_00n, true);
    return bytes;
  };
  expect(parseFault(record(2, 0x101), 24)).toEqual({
    reason: 2,
    flags: 0x101,
    endpoint: 40,
    address: 0x7000_2000_00n,
    usedLength: 24,
  });
  expect(parseFault(record(9, 2), 16)).toMatchObject({ reason: 9, address: undefined, usedLength: 16 });
  expect(parseFault(record(0x100, 0), 24)).toBeUndefined();
  expect(parseFault(record(0, 0), 25)).toBeUndefined();
});

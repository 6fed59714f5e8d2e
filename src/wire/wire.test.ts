import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import * as abi from './abi.ts';
import { encodeConfig } from './config.ts';
import { encodeFault, encodeProperties, encodeTail } from './reply.ts';
import { RequestRecord, decodeRequest, requestBytes } from './request.ts';

interface Layout {
  readonly struct: string;
  readonly size: number;
  readonly fields: readonly { readonly name: string; readonly offset: number; readonly size: number }[];
}

function golden(name: string): Layout {
  return JSON.parse(readFileSync(new URL(`../../spec/layout/${name}.json`, import.meta.url), 'utf8')) as Layout;
}

const STRUCTS: readonly [string, Readonly<Record<string, number>>][] = [
  ['config', abi.Config],
  ['head', abi.Head],
  ['tail', abi.Tail],
  ['attach', abi.Attach],
  ['detach', abi.Detach],
  ['map', abi.MapRequest],
  ['unmap', abi.Unmap],
  ['probe', abi.Probe],
  ['property', abi.ProbeProperty],
  ['resv-mem', abi.ResvMem],
  ['fault', abi.Fault],
];

describe('wire layouts', () => {
  it.each(STRUCTS)('%s agrees with its golden file field by field', (name, offsets) => {
    const layout = golden(name);
    const { SIZE, ...fields } = offsets;
    expect(SIZE).toBe(layout.size);
    expect(fields).toEqual(Object.fromEntries(layout.fields.map((field) => [field.name, field.offset])));
  });

  it('constants agree with their golden file', () => {
    const url = new URL('../../spec/layout/constants.json', import.meta.url);
    const groups = JSON.parse(readFileSync(url, 'utf8')) as Record<string, Record<string, number>>;
    const wanted = Object.values(groups).flatMap((group) => Object.entries(group));
    const ours = new Map(Object.entries(abi).filter(([, value]) => typeof value === 'number'));
    const named = wanted.filter(([name]) => name.startsWith('VIRTIO_'));
    expect(Object.fromEntries(named.map(([name]) => [name, ours.get(name)]))).toEqual(Object.fromEntries(named));
    expect(named.length).toBeGreaterThanOrEqual(35);
  });

  it('requires of each request what its golden file says', () => {
    for (const [type, name] of ['attach', 'detach', 'map', 'unmap', 'probe'].entries()) {
      expect(requestBytes(type + 1)).toBe(golden(name).size);
    }
  });
});

function view(bytes: number[]): DataView {
  const buffer = new Uint8Array(abi.Probe.SIZE);
  buffer.set(bytes);
  return new DataView(buffer.buffer);
}

describe('decodeRequest', () => {
  it('reads every field of a MAP, unaligned 64-bit fields included', () => {
    const bytes = [3, 0xaa, 0xbb, 0xcc, 1, 2, 3, 4];
    for (let i = 8; i < 36; i++) bytes.push(i);
    const record = new RequestRecord();
    expect(decodeRequest(view(bytes), 36, record)).toBe(true);
    expect(record).toMatchObject({
      type: 3,
      domain: 0x04030201,
      startLow: 0x0b0a0908,
      startHigh: 0x0f0e0d0c,
      endLow: 0x13121110,
      endHigh: 0x17161514,
      physLow: 0x1b1a1918,
      physHigh: 0x1f1e1d1c,
      flags: 0x23222120,
    });
  });

  it.each([1, 2, 3, 4, 5])('refuses type %i one byte short, takes it exact and longer [T-OP-1]', (type) => {
    const needed = requestBytes(type);
    const record = new RequestRecord();
    expect(decodeRequest(view([type]), needed - 1, record)).toBe(false);
    expect(decodeRequest(view([type]), needed, record)).toBe(true);
    expect(decodeRequest(view([type]), abi.Probe.SIZE, record)).toBe(true);
  });

  it('refuses unknown types whatever their length [D-OP-2]', () => {
    const record = new RequestRecord();
    for (const type of [0, 6, 7, 8, 255]) expect(decodeRequest(view([type]), abi.Probe.SIZE, record)).toBe(false);
    for (const length of [0, 1, 3]) expect(decodeRequest(view([1]), length, record)).toBe(false);
  });

  it('sees each reserved byte of ATTACH and UNMAP [D-ATT-1]', () => {
    const record = new RequestRecord();
    for (let i = 16; i < 20; i++) {
      const bytes = new Array<number>(20).fill(0);
      bytes[0] = 1;
      bytes[i] = 1;
      decodeRequest(view(bytes), 20, record);
      expect(record.reservedSet).toBe(true);
    }
    for (let i = 24; i < 28; i++) {
      const bytes = new Array<number>(28).fill(0);
      bytes[0] = 4;
      bytes[i] = 0x80;
      decodeRequest(view(bytes), 28, record);
      expect(record.reservedSet).toBe(true);
    }
  });
});

describe('encoders', () => {
  it('writes tail.reserved as zero [D-OP-4]', () => {
    const bytes = new Uint8Array(6).fill(0xa5);
    encodeTail(bytes, 1, 8);
    expect([...bytes]).toEqual([0xa5, 8, 0, 0, 0, 0xa5]);
  });

  it('encodes RESV_MEM of a real machine byte for byte [D-PRB-4] [D-PRB-5] [D-PRB-6] [D-PRB-8] [D-RES-1]', () => {
    const properties = encodeProperties(
      [
        { kind: 'reserved', start: 0xe8000n, end: 0xe8fffn },
        { kind: 'reserved', start: 0xf4000n, end: 0xf4fffn },
        { kind: 'reserved', start: 0x75f6f000n, end: 0x7df84fffn },
        { kind: 'msi', start: 0xfee00000n, end: 0xfeefffffn },
      ],
      128,
    );
    const hex = [...properties].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    expect(hex).toBe(
      '010014000000000000800e0000000000ff8f0e0000000000' +
        '010014000000000000400f0000000000ff4f0f0000000000' +
        '010014000000000000f0f67500000000ff4ff87d00000000' +
        '01001400010000000000e0fe00000000ffffeffe00000000' +
        '00'.repeat(32),
    );
  });

  it('encodes a fault record with zero reserved fields [D-FLT-1] [D-FLT-2]', () => {
    const bytes = new Uint8Array(24).fill(0xff);
    encodeFault(new DataView(bytes.buffer), 2, 0x102, 0x28, 0x70, 0x200000);
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    expect(hex).toBe('02000000' + '02010000' + '28000000' + '00000000' + '0000200070000000');
  });

  it('encodes the configuration space in 40 bytes [T-CFG-0]', () => {
    const bytes = new Uint8Array(40).fill(0xff);
    encodeConfig(
      {
        pageSizeMask: 0x40201000n,
        inputRange: { start: 0x1000n, end: 0x7fffffffffffn },
        domainRange: { start: 3, end: 0xffffffff },
        probeSize: 512,
        bypass: 1,
      },
      bytes,
    );
    const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    expect(hex).toBe(
      '0010204000000000' + '0010000000000000' + 'ffffffffff7f0000' + '03000000' + 'ffffffff' + '00020000' + '01000000',
    );
  });
});

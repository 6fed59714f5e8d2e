// The requests one by one, through the ring and without one: every status, the limits at N - 1, N and N + 1, and all
// granules. Titles name the requirements (spec/requirements.json). Range ends are inclusive, as on the wire.
import { describe, expect, it } from 'vitest';
import { PAGE, Rig, span } from '../../test/iommu/rig.ts';
import type { DriverCommand } from '../testing/requests.ts';
import { RequestEncoder } from '../testing/requests.ts';
import { Feature } from '../virtio/features.ts';
import { GuestMemory } from '../virtio/memory.ts';
import { IommuCore } from './core.ts';
import type { IommuOptions } from './options.ts';
import { statusName } from './status.ts';

const U64 = (1n << 64n) - 1n;
const bits = (...numbers: number[]): bigint =>
  numbers.reduce((mask, bit) => mask | (1n << BigInt(bit)), Feature.version1 | Feature.indirectDesc);
const MSI = { kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn } as const;

/** A queue-less device with all features and endpoint 1, attached to domain 1. */
class Bare {
  readonly core: IommuCore;
  readonly #encoder = new RequestEncoder();

  constructor(options: IommuOptions = {}) {
    this.core = new IommuCore(new GuestMemory(), options);
    this.core.addEndpoint({ id: 1 });
    this.core.addEndpoint({ id: 2 });
    this.core.setFeatures(0x77n);
    expect(this.send({ op: 'attach', domain: 1, endpoint: 1 })).toBe('OK');
  }

  send(command: DriverCommand): string {
    const length = this.#encoder.encode(command);
    const reply = new Uint8Array(4).fill(0xa5);
    expect(this.core.request(this.#encoder.bytes.slice(0, length), reply)).toBe(4);
    expect([...reply.subarray(1)]).toEqual([0, 0, 0]);
    return statusName(reply[0]!);
  }

  map(virtStart: bigint, virtEnd: bigint, physStart: bigint, flags = 3): string {
    return this.send({ op: 'map', domain: 1, virtStart, virtEnd, physStart, flags });
  }

  unmap(virtStart: bigint, virtEnd: bigint): string {
    return this.send({ op: 'unmap', domain: 1, virtStart, virtEnd });
  }

  get size(): number {
    return this.core.stats().mappings;
  }

  to(iova: bigint): bigint | string {
    const result = this.core.translate(1, iova, 1, 'read');
    return result.ok ? result.pieces[0]!.gpa : result.fault.reason;
  }
}

describe('ATTACH', () => {
  it('rejects reserved bytes with INVAL and attaches nothing [D-ATT-1]', () => {
    const rig = new Rig({ emulated: [1] });
    const readable = new Uint8Array(20);
    readable[0] = 1;
    readable[8] = 1;
    for (const at of [16, 19]) {
      const dirty = readable.slice();
      dirty[at] = 1;
      expect(rig.driver.raw(dirty, 4)).toMatchObject({ usedLength: 4, writable: Uint8Array.of(4, 0, 0, 0) });
    }
    expect(rig.core.stats().domains).toBe(0);
    expect(rig.driver.raw(readable, 4).writable[0]).toBe(0);
  });

  it('rejects every unknown flag with INVAL [D-ATT-2]', () => {
    const rig = new Rig({ emulated: [1] });
    for (const flags of [2, 3, 4, 0x8000_0000, 0xffff_ffff]) expect(rig.attach(1, 1, flags)).toBe('INVAL');
    expect(rig.core.stats().domains).toBe(0);
  });

  it('takes the BYPASS flag only with BYPASS_CONFIG negotiated [T-ATT-4, D-ATT-2]', () => {
    expect(new Rig({ emulated: [1] }).attach(1, 1, 1)).toBe('OK');
    expect(new Rig({ emulated: [1], accept: bits(0, 1, 2, 4, 5) }).attach(1, 1, 1)).toBe('INVAL');
  });

  it('rejects an unknown endpoint with NOENT, after reserved and flags [D-ATT-3]', () => {
    const rig = new Rig({ emulated: [1] });
    expect(rig.attach(1, 2)).toBe('NOENT');
    expect(rig.attach(1, 0xffff_ffff)).toBe('NOENT');
    expect(rig.attach(1, 2, 2)).toBe('INVAL');
    expect(rig.core.stats().domains).toBe(0);
  });

  it('puts several endpoints into a domain, which see the same mappings [D-ATT-4, T-MAP-1]', () => {
    const rig = new Rig({ emulated: [1, 2, 3] });
    expect([rig.attach(7, 1), rig.attach(7, 2), rig.map(7, 5, 1, 0x100), rig.attach(7, 3)]).toEqual(
      Array(4).fill('OK'),
    );
    for (const endpoint of [1, 2, 3])
      expect(rig.translate(endpoint, 5n * PAGE + 3n, 1)).toMatchObject({ pieces: [{ gpa: 0x100n * PAGE + 3n }] });
  });

  it('rejects a BYPASS flag that does not fit the domain, also for its only endpoint [D-ATT-5]', () => {
    const rig = new Rig({ emulated: [1, 2] });
    expect([rig.attach(1, 1), rig.attach(1, 2, 1), rig.attach(1, 1, 1)]).toEqual(['OK', 'INVAL', 'INVAL']);
    expect([rig.attach(2, 2, 1), rig.attach(2, 1), rig.attach(2, 2)]).toEqual(['OK', 'INVAL', 'INVAL']);
    expect(rig.core.state.endpoints.get(1)!.domain!.id).toBe(1);
  });

  it('moves an endpoint out of its domain, which ends with it [D-ATT-6, T-DET-2]', () => {
    const rig = new Rig({ emulated: [1, 2] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    expect(rig.attach(2, 1)).toBe('OK');
    expect(rig.translate(1, 5n * PAGE, 1)).toMatchObject({ ok: false });
    expect(rig.map(1, 6, 1, 0x100)).toBe('NOENT');
    expect(rig.core.stats()).toMatchObject({ domains: 1, mappings: 0 });
    expect(rig.attach(1, 2)).toBe('OK');
    expect(rig.mappings(1)).toEqual([]);
  });

  it('leaves a refused move where it was [D-ATT-6, D-ATT-9]', () => {
    const rig = new Rig({ emulated: [1, 2], reserved: { 1: [MSI] } });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.attach(2, 2);
    rig.map(2, 0xfee00, 1, 0x100);
    expect(rig.attach(2, 1)).toBe('INVAL');
    expect(rig.translate(1, 5n * PAGE, 1).ok).toBe(true);
    expect([rig.unmap(2, 0xfee00, 1), rig.attach(2, 1)]).toEqual(['OK', 'OK']);
  });

  it('keeps mappings at a repeated ATTACH [D-ATT-9]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    expect(rig.attach(1, 1)).toBe('OK');
    expect(rig.mappings(1)).toEqual([[5, 1, 0x100, 3]]);
  });

  it('takes endpoints with other reserved regions, none is incompatible; MAP avoids all [D-ATT-7, D-ATT-8]', () => {
    const region = (page: number): { kind: 'reserved'; start: bigint; end: bigint } => ({
      kind: 'reserved',
      start: BigInt(page) * PAGE,
      end: BigInt(page + 1) * PAGE - 1n,
    });
    const rig = new Rig({ emulated: [1, 2, 3], reserved: { 1: [region(1)], 2: [region(3)], 3: [region(2)] } });
    for (const endpoint of [1, 2, 3]) expect(rig.attach(1, endpoint)).toBe('OK');
    expect([0, 1, 2, 3, 4].map((page) => rig.map(1, page, 1, 0x100))).toEqual(['OK', 'INVAL', 'INVAL', 'INVAL', 'OK']);
    rig.detach(1, 2);
    expect([1, 2, 3].map((page) => rig.map(1, page, 1, 0x100))).toEqual(['INVAL', 'INVAL', 'OK']);
    expect(rig.attach(1, 2)).toBe('INVAL');
  });

  it('creates an unknown domain, of any number inside domain_range only [T-ATT-1, T-CFG-3]', () => {
    const rig = new Rig({ emulated: [1], device: { domainRange: { start: 2, end: 9 } } });
    expect([1, 2, 9, 10, 0xffff_ffff].map((domain) => rig.attach(domain, 1))).toEqual([
      'RANGE',
      'OK',
      'OK',
      'RANGE',
      'RANGE',
    ]);
    const all = new Rig({ emulated: [1], device: { features: ['mapUnmap'] }, accept: bits(2) });
    expect([0, 0xffff_ffff].map((domain) => all.attach(domain, 1))).toEqual(['OK', 'OK']);
  });

  it('answers NOMEM above the cap on domains and tells it, without an address [T-ST-8, D-FLT-4]', () => {
    const rig = new Rig({ emulated: [1, 2, 3], device: { maxDomains: 2 } });
    expect([rig.attach(1, 1), rig.attach(2, 2), rig.attach(3, 3)]).toEqual(['OK', 'OK', 'NOMEM']);
    expect(rig.attach(4, 2)).toBe('OK'); // the domain that ends with the move does not count
    expect(rig.attach(1, 3)).toBe('OK');
    expect(rig.counters).toMatchObject({ capRefusals: 1, refused: 1, hostRefusals: 0 });
    expect(rig.lastEvent('host-refusal')).toMatchObject({ request: 'ATTACH', status: 'NOMEM', domain: 3, endpoint: 3 });
    expect(rig.faults()).toEqual([{ reason: 0, flags: 0, endpoint: 3, address: undefined, usedLength: 24 }]);
  });
});

describe('DETACH', () => {
  it('ignores its reserved bytes [D-DET-1]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    const readable = Uint8Array.of(2, 9, 9, 9, 1, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8);
    expect(rig.driver.raw(readable, 4)).toMatchObject({ usedLength: 4, writable: new Uint8Array(4) });
    expect(rig.core.stats().domains).toBe(0);
  });

  it('rejects an unknown endpoint with NOENT [D-DET-2]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    expect(rig.detach(1, 2)).toBe('NOENT');
  });

  it('rejects a domain that the endpoint is not in with INVAL [D-DET-3]', () => {
    const rig = new Rig({ emulated: [1, 2] });
    expect(rig.detach(1, 1)).toBe('INVAL');
    rig.attach(1, 1);
    rig.attach(2, 2);
    expect([rig.detach(2, 1), rig.detach(3, 1), rig.detach(1, 1), rig.detach(1, 1)]).toEqual([
      'INVAL',
      'INVAL',
      'OK',
      'INVAL',
    ]);
  });

  it('takes away what the domain gave, and may leave bypass [D-DET-4, T-DET-1]', () => {
    const rig = new Rig({ emulated: [1, 2] });
    rig.attach(1, 1);
    rig.attach(1, 2);
    rig.map(1, 5, 1, 0x100);
    rig.detach(1, 1);
    expect(rig.translate(1, 5n * PAGE, 1)).toMatchObject({ ok: true, pieces: [{ gpa: 5n * PAGE }] });
    rig.driver.setBypass(0);
    expect(rig.translate(1, 5n * PAGE, 1)).toMatchObject({ ok: false, fault: { reason: 'domain' } });
    expect(rig.translate(2, 5n * PAGE, 1)).toMatchObject({ ok: true, pieces: [{ gpa: 0x100n * PAGE }] });
  });

  it('ends the domain with its last endpoint; the id starts empty again [T-DET-2]', () => {
    const rig = new Rig({ emulated: [1, 2] });
    rig.attach(1, 1);
    rig.map(1, 5, 1, 0x100);
    rig.detach(1, 1);
    expect([rig.map(1, 6, 1, 0x100), rig.unmap(1, 5, 1)]).toEqual(['NOENT', 'NOENT']);
    expect(rig.attach(1, 2, 1)).toBe('OK');
    expect(rig.core.stats()).toMatchObject({ domains: 1, mappings: 0 });
  });
});

describe('MAP', () => {
  it('rejects what is not aligned to the granule with RANGE [D-MAP-1]', () => {
    const bare = new Bare();
    expect(bare.map(1n, 4095n, 0n)).toBe('RANGE');
    expect(bare.map(0n, 4096n, 0n)).toBe('RANGE');
    expect(bare.map(0n, 4094n, 0n)).toBe('RANGE');
    expect(bare.map(0n, 4095n, 1n)).toBe('RANGE');
    expect(bare.map(0n, 4095n, 2048n)).toBe('RANGE');
    expect(bare.map(0n, 4095n, 4096n)).toBe('OK');
    expect(bare.size).toBe(1);
  });

  it('rejects a range that meets any mapping, and changes nothing [D-MAP-2]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    rig.map(1, 10, 2, 0x100);
    for (const [page, pages] of [
      [10, 2],
      [9, 2],
      [11, 2],
      [8, 8],
      [10, 1],
      [11, 1],
    ] as const)
      expect(rig.map(1, page, pages, 0x110)).toBe('INVAL');
    expect([rig.map(1, 9, 1, 0x110), rig.map(1, 12, 1, 0x110)]).toEqual(['OK', 'OK']);
    expect(rig.mappings(1)).toHaveLength(3);
  });

  it('rejects an unknown flag with INVAL, before everything else [D-MAP-3]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    for (const flags of [8, 16, 0x100, 0x8000_0000, 0xffff_ffff]) expect(rig.map(1, 0, 1, 0, flags)).toBe('INVAL');
    expect(rig.map(9, 0, 1, 0, 8)).toBe('INVAL');
    for (const flags of [0, 1, 2, 3, 4, 5, 6, 7]) expect(rig.map(1, flags, 1, 0, flags)).toBe('OK');
  });

  it('takes the MMIO flag only when it is negotiated [T-MAP-3]', () => {
    const rig = new Rig({ emulated: [1], accept: bits(0, 1, 2, 4, 6) });
    rig.attach(1, 1);
    expect([rig.map(1, 0, 1, 0, 7), rig.map(1, 0, 1, 0, 4), rig.map(1, 0, 1, 0, 3)]).toEqual(['INVAL', 'INVAL', 'OK']);
  });

  it('rejects an unknown domain with NOENT and a bypass domain with INVAL [D-MAP-4, D-MAP-5]', () => {
    const rig = new Rig({ emulated: [1] });
    expect(rig.map(1, 0, 1, 0)).toBe('NOENT');
    rig.attach(1, 1, 1);
    expect([rig.map(1, 0, 1, 0), rig.map(2, 0, 1, 0)]).toEqual(['INVAL', 'NOENT']);
  });

  it('maps with an offset, every byte of the range [T-MAP-1]', () => {
    const bare = new Bare();
    expect(bare.map(0x10_0000n, 0x10_2fffn, 0x7_0000_0000n)).toBe('OK');
    expect(bare.to(0xf_ffffn)).toBe('mapping');
    expect(bare.to(0x10_0000n)).toBe(0x7_0000_0000n);
    expect(bare.to(0x10_2fffn)).toBe(0x7_0000_2fffn);
    expect(bare.to(0x10_3000n)).toBe('mapping');
  });

  it('takes a physical range without memory, up to 2^64 - 1 and not beyond [T-MAP-2]', () => {
    const bare = new Bare();
    expect(bare.map(0n, 0xfffn, U64 - 0xfffn)).toBe('OK');
    expect(bare.map(0x1000n, 0x2fffn, U64 - 0xfffn)).toBe('RANGE');
    expect(bare.map(0x1000n, 0x2fffn, U64 - 0x1fffn)).toBe('OK');
    expect(bare.to(0x2fffn)).toBe(U64);
    expect(bare.map(0x3000n, U64, 0x3000n)).toBe('OK');
    expect(bare.to(U64)).toBe(U64);
    expect(new Bare().map(0n, U64, 0x1000n)).toBe('RANGE');
    expect(new Bare().map(0n, U64, 0n)).toBe('OK');
  });

  it('rejects an inverted range with RANGE', () => {
    const bare = new Bare();
    expect(bare.map(0x1_0000_0000n, 0xffff_ffffn, 0n)).toBe('RANGE');
    expect(bare.map(0x2000n, 0xfffn, 0n)).toBe('RANGE');
    expect(bare.unmap(0x1_0000_0000n, 0xffff_ffffn)).toBe('RANGE');
    expect(bare.unmap(1n, 0n)).toBe('RANGE');
  });

  it('rejects what is outside input_range, at both edges [T-CFG-2]', () => {
    const bare = new Bare({ inputRange: { start: 0x3000n, end: 0x1_0000_6fffn } });
    expect(bare.map(0x2000n, 0x3fffn, 0n)).toBe('RANGE');
    expect(bare.map(0x2000n, 0x2fffn, 0n)).toBe('RANGE');
    expect(bare.map(0x3000n, 0x3fffn, 0n)).toBe('OK');
    expect(bare.map(0x1_0000_6000n, 0x1_0000_6fffn, 0n)).toBe('OK');
    expect(bare.map(0x1_0000_7000n, 0x1_0000_7fffn, 0n)).toBe('RANGE');
    expect(bare.map(0x1_0000_5000n, 0x1_0000_7fffn, 0n)).toBe('RANGE');
    expect(bare.map(U64 - 0xfffn, U64, 0n)).toBe('RANGE');
  });

  it('rejects a reserved region of any endpoint, from one page before to one behind [D-RES-4]', () => {
    const rig = new Rig({ emulated: [1, 2], reserved: { 2: [MSI] } });
    rig.attach(1, 1);
    expect(rig.map(1, 0xfee00, 1, 0)).toBe('OK');
    rig.unmap(1, 0xfee00, 1);
    rig.attach(1, 2);
    expect([0xfedff, 0xfee00, 0xfeeff, 0xfef00].map((page) => rig.map(1, page, 1, 0))).toEqual([
      'OK',
      'INVAL',
      'INVAL',
      'OK',
    ]);
    expect(rig.map(1, 0, 0x10_0000, 0)).toBe('INVAL');
  });

  it('answers NOMEM above the cap on mappings; mistakes keep their own status [T-ST-8]', () => {
    const rig = new Rig({ emulated: [1, 2], device: { maxMappings: 2 } });
    rig.attach(1, 1);
    rig.attach(2, 2);
    expect([rig.map(1, 1, 1, 0), rig.map(2, 1, 1, 0), rig.map(1, 2, 1, 0)]).toEqual(['OK', 'OK', 'NOMEM']);
    expect([rig.map(1, 1, 1, 0), rig.map(1, 2, 1, 0, 8)]).toEqual(['INVAL', 'INVAL']);
    expect(rig.counters).toMatchObject({ capRefusals: 1, refused: 1 });
    expect(rig.lastEvent('host-refusal')).toMatchObject({
      request: 'MAP',
      status: 'NOMEM',
      iova: 2n * PAGE,
      domain: 1,
    });
    expect(rig.faults()).toEqual([{ reason: 0, flags: 0x100, endpoint: 1, address: 2n * PAGE, usedLength: 24 }]);
    expect([rig.unmap(2, 1, 1), rig.map(1, 2, 1, 0)]).toEqual(['OK', 'OK']);
  });

  it('exists only with MAP_UNMAP negotiated, as UNMAP does [T-MAP-4, T-UNM-2]', () => {
    const rig = new Rig({ emulated: [1], accept: bits(0, 1, 4, 5, 6) });
    rig.attach(1, 1);
    expect(rig.driver.map(1, 0n, 0xfffn, 0n)).toMatchObject({ usedLength: 0 });
    expect(rig.driver.unmap(1, 0n, 0xfffn)).toMatchObject({ usedLength: 0 });
    expect(rig.counters['unwritten']).toBe(2);
  });
});

describe('UNMAP', () => {
  it('rejects reserved bytes with INVAL and removes nothing [D-UNM-1]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    rig.map(1, 0, 1, 0);
    const readable = new Uint8Array(28);
    readable.set([4, 0, 0, 0, 1]);
    readable.set([0xff, 0x0f], 16);
    for (const at of [24, 27]) {
      const dirty = readable.slice();
      dirty[at] = 0x80;
      expect(rig.driver.raw(dirty, 4).writable[0]).toBe(4);
      expect(rig.mappings(1)).toHaveLength(1);
    }
    expect(rig.driver.raw(readable, 4).writable[0]).toBe(0);
    expect(rig.mappings(1)).toEqual([]);
  });

  it('rejects an unknown domain with NOENT and a bypass domain with INVAL [D-UNM-2, D-UNM-3]', () => {
    const rig = new Rig({ emulated: [1] });
    expect(rig.unmap(1, 0, 1)).toBe('NOENT');
    rig.attach(1, 1, 1);
    expect(rig.unmap(1, 0, 1)).toBe('INVAL');
  });

  it('removes nothing when an end cuts a mapping [D-UNM-4]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    rig.map(1, 10, 4, 0x100);
    rig.map(1, 14, 1, 0x110);
    rig.map(1, 15, 4, 0x120);
    for (const [page, pages] of [
      [10, 1],
      [11, 4],
      [13, 6],
      [10, 6],
      [12, 1],
      [0, 18],
    ] as const)
      expect(rig.unmap(1, page, pages)).toBe('RANGE');
    expect(rig.mappings(1)).toHaveLength(3);
    expect([rig.unmap(1, 14, 5), rig.mappings(1).length]).toEqual(['OK', 1]);
  });

  it('cuts inside a granule are cuts; unaligned ends around whole mappings are not [D-UNM-4, D-UNM-5]', () => {
    const bare = new Bare();
    bare.map(0x1000n, 0x2fffn, 0n);
    for (const [start, end] of [
      [0x1001n, 0x2fffn],
      [0x1000n, 0x2ffen],
      [0x1800n, 0x1900n],
      [0x1000n, 0x1fffn],
    ] as const)
      expect(bare.unmap(start, end)).toBe('RANGE');
    expect([bare.unmap(0x3000n, 0x3001n), bare.unmap(0x10n, 0xfffn), bare.size]).toEqual(['OK', 'OK', 1]);
    expect([bare.unmap(0xff7n, 0x3001n), bare.size]).toEqual(['OK', 0]);
  });

  it('spills over holes, both ends, and the end of the space [D-UNM-5]', () => {
    const bare = new Bare({ inputRange: { start: 0n, end: 0xffff_ffffn } });
    bare.map(0x1000n, 0x1fffn, 0n);
    bare.map(0x8000n, 0x8fffn, 0n);
    bare.map(0xffff_f000n, 0xffff_ffffn, 0n);
    expect([bare.unmap(0n, 0x8fffn), bare.size]).toEqual(['OK', 1]);
    expect([bare.unmap(0x1_0000_0000n, U64), bare.unmap(U64, U64), bare.size]).toEqual(['OK', 'OK', 1]);
    expect([bare.unmap(0xffff_f800n, U64), bare.size]).toEqual(['RANGE', 1]);
    expect([bare.unmap(0n, U64), bare.size]).toEqual(['OK', 0]);
  });

  it('takes one interval for each MAP, neighbours never merge [T-UNM-1]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    rig.map(1, 0, 1, 0x100);
    rig.map(1, 1, 1, 0x101);
    expect(rig.unmap(1, 1, 1)).toBe('OK');
    expect(rig.mappings(1)).toEqual([[0, 1, 0x100, 3]]);
    rig.map(1, 1, 2, 0x101);
    expect([rig.unmap(1, 0, 2), rig.unmap(1, 2, 1)]).toEqual(['RANGE', 'RANGE']);
  });

  it.each([
    ['T-UNM-EX1', [], [0, 4], 'OK', 0],
    ['T-UNM-EX2', [[0, 9]], [0, 9], 'OK', 0],
    [
      'T-UNM-EX3',
      [
        [0, 4],
        [5, 9],
      ],
      [0, 9],
      'OK',
      0,
    ],
    ['T-UNM-EX4', [[0, 9]], [0, 4], 'RANGE', 1],
    [
      'T-UNM-EX5',
      [
        [0, 4],
        [5, 9],
      ],
      [0, 4],
      'OK',
      1,
    ],
    ['T-UNM-EX6', [[0, 4]], [0, 9], 'OK', 0],
    [
      'T-UNM-EX7',
      [
        [0, 4],
        [10, 14],
      ],
      [0, 14],
      'OK',
      0,
    ],
  ] as const)('answers the example %s in bytes', (_id, maps, [from, to], status, left) => {
    const bare = new Bare({ pageSizeMask: 1n, inputRange: { start: 0n, end: (1n << 53n) - 1n } });
    for (const [start, end] of maps) expect(bare.map(BigInt(start), BigInt(end), 0n)).toBe('OK');
    expect(bare.unmap(BigInt(from), BigInt(to))).toBe(status);
    expect(bare.size).toBe(left);
  });

  it('answers the seven examples of the standard [T-UNM-EX1, T-UNM-EX2, T-UNM-EX3, T-UNM-EX4, T-UNM-EX5, T-UNM-EX6, T-UNM-EX7]', () => {
    const rig = new Rig({ emulated: [1] });
    rig.attach(1, 1);
    const example = (maps: [number, number][], from: number, to: number): [string, number] => {
      for (const [start, end] of maps) expect(rig.map(1, start, end - start + 1, 0)).toBe('OK');
      const result: [string, number] = [rig.unmap(1, from, to - from + 1), rig.mappings(1).length];
      rig.unmap(1, 0, 100);
      return result;
    };
    expect(example([], 0, 4)).toEqual(['OK', 0]);
    expect(example([[0, 9]], 0, 9)).toEqual(['OK', 0]);
    expect(example([[0, 4], [5, 9]], 0, 9)).toEqual(['OK', 0]); // prettier-ignore
    expect(example([[0, 9]], 0, 4)).toEqual(['RANGE', 1]);
    expect(example([[0, 4], [5, 9]], 0, 4)).toEqual(['OK', 1]); // prettier-ignore
    expect(example([[0, 4]], 0, 9)).toEqual(['OK', 0]);
    expect(example([[0, 4], [10, 14]], 0, 14)).toEqual(['OK', 0]); // prettier-ignore
  });
});

describe('granules', () => {
  const shifts = [0, 12, 16, 20, 31, 32, 33, 40, 52, 53, 54, 63];

  it.each(shifts)('2^%d bytes is the unit of MAP, UNMAP and translation [T-CFG-1, D-CFG-2, D-MAP-1]', (shift) => {
    const g = 1n << BigInt(shift);
    const end = shift < 12 ? (1n << 53n) - 1n : U64;
    const bare = new Bare({ pageSizeMask: g | (1n << 63n), inputRange: { start: 0n, end } });
    const top = end + 1n - g;
    expect(bare.map(0n, g - 1n, top)).toBe('OK');
    expect(bare.map(0n, g - 1n, top)).toBe('INVAL');
    expect(bare.map(top, end, 0n)).toBe('OK');
    expect([bare.to(0n), bare.to(g - 1n), bare.to(top), bare.to(end)]).toEqual([top, end, 0n, g - 1n]);
    if (shift < 62) expect([bare.to(g), bare.to(top - 1n)]).toEqual(['mapping', 'mapping']);
    if (shift > 0) {
      const half = g / 2n;
      expect(bare.unmap(0n, half - 1n)).toBe('RANGE');
      expect(bare.unmap(half, g - 1n)).toBe('RANGE');
      expect(bare.unmap(top + 1n, U64)).toBe('RANGE');
      expect(bare.map(0n, half - 1n, 0n)).toBe('RANGE');
      expect(bare.map(half, g - 1n, 0n)).toBe('RANGE');
      expect(bare.map(0n, g - 1n, half)).toBe('RANGE');
      const result = bare.core.translate(1, g - 3n, 3, 'write');
      expect(result).toEqual({ ok: true, pieces: [{ kind: 'memory', gpa: end - 2n, length: 3 }] });
    }
    expect(bare.map(0n, end, 1n << 62n)).toBe('RANGE');
    expect([bare.unmap(top, U64), bare.unmap(0n, g - 1n), bare.size]).toEqual(['OK', 'OK', 0]);
    expect([bare.map(0n, end, 0n), bare.size]).toEqual(['OK', 1]);
    expect(bare.to(end)).toBe(end);
  });

  it('below 4 KiB keeps 2^53 as the end of physical and virtual space [T-CFG-1]', () => {
    const top = 1n << 53n;
    for (const g of [1n, 512n, 2048n]) {
      const bare = new Bare({ pageSizeMask: g, inputRange: { start: 0n, end: top - 1n } });
      expect(bare.map(0n, g - 1n, top - g)).toBe('OK');
      expect(bare.map(g, 3n * g - 1n, top - g)).toBe('RANGE');
      expect(bare.map(g, 2n * g - 1n, top)).toBe('RANGE');
      expect(bare.map(g, 2n * g - 1n, 1n << 63n)).toBe('RANGE');
      expect(bare.map(g, 3n * g - 1n, top - 2n * g)).toBe('OK');
      expect(bare.map(top, top + g - 1n, 0n)).toBe('RANGE');
      expect(bare.map(U64 - g + 1n, U64, 0n)).toBe('RANGE');
      expect([bare.to(0n), bare.to(3n * g - 1n)]).toEqual([top - g, top - 1n]);
      // An UNMAP may name anything; keys above 2^53 are not exact, so they must never be looked up.
      for (const start of [top, top + g, 1n << 54n, 1n << 60n, U64]) expect(bare.unmap(start, U64)).toBe('OK');
      expect([bare.unmap(0n, 1n << 60n), bare.size]).toEqual(['OK', 0]);
    }
    expect(() => new Bare({ pageSizeMask: 1n })).toThrow(/pageSizeMask 0x1 has a granule of 1 bytes/);
    expect(() => new Bare({ pageSizeMask: 1n, inputRange: { start: 0n, end: top } })).toThrow(RangeError);
  });

  it('carries between the two words of an address', () => {
    const bare = new Bare();
    expect(bare.map(0xffff_f000n, 0x1_0000_0fffn, 0x5_ffff_f000n)).toBe('OK');
    expect(bare.to(0xffff_ffffn)).toBe(0x5_ffff_ffffn);
    expect(bare.to(0x1_0000_0000n)).toBe(0x6_0000_0000n);
    expect(bare.core.translate(1, 0xffff_fffen, 4, 'read')).toEqual({
      ok: true,
      pieces: [{ kind: 'memory', gpa: 0x5_ffff_fffen, length: 4 }],
    });
  });
});

describe('PROBE', () => {
  it('reports the regions with exact bytes, then zeroes [D-PRB-4, D-PRB-5, D-PRB-6, D-PRB-8, D-RES-1, T-PRB-1]', () => {
    const rmrr = { kind: 'reserved', start: 0x1_2345_6000n, end: 0x1_2345_6fffn } as const;
    const rig = new Rig({ emulated: [1], reserved: { 1: [rmrr, MSI] }, device: { probeSize: 72 } });
    const readable = new Uint8Array(72);
    readable[0] = 5;
    readable[4] = 1;
    const { usedLength, writable } = rig.driver.raw(readable, 76);
    const expected = new Uint8Array(76);
    expected.set([1, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0xff, 0xff, 0xef, 0xfe]);
    expected.set([1, 0, 20, 0, 0, 0, 0, 0, 0, 0x60, 0x45, 0x23, 1, 0, 0, 0, 0xff, 0x6f, 0x45, 0x23, 1], 24);
    expect([usedLength, [...writable]]).toEqual([76, [...expected]]);
    expect(rig.driver.probe(1).properties).toMatchObject({ error: undefined, regions: [MSI, rmrr] });
  });

  it('ignores its reserved bytes, and works after ATTACH as before [D-PRB-1, T-PRB-2]', () => {
    const rig = new Rig({ emulated: [1], reserved: { 1: [MSI] } });
    const readable = new Uint8Array(72).fill(0xff, 8);
    readable.set([5, 0, 0, 0, 1]);
    const before = rig.driver.raw(readable, 516);
    rig.attach(1, 1);
    expect(rig.driver.raw(readable, 516)).toMatchObject(before);
    expect([before.usedLength, before.writable[512]]).toEqual([516, 0]);
  });

  it('rejects an unknown endpoint with NOENT, zeroes before the tail [D-PRB-2]', () => {
    const rig = new Rig({ emulated: [1] });
    const readable = new Uint8Array(72);
    readable.set([5, 0, 0, 0, 9]);
    const { usedLength, writable } = rig.driver.raw(readable, 516);
    expect([usedLength, writable[512], writable.findIndex((byte) => byte !== 0)]).toEqual([516, 6, 512]);
  });

  it('returns the buffer unwritten where PROBE is not offered or not accepted [D-PRB-3]', () => {
    const readable = new Uint8Array(72);
    readable.set([5, 0, 0, 0, 1]);
    const none = new Rig({ emulated: [1], device: { features: ['mapUnmap'] }, accept: bits(2) });
    const left = new Rig({ emulated: [1], accept: bits(0, 1, 2, 5, 6) });
    for (const rig of [none, left]) {
      const { usedLength, writable } = rig.driver.raw(readable, 516);
      expect([usedLength, writable.every((byte) => byte === 0xa5 || byte === writable[0])]).toEqual([0, true]);
      expect(rig.counters['unwritten']).toBe(1);
    }
  });

  it('writes no property into a buffer that is too short [D-PRB-7]', () => {
    const rig = new Rig({ emulated: [1], reserved: { 1: [MSI] }, device: { probeSize: 24 } });
    const readable = new Uint8Array(72);
    readable.set([5, 0, 0, 0, 1]);
    expect(rig.driver.raw(readable, 27)).toMatchObject({
      usedLength: 27,
      writable: Uint8Array.from({ length: 27 }, (_, i) => (i === 23 ? 4 : 0)),
    });
    expect(rig.driver.raw(readable, 4)).toMatchObject({ usedLength: 4, writable: Uint8Array.of(4, 0, 0, 0) });
    expect(rig.driver.raw(readable, 28).writable[24]).toBe(0);
    const longer = rig.driver.raw(readable, 40);
    expect([longer.usedLength, longer.writable[0], longer.writable[36]]).toEqual([40, 1, 0]);
  });

  it('bounds the work for a writable part that is too long', () => {
    const core = new Bare({ probeSize: 24 }).core;
    const readable = new Uint8Array(72);
    readable.set([5, 0, 0, 0, 1]);
    expect(core.request(readable, new Uint8Array(24 + 4 + 65_536))).toBe(24 + 4 + 65_536);
    expect(core.request(readable, new Uint8Array(24 + 4 + 65_537))).toBe(0);
  });
});

describe('reserved regions', () => {
  const page = (number: number, pages = 1): { kind: 'reserved'; start: bigint; end: bigint } => {
    const [start, end] = span(number, pages);
    return { kind: 'reserved', start, end };
  };

  it('are rounded outward, merged and cut, with at most one MSI region [D-RES-2, D-RES-3]', () => {
    const core = new IommuCore(new GuestMemory(), { pageSizeMask: 0x1_0000n });
    core.addEndpoint({
      id: 1,
      reserved: [page(0x11), { ...page(0x28), kind: 'msi' }, page(0x20), page(0x1f), page(0x2e, 4), page(0x12)],
    });
    expect(core.reservedRegions(1)).toEqual([
      { kind: 'reserved', start: 0x1_0000n, end: 0x1_ffffn },
      { kind: 'msi', start: 0x2_0000n, end: 0x2_ffffn },
      { kind: 'reserved', start: 0x3_0000n, end: 0x3_ffffn },
    ]);
    const msi = { ...page(1), kind: 'msi' } as const;
    expect(() => core.addEndpoint({ id: 2, reserved: [msi, { ...page(0x80), kind: 'msi' }] })).toThrow(/at most one/);
    expect(core.stats().endpoints).toBe(1);
  });

  it('that do not fit a PROBE reply: throw, merge or PROBE error, without spanning the MSI region', () => {
    const reserved = [page(1), page(3), page(9), { ...page(11), kind: 'msi' as const }, page(13), page(20)];
    const make = (resvOverflow: IommuOptions['resvOverflow'], probeSize: number): Rig =>
      new Rig({ emulated: [1], reserved: { 1: reserved }, device: { resvOverflow: resvOverflow!, probeSize } });
    expect(() => make('throw', 143)).toThrow(/holds 6 regions, which need a probeSize of 144, not 143/);
    expect(make('throw', 144).driver.probe(1).properties.regions).toHaveLength(6);
    const merged = make('merge', 96)
      .driver.probe(1)
      .properties.regions.map(({ kind, start, end }) => [kind, start, end]);
    expect(merged).toEqual([
      ['reserved', ...span(1, 9)],
      ['msi', ...span(11, 1)],
      ['reserved', ...span(13, 1)],
      ['reserved', ...span(20, 1)],
    ]);
    expect(make('merge', 72).core.reservedRegions(1)).toHaveLength(3);
    expect(() => make('merge', 71)).toThrow(/probeSize/);
    const error = make('probe-error', 96);
    expect(statusName(error.driver.probe(1).status)).toBe('DEVERR');
    error.attach(1, 1);
    expect(error.map(1, 9, 1, 0)).toBe('INVAL');
  });

  it('must not cover the whole space, which Linux cannot hold, also after a merge', () => {
    const core = new IommuCore(new GuestMemory(), { resvOverflow: 'merge', probeSize: 24 });
    const low = { kind: 'reserved', start: 0n, end: 0xfffn } as const;
    const high = { kind: 'reserved', start: U64 - 0xfffn, end: U64 } as const;
    expect(() => core.addEndpoint({ id: 1, reserved: [{ kind: 'reserved', start: 0n, end: U64 }] })).toThrow(
      RangeError,
    );
    expect(() => core.addEndpoint({ id: 1, reserved: [low, high] })).toThrow(/covers the whole address space/);
    expect(core.stats().endpoints).toBe(0);
  });
});

describe('framing of requests', () => {
  it('leaves unknown types and unparsable requests unwritten, used length 0 [D-OP-2, T-OP-1]', () => {
    const rig = new Rig({ emulated: [1] });
    const requests: [number, number, number][] = [
      [0, 64, 4],
      [6, 64, 4],
      [7, 64, 4],
      [8, 64, 4],
      [255, 64, 4],
      [1, 19, 4],
      [2, 19, 4],
      [3, 35, 4],
      [4, 27, 4],
      [5, 71, 516],
      [3, 3, 4],
      [1, 20, 3],
      [3, 36, 1],
    ];
    for (const [type, readable, writable] of requests) {
      const bytes = new Uint8Array(readable);
      bytes[0] = type;
      const reply = rig.driver.raw(bytes, writable);
      expect([reply.usedLength, new Set(reply.writable).size]).toEqual([0, 1]);
    }
    expect(rig.core.stats()).toMatchObject({ requests: { unknown: requests.length }, domains: 0 });
  });

  it('answers with status and zeroes in the tail, ignores head.reserved and what follows [D-OP-1, D-OP-3, D-OP-4, T-OP-2, T-OP-3]', () => {
    const rig = new Rig({ emulated: [1] });
    const readable = new Uint8Array(60).fill(0xff);
    readable.fill(0, 4, 20);
    readable[0] = 1;
    readable[8] = 1;
    expect(rig.driver.raw(readable, 4)).toMatchObject({ usedLength: 4, writable: new Uint8Array(4) });
    expect(rig.core.stats().domains).toBe(1);
  });

  it.each([5, 6, 7, 8, 9, 64])(
    'puts the tail at the end of %d writable bytes, the used bytes written [D-RING-4]',
    (length) => {
      const rig = new Rig({ emulated: [1] });
      const readable = new Uint8Array(20);
      readable[0] = 1;
      readable[8] = 9;
      const ring = rig.driver.raw(readable, length);
      const expected = new Uint8Array(length).fill(0xa5);
      expected.fill(0, 0, 4);
      expected.fill(0, length - 4);
      expected[length - 4] = 6;
      const prefill = ring.writable[4]!;
      if (length > 8) expected.fill(prefill, 4, length - 4);
      expect([ring.usedLength, [...ring.writable]]).toEqual([4, [...expected]]);
      const direct = new Uint8Array(length).fill(prefill);
      expect([rig.core.request(readable, direct), [...direct]]).toEqual([4, [...expected]]);
    },
  );

  it('takes any arrangement of descriptors, and writes nothing that is device-readable [D-RING-1, D-RING-2]', () => {
    const rig = new Rig({ emulated: [1] });
    const queue = rig.driver.requestQueue;
    const readable = new Uint8Array(20);
    readable.set([1, 0, 0, 0, 1, 0, 0, 0, 1]);
    const head = queue.add({ readable, writableLength: 4, readableLayout: [1, 4, 7, 8], writableLayout: [1, 2, 1] });
    queue.makeAvailable(head);
    rig.iommu.transport.notify(0);
    expect(queue.poll()).toEqual([{ head, usedLength: 4, writable: new Uint8Array(4), readableUnchanged: true }]);
    const wrong = queue.add({ readable, writableLength: 4, writableFirst: true });
    queue.makeAvailable(wrong);
    rig.iommu.transport.notify(0);
    expect(queue.poll()[0]).toMatchObject({ head: wrong, usedLength: 0, readableUnchanged: true });
  });

  it('is the same without a ring, event and counter included', () => {
    const bare = new Bare();
    const events: unknown[] = [];
    bare.core.onEvent((event) => events.push(event));
    expect(bare.send({ op: 'detach', domain: 1, endpoint: 9 })).toBe('NOENT');
    expect(events).toEqual([{ type: 'request', request: 'detach', status: 'NOENT' }]);
    expect(bare.core.stats()).toMatchObject({ statuses: { NOENT: 1 }, requests: { detach: 1 } });
    expect(bare.core.request(Uint8Array.of(9), new Uint8Array(4))).toBe(0);
    expect(() => bare.core.request([] as unknown as Uint8Array, new Uint8Array(4))).toThrow(/readable/);
    expect(() => bare.core.request(new Uint8Array(4), {} as unknown as Uint8Array)).toThrow(/writable/);
  });
});

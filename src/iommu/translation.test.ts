// Translation, DmaView and fault records: pieces, the first byte that cannot be reached, rights, reserved regions, bypass,
// the ends of the address space, and what the guest is told. Ranges are inclusive.
import { describe, expect, it } from 'vitest';
import { PAGE, Rig } from '../../test/iommu/rig.ts';
import fc from 'fast-check';
import { Feature } from '../virtio/features.ts';
import { GuestMemory } from '../virtio/memory.ts';
import { IommuCore } from './core.ts';
import type { DmaView } from './dma-view.ts';
import { Translation } from './translation.ts';

const U64 = (1n << 64n) - 1n;
const MSI = { kind: 'msi', start: 0xfee0_0000n, end: 0xfeef_ffffn } as const;
const bits = (...numbers: number[]): bigint =>
  numbers.reduce((mask, bit) => mask | (1n << BigInt(bit)), Feature.version1 | Feature.indirectDesc);
const address = (page: number, byte = 0): bigint => BigInt(page) * PAGE + BigInt(byte);

function attached(options: ConstructorParameters<typeof Rig>[0] = {}): Rig {
  const rig = new Rig({ emulated: [1], ...options });
  rig.attach(1, 1);
  return rig;
}

describe('translate', () => {
  it('gives one piece for each physical stretch and joins those that continue', () => {
    const rig = attached();
    rig.map(1, 10, 1, 0x100);
    rig.map(1, 11, 2, 0x101);
    rig.map(1, 13, 1, 0x200);
    rig.map(1, 14, 1, 0x1ff);
    const result = rig.translate(1, address(10, 4000), 4 * 4096 + 96, 'write');
    expect(result).toEqual({
      ok: true,
      pieces: [
        { kind: 'memory', gpa: address(0x100, 4000), length: 2 * 4096 + 96 },
        { kind: 'memory', gpa: address(0x200), length: 4096 },
        { kind: 'memory', gpa: address(0x1ff), length: 4096 },
      ],
    });
  });

  it('faults at the first byte that cannot be reached: hole, missing right, reserved region', () => {
    const rig = attached({ reserved: { 1: [{ kind: 'reserved', start: address(20), end: address(20, 4095) }] } });
    rig.map(1, 10, 2, 0x100);
    rig.map(1, 12, 1, 0x110, 1);
    rig.map(1, 18, 2, 0x110);
    const fault = (iova: bigint, length: number, access: 'read' | 'write'): unknown => {
      const result = rig.translate(1, iova, length, access);
      return result.ok ? 'ok' : [result.fault.reason, result.fault.iova];
    };
    expect(fault(address(10, 5), 3 * 4096 - 5, 'read')).toBe('ok');
    expect(fault(address(10, 5), 3 * 4096 - 4, 'read')).toEqual(['mapping', address(13)]);
    expect(fault(address(10, 5), 3 * 4096 - 5, 'write')).toEqual(['mapping', address(12)]);
    expect(fault(address(9, 4095), 2, 'read')).toEqual(['mapping', address(9, 4095)]);
    expect(fault(address(13, 7), 1, 'read')).toEqual(['mapping', address(13, 7)]);
    expect(fault(address(19), 4096, 'write')).toBe('ok');
    expect(fault(address(19), 4097, 'write')).toEqual(['mapping', address(20)]);
    expect(fault(address(20, 9), 1, 'read')).toEqual(['mapping', address(20, 9)]);
    rig.detach(1, 1);
    rig.driver.setBypass(0);
    expect(fault(address(19, 9), 4097, 'write')).toEqual(['domain', address(19, 9)]);
    expect(fault(address(20, 9), 1, 'read')).toEqual(['mapping', address(20, 9)]);
  });

  it('never writes without WRITE, and refuses reads of a write-only mapping too [D-MAP-6, D-MAP-7]', () => {
    const rig = attached();
    for (const flags of [0, 1, 2, 3, 4, 5, 6, 7]) rig.map(1, flags, 1, 0x100, flags);
    const may = (access: 'read' | 'write'): boolean[] =>
      [0, 1, 2, 3, 4, 5, 6, 7].map((page) => rig.translate(1, address(page), 1, access).ok);
    expect(may('read')).toEqual([false, true, false, true, false, true, false, true]);
    expect(may('write')).toEqual([false, false, true, true, false, false, true, true]);
  });

  it('passes writes to the MSI region in any state, and nothing else there [D-RES-5]', () => {
    const rig = new Rig({ emulated: [1], reserved: { 1: [MSI] } });
    const check = (): void => {
      expect(rig.translate(1, 0xfee0_1234n, 4, 'write')).toEqual({
        ok: true,
        pieces: [{ kind: 'msi', gpa: 0xfee0_1234n, length: 4 }],
      });
      expect(rig.translate(1, 0xfee0_1234n, 4, 'read')).toMatchObject({ fault: { iova: 0xfee0_1234n } });
      expect(rig.translate(1, 0xfeef_ffffn, 1, 'write').ok).toBe(true);
    };
    check();
    rig.attach(1, 1, 1);
    check();
    expect(rig.translate(1, 0xfedf_fffen, 4, 'write')).toMatchObject({
      pieces: [
        { kind: 'memory', gpa: 0xfedf_fffen, length: 2 },
        { kind: 'msi', gpa: 0xfee0_0000n, length: 2 },
      ],
    });
    expect(rig.translate(1, 0xfeef_fffen, 4, 'write')).toMatchObject({ pieces: [{ kind: 'msi' }, { kind: 'memory' }] });
    rig.detach(1, 1);
    rig.driver.setBypass(0);
    check();
    expect(rig.translate(1, 0xfeef_fffen, 4, 'write')).toMatchObject({
      fault: { reason: 'domain', iova: 0xfef0_0000n },
    });
  });

  it('passes everything in bypass, refuses everything when blocked [D-OP-5, T-BYP-1, T-BYP-2]', () => {
    const rig = new Rig({ emulated: [1, 2] });
    for (const iova of [0n, 0xffff_fffen, 1n << 53n, (1n << 53n) + 1n, U64 - 3n])
      expect(rig.translate(1, iova, 4, 'write')).toEqual({
        ok: true,
        pieces: [{ kind: 'memory', gpa: iova, length: 4 }],
      });
    rig.attach(1, 1, 1);
    rig.driver.setBypass(0);
    expect(rig.translate(1, address(5), 1).ok).toBe(true);
    expect(rig.translate(2, address(5), 1)).toMatchObject({ fault: { reason: 'domain', iova: address(5) } });
  });

  it('goes by config.bypass before the driver accepted anything [T-BYP-1]', () => {
    const rig = new Rig({ emulated: [1], cold: true });
    expect(rig.translate(1, 5n, 1).ok).toBe(true);
    expect(new Rig({ emulated: [1], cold: true, device: { bypass: false } }).translate(1, 5n, 1).ok).toBe(false);
  });

  it('with the old BYPASS feature goes by what the driver accepted, until reset [T-BYP-3]', () => {
    const device = { features: ['mapUnmap', 'bypass'] as const };
    const rig = new Rig({ emulated: [1], device, accept: bits(2, 3) });
    expect(rig.translate(1, 5n, 1).ok).toBe(true);
    rig.iommu.transport.writeStatus(0);
    expect(rig.translate(1, 5n, 1)).toMatchObject({ fault: { reason: 'domain' } });
    expect(new Rig({ emulated: [1], device, accept: bits(2) }).translate(1, 5n, 1).ok).toBe(false);
  });

  it('ends at 2^64 - 1; an access that goes on is refused at its own address', () => {
    const rig = attached();
    rig.driver.map(1, U64 - 0x1fffn, U64, U64 - 0x1fffn);
    rig.map(1, 0, 1, 0x100);
    expect(rig.translate(1, U64, 1)).toEqual({ ok: true, pieces: [{ kind: 'memory', gpa: U64, length: 1 }] });
    expect(rig.translate(1, U64 - 0x1fffn, 0x2000)).toMatchObject({ pieces: [{ gpa: U64 - 0x1fffn, length: 0x2000 }] });
    expect(rig.translate(1, U64, 2)).toEqual({ ok: false, fault: { reason: 'mapping', iova: U64 } });
    expect(rig.translate(1, U64 - 0xfffn, 0x1001)).toMatchObject({ fault: { iova: U64 - 0xfffn } });
    expect(rig.translate(1, U64 - 0x2000n, 0x3000)).toMatchObject({ fault: { iova: U64 - 0x2000n } });
    expect(rig.translate(1, 5n, Number.MAX_SAFE_INTEGER)).toMatchObject({ fault: { iova: 0x1000n } });
    rig.detach(1, 1);
    expect(rig.translate(1, U64, 1).ok).toBe(true);
    expect(rig.translate(1, U64 - 9n, 11)).toMatchObject({ fault: { reason: 'mapping', iova: U64 - 9n } });
    rig.driver.setBypass(0);
    expect(rig.translate(1, U64, 2)).toMatchObject({ fault: { reason: 'domain', iova: U64 } });
  });

  it('below a 4 KiB granule ends where the input range does, in bypass too', () => {
    const core = new IommuCore(new GuestMemory(), {
      pageSizeMask: 1n,
      inputRange: { start: 16n, end: (1n << 53n) - 1n },
    });
    core.addEndpoint({ id: 1 });
    core.setFeatures(0x77n);
    const fault = (iova: bigint, length: number): unknown => {
      const result = core.translate(1, iova, length, 'read');
      return result.ok ? 'ok' : [result.fault.reason, result.fault.iova];
    };
    const top = 1n << 53n;
    expect([fault(16n, 1), fault(top - 1n, 1), fault(top - 8n, 8)]).toEqual(['ok', 'ok', 'ok']);
    expect(fault(15n, 4)).toEqual(['mapping', 15n]);
    expect(fault(top - 8n, 9)).toEqual(['mapping', top]);
    for (const iova of [top, top + 1n, (1n << 63n) + 1n, U64]) expect(fault(iova, 1)).toEqual(['mapping', iova]);
    core.setBypass(0);
    expect([fault(top + 1n, 1), fault(3n, 1)]).toEqual([
      ['domain', top + 1n],
      ['domain', 3n],
    ]);
  });

  it('is exact in granules that no number holds', () => {
    const core = new IommuCore(new GuestMemory(), { pageSizeMask: 1n << 60n });
    core.addEndpoint({ id: 1, reserved: [{ kind: 'msi', start: 1n << 60n, end: (1n << 60n) + 5n }] });
    core.setFeatures(0x77n);
    for (const iova of [(1n << 60n) - 1n, (1n << 62n) + (0x1234_5678_9abc_def1n % (1n << 60n)), U64])
      expect(core.translate(1, iova, 1, 'write')).toMatchObject({ pieces: [{ kind: 'memory', gpa: iova }] });
    expect(core.translate(1, (1n << 60n) - 1n, 3, 'write')).toMatchObject({
      pieces: [
        { kind: 'memory', gpa: (1n << 60n) - 1n, length: 1 },
        { kind: 'msi', gpa: 1n << 60n, length: 2 },
      ],
    });
    const odd = (1n << 60n) + 0xf_ffff_ffff_fff1n;
    expect(core.translate(1, odd, 1, 'read')).toMatchObject({ fault: { iova: odd } });
  });

  it('into a reused record says the same, and finds the end of every access [T-MAP-1]', () => {
    const rig = attached({ reserved: { 1: [{ kind: 'reserved', start: address(7), end: address(7, 4095) }, MSI] } });
    rig.map(1, 0, 3, 0x100, 3);
    rig.map(1, 3, 1, 0x103, 1);
    rig.map(1, 4, 2, 0x200, 2);
    rig.map(1, 6, 1, 0x102, 3);
    rig.map(1, 0xfedff, 1, 0x100, 3);
    const out = new Translation(1);
    const byte = (iova: bigint, write: boolean): string => {
      const result = rig.translate(1, iova, 1, write ? 'write' : 'read');
      return result.ok ? `${result.pieces[0]!.kind} ${result.pieces[0]!.gpa}` : 'fault';
    };
    const place = fc.oneof(fc.integer({ min: 0, max: 9 * 4096 }), fc.integer({ min: 0xfedf_f000, max: 0xfee0_1000 }));
    fc.assert(
      fc.property(place, fc.integer({ min: 1, max: 9000 }), fc.boolean(), (start, length, write) => {
        const iova = BigInt(start);
        const result = rig.translate(1, iova, length, write ? 'write' : 'read');
        expect(rig.core.translateInto(1, 0, start, length, write, out)).toBe(result.ok);
        if (!result.ok) {
          expect(BigInt(out.faultLow)).toBe(result.fault.iova);
          const { iova: bad } = result.fault;
          expect([byte(bad, write), bad >= iova && bad < iova + BigInt(length)]).toEqual(['fault', true]);
          if (bad > iova) expect(rig.translate(1, iova, Number(bad - iova), write ? 'write' : 'read').ok).toBe(true);
          return;
        }
        expect(result.pieces.reduce((total, piece) => total + piece.length, 0)).toBe(length);
        expect(out.count).toBe(result.pieces.length);
        let at = iova;
        result.pieces.forEach((piece, i) => {
          expect([BigInt(out.gpa[i]!), out.length[i]]).toEqual([piece.gpa, piece.length]);
          expect(byte(at, write)).toBe(`${piece.kind} ${piece.gpa}`);
          at += BigInt(piece.length);
          expect(byte(at - 1n, write)).toBe(`${piece.kind} ${piece.gpa + BigInt(piece.length) - 1n}`);
        });
      }),
      { numRuns: 300 },
    );
  });

  it('names wrong arguments', () => {
    const rig = attached();
    expect(() => rig.translate(1, -1n, 1)).toThrow(/iova/);
    expect(() => rig.translate(1, U64 + 1n, 1)).toThrow(/iova/);
    for (const length of [0, -1, 1.5, Number.NaN, 2 ** 53])
      expect(() => rig.translate(1, 0n, length)).toThrow(/length/);
    expect(() => rig.translate(1, 0n, 1, 'exec' as 'read')).toThrow(/access/);
  });
});

describe('DmaView', () => {
  const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

  it('copies through the pieces, and obeys an UNMAP between two accesses', () => {
    const rig = attached();
    rig.map(1, 10, 1, 0x101);
    rig.map(1, 11, 1, 0x100);
    const view = rig.core.dmaView(1);
    expect(view.write(address(10, 4094), bytes(1, 2, 3, 4))).toBe('ok');
    const seen = new Uint8Array(4);
    rig.memory.read(Number(address(0x101, 4094)), seen, 0, 2);
    rig.memory.read(Number(address(0x100)), seen, 2, 2);
    expect([...seen]).toEqual([1, 2, 3, 4]);
    const back = new Uint8Array(6);
    expect([view.read(address(10, 4094), back, 1, 4), ...back]).toEqual(['ok', 0, 1, 2, 3, 4, 0]);
    rig.unmap(1, 11, 1);
    expect([view.read(address(10, 4094), back, 1, 4), view.write(address(11), bytes(9))]).toEqual(['fault', 'fault']);
    expect([view.read(0n, back, 6), view.write(0n, bytes())]).toEqual(['ok', 'ok']);
    expect(() => view.read(0n, back, 5, 2)).toThrow(/length/);
    expect(() => view.read(0n, back, 7)).toThrow(/offset/);
    expect(() => view.write(0n, [1] as unknown as Uint8Array)).toThrow(TypeError);
    expect(() => view.write(-1n, bytes())).toThrow(/iova/);
  });

  it('moves no byte when a later part faults or has no memory', () => {
    const log: string[] = [];
    const rig = attached({ reserved: { 1: [MSI] } });
    rig.memory.addMmio({
      gpa: address(0x500),
      size: PAGE,
      access: {
        read: (offset, into) => {
          log.push(`read ${offset} ${into.length}`);
          into.fill(7);
        },
        write: (offset, data) => log.push(`write ${offset} ${data.join()}`),
      },
    });
    const sink: string[] = [];
    const view = rig.core.dmaView(1, (endpoint, at, data) =>
      sink.push(`${endpoint} ${at.toString(16)} ${data.join()}`),
    );
    rig.map(1, 10, 1, 0x100);
    rig.map(1, 11, 1, 0x999); // no memory there
    rig.map(1, 12, 1, 0x500);
    rig.map(1, 13, 1, 0x998);
    rig.map(1, 0xfedff, 1, 0x997);
    rig.map(1, 0xfef00, 1, 0x500);
    const buffer = bytes(1, 2, 3, 4);
    expect(view.write(address(10, 4094), buffer)).toBe('unbacked');
    expect(view.read(address(12, 4094), buffer)).toBe('unbacked');
    expect(view.write(address(12, 4094), buffer)).toBe('unbacked');
    expect(view.write(0xfedf_fffen, buffer)).toBe('unbacked');
    expect(view.write(address(9, 4095), buffer)).toBe('fault');
    const memory = new Uint8Array(2);
    rig.memory.read(Number(address(0x100, 4094)), memory, 0, 2);
    expect([log, sink, ...memory, ...buffer]).toEqual([[], [], 0, 0, 1, 2, 3, 4]);
    expect(view.write(0xfeef_fffen, buffer)).toBe('ok');
    expect([log, sink]).toEqual([['write 0 3,4'], ['1 feeffffe 1,2']]);
    expect([view.read(address(12, 8), buffer), ...buffer]).toEqual(['ok', 7, 7, 7, 7]);
    expect(view.read(0xfee0_0000n, buffer)).toBe('fault');
  });

  it('survives a handler that does DMA of the same endpoint', () => {
    const rig = attached();
    const seen: string[] = [];
    const views: DmaView[] = [];
    rig.memory.addMmio({
      gpa: address(0x500),
      size: PAGE,
      access: {
        read: () => undefined,
        write: (_offset, data) => {
          const into = new Uint8Array(5000);
          seen.push(`${data.join()} ${views[0]!.read(address(20), into)}`);
        },
      },
    });
    views.push(rig.core.dmaView(1));
    rig.map(1, 10, 1, 0x500);
    rig.map(1, 11, 1, 0x100);
    rig.map(1, 20, 1, 0x110);
    rig.map(1, 21, 1, 0x120);
    expect(views[0]!.write(address(10, 4095), bytes(1, 2, 3))).toBe('ok');
    const after = new Uint8Array(2);
    rig.memory.read(Number(address(0x100)), after, 0, 2);
    expect([seen, ...after]).toEqual([['1 ok'], 2, 3]);
  });

  it('loads and stores 16 bits at once', () => {
    const rig = attached({ reserved: { 1: [MSI] } });
    const view = rig.core.dmaView(1);
    rig.map(1, 10, 1, 0x100);
    rig.map(1, 11, 1, 0x110, 1);
    expect(view.storeU16(address(10, 8), 0xbeef)).toBe(true);
    expect([view.loadU16(address(10, 8)), view.loadU16(address(10, 9))]).toEqual([0xbeef, undefined]);
    expect([view.storeU16(address(10, 9), 1), view.storeU16(address(11), 1), view.loadU16(address(12))]).toEqual([
      false,
      false,
      undefined,
    ]);
    expect([view.loadU16(address(10, 4095)), view.storeU16(0xfee0_0000n, 1), view.loadU16(address(11))]).toEqual([
      undefined,
      false,
      0,
    ]);
    const ram = rig.addRam(0x400, 1, true);
    rig.map(1, 12, 1, 0x400);
    expect([view.storeU16(address(12), 1), view.loadU16(address(12)), view.write(address(12), bytes(1))]).toEqual([
      false,
      0,
      'unbacked',
    ]);
    rig.memory.removeRegion(ram);
    expect(view.read(address(12), bytes(0))).toBe('unbacked');
    rig.core.removeEndpoint(1);
    expect(view.read(address(10), bytes(0))).toBe('fault');
  });
});

describe('fault records', () => {
  it('name reason, access, endpoint and address in 24 bytes [D-FLT-1, D-FLT-2, D-FLT-3, T-FLT-1]', () => {
    const rig = attached({ emulated: [1, 0xffff_ffff] });
    const queue = rig.driver.eventQueue;
    rig.translate(1, 0x1234_5678_9abc_def0n, 1, 'write');
    rig.driver.setBypass(0);
    rig.translate(0xffff_ffff, 0xfff_ffff_fff1n, 1, 'read');
    const [mapping, domain] = queue.poll();
    expect([mapping!.usedLength, [...mapping!.writable]]).toEqual([
      24,
      [2, 0, 0, 0, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12],
    ]);
    expect([domain!.usedLength, [...domain!.writable]]).toEqual([
      24,
      [1, 0, 0, 0, 1, 1, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0],
    ]);
    expect(rig.interrupts.queue[1]).toBe(1); // EVENT_IDX: the driver has not looked yet
    expect(rig.counters).toMatchObject({ faults: 2, faultsReported: 2 });
    expect(rig.lastEvent('fault')).toEqual({
      type: 'fault',
      endpoint: 0xffff_ffff,
      reason: 'domain',
      access: 'read',
      iova: 0xfff_ffff_fff1n,
      report: 'reported',
    });
  });

  it('are not sent for an id that is no endpoint, which reaches nothing in bypass either [D-FLT-3]', () => {
    const rig = new Rig({ emulated: [1] });
    expect(rig.translate(9, 5n, 1)).toEqual({ ok: false, fault: { reason: 'domain', iova: 5n } });
    expect(rig.faults()).toEqual([]);
    expect(rig.lastEvent('fault')).toMatchObject({ endpoint: 9, report: 'unknown endpoint' });
  });

  it('find buffers without a kick, are dropped without one, and never block [T-FLT-2]', () => {
    const rig = attached();
    for (let i = 0; i < 20; i++) rig.translate(1, BigInt(i), 1);
    expect(rig.counters).toMatchObject({ faults: 20, faultsReported: 16, faultsWithoutBuffer: 4 });
    expect(rig.lastEvent('fault')).toMatchObject({ report: 'no buffer' });
    expect(rig.faults().map((fault) => fault.address)).toEqual(Array.from({ length: 16 }, (_, i) => BigInt(i)));
    rig.translate(1, 77n, 1);
    expect(rig.faults().map((fault) => fault.address)).toEqual([77n]);
  });

  it('are not spread over buffers that are too small, nor written into readable ones [D-FLT-5, D-FLT-6, D-RING-1, D-RING-2]', () => {
    const rig = attached();
    const queue = rig.driver.eventQueue;
    for (let i = 0; i < 16; i++) rig.translate(1, 0n, 1);
    queue.poll();
    const small = queue.add({ readable: new Uint8Array(0), writableLength: 23 });
    const readable = queue.add({ readable: new Uint8Array(24), writableLength: 0 });
    const large = queue.add({ readable: new Uint8Array(0), writableLength: 100, writableLayout: [10, 90] });
    queue.makeAvailable(small, readable, large);
    for (let i = 0; i < 3; i++) rig.translate(1, 5n, 1);
    const [a, b, c] = queue.poll();
    expect([a!.usedLength, a!.writable.every((byte) => byte === a!.writable[0])]).toEqual([0, true]);
    expect([b!.usedLength, b!.readableUnchanged, c!.usedLength, c!.writable[16]]).toEqual([0, true, 24, 5]);
    expect(rig.counters).toMatchObject({ faultBuffersTooSmall: 2, faultsReported: 17 });
  });

  it('are limited per endpoint by a bucket that refills with time', () => {
    const clock = { now: 1000 };
    const rig = attached({
      emulated: [1, 2],
      device: { now: () => clock.now, faults: { burst: 2, perSecond: 10 } },
    });
    rig.driver.setBypass(0);
    const send = (endpoint: number): string => {
      rig.translate(endpoint, 0n, 1);
      return rig.lastEvent('fault')!.report;
    };
    expect([send(1), send(1), send(1), send(2)]).toEqual(['reported', 'reported', 'rate limit', 'reported']);
    clock.now += 99;
    expect(send(1)).toBe('rate limit');
    clock.now += 1;
    expect([send(1), send(1)]).toEqual(['reported', 'rate limit']);
    clock.now -= 500; // a clock that goes back gives nothing and takes nothing
    expect(send(1)).toBe('rate limit');
    clock.now += 100_000;
    expect([send(1), send(1), send(1)]).toEqual(['reported', 'reported', 'rate limit']);
    expect(rig.counters['faultsRateLimited']).toBe(5);
  });

  it('are counted while the driver does not run', () => {
    const rig = new Rig({ emulated: [1], cold: true, device: { bypass: false } });
    rig.translate(1, 0n, 1);
    expect(rig.counters).toMatchObject({ faultsNotRunning: 1, faultsReported: 0 });
  });

  it('on a damaged event queue ask for a reset, once [D-VQ-2]', () => {
    const rig = attached();
    rig.driver.eventQueue.setAvailIndex(0x4000);
    for (let i = 0; i < 3; i++) rig.translate(1, 0n, 1);
    expect([rig.driver.needsReset, rig.interrupts.config]).toEqual([true, 1]);
    expect(rig.events.filter((event) => event.type === 'ring-broken')).toEqual([{ type: 'ring-broken', queue: 1 }]);
    expect(rig.counters).toMatchObject({ brokenRings: 1, faultsWithoutBuffer: 3 });
    rig.driver.start();
    rig.attach(1, 1);
    rig.translate(1, 0n, 1);
    expect([rig.driver.needsReset, rig.faults().length]).toEqual([false, 1]);
  });
});

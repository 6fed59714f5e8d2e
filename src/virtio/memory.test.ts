import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { FileSeal, RamRegionInit } from './memory-types.ts';
import type { MemoryObserver, MemoryRegion } from './memory.ts';
import { GuestMemory } from './memory.ts';

const END = 1n << 53n;

function bytes(...values: number[]): Uint8Array {
  return Uint8Array.from(values);
}

function readByte(memory: GuestMemory, gpa: number): number {
  const into = new Uint8Array(1);
  return memory.read(gpa, into, 0, 1) ? into[0]! : -1;
}

/** Records what it is told; throws once, at the first call of the kind `throwOn`. */
function recorder(throwOn?: string): MemoryObserver & { log: string[] } {
  const log: string[] = [];
  let armed = throwOn;
  const note = (what: string, region: MemoryRegion): void => {
    if (armed === what) {
      armed = undefined;
      throw new Error(`no ${what}`);
    }
    log.push(`${what} ${region.gpa.toString(16)}`);
  };
  return { log, removing: (region) => note('removing', region), added: (region) => note('added', region) };
}

describe('registration', () => {
  it('refuses misaligned, empty, overlapping and too high regions and changes nothing', () => {
    const memory = new GuestMemory();
    memory.addRegion({ gpa: 0x10000n, size: 0x2000n });
    const { generation, regions } = memory;
    const bad: [bigint, bigint, RegExp][] = [
      [0x1001n, 0x1000n, /init\.gpa/],
      [-4096n, 0x1000n, /init\.gpa/],
      [END, 0x1000n, /init\.gpa/],
      [0n, 0n, /init\.size/],
      [0n, 0x1001n, /init\.size/],
      [END - 4096n, 0x2000n, /init\.size/],
      [0xf000n, 0x2000n, /overlaps/],
      [0x11000n, 0x1000n, /overlaps/],
      [0x0n, 0x20000n, /overlaps/],
    ];
    for (const [gpa, size, message] of bad) {
      expect(() => memory.addRegion({ gpa, size }), `${gpa} ${size}`).toThrow(message);
      expect(() => memory.addMmio({ gpa, size }), `${gpa} ${size}`).toThrow(message);
    }
    expect(() => memory.addRegion({ gpa: 0 as unknown as bigint, size: 0x1000n })).toThrow(TypeError);
    expect(() => memory.addRegion({ gpa: 0n, size: 0x1000n, hva: 5n })).toThrow(/init\.hva/);
    expect(() => memory.addRegion({ gpa: 0n, size: 0x2000n, hva: 0xffff_ffff_ffff_f000n })).toThrow(/init\.hva/);
    expect(() => memory.addRegion({ gpa: 0n, size: 0x1000n, readonly: true } as never)).toThrow(/init\.readonly/);
    expect(memory.generation).toBe(generation);
    expect(memory.regions).toBe(regions);
  });

  it('accepts regions that touch, the last page below 2^53, and hva up to 2^64', () => {
    const memory = new GuestMemory();
    memory.addRegion({ gpa: 0x1000n, size: 0x1000n, hva: 0xffff_ffff_ffff_f000n });
    memory.addRegion({ gpa: 0x2000n, size: 0x1000n });
    memory.addRegion({ gpa: 0n, size: 0x1000n });
    memory.addRegion({ gpa: END - 4096n, size: 0x1000n });
    expect(memory.regions.map((region) => region.gpa)).toEqual([0n, 0x1000n, 0x2000n, END - 4096n]);
    expect(memory.write(2 ** 53 - 2, bytes(1, 2), 0, 2)).toBe(true);
    expect(memory.write(2 ** 53 - 1, bytes(1, 2), 0, 2)).toBe(false);
    expect(readByte(memory, 2 ** 53 - 1)).toBe(2);
    expect(readByte(memory, 2 ** 53)).toBe(-1);
    expect(readByte(memory, 2 ** 64)).toBe(-1);
  });

  it('checks windows: kind, sum, alignment', () => {
    const memory = new GuestMemory();
    const add = (...windows: unknown[]) => memory.addRegion({ gpa: 0n, size: 0x2000n, windows: windows as never });
    expect(() => add(new ArrayBuffer(0x1000))).toThrow(/init\.windows/);
    expect(() => add(new ArrayBuffer(0x1000), new ArrayBuffer(0x1008))).toThrow(/init\.windows/);
    expect(() => add(new ArrayBuffer(0x1000), new Uint8Array(new ArrayBuffer(0x1001), 1, 0x1000))).toThrow(
      /windows\[1\]/,
    );
    expect(() => add(new ArrayBuffer(0xffc), new ArrayBuffer(0x1004))).toThrow(/windows\[0\]/);
    expect(() => add(new ArrayBuffer(0x2000), new ArrayBuffer(0))).toThrow(/windows\[1\]/);
    expect(() => add('memory')).toThrow(TypeError);
    expect(() => add([])).toThrow(TypeError);
    add(new SharedArrayBuffer(0x1000), new Uint8Array(new ArrayBuffer(0x1800), 0x800, 0x1000));
    expect(memory.isRam(0, 0x2000)).toBe(true);
  });

  it('keeps a frozen copy of what the file behind a region is', () => {
    const memory = new GuestMemory();
    const seals: FileSeal[] = ['shrink', 'future-write'];
    const huge = { pageSize: 2 ** 21, seals };
    const region = memory.addRegion({ gpa: 0x1000n, size: 0x3000n, hva: 2n ** 40n, file: huge });
    seals.push('write');
    huge.pageSize = 4096;
    expect(region.file).toEqual({ pageSize: 2 ** 21, seals: ['shrink', 'future-write'] });
    expect([region, region.file, region.file?.seals].map((value) => Object.isFrozen(value))).toEqual([
      true,
      true,
      true,
    ]);
    const plain = memory.addRegion({ gpa: 0x10000n, size: 0x1000n, file: { pageSize: 4096 } });
    expect([plain.file, plain.hva]).toEqual([{ pageSize: 4096 }, undefined]);
    const anonymous = memory.addRegion({ gpa: 0x20000n, size: 0x1000n, hva: 2n ** 41n });
    const registers = memory.addMmio({ gpa: 0x30000n, size: 0x1000n });
    expect([anonymous.file, registers.file, memory.moveMmio(registers, 0x40000n).file]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  const files: [unknown, typeof TypeError | typeof RangeError, RegExp][] = [
    [4096, TypeError, /^init\.file /],
    [{}, TypeError, /^init\.file\.pageSize /],
    [{ pageSize: 4096n }, TypeError, /^init\.file\.pageSize /],
    [{ pageSize: 4095 }, RangeError, /^init\.file\.pageSize /],
    [{ pageSize: 2048 }, RangeError, /^init\.file\.pageSize /],
    [{ pageSize: 4097 }, RangeError, /^init\.file\.pageSize /],
    [{ pageSize: 12288 }, RangeError, /^init\.file\.pageSize /],
    [{ pageSize: 2 ** 52 - 1 }, RangeError, /^init\.file\.pageSize /],
    [{ pageSize: 2 ** 53 }, RangeError, /^init\.file\.pageSize /],
    [{ pageSize: 2 ** 22 }, RangeError, /^init\.hva /],
    [{ pageSize: 4096, seals: 'write' }, TypeError, /^init\.file\.seals /],
    [{ pageSize: 4096, seals: ['seal', 'exec'] }, RangeError, /^init\.file\.seals\[1\] /],
    [{ pageSize: 4096, seal: [] }, TypeError, /^init\.file\.seal /],
  ];
  it.each(files)('refuses the file %o', (file, kind, message) => {
    const memory = new GuestMemory();
    const init = { gpa: 0n, size: 0x1000n, hva: 2n ** 21n, file } as RamRegionInit;
    expect(() => memory.addRegion(init)).toThrow(kind);
    expect(() => memory.addRegion(init)).toThrow(message);
    expect(memory.regions).toEqual([]);
  });

  it('takes a file of any page size where the host address is a multiple of it', () => {
    const memory = new GuestMemory();
    for (const [i, pageSize] of [4096, 2 ** 16, 2 ** 21, 2 ** 30].entries()) {
      const at = BigInt(i + 1) * 0x1000n;
      expect(memory.addRegion({ gpa: at, size: 0x1000n, hva: 3n * BigInt(pageSize), file: { pageSize } }).file).toEqual(
        {
          pageSize,
        },
      );
      const off = { gpa: 0n, size: 0x1000n, hva: 3n * BigInt(pageSize) + 0x1000n, file: { pageSize } };
      if (pageSize > 4096) expect(() => memory.addRegion(off)).toThrow(/^init\.hva /);
    }
    expect(() => memory.addMmio({ gpa: 0n, size: 0x1000n, file: { pageSize: 4096 } } as never)).toThrow(/init\.file /);
  });

  it('knows its own regions only', () => {
    const memory = new GuestMemory();
    const region = memory.addRegion({ gpa: 0n, size: 0x1000n });
    expect(() => memory.removeRegion({ ...region })).toThrow(TypeError);
    expect(() => memory.moveMmio(region, 0x1000n)).toThrow(TypeError);
    memory.removeRegion(region);
    expect(() => memory.removeRegion(region)).toThrow(TypeError);
    expect(memory.regions).toEqual([]);
    expect(memory.isRam(0, 1)).toBe(false);
    expect(memory.isRam(0, 0)).toBe(true);
  });
});

describe('access', () => {
  it('crosses windows and regions, and stops at holes', () => {
    const memory = new GuestMemory();
    const [a, b] = [new SharedArrayBuffer(0x1000), new ArrayBuffer(0x1000)];
    memory.addRegion({ gpa: 0x1_0000_0000n, size: 0x2000n, windows: [a, b] });
    memory.addRegion({ gpa: 0x1_0000_2000n, size: 0x1000n });
    const data = Uint8Array.from({ length: 0x1800 }, (_, i) => i * 7);
    expect(memory.write(0x1_0000_0c00, data, 0, 0x1800)).toBe(true);
    expect(new Uint8Array(a)[0xfff]).toBe((0x3ff * 7) & 0xff);
    expect(new Uint8Array(b)[0]).toBe((0x400 * 7) & 0xff);
    const back = new Uint8Array(0x1802);
    expect(memory.read(0x1_0000_0c00, back, 1, 0x1800)).toBe(true);
    expect(back.subarray(1, 0x1801)).toEqual(data);
    expect([back[0], back[0x1801]]).toEqual([0, 0]);
    expect(memory.read(0x1_0000_2fff, back, 0, 1)).toBe(true);
    expect(memory.read(0x1_0000_2fff, back, 0, 2)).toBe(false);
    expect(memory.read(0xffff_ffff, back, 0, 1)).toBe(false);
    expect(memory.isRam(0x1_0000_0000, 0x3000)).toBe(true);
    expect(memory.isRam(0x1_0000_0000, 0x3001)).toBe(false);
    expect(memory.isRam(0x1_0000_0000, 2 ** 53)).toBe(false);
  });

  it('writes nothing when any byte is not writable RAM', () => {
    const memory = new GuestMemory();
    memory.addRegion({ gpa: 0n, size: 0x1000n });
    memory.addRegion({ gpa: 0x1000n, size: 0x1000n, readOnly: true });
    memory.addMmio({ gpa: 0x2000n, size: 0x1000n });
    expect(memory.write(0xfff, bytes(9, 9), 0, 2)).toBe(false);
    expect(readByte(memory, 0xfff)).toBe(0);
    expect(memory.isRam(0xfff, 2)).toBe(true);
    expect(memory.isWritableRam(0xfff, 2)).toBe(false);
    expect(memory.storeU16(0x1000, 1)).toBe(false);
    expect(memory.loadU16(0x1000)).toBe(0);
    expect(memory.read(0x2000, new Uint8Array(1), 0, 1)).toBe(false);
    expect(memory.loadU16(0x2000)).toBe(-1);
    expect(memory.isRam(0x1fff, 2)).toBe(false);
  });

  it('loads and stores aligned u16 in both kinds of buffer', () => {
    const memory = new GuestMemory();
    memory.addRegion({ gpa: 0n, size: 0x2000n, windows: [new ArrayBuffer(0x1000), new SharedArrayBuffer(0x1000)] });
    for (const gpa of [0, 0xffe, 0x1000, 0x1ffe]) {
      expect(memory.storeU16(gpa, 0xabcd)).toBe(true);
      expect(memory.loadU16(gpa)).toBe(0xabcd);
      expect([readByte(memory, gpa), readByte(memory, gpa + 1)]).toEqual([0xcd, 0xab]);
    }
    for (const gpa of [1, 0xfff, 0x1fff, 0x2000, -2, NaN, 2 ** 60]) {
      expect(memory.loadU16(gpa), String(gpa)).toBe(-1);
      expect(memory.storeU16(gpa, 1), String(gpa)).toBe(false);
    }
  });

  it('refuses a host array that is too short', () => {
    const memory = new GuestMemory();
    memory.addRegion({ gpa: 0n, size: 0x1000n });
    expect(() => memory.read(0, new Uint8Array(4), 1, 4)).toThrow(/into/);
    expect(() => memory.write(0, new Uint8Array(4), -1, 4)).toThrow(/from/);
    expect(() => memory.dmaRead(0, new Uint8Array(4), 0, 5)).toThrow(/into/);
    expect(() => memory.dmaWrite(0, new Uint8Array(4), 0, NaN)).toThrow(/from/);
  });

  it('agrees with a naive memory on random regions and accesses', () => {
    const step = fc.record({
      kind: fc.constantFrom('read', 'write', 'isRam', 'add', 'remove'),
      page: fc.nat(15),
      offset: fc.nat(4095),
      length: fc.oneof(fc.nat(16), fc.nat(9000)),
      pages: fc.integer({ min: 1, max: 3 }),
      readOnly: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const memory = new GuestMemory();
        const naive = new Int16Array(20 * 4096).fill(-1);
        const rom = new Uint8Array(20 * 4096);
        steps.forEach(({ kind, page, offset, length, pages, readOnly }, n) => {
          const first = page * 4096;
          const at = first + offset;
          const inside = naive.subarray(at, at + length);
          const backed = inside.length === length && !inside.includes(-1);
          if (kind === 'add') {
            const free = naive.subarray(first, first + pages * 4096).every((value) => value === -1);
            const add = () => memory.addRegion({ gpa: BigInt(first), size: BigInt(pages * 4096), readOnly });
            if (!free) {
              expect(add).toThrow(RangeError);
              return;
            }
            add();
            naive.fill(0, first, first + pages * 4096);
            rom.fill(readOnly ? 1 : 0, first, first + pages * 4096);
          } else if (kind === 'remove') {
            const region = memory.regions[page % Math.max(memory.regions.length, 1)];
            if (region === undefined) return;
            memory.removeRegion(region);
            naive.fill(-1, Number(region.gpa), Number(region.gpa + region.size));
            rom.fill(0, Number(region.gpa), Number(region.gpa + region.size));
          } else if (kind === 'read') {
            const into = new Uint8Array(length);
            expect(memory.read(at, into, 0, length)).toBe(backed);
            if (backed) expect(Buffer.compare(into, Uint8Array.from(inside))).toBe(0);
          } else if (kind === 'write') {
            const writable = backed && !rom.subarray(at, at + length).includes(1);
            expect(memory.write(at, new Uint8Array(length).fill(n + 1), 0, length)).toBe(writable);
            if (writable) inside.fill(n + 1);
          } else {
            expect(memory.isRam(at, length)).toBe(backed);
          }
        });
      }),
      { numRuns: 60 },
    );
  });
});

describe('MMIO', () => {
  it('answers DMA of emulated devices through its handlers, also across regions', () => {
    const memory = new GuestMemory();
    const seen: string[] = [];
    memory.addRegion({ gpa: 0n, size: 0x1000n });
    memory.addMmio({
      gpa: 0x1000n,
      size: 0x1000n,
      access: {
        read: (offset, into) => into.fill(offset + 0x40),
        write: (offset, data) => seen.push(`${offset}:${[...data].join()}`),
      },
    });
    memory.addMmio({ gpa: 0x2000n, size: 0x1000n });
    const into = new Uint8Array(4);
    expect(memory.dmaRead(0xffe, into, 0, 4)).toBe(true);
    expect([...into]).toEqual([0, 0, 0x40, 0x40]);
    expect(memory.dmaWrite(0xfff, bytes(1, 2, 3), 0, 3)).toBe(true);
    expect(seen).toEqual(['0:2,3']);
    expect(readByte(memory, 0xfff)).toBe(1);
    expect(memory.dmaWrite(0x1fff, bytes(1, 2), 0, 2)).toBe(false);
    expect(seen).toHaveLength(1);
    expect(memory.dmaRead(0x2fff, into, 0, 2)).toBe(false);
    expect(memory.dmaRead(0x5000, into, 0, 0)).toBe(true);
  });

  it('survives a handler that moves its own region', () => {
    const memory = new GuestMemory();
    let bar = memory.addMmio({
      gpa: 0x1000n,
      size: 0x1000n,
      access: { read: () => undefined, write: () => (bar = memory.moveMmio(bar, 0x9000n)) },
    });
    memory.addMmio({ gpa: 0x2000n, size: 0x1000n, access: { read: () => undefined, write: () => undefined } });
    expect(memory.dmaWrite(0x1ff8, new Uint8Array(16), 0, 16)).toBe(true);
    expect(memory.regions.map((region) => region.gpa)).toEqual([0x2000n, 0x9000n]);
  });

  it('moves, telling the observers of both places', () => {
    const memory = new GuestMemory();
    const old = memory.addMmio({ gpa: 0x1000n, size: 0x2000n, hva: 0x7000n });
    memory.addRegion({ gpa: 0x10000n, size: 0x1000n });
    const observer = recorder();
    const stop = memory.observe(observer);
    const moved = memory.moveMmio(old, 0x2000n);
    expect(moved).toMatchObject({ kind: 'mmio', gpa: 0x2000n, size: 0x2000n, hva: 0x7000n });
    expect(observer.log).toEqual(['removing 1000', 'added 2000']);
    expect(() => memory.moveMmio(moved, 0xf000n)).toThrow(/overlaps/);
    expect(() => memory.moveMmio(moved, 0x2001n)).toThrow(/gpa/);
    expect(() => memory.moveMmio(moved, END - 0x1000n)).toThrow(/gpa/);
    expect(() => memory.moveMmio(old, 0x5000n)).toThrow(TypeError);
    stop();
    memory.removeRegion(moved);
    expect(observer.log).toHaveLength(2);
  });
});

describe('observers', () => {
  it('veto by throwing: everybody is told the opposite and nothing has changed', () => {
    for (const change of ['add', 'remove', 'move'] as const) {
      for (const throwOn of ['added', 'removing']) {
        const memory = new GuestMemory();
        const ram = memory.addRegion({ gpa: 0x1000n, size: 0x1000n });
        const bar = memory.addMmio({ gpa: 0x2000n, size: 0x1000n });
        const first = recorder();
        memory.observe(first);
        const stop = memory.observe(recorder(throwOn));
        const before = [...memory.regions];
        const run = (): void => {
          if (change === 'add') memory.addRegion({ gpa: 0x8000n, size: 0x1000n });
          else if (change === 'remove') memory.removeRegion(ram);
          else memory.moveMmio(bar, 0x9000n);
        };
        const throws = change === 'move' || (change === 'add') === (throwOn === 'added');
        if (!throws) continue;
        expect(run, `${change} ${throwOn}`).toThrow(`no ${throwOn}`);
        expect(memory.regions).toEqual(before);
        const balance = new Map<string, number>();
        for (const line of first.log) {
          const [what, gpa] = line.split(' ') as [string, string];
          balance.set(gpa, (balance.get(gpa) ?? 0) + (what === 'added' ? 1 : -1));
        }
        expect([...balance.values()].every((value) => value === 0)).toBe(true);
        expect(memory.isRam(0x1000, 0x1000)).toBe(true);
        expect(memory.isRam(0x8000, 1)).toBe(false);
        stop();
        run();
      }
    }
  });

  it('see the region while it goes and when it came, and may not change memory', () => {
    const memory = new GuestMemory();
    const seen: boolean[] = [];
    memory.observe({
      removing: (region) => seen.push(memory.isRam(Number(region.gpa), 1)),
      added: (region) => {
        seen.push(memory.isRam(Number(region.gpa), 1));
        expect(() => memory.removeRegion(region)).toThrow(/inside an observer/);
      },
    });
    const region = memory.addRegion({ gpa: 0n, size: 0x1000n });
    memory.removeRegion(region);
    expect(seen).toEqual([true, true]);
    expect(() => memory.observe(undefined as never)).toThrow(TypeError);
  });

  it('report all errors when undoing fails as well', () => {
    const memory = new GuestMemory();
    memory.observe(recorder('removing'));
    memory.observe(recorder('added'));
    expect(() => memory.addRegion({ gpa: 0n, size: 0x1000n })).toThrow(AggregateError);
    expect(memory.regions).toEqual([]);
  });
});

describe('discardRange', () => {
  it('zeroes RAM, unless an observer objects', () => {
    const memory = new GuestMemory();
    memory.addRegion({ gpa: 0n, size: 0x3000n, windows: [new ArrayBuffer(0x1800), new ArrayBuffer(0x1800)] });
    memory.addRegion({ gpa: 0x3000n, size: 0x1000n, readOnly: true });
    memory.write(0, new Uint8Array(0x3000).fill(1), 0, 0x3000);
    let reason: string | undefined = 'in use';
    const stop = memory.observe({ ...recorder(), discarding: () => reason });
    let code: unknown;
    try {
      memory.discardRange(0x1000n, 0x1000n);
    } catch (error) {
      expect(error).toBeInstanceOf(RangeError);
      code = (error as { code?: unknown }).code;
    }
    expect(code).toBe('ERR_VIOMMU_DISCARD_REFUSED');
    expect(readByte(memory, 0x1000)).toBe(1);
    reason = undefined;
    memory.discardRange(0x1000n, 0x1000n);
    expect([0xfff, 0x1000, 0x1fff, 0x2000].map((gpa) => readByte(memory, gpa))).toEqual([1, 0, 0, 1]);
    stop();
    expect(() => memory.discardRange(0x800n, 0x1000n)).toThrow(/gpa/);
    expect(() => memory.discardRange(0n, 0n)).toThrow(/size/);
    expect(() => memory.discardRange(0x2000n, 0x2000n)).toThrow(/writable RAM/);
    expect(() => memory.discardRange(0n, 1n << 64n)).toThrow(/writable RAM/);
  });
});

// Rings, tables and requests that are read in place, and the same ones where they cannot be: the outcome is one.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriverQueue } from '../testing/driver-queue.ts';
import { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import { GuestMemory } from './memory.ts';
import { inPlace } from './ram-window.ts';
import { DescriptorFlag } from './ring-layout.ts';
import { SplitQueue } from './split-queue.ts';
import { PopResult } from './virtqueue.ts';

const RAM_BYTES = 0x6000;
const SIZE = 8;

/** Guest memory in windows of these lengths (bytes), over and over. */
function cutMemory(lengths: readonly number[]): GuestMemory {
  const windows: ArrayBuffer[] = [];
  for (let left = RAM_BYTES; left > 0;) {
    const length = Math.min(left, lengths[windows.length % lengths.length]!);
    windows.push(new ArrayBuffer(length));
    left -= length;
  }
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES), windows });
  return memory;
}

/** The same memory as one that offers nothing but the methods of a virtqueue's interface. */
function plain(memory: GuestMemory): RingMemory {
  return {
    isRam: (gpa, length) => memory.isRam(gpa, length),
    isWritableRam: (gpa, length) => memory.isWritableRam(gpa, length),
    read: (gpa, into, offset, length) => memory.read(gpa, into, offset, length),
    write: (gpa, from, offset, length) => memory.write(gpa, from, offset, length),
    loadU16: (gpa) => memory.loadU16(gpa),
    readU16: (gpa) => memory.readU16(gpa),
    readWords: (gpa, into, count) => memory.readWords(gpa, into, count),
    writeWord: (gpa, value) => memory.writeWord(gpa, value),
    writeWords2: (gpa, first, second) => memory.writeWords2(gpa, first, second),
    storeU16: (gpa, value) => memory.storeU16(gpa, value),
  };
}

/** First address where two memories differ, -1 when they are alike. */
function difference(a: GuestMemory, b: GuestMemory): number {
  const bytes = new Uint8Array(RAM_BYTES);
  const others = new Uint8Array(RAM_BYTES);
  a.read(0, bytes, 0, RAM_BYTES);
  b.read(0, others, 0, RAM_BYTES);
  return bytes.findIndex((byte, i) => byte !== others[i]);
}

interface Offer {
  readonly readable: readonly number[];
  readonly writable: readonly number[];
  readonly indirect: boolean | 'tail';
}

/** Sends every offer through a queue, in batches of up to the queue's size, and notes what the device saw. */
function run(memory: GuestMemory, ring: RingMemory, base: bigint, eventIdx: boolean, offers: readonly Offer[]): string {
  const driver = new DriverQueue(memory, { size: SIZE, base, eventIdx, bufferBytes: 0x2000 });
  const queue = new SplitQueue(0, SIZE, ring);
  const { size, desc, avail, used } = driver;
  queue.start({ size, desc, avail, used }, { indirect: true, eventIdx });
  const chain = new DescriptorChain();
  const log: unknown[] = [];
  offers.forEach(({ readable, writable, indirect }, i) => {
    const bytes = Uint8Array.from({ length: readable.reduce((a, b) => a + b, 0) }, (_, k) => i + k);
    const writableLength = writable.reduce((a, b) => a + b, 0);
    driver.makeAvailable(
      driver.add({ readable: bytes, readableLayout: readable, writableLength, writableLayout: writable, indirect }),
    );
    log.push(queue.available(), queue.pop(chain), chain.head, chain.malformed);
    const seen = new Uint8Array(chain.readableLength);
    log.push(chain.copyReadable(0, seen, seen.length), seen.join(), chain.readableAddress(seen.length));
    log.push(chain.writableAddress(0, writableLength), chain.writableLength);
    log.push(chain.write(0, seen, Math.min(seen.length, writableLength)));
    queue.push(chain.head, i);
    log.push(queue.publish(), queue.armNotification(), queue.pop(chain), queue.broken);
    log.push(driver.poll().map(({ head, usedLength, writable: reply }) => [head, usedLength, reply.join()]));
  });
  return JSON.stringify(log);
}

const layout = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 3 });
const offer = fc.record({
  readable: layout,
  writable: layout,
  indirect: fc.constantFrom<boolean | 'tail'>(true, false, 'tail'),
});
const cuts = fc.array(
  fc.integer({ min: 1, max: 30 }).map((units) => units * 8),
  { minLength: 1, maxLength: 4 },
);

describe('a queue', () => {
  it('does the same in one window, in windows of a few bytes, and in memory that shows none', () => {
    fc.assert(
      fc.property(fc.array(offer, { minLength: 1, maxLength: 20 }), cuts, fc.boolean(), (offers, lengths, eventIdx) => {
        const whole = cutMemory([RAM_BYTES]);
        const wanted = run(whole, whole, 0x1000n, eventIdx, offers);
        const pieces = cutMemory(lengths);
        expect(run(pieces, pieces, 0x1000n, eventIdx, offers)).toBe(wanted);
        expect(difference(pieces, whole)).toBe(-1);
        const bare = cutMemory([RAM_BYTES]);
        expect(inPlace(plain(bare))).toBe(undefined);
        expect(run(bare, plain(bare), 0x1000n, eventIdx, offers)).toBe(wanted);
        expect(difference(bare, whole)).toBe(-1);
      }),
      { numRuns: 40 },
    );
  });

  it('follows its memory when a region is taken away and another one put in its place', () => {
    for (const eventIdx of [false, true]) {
      const memory = new GuestMemory();
      const old = new ArrayBuffer(RAM_BYTES);
      const region = memory.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES), windows: [old] });
      const driver = new DriverQueue(memory, { size: SIZE, base: 0x1000n, eventIdx, bufferBytes: 0x1000 });
      const queue = new SplitQueue(0, SIZE, memory);
      const { size, desc, avail, used } = driver;
      queue.start({ size, desc, avail, used }, { indirect: true, eventIdx });
      const chain = new DescriptorChain();
      const add = (text: string): void => {
        driver.makeAvailable(
          driver.add({ readable: new TextEncoder().encode(text), writableLength: 4, indirect: true }),
        );
      };
      add('one');
      add('two');
      expect(queue.pop(chain)).toBe(PopResult.chain);
      memory.removeRegion(region);
      const now = old.slice(0);
      memory.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES), windows: [now] });
      const before = new Uint8Array(old.slice(0));
      // Pushed, popped and published in the new memory: nothing is written to the old one any more.
      queue.push(chain.head, 3);
      expect(queue.pop(chain)).toBe(PopResult.chain);
      queue.push(chain.head, 4);
      queue.publish();
      expect(driver.poll().map(({ usedLength }) => usedLength)).toEqual([3, 4]);
      add('three');
      expect(queue.pop(chain)).toBe(PopResult.chain);
      expect(chain.readableLength).toBe(5);
      expect(new Uint8Array(old)).toEqual(before);
    }
  });

  it('is broken when the memory of its rings is gone, whatever index was seen last', () => {
    for (const seen of [0, 1, 0xffff]) {
      const memory = new GuestMemory();
      const region = memory.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES) });
      const queue = new SplitQueue(0, SIZE, memory);
      queue.start({ size: SIZE, desc: 0x1000n, avail: 0x2000n, used: 0x3000n }, { indirect: true, eventIdx: false });
      const chain = new DescriptorChain();
      for (let i = 1; i <= seen; i++) {
        memory.storeU16(0x2002, i);
        expect(queue.pop(chain)).toBe(PopResult.chain);
        queue.push(chain.head, 0);
        queue.publish();
      }
      expect(queue.pop(chain)).toBe(PopResult.empty);
      memory.removeRegion(region);
      expect(queue.pop(chain)).toBe(PopResult.broken);
    }
  });

  it('takes an indirect table on any address', () => {
    const memory = cutMemory([RAM_BYTES]);
    const driver = new DriverQueue(memory, { size: SIZE, base: 0x1000n, bufferBytes: 0x1000 });
    const queue = new SplitQueue(0, SIZE, memory);
    const { size, desc, avail, used } = driver;
    queue.start({ size, desc, avail, used }, { indirect: true, eventIdx: false });
    const chain = new DescriptorChain();
    for (let shift = 0; shift < 8; shift++) {
      const table = 0x4000n + BigInt(shift);
      driver.writeDescriptorAt(table, { addr: 0x4800n, len: 5, flags: DescriptorFlag.next, next: 1 });
      driver.writeDescriptorAt(table + 16n, { addr: 0x4901n, len: 4, flags: DescriptorFlag.write, next: 0 });
      driver.writeDescriptor(shift, { addr: table, len: 32, flags: DescriptorFlag.indirect, next: 0 });
      driver.setAvailEntry(shift, shift);
      driver.setAvailIndex(shift + 1);
      expect(queue.pop(chain)).toBe(PopResult.chain);
      expect([chain.head, chain.readableAddress(5), chain.writableAddress(0, 4)]).toEqual([shift, 0x4800, 0x4901]);
      expect([chain.readableAddress(6), chain.readableAddress(0), chain.writableAddress(1, 4)]).toEqual([-1, -1, -1]);
      queue.push(shift, 4);
    }
  });
});

describe('a window', () => {
  it('is at most 1 GiB long, so that offsets stay small: a larger buffer is several', () => {
    const memory = new GuestMemory();
    const size = 2 ** 30 + 0x10000;
    memory.addRegion({ gpa: 0x1000n, size: BigInt(size), windows: [new ArrayBuffer(size)] });
    const edge = 0x1000 + 2 ** 30;
    expect([memory.windowAt(0x1000).end, memory.windowAt(edge).start]).toEqual([edge, edge]);
    expect(memory.write(edge - 2, Uint8Array.of(1, 2, 3, 4), 0, 4)).toBe(true);
    expect([memory.loadU16(edge - 2), memory.loadU16(edge)]).toEqual([0x0201, 0x0403]);
    expect([memory.isWritableRam(0x1000, size), memory.isRam(0x1000, size + 1)]).toEqual([true, false]);
    expect([memory.writeWords2(edge - 4, 5, 6), memory.writeWord(edge - 4, 5)]).toEqual([false, true]);
  });

  it('holds no address outside of memory', () => {
    const memory = cutMemory([RAM_BYTES]);
    for (const gpa of [-1, RAM_BYTES, NaN, Infinity, 2 ** 60]) {
      const window = memory.windowAt(gpa);
      expect([window.ram, window.writable, window.end, window.longs.length]).toEqual([false, false, 0, 0]);
    }
    memory.addMmio({ gpa: 0x100000n, size: 0x1000n });
    expect(memory.windowAt(0x100000)).toMatchObject({ start: 0x100000, end: 0x101000, ram: false, writable: false });
  });
});

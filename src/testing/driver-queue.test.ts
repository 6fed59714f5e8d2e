import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { DescriptorChain } from '../virtio/chain.ts';
import { GuestMemory } from '../virtio/memory.ts';
import { DescriptorFlag } from '../virtio/ring-layout.ts';
import { SplitQueue } from '../virtio/split-queue.ts';
import { PopResult } from '../virtio/virtqueue.ts';
import { BufferArea } from './buffer-area.ts';
import { DriverQueue, FAST_READABLE_BYTES, FAST_WRITABLE_BYTES } from './driver-queue.ts';

const BASE = 0x1_0000_0000n;
let memory: GuestMemory;

function make(size: number, more: { bufferBytes?: number; fastFraming?: 'direct' | 'indirect' } = {}): DriverQueue {
  return new DriverQueue(memory, { size, base: BASE, ...more });
}

/** A device that echoes the readable part; the result serves what is available. */
function device(driver: DriverQueue): () => void {
  const queue = new SplitQueue(0, driver.size, memory);
  const { size, desc, avail, used } = driver;
  queue.start({ size, desc, avail, used }, { indirect: true, eventIdx: false });
  const chain = new DescriptorChain();
  const bytes = new Uint8Array(128);
  return () => {
    while (queue.pop(chain) === PopResult.chain) {
      const length = chain.copyReadable(0, bytes, 128);
      queue.push(chain.head, chain.write(0, bytes, Math.min(length, chain.writableLength)));
    }
    queue.publish();
  };
}

beforeEach(() => {
  memory = new GuestMemory();
  memory.addRegion({ gpa: BASE, size: 0x200000n });
});

describe('DriverQueue', () => {
  it('takes exactly byteLength bytes and names what does not fit', () => {
    for (const size of [1, 2, 64, 1024]) {
      const small = new GuestMemory();
      const bytes = DriverQueue.byteLength(size, 4096);
      small.addRegion({ gpa: BASE, size: BigInt(Math.floor(bytes / 4096)) * 4096n });
      const init = { size, base: BASE, bufferBytes: 4096 - (bytes % 4096) };
      const room = Math.floor(bytes / 4096) * 4096 - DriverQueue.byteLength(size, 0);
      expect(() => new DriverQueue(small, { ...init, bufferBytes: room }), String(size)).not.toThrow();
      expect(() => new DriverQueue(small, { ...init, bufferBytes: room + 1 }), String(size)).toThrow(/bufferBytes/);
    }
    expect(() => make(3)).toThrow(/size/);
    expect(() => new DriverQueue(memory, { size: 8, base: BASE + 1n })).toThrow(/base/);
    expect(() => new DriverQueue(memory, { size: 8, base: 0n })).toThrow(/base/);
  });

  it('lays out readable and writable descriptors as asked', () => {
    const driver = make(8);
    const readable = Uint8Array.of(1, 2, 3);
    const head = driver.add({
      readable,
      writableLength: 2,
      readableLayout: [1, 0, 2],
      indirect: 'tail',
      indirectTableWriteFlag: true,
    });
    const [first, last] = driver.descriptorsOf(head);
    expect(first).toBe(head);
    expect(driver.readDescriptor(head)).toMatchObject({ len: 1, flags: DescriptorFlag.next, next: last });
    const table = driver.tableOf(head)!;
    const flags = DescriptorFlag.indirect | DescriptorFlag.write;
    expect(driver.readDescriptor(last!)).toEqual({ addr: table, len: 48, flags, next: 0 });
    const rows = [0n, 1n, 2n].map((i) => driver.readDescriptorAt(table + i * 16n));
    expect(rows.map(({ len }) => len)).toEqual([0, 2, 2]);
    expect(rows.map((row) => row.flags)).toEqual([DescriptorFlag.next, DescriptorFlag.next, DescriptorFlag.write]);
    const bytes = new Uint8Array(2);
    memory.read(Number(rows[1]!.addr), bytes, 0, 2);
    expect([...bytes]).toEqual([2, 3]);
    memory.read(Number(rows[2]!.addr), bytes, 0, 2);
    expect([...bytes]).toEqual([0xa5, 0xa5]);
  });

  it('refuses wrong layouts and empty requests, and changes nothing when there is no room', () => {
    const driver = make(4, { bufferBytes: 64 });
    const readable = new Uint8Array(4);
    expect(() => driver.add({ readable, writableLength: 0, readableLayout: [3] })).toThrow(/readableLayout/);
    expect(() => driver.add({ readable, writableLength: 4, writableLayout: [5, -1] })).toThrow(/writableLayout/);
    expect(() => driver.add({ readable: new Uint8Array(0), writableLength: 0 })).toThrow(/descriptor/);
    expect(() => driver.add({ readable, writableLength: 100 })).toThrow(/bufferBytes/);
    expect(() => driver.add({ readable, writableLength: 1, readableLayout: [1, 1, 1, 1] })).toThrow(/free descriptors/);
    expect(driver.freeSlots).toBe(4);
    driver.add({ readable, writableLength: 4 });
    driver.add({ readable, writableLength: 4 });
    expect(() => driver.add({ readable, writableLength: 4 })).toThrow(/free descriptors/);
    expect([driver.freeSlots, driver.outstanding]).toEqual([0, 2]);
    driver.reset();
    expect([driver.freeSlots, driver.outstanding]).toEqual([4, 0]);
  });

  it('notices a changed readable part and a damaged used ring', () => {
    const driver = make(4);
    const head = driver.add({ readable: Uint8Array.of(1), writableLength: 1 });
    const { addr } = driver.readDescriptor(head);
    memory.write(Number(addr), Uint8Array.of(2), 0, 1);
    driver.makeAvailable(head);
    device(driver)();
    expect(driver.poll()[0]!.readableUnchanged).toBe(false);
    memory.storeU16(Number(driver.used) + 2, 2);
    expect(() => driver.poll()).toThrow(/not outstanding/);
    memory.storeU16(Number(driver.used) + 2, 60);
    expect(() => driver.next()).toThrow(/ahead/);
  });

  for (const fastFraming of ['indirect', 'direct'] as const) {
    it(`mixes fast ${fastFraming} chains with built ones and does not wear out`, () => {
      const driver = make(8, { fastFraming });
      const serve = device(driver);
      const data = new Uint8Array(FAST_READABLE_BYTES);
      for (let round = 0; round < 3000; round++) {
        data[0] = round;
        const length = 1 + (round % FAST_READABLE_BYTES);
        const writable = 1 + (round % FAST_WRITABLE_BYTES);
        const head = driver.addFast(data, length, writable);
        driver.publish();
        serve();
        if (round % 2 === 0) {
          expect(driver.next()).toBe(head);
          expect([driver.statusByte(head, 0), driver.usedLength]).toEqual([round & 0xff, Math.min(length, writable)]);
          expect(driver.next()).toBe(-1);
        } else {
          expect(driver.poll()).toMatchObject([{ head, writable: { length: writable, 0: round & 0xff } }]);
        }
        const built = driver.add({ readable: data, writableLength: 1, indirect: round % 3 === 0 });
        driver.makeAvailable(built);
        serve();
        expect(driver.poll()).toMatchObject([{ head: built, readableUnchanged: true }]);
        expect(driver.freeSlots).toBe(8);
      }
      driver.makeAvailable(driver.add({ readable: data, writableLength: 1 }));
      serve();
      expect(() => driver.next()).toThrow(/poll/);
    });
  }

  it('formats a fast slot anew after a built chain used its descriptor', () => {
    const driver = make(2);
    const serve = device(driver);
    for (let round = 0; round < 4; round++) {
      const head = driver.addFast(Uint8Array.of(round), 1, 1);
      driver.publish();
      serve();
      expect([driver.next(), driver.statusByte(head, 0)]).toEqual([head, round]);
      const built = driver.add({ readable: Uint8Array.of(99), writableLength: 1, indirect: true });
      expect(built).toBe(head);
      driver.makeAvailable(built);
      serve();
      expect(driver.poll()).toMatchObject([{ writable: { 0: 99 } }]);
    }
  });

  it('fills the ring with fast chains, then says -1', () => {
    for (const [fastFraming, count] of [['indirect', 8] as const, ['direct', 4] as const]) {
      const driver = make(8, { fastFraming });
      for (let i = 0; i < count; i++) expect(driver.addFast(new Uint8Array(8), 8, 4)).toBeGreaterThanOrEqual(0);
      expect(driver.addFast(new Uint8Array(8), 8, 4)).toBe(-1);
      expect([driver.outstanding, driver.freeSlots]).toEqual([count, 0]);
    }
    const driver = make(8);
    expect(() => driver.addFast(new Uint8Array(200), FAST_READABLE_BYTES + 1, 4)).toThrow(/readableLength/);
    expect(() => driver.addFast(new Uint8Array(200), 0, 4)).toThrow(/readableLength/);
    expect(() => driver.addFast(new Uint8Array(200), 8, FAST_WRITABLE_BYTES + 1)).toThrow(/writableLength/);
    expect(driver.freeSlots).toBe(8);
  });
});

it('BufferArea never hands out overlapping pieces and becomes whole again', () => {
  fc.assert(
    fc.property(fc.array(fc.record({ take: fc.boolean(), n: fc.nat(200) }), { maxLength: 60 }), (steps) => {
      const area = new BufferArea(1000, 1600);
      let held: { start: number; bytes: number }[] = [];
      for (const { take, n } of steps) {
        if (take) {
          const start = area.take(n);
          if (start < 0) continue;
          expect(start >= 1000 && start + Math.max(n, 1) <= 2600).toBe(true);
          expect(
            held.every((piece) => start >= piece.start + Math.max(piece.bytes, 1) || start + n <= piece.start),
          ).toBe(true);
          held.push({ start, bytes: n });
        } else {
          const piece = held[n % Math.max(held.length, 1)];
          if (piece === undefined) continue;
          area.release(piece.start, piece.bytes);
          held = held.filter((other) => other !== piece);
        }
      }
      for (const piece of held) area.release(piece.start, piece.bytes);
      expect(area.take(1600)).toBe(1000);
    }),
  );
});

import { beforeEach, describe, expect, it } from 'vitest';
import { GuestMemory } from '../virtio/memory.ts';
import { EventFlag, PackedFlag } from '../virtio/packed-layout.ts';
import { PackedDriverQueue } from './packed-driver-queue.ts';

const { avail: AVAIL, used: USED, next: NEXT, write: WRITE, indirect: INDIRECT } = PackedFlag;
const BASE = 0x1000n;

let memory: GuestMemory;
let queue: PackedDriverQueue;

function make(size: number, eventIdx = false): void {
  memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: 0x100000n });
  queue = new PackedDriverQueue(memory, { size, base: BASE, eventIdx });
}

/** The device uses chain `id` at `position` in a lap with this wrap counter. */
function use(position: number, id: number, length: number, wrap = 1): void {
  const flags = (wrap === 1 ? AVAIL | USED : 0) | (length > 0 ? WRITE : 0);
  queue.writeDescriptor(position, { addr: 0n, len: length, id, flags });
}

beforeEach(() => make(4));

describe('PackedDriverQueue', () => {
  it('lays the areas out behind each other', () => {
    expect([queue.desc, queue.avail, queue.used]).toEqual([0x1000n, 0x1040n, 0x1080n]);
    make(5);
    expect([queue.avail, queue.used]).toEqual([0x1080n, 0x10c0n]);
    expect(PackedDriverQueue.byteLength(5, 100)).toBe(0x100 + 100);
  });

  it('puts a chain into the ring when it is made available, and flips the bits lap by lap', () => {
    const id = queue.add({ readable: Uint8Array.of(1, 2), writableLength: 3 });
    expect([queue.flagsAt(0), queue.freeSlots, queue.outstanding]).toEqual([0, 2, 1]);
    queue.makeAvailable(id);
    const [readable, writable] = queue.buffersOf(id);
    expect(queue.readDescriptor(0)).toEqual({ addr: BigInt(readable!.gpa), len: 2, id, flags: AVAIL | NEXT });
    expect(queue.readDescriptor(1)).toEqual({ addr: BigInt(writable!.gpa), len: 3, id, flags: AVAIL | WRITE });
    const table = queue.add({ readable: Uint8Array.of(9), writableLength: 1, indirect: true });
    const single = queue.add({ readable: Uint8Array.of(8), writableLength: 0 });
    queue.makeAvailable(single, table);
    expect([queue.flagsAt(2), queue.flagsAt(3)]).toEqual([AVAIL, AVAIL | INDIRECT]);
    expect(queue.readDescriptorAt(queue.tableOf(table)!).flags).toBe(0);
    expect([queue.descriptorsOf(single), queue.descriptorsOf(table)]).toEqual([[2], [3]]);
    use(0, id, 0);
    expect(queue.poll()).toMatchObject([{ head: id, usedLength: 0, readableUnchanged: true }]);
    queue.makeAvailable(queue.add({ readable: Uint8Array.of(7), writableLength: 0 }));
    expect(queue.flagsAt(0)).toBe(USED);
  });

  it('collects in the order of use, over the end of the ring', () => {
    const ids = [1, 2].map((byte) => queue.add({ readable: Uint8Array.of(byte), writableLength: 1 }));
    queue.makeAvailable(...ids);
    expect(queue.poll()).toEqual([]);
    use(0, ids[1]!, 1);
    use(2, ids[0]!, 1);
    expect(queue.poll().map(({ head }) => head)).toEqual([ids[1], ids[0]]);
    expect([queue.freeSlots, queue.poll()]).toEqual([4, []]);
    const next = queue.add({ readable: Uint8Array.of(3), writableLength: 1 });
    queue.makeAvailable(next);
    use(0, next, 5, 0);
    expect(queue.poll()).toMatchObject([{ head: next, usedLength: 5 }]);
  });

  it('tells what the device breaks', () => {
    queue.makeAvailable(queue.add({ readable: Uint8Array.of(1), writableLength: 1 }));
    use(0, 99, 1);
    expect(() => queue.poll()).toThrow(/id 99/);
    make(4);
    const id = queue.add({ readable: Uint8Array.of(1), writableLength: 1 });
    use(0, id, 1);
    expect(() => queue.poll()).toThrow(/not outstanding/);
    make(4);
    const seen = queue.add({ readable: Uint8Array.of(1), writableLength: 1 });
    queue.makeAvailable(seen);
    memory.write(queue.buffersOf(seen)[0]!.gpa, Uint8Array.of(2), 0, 1);
    use(0, seen, 1);
    expect(queue.poll()[0]!.readableUnchanged).toBe(false);
  });

  it('has room for as much as the ring holds', () => {
    for (let i = 0; i < 4; i++) queue.add({ readable: Uint8Array.of(1), writableLength: 1, indirect: true });
    expect(() => queue.add({ readable: Uint8Array.of(1), writableLength: 0 })).toThrow(/no 1 free/);
    make(4);
    expect(() => queue.add({ readable: new Uint8Array(0x20000), writableLength: 0 })).toThrow(/bufferBytes/);
    expect([queue.freeSlots, queue.outstanding]).toEqual([4, 0]);
    expect(() => queue.buffersOf(0)).toThrow(/not outstanding/);
  });

  it('kicks as the device asks for it', () => {
    const offer = (): void => queue.makeAvailable(queue.add({ readable: Uint8Array.of(1), writableLength: 0 }));
    const deviceEvent = (offWrap: number, flags: number): void => {
      memory.storeU16(Number(queue.used), offWrap);
      memory.storeU16(Number(queue.used) + 2, flags);
    };
    make(4, true);
    const wanted = [
      [0, EventFlag.enable],
      [0, EventFlag.disable],
      [0x8002, EventFlag.desc],
      [0x8000, EventFlag.desc],
    ].map(([offWrap, flags]) => {
      deviceEvent(offWrap!, flags!);
      offer();
      return queue.shouldKick();
    });
    expect([...wanted, queue.shouldKick()]).toEqual([true, false, true, false, false]);
    queue.armInterrupt();
    expect([memory.loadU16(Number(queue.avail)), memory.loadU16(Number(queue.avail) + 2)]).toEqual([0x8000, 2]);
  });

  it('refuses what cannot be', () => {
    for (const size of [0, 32769, 1.5]) {
      expect(() => new PackedDriverQueue(memory, { size, base: BASE })).toThrow(/size/);
    }
    expect(() => new PackedDriverQueue(memory, { size: 4, base: 8n })).toThrow(/base/);
    expect(() => new PackedDriverQueue(memory, { size: 4, base: 0x100000n })).toThrow(/base/);
    expect(() => new PackedDriverQueue(memory, { size: 4, base: 0xff000n, bufferBytes: 8192 })).toThrow(/bufferBytes/);
  });
});

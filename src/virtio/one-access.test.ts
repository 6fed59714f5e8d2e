// Rings in memory behind an IOMMU, where each refused access is a fault that the guest is told of: what cannot be read is
// tried for once, and a ring that is found broken is not looked at again.
import { describe, expect, it } from 'vitest';
import { DriverQueue } from '../testing/driver-queue.ts';
import { PackedDriverQueue } from '../testing/packed-driver-queue.ts';
import { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import { GuestMemory } from './memory.ts';
import { PackedQueue } from './packed-queue.ts';
import { SplitQueue } from './split-queue.ts';
import type { Virtqueue } from './virtqueue.ts';
import { PopResult } from './virtqueue.ts';

/** Memory that has an address for everything, as an IOMMU has, and refuses what meets a closed range. */
class Translated implements RingMemory {
  readonly memory = new GuestMemory();
  closed: (readonly [start: number, end: number])[] = [];
  /** Accesses that were refused. */
  faults = 0;

  constructor() {
    this.memory.addRegion({ gpa: 0n, size: 0x40_0000n });
  }

  isRam(): boolean {
    return true;
  }

  isWritableRam(): boolean {
    return true;
  }

  read(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    return this.#open(gpa, length) && this.memory.read(gpa, into, offset, length);
  }

  write(gpa: number, from: Uint8Array, offset: number, length: number): boolean {
    return this.#open(gpa, length) && this.memory.write(gpa, from, offset, length);
  }

  loadU16(gpa: number): number {
    return this.#open(gpa, 2) ? this.memory.loadU16(gpa) : -1;
  }

  readU16(gpa: number): number {
    return this.#open(gpa, 2) ? this.memory.readU16(gpa) : -1;
  }

  readWords(gpa: number, into: Uint32Array, count: number): boolean {
    return this.#open(gpa, count * 4) && this.memory.readWords(gpa, into, count);
  }

  writeWord(gpa: number, value: number): boolean {
    return this.#open(gpa, 4) && this.memory.writeWord(gpa, value);
  }

  writeWords2(gpa: number, first: number, second: number): boolean {
    return this.#open(gpa, 8) && this.memory.writeWords2(gpa, first, second);
  }

  storeU16(gpa: number, value: number): boolean {
    return this.#open(gpa, 2) && this.memory.storeU16(gpa, value);
  }

  #open(gpa: number, length: number): boolean {
    const refused = this.closed.some(([start, end]) => gpa < end && gpa + length > start);
    if (refused) this.faults++;
    return !refused;
  }
}

interface Bench {
  readonly ring: Translated;
  readonly queue: Virtqueue & { readonly broken: boolean };
  readonly chain: DescriptorChain;
  /** First byte of the descriptors, and of what says that there is one. */
  readonly desc: number;
  readonly available: number;
  /** Makes a request of two parts available; its table, 0 without one. */
  readonly offer: (indirect: boolean | 'tail') => number;
}

function bench(kind: string): Bench {
  const ring = new Translated();
  const { memory } = ring;
  const split = kind === 'split';
  const options = { size: 8, base: 0x1000n, eventIdx: false };
  const driver = split ? new DriverQueue(memory, options) : new PackedDriverQueue(memory, options);
  const queue = split ? new SplitQueue(0, 8, ring) : new PackedQueue(0, 8, ring);
  const { size, desc, avail, used } = driver;
  queue.start({ size, desc, avail, used }, { indirect: true, eventIdx: false });
  const at = Number(desc);
  return {
    ring,
    queue,
    chain: new DescriptorChain(),
    desc: at,
    available: split ? Number(avail) + 2 : at + 14,
    offer(indirect) {
      driver.makeAvailable(
        driver.add({ readable: new Uint8Array(8), readableLayout: [4, 4], writableLength: 4, indirect }),
      );
      const pointer = new Uint32Array(1);
      return memory.readWords(at + (indirect === 'tail' ? 16 : 0), pointer, 1) && indirect !== false ? pointer[0]! : 0;
    },
  };
}

describe.each(['split', 'packed'])('a %s ring', (kind) => {
  it.each<[string, boolean | 'tail', (bench: Bench, table: number) => readonly [start: number, bytes: number]]>([
    ['an indirect table', true, (_, table) => [table, 48]],
    ['an indirect table behind a direct descriptor', 'tail', (_, table) => [table, 32]],
    ['the second descriptor of a table', true, (_, table) => [table + 16, 16]],
    ['the last bytes of a table', true, (_, table) => [table + 47, 1]],
    ['the first descriptor', false, ({ desc }) => [desc, 13]],
    ['the second descriptor', false, ({ desc }) => [desc + 16, 16]],
    ['the third descriptor', false, ({ desc }) => [desc + 32, 16]],
    ['what says that there is one', false, ({ available }) => [available, 2]],
  ])('tries once for %s that cannot be read, and is broken', (_name, indirect, closed) => {
    const each = bench(kind);
    const { ring, queue, chain } = each;
    const [start, bytes] = closed(each, each.offer(indirect));
    ring.closed = [[start, start + bytes]];
    expect([queue.pop(chain), ring.faults]).toEqual([PopResult.broken, 1]);
    expect(queue.pop(chain)).toBe(PopResult.broken);
    expect([queue.publish(), queue.armNotification(), queue.broken, ring.faults]).toEqual([false, false, true, 1]);
  });

  it.each([true, 'tail', false] as const)('takes a list that can be read without a fault, indirect %s', (indirect) => {
    const { ring, queue, chain, offer } = bench(kind);
    offer(indirect);
    expect([queue.pop(chain), chain.readableLength, chain.writableLength]).toEqual([PopResult.chain, 8, 4]);
    queue.push(chain.head, 4);
    expect([queue.publish(), queue.pop(chain), ring.faults]).toEqual([true, PopResult.empty, 0]);
  });

  it('tries once for a buffer that cannot be read, and once for one that cannot be written', () => {
    const { ring, queue, chain, offer } = bench(kind);
    offer(false);
    expect(queue.pop(chain)).toBe(PopResult.chain);
    ring.closed = [[0, 0x40_0000]];
    const bytes = new Uint8Array(8);
    expect([chain.copyReadable(0, bytes, 8), ring.faults]).toEqual([0, 1]);
    expect([chain.write(0, bytes, 4), ring.faults]).toEqual([0, 2]);
    expect(queue.broken).toBe(false);
  });
});

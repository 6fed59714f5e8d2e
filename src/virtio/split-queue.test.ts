import fc from 'fast-check';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { DriverRequest } from '../testing/driver-queue.ts';
import { DriverQueue } from '../testing/driver-queue.ts';
import { DescriptorChain } from './chain.ts';
import { GuestMemory } from './memory.ts';
import { DescriptorFlag, needEvent, Ring, RingEntry } from './ring-layout.ts';
import { SplitQueue } from './split-queue.ts';
import { PopResult } from './virtqueue.ts';

const { next: NEXT, write: WRITE, indirect: INDIRECT } = DescriptorFlag;
const SIZE = 8;
const RAM_BYTES = 0x100000;
const BUFFER = 0x40000n;

let memory: GuestMemory;
let driver: DriverQueue;
let queue: SplitQueue;
let chain: DescriptorChain;

function startQueue(features: { indirect?: boolean; eventIdx?: boolean } = {}): void {
  const { desc, avail, used, size } = driver;
  queue.start(
    { size, desc, avail, used },
    { indirect: features.indirect ?? true, eventIdx: features.eventIdx ?? false },
  );
}

function setUp(size: number, features: { indirect?: boolean; eventIdx?: boolean } = {}): void {
  memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES) });
  memory.addRegion({ gpa: 0x200000n, size: 0x1000n, readOnly: true });
  memory.addMmio({ gpa: 0x300000n, size: 0x1000n, access: { read: () => undefined, write: () => undefined } });
  driver = new DriverQueue(memory, { size, base: 0x1000n, eventIdx: features.eventIdx ?? false });
  queue = new SplitQueue(0, size, memory);
  chain = new DescriptorChain();
  startQueue(features);
}

function request(text: string, writableLength = 4, more: Partial<DriverRequest> = {}): DriverRequest {
  return { readable: new TextEncoder().encode(text), writableLength, ...more };
}

function readable(): string {
  const into = new Uint8Array(chain.readableLength);
  expect(chain.copyReadable(0, into, into.length)).toBe(into.length);
  return new TextDecoder().decode(into);
}

function expectBroken(): void {
  expect(queue.pop(chain)).toBe(PopResult.broken);
  expect(queue.pop(chain)).toBe(PopResult.broken);
  expect(queue.broken).toBe(true);
  expect(queue.publish()).toBe(false);
  expect(queue.armNotification()).toBe(false);
  expect(driver.usedIndex).toBe(0);
}

function expectWorksAfterReset(): void {
  driver.reset();
  queue.reset();
  startQueue();
  driver.makeAvailable(driver.add(request('again')));
  expect(queue.pop(chain)).toBe(PopResult.chain);
  expect(readable()).toBe('again');
  expect(chain.write(0, Uint8Array.of(1, 2, 3, 4), 4)).toBe(4);
  queue.push(chain.head, 4);
  expect(queue.publish()).toBe(true);
  expect(driver.poll()).toMatchObject([
    { usedLength: 4, writable: Uint8Array.of(1, 2, 3, 4), readableUnchanged: true },
  ]);
}

/** Puts one descriptor per argument at 0, 1, …, chained, and offers head 0. */
function offerRaw(...descriptors: { addr?: bigint; len?: number; flags?: number; next?: number }[]): void {
  descriptors.forEach(({ addr = BUFFER, len = 4, flags = 0, next = 0 }, i) => {
    driver.writeDescriptor(i, { addr, len, flags, next });
  });
  driver.setAvailEntry(0, 0);
  driver.setAvailIndex(1);
}

function table(...descriptors: { addr?: bigint; len?: number; flags?: number; next?: number }[]): bigint {
  const at = 0x80000n;
  descriptors.forEach(({ addr = BUFFER, len = 4, flags = 0, next = 0 }, i) => {
    driver.writeDescriptorAt(at + BigInt(i * 16), { addr, len, flags, next });
  });
  return at;
}

describe('one queue', () => {
  beforeEach(() => setUp(SIZE));

  it('pops in order, reads, writes, pushes and publishes [D-RING-4]', () => {
    expect(queue.pop(chain)).toBe(PopResult.empty);
    expect(queue.publish()).toBe(false);
    const heads = ['one', 'two', 'three'].map((text) => driver.add(request(text)));
    driver.makeAvailable(...heads);
    expect(queue.available()).toBe(3);
    for (const [i, text] of ['one', 'two', 'three'].entries()) {
      expect(queue.pop(chain)).toBe(PopResult.chain);
      expect([chain.head, chain.readableLength, chain.writableLength]).toEqual([heads[i], text.length, 4]);
      expect(readable()).toBe(text);
      expect(chain.write(3, Uint8Array.of(i), 1)).toBe(1);
      queue.push(chain.head, i);
    }
    expect(driver.poll()).toEqual([]);
    expect(queue.publish()).toBe(true);
    expect(queue.publish()).toBe(false);
    const done = driver.poll();
    expect(done.map(({ head, usedLength }) => [head, usedLength])).toEqual(heads.map((head, i) => [head, i]));
    expect(
      done.every(
        ({ writable, readableUnchanged }, i) => writable[3] === i && writable[0] === 0xa5 && readableUnchanged,
      ),
    ).toBe(true);
    expect(queue.available()).toBe(0);
  });

  it('stores heads and lengths of the used entries before the index that shows them [D-RING-4]', () => {
    const heads = ['one', 'two', 'three'].map((text) => driver.add(request(text)));
    driver.makeAvailable(...heads);
    const used = Number(driver.used);
    const seen: [index: number, entries: number[]][] = [];
    const store = memory.storeU16.bind(memory);
    vi.spyOn(memory, 'storeU16').mockImplementation((gpa, value) => {
      const entries = new Uint32Array(3 * 2);
      memory.readWords(used + Ring.entries, entries, (3 * RingEntry.usedSize) / 4);
      if (gpa === used + Ring.idx) seen.push([value, [...entries]]);
      return store(gpa, value);
    });
    for (let i = 0; i < 3; i++) {
      queue.pop(chain);
      queue.push(chain.head, 10 + i);
    }
    queue.publish();
    expect(seen).toEqual([[3, heads.flatMap((head, i) => [head, 10 + i])]]);
  });

  it('accepts out-of-order completion and ignores a push of what is not in flight', () => {
    driver.makeAvailable(driver.add(request('a')), driver.add(request('b')));
    queue.pop(chain);
    const a = chain.head;
    queue.pop(chain);
    queue.push(chain.head, 1);
    queue.push(chain.head, 1);
    queue.push(7, 1);
    queue.push(99, 1);
    queue.push(-1, 1);
    queue.push(a, 2 ** 33);
    queue.publish();
    expect(driver.poll().map((done) => done.usedLength)).toEqual([1, 0xffff_ffff]);
  });

  it('copies and writes at any offset, and refuses a write that does not fit wholly [D-RING-2]', () => {
    driver.makeAvailable(driver.add(request('abcdefgh', 6, { readableLayout: [3, 0, 5], writableLayout: [1, 0, 5] })));
    queue.pop(chain);
    const into = new Uint8Array(8).fill(0x2e);
    expect(chain.copyReadable(6, into, 8)).toBe(2);
    expect(chain.copyReadable(2, into, 2)).toBe(2);
    expect(new TextDecoder().decode(into)).toBe('cd......');
    expect(chain.copyReadable(8, into, 1)).toBe(0);
    expect(chain.copyReadable(9, into, 1)).toBe(0);
    expect(chain.copyReadable(-1, into, 2)).toBe(0);
    expect(() => chain.copyReadable(0, new Uint8Array(1), 8)).toThrow(RangeError);
    expect(chain.write(3, Uint8Array.of(1, 2, 3, 4), 4)).toBe(0);
    expect(chain.write(-1, Uint8Array.of(1), 1)).toBe(0);
    expect(chain.write(6, Uint8Array.of(1), 1)).toBe(0);
    expect(chain.write(0, Uint8Array.of(1, 2, 3), 3)).toBe(3);
    expect(chain.write(5, Uint8Array.of(9), 1)).toBe(1);
    queue.push(chain.head, 6);
    queue.publish();
    expect([...driver.poll()[0]!.writable]).toEqual([1, 2, 3, 0xa5, 0xa5, 9]);
  });

  it('runs past 2^16 requests', () => {
    const data = new Uint8Array(36);
    let done = 0;
    while (done < 70_000) {
      while (driver.addFast(data, 36, 4) >= 0);
      driver.publish();
      while (queue.pop(chain) === PopResult.chain) queue.push(chain.head, 4);
      queue.publish();
      while (driver.next() >= 0) done++;
    }
    expect(queue.broken).toBe(false);
    expect(driver.freeSlots).toBe(SIZE);
  });

  it('is idle before start and after reset, and writes nothing then', () => {
    driver.makeAvailable(driver.add(request('x')));
    queue.pop(chain);
    const { head } = chain;
    queue.reset();
    queue.push(head, 4);
    expect([queue.publish(), queue.pop(chain), queue.available(), queue.ready, queue.armNotification()]).toEqual([
      false,
      PopResult.empty,
      0,
      false,
      false,
    ]);
    queue.suppressNotification();
    expect([driver.usedIndex, driver.usedFlags]).toEqual([0, 0]);
  });
});

describe('framing', () => {
  beforeEach(() => setUp(SIZE));

  it('takes indirect, tail and writable-flagged tables (D-RING-2, D-RING-5, D-RING-6)', () => {
    for (const indirect of [true, 'tail', false] as const) {
      for (const indirectTableWriteFlag of [false, true]) {
        const layout = { readableLayout: [1, 2, 2], writableLayout: [2, 2], indirect, indirectTableWriteFlag };
        driver.makeAvailable(driver.add(request('frame', 4, layout)));
        expect(queue.pop(chain)).toBe(PopResult.chain);
        expect([readable(), chain.writableLength, chain.malformed]).toEqual(['frame', 4, false]);
        queue.push(chain.head, 0);
        queue.publish();
        expect(driver.poll()).toHaveLength(1);
      }
    }
  });

  it('calls readable after writable malformed, not broken', () => {
    driver.makeAvailable(driver.add(request('late', 4, { writableFirst: true })));
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect(chain.malformed).toBe(true);
    expect([chain.readableLength, chain.writableLength]).toEqual([4, 4]);
    driver.makeAvailable(driver.add(request('fine')));
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect(chain.malformed).toBe(false);
  });

  it('lets zero-length descriptors contribute nothing, wherever they point', () => {
    offerRaw(
      { len: 0, addr: 0xffff_ffff_ffff_ffffn, flags: NEXT, next: 1 },
      { len: 4, flags: NEXT, next: 2 },
      { len: 0, flags: NEXT | WRITE, next: 3, addr: 0x300000n },
      { len: 0, flags: NEXT, next: 4 },
      { len: 2, flags: WRITE, addr: BUFFER + 16n },
    );
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect([chain.readableLength, chain.writableLength, chain.malformed]).toEqual([4, 2, false]);
  });

  it('pops a chain of nothing but zero-length descriptors', () => {
    offerRaw({ len: 0 });
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect([chain.readableLength, chain.writableLength]).toEqual([0, 0]);
    expect(chain.write(0, new Uint8Array(1), 1)).toBe(0);
  });

  it('ignores unknown flag bits and the next field without NEXT', () => {
    offerRaw({ flags: 0xfff8 | NEXT, next: 1 }, { flags: 0xfff8 | WRITE, next: 0xffff });
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect([chain.readableLength, chain.writableLength]).toEqual([4, 4]);
  });

  it('keeps totals above 2^32 exact without allocating them', () => {
    const big = new GuestMemory();
    const page = new ArrayBuffer(0x1000000);
    big.addRegion({ gpa: 0n, size: 0x100000n });
    // One buffer stands for 5 GiB of guest memory.
    big.addRegion({ gpa: 1n << 40n, size: 0x1000000n * 320n, windows: Array.from({ length: 320 }, () => page) });
    memory = big;
    driver = new DriverQueue(big, { size: SIZE, base: 0x1000n });
    queue = new SplitQueue(0, SIZE, big);
    startQueue();
    const addr = 1n << 40n;
    offerRaw(
      { addr, len: 0xffff_ffff, flags: NEXT, next: 1 },
      { addr, len: 0xffff_ffff, flags: NEXT, next: 2 },
      { addr, len: 0xffff_ffff, flags: WRITE },
    );
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect([chain.readableLength, chain.writableLength]).toEqual([2 * 0xffff_ffff, 0xffff_ffff]);
    expect(chain.write(0xffff_fffe, Uint8Array.of(0x77), 1)).toBe(1);
    const into = new Uint8Array(2);
    expect(chain.copyReadable(2 * 0xffff_ffff - 1, into, 2)).toBe(1);
    expect(into[0]).toBe(0x77);
  });

  it('accepts `size` direct descriptors and `size` in a table, also behind direct ones', () => {
    const ones = (n: number): number[] => Array.from({ length: n }, () => 1);
    driver.makeAvailable(driver.add(request('12345678', 0, { readableLayout: ones(8) })));
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect(readable()).toBe('12345678');
    queue.push(chain.head, 0);
    queue.publish();
    driver.poll();
    driver.makeAvailable(driver.add(request('123456789', 0, { readableLayout: ones(9), indirect: 'tail' })));
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect(readable()).toBe('123456789');
  });

  it('reads a random framing as a naive reader does [D-RING-2]', () => {
    const layout = fc.array(fc.nat(40), { minLength: 1, maxLength: 6 });
    const framing = fc.record({
      readableLayout: layout,
      writableLayout: layout,
      indirect: fc.constantFrom(true, false, 'tail' as const),
      indirectTableWriteFlag: fc.boolean(),
      writableFirst: fc.boolean(),
      seed: fc.nat(255),
    });
    setUp(64);
    fc.assert(
      fc.property(fc.array(framing, { minLength: 1, maxLength: 4 }), (framings) => {
        const requests = framings.map(({ seed, ...frame }) => {
          const sum = (lengths: number[]): number => lengths.reduce((total, length) => total + length, 0);
          const bytes = Uint8Array.from({ length: sum(frame.readableLayout) }, (_, i) => seed + i);
          return { readable: bytes, writableLength: sum(frame.writableLayout), ...frame };
        });
        driver.makeAvailable(...requests.map((each) => driver.add(each)));
        for (const each of requests) {
          expect(queue.pop(chain)).toBe(PopResult.chain);
          const some = (lengths: number[]): boolean => lengths.some((length) => length > 0);
          expect(chain.malformed).toBe(each.writableFirst && some(each.readableLayout) && some(each.writableLayout));
          expect(naiveRead(chain.head)).toEqual({ readable: [...each.readable], writableLength: each.writableLength });
          const into = new Uint8Array(chain.readableLength);
          for (let at = 0; at < into.length; at += 7) {
            const piece = new Uint8Array(7);
            const got = chain.copyReadable(at, piece, 7);
            into.set(piece.subarray(0, got), at);
          }
          expect(into).toEqual(each.readable);
          for (let at = 0; at < each.writableLength; at++) chain.write(at, Uint8Array.of(at), 1);
          queue.push(chain.head, each.writableLength);
        }
        queue.publish();
        driver.poll().forEach((done, i) => {
          expect(done.readableUnchanged).toBe(true);
          expect([...done.writable]).toEqual(Array.from({ length: requests[i]!.writableLength }, (_, at) => at));
        });
        expect([driver.freeSlots, driver.outstanding]).toEqual([64, 0]);
      }),
      { numRuns: 150 },
    );
  });

  function naiveRead(head: number): { readable: number[]; writableLength: number } {
    const found = { readable: [] as number[], writableLength: 0 };
    const follow = (at: bigint, first: number): void => {
      const { addr, len, flags, next } = driver.readDescriptorAt(at + BigInt(first) * 16n);
      if ((flags & INDIRECT) !== 0) {
        follow(addr, 0);
        return;
      }
      if ((flags & WRITE) !== 0) found.writableLength += len;
      else {
        const into = new Uint8Array(len);
        memory.read(Number(addr), into, 0, len);
        found.readable.push(...into);
      }
      if ((flags & NEXT) !== 0) follow(at, next);
    };
    follow(driver.desc, head);
    return found;
  }
});

describe('damage makes the queue broken until reset', () => {
  beforeEach(() => setUp(SIZE));

  const good = { len: 4 };
  const damages: Record<string, () => void> = {
    desc_loop: () => offerRaw({ flags: NEXT, next: 1 }, { flags: NEXT, next: 0 }),
    'desc_loop on itself': () => offerRaw({ flags: NEXT, next: 0 }),
    'desc_loop of zero-length descriptors': () => offerRaw({ len: 0, flags: NEXT, next: 0 }),
    desc_next_out_of_range: () => offerRaw({ flags: NEXT, next: SIZE }),
    'next 0xffff': () => offerRaw({ flags: NEXT, next: 0xffff }),
    desc_addr_outside_memory: () => offerRaw({ addr: BigInt(RAM_BYTES) }),
    'one byte outside memory': () => offerRaw({ addr: BigInt(RAM_BYTES) - 3n }),
    'address wraps 2^64': () => offerRaw({ addr: 0xffff_ffff_ffff_fffen, len: 4 }),
    'address 2^53': () => offerRaw({ addr: 1n << 53n }),
    'address in MMIO': () => offerRaw({ addr: 0x300000n }),
    'length 2^32-1': () => offerRaw({ len: 0xffff_ffff }),
    writable_addr_outside_memory: () => offerRaw({ flags: NEXT, next: 1 }, { addr: BigInt(RAM_BYTES), flags: WRITE }),
    'writable in ROM': () => offerRaw({ addr: 0x200000n, flags: WRITE }),
    'writable in MMIO': () => offerRaw({ addr: 0x300000n, flags: WRITE }),
    indirect_len_not_multiple_of_16: () => offerRaw({ addr: table(good, good), len: 24, flags: INDIRECT }),
    'indirect length 0': () => offerRaw({ addr: table(good), len: 0, flags: INDIRECT }),
    'indirect length 15': () => offerRaw({ addr: table(good), len: 15, flags: INDIRECT }),
    'indirect table outside memory': () => offerRaw({ addr: BigInt(RAM_BYTES), len: 16, flags: INDIRECT }),
    'indirect table partly outside memory': () => {
      driver.writeDescriptorAt(BigInt(RAM_BYTES) - 16n, { addr: BUFFER, len: 4, flags: 0, next: 0 });
      offerRaw({ addr: BigInt(RAM_BYTES) - 16n, len: 32, flags: INDIRECT });
    },
    'indirect table in MMIO': () => offerRaw({ addr: 0x300000n, len: 16, flags: INDIRECT }),
    nested_indirect: () =>
      offerRaw({ addr: table({ addr: table(good), len: 16, flags: INDIRECT }), len: 16, flags: INDIRECT }),
    'indirect with NEXT': () => offerRaw({ addr: table(good), len: 16, flags: INDIRECT | NEXT, next: 1 }, good),
    'next beyond the indirect table': () =>
      offerRaw({ addr: table({ flags: NEXT, next: 1 }), len: 16, flags: INDIRECT }),
    'loop in the indirect table': () =>
      offerRaw({ addr: table({ flags: NEXT, next: 1 }, { flags: NEXT, next: 0 }), len: 32, flags: INDIRECT }),
    'more than size descriptors in an indirect table': () => {
      const many = Array.from({ length: SIZE + 1 }, (_, i) => (i < SIZE ? { flags: NEXT, next: i + 1 } : {}));
      offerRaw({ addr: table(...many), len: (SIZE + 1) * 16, flags: INDIRECT });
    },
    'indirect buffer outside memory': () =>
      offerRaw({ addr: table({ addr: BigInt(RAM_BYTES) }), len: 16, flags: INDIRECT }),
    avail_head_out_of_range: () => {
      offerRaw(good);
      driver.setAvailEntry(0, SIZE);
    },
    'more available than size': () => {
      offerRaw(good);
      driver.setAvailIndex(SIZE + 1);
    },
    'avail index going back': () => {
      offerRaw(good);
      driver.setAvailIndex(0xffff);
    },
  };

  for (const [name, damage] of Object.entries(damages)) {
    it(name, () => {
      damage();
      expectBroken();
      expectWorksAfterReset();
    });
  }

  it('an indirect descriptor without the negotiated feature', () => {
    startQueue({ indirect: false });
    offerRaw({ addr: table({ len: 4 }), len: 16, flags: INDIRECT });
    expectBroken();
    expectWorksAfterReset();
  });

  it('a descriptor table that has gone', () => {
    const ring = memory.addRegion({ gpa: 0x400000n, size: 0x100000n });
    driver = new DriverQueue(memory, { size: SIZE, base: 0x400000n });
    startQueue();
    driver.makeAvailable(driver.add(request('x')), driver.add(request('y')));
    expect(queue.pop(chain)).toBe(PopResult.chain);
    memory.removeRegion(ring);
    expect(chain.copyReadable(0, new Uint8Array(1), 1)).toBe(0);
    expect(chain.write(0, new Uint8Array(1), 1)).toBe(0);
    expect(queue.available()).toBe(SIZE + 1);
    expect(queue.pop(chain)).toBe(PopResult.broken);
    queue.push(chain.head, 0);
    expect(queue.publish()).toBe(false);
  });

  it('chains that were good stay usable, and what follows the damage is not consumed', () => {
    const head = driver.add(request('good'));
    driver.makeAvailable(head);
    driver.setAvailEntry(1, SIZE);
    driver.setAvailIndex(2);
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect(queue.pop(chain)).toBe(PopResult.broken);
    queue.push(head, 3);
    expect(queue.publish()).toBe(true);
    expect(driver.poll()).toMatchObject([{ head, usedLength: 3 }]);
  });

  it('a driver that offers more than size chains without waiting for any', () => {
    offerRaw(good);
    for (let i = 0; i < SIZE; i++) driver.setAvailEntry(i, 0);
    driver.setAvailIndex(SIZE);
    for (let i = 0; i < SIZE; i++) expect(queue.pop(chain)).toBe(PopResult.chain);
    driver.setAvailIndex(SIZE + 1);
    expect(queue.pop(chain)).toBe(PopResult.broken);
    setUp(SIZE);
    offerRaw(good);
    driver.setAvailIndex(SIZE);
    for (let i = 0; i < SIZE; i++) {
      expect(queue.pop(chain)).toBe(PopResult.chain);
      queue.push(0, 0);
    }
    driver.setAvailIndex(SIZE + 1);
    expect(queue.pop(chain)).toBe(PopResult.broken);
  });
});

describe('setup', () => {
  beforeEach(() => setUp(SIZE));

  it('makes a broken queue of any value that cannot work, and never throws', () => {
    const { desc, avail, used } = driver;
    const ok = { size: SIZE, desc, avail, used };
    const bad = [
      ...[0, 3, 16, -8, 1.5, NaN, 65536].map((size) => ({ ...ok, size })),
      { ...ok, desc: desc + 8n },
      { ...ok, avail: avail + 1n },
      { ...ok, used: used + 2n },
      { ...ok, desc: BigInt(RAM_BYTES) - 112n },
      { ...ok, avail: BigInt(RAM_BYTES) },
      { ...ok, used: 0x200000n },
      { ...ok, used: 0x300000n },
      { ...ok, used: 0xffff_ffff_ffff_fffcn },
      { ...ok, desc: 1n << 63n },
    ];
    for (const setup of bad) {
      queue.start(setup, { indirect: true, eventIdx: true });
      expect([queue.ready, queue.pop(chain), queue.available() > queue.size], JSON.stringify(setup.size)).toEqual([
        true,
        PopResult.broken,
        true,
      ]);
    }
    expectWorksAfterReset();
  });

  it('takes every legal size, areas at the very end of memory, and refuses a wrong maxSize', () => {
    for (let size = 1; size <= 32768; size *= 2) {
      const big = new SplitQueue(1, 32768, memory);
      const [desc, avail] = [0n, BigInt(RAM_BYTES - 6 - size * 2)];
      const used = BigInt(RAM_BYTES - 0x20000 - 8 - size * 8);
      big.start({ size, desc, avail, used }, { indirect: false, eventIdx: true });
      expect([big.broken, big.size, big.pop(chain)]).toEqual([false, size, PopResult.empty]);
      big.start({ size, desc, avail: avail + 2n, used }, { indirect: false, eventIdx: true });
      expect(big.broken).toBe(true);
      big.start({ size, desc, avail: avail + 2n, used }, { indirect: false, eventIdx: false });
      expect(big.broken).toBe(false);
    }
    for (const maxSize of [0, 3, 65536, -1, NaN]) expect(() => new SplitQueue(0, maxSize, memory)).toThrow(/maxSize/);
  });
});

describe('notification suppression', () => {
  function serve(count: number): boolean {
    for (let i = 0; i < count; i++) {
      expect(queue.pop(chain)).toBe(PopResult.chain);
      queue.push(chain.head, 0);
    }
    return queue.publish();
  }

  function offer(count: number): void {
    driver.makeAvailable(...Array.from({ length: count }, () => driver.add(request('n'))));
  }

  it('needEvent is the window [from, to) modulo 2^16', () => {
    const distance = (from: number, to: number): number => (to - from) & 0xffff;
    fc.assert(
      fc.property(fc.nat(0xffff), fc.nat(0xffff), fc.nat(0xffff), (event, to, from) => {
        expect(needEvent(event, to, from)).toBe(distance(from, event) < distance(from, to));
      }),
    );
    expect([needEvent(0, 1, 0), needEvent(1, 1, 0), needEvent(0xffff, 0, 0xffff), needEvent(5, 5, 5)]).toEqual([
      true,
      false,
      true,
      false,
    ]);
  });

  it('without EVENT_IDX honours NO_INTERRUPT and keeps used.flags 0 or 1 [D-RING-7]', () => {
    setUp(SIZE);
    offer(2);
    driver.setAvailFlags(1);
    expect(serve(1)).toBe(false);
    driver.setAvailFlags(0xfffe);
    expect(serve(1)).toBe(true);
    expect(driver.usedFlags).toBe(0);
    queue.suppressNotification();
    expect(driver.usedFlags).toBe(1);
    offer(1);
    expect(driver.shouldKick()).toBe(false);
    expect(queue.armNotification()).toBe(true);
    expect(driver.usedFlags).toBe(0);
    expect(serve(1)).toBe(true);
    expect(queue.armNotification()).toBe(false);
    offer(1);
    expect([driver.shouldKick(), driver.shouldKick()]).toEqual([true, false]);
  });

  it('with EVENT_IDX uses used_event and avail_event, also for several entries at once, and keeps used.flags 0 [D-RING-7]', () => {
    setUp(32, { eventIdx: true });
    driver.setAvailFlags(1);
    offer(3);
    expect(driver.shouldKick()).toBe(true);
    expect(serve(1)).toBe(true);
    driver.setUsedEvent(3);
    expect(serve(2)).toBe(false);
    expect(queue.armNotification()).toBe(false);
    expect([driver.availEvent, driver.usedFlags]).toEqual([3, 0]);
    offer(1);
    expect(driver.shouldKick()).toBe(true);
    expect(serve(1)).toBe(true);
    offer(1);
    expect(driver.shouldKick()).toBe(false);
    expect(queue.armNotification()).toBe(true);
    expect(driver.availEvent).toBe(4);
    queue.suppressNotification();
    expect(driver.usedFlags).toBe(0);
    driver.setUsedEvent(7);
    offer(4);
    expect(serve(3)).toBe(false);
    expect(serve(2)).toBe(true);
  });

  it('never loses a wake-up across the 2^16 wrap', () => {
    setUp(4, { eventIdx: true });
    const data = new Uint8Array(8);
    driver.armInterrupt();
    for (let done = 0; done < 66_000;) {
      const batch = 1 + (done % 4);
      for (let i = 0; i < batch; i++) driver.addFast(data, 8, 4);
      driver.publish();
      if (!driver.shouldKick()) throw new Error(`kick lost at ${done}`);
      for (let i = 0; i < batch; i++) {
        queue.pop(chain);
        queue.push(chain.head, 4);
      }
      if (!queue.publish()) throw new Error(`interrupt lost at ${done}`);
      if (queue.armNotification()) throw new Error(`phantom chain at ${done}`);
      while (driver.next() >= 0) done++;
      driver.armInterrupt();
    }
    expect(driver.usedFlags).toBe(0);
  });
});

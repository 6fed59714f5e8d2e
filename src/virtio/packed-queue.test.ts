import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import type { DriverRequest } from '../testing/driver-request.ts';
import type { RawPackedDescriptor } from '../testing/packed-driver-ring.ts';
import { PackedDriverQueue } from '../testing/packed-driver-queue.ts';
import { DescriptorChain } from './chain.ts';
import { GuestMemory } from './memory.ts';
import { EventFlag, PackedFlag, packedNeedEvent } from './packed-layout.ts';
import { PackedQueue } from './packed-queue.ts';
import { PopResult } from './virtqueue.ts';

const { next: NEXT, write: WRITE, indirect: INDIRECT, avail: AVAIL, used: USED } = PackedFlag;
const SIZE = 8;
const RAM_BYTES = 0x100000;
const BUFFER = 0x40000n;
const TABLE = 0x80000n;

let memory: GuestMemory;
let driver: PackedDriverQueue;
let queue: PackedQueue;
let chain: DescriptorChain;

interface Features {
  readonly indirect?: boolean;
  readonly eventIdx?: boolean;
}

function startQueue({ indirect = true, eventIdx = false }: Features = {}): void {
  const { desc, avail, used, size } = driver;
  queue.start({ size, desc, avail, used }, { indirect, eventIdx });
}

function setUp(size: number, features: Features = {}, maxSize = 64): void {
  memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES) });
  memory.addRegion({ gpa: 0x200000n, size: 0x1000n, readOnly: true });
  driver = new PackedDriverQueue(memory, { size, base: 0x1000n, eventIdx: features.eventIdx ?? false });
  queue = new PackedQueue(0, maxSize, memory);
  chain = new DescriptorChain();
  startQueue(features);
}

function request(text: string, writableLength = 4, more: Partial<DriverRequest> = {}): DriverRequest {
  return { readable: new TextEncoder().encode(text), writableLength, ...more };
}

function offer(...texts: string[]): number[] {
  const ids = texts.map((text) => driver.add(request(text)));
  driver.makeAvailable(...ids);
  return ids;
}

function readable(): string {
  const into = new Uint8Array(chain.readableLength);
  expect(chain.copyReadable(0, into, into.length)).toBe(into.length);
  return new TextDecoder().decode(into);
}

/** Serves everything that is there, each chain with its own used length; what was read. */
function serve(length = 1): string[] {
  const seen: string[] = [];
  while (queue.pop(chain) === PopResult.chain) {
    seen.push(readable());
    queue.push(chain.head, length);
    queue.publish();
  }
  return seen;
}

/** Puts descriptors at 0, 1, … that are available in the first lap, `flags` added to. */
function offerRaw(...descriptors: Partial<RawPackedDescriptor>[]): void {
  descriptors.forEach(({ addr = BUFFER, len = 4, id = 0, flags = 0 }, i) => {
    driver.writeDescriptor(i, { addr, len, id, flags: flags ^ AVAIL });
  });
}

function table(...descriptors: Partial<RawPackedDescriptor>[]): bigint {
  descriptors.forEach(({ addr = BUFFER, len = 4, id = 0, flags = 0 }, i) => {
    driver.writeDescriptorAt(TABLE + BigInt(i * 16), { addr, len, id, flags });
  });
  return TABLE;
}

function expectBroken(): void {
  expect(queue.pop(chain)).toBe(PopResult.broken);
  expect(queue.pop(chain)).toBe(PopResult.broken);
  expect(queue.broken).toBe(true);
  expect(queue.available()).toBe(queue.size + 1);
  expect(queue.publish()).toBe(false);
  expect(queue.armNotification()).toBe(false);
  driver.reset();
  queue.reset();
  expect(queue.pop(chain)).toBe(PopResult.empty);
  startQueue();
  offer('again');
  expect(serve()).toEqual(['again']);
}

describe('one packed queue', () => {
  beforeEach(() => setUp(SIZE));

  it('pops in order, pushes, and shows a batch of used descriptors at once', () => {
    expect(queue.pop(chain)).toBe(PopResult.empty);
    expect(queue.publish()).toBe(false);
    const ids = offer('one', 'two', 'three');
    expect(queue.available()).toBe(3);
    for (const [i, text] of ['one', 'two', 'three'].entries()) {
      expect(queue.pop(chain)).toBe(PopResult.chain);
      expect([chain.head, chain.readableLength, chain.writableLength]).toEqual([ids[i], text.length, 4]);
      expect(readable()).toBe(text);
      expect(chain.write(3, Uint8Array.of(i), 1)).toBe(1);
      queue.push(chain.head, i);
      expect(driver.poll()).toEqual([]);
    }
    expect(queue.publish()).toBe(true);
    expect(queue.publish()).toBe(false);
    const done = driver.poll();
    expect(done.map(({ head, usedLength }) => [head, usedLength])).toEqual(ids.map((id, i) => [id, i]));
    expect(done.map(({ writable }) => writable[3])).toEqual([0, 1, 2]);
    expect(done.every(({ readableUnchanged }) => readableUnchanged)).toBe(true);
    expect(queue.available()).toBe(0);
    expect(driver.freeSlots).toBe(SIZE);
  });

  it('writes used descriptors in the order of completion, WRITE with a length only [D-RING-8]', () => {
    offer('a', 'b');
    queue.pop(chain);
    const a = chain.head;
    queue.pop(chain);
    const b = chain.head;
    queue.push(b, 0);
    queue.push(a, 2 ** 33);
    queue.publish();
    // Two descriptors each, so that the second used one stands at 2.
    expect(driver.readDescriptor(0)).toMatchObject({ id: b, len: 0, flags: AVAIL | USED });
    expect(driver.readDescriptor(2)).toMatchObject({ id: a, len: 0xffff_ffff, flags: AVAIL | USED | WRITE });
    expect(driver.poll().map(({ head, usedLength }) => [head, usedLength])).toEqual([
      [b, 0],
      [a, 0xffff_ffff],
    ]);
  });

  it('ignores a push of what is not in flight', () => {
    const [a] = offer('a');
    queue.push(a!, 1);
    queue.pop(chain);
    for (const head of [7, 8, 64, 65536, -1, 0.5, NaN]) queue.push(head, 1);
    expect(queue.publish()).toBe(false);
    queue.push(a!, 1);
    queue.push(a!, 1);
    queue.publish();
    expect(driver.poll()).toHaveLength(1);
  });

  it('touches no descriptor again after its USED bit flipped [D-RING-8]', () => {
    offer('a');
    serve();
    const first = driver.readDescriptor(0);
    driver.poll();
    offer('b');
    serve();
    expect(driver.readDescriptor(0)).toEqual(first);
    queue.armNotification();
    queue.reset();
    expect(driver.readDescriptor(0)).toEqual(first);
  });

  it('forgets what is in flight and staged at a reset', () => {
    offer('a', 'b');
    queue.pop(chain);
    queue.push(chain.head, 1);
    queue.pop(chain);
    queue.reset();
    queue.push(chain.head, 1);
    expect(queue.publish()).toBe(false);
    expect(driver.poll()).toEqual([]);
    expect([queue.ready, queue.size, queue.available()]).toEqual([false, 64, 0]);
  });

  it.each([1, 2, 3, 5, 7, 8, 64])('goes round a ring of %i many times, wrap counters and all [D-RING-8]', (size) => {
    setUp(size);
    const sent: string[] = [];
    const seen: string[] = [];
    // Ring descriptors, descriptors of the list (which may not be longer than the ring), and how to get them.
    const layouts: readonly (readonly [number, number, Partial<DriverRequest>])[] = [
      [1, 2, { indirect: true }],
      [2, 2, {}],
      [1, 1, { writableLength: 0 }],
      [3, 3, { readableLayout: [1, 1] }],
      [1, 3, { indirect: true, readableLayout: [1, 1] }],
    ];
    for (let i = 0; i < 6 * size + 11; i++) {
      const ids: number[] = [];
      for (let k = 0; k <= i % 3; k++) {
        const [count, length, layout] = layouts[(i + k) % layouts.length]!;
        if (count > driver.freeSlots || length > size) continue;
        const text = String.fromCharCode(65 + (i % 26), 97 + k);
        ids.push(driver.add(request(text, 4, layout)));
        sent.push(text);
      }
      driver.makeAvailable(...ids);
      seen.push(...serve());
      driver.poll();
    }
    expect(seen).toEqual(sent);
    expect(sent.length).toBeGreaterThan(2 * size);
    expect(driver.outstanding).toBe(0);
  });

  it('finds nothing in a full ring until something was used', () => {
    for (let i = 0; i < SIZE; i++) driver.makeAvailable(driver.add({ ...request('x'), indirect: true }));
    expect([queue.available(), driver.freeSlots]).toEqual([SIZE, 0]);
    const ids: number[] = [];
    while (queue.pop(chain) === PopResult.chain) ids.push(chain.head);
    expect(ids).toHaveLength(SIZE);
    expect(queue.broken).toBe(false);
    for (const id of ids.reverse()) queue.push(id, 1);
    queue.publish();
    expect(driver.poll().map(({ head }) => head)).toEqual(ids);
  });

  it('is idle before it is started, and keeps its limits', () => {
    const idle = new PackedQueue(3, 16, memory);
    expect([idle.index, idle.maxSize, idle.size, idle.ready]).toEqual([3, 16, 16, false]);
    expect([idle.pop(chain), idle.available(), idle.armNotification()]).toEqual([PopResult.empty, 0, false]);
    for (const size of [0, 12, 65536]) expect(() => new PackedQueue(0, size, memory)).toThrow(/maxSize/);
  });
});

describe('setup', () => {
  beforeEach(() => setUp(SIZE));

  it.each([
    [0, false],
    [1, true],
    [2, true],
    [3, true],
    [63, true],
    [64, true],
    [65, false],
    [1.5, false],
    [-1, false],
  ])('takes size %d: %s', (size, works) => {
    const { desc, avail, used } = driver;
    queue.start({ size, desc, avail, used }, { indirect: true, eventIdx: false });
    expect(queue.ready).toBe(true);
    expect(queue.broken).toBe(!works);
  });

  const end = BigInt(RAM_BYTES);
  it.each([
    ['ring on 8', { desc: 0x1008n }, false],
    ['ring on 16', { desc: 0x1010n }, true],
    ['ring up to the end', { desc: end - 128n }, true],
    ['ring one past the end', { desc: end - 112n }, false],
    ['ring in ROM', { desc: 0x200000n }, false],
    ['ring at 2^53', { desc: 1n << 53n }, false],
    ['ring at 2^64-16', { desc: (1n << 64n) - 16n }, false],
    ['driver area on 2', { avail: 0x2002n }, false],
    ['driver area on 4', { avail: 0x2004n }, true],
    ['driver area in ROM', { avail: 0x200000n }, true],
    ['driver area at the end', { avail: end - 4n }, true],
    ['driver area past the end', { avail: end }, false],
    ['device area on 2', { used: 0x2002n }, false],
    ['device area in ROM', { used: 0x200000n }, false],
    ['device area at the end', { used: end - 4n }, true],
    ['device area past the end', { used: end }, false],
  ])('%s', (_, change, works) => {
    const { desc, avail, used, size } = driver;
    queue.start({ size, desc, avail, used, ...change }, { indirect: true, eventIdx: true });
    expect(queue.broken).toBe(!works);
    expect(queue.pop(chain)).toBe(works ? PopResult.empty : PopResult.broken);
  });
});

describe('lists', () => {
  beforeEach(() => setUp(SIZE));

  it.each([
    ['one descriptor', {}],
    ['bytes apart', { readableLayout: [1, 1, 1, 1], writableLayout: [2, 2] }],
    ['empty descriptors', { readableLayout: [0, 4, 0], writableLayout: [0, 4] }],
    ['a table', { indirect: true, readableLayout: [1, 3] }],
    ['a table with the WRITE flag', { indirect: true, indirectTableWriteFlag: true }],
    ['a direct descriptor, then a table', { indirect: 'tail', readableLayout: [2, 2] }],
  ] as const)('%s', (_, layout) => {
    const id = driver.add(request('abcd', 4, layout));
    driver.makeAvailable(id);
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect([chain.head, chain.malformed, chain.writableLength, readable()]).toEqual([id, false, 4, 'abcd']);
    chain.write(0, Uint8Array.of(1, 2, 3, 4), 4);
    queue.push(id, 4);
    queue.publish();
    expect(driver.poll()).toMatchObject([{ head: id, writable: Uint8Array.of(1, 2, 3, 4), readableUnchanged: true }]);
  });

  it('marks a readable descriptor after a writable one', () => {
    driver.makeAvailable(driver.add(request('a', 4, { writableFirst: true })));
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect(chain.malformed).toBe(true);
  });

  it('in a table counts WRITE alone: other flags and the ids are ignored [D-RING-8]', () => {
    const at = table(
      { len: 3, flags: NEXT | INDIRECT | USED, id: 0xffff },
      { len: 5, flags: WRITE | INDIRECT | NEXT | AVAIL, id: 77 },
    );
    offerRaw({ addr: at, len: 32, flags: INDIRECT | WRITE, id: 5 });
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect([chain.head, chain.readableLength, chain.writableLength]).toEqual([5, 3, 5]);
  });

  it.each([
    [SIZE - 1, true],
    [SIZE, true],
    [SIZE + 1, false],
  ])('takes a table of %i entries: %s', (entries, works) => {
    offerRaw({ addr: table(...Array<object>(entries).fill({})), len: entries * 16, flags: INDIRECT });
    expect(queue.pop(chain)).toBe(works ? PopResult.chain : PopResult.broken);
  });

  it('reads the id of the last descriptor of a list', () => {
    offerRaw({ id: 7, flags: NEXT }, { id: 6, flags: NEXT }, { id: 2 });
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect(chain.head).toBe(2);
  });

  it('takes a list as long as the ring, and an id up to the last', () => {
    offerRaw(...Array<object>(SIZE - 1).fill({ flags: NEXT }), { id: SIZE - 1 });
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expect([chain.head, chain.readableLength]).toEqual([SIZE - 1, 4 * SIZE]);
  });
});

describe('damage', () => {
  beforeEach(() => setUp(SIZE));
  const top = 0xffff_ffff_ffff_fff0n;

  it.each<[string, () => void]>([
    ['a list without an end', () => offerRaw(...Array<object>(SIZE).fill({ flags: NEXT }))],
    ['NEXT to a descriptor of zeroes', () => offerRaw({ flags: NEXT })],
    ['NEXT to a used descriptor', () => offerRaw({ flags: NEXT }, { flags: USED })],
    ['NEXT to one of the next lap', () => offerRaw({ flags: NEXT }, { flags: AVAIL ^ USED })],
    ['an id that the ring does not have', () => offerRaw({ id: SIZE })],
    ['the largest id', () => offerRaw({ id: 0xffff })],
    ['an id of a list that the ring does not have', () => offerRaw({ id: 1, flags: NEXT }, { id: SIZE })],
    ['INDIRECT with NEXT', () => offerRaw({ addr: table({}), len: 16, flags: INDIRECT | NEXT }, {})],
    ['an empty table', () => offerRaw({ addr: table({}), len: 0, flags: INDIRECT })],
    ['half a descriptor in a table', () => offerRaw({ addr: table({}, {}), len: 24, flags: INDIRECT })],
    ['a table outside memory', () => offerRaw({ addr: 0x900000n, len: 16, flags: INDIRECT })],
    ['a table over the end', () => offerRaw({ addr: BigInt(RAM_BYTES) - 16n, len: 32, flags: INDIRECT })],
    ['a buffer outside memory', () => offerRaw({ addr: 0x900000n })],
    ['a buffer over the end', () => offerRaw({ addr: BigInt(RAM_BYTES) - 3n })],
    ['a buffer at the top of 64 bits', () => offerRaw({ addr: top, len: 0x20 })],
    ['a writable buffer in ROM', () => offerRaw({ addr: 0x200000n, flags: WRITE })],
    ['a buffer of a table outside memory', () => offerRaw({ addr: table({ addr: top }), len: 16, flags: INDIRECT })],
  ])('%s breaks the queue', (_, damage) => {
    damage();
    expectBroken();
  });

  it('INDIRECT without the feature breaks the queue', () => {
    startQueue({ indirect: false });
    offerRaw({ addr: table({}), len: 16, flags: INDIRECT });
    expectBroken();
  });

  it('an id that is in flight breaks the queue, one that came back does not', () => {
    offerRaw({ id: 3 }, { id: 3 });
    expect(queue.pop(chain)).toBe(PopResult.chain);
    queue.push(3, 0);
    queue.publish();
    expect(queue.pop(chain)).toBe(PopResult.chain);
    driver.writeDescriptor(2, { addr: BUFFER, len: 4, id: 3, flags: AVAIL });
    expectBroken();
  });

  it('more descriptors than the ring has break the queue, and what was popped can still be used', () => {
    offerRaw(...Array.from({ length: SIZE }, (_, id) => ({ id })));
    for (let i = 0; i < SIZE; i++) expect(queue.pop(chain)).toBe(PopResult.chain);
    // The driver fills a place of the next lap although nothing was used.
    driver.writeDescriptor(0, { addr: BUFFER, len: 4, id: 0, flags: USED });
    expect(queue.pop(chain)).toBe(PopResult.broken);
    queue.push(4, 1);
    expect(queue.publish()).toBe(true);
    expect(driver.readDescriptor(0)).toMatchObject({ id: 4, flags: AVAIL | USED | WRITE });
  });

  it("a place that was used and not told yet is not the driver's to fill", () => {
    offerRaw(...Array.from({ length: SIZE }, (_, id) => ({ id })));
    for (let i = 0; i < SIZE; i++) expect(queue.pop(chain)).toBe(PopResult.chain);
    queue.push(0, 1);
    driver.writeDescriptor(0, { addr: BUFFER, len: 4, id: 0, flags: USED });
    expect(queue.pop(chain)).toBe(PopResult.broken);
  });

  it('a list that needs places still in flight breaks the queue', () => {
    offerRaw({ id: 0 }, { id: 1 }, ...Array<object>(SIZE - 2).fill({ flags: NEXT, id: 2 }));
    expect(queue.pop(chain)).toBe(PopResult.chain);
    driver.writeDescriptor(0, { addr: BUFFER, len: 4, id: 2, flags: USED });
    expect(queue.pop(chain)).toBe(PopResult.chain);
    expectBroken();
  });

  it('memory that goes away breaks the queue', () => {
    offer('a');
    queue.pop(chain);
    memory.removeRegion(memory.regions[0]!);
    queue.push(chain.head, 1);
    expect(queue.publish()).toBe(false);
    expect(queue.pop(chain)).toBe(PopResult.broken);
  });
});

/** Counts how often each byte of RAM is read. */
class WatchedMemory extends GuestMemory {
  readonly reads = new Uint8Array(RAM_BYTES);

  override read(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    const done = super.read(gpa, into, offset, length);
    if (done) this.#note(gpa, length);
    return done;
  }
  override readWords(gpa: number, into: Uint32Array, count: number): boolean {
    const done = super.readWords(gpa, into, count);
    if (done) this.#note(gpa, 4 * count);
    return done;
  }
  override loadU16(gpa: number): number {
    this.#note(gpa, 2);
    return super.loadU16(gpa);
  }
  override readU16(gpa: number): number {
    this.#note(gpa, 2);
    return super.readU16(gpa);
  }
  #note(gpa: number, length: number): void {
    for (let i = gpa; i < gpa + length; i++) if (i < RAM_BYTES) this.reads[i]!++;
  }
}

it.each([false, true])('reads each byte of a list once (table not aligned: %s)', (odd) => {
  const watched = new WatchedMemory();
  watched.addRegion({ gpa: 0n, size: BigInt(RAM_BYTES) });
  driver = new PackedDriverQueue(watched, { size: SIZE, base: 0x1000n });
  queue = new PackedQueue(0, 64, watched);
  chain = new DescriptorChain();
  startQueue();
  const at = TABLE + (odd ? 2n : 0n);
  for (let i = 0; i < 3; i++) driver.writeDescriptorAt(at + BigInt(16 * i), { addr: BUFFER, len: 4, id: 0, flags: 0 });
  offerRaw({ flags: NEXT }, { flags: NEXT }, { addr: at, len: 48, flags: INDIRECT });
  watched.reads.fill(0);
  expect(queue.pop(chain)).toBe(PopResult.chain);
  const twice = watched.reads.findIndex((count) => count > 1);
  expect(twice).toBe(-1);
  expect(watched.reads.reduce((sum, count) => sum + count, 0)).toBe(6 * 16);
});

describe('event suppression', () => {
  it('without EVENT_IDX enables and disables kicks, and obeys the driver', () => {
    setUp(SIZE);
    queue.suppressNotification();
    expect(driver.deviceEvent.flags).toBe(EventFlag.disable);
    offer('a');
    expect(driver.shouldKick()).toBe(false);
    expect(queue.armNotification()).toBe(true);
    expect(driver.deviceEvent.flags).toBe(EventFlag.enable);
    serve();
    expect(queue.armNotification()).toBe(false);
    offer('b');
    expect(driver.shouldKick()).toBe(true);
    expect(driver.shouldKick()).toBe(false);
    for (const [flags, wanted] of [
      [EventFlag.disable, false],
      [EventFlag.enable, true],
      [EventFlag.desc, true],
      [3, true],
      [0xfffc | EventFlag.disable, false],
      [0xfffc, true],
    ] as const) {
      // A place that lies behind: it counts only where it is asked for.
      driver.setDriverEvent(0x8000, flags);
      offer('c');
      queue.pop(chain);
      queue.push(chain.head, 1);
      expect(queue.publish(), String(flags)).toBe(wanted);
      driver.poll();
    }
  });

  it('with EVENT_IDX names the place after which a kick is wanted, lap by lap', () => {
    setUp(3, { eventIdx: true });
    const places: number[] = [];
    for (let i = 0; i < 7; i++) {
      expect(queue.armNotification()).toBe(false);
      expect(driver.deviceEvent.flags).toBe(EventFlag.desc);
      places.push(driver.deviceEvent.offWrap);
      driver.makeAvailable(driver.add({ ...request('x'), indirect: true }));
      expect(driver.shouldKick()).toBe(true);
      driver.makeAvailable();
      expect(driver.shouldKick()).toBe(false);
      serve();
      driver.poll();
    }
    expect(places).toEqual([0x8000, 0x8001, 0x8002, 0, 1, 2, 0x8000]);
  });

  it('with EVENT_IDX wants no second kick for what the first one brings', () => {
    setUp(SIZE, { eventIdx: true });
    queue.armNotification();
    offer('a');
    expect(driver.shouldKick()).toBe(true);
    offer('b');
    expect(driver.shouldKick()).toBe(false);
    expect(queue.armNotification()).toBe(true);
  });

  it('with EVENT_IDX interrupts once per place that the driver names', () => {
    setUp(SIZE, { eventIdx: true });
    driver.armInterrupt();
    offer('a', 'b');
    queue.pop(chain);
    queue.push(chain.head, 1);
    expect(queue.publish()).toBe(true);
    queue.pop(chain);
    queue.push(chain.head, 1);
    expect(queue.publish()).toBe(false);
    driver.poll();
    offer('c');
    queue.pop(chain);
    queue.push(chain.head, 1);
    expect(queue.publish()).toBe(true);
  });

  it('agrees with a walk over the ring for every place', () => {
    const any = fc.integer({ min: 1, max: 12 }).chain((size) =>
      fc.record({
        size: fc.constant(size),
        position: fc.integer({ min: 0, max: size - 1 }),
        wrap: fc.integer({ min: 0, max: 1 }),
        count: fc.integer({ min: 0, max: size }),
        offset: fc.integer({ min: 0, max: size + 1 }),
        eventWrap: fc.integer({ min: 0, max: 1 }),
      }),
    );
    fc.assert(
      fc.property(any, ({ size, position, wrap, count, offset, eventWrap }) => {
        let [at, lap, seen] = [position, wrap, offset >= size];
        for (let i = 0; i < count; i++) {
          seen ||= at === offset && lap === eventWrap;
          if (++at === size) [at, lap] = [0, lap ^ 1];
        }
        expect(packedNeedEvent(offset | (eventWrap << 15), position, wrap, count, size)).toBe(seen);
      }),
      { numRuns: 2000 },
    );
  });
});

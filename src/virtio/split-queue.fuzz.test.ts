// Random garbage rings: whatever guest memory holds, a queue does not throw, does bounded work, and writes only where the
// driver allowed it.
import { expect, it } from 'vitest';
import { DescriptorChain } from './chain.ts';
import { GuestMemory } from './memory.ts';
import { DescriptorFlag } from './ring-layout.ts';
import { SplitQueue } from './split-queue.ts';
import { PopResult } from './virtqueue.ts';

const RINGS = 20_000;
const SEED = 0x5eed_1234;
const RAM = 0x2000;
const [DESC, AVAIL, USED] = [0, 0x800, 0xa00];

/** xorshift32: fast and the same everywhere. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

class CountingMemory extends GuestMemory {
  reads = 0;

  override read(gpa: number, into: Uint8Array, offset: number, length: number): boolean {
    this.reads++;
    return super.read(gpa, into, offset, length);
  }
}

function fillRing(words: DataView, size: number, random: (below: number) => number): void {
  for (let i = 0; i < size * 3; i++) {
    const at = i < size ? DESC + i * 16 : 0x1000 + (i - size) * 16;
    const tables = random(4) === 0;
    words.setUint32(at, tables ? 0x1000 + random(8) * 16 : random(10) === 0 ? random(0xffff_ffff) : random(RAM), true);
    words.setUint32(at + 4, random(40) === 0 ? random(0xffff_ffff) : 0, true);
    words.setUint32(at + 8, tables ? random(10) * 16 : random(20) === 0 ? random(0xffff_ffff) : random(64), true);
    const flags = random(8) & (random(3) === 0 ? 7 : DescriptorFlag.next | DescriptorFlag.write);
    words.setUint16(at + 12, tables ? flags | DescriptorFlag.indirect : flags, true);
    words.setUint16(at + 14, random(20) === 0 ? random(0x10000) : random(size), true);
  }
  words.setUint16(AVAIL, random(2), true);
  words.setUint16(AVAIL + 2, random(15) === 0 ? random(0x10000) : random(size + 1), true);
  for (let i = 0; i < size + 1; i++) {
    words.setUint16(AVAIL + 4 + i * 2, random(25) === 0 ? random(0x10000) : random(size), true);
  }
}

/** Bytes that the device may change for a chain, read from the ring by a naive walk of its own. */
function markWritable(words: DataView, size: number, head: number, allowed: Uint8Array): void {
  let [table, count, at] = [DESC, size, head];
  for (let steps = 0; steps <= 2 * size; steps++) {
    const place = table + at * 16;
    const flags = words.getUint16(place + 12, true);
    const addr = words.getUint32(place, true);
    const length = words.getUint32(place + 8, true);
    if ((flags & DescriptorFlag.indirect) !== 0) [table, count, at] = [addr, length / 16, 0];
    else {
      if ((flags & DescriptorFlag.write) !== 0) allowed.fill(1, addr, addr + length);
      if ((flags & DescriptorFlag.next) === 0) return;
      at = words.getUint16(place + 14, true);
    }
    if (at >= count) return;
  }
}

it(`holds for ${RINGS} rings from seed ${SEED}`, () => {
  const random = generator(SEED);
  const buffer = new ArrayBuffer(RAM);
  const words = new DataView(buffer);
  const bytes = new Uint8Array(buffer);
  const memory = new CountingMemory();
  memory.addRegion({ gpa: 0n, size: BigInt(RAM), windows: [buffer] });
  const chain = new DescriptorChain();
  const into = new Uint8Array(256);
  const out = new Uint8Array(256).fill(0xee);
  const before = new Uint8Array(RAM);
  const allowed = new Uint8Array(RAM);
  const seen = { chain: 0, broken: 0, written: 0 };
  for (let ring = 0; ring < RINGS; ring++) {
    const size = 1 << random(5);
    fillRing(words, size, random);
    const queue = new SplitQueue(0, 16, memory);
    const eventIdx = random(2) === 0;
    queue.start(
      { size, desc: BigInt(DESC), avail: BigInt(AVAIL), used: BigInt(USED) },
      { indirect: random(4) > 0, eventIdx },
    );
    for (let pops = 0; ; pops++) {
      expect(pops).toBeLessThanOrEqual(size);
      memory.reads = 0;
      const result = queue.pop(chain);
      if (memory.reads > 2 * size) throw new Error(`ring ${ring}: ${memory.reads} reads`);
      if (result === PopResult.broken) seen.broken++;
      if (result !== PopResult.chain) break;
      seen.chain++;
      before.set(bytes);
      allowed.fill(0);
      allowed.fill(1, USED, USED + 6 + size * 8);
      markWritable(words, size, chain.head, allowed);
      chain.copyReadable(random(64), into, 256);
      const length = Math.min(256, chain.writableLength);
      seen.written += chain.write(random(chain.writableLength - length + 1), out, length);
      queue.push(chain.head, length);
      queue.publish();
      queue.armNotification();
      for (let i = 0; i < RAM; i++) {
        if (bytes[i] !== before[i] && allowed[i] === 0) throw new Error(`ring ${ring}: byte ${i} was written`);
      }
    }
  }
  expect(seen.chain).toBeGreaterThan(RINGS / 4);
  expect(seen.broken).toBeGreaterThan(RINGS / 4);
  expect(seen.written).toBeGreaterThan(RINGS);
});

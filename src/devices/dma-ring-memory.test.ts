import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../virtio/memory.ts';
import type { DmaAccess } from './dma-access.ts';
import { UntranslatedDma } from './dma-access.ts';
import { DmaRingMemory, RING_ADDRESS_END } from './dma-ring-memory.ts';

const SIZE = 0x4000;

/** Guest memory at I/O virtual addresses that lie `shift` above it. */
class Shifted implements DmaAccess {
  readonly accesses: string[] = [];
  readonly #dma: DmaAccess;
  readonly #shift: bigint;

  constructor(dma: DmaAccess, shift: bigint) {
    this.#dma = dma;
    this.#shift = shift;
  }

  read(iova: bigint, into: Uint8Array, offset?: number, length?: number): 'ok' | 'fault' | 'unbacked' {
    this.accesses.push(`read ${iova.toString(16)} ${length ?? into.length}`);
    return iova < this.#shift ? 'fault' : this.#dma.read(iova - this.#shift, into, offset, length);
  }

  write(iova: bigint, from: Uint8Array, offset?: number, length?: number): 'ok' | 'fault' | 'unbacked' {
    this.accesses.push(`write ${iova.toString(16)} ${length ?? from.length}`);
    return iova < this.#shift ? 'fault' : this.#dma.write(iova - this.#shift, from, offset, length);
  }

  loadU16(iova: bigint): number | undefined {
    return iova < this.#shift ? undefined : this.#dma.loadU16(iova - this.#shift);
  }

  storeU16(iova: bigint, value: number): boolean {
    return iova >= this.#shift && this.#dma.storeU16(iova - this.#shift, value);
  }
}

const BASE = 0x10_0000_0000;

function make(): { memory: GuestMemory; ring: DmaRingMemory; dma: Shifted } {
  const memory = new GuestMemory();
  memory.addRegion({ gpa: 0n, size: BigInt(SIZE) });
  const dma = new Shifted(new UntranslatedDma(memory), BigInt(BASE));
  return { memory, ring: new DmaRingMemory(dma), dma };
}

describe('the ring memory of a translated device', () => {
  it('does to the translated address what guest memory does', () => {
    const operation = fc.record({
      at: fc.integer({ min: 0, max: SIZE + 8 }),
      value: fc.integer({ min: 0, max: 0xffff_ffff }),
      kind: fc.constantFrom('u16', 'word', 'words', 'bytes' as const),
    });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 20 }), (operations) => {
        const { memory: plain } = make();
        const { memory, ring } = make();
        for (const { at, value, kind } of operations) {
          const aligned = kind === 'bytes' ? at : at & ~7;
          const iova = BASE + aligned;
          const bytes = Uint8Array.of(value & 0xff, 1, 2);
          if (kind === 'u16') {
            expect(ring.storeU16(iova, value & 0xffff)).toBe(plain.storeU16(aligned, value & 0xffff));
            expect([ring.loadU16(iova), ring.readU16(iova)]).toEqual([plain.loadU16(aligned), plain.readU16(aligned)]);
          } else if (kind === 'word') expect(ring.writeWord(iova, value)).toBe(plain.writeWord(aligned, value));
          else if (kind === 'words') {
            expect(ring.writeWords2(iova, value, 7)).toBe(plain.writeWords2(aligned, value, 7));
            const [a, b] = [new Uint32Array(2), new Uint32Array(2)];
            expect([ring.readWords(iova, a, 2), a]).toEqual([plain.readWords(aligned, b, 2), b]);
          } else expect(ring.write(iova, bytes, 1, 2)).toBe(plain.write(aligned, bytes, 1, 2));
        }
        const [seen, wanted] = [new Uint8Array(SIZE), new Uint8Array(SIZE)];
        expect(ring.read(BASE, seen, 0, SIZE)).toBe(true);
        memory.read(0, wanted, 0, SIZE);
        expect(seen).toEqual(wanted);
        plain.read(0, wanted, 0, SIZE);
        expect(seen).toEqual(wanted);
      }),
      { numRuns: 50 },
    );
  });

  it('fails as missing memory does when the access is refused', () => {
    const { ring } = make();
    const bytes = new Uint8Array(4);
    expect([ring.loadU16(0), ring.readU16(0), ring.readWords(0, new Uint32Array(1), 1)]).toEqual([-1, -1, false]);
    expect([ring.writeWord(0, 1), ring.writeWords2(0, 1, 1), ring.storeU16(0, 1)]).toEqual([false, false, false]);
    expect([ring.read(0, bytes, 0, 4), ring.write(0, bytes, 0, 4)]).toEqual([false, false]);
  });

  it('asks nobody whether memory is there before it is accessed', () => {
    const { ring, dma } = make();
    expect([ring.isRam(0, 8), ring.isWritableRam(BASE + SIZE, 8)]).toEqual([true, true]);
    expect(dma.accesses).toEqual([]);
  });

  it.each([
    [RING_ADDRESS_END - 1, 0, true],
    [RING_ADDRESS_END - 1, 1, true],
    [RING_ADDRESS_END - 1, 2, false],
    [RING_ADDRESS_END, 0, true],
    [RING_ADDRESS_END, 1, false],
    [RING_ADDRESS_END + 2, 1, false],
    [2 ** 64, 1, false],
    [-1, 1, false],
    [0, RING_ADDRESS_END, true],
    [1, RING_ADDRESS_END, false],
    [NaN, 1, false],
  ])('reaches from %d on %d bytes: %s', (iova, length, reached) => {
    const { ring, dma } = make();
    expect(ring.isRam(iova, length)).toBe(reached);
    if (!reached && length < 9) expect(ring.read(iova, new Uint8Array(8), 0, length)).toBe(false);
    expect(dma.accesses).toEqual([]);
  });
});

describe('untranslated DMA', () => {
  it('takes an address for a guest-physical one, and refuses those where nothing can be', () => {
    const memory = new GuestMemory();
    memory.addRegion({ gpa: 0n, size: 4096n });
    const dma = new UntranslatedDma(memory);
    expect(dma.write(4094n, Uint8Array.of(1, 2))).toBe('ok');
    expect(dma.write(4095n, Uint8Array.of(1, 2))).toBe('unbacked');
    expect([dma.loadU16(4094n), dma.loadU16(4095n), dma.loadU16(4096n)]).toEqual([0x0201, undefined, undefined]);
    expect([dma.storeU16(0n, 7), dma.storeU16(1n, 7), dma.storeU16(2n ** 64n - 2n, 7)]).toEqual([true, false, false]);
    expect(dma.read(2n ** 53n, new Uint8Array(1))).toBe('unbacked');
    const bytes = new Uint8Array(3);
    expect([dma.read(4094n, bytes, 1), bytes]).toEqual(['ok', Uint8Array.of(0, 1, 2)]);
  });
});

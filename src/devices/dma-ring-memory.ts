// Rings and buffers of a virtio device behind the IOMMU: I/O virtual addresses where a queue expects guest-physical ones
// (VIRTIO_F_ACCESS_PLATFORM). Each access is translated when it happens, and nothing of a translation is kept, so an UNMAP
// holds from the next access on. Not here: translation (DmaView), rings (virtio).
// Addresses are bytes; ends are exclusive. A queue counts addresses as exact numbers: nothing at or above 2^53 is reached,
// so an IOMMU that serves such devices offers an input range that ends below.
import type { RingMemory } from '../virtio/memory-types.ts';
import type { DmaAccess } from './dma-access.ts';

/** End of the addresses that a queue can name. */
export const RING_ADDRESS_END = 2 ** 53;

/**
 * Memory of a queue through an IOMMU. A refused access fails as an access to missing memory does: a ring that cannot be
 * read is broken, a buffer that cannot be written stays unwritten. The IOMMU reports the fault, once for each try.
 */
export class DmaRingMemory implements RingMemory {
  readonly #dma: DmaAccess;
  readonly #bytes = new Uint8Array(8);
  readonly #view = new DataView(this.#bytes.buffer);

  constructor(dma: DmaAccess) {
    this.#dma = dma;
  }

  /**
   * True when every byte has an address at all. Whether memory is there is not asked: it would be another access, with a
   * fault of its own, and its answer would hold for that moment only.
   */
  isRam(iova: number, length: number): boolean {
    return iova >= 0 && length >= 0 && length <= RING_ADDRESS_END - iova; // a sum would round
  }

  /** As {@link DmaRingMemory.isRam}: the right to write is that of the moment of the write. */
  isWritableRam(iova: number, length: number): boolean {
    return this.isRam(iova, length);
  }

  read(iova: number, into: Uint8Array, offset: number, length: number): boolean {
    return this.isRam(iova, length) && this.#dma.read(BigInt(iova), into, offset, length) === 'ok';
  }

  write(iova: number, from: Uint8Array, offset: number, length: number): boolean {
    return this.isRam(iova, length) && this.#dma.write(BigInt(iova), from, offset, length) === 'ok';
  }

  loadU16(iova: number): number {
    return this.isRam(iova, 2) ? (this.#dma.loadU16(BigInt(iova)) ?? -1) : -1;
  }

  readU16(iova: number): number {
    return this.loadU16(iova);
  }

  /** Any alignment, any number of mappings: bytes are copied. */
  readWords(iova: number, into: Uint32Array, count: number): boolean {
    return this.read(iova, new Uint8Array(into.buffer, into.byteOffset, count * 4), 0, count * 4);
  }

  writeWord(iova: number, value: number): boolean {
    this.#view.setUint32(0, value, true);
    return this.write(iova, this.#bytes, 0, 4);
  }

  writeWords2(iova: number, first: number, second: number): boolean {
    this.#view.setUint32(0, first, true);
    this.#view.setUint32(4, second, true);
    return this.write(iova, this.#bytes, 0, 8);
  }

  storeU16(iova: number, value: number): boolean {
    return this.isRam(iova, 2) && this.#dma.storeU16(BigInt(iova), value);
  }
}

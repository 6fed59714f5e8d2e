// Reads one descriptor list of a packed ring into private memory and judges it [2.8.5 to 2.8.7].
// Each descriptor is copied once and only the copy is looked at. Work is bounded: at most `room` descriptors of the ring
// and as many of one indirect table as the ring has. Addresses are guest-physical byte numbers.
import type { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import { isAvailable, PackedDescriptor, PackedFlag } from './packed-layout.ts';
import { inPlace } from './ram-window.ts';

const U32_RANGE = 0x1_0000_0000;

/** Walks lists of one memory; holds the private copy of the descriptor under inspection. */
export class PackedWalker {
  /** Buffer id of the list that was walked last. */
  id = 0;
  readonly #memory: RingMemory;
  /** Whether words can be tried for; behind an IOMMU a try that fails is an access, with a fault of its own. */
  readonly #triesWords: boolean;
  readonly #copy = new Uint8Array(PackedDescriptor.SIZE);
  readonly #copy32 = new Uint32Array(this.#copy.buffer);
  #addr = 0;
  #length = 0;
  #flags = 0;

  constructor(memory: RingMemory) {
    this.#memory = memory;
    this.#triesWords = inPlace(memory) !== undefined;
  }

  /**
   * Fills `chain` with the list whose first descriptor stands at `position` of the ring at `ring` (`size` entries), in a lap
   * with wrap counter `wrap`, and has these `flags`, which are not read again. Returns the ring descriptors that it takes,
   * 0 when it is damaged or takes more than `room`. `indirect`: VIRTIO_F_INDIRECT_DESC was negotiated.
   */
  walk(
    chain: DescriptorChain,
    ring: number,
    size: number,
    position: number,
    wrap: number,
    flags: number,
    room: number,
    indirect: boolean,
  ): number {
    chain.begin(this.#memory, 0);
    if (!this.#loadHead(ring + position * PackedDescriptor.SIZE, flags)) return 0;
    let at = position;
    let lap = wrap;
    for (let seen = 1; seen <= room; seen++) {
      const last = (this.#flags & PackedFlag.next) === 0;
      if ((this.#flags & PackedFlag.indirect) !== 0) {
        // [2.8.19] INDIRECT needs the feature, and MUST NOT stand in a list linked by NEXT; at its end it does no harm.
        if (!indirect || !last || !this.#walkTable(chain, this.#addr, this.#length, size)) return 0;
        return seen;
      }
      if (!this.#take(chain)) return 0;
      if (last) return seen;
      if (++at === size) {
        at = 0;
        lap ^= 1;
      }
      // [2.8.15] D-RING-8: MUST NOT use a descriptor unless its AVAIL bit changed: those behind the first one as well.
      if (seen === room || !this.#load(ring + at * PackedDescriptor.SIZE)) return 0;
      if (!isAvailable(this.#flags, lap)) return 0;
      this.id = this.#copy32[3]! & 0xffff;
    }
    return 0;
  }

  /** [2.8.7] D-RING-8: all descriptors of the table in their order; of their flags only WRITE counts, ids are ignored. */
  #walkTable(chain: DescriptorChain, table: number, bytes: number, size: number): boolean {
    if (bytes === 0 || (bytes & (PackedDescriptor.SIZE - 1)) !== 0 || !this.#memory.isRam(table, bytes)) return false;
    const count = bytes / PackedDescriptor.SIZE;
    // [2.8.17] a list MUST NOT be longer than the queue size.
    if (count > size) return false;
    for (let i = 0; i < count; i++) {
      if (!this.#load(table + i * PackedDescriptor.SIZE) || !this.#take(chain)) return false;
    }
    return true;
  }

  /** The first descriptor of a list: all of it but the flags. */
  #loadHead(at: number, flags: number): boolean {
    const id = this.#memory.readU16(at + PackedDescriptor.id);
    if (id < 0 || !this.#memory.readWords(at, this.#copy32, PackedDescriptor.id / 4)) return false;
    this.id = id;
    this.#decode(flags);
    return true;
  }

  #load(at: number): boolean {
    const whole = this.#triesWords && this.#memory.readWords(at, this.#copy32, PackedDescriptor.SIZE / 4);
    if (!whole && !this.#memory.read(at, this.#copy, 0, PackedDescriptor.SIZE)) return false;
    this.#decode(this.#copy32[3]! >>> 16);
    return true;
  }

  #decode(flags: number): void {
    // An address of 2^53 or more may round here, but stays at or above 2^53, where no memory can be.
    this.#addr = this.#copy32[0]! + this.#copy32[1]! * U32_RANGE;
    this.#length = this.#copy32[2]!;
    this.#flags = flags;
  }

  /** Adds the loaded descriptor's buffer; a zero-length one contributes nothing and its address is not looked at. */
  #take(chain: DescriptorChain): boolean {
    const length = this.#length;
    if (length === 0) return true;
    if ((this.#flags & PackedFlag.write) !== 0) {
      if (!this.#memory.isWritableRam(this.#addr, length)) return false;
      chain.appendWritable(this.#addr, length);
    } else {
      if (!this.#memory.isRam(this.#addr, length)) return false;
      chain.appendReadable(this.#addr, length);
    }
    return true;
  }
}

// Reads one descriptor chain of a split ring into private memory and judges it [2.7.5].
// Each descriptor is copied once and only the copy is looked at. Work is bounded: at most `size` descriptors of the ring's
// table and `size` of one indirect table. Addresses are guest-physical byte numbers; lengths are exclusive of their end.
import type { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import { Descriptor, DescriptorFlag } from './ring-layout.ts';

const U32_RANGE = 0x1_0000_0000;

/** Walks chains of one memory; holds the private copy of the descriptor under inspection. */
export class SplitWalker {
  readonly #memory: RingMemory;
  readonly #copy = new Uint8Array(Descriptor.SIZE);
  readonly #copy32 = new Uint32Array(this.#copy.buffer);
  #addr = 0;
  #length = 0;
  #flags = 0;
  #next = 0;

  constructor(memory: RingMemory) {
    this.#memory = memory;
  }

  /**
   * Fills `chain` with the chain that starts at `head` of the table at `table` (`size` entries); false when it is damaged.
   * `indirect`: VIRTIO_F_INDIRECT_DESC was negotiated.
   */
  walk(chain: DescriptorChain, table: number, size: number, head: number, indirect: boolean): boolean {
    chain.begin(this.#memory, head);
    let position = head;
    for (let seen = 0; seen < size; seen++) {
      if (position >= size || !this.#load(table, position)) return false;
      if ((this.#flags & DescriptorFlag.indirect) !== 0) {
        // [2.7.5.3.1] INDIRECT needs the feature, and MUST NOT be set together with NEXT. Direct descriptors may precede it.
        if (!indirect || (this.#flags & DescriptorFlag.next) !== 0) return false;
        return this.#walkTable(chain, this.#addr, this.#length, size);
      }
      if (!this.#take(chain)) return false;
      if ((this.#flags & DescriptorFlag.next) === 0) return true;
      position = this.#next;
    }
    // [2.7.5.1] more descriptors than the table has: a loop.
    return false;
  }

  /** [2.7.5.3.2] The WRITE flag of the descriptor that led here is ignored. */
  #walkTable(chain: DescriptorChain, table: number, bytes: number, size: number): boolean {
    if (bytes === 0 || (bytes & (Descriptor.SIZE - 1)) !== 0 || !this.#memory.isRam(table, bytes)) return false;
    const count = bytes / Descriptor.SIZE;
    let position = 0;
    for (let seen = 0; seen < size; seen++) {
      if (position >= count || !this.#load(table, position)) return false;
      // [2.7.5.3.1] a table within a table is forbidden.
      if ((this.#flags & DescriptorFlag.indirect) !== 0) return false;
      if (!this.#take(chain)) return false;
      if ((this.#flags & DescriptorFlag.next) === 0) return true;
      position = this.#next;
    }
    // [2.7.5.3.1] a chain longer than the queue size, or a loop.
    return false;
  }

  #load(table: number, position: number): boolean {
    const at = table + position * Descriptor.SIZE;
    if (
      !this.#memory.readWords(at, this.#copy32, Descriptor.SIZE / 4) &&
      !this.#memory.read(at, this.#copy, 0, Descriptor.SIZE)
    )
      return false;
    // An address of 2^53 or more may round here, but stays at or above 2^53, where no memory can be.
    this.#addr = this.#copy32[0]! + this.#copy32[1]! * U32_RANGE;
    this.#length = this.#copy32[2]!;
    const rest = this.#copy32[3]!;
    this.#flags = rest & 0xffff;
    this.#next = rest >>> 16;
    return true;
  }

  /** Adds the loaded descriptor's buffer; a zero-length one contributes nothing and its address is not looked at. */
  #take(chain: DescriptorChain): boolean {
    const length = this.#length;
    if (length === 0) return true;
    if ((this.#flags & DescriptorFlag.write) !== 0) {
      if (!this.#memory.isWritableRam(this.#addr, length)) return false;
      chain.appendWritable(this.#addr, length);
    } else {
      if (!this.#memory.isRam(this.#addr, length)) return false;
      chain.appendReadable(this.#addr, length);
    }
    return true;
  }
}

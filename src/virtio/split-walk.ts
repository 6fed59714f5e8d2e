// Reads one descriptor chain of a split ring into private memory and judges it [2.7.5].
// Each descriptor is read once, into locals, and only they are looked at. Work is bounded: at most `size` descriptors of the
// ring's table and `size` of one indirect table. Addresses are guest-physical byte numbers; lengths are exclusive of their end.
import type { DescriptorChain } from './chain.ts';
import type { RingMemory } from './memory-types.ts';
import type { RamInPlace, RamWindow } from './ram-window.ts';
import { inPlace, NO_WINDOW } from './ram-window.ts';
import { Descriptor, DescriptorFlag } from './ring-layout.ts';

const U32_RANGE = 0x1_0000_0000;
// An own constant is folded into the code, an imported one is loaded and checked at each use.
const NONE = NO_WINDOW;
const { SIZE } = Descriptor;
const { next: NEXT, write: WRITE, indirect: INDIRECT } = DescriptorFlag;

/** Walks chains of one ring; a table that lies in one window of RAM is read in place, any other one through a copy. */
export class SplitWalker {
  readonly #memory: RingMemory;
  /** The same memory, when it can show RAM in place. */
  readonly #direct: RamInPlace | undefined;
  /** The descriptor under inspection, when its table is not read in place. */
  readonly #copy = new Uint8Array(SIZE);
  readonly #copy32: Uint32Array = new Uint32Array(this.#copy.buffer);
  #table = 0;
  /** Words of the ring's table and the index of its first one there; the copy and 0 when it is not in one window. */
  #longs = this.#copy32;
  #first = 0;
  #size = 0;
  /** Flags that no descriptor of the ring may have. */
  #refused = 0;

  constructor(memory: RingMemory) {
    this.#memory = memory;
    this.#direct = inPlace(memory);
  }

  /**
   * Chains start in the table of `size` descriptors at `table` from now on; to be called again whenever regions changed.
   * `indirect`: VIRTIO_F_INDIRECT_DESC was negotiated.
   */
  bind(table: number, size: number, indirect: boolean): void {
    const window = this.#windowOf(table, size * SIZE);
    this.#table = table;
    this.#size = size;
    // [2.7.5.3.1] INDIRECT needs the feature.
    this.#refused = indirect ? 0 : INDIRECT;
    this.#longs = window === NONE ? this.#copy32 : window.longs;
    this.#first = window === NONE ? 0 : (table - window.start) >>> 2;
  }

  /** Fills `chain` with the chain that starts at descriptor `head`, which is below the size; false when it is damaged. */
  walk(chain: DescriptorChain, head: number): boolean {
    chain.begin(this.#memory, head);
    const copy = this.#copy32;
    let longs = this.#longs;
    let first = this.#first;
    let table = this.#table;
    let count = this.#size;
    let refused = this.#refused;
    let position = head;
    for (let left = count; left > 0; left--) {
      if (position >= count) return false;
      let at = first + position * 4;
      if (longs === copy) {
        if (!this.#memory.read(table + position * SIZE, this.#copy, 0, SIZE)) return false;
        at = 0;
      }
      // An address of 2^53 or more may round here, but stays at or above 2^53, where no memory can be.
      const addr = longs[at]! + longs[at + 1]! * U32_RANGE;
      const length = longs[at + 2]!;
      const rest = longs[at + 3]!;
      if ((rest & INDIRECT) === 0) {
        if (length > 0 && !this.#take(chain, addr, length, rest & WRITE)) return false;
        if ((rest & NEXT) === 0) return true;
        position = rest >>> 16;
        continue;
      }
      // [2.7.5.3.1] INDIRECT MUST NOT be set together with NEXT, and a table within a table is forbidden.
      // [2.7.5.3.2] D-RING-6: MUST accept direct descriptors before it. D-RING-5: MUST ignore the WRITE flag of this one.
      if ((rest & (refused | NEXT)) !== 0 || length === 0 || (length & (SIZE - 1)) !== 0) return false;
      const window = this.#windowOf(addr, length);
      if (window === NONE && !this.#memory.isRam(addr, length)) return false;
      longs = window === NONE ? copy : window.longs;
      first = window === NONE ? 0 : (addr - window.start) >>> 2;
      table = addr;
      count = length / SIZE;
      refused = INDIRECT;
      position = 0;
      left = this.#size + 1;
    }
    // [2.7.5.1, 2.7.5.3.1] more descriptors than the table has, or a chain longer than the queue: a loop. D-RING-3: no chain
    // within the queue size is too long.
    return false;
  }

  /** The window that holds all of a table on whole words, or none. */
  #windowOf(table: number, bytes: number): RamWindow {
    const window = this.#direct === undefined ? NONE : this.#direct.windowAt(table);
    return window.ram && bytes <= window.end - table && ((table - window.start) & 3) === 0 ? window : NONE;
  }

  /** Adds a buffer of `length` > 0 bytes; the address of a zero-length one is not looked at. */
  #take(chain: DescriptorChain, addr: number, length: number, writable: number): boolean {
    // [2.7.5] D-RING-1: MUST NOT write what is device-readable: the flag decides what the reply can reach.
    if (writable !== 0) {
      if (!this.#memory.isWritableRam(addr, length)) return false;
      chain.appendWritable(addr, length);
    } else {
      if (!this.#memory.isRam(addr, length)) return false;
      chain.appendReadable(addr, length);
    }
    return true;
  }
}

// Raw access of a driver to a packed ring in guest memory: any value may be written, also one that damages the ring.
// Not here: chains, buffers and bookkeeping (packed-driver-queue.ts). Positions count descriptors.
import type { GuestMemory } from '../virtio/memory.ts';
import { checkInteger, hex } from '../base/check.ts';
import { EventSuppress, MAX_PACKED_SIZE, PackedDescriptor } from '../virtio/packed-layout.ts';

/** A descriptor as either side writes it; `flags` {@link PackedFlag} bits. */
export interface RawPackedDescriptor {
  readonly addr: bigint;
  readonly len: number;
  readonly id: number;
  readonly flags: number;
}

const ALIGN = 64;

/** The three areas of a packed ring one after the other, each on a multiple of 64 bytes, and access to every field. */
export class PackedDriverRing {
  /** Descriptors. */
  readonly size: number;
  /** Guest-physical addresses of the descriptor ring, and of the driver's and the device's event suppression. */
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
  protected readonly memory: GuestMemory;
  protected readonly ringAt: number;
  readonly #driverAt: number;
  readonly #deviceAt: number;
  readonly #copy = new Uint8Array(PackedDescriptor.SIZE);
  readonly #view = new DataView(this.#copy.buffer);

  /** @throws RangeError when `size` is not in [1, 32768], `base` is no multiple of 4096, or the ring is not in RAM. */
  constructor(memory: GuestMemory, size: number, base: bigint) {
    checkInteger('size', size, 1, MAX_PACKED_SIZE);
    if (base < 0n || base % 4096n !== 0n) throw new RangeError(`base must be a multiple of 4096, got ${hex(base)}`);
    this.memory = memory;
    this.size = size;
    this.ringAt = Number(base);
    this.#driverAt = this.ringAt + roundUp(size * PackedDescriptor.SIZE);
    this.#deviceAt = this.#driverAt + ALIGN;
    this.desc = base;
    this.avail = BigInt(this.#driverAt);
    this.used = BigInt(this.#deviceAt);
    if (!memory.isWritableRam(this.ringAt, packedRingBytes(size))) {
      throw new RangeError(`base ${hex(base)} must have ${packedRingBytes(size)} bytes of RAM for the ring`);
    }
  }

  /** Zeroes the three areas. */
  clearRing(): void {
    this.writeBytes(this.ringAt, new Uint8Array(packedRingBytes(this.size)));
  }

  /** Writes the descriptor at `position`, flags last. */
  writeDescriptor(position: number, descriptor: RawPackedDescriptor): void {
    this.writeDescriptorAt(this.desc + BigInt(position * PackedDescriptor.SIZE), descriptor);
  }

  /** Reads the descriptor at `position`. */
  readDescriptor(position: number): RawPackedDescriptor {
    return this.readDescriptorAt(this.desc + BigInt(position * PackedDescriptor.SIZE));
  }

  /** Writes a descriptor anywhere, for example into an indirect table. */
  writeDescriptorAt(gpa: bigint, { addr, len, id, flags }: RawPackedDescriptor): void {
    this.#view.setBigUint64(PackedDescriptor.addr, addr, true);
    this.#view.setUint32(PackedDescriptor.len, len, true);
    this.#view.setUint16(PackedDescriptor.id, id, true);
    this.#view.setUint16(PackedDescriptor.flags, flags, true);
    this.writeBytes(Number(gpa), this.#copy);
  }

  /** Reads a descriptor anywhere. */
  readDescriptorAt(gpa: bigint): RawPackedDescriptor {
    this.readBytes(Number(gpa), this.#copy);
    return {
      addr: this.#view.getBigUint64(PackedDescriptor.addr, true),
      len: this.#view.getUint32(PackedDescriptor.len, true),
      id: this.#view.getUint16(PackedDescriptor.id, true),
      flags: this.#view.getUint16(PackedDescriptor.flags, true),
    };
  }

  /** Flags of the descriptor at `position`. */
  flagsAt(position: number): number {
    return this.memory.loadU16(this.ringAt + position * PackedDescriptor.SIZE + PackedDescriptor.flags);
  }

  /** Sets the flags of the descriptor at `position` and nothing else. */
  setFlagsAt(position: number, flags: number): void {
    this.#store(this.ringAt + position * PackedDescriptor.SIZE + PackedDescriptor.flags, flags);
  }

  /** Sets the driver's wish for interrupts: offset and wrap counter, then flags ({@link EventFlag}). */
  setDriverEvent(offWrap: number, flags: number): void {
    this.#store(this.#driverAt + EventSuppress.offWrap, offWrap);
    this.#store(this.#driverAt + EventSuppress.flags, flags);
  }

  /** The device's wish for kicks. */
  get deviceEvent(): { readonly offWrap: number; readonly flags: number } {
    return {
      offWrap: this.memory.loadU16(this.#deviceAt + EventSuppress.offWrap),
      flags: this.memory.loadU16(this.#deviceAt + EventSuppress.flags),
    };
  }

  /** Reads guest memory of the driver. */
  protected readBytes(gpa: number, into: Uint8Array): void {
    if (!this.memory.read(gpa, into, 0, into.length)) throw new Error(`no RAM at ${hex(gpa)}`);
  }

  /** Writes guest memory of the driver. */
  protected writeBytes(gpa: number, bytes: Uint8Array): void {
    if (!this.memory.write(gpa, bytes, 0, bytes.length)) throw new Error(`no RAM at ${hex(gpa)}`);
  }

  #store(gpa: number, value: number): void {
    if (!this.memory.storeU16(gpa, value & 0xffff)) throw new Error(`no RAM at ${hex(gpa)}`);
  }
}

/** Bytes that the three areas of a ring of `size` descriptors take. */
export function packedRingBytes(size: number): number {
  return roundUp(size * PackedDescriptor.SIZE) + 2 * ALIGN;
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / ALIGN) * ALIGN;
}

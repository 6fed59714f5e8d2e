// Raw access of a driver to a split ring in guest memory: any value may be written, also one that damages the ring.
// Not here: chains, buffers and bookkeeping (driver-queue.ts). Positions count entries, indices count modulo 2^16.
import type { GuestMemory } from '../virtio/memory.ts';
import { hex } from '../base/check.ts';
import { Descriptor, isQueueSize, MAX_QUEUE_SIZE, Ring, RingEntry } from '../virtio/ring-layout.ts';

/** A descriptor as the driver writes it; `addr` is a guest-physical address, `len` bytes, `flags` {@link DescriptorFlag} bits. */
export interface RawDescriptor {
  readonly addr: bigint;
  readonly len: number;
  readonly flags: number;
  readonly next: number;
}

/** The three areas of a split ring one after the other, each on a multiple of 64 bytes, and access to every field. */
export class DriverRing {
  /** Entries. */
  readonly size: number;
  /** Guest-physical addresses of the descriptor table, the available ring and the used ring. */
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
  protected readonly memory: GuestMemory;
  protected readonly descAt: number;
  protected readonly availAt: number;
  protected readonly usedAt: number;
  readonly #copy = new Uint8Array(Descriptor.SIZE);
  readonly #copy32 = new Uint32Array(this.#copy.buffer);
  readonly #copy16 = new Uint16Array(this.#copy.buffer);

  /** @throws RangeError when `size` is no power of two in [1, 32768], `base` is no multiple of 4096, or the ring is not in RAM. */
  constructor(memory: GuestMemory, size: number, base: bigint) {
    if (!isQueueSize(size, MAX_QUEUE_SIZE))
      throw new RangeError(`size must be a power of two up to 32768, got ${size}`);
    if (base < 0n || base % 4096n !== 0n) throw new RangeError(`base must be a multiple of 4096, got ${hex(base)}`);
    this.memory = memory;
    this.size = size;
    this.descAt = Number(base);
    this.availAt = this.descAt + roundUp64(size * Descriptor.SIZE);
    this.usedAt = this.availAt + roundUp64(Ring.entries + size * RingEntry.availSize + 2);
    this.desc = BigInt(this.descAt);
    this.avail = BigInt(this.availAt);
    this.used = BigInt(this.usedAt);
    if (!memory.isWritableRam(this.descAt, ringBytes(size))) {
      throw new RangeError(`base ${hex(base)} must have ${ringBytes(size)} bytes of RAM for the ring`);
    }
  }

  /** Zeroes the three areas. */
  clearRing(): void {
    this.writeBytes(this.descAt, new Uint8Array(ringBytes(this.size)));
  }

  /** Writes entry `index` of the descriptor table. */
  writeDescriptor(index: number, descriptor: RawDescriptor): void {
    this.writeDescriptorAt(this.desc + BigInt(index * Descriptor.SIZE), descriptor);
  }

  /** Reads entry `index` of the descriptor table. */
  readDescriptor(index: number): RawDescriptor {
    return this.readDescriptorAt(this.desc + BigInt(index * Descriptor.SIZE));
  }

  /** Writes a descriptor anywhere, for example into an indirect table. */
  writeDescriptorAt(gpa: bigint, descriptor: RawDescriptor): void {
    this.#copy32[0] = Number(descriptor.addr & 0xffff_ffffn);
    this.#copy32[1] = Number((descriptor.addr >> 32n) & 0xffff_ffffn);
    this.#writeCopy(Number(gpa), descriptor.len, descriptor.flags, descriptor.next);
  }

  /** Reads a descriptor anywhere. */
  readDescriptorAt(gpa: bigint): RawDescriptor {
    this.readBytes(Number(gpa), this.#copy);
    return {
      addr: BigInt(this.#copy32[0]!) | (BigInt(this.#copy32[1]!) << 32n),
      len: this.#copy32[2]!,
      flags: this.#copy16[6]!,
      next: this.#copy16[7]!,
    };
  }

  /** Sets entry `position` (below `size`) of the available ring. */
  setAvailEntry(position: number, head: number): void {
    this.#store(this.availAt + Ring.entries + position * RingEntry.availSize, head);
  }

  /** Sets the available ring's idx, which makes entries visible to the device. */
  setAvailIndex(index: number): void {
    this.#store(this.availAt + Ring.idx, index);
  }

  /** Sets the available ring's flags (1: no interrupts wanted). */
  setAvailFlags(flags: number): void {
    this.#store(this.availAt + Ring.flags, flags);
  }

  /** Sets used_event: the used index after which an interrupt is wanted. */
  setUsedEvent(index: number): void {
    this.#store(this.availAt + Ring.entries + this.size * RingEntry.availSize, index);
  }

  /** The available ring's idx as it stands in memory. */
  get availIndex(): number {
    return this.memory.loadU16(this.availAt + Ring.idx);
  }

  /** The used ring's idx. */
  get usedIndex(): number {
    return this.memory.loadU16(this.usedAt + Ring.idx);
  }

  /** The used ring's flags (1: the device wants no kicks). */
  get usedFlags(): number {
    return this.memory.loadU16(this.usedAt + Ring.flags);
  }

  /** avail_event: the available index after which the device wants a kick. */
  get availEvent(): number {
    return this.memory.loadU16(this.usedAt + Ring.entries + this.size * RingEntry.usedSize);
  }

  /** Writes a descriptor whose address is a number below 2^53. */
  protected putDescriptor(at: number, addr: number, len: number, flags: number, next: number): void {
    this.#copy32[0] = addr % 0x1_0000_0000;
    this.#copy32[1] = Math.floor(addr / 0x1_0000_0000);
    this.#writeCopy(at, len, flags, next);
  }

  /** Reads guest memory of the driver. */
  protected readBytes(gpa: number, into: Uint8Array): void {
    if (!this.memory.read(gpa, into, 0, into.length)) throw new Error(`no RAM at ${hex(gpa)}`);
  }

  /** Writes guest memory of the driver. */
  protected writeBytes(gpa: number, bytes: Uint8Array): void {
    if (!this.memory.write(gpa, bytes, 0, bytes.length)) throw new Error(`no RAM at ${hex(gpa)}`);
  }

  #writeCopy(at: number, len: number, flags: number, next: number): void {
    this.#copy32[2] = len;
    this.#copy16[6] = flags;
    this.#copy16[7] = next;
    this.writeBytes(at, this.#copy);
  }

  #store(gpa: number, value: number): void {
    if (!this.memory.storeU16(gpa, value & 0xffff)) throw new Error(`no RAM at ${hex(gpa)}`);
  }
}

/** Bytes that the three areas of a ring of `size` entries take. */
export function ringBytes(size: number): number {
  return (
    roundUp64(size * Descriptor.SIZE) +
    roundUp64(Ring.entries + size * RingEntry.availSize + 2) +
    roundUp64(Ring.entries + size * RingEntry.usedSize + 2)
  );
}

function roundUp64(bytes: number): number {
  return Math.ceil(bytes / 64) * 64;
}

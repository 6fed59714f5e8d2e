// A naive split ring: what a device must make of whatever stands in guest memory, written down a second time.
// It walks the wanted image of the memory and leaves there what the device must leave. Shares no code with the device.
import type { FuzzMemory } from './fuzz-memory.ts';

const F_NEXT = 1;
const F_WRITE = 2;
const F_INDIRECT = 4;
/** More of a readable part than this is never looked at. */
const READ_BYTES = 72;

export interface RingPlace {
  readonly size: number;
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
}

/** One chain: the start of its readable bytes, and its writable buffers. */
export interface OracleChain {
  readonly head: number;
  readonly readable: Uint8Array;
  readonly readableLength: number;
  readonly writable: readonly { readonly addr: number; readonly length: number }[];
  readonly writableLength: number;
  /** A readable buffer stands behind a writable one. */
  readonly outOfOrder: boolean;
}

interface Descriptor {
  readonly addr: bigint;
  readonly length: number;
  readonly flags: number;
  readonly next: number;
}

/** The state of one ring as the device must keep it. */
export class OracleRing {
  broken = false;
  /** Chains taken since the start of the ring. */
  taken = 0;
  readonly #memory: FuzzMemory;
  readonly #place: RingPlace;
  readonly #indirect: boolean;
  readonly #eventIdx: boolean;
  #nextAvail = 0;
  #nextUsed = 0;
  #unpublished = false;
  /** With EVENT_IDX flags are 0 once and for all; a driver that writes there itself is not contradicted. */
  #flagsCleared = false;

  constructor(memory: FuzzMemory, place: RingPlace, indirect: boolean, eventIdx: boolean) {
    this.#memory = memory;
    this.#place = place;
    this.#indirect = indirect;
    this.#eventIdx = eventIdx;
    this.broken = !this.#usable();
  }

  get size(): number {
    return this.#place.size;
  }

  /** Serves all that is available with `answer`, which writes the reply and returns the used length. */
  serve(answer: (chain: OracleChain) => number): void {
    for (let chain = this.pop(); chain !== undefined; chain = this.pop()) this.push(chain, answer(chain));
    this.#publish();
    if (this.broken) return;
    // Nothing is left, so the next chain needs a kick: flags 0, or avail_event at the next entry.
    const used = Number(this.#place.used);
    if (this.#eventIdx) this.#memory.writeLe(used + 4 + 8 * this.size, 2, this.#nextAvail);
    this.#clearFlags(used);
  }

  /** Takes one chain; undefined when there is none or the ring is broken. */
  pop(): OracleChain | undefined {
    if (this.broken) return undefined;
    const avail = Number(this.#place.avail);
    const waiting = (this.#memory.readLe(avail + 2, 2) - this.#nextAvail) & 0xffff;
    if (waiting === 0) return undefined;
    if (waiting > this.size) {
      this.broken = true;
      return undefined;
    }
    const head = this.#memory.readLe(avail + 4 + 2 * (this.#nextAvail % this.size), 2);
    const list = head < this.size ? this.#walk(Number(this.#place.desc), this.size, head, false) : undefined;
    if (list === undefined) {
      this.broken = true;
      return undefined;
    }
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
    this.taken++;
    return this.#gather(head, list);
  }

  /** Puts a used entry into the ring; visible after publishing. */
  push(chain: OracleChain, length: number): void {
    const entry = Number(this.#place.used) + 4 + 8 * (this.#nextUsed % this.size);
    this.#memory.writeLe(entry, 4, chain.head);
    this.#memory.writeLe(entry + 4, 4, length);
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#unpublished = true;
  }

  /** Serves at most one chain, for the event queue. */
  serveOne(answer: (chain: OracleChain) => number): void {
    const chain = this.pop();
    if (chain !== undefined) this.push(chain, answer(chain));
    this.#publish();
  }

  #publish(): void {
    if (!this.#unpublished) return;
    this.#unpublished = false;
    this.#memory.writeLe(Number(this.#place.used) + 2, 2, this.#nextUsed);
    // The device looks whether an interrupt is wanted.
    const avail = Number(this.#place.avail);
    this.#memory.readLe(this.#eventIdx ? avail + 4 + 2 * this.size : avail, 2);
  }

  #clearFlags(used: number): void {
    if (this.#eventIdx && this.#flagsCleared) return;
    this.#flagsCleared = true;
    this.#memory.writeLe(used, 2, 0);
  }

  #usable(): boolean {
    const { size, desc, avail, used } = this.#place;
    const event = this.#eventIdx ? 2 : 0;
    const sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256];
    if (!sizes.includes(size) || size > MAX_QUEUE_SIZE) return false;
    return (
      desc % 16n === 0n &&
      avail % 2n === 0n &&
      used % 4n === 0n &&
      this.#memory.covers(desc, BigInt(16 * size), false) &&
      this.#memory.covers(avail, BigInt(4 + 2 * size + event), false) &&
      this.#memory.covers(used, BigInt(4 + 8 * size + event), true)
    );
  }

  /** The buffers of a chain in order, undefined when it is damaged. */
  #walk(table: number, entries: number, first: number, inTable: boolean): Descriptor[] | undefined {
    const list: Descriptor[] = [];
    let index = first;
    for (let steps = 0; steps < this.size; steps++) {
      if (index >= entries) return undefined;
      const each = this.#load(table + 16 * index);
      if ((each.flags & F_INDIRECT) !== 0) {
        if (inTable || !this.#indirect || (each.flags & F_NEXT) !== 0) return undefined;
        if (each.length === 0 || each.length % 16 !== 0) return undefined;
        if (!this.#memory.covers(each.addr, BigInt(each.length), false)) return undefined;
        const rest = this.#walk(Number(each.addr), each.length / 16, 0, true);
        return rest === undefined ? undefined : [...list, ...rest];
      }
      if (each.length > 0) {
        const writable = (each.flags & F_WRITE) !== 0;
        if (!this.#memory.covers(each.addr, BigInt(each.length), writable)) return undefined;
        list.push(each);
      }
      if ((each.flags & F_NEXT) === 0) return list;
      index = each.next;
    }
    return undefined;
  }

  #load(at: number): Descriptor {
    const memory = this.#memory;
    const addr = BigInt(memory.readLe(at, 4)) | (BigInt(memory.readLe(at + 4, 4)) << 32n);
    return {
      addr,
      length: memory.readLe(at + 8, 4),
      flags: memory.readLe(at + 12, 2),
      next: memory.readLe(at + 14, 2),
    };
  }

  #gather(head: number, list: readonly Descriptor[]): OracleChain {
    const readable: number[] = [];
    const writable: { addr: number; length: number }[] = [];
    let [readableLength, writableLength, outOfOrder] = [0, 0, false];
    for (const { addr, length, flags } of list) {
      if ((flags & F_WRITE) !== 0) {
        writable.push({ addr: Number(addr), length });
        writableLength += length;
        continue;
      }
      if (writable.length > 0) outOfOrder = true;
      for (let i = 0; i < length && readable.length < READ_BYTES; i++) {
        readable.push(this.#memory.readByte(Number(addr) + i));
      }
      readableLength += length;
    }
    return { head, readable: Uint8Array.from(readable), readableLength, writable, writableLength, outOfOrder };
  }
}

/** Largest queue that the fuzzed device offers. */
export const MAX_QUEUE_SIZE = 16;

/** Writes `bytes[from..to)` at the same offsets of a chain's writable part. */
export function writeChain(memory: FuzzMemory, chain: OracleChain, bytes: Uint8Array, from: number, to: number): void {
  let start = 0;
  for (const { addr, length } of chain.writable) {
    const first = Math.max(from - start, 0);
    const last = Math.min(to - start, length);
    for (let i = first; i < last; i++) memory.writeByte(addr + i, bytes[start + i]!);
    start += length;
    if (start >= to) return;
  }
}

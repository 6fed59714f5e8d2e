// MSI-X of one function: table, pending bits, masks. Not here: the capability in configuration space (config-space.ts),
// which event has which vector (common-config.ts). Vectors count from 0; offsets in bytes from the start of the table.
import type { MsixMessage } from './options.ts';
import { MSIX_ENTRY_MASKED, MsixEntry } from './pci-layout.ts';

/** Table and pending bits; sends what is neither masked nor held. */
export class MsixTable {
  /** Number of vectors. */
  readonly vectors: number;
  readonly #send: (vector: number) => void;
  /** The VMM keeps the table: masks in this one mean nothing. */
  readonly #outside: boolean;
  readonly #table: Uint8Array;
  readonly #view: DataView;
  readonly #pending: Uint8Array;
  #pendingCount = 0;
  #enabled = false;
  #functionMasked = false;
  #held = false;

  constructor(vectors: number, outside: boolean, send: (vector: number) => void) {
    this.vectors = vectors;
    this.#outside = outside;
    this.#send = send;
    this.#table = new Uint8Array(vectors * MsixEntry.SIZE);
    this.#view = new DataView(this.#table.buffer);
    this.#pending = new Uint8Array(Math.ceil(vectors / 64) * 8);
    this.reset();
  }

  /** As after power-on: disabled, every entry zero and masked. */
  reset(): void {
    this.#enabled = false;
    this.#functionMasked = false;
    this.#table.fill(0);
    for (let v = 0; v < this.vectors; v++) this.#table[v * MsixEntry.SIZE + MsixEntry.control] = MSIX_ENTRY_MASKED;
    this.clearPending();
  }

  /** Forgets what is pending. */
  clearPending(): void {
    this.#pending.fill(0);
    this.#pendingCount = 0;
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** Takes over the message control bits; what was pending and no longer has to wait goes out. */
  setControl(enabled: boolean, functionMasked: boolean): void {
    this.#enabled = enabled;
    this.#functionMasked = functionMasked;
    this.#flush();
  }

  /** Holds every message back, as a function must that is no bus master. */
  hold(held: boolean): void {
    this.#held = held;
    this.#flush();
  }

  /** An event with this vector; ignored while MSI-X is disabled, and for a vector that does not exist. */
  raise(vector: number): void {
    if (!this.#enabled || vector >= this.vectors) return;
    if (this.#mayGo(vector)) this.#send(vector);
    else this.#setPending(vector);
  }

  /** What the driver wrote for a vector. */
  message(vector: number): MsixMessage {
    const at = vector * MsixEntry.SIZE;
    return {
      address: this.#view.getBigUint64(at + MsixEntry.addressLow, true),
      data: this.#view.getUint32(at + MsixEntry.data, true),
      masked: this.#entryMasked(vector) || this.#functionMasked || !this.#enabled,
    };
  }

  readTable(offset: number, into: Uint8Array): void {
    for (let i = 0; i < into.length; i++) into[i] = this.#table[offset + i] ?? 0;
  }

  readPending(offset: number, into: Uint8Array): void {
    for (let i = 0; i < into.length; i++) into[i] = this.#pending[offset + i] ?? 0;
  }

  /** Writes any stretch of the table; of the control word only the mask bit is there. */
  writeTable(offset: number, bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length && offset + i < this.#table.length; i++) {
      const at = offset + i;
      const place = at % MsixEntry.SIZE;
      const mask = place < MsixEntry.control ? 0xff : place === MsixEntry.control ? MSIX_ENTRY_MASKED : 0;
      this.#table[at] = bytes[i]! & mask;
    }
    this.#flush();
  }

  #entryMasked(vector: number): boolean {
    return (this.#table[vector * MsixEntry.SIZE + MsixEntry.control]! & MSIX_ENTRY_MASKED) !== 0;
  }

  #mayGo(vector: number): boolean {
    return !this.#held && (this.#outside || (!this.#functionMasked && !this.#entryMasked(vector)));
  }

  #setPending(vector: number): void {
    const bit = 1 << (vector & 7);
    if ((this.#pending[vector >>> 3]! & bit) !== 0) return;
    this.#pending[vector >>> 3]! |= bit;
    this.#pendingCount++;
  }

  /** Sends what waits and may go. A bit is cleared before its message: the receiver may run the guest at once. */
  #flush(): void {
    for (let vector = 0; vector < this.vectors && this.#pendingCount > 0 && this.#enabled; vector++) {
      const bit = 1 << (vector & 7);
      if ((this.#pending[vector >>> 3]! & bit) === 0 || !this.#mayGo(vector)) continue;
      this.#pending[vector >>> 3]! &= ~bit;
      this.#pendingCount--;
      this.#send(vector);
    }
  }
}

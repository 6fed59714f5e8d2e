// Result of a translation: reused, grown when an access meets more pieces than ever before.
// Addresses are bytes; a piece is [gpa, gpa + length).
import type { Granule } from './granule.ts';

/** What a piece of an access reaches. */
export const PieceKind = { memory: 0, msi: 1 } as const;

/** Pieces of a translated access, or the fault that stopped it. */
export class Translation {
  /** Number of pieces; 0 when the access faults. */
  count = 0;
  /** Guest-physical address of each piece, exact below 2^53 (nothing lies above). */
  gpa: Float64Array;
  /** Bytes of each piece. */
  length: Float64Array;
  /** {@link PieceKind} of each piece. */
  kind: Uint8Array;
  /** Exact address of each piece for any value: unit number (IommuState.unit) and offset in the unit. */
  unit: Float64Array;
  offset: Float64Array;
  /** Fault reason on the wire (1 domain, 2 mapping), valid when {@link count} is 0. */
  reason = 0;
  /** First address that could not be translated, in two words. */
  faultHigh = 0;
  faultLow = 0;

  constructor(capacity = 4) {
    this.gpa = new Float64Array(capacity);
    this.length = new Float64Array(capacity);
    this.kind = new Uint8Array(capacity);
    this.unit = new Float64Array(capacity);
    this.offset = new Float64Array(capacity);
  }

  /** Makes this the only piece. */
  put(unit: Granule, number: number, offset: number, length: number, kind: number): void {
    this.gpa[0] = number * unit.bytes + offset;
    this.length[0] = length;
    this.kind[0] = kind;
    this.unit[0] = number;
    this.offset[0] = offset;
    this.count = 1;
  }

  /** Appends a piece, or lengthens the last one where it goes on. */
  push(unit: Granule, number: number, offset: number, length: number, kind: number): void {
    const gpa = number * unit.bytes + offset;
    const last = this.count - 1;
    if (last >= 0 && this.kind[last] === kind && this.#continues(unit, last, number, offset)) {
      this.length[last]! += length;
      return;
    }
    if (this.count === this.gpa.length) this.#grow();
    const i = this.count++;
    this.gpa[i] = gpa;
    this.length[i] = length;
    this.kind[i] = kind;
    this.unit[i] = number;
    this.offset[i] = offset;
  }

  #continues(unit: Granule, last: number, number: number, offset: number): boolean {
    // Exact for any address: only whole units follow the first piece, so the end of a piece is a unit's edge.
    return offset === 0 && (this.offset[last]! + this.length[last]!) / unit.bytes === number - this.unit[last]!;
  }

  #grow(): void {
    const capacity = this.gpa.length * 2;
    const grown = (from: Float64Array): Float64Array => {
      const to = new Float64Array(capacity);
      to.set(from);
      return to;
    };
    this.gpa = grown(this.gpa);
    this.length = grown(this.length);
    this.unit = grown(this.unit);
    this.offset = grown(this.offset);
    const kind = new Uint8Array(capacity);
    kind.set(this.kind);
    this.kind = kind;
  }
}

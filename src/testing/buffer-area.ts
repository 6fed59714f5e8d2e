// A bounded area of guest memory from which a driver takes buffers and gives them back.
// Not here: what is in them. Addresses are guest-physical byte numbers; pieces are [start, start + size), end exclusive.

const UNIT = 16;

/** First-fit allocator over [start, start + bytes); freed pieces join their neighbours, so the area never wears out. */
export class BufferArea {
  readonly #start: number;
  readonly #bytes: number;
  #free: { start: number; size: number }[] = [];

  constructor(start: number, bytes: number) {
    this.#start = start;
    this.#bytes = bytes;
    this.clear();
  }

  /** Gives everything back. */
  clear(): void {
    this.#free = [{ start: this.#start, size: this.#bytes }];
  }

  /** Address of a piece of `bytes` (16 at least, on a multiple of 16 from the start), -1 when there is no room. */
  take(bytes: number): number {
    const size = rounded(bytes);
    const i = this.#free.findIndex((piece) => piece.size >= size);
    if (i < 0) return -1;
    const piece = this.#free[i]!;
    const start = piece.start;
    piece.start += size;
    piece.size -= size;
    if (piece.size === 0) this.#free.splice(i, 1);
    return start;
  }

  /** Gives back what `take(bytes)` returned. */
  release(start: number, bytes: number): void {
    const size = rounded(bytes);
    let i = this.#free.findIndex((piece) => piece.start > start);
    if (i < 0) i = this.#free.length;
    const before = this.#free[i - 1];
    const after = this.#free[i];
    const joinsAfter = after?.start === start + size;
    if (before !== undefined && before.start + before.size === start) {
      before.size += size + (joinsAfter ? after.size : 0);
      if (joinsAfter) this.#free.splice(i, 1);
    } else if (joinsAfter) {
      after.start = start;
      after.size += size;
    } else {
      this.#free.splice(i, 0, { start, size });
    }
  }
}

function rounded(bytes: number): number {
  return Math.max(Math.ceil(bytes / UNIT), 1) * UNIT;
}

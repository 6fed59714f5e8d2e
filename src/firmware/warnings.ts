// Located warnings of the firmware readers: what is odd, and where. Not errors: no content makes a reader throw.

/** One oddity of a source. */
export interface Warning {
  /** `offset 0x50` in a table, `line 3` in a text; a file name may stand before it. */
  readonly where: string;
  /** A sentence that names the oddity and, where it matters, what Linux does with it. */
  readonly what: string;
}

/** Most warnings that one reader keeps; one more says how many were left out. */
export const MAX_WARNINGS = 256;

/** Collects warnings up to {@link MAX_WARNINGS}, so that hostile input cannot grow the list without end. */
export class WarningList {
  readonly #kept: Warning[] = [];
  #leftOut = 0;

  /** True when further warnings are only counted: a caller may skip building the sentence. */
  get full(): boolean {
    return this.#kept.length >= MAX_WARNINGS;
  }

  /** Adds a warning, or only counts it when the list is full. */
  add(where: string, what: string): void {
    if (this.full) this.#leftOut++;
    else this.#kept.push({ where, what });
  }

  /** Adds a warning at a byte offset of a table. */
  at(offset: number, what: string): void {
    this.add(`offset 0x${offset.toString(16)}`, what);
  }

  /** The kept warnings in order, with one closing entry when some were left out. */
  list(): Warning[] {
    if (this.#leftOut === 0) return [...this.#kept];
    return [...this.#kept, { where: 'end', what: `${this.#leftOut} more warnings were left out` }];
  }
}

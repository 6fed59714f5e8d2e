// Lines that say what happens while functions are served: written to standard error, limited per kind so that no guest can
// fill a disk. Not here: which lines there are (serve-events.ts).

/** Lines of one kind at once, and after that one per so many milliseconds. */
const BURST = 10;
const REFILL_MS = 1000;

interface Kind {
  tokens: number;
  time: number;
  suppressed: number;
}

/** Writes lines. */
export class ServeLog {
  readonly #write: (line: string) => void;
  readonly #now: () => number;
  readonly #kinds = new Map<string, Kind>();
  /** Lines that the limit kept back. */
  suppressed = 0;

  constructor(write: (line: string) => void, now: () => number = Date.now) {
    this.#write = write;
    this.#now = now;
  }

  /** A line that is always written. */
  say(text: string): void {
    this.#write(text);
  }

  /** A line that a guest or a client can cause, one of a fixed set of kinds. */
  limited(kind: string, text: string): void {
    const now = this.#now();
    const state = this.#kinds.get(kind) ?? { tokens: BURST, time: now, suppressed: 0 };
    this.#kinds.set(kind, state);
    state.tokens = Math.min(BURST, state.tokens + Math.max(0, now - state.time) / REFILL_MS);
    state.time = now;
    if (state.tokens < 1) {
      state.suppressed++;
      this.suppressed++;
      return;
    }
    state.tokens--;
    const before = state.suppressed === 0 ? '' : ` (${state.suppressed} more before it not shown)`;
    state.suppressed = 0;
    this.#write(text + before);
  }
}

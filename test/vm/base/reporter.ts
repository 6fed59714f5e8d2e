// The side of report.ts that runs in the machine: plain Node, no test framework.
import { writeSync } from 'node:fs';

/** One check that was made. */
export interface Result {
  /** `section > what holds`. */
  readonly name: string;
  readonly ok: boolean;
  /** What was wrong. */
  readonly detail?: string;
}

/** Runs checks and writes their results to standard output, one line each. */
export class Reporter {
  readonly #section: string;
  readonly #counts: { failed: number; passed: number };

  constructor(section = '', counts = { failed: 0, passed: 0 }) {
    this.#section = section;
    this.#counts = counts;
  }

  /** Checks that failed, of all sections. */
  get failed(): number {
    return this.#counts.failed;
  }

  /** Checks that held, of all sections. */
  get passed(): number {
    return this.#counts.passed;
  }

  /** A reporter whose names begin with this section. */
  section(name: string): Reporter {
    return new Reporter(name, this.#counts);
  }

  /** Runs one check; what it throws is the reason of its failure. Returns true when it held. */
  async check(name: string, run: () => unknown): Promise<boolean> {
    try {
      await run();
      this.result({ name, ok: true });
      return true;
    } catch (error) {
      const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
      this.result({ name, ok: false, detail });
      return false;
    }
  }

  /** Writes a result. */
  result({ name, ok, detail }: Result): void {
    if (ok) this.#counts.passed++;
    else this.#counts.failed++;
    const full = this.#section === '' ? name : `${this.#section} > ${name}`;
    this.#write({ name: full, ok, ...(detail === undefined ? {} : { detail }) });
  }

  /** Writes something to read: a version, a time. */
  note(text: string): void {
    this.#write({ note: this.#section === '' ? text : `${this.#section}: ${text}` });
  }

  #write(value: object): void {
    // Begins on a line of its own, whatever the kernel or a library has written before.
    writeSync(1, `\n@@ ${JSON.stringify(value)}\n`);
  }
}

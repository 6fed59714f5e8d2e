// A list of statements that must hold; collects those that do not, so that a run reports all of them.

/** Collects failed statements. */
export class Checks {
  readonly #failed: string[] = [];
  /** Statements that were checked. */
  count = 0;

  /** Notes that `what` must hold; `seen` says what was there instead. */
  that(what: string, holds: boolean, seen = ''): void {
    this.count++;
    if (!holds) this.#failed.push(seen === '' ? what : `${what} (${seen})`);
  }

  get failed(): readonly string[] {
    return this.#failed;
  }
}

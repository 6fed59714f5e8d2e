// Progress on standard error: one line that is rewritten on a terminal, and nothing elsewhere.

/** Shows what is being done; `clear` removes the line. */
export class Progress {
  readonly #enabled: boolean;

  constructor(enabled: boolean) {
    this.#enabled = enabled && process.stderr.isTTY;
  }

  show(text: string): void {
    if (this.#enabled) process.stderr.write(`\r\x1b[2K${text}`);
  }

  clear(): void {
    if (this.#enabled) process.stderr.write('\r\x1b[2K');
  }
}

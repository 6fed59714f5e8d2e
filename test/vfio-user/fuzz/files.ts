// Descriptors that a fuzzed client passes: files of memory whose pages say what they are, eventfds, and what is neither.
import { closeSync, openSync } from 'node:fs';
import { EventCounter } from '../../../src/host/event-counter.ts';
import { GuestRam } from '../../../src/host/guest-ram.ts';

/** Pages of each file of memory. */
export const FILE_PAGES = 64;
const PAGE = 4096;

/** A descriptor to pass. */
export interface FuzzFile {
  readonly fd: number;
  readonly kind: 'memory' | 'event' | 'other';
  /** Number of a file of memory, else -1. */
  readonly number: number;
}

/** The descriptors of a run. */
export class FuzzFiles {
  readonly all: readonly FuzzFile[];
  readonly memory: readonly FuzzFile[];
  readonly #rams: GuestRam[] = [];
  readonly #counters: EventCounter[] = [];

  constructor(files = 3) {
    const all: FuzzFile[] = [];
    for (let number = 0; number < files; number++) {
      const ram = GuestRam.create({ size: BigInt(FILE_PAGES * PAGE), name: 'fuzz' });
      const words = new Uint32Array(ram.windows[0]!);
      // The device may write anywhere but to the first words, which name the page.
      for (let page = 0; page < FILE_PAGES; page++) words[(page * PAGE) / 4] = tag(number, page);
      this.#rams.push(ram);
      all.push({ fd: ram.duplicateFd(), kind: 'memory', number });
    }
    for (let i = 0; i < 2; i++) {
      const counter = new EventCounter();
      this.#counters.push(counter);
      all.push({ fd: counter.fd, kind: 'event', number: -1 });
    }
    all.push({ fd: openSync('/proc/self/status', 'r'), kind: 'other', number: -1 });
    this.all = all;
    this.memory = all.filter(({ kind }) => kind === 'memory');
  }

  close(): void {
    for (const file of this.all) if (file.kind !== 'event') closeSync(file.fd);
    for (const counter of this.#counters) counter.close();
    for (const ram of this.#rams) ram.close();
  }
}

/** First word of a page. */
export function tag(file: number, page: number): number {
  return (0xf17e_0000 + file * 256 + page) >>> 0;
}

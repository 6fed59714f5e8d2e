// Writes a `viommu-trace/1` file while functions are served, so that `virtio-iommu replay` can do it again: the requests
// with their answers, resets, bus-master bits, accesses, faults and fault records. Lines go to the file in large pieces
// that are written at once, so that a slow disk slows the guest and never fills memory; a full disk, and the largest size
// of the file, end the recording and nothing else.
// Not here: where requests are seen (serve-recorded-iommu.ts). Addresses as in the format: both ends INCLUSIVE.
import { closeSync, constants, ftruncateSync, openSync, writeSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import type { TraceHeader } from '../testing/trace-header.ts';
import type { TraceRecord } from '../testing/trace-record.ts';
import { formatTraceHeader, formatTraceRecord } from '../testing/trace.ts';
import { CliError } from './errors.ts';

/** Characters that are collected before they are written. */
const PIECE = 1 << 16;
/** Records that wait for the header at most: what comes before a driver runs is resets and bus-master bits. */
const EARLY_RECORDS = 1024;

/** Most bytes of a file, so that no guest can fill a disk: some ten million records, or a hundred million compressed ones. */
const MAX_BYTES = 2 ** 30;

/** How a {@link TraceWriter} behaves. */
export interface TraceWriterOptions {
  /** Clock in milliseconds; default Date.now. */
  readonly now?: () => number;
  /** Default 1 GiB. */
  readonly maxBytes?: number;
  /** Hears, once, why nothing more is written. */
  readonly failed?: (reason: string) => void;
}

/** One trace file; a name that ends in `.gz` is compressed. */
export class TraceWriter {
  readonly path: string;
  readonly #fd: number;
  readonly #started: number;
  readonly #now: () => number;
  readonly #maxBytes: number;
  readonly #onFailed: (reason: string) => void;
  #early: TraceRecord[] = [];
  #headerWritten = false;
  #text = '';
  /** Records in `#text`. */
  #collected = 0;
  #begun = false;
  #records = 0;
  #dropped = 0;
  #bytes = 0;
  #failed: string | undefined;

  /**
   * Opens or creates the file, and leaves alone what is in it: another process may be writing it, until {@link begin}.
   * @throws CliError that names it.
   */
  constructor(path: string, options: TraceWriterOptions = {}) {
    this.path = path;
    this.#now = options.now ?? Date.now;
    this.#maxBytes = options.maxBytes ?? MAX_BYTES;
    this.#onFailed = options.failed ?? (() => undefined);
    this.#started = this.#now();
    try {
      this.#fd = openSync(path, constants.O_WRONLY | constants.O_CREAT, 0o600);
    } catch (error) {
      throw new CliError(`${path}: ${(error as Error).message.split(',')[0]!}`, 1);
    }
  }

  /** Records in the file, records that could not be kept, and why nothing more is written. */
  stats(): { readonly records: number; readonly dropped: number; readonly failed: string | null } {
    return { records: this.#records, dropped: this.#dropped, failed: this.#failed ?? null };
  }

  /** Seconds since the file was opened. */
  get time(): number {
    return Math.max(0, this.#now() - this.#started) / 1000;
  }

  /** Empties the file: it is ours. Nothing is written before. */
  begin(): void {
    this.#begun = true;
    this.#cutBack();
  }

  /** Writes line 1; ignored when it is there. */
  header(header: TraceHeader): void {
    if (this.#headerWritten) return;
    this.#headerWritten = true;
    this.#line(formatTraceHeader(header));
    const early = this.#early;
    this.#early = [];
    for (const record of early) this.add(record);
  }

  /** Appends a record; those that come before the header wait for it. */
  add(record: TraceRecord): void {
    if (!this.#headerWritten) {
      if (this.#early.length < EARLY_RECORDS) this.#early.push(record);
      else this.#dropped++;
      return;
    }
    if (this.#failed !== undefined) {
      this.#dropped++;
      return;
    }
    this.#collected++;
    this.#line(formatTraceRecord(record));
  }

  /** Writes what is collected: whole lines, or none of them when there is no room. */
  flush(): void {
    if (!this.#begun || this.#text === '') return;
    const text = this.#text;
    const records = this.#collected;
    this.#text = '';
    this.#collected = 0;
    if (this.#failed === undefined && this.#write(text)) this.#records += records;
    else this.#dropped += records;
  }

  /** Writes what is left, with `header` if there is none yet, and closes the file; only closes it before {@link begin}. */
  close(header: TraceHeader): void {
    if (this.#begun) this.header(header);
    this.flush();
    closeSync(this.#fd);
  }

  #write(text: string): boolean {
    const bytes = this.path.endsWith('.gz') ? gzipSync(text) : new TextEncoder().encode(text);
    if (this.#bytes + bytes.length > this.#maxBytes) {
      this.#fail(`${this.#maxBytes} bytes are the most that a trace may have`);
      return false;
    }
    try {
      for (let at = 0; at < bytes.length;) at += writeSync(this.#fd, bytes, at);
      this.#bytes += bytes.length;
      return true;
    } catch (error) {
      this.#cutBack();
      this.#fail((error as Error).message);
      return false;
    }
  }

  /** Takes away a piece of which only a part could be written; what is no file (a pipe) has nothing to take away. */
  #cutBack(): void {
    try {
      ftruncateSync(this.#fd, this.#bytes);
    } catch {
      // The next write tells what is wrong, if anything is.
    }
  }

  #fail(reason: string): void {
    this.#failed = reason;
    this.#onFailed(reason);
  }

  #line(line: string): void {
    this.#text += `${line}\n`;
    if (this.#text.length >= PIECE) this.flush();
  }
}

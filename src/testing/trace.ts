// Reader and writer of request traces in the format `viommu-trace/1`: newline-delimited JSON, line 1 the header, every
// further line one record in the order in which the device saw it. Text only: files belong to testing/node.
import type { TraceHeader } from './trace-header.ts';
import type { TraceRecord } from './trace-record.ts';
import { FieldError } from './trace-fields.ts';
import { decodeHeader, encodeHeader } from './trace-header.ts';
import { decodeRecord, encodeRecord } from './trace-record.ts';

/** Longest accepted line in UTF-16 units; a recorded header has about 2000. */
export const MAX_TRACE_LINE = 1 << 20;

/** A whole trace in memory. */
export interface Trace {
  readonly header: TraceHeader;
  readonly records: readonly TraceRecord[];
}

/** Text that is not a trace; `line` counts from 1. */
export class TraceError extends Error {
  readonly line: number;

  constructor(line: number, message: string) {
    super(`line ${line}: ${message}`);
    this.name = 'TraceError';
    this.line = line;
  }
}

/** Reads a trace line by line, so that its size does not matter. */
export class TraceParser {
  #header: TraceHeader | undefined;
  #line = 0;

  /** The header; undefined until the first line was pushed. */
  get header(): TraceHeader | undefined {
    return this.#header;
  }

  /** Number of lines pushed so far. */
  get line(): number {
    return this.#line;
  }

  /**
   * Takes the next line without its newline and returns its record; undefined for the header and for an empty line.
   * @throws TraceError naming the line: not JSON, too long, unknown op, missing key, value of a wrong type or range.
   */
  push(line: string): TraceRecord | undefined {
    this.#line++;
    if (line.length > MAX_TRACE_LINE) this.#fail(`longer than ${MAX_TRACE_LINE} characters`);
    if (line === '' || line === '\r') return undefined;
    const json = this.#parse(line);
    try {
      if (this.#header !== undefined) return decodeRecord(json);
      this.#header = decodeHeader(json);
      return undefined;
    } catch (error) {
      if (error instanceof FieldError) this.#fail(error.message);
      throw error;
    }
  }

  /** Ends the trace and returns its header; throws TraceError when there was none. */
  finish(): TraceHeader {
    return this.#header ?? this.#fail('the trace is empty, a header is needed');
  }

  #parse(line: string): object {
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch {
      return this.#fail('not JSON');
    }
    if (typeof json !== 'object' || json === null || Array.isArray(json)) return this.#fail('not a JSON object');
    return json;
  }

  #fail(message: string): never {
    throw new TraceError(Math.max(this.#line, 1), message);
  }
}

/**
 * Reads a whole trace from its text, or from its lines (each without its newline).
 * @throws TraceError naming the line.
 */
export function parseTrace(source: string | Iterable<string>): Trace {
  const parser = new TraceParser();
  const records: TraceRecord[] = [];
  for (const line of typeof source === 'string' ? splitLines(source) : source) {
    const record = parser.push(line);
    if (record !== undefined) records.push(record);
  }
  return { header: parser.finish(), records };
}

/** As {@link parseTrace}, for lines that arrive one by one. The promise is rejected with the TraceError. */
export async function readTrace(lines: AsyncIterable<string> | Iterable<string>): Promise<Trace> {
  const parser = new TraceParser();
  const records: TraceRecord[] = [];
  for await (const line of lines) {
    const record = parser.push(line);
    if (record !== undefined) records.push(record);
  }
  return { header: parser.finish(), records };
}

/** The header as line 1, without its newline. RangeError when a value does not fit the format. */
export function formatTraceHeader(header: TraceHeader): string {
  const json = encodeHeader(header);
  return checked('header', json, () => decodeHeader(reread(json)));
}

/** One record as a line, without its newline. RangeError when a value does not fit the format. */
export function formatTraceRecord(record: TraceRecord): string {
  const json = encodeRecord(record);
  return checked('record', json, () => decodeRecord(reread(json)));
}

/** A whole trace as text, each line ended by a newline. RangeError when a value does not fit the format. */
export function writeTrace(header: TraceHeader, records: Iterable<TraceRecord>): string {
  const lines = [formatTraceHeader(header)];
  for (const record of records) lines.push(formatTraceRecord(record));
  return `${lines.join('\n')}\n`;
}

/** Ids of the endpoints of a trace, ascending: those of the header, without such a list those that records name. */
export function traceEndpointIds(trace: Trace): number[] {
  if (trace.header.endpoints !== undefined) return trace.header.endpoints.map((endpoint) => endpoint.id);
  const ids = new Set<number>();
  for (const record of trace.records) if ('endpoint' in record) ids.add(record.endpoint);
  return [...ids].sort((a, b) => a - b);
}

function reread(json: object): object {
  return JSON.parse(JSON.stringify(json)) as object;
}

/** What the reader would refuse is not written. */
function checked(name: string, json: object, decode: () => unknown): string {
  try {
    decode();
  } catch (error) {
    throw error instanceof FieldError ? new RangeError(`${name}: ${error.message}`) : error;
  }
  return JSON.stringify(json);
}

function* splitLines(source: string): Generator<string> {
  let start = 0;
  while (start < source.length) {
    const end = source.indexOf('\n', start);
    if (end < 0) {
      yield source.slice(start);
      return;
    }
    yield source.slice(start, end);
    start = end + 1;
  }
}

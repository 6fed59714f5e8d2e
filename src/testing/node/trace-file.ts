// Trace files on disk: plain text or, with the suffix `.gz`, gzip. The format itself is testing/trace.ts.
import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createGunzip, gzipSync } from 'node:zlib';
import type { Trace } from '../trace.ts';
import type { TraceHeader } from '../trace-header.ts';
import type { TraceRecord } from '../trace-record.ts';
import { MAX_TRACE_LINE, TraceError, TraceParser, writeTrace } from '../trace.ts';

/** A trace file that cannot be read; the message is one line that begins with the file's name. */
export class TraceFileError extends Error {
  readonly path: string;
  /** Line of the fault, from 1; undefined when it is not a line's. */
  readonly line: number | undefined;

  constructor(path: string, message: string, line?: number) {
    super(`${path}: ${message}`);
    this.name = 'TraceFileError';
    this.path = path;
    this.line = line;
  }
}

/** A trace that is read while it is used. */
export interface TraceStream {
  readonly header: TraceHeader;
  /** The records in order; iterate once. Throws {@link TraceFileError} where the file is damaged. */
  readonly records: AsyncGenerator<TraceRecord, void, undefined>;
}

/** Reads a whole trace file. Rejected with {@link TraceFileError}: missing, not gzip, corrupt, wrong format. */
export async function readTraceFile(path: string): Promise<Trace> {
  const stream = await openTraceFile(path);
  const records: TraceRecord[] = [];
  for await (const record of stream.records) records.push(record);
  return { header: stream.header, records };
}

/** Opens a trace file and reads its header; the records follow on demand. Rejected with {@link TraceFileError}. */
export async function openTraceFile(path: string): Promise<TraceStream> {
  const parser = new TraceParser();
  const records = parseFile(path, parser);
  // The generator yields undefined once, behind the header, so that the header is known before the first record.
  await records.next();
  return { header: parser.header!, records: withoutHeader(records) };
}

/** Writes a trace file; gzip when the name ends in `.gz`. RangeError when a value does not fit the format. */
export async function writeTraceFile(path: string, trace: Trace): Promise<void> {
  const text = writeTrace(trace.header, trace.records);
  await writeFile(path, path.endsWith('.gz') ? gzipSync(text) : text);
}

async function* withoutHeader(
  records: AsyncGenerator<TraceRecord | undefined>,
): AsyncGenerator<TraceRecord, void, undefined> {
  for await (const record of records) if (record !== undefined) yield record;
}

async function* parseFile(path: string, parser: TraceParser): AsyncGenerator<TraceRecord | undefined> {
  try {
    let headerSeen = false;
    for await (const line of fileLines(path)) {
      const record = parser.push(line);
      if (record !== undefined) yield record;
      else if (!headerSeen && parser.header !== undefined) {
        headerSeen = true;
        yield undefined;
      }
    }
    parser.finish();
  } catch (error) {
    throw describe(path, parser, error);
  }
}

/** Splits the decompressed file into lines. A longer line than a trace may have is cut, which the parser reports. */
async function* fileLines(path: string): AsyncGenerator<string> {
  const file = createReadStream(path);
  const gunzip = path.endsWith('.gz') ? createGunzip() : undefined;
  if (gunzip !== undefined) file.on('error', (error) => gunzip.destroy(error)).pipe(gunzip);
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let rest = '';
  try {
    for await (const chunk of gunzip ?? file) {
      const text: string = rest + decoder.decode(chunk as Uint8Array, { stream: true });
      let start = 0;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', start)) {
        yield text.slice(start, end);
        start = end + 1;
      }
      rest = text.slice(start);
      if (rest.length > MAX_TRACE_LINE) break;
    }
    if (rest.length <= MAX_TRACE_LINE) rest += decoder.decode();
    if (rest !== '') yield rest;
  } finally {
    file.destroy();
    gunzip?.destroy();
  }
}

function describe(path: string, parser: TraceParser, error: unknown): unknown {
  if (error instanceof TraceError) return new TraceFileError(path, error.message, error.line);
  if (!(error instanceof Error) || !('code' in error)) return error;
  switch (error.code) {
    case 'ENOENT':
      return new TraceFileError(path, 'no such file');
    case 'EISDIR':
      return new TraceFileError(path, 'is a directory');
    case 'EACCES':
      return new TraceFileError(path, 'permission denied');
    case 'ERR_ENCODING_INVALID_ENCODED_DATA':
      return new TraceFileError(path, `line ${parser.line + 1}: not UTF-8 text`, parser.line + 1);
    case 'Z_BUF_ERROR':
      return new TraceFileError(path, 'corrupt gzip data: the file is cut short');
    case 'Z_DATA_ERROR':
      return new TraceFileError(
        path,
        error.message === 'incorrect header check' ? 'not a gzip file' : `corrupt gzip data: ${error.message}`,
      );
    default:
      return new TraceFileError(path, error.message.split('\n')[0]!);
  }
}

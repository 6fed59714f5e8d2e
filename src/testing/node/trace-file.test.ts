import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { MAX_TRACE_LINE } from '../trace.ts';
import { TraceFileError, openTraceFile, readTraceFile, writeTraceFile } from './trace-file.ts';

const TRACES = fileURLToPath(new URL('../../../test/traces/', import.meta.url));
const HEADER = '{"format":"viommu-trace/1"}\n';
let folder = '';

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'trace-file-'));
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  return path;
}

async function refused(path: string): Promise<TraceFileError> {
  const error: unknown = await readTraceFile(path).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(TraceFileError);
  const found = error as TraceFileError;
  expect(found.message.startsWith(`${path}: `)).toBe(true);
  expect(found.message).not.toContain('\n');
  expect(found.path).toBe(path);
  return found;
}

test('plain and compressed recordings are read', async () => {
  expect((await readTraceFile(join(TRACES, 'vfio-user-rng.ndjson'))).records).toHaveLength(20);
  const trace = await readTraceFile(join(TRACES, 'vfio64-mask-0x40201000.ndjson.gz'));
  expect(trace.records).toHaveLength(32882);
  expect(trace.header.pageSizeMask).toBe(0x4020_1000n);
});

test('a trace is written and read again, plain and compressed', async () => {
  const trace = await readTraceFile(join(TRACES, 'vfio-user-rng.ndjson'));
  for (const name of ['copy.ndjson', 'copy.ndjson.gz']) {
    const path = join(folder, name);
    await writeTraceFile(path, trace);
    expect(await readTraceFile(path)).toEqual(trace);
    expect((await readFile(path)).subarray(0, 2).equals(Buffer.from([0x1f, 0x8b]))).toBe(name.endsWith('.gz'));
  }
});

test('a file is read while it is used, and may be left early', async () => {
  const stream = await openTraceFile(join(TRACES, 'vfio64-mask-0x40201000.ndjson.gz'));
  expect(stream.header.trace).toBe('vfio64-mask-0x40201000');
  for await (const record of stream.records) {
    expect(record.op).toBe('PROBE');
    break;
  }
  const headerOnly = await openTraceFile(await file('header.ndjson', HEADER));
  expect(await headerOnly.records.next()).toEqual({ done: true, value: undefined });
});

test('text in pieces: characters and lines across the boundaries of reads', async () => {
  const line = `{"op":"RESET","note":"${'äß€'.repeat(40_000)}"}\n`;
  const trace = await readTraceFile(await file('long.ndjson', HEADER + line + line.slice(0, -1)));
  expect(trace.records).toHaveLength(2);
});

test('a missing file, a folder, and files that are not traces are told in one line that names the file', async () => {
  expect((await refused(join(folder, 'none.ndjson'))).message).toMatch(/no such file$/);
  expect((await refused(join(folder, 'none.ndjson.gz'))).message).toMatch(/no such file$/);
  expect((await refused(folder)).message).toMatch(/is a directory$/);
  expect((await refused(await file('plain.gz', HEADER))).message).toMatch(/not a gzip file$/);
  const packed = gzipSync(`${HEADER}${'{"op":"RESET"}\n'.repeat(50)}`);
  expect((await refused(await file('short.gz', packed.subarray(0, -20)))).message).toMatch(/cut short$/);
  const damaged = Buffer.from(gzipSync(`${HEADER}{"op":"RESET"}\n`));
  damaged.writeUInt8(damaged.readUInt8(damaged.length - 6) ^ 0xff, damaged.length - 6);
  expect((await refused(await file('crc.gz', damaged))).message).toMatch(/corrupt gzip data/);
  expect((await refused(await file('empty.ndjson', ''))).message).toMatch(/line 1: the trace is empty/);
  expect((await refused(await file('empty.gz', ''))).message).toMatch(/empty|gzip/);
  expect((await refused(await file('zip.ndjson', packed))).message).toMatch(/line 1: not UTF-8 text$/);
  expect((await refused(await file('other.ndjson', '{"format":"qemu"}\n'))).line).toBe(1);
  const wrong = await refused(await file('wrong.ndjson', `${HEADER}{"op":"RESET"}\n{"op":"NOPE"}\n`));
  expect(wrong.line).toBe(3);
  expect(wrong.message).toContain('line 3: unknown op "NOPE"');
});

test('a line without end is refused before it fills the memory', async () => {
  const endless = gzipSync(HEADER + ' '.repeat(16 * MAX_TRACE_LINE));
  expect((await refused(await file('endless.gz', endless))).message).toMatch(/line 2: longer than/);
});

import { gunzipSync } from 'node:zlib';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { TraceHeader } from './trace-header.ts';
import type { TraceRecord } from './trace-record.ts';
import { STATUS_NAMES } from '../iommu/status.ts';
import { isTraceRequest } from './trace-record.ts';
import {
  MAX_TRACE_LINE,
  TraceError,
  TraceParser,
  formatTraceHeader,
  formatTraceRecord,
  parseTrace,
  readTrace,
  traceEndpointIds,
  writeTrace,
} from './trace.ts';

const HEADER = '{"format":"viommu-trace/1"}';

function recorded(name: string): string {
  const bytes = readFileSync(new URL(`../../test/traces/${name}`, import.meta.url));
  return (name.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString();
}

/** Parses one record line behind a minimal header. */
function record(line: string): TraceRecord {
  return parseTrace(`${HEADER}\n${line}\n`).records[0]!;
}

const RECORDINGS = [
  ['vfio-user-rng.ndjson', 15, { MAP: 6, UNMAP: 5, PROBE: 2, ATTACH: 2 }, [0, 24]],
  ['vfio-user-blk.ndjson.gz', 7119, { MAP: 3557, UNMAP: 3556, PROBE: 3, ATTACH: 3 }, [0, 24, 32]],
  ['vfio-user-dma.ndjson.gz', 1262, { MAP: 739, UNMAP: 513, PROBE: 3, ATTACH: 7 }, [0, 24, 40]],
  ['l2-boot.ndjson.gz', 357, { MAP: 218, UNMAP: 133, PROBE: 1, ATTACH: 5 }, [40]],
  ['vfio64-mask-0x40201000.ndjson.gz', 32882, { MAP: 16436, UNMAP: 16436, PROBE: 3, ATTACH: 7 }, [0, 24, 40]],
] as const;

test.each(RECORDINGS)('%s is read whole and written back byte for byte', (name, requests, counts, endpoints) => {
  const text = recorded(name);
  const trace = parseTrace(text);
  const found: Record<string, number> = {};
  for (const item of trace.records) if (isTraceRequest(item)) found[item.op] = (found[item.op] ?? 0) + 1;
  expect(found).toEqual(counts);
  expect(trace.records.filter(isTraceRequest)).toHaveLength(requests);
  expect(traceEndpointIds(trace)).toEqual(endpoints);
  const written = writeTrace(trace.header, trace.records);
  expect(written.slice(written.indexOf('\n')) === text.slice(text.indexOf('\n'))).toBe(true);
  expect(parseTrace(written).header).toEqual(trace.header);
});

test('headers of the recordings carry their types', () => {
  expect(parseTrace(recorded('vfio64-mask-0x40201000.ndjson.gz')).header).toMatchObject({
    trace: 'vfio64-mask-0x40201000',
    pageSizeMask: 0x4020_1000n,
    inputRange: { start: 0n, end: 0x7f_ffff_ffffn },
    domainRange: { start: 0, end: 0xffff },
    guestRam: [{ start: 0n, end: 0x1fff_ffffn }],
    requestQueueSize: 64,
    driverFeatures: 0x1_5000_0077n,
    featuresOffered: 0x77n,
    probeSize: 512,
    bypass: true,
    reservedRegions: [{ subtype: 1, start: 0xfee0_0000n, end: 0xfeef_ffffn }],
    endpoints: [
      { id: 0, name: 'host bridge 00:00.0' },
      { id: 24, name: 'virtio-rng 00:03.0' },
      { id: 40, name: 'e1000e 00:05.0 (bound to vfio-pci)' },
    ],
    kickSource: 'inferred',
    recordedKicks: 16783,
  });
  const sparse = parseTrace(recorded('l2-boot.ndjson.gz')).header;
  expect(sparse.endpoints).toBeUndefined();
  expect(sparse.guestRam).toBeUndefined();
});

test('a trace arrives as text, as lines, or as lines that arrive one by one', async () => {
  const lines = [HEADER, '{"op":"RESET"}', ''];
  const records = [{ op: 'RESET' }];
  expect(parseTrace(lines.join('\n')).records).toEqual(records);
  expect(parseTrace(lines.join('\r\n')).records).toEqual(records);
  expect(parseTrace(lines).records).toEqual(records);
  expect((await readTrace(lines)).records).toEqual(records);
  async function* slowly(): AsyncGenerator<string> {
    for (const line of lines) yield await Promise.resolve(line);
  }
  expect((await readTrace(slowly())).records).toEqual(records);
  await expect(readTrace([HEADER, '{}'])).rejects.toThrow('line 2');
  const parser = new TraceParser();
  expect(parser.header).toBeUndefined();
  expect(parser.push(HEADER)).toBeUndefined();
  expect(parser.header).toEqual({});
  expect(parser.push('{"op":"RESET","k":3}')).toEqual({ op: 'RESET', kick: 3 });
  expect(parser.line).toBe(2);
  expect(parser.finish()).toEqual({});
});

test('optional keys: status, used length, sizes; unknown keys are ignored', () => {
  expect(record('{"k":0,"op":"UNMAP","dom":1,"vs":"0x0","ve":"0xFFF","st":"RANGE","ul":4,"colour":"blue"}')).toEqual({
    op: 'UNMAP',
    kick: 0,
    domain: 1,
    virtStart: 0n,
    virtEnd: 0xfffn,
    status: 'RANGE',
    usedLength: 4,
  });
  expect(record('{"k":0,"op":"ATTACH","dom":1,"ep":4294967295}')).toEqual({
    op: 'ATTACH',
    kick: 0,
    domain: 1,
    endpoint: 0xffff_ffff,
    flags: 0,
    status: 'OK',
  });
  expect(record('{"op":"CFG","off":36,"size":1,"val":"0xff"}')).toEqual({
    op: 'CFG',
    offset: 36,
    size: 1,
    value: 255n,
  });
  expect(record('{"k":1,"t":0,"op":"DETACH","dom":0,"ep":0}')).toMatchObject({ op: 'DETACH', time: 0 });
});

const MAP = { k: 0, op: 'MAP', dom: 1, vs: '0x1000', ve: '0x1fff', pa: '0x0', fl: 3 };

test.each([
  ['not json', 'not JSON'],
  ['{"op":"MAP"', 'not JSON'],
  ['[]', 'not a JSON object'],
  ['null', 'not a JSON object'],
  ['7', 'not a JSON object'],
  ['{}', '"op" is missing'],
  ['{"op":"FLUSH"}', 'unknown op "FLUSH"'],
  ['{"op":"toString"}', 'unknown op "toString"'],
  ['{"op":7}', 'unknown op 7'],
  [JSON.stringify({ ...MAP, k: undefined }), '"k" is missing'],
  [JSON.stringify({ ...MAP, vs: undefined }), '"vs" is missing'],
  [JSON.stringify({ ...MAP, pa: undefined }), '"pa" is missing'],
  [JSON.stringify({ ...MAP, fl: undefined }), '"fl" is missing'],
  [JSON.stringify({ ...MAP, k: -1 }), '"k" must be'],
  [JSON.stringify({ ...MAP, k: 1.5 }), '"k" must be'],
  [JSON.stringify({ ...MAP, t: '1' }), '"t" must be'],
  [JSON.stringify({ ...MAP, t: -1 }), '"t" must be'],
  ['{"k":0,"op":"MAP","t":1e999}', '"t" must be'],
  [JSON.stringify({ ...MAP, dom: 4294967296 }), '"dom" must be'],
  [JSON.stringify({ ...MAP, dom: '1' }), '"dom" must be'],
  [JSON.stringify({ ...MAP, dom: null }), '"dom" must be'],
  [JSON.stringify({ ...MAP, vs: 4096 }), '"vs" must be'],
  [JSON.stringify({ ...MAP, vs: '1000' }), '"vs" must be'],
  [JSON.stringify({ ...MAP, vs: '0x' }), '"vs" must be'],
  [JSON.stringify({ ...MAP, vs: '0x-1' }), '"vs" must be'],
  [JSON.stringify({ ...MAP, vs: '0xg' }), '"vs" must be'],
  [JSON.stringify({ ...MAP, ve: '0x10000000000000000' }), '"ve" must be'],
  [JSON.stringify({ ...MAP, st: 'FINE' }), '"st" must be'],
  [JSON.stringify({ ...MAP, ul: -4 }), '"ul" must be'],
  ['{"op":"BM","ep":1,"on":1}', '"on" must be'],
  ['{"op":"CFG","off":36,"size":3,"val":"0x0"}', '"size" must be'],
  ['{"op":"CFG","off":36,"size":1,"val":"0x100"}', '"val" does not fit in 1 bytes'],
  ['{"op":"XLATE","ep":1,"iova":"0x0","len":1,"dir":"X","gpa":[]}', '"dir" must be'],
  ['{"op":"XLATE","ep":1,"iova":"0x0","len":1,"dir":"W","gpa":[["0x0"]]}', '"gpa" must be'],
  ['{"op":"XLATE","ep":1,"iova":"0x0","len":1,"dir":"W","gpa":["0x0"]}', '"gpa" must be'],
  ['{"op":"EVENT","ep":1,"reason":256,"len":24}', '"reason" must be'],
  [`{"op":"RESET","x":"${'x'.repeat(MAX_TRACE_LINE)}"}`, 'longer than'],
])('a damaged record is an error that names its line: %.60s', (line, message) => {
  const attempt = (): unknown => parseTrace(`${HEADER}\n{"op":"RESET"}\n\n${line}\n{"op":"RESET"}\n`);
  expect(attempt).toThrow(TraceError);
  expect(attempt).toThrow(message);
  expect(attempt).toThrow(/^line 4: /);
});

test.each([
  ['', 'empty'],
  ['\n\n', 'empty'],
  ['{"op":"RESET"}', 'no "format" key'],
  ['{"format":"viommu-trace/2"}', '"viommu-trace/2"'],
  ['{"format":1}', 'got 1'],
  ['{"format":"viommu-trace/1","page_size_mask":"0x0"}', '"page_size_mask" must be'],
  ['{"format":"viommu-trace/1","page_size_mask":4096}', '"page_size_mask" must be'],
  ['{"format":"viommu-trace/1","input_range":["0x1","0x0"]}', '"input_range" must be'],
  ['{"format":"viommu-trace/1","input_range":["0x0"]}', '"input_range" must be'],
  ['{"format":"viommu-trace/1","domain_range":[0,4294967296]}', '"domain_range" must be'],
  ['{"format":"viommu-trace/1","domain_range":[1,0]}', '"domain_range" must be'],
  ['{"format":"viommu-trace/1","bypass":true}', '"bypass" must be'],
  ['{"format":"viommu-trace/1","bypass":2}', '"bypass" must be'],
  ['{"format":"viommu-trace/1","endpoints":["a"]}', '"endpoints" must be'],
  ['{"format":"viommu-trace/1","endpoints":{"a":"b"}}', '"endpoints" must be'],
  ['{"format":"viommu-trace/1","endpoints":{"4294967296":"b"}}', '"endpoints" must be'],
  ['{"format":"viommu-trace/1","endpoints":{"1":2}}', '"endpoints" must be'],
  ['{"format":"viommu-trace/1","resv_mem":[{"subtype":1,"start":"0x1","end":"0x0"}]}', '"resv_mem" must be'],
  ['{"format":"viommu-trace/1","resv_mem":[{"start":"0x0","end":"0x0"}]}', '"resv_mem" must be'],
  ['{"format":"viommu-trace/1","guest_ram":[["0x0","0xfff"],["0x0"]]}', '"guest_ram" must be'],
  ['{"format":"viommu-trace/1","request_queue_size":0}', '"request_queue_size" must be'],
  ['{"format":"viommu-trace/1","trace":1}', '"trace" must be'],
])('a damaged header is an error of its line: %s', (line, message) => {
  expect(() => parseTrace(line)).toThrow(message);
  expect(() => parseTrace(line)).toThrow(/^line \d: /);
});

const u32 = fc.nat(0xffff_ffff);
const u64 = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.constantFrom(0n, 2n ** 53n, 2n ** 64n - 1n));
const timed = { kick: fc.nat(), time: fc.double({ min: 0, max: 1e6, noNaN: true }).map((t) => t + 0) };
const head = { ...timed, status: fc.constantFrom(...STATUS_NAMES), usedLength: u32, readable: u32, writable: u32 };

function recordOf(op: TraceRecord['op'], model: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<TraceRecord> {
  const optional = ['time', 'usedLength', 'readable', 'writable', 'reservedRegions', 'status' in model ? '' : 'kick'];
  const all: Record<string, fc.Arbitrary<unknown>> = { op: fc.constant(op), ...model };
  const requiredKeys = Object.keys(all).filter((key) => !optional.includes(key));
  return fc.record(all, { requiredKeys }) as unknown as fc.Arbitrary<TraceRecord>;
}

const anyRecord = fc.oneof(
  recordOf('ATTACH', { ...head, domain: u32, endpoint: u32, flags: u32 }),
  recordOf('DETACH', { ...head, domain: u32, endpoint: u32 }),
  recordOf('MAP', { ...head, domain: u32, virtStart: u64, virtEnd: u64, physStart: u64, flags: u32 }),
  recordOf('UNMAP', { ...head, domain: u32, virtStart: u64, virtEnd: u64 }),
  recordOf('PROBE', { ...head, endpoint: u32, reservedRegions: fc.nat(100) }),
  recordOf('RESET', timed),
  recordOf('CFG', { ...timed, offset: u32, size: fc.constant(8), value: u64 }),
  recordOf('BM', { ...timed, endpoint: u32, on: fc.boolean() }),
  recordOf('XLATE', {
    ...timed,
    endpoint: u32,
    iova: u64,
    length: fc.nat(),
    direction: fc.constantFrom('R', 'W'),
    pieces: fc.array(fc.record({ gpa: u64, length: fc.nat() }), { maxLength: 3 }),
  }),
  recordOf('COPY', { ...timed, endpoint: u32, source: u64, target: u64, length: u64, ok: fc.boolean() }),
  recordOf('FAULT', { ...timed, endpoint: u32, iova: u64, direction: fc.constantFrom('R', 'W') }),
  recordOf('EVENT', { ...timed, endpoint: u32, iova: u64, reason: fc.nat(255), length: fc.nat() }),
);

const range = fc.tuple(u64, u64).map(([a, b]) => (a < b ? { start: a, end: b } : { start: b, end: a }));
const anyHeader = fc.record(
  {
    trace: fc.string(),
    device: fc.string(),
    transport: fc.string(),
    qemu: fc.string(),
    guestKernel: fc.string(),
    workload: fc.string({ unit: 'grapheme' }),
    guestRam: fc.array(range, { maxLength: 3 }),
    requestQueueSize: fc.integer({ min: 1, max: 32768 }),
    driverFeatures: u64,
    pageSizeMask: u64.filter((mask) => mask !== 0n),
    inputRange: range,
    endpoints: fc
      .uniqueArray(fc.record({ id: u32, name: fc.string() }), { selector: (endpoint) => endpoint.id, maxLength: 4 })
      .map((list) => list.sort((a, b) => a.id - b.id)),
    featuresOffered: u64,
    probeSize: u32,
    domainRange: fc.tuple(u32, u32).map(([a, b]) => ({ start: Math.min(a, b), end: Math.max(a, b) })),
    bypass: fc.boolean(),
    reservedRegions: fc.array(
      fc.tuple(range, fc.nat(255)).map(([r, subtype]) => ({ subtype, ...r })),
      { maxLength: 3 },
    ),
    kickSource: fc.string(),
    timeUnit: fc.string(),
    recordedKicks: fc.nat(),
    requests: fc.nat(),
  },
  { requiredKeys: [] },
) as fc.Arbitrary<TraceHeader>;

test('what is written is read back equal', () => {
  fc.assert(
    fc.property(anyHeader, fc.array(anyRecord, { maxLength: 8 }), (header, records) => {
      expect(parseTrace(writeTrace(header, records))).toEqual({ header, records });
    }),
    { numRuns: 300 },
  );
});

test('what the reader would refuse is not written', () => {
  const map: TraceRecord = {
    op: 'MAP',
    kick: 0,
    domain: 1,
    virtStart: 0n,
    virtEnd: 0xfffn,
    physStart: 0n,
    flags: 3,
    status: 'OK',
  };
  expect(formatTraceRecord(map)).toBe('{"k":0,"op":"MAP","dom":1,"vs":"0x0","ve":"0xfff","pa":"0x0","fl":3}');
  expect(() => formatTraceRecord({ ...map, domain: -1 })).toThrow(RangeError);
  expect(() => formatTraceRecord({ ...map, time: NaN })).toThrow(RangeError);
  expect(() => formatTraceRecord({ ...map, virtEnd: 2n ** 64n })).toThrow(/"ve"/);
  expect(() => formatTraceRecord({ ...map, virtStart: -1n })).toThrow(/"vs"/);
  expect(() => formatTraceHeader({ probeSize: -1 })).toThrow(/"probe_size"/);
  expect(() => formatTraceHeader({ pageSizeMask: 0n })).toThrow(RangeError);
});

test('endpoints are those of the header, else those that records name', () => {
  const records = '{"k":0,"op":"PROBE","ep":9}\n{"op":"BM","ep":3,"on":true}\n{"k":1,"op":"PROBE","ep":9}';
  expect(traceEndpointIds(parseTrace(`${HEADER}\n${records}`))).toEqual([3, 9]);
  expect(traceEndpointIds(parseTrace(`{"format":"viommu-trace/1","endpoints":{"5":"x"}}\n${records}`))).toEqual([5]);
  expect(traceEndpointIds(parseTrace(HEADER))).toEqual([]);
});

// What `virtio-iommu serve` serves, without sockets: the functions together, resets, the trace and its replay, the report.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { toPrometheus } from '../../src/cli/serve-prometheus.ts';
import { serveReport, toJson } from '../../src/cli/serve-report.ts';
import { StatusTable, statusLine, statusTable } from '../../src/cli/serve-status.ts';
import { TraceWriter } from '../../src/cli/serve-trace.ts';
import { parsePciAddress, parseReserved } from '../../src/cli/serve-values.ts';
import type { ReplayResult } from '../../src/testing/lab/replay.ts';
import { replayTrace } from '../../src/testing/lab/replay.ts';
import { readTraceFile } from '../../src/testing/node/trace-file.ts';
import type { Trace } from '../../src/testing/trace.ts';
import { Status } from '../../src/virtio/features.ts';
import { RING_IOVA, ServeRig } from './serve-rig.ts';

const RNG = 0x18;
const UNMAPPED = 0x70_0020_0000n;

let folder = '';
let files = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'viommu-serve-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function replay(trace: Trace): ReplayResult {
  return replayTrace(trace, { policy: 'exact', limit: 65_535, clock: () => 0 });
}

async function recorded(rig: ServeRig, file: string): Promise<{ trace: Trace; counts: Record<string, number> }> {
  await rig.machine.close();
  const trace = await readTraceFile(file);
  const counts: Record<string, number> = {};
  for (const { op } of trace.records) counts[op] = (counts[op] ?? 0) + 1;
  return { trace, counts };
}

describe('the functions that are served', () => {
  it('translate the DMA of an endpoint for its guest, who hears of what is refused', async () => {
    const rig = await new ServeRig(folder, { rngProbeUnmapped: UNMAPPED }).boot();
    expect(rig.iommu.probe(RNG).properties.regions).toMatchObject([{ start: 0xfee0_0000n, end: 0xfeef_ffffn }]);
    expect(rig.iommu.attach(1, RNG).status).toBe(0);
    rig.startRng(1);
    expect(rig.ask(8)?.writable).toEqual(Uint8Array.of(0, 1, 2, 3, 4, 5, 6, 7));
    expect(rig.iommu.events()).toMatchObject([{ endpoint: RNG, address: UNMAPPED, flags: 0x101, reason: 2 }]);
    expect(rig.ask(8, UNMAPPED)?.usedLength).toBe(0);
    expect(rig.iommu.events()).toMatchObject([{ endpoint: RNG, address: UNMAPPED, flags: 0x102 }]);
    expect(rig.lines).toEqual([
      'fault: rng (3.0) read at 0x7000200000 refused (mapping), the guest was told',
      'fault: rng (3.0) write at 0x7000200000 refused (mapping), the guest was told',
    ]);
    const report = serveReport(rig.machine, 5, 0);
    expect(report.functions[1]).toMatchObject({
      stats: { requests: 2, unfilled: 1, probe: 'fault' },
      dma: { identical: 0, refused: 2 },
      translation: { domain: 1, bypass: false, mappings: 32, faults: 2 },
    });
    await rig.machine.close();
    await rig.machine.close();
    expect(rig.servers.every(({ closed }) => closed)).toBe(true);
  });

  it('take addresses for guest-physical ones without translation: the ring is not there', async () => {
    const rig = await new ServeRig(folder, { translation: false }).boot();
    rig.iommu.attach(1, RNG);
    rig.startRng(1);
    expect(rig.ask(8)).toBeUndefined();
    expect(rig.rng.status & Status.needsReset).toBe(Status.needsReset);
    const report = serveReport(rig.machine, 5, 0);
    expect(report.functions[1]).toMatchObject({ dma: null, stats: { requests: 0, brokenRings: 1 } });
    expect(statusTable(report)).toContain('NOT TRANSLATED');
    await rig.machine.close();
  });

  it('have nothing left of a guest that was reset, and config.bypass as in the beginning', async () => {
    const rig = await new ServeRig(folder, { bypass: 'on' }).boot();
    rig.iommu.attach(1, RNG);
    rig.startRng(1);
    rig.iommu.setBypass(0);
    expect(rig.ask(4)?.usedLength).toBe(4);
    expect(rig.machine.iommu.core.stats()).toMatchObject({ mappings: 32, domains: 1 });
    rig.resetMachine();
    rig.resetMachine();
    const { core } = rig.machine.iommu;
    expect(core.stats()).toMatchObject({ mappings: 0, domains: 0 });
    expect([core.shownBypass, core.state.endpoints.get(RNG)?.domain, core.state.endpoints.get(RNG)?.busMaster]).toEqual(
      [1, undefined, false],
    );
    await rig.boot();
    rig.iommu.attach(7, RNG);
    rig.startRng(7);
    expect(rig.ask(4)?.usedLength).toBe(4);
    await rig.machine.close();
  });

  it('say when a granule is too large for Linux, and what becomes of its endpoints', () => {
    const warning = (bypass: 'on' | 'off'): string =>
      new ServeRig(folder, { pageSizeMask: 0x4000n, bypass }).lines.join();
    expect(warning('on')).toMatch(/16384 bytes .* Linux will refuse the endpoints, and stay untranslated/);
    expect(warning('off')).toMatch(/and get no DMA/);
    expect(new ServeRig(folder, { pageSizeMask: 0x1000n }).lines).toEqual([]);
  });

  it.each([
    [2n ** 53n - 1n, 0],
    [2n ** 53n, 1],
  ])('say when the guest may use addresses that a ring cannot name: an input range up to %d', (end, warnings) => {
    const { lines } = new ServeRig(folder, { inputRange: { start: 0n, end } });
    expect(lines.filter((line) => line.includes('ends above 2^53'))).toHaveLength(warnings);
  });

  it('refuse settings that the device refuses, in one line', () => {
    const regions = Array.from({ length: 40 }, (_, i) => parseReserved(`${i * 8192}-${i * 8192 + 4095}`));
    const reserved = regions.map((region) => ({ addr: undefined, region }));
    expect(() => new ServeRig(folder, { reserved })).toThrow(/need a probeSize of/);
    expect(() => new ServeRig(folder, { pageSizeMask: 1n, inputRange: { start: 0n, end: 2n ** 64n - 1n } })).toThrow(
      /inputRange/,
    );
  });
});

describe('a recording', () => {
  const place = (name = '.ndjson'): string => join(folder, `trace-${files++}${name}`);

  it.each(['.ndjson', '.ndjson.gz'])('in %s can be replayed without a difference', async (suffix) => {
    const file = place(suffix);
    const rig = await new ServeRig(folder, {
      record: file,
      rngProbeUnmapped: UNMAPPED,
      rngProbeAccess: 'write',
    }).boot();
    rig.iommu.probe(RNG);
    rig.iommu.attach(1, RNG);
    rig.startRng(1);
    for (let i = 0; i < 3; i++) rig.ask(100);
    rig.iommu.map(1, 0x1000n, 0x1fffn, 0x20_0000n, 1);
    expect(rig.iommu.map(1, 0x1000n, 0x1fffn, 0x20_0000n, 1).status).not.toBe(0);
    expect(rig.iommu.unmap(1, 0n, 0xffffn).status).toBe(0);
    rig.ask(10, RING_IOVA - 4096n);
    rig.iommu.setBypass(0);
    rig.resetMachine();
    await rig.boot();
    rig.iommu.attach(2, RNG);
    rig.iommu.detach(2, RNG);
    expect(rig.machine.iommu.core.state.bypass).toBe(1);
    const { trace, counts } = await recorded(rig, file);
    expect(counts).toMatchObject({
      PROBE: 1,
      ATTACH: 2,
      DETACH: 1,
      MAP: 34,
      UNMAP: 1,
      CFG: 2,
      BM: 2,
      FAULT: 2,
      EVENT: 2,
    });
    expect(counts['XLATE']).toBeGreaterThan(10);
    expect(trace.header).toMatchObject({
      endpoints: [{ id: RNG, name: 'rng 3.0' }],
      guestRam: [{ start: 0n, end: 0xff_ffffn }],
      requestQueueSize: 1024,
      bypass: true,
      reservedRegions: [{ subtype: 1, start: 0xfee0_0000n, end: 0xfeef_ffffn }],
    });
    expect(replay(trace)).toMatchObject({ differences: [], differenceCount: 0, requests: 39, refused: 1 });
    const wrong = { ...trace, records: trace.records.filter(({ op }) => op !== 'ATTACH') };
    expect(replay(wrong).differenceCount).toBeGreaterThan(0);
  });

  it('knows the regions that all endpoints have, and says so', async () => {
    const file = place();
    const endpoint = (
      addr: string,
    ): { device: 'rng'; addr: ReturnType<typeof parsePciAddress>; socket: undefined } => ({
      device: 'rng',
      addr: parsePciAddress(addr),
      socket: undefined,
    });
    const rig = await new ServeRig(folder, {
      record: file,
      endpoint: [endpoint('3.0'), endpoint('4.0')],
      reserved: [{ addr: parsePciAddress('3.0'), region: parseReserved('0x1000-0x1fff') }],
    }).boot();
    expect(rig.lines.join()).toMatch(/record: the endpoints have different reserved regions/);
    expect(rig.iommu.probe(RNG).properties.regions).toHaveLength(2);
    rig.iommu.probe(0x20);
    const { trace } = await recorded(rig, file);
    expect(trace.header.reservedRegions).toEqual([{ subtype: 1, start: 0xfee0_0000n, end: 0xfeef_ffffn }]);
    expect(replay(trace)).toMatchObject({ differenceCount: 0, requests: 2 });
  });

  it('leaves out what the format cannot say', async () => {
    const file = place();
    const rig = await new ServeRig(folder, { record: file }).boot();
    expect(rig.iommu.raw(new Uint8Array(64).fill(0x77), 4).usedLength).toBe(0);
    expect(rig.iommu.raw(Uint8Array.of(1, 0, 0, 0), 4).usedLength).toBe(0);
    expect(rig.iommu.raw(new Uint8Array(20).fill(0), 3).usedLength).toBe(0);
    rig.iommu.attach(1, 999);
    const { trace, counts } = await recorded(rig, file);
    expect([counts, trace.records[0]]).toMatchObject([{ ATTACH: 1 }, { op: 'ATTACH', status: 'NOENT' }]);
    expect(replay(trace).differenceCount).toBe(0);
  });

  it('has a header when no driver ever ran, and can be replayed', async () => {
    const file = place();
    const rig = new ServeRig(folder, { record: file });
    await rig.machine.listen();
    const { trace } = await recorded(rig, file);
    expect(trace.records).toEqual([]);
    expect(replay(trace).differenceCount).toBe(0);
  });

  it('is a bounded piece of memory, and ends where the disk does', () => {
    const reasons: string[] = [];
    const writer = new TraceWriter('/dev/full', { now: () => 0, failed: (reason) => reasons.push(reason) });
    writer.begin();
    for (let i = 0; i < 2000; i++) writer.add({ op: 'RESET' });
    expect(writer.stats()).toEqual({ records: 0, dropped: 976, failed: null });
    writer.header({});
    writer.flush();
    writer.add({ op: 'RESET' });
    expect(writer.stats()).toEqual({ records: 0, dropped: 2001, failed: expect.stringMatching(/ENOSPC/) as string });
    writer.close({});
    expect(reasons).toHaveLength(1);
    expect(() => new TraceWriter(join(folder, 'no', 'such'))).toThrow(/no\/such: ENOENT/);
  });

  it('goes to the disk in pieces', () => {
    const file = place();
    const writer = new TraceWriter(file, { now: () => 0 });
    writer.begin();
    writer.header({});
    while (readFileSync(file, 'utf8') === '') writer.add({ op: 'RESET' });
    expect(writer.stats().records).toBeLessThan(10_000);
    writer.close({});
    expect(readFileSync(file, 'utf8').split('\n')).toHaveLength(writer.stats().records + 2);
  });
});

describe('a trace file that is there already', () => {
  it('stays as it is until the sockets are ours, and is replaced then', () => {
    const file = join(folder, 'there.ndjson');
    writeFileSync(file, 'of another process\n');
    const refused = new TraceWriter(file);
    refused.header({});
    refused.close({});
    expect(readFileSync(file, 'utf8')).toBe('of another process\n');
    const writer = new TraceWriter(file);
    writer.begin();
    writer.close({});
    expect(readFileSync(file, 'utf8')).toMatch(/^\{.*\}\n$/);
  });
});

describe('a recording without end', () => {
  it('stops at its largest size, with whole lines that replay', async () => {
    const file = join(folder, 'long.ndjson');
    const reasons: string[] = [];
    const writer = new TraceWriter(file, { maxBytes: 200_000, failed: (reason) => reasons.push(reason) });
    writer.begin();
    writer.header({});
    for (let i = 0; i < 20_000; i++) writer.add({ op: 'BM', endpoint: RNG, on: true });
    writer.close({});
    const { records } = await readTraceFile(file);
    expect(reasons).toEqual(['200000 bytes are the most that a trace may have']);
    expect(records.length).toBeGreaterThan(1000);
    expect(writer.stats().dropped).toBeGreaterThan(1000);
    expect(readFileSync(file).length).toBeLessThanOrEqual(200_000);
  });
});

describe('the report', () => {
  it('is one line of JSON, Prometheus text, a table and a line', async () => {
    const rig = await new ServeRig(folder).boot();
    rig.iommu.attach(3, RNG);
    rig.startRng(3);
    rig.ask(8);
    rig.iommu.attach(3, 999);
    const report = serveReport(rig.machine, 61.4, 2);
    expect(JSON.parse(toJson(report))).toMatchObject({
      iommu: { requests: { attach: 2, map: 32 }, statuses: { OK: 33, NOENT: 1 }, mappings: 32, domains: 1, bypass: 1 },
      functions: [
        { name: 'iommu', endpoint: null, dma: null },
        { name: 'rng', addr: '3.0', endpoint: RNG },
      ],
      record: null,
      linesSuppressed: 2,
    });
    expect(toJson({ a: 2n ** 60n, b: 5n, c: Infinity })).toBe('{"a":"0x1000000000000000","b":5,"c":null}');
    const text = toPrometheus(report);
    expect(text).toContain(
      '# TYPE virtio_iommu_requests_total counter\nvirtio_iommu_requests_total{type="unknown"} 0\n',
    );
    expect(text).toContain('virtio_iommu_answers_total{status="NOENT"} 1\n');
    expect(text).toContain('virtio_iommu_endpoint_mappings{function="rng",addr="3.0"} 32\n');
    expect(text).not.toMatch(/undefined|NaN|virtio_iommu_endpoint_mappings\{function="iommu"/);
    for (const line of text.trimEnd().split('\n'))
      expect(line).toMatch(/^(# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? \d+)$/);
    expect(statusTable(report)).toMatch(
      /│ iommu 1\.0 │ connected │ 16 MiB │ +2 │ 34 requests, 1 not OK, 32 mappings, 1 domains/,
    );
    expect(statusTable(report)).toMatch(/│ rng 3\.0 +│.*│ domain 3, 32 mappings, \d+ accesses/);
    expect(statusLine(report)).toBe(
      '61 s: 34 requests (1 not OK), 32 mappings, 1 domains, 0 faults, iommu connected, rng connected',
    );
    await rig.machine.close();
  });

  it('is drawn again in place on a terminal, with lines above it', () => {
    const rig = new ServeRig(folder);
    let screen = '';
    const terminal = { isTTY: true, columns: 1000, write: (text: string): unknown => (screen += text) };
    const table = new StatusTable(terminal);
    table.line('first');
    expect(screen).toBe('first\n');
    table.show(serveReport(rig.machine, 1, 0));
    const height = screen.split('\n').length - 2;
    screen = '';
    table.line('second');
    expect(screen.startsWith(`\x1b[${height}A\x1b[0Jsecond\n┌`)).toBe(true);
    screen = '';
    table.show(serveReport(rig.machine, 2, 0));
    expect(screen.startsWith(`\x1b[${height}A\x1b[0J┌`)).toBe(true);
    terminal.columns = 40;
    table.show(serveReport(rig.machine, 3, 0));
    screen = '';
    table.line('third');
    const rows = Number(/^\x1b\[(\d+)A/.exec(screen)?.[1]);
    expect(rows).toBeGreaterThan(2 * height);
  });
});

describe('the log', () => {
  it('is limited for each kind by itself, and says how much it kept back', async () => {
    let now = 0;
    const { ServeLog } = await import('../../src/cli/serve-log.ts');
    const lines: string[] = [];
    const log = new ServeLog(
      (line) => lines.push(line),
      () => now,
    );
    for (let i = 0; i < 15; i++) log.limited('fault', `fault ${i}`);
    log.limited('request', 'other');
    log.say('always');
    expect([lines.length, lines.slice(-3), log.suppressed]).toEqual([12, ['fault 9', 'other', 'always'], 5]);
    now = 999;
    log.limited('fault', 'too soon');
    now = 1000;
    log.limited('fault', 'again');
    expect([lines.at(-1), log.suppressed]).toEqual(['again (6 more before it not shown)', 6]);
    now = 10;
    log.limited('fault', 'the clock went back');
    expect(log.suppressed).toBe(7);
  });
});

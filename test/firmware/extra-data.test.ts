// Every file that the manifest of VIOMMU_EXTRA_DATA lists, against its expected decode. The folder is not part of the
// project (licences): without the variable these tests are skipped aloud.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { DeviceScope } from '../../src/firmware/dmar-scope.ts';
import { parseDmar } from '../../src/firmware/dmar.ts';
import { entangle } from '../../src/firmware/entanglement.ts';
import { parseIort } from '../../src/firmware/iort.ts';
import { parseIvrs } from '../../src/firmware/ivrs.ts';
import { formatDevice } from '../../src/firmware/device-ref.ts';
import { parseKernelLog } from '../../src/firmware/kernel-log.ts';
import { toResvMem } from '../../src/firmware/resv-mem.ts';
import { parseReservedRegions } from '../../src/firmware/sysfs.ts';
import { rmrrCommand } from '../../src/cli/rmrr.ts';
import { mergeRanges } from '../../src/base/ranges.ts';

interface ScopeJson {
  scopeType: number;
  enumerationId: number;
  startBus: number;
  path: [number, number][];
}
interface TableEntry {
  file: string;
  signature: string;
  tableLength: number;
  checksumOk: boolean;
  expected: {
    hostAddressWidth?: number;
    rmrr?: { segment: number; base: string; limit: string; devices: ScopeJson[] }[];
    ivmd?: { type: string; flags: string; deviceId: string; aux: string; start: string; length: string }[];
    nodeTypes?: Record<string, number>;
    rmr?: { base: string; length: string }[];
  };
}
interface LogEntry {
  file: string;
  expected: Record<string, unknown> & {
    regions?: { base: string; limit: string; devices: string[] }[];
    rmrrBase?: [string, string][];
    notCovered?: [string, string][];
    badRmrr?: [string, string][];
    merged?: [string, string][];
    entangled?: string[][];
    brokenScope?: string[];
    ineligible?: string[];
    bios?: unknown;
    warnings?: string[];
  };
}
interface Manifest {
  tables: TableEntry[];
  logs: LogEntry[];
  sysfs: { file: string; expected: [string, string, string][] }[];
}

const folder = process.env['VIOMMU_EXTRA_DATA'];
if (folder === undefined || folder === '') {
  console.warn(
    'SKIPPED: real tables, logs and sysfs outputs. Set VIOMMU_EXTRA_DATA to a folder with rmrr/manifest.json.',
  );
}
const base = join(folder ?? '', 'rmrr');
const manifest: Manifest =
  folder === undefined || folder === ''
    ? { tables: [], logs: [], sysfs: [] }
    : (JSON.parse(readFileSync(join(base, 'manifest.json'), 'utf8')) as Manifest);
const bytesOf = (file: string): Uint8Array => new Uint8Array(readFileSync(join(base, file)));
const textOf = (file: string): string => readFileSync(join(base, file), 'utf8');
const hex = (value: bigint | number): string => `0x${value.toString(16)}`;
const scopeJson = (scope: DeviceScope): ScopeJson => ({
  scopeType: scope.type,
  enumerationId: scope.enumerationId,
  startBus: scope.startBus,
  path: scope.path.map((hop) => [hop.device, hop.function]),
});

/** The command over one file, in this process. */
function command(...args: string[]): string {
  let out = '';
  const io = { write: (text: string) => void (out += text), setExitCode: () => undefined };
  rmrrCommand(io).parse(args, { from: 'user' });
  return out;
}

const files = [
  ...manifest.tables.map(({ file, signature }) => [file, `--${signature.toLowerCase()}`]),
  ...manifest.logs.map(({ file }) => [file, '--dmesg']),
  ...manifest.sysfs.map(({ file }) => [file, '--sysfs']),
] as [string, string][];

describe.runIf(files.length === 0)('real files', () => {
  it.skip('SKIPPED: tables, logs and sysfs outputs of real machines (set VIOMMU_EXTRA_DATA)', () => undefined);
});

describe.skipIf(files.length === 0)('the rmrr command on real files', () => {
  it.each(files)('%s', (file, option) => {
    const source = [option, join(base, file)];
    const report = JSON.parse(command('report', ...source, '--json')) as {
      arch: string;
      holes: { start: string }[];
      reservedMemory: Record<string, { start: string; end: string }[]>;
    };
    for (const list of Object.values(report.reservedMemory)) {
      for (const [i, { start, end }] of list.entries()) {
        expect(BigInt(start)).toBeLessThanOrEqual(BigInt(end));
        const next = list[i + 1];
        if (next !== undefined) expect(BigInt(end)).toBeLessThan(BigInt(next.start));
      }
    }
    const msi = report.holes.filter(({ start }) => start === '0xfee00000');
    expect(msi).toHaveLength(report.arch === 'arm' ? 0 : 1);
    expect(command('report', ...source)).toContain('judged for Linux');
    expect(command('diff', ...source)).toContain('Two kinds of sources are needed');
    expect(command('graph', ...source, '--svg', '-')).toMatch(/^<svg .*<\/svg>\n$/s);
    expect(command('holes', ...source, '--ram', '4G')).toContain('RAM to use');
  });
});

describe.skipIf(manifest.tables.length === 0)('real tables', () => {
  it.each(manifest.tables)('$file', ({ file, signature, tableLength, checksumOk, expected }) => {
    const bytes = bytesOf(file);
    const table = signature === 'DMAR' ? parseDmar(bytes) : signature === 'IVRS' ? parseIvrs(bytes) : parseIort(bytes);
    expect(table.header).toMatchObject({ length: tableLength, checksumOk });
    if (table.kind === 'dmar') {
      expect(table.hostAddressWidth).toBe(expected.hostAddressWidth);
      const rmrrs = table.rmrrs.map((r) => ({
        segment: r.segment,
        base: hex(r.base),
        limit: hex(r.limit),
        devices: r.scopes.map(scopeJson),
      }));
      expect(rmrrs).toEqual(expected.rmrr);
      expect(table.regions.map((r) => [hex(r.base), hex(r.limit)])).toEqual(
        expected.rmrr?.map((r) => [r.base, r.limit]),
      );
    } else if (table.kind === 'ivrs') {
      const ivmds = table.ivmds.map((i) => ({
        type: hex(i.type),
        flags: hex(i.flags),
        deviceId: hex(i.deviceId),
        aux: hex(i.aux),
        start: hex(i.start),
        length: hex(i.length),
      }));
      expect(ivmds).toEqual(expected.ivmd);
    } else {
      expect(table.rmrs.map((r) => ({ base: hex(r.base), length: hex(r.length) }))).toEqual(expected.rmr);
      expect(Object.fromEntries([...table.structures].map(([type, count]) => [String(type), count]))).toEqual(
        expected.nodeTypes,
      );
    }
    expect(() => toResvMem(table.regions, { arch: table.kind === 'iort' ? 'arm' : 'x86' })).not.toThrow();
  });
});

describe.skipIf(manifest.logs.length === 0)('real logs', () => {
  it.each(manifest.logs)('$file', ({ file, expected }) => {
    const log = parseKernelLog(textOf(file));
    const pairs = (list: readonly { start: bigint; end: bigint }[]): string[][] =>
      list.map(({ start, end }) => [hex(start), hex(end)]);
    const named = log.regions.filter((region) => region.devices.length > 0);
    const sorted = (list: { base: string }[]): unknown[] => [...list].sort((a, b) => (a.base < b.base ? -1 : 1));
    const regions = named.map((r) => ({
      base: hex(r.base),
      limit: hex(r.limit),
      devices: r.devices.map(formatDevice),
    }));
    if (expected.regions !== undefined) expect(sorted(regions)).toEqual(sorted(expected.regions));
    expect(pairs(log.rmrrBase)).toEqual(expected.rmrrBase ?? []);
    if (expected.notCovered !== undefined) expect(pairs(log.notCovered)).toEqual(expected.notCovered);
    expect(pairs(log.badRmrr)).toEqual(expected.badRmrr ?? []);
    expect(log.brokenScope).toEqual(expected.brokenScope ?? []);
    expect(log.refusals.flatMap(({ device }) => device ?? [])).toEqual(expected.ineligible ?? []);
    expect(log.refusals.filter(({ device }) => device === undefined)).toHaveLength(
      Number(expected['refusalWithoutDevice'] ?? 0),
    );
    expect(log.lpcWorkaround).toBe(expected['lpcWorkaround'] ?? false);
    expect(log.relaxAllRmrr).toBe(expected['relaxAllRmrr'] ?? false);
    if (expected.bios !== undefined) expect(log.bios).toEqual(expected.bios);
    if (expected.entangled !== undefined) {
      const tied = entangle(log.regions).map((component) => [...component.devices]);
      expect(tied.filter((list) => list.length > 1)).toEqual(expected.entangled.map((list) => [...list].sort()).sort());
    }
    if (expected.merged !== undefined) {
      expect(pairs(mergeRanges(log.regions.map((r) => ({ start: r.base, end: r.limit }))))).toEqual(expected.merged);
    }
    if (expected.warnings !== undefined) expect(log.warnings.length).toBeGreaterThanOrEqual(expected.warnings.length);
    if (expected['allInsideE820Reserved'] === true) expect(log.warnings).toEqual([]);
  });
});

describe.skipIf(manifest.sysfs.length === 0)('real sysfs outputs', () => {
  it.each(manifest.sysfs)('$file', ({ file, expected }) => {
    const { regions } = parseReservedRegions(textOf(file));
    expect(regions.map((r) => [hex(r.base), hex(r.limit), r.type])).toEqual(expected);
  });
});

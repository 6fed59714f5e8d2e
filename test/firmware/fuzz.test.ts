// All readers on mutated input: no exception, bounded output, bounded time per input. Seeded; the number of inputs is
// VIOMMU_FUZZ_CASES (20000 by default), the seed VIOMMU_FUZZ_SEED.
import { it } from 'vitest';
import { U64_MAX } from '../../src/base/check.ts';
import { graphSvg } from '../../src/firmware/graph-svg.ts';
import { pcRam } from '../../src/firmware/holes.ts';
import { reportJson } from '../../src/firmware/report-json.ts';
import type { ReportSource } from '../../src/firmware/report-types.ts';
import { buildReport } from '../../src/firmware/report.ts';
import { parseDmar } from '../../src/firmware/dmar.ts';
import { entangle } from '../../src/firmware/entanglement.ts';
import { parseIort } from '../../src/firmware/iort.ts';
import { parseIvrs } from '../../src/firmware/ivrs.ts';
import { parseKernelLog } from '../../src/firmware/kernel-log.ts';
import type { HostRegion } from '../../src/firmware/region.ts';
import { toResvMem } from '../../src/firmware/resv-mem.ts';
import { parseReservedRegions } from '../../src/firmware/sysfs.ts';
import type { Warning } from '../../src/firmware/warnings.ts';
import { MAX_WARNINGS } from '../../src/firmware/warnings.ts';
import {
  dmar,
  idMapping,
  iort,
  iortNode,
  ivmd,
  ivrs,
  le,
  rmrContent,
  rmrr,
  rootContent,
  scope,
  structure,
} from './acpi-builder.ts';

const CASES = Number(process.env['VIOMMU_FUZZ_CASES'] ?? 20_000);
const SEED = Number(process.env['VIOMMU_FUZZ_SEED'] ?? 1);
/** A report costs much more than reading: every so many inputs get one. */
const REPORT_EVERY = 16;

/** mulberry32: small, seeded, good enough to pick bytes. */
function generator(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const INTERESTING = [0, 1, 2, 5, 6, 7, 0x10, 0x20, 0x21, 0x22, 0x7f, 0x80, 0xfe, 0xff];
const TABLES = [
  dmar([
    structure(0, le(0, 12)),
    rmrr(0x1000n, 0x1fffn, [
      scope(1, 0, [
        [0x1c, 7],
        [0, 0],
      ]),
      scope(2, 0, [[1, 0]]),
      scope(5, 0, [[2, 0]], 1),
    ]),
    structure(4, [0, 0, 0, 1, 65, 0]),
  ]),
  ivrs([
    [0x10, 0, ...le(24, 2), ...le(0, 20)],
    ivmd({ type: 0x22, flags: 8, deviceId: 0, aux: 0xfff, start: 0x1000n, length: 1n }),
    ivmd({ type: 0x20, flags: 7, deviceId: 0, start: 0x2000n, length: 0x1000n }),
  ]),
  iort([
    iortNode(4, 4, le(0, 52)),
    iortNode(2, 3, rootContent(0), [idMapping(0, 0x100, 0, 48)]),
    iortNode(6, 3, rmrContent(1, [[0x10000n, 0x10000n]]), [idMapping(0, 2, 8, 48)]),
  ]),
];
const TEXTS = [
  '0x0000000001000000 0x0000000001000fff direct\n0x00000000fee00000 0x00000000feefffff msi\n',
  '[    0.1] DMAR: RMRR base:\n0x0000007d000000 end: 0x0000007d000fff\n> IOMMU: Setting identity map for device 0000:02:00.0 [0xbdf7f000 - 0xbdf8efff] (x)\n' +
    'vfio-pci 0000:01:00.1: DMAR: Device is ineligible for IOMMU domain attach\nDMAR: [Firmware Bug]: Your BIOS is broken; bad RMRR [0x1000-0x1fff]\n BIOS vendor: A; Ver: B; Product Version: C\n' +
    'BIOS-e820: [mem 0x0000000000001000-0x0000000000001fff] reserved\n[ 1.0] DMAR: Host address width 39\n',
  'AMD-Vi: IVMD_TYPE_RANGE\t\t devid_start: 0000:00:00.0 devid_end: 0000:0f:1f.7 range_start: 0000000075e00000 range_end: 0000000075e20000 flags: 8\n' +
    'IORT: RMR descriptor[0x10000800 - 0x100017ff] not aligned to 64K, continue with [0x10000000 - 0x10001fff]\n' +
    'IORT: RMR descriptor[0x20000000 - 0x2000ffff] overlaps with [0x20008000 - 0x2001ffff], continue anyway\n' +
    'iommu: Adding device 0000:00:1b.0 to group 4\n[ 1.0] Linux version 5.15.39 (x)\n',
];
const PIECES = [
  '0x',
  'ffffffffffffffff',
  'RMRR base:',
  ' end: ',
  '[',
  ']',
  '\n',
  '> ',
  ' - ',
  'direct',
  '0000:00:1f.0',
  'devid_start: ',
  'RMR descriptor[',
  '\0',
  '   ',
  'é',
  '}',
  '-',
];

function mutateBytes(source: Uint8Array, random: (below: number) => number): Uint8Array {
  let bytes = source.slice();
  for (let edits = 1 + random(6); edits > 0; edits--) {
    const at = random(bytes.length + 1);
    switch (random(5)) {
      case 0:
        bytes[at] = random(256);
        break;
      case 1:
        bytes[at] = INTERESTING[random(INTERESTING.length)]!;
        break;
      case 2:
        bytes = bytes.slice(0, at);
        break;
      case 3:
        bytes = Uint8Array.from([...bytes.slice(0, at), ...bytes.slice(random(at + 1))]);
        break;
      default:
        for (let i = 0; i < 8; i++) bytes[at + i] = 0xff;
    }
    if (bytes.length === 0) return bytes;
  }
  return bytes;
}

function mutateText(source: string, random: (below: number) => number): string {
  let text = source;
  for (let edits = 1 + random(6); edits > 0; edits--) {
    const at = random(text.length + 1);
    const cut = at + random(8);
    const piece = PIECES[random(PIECES.length)]!;
    if (random(4) === 0) text = text.slice(0, at) + piece.repeat(1 + random(40)) + text.slice(at);
    else if (random(3) === 0) text = text.slice(0, at) + text.slice(cut);
    else text = text.slice(0, at) + piece + text.slice(cut);
  }
  return text;
}

/** The report, its JSON and its picture over whatever a reader gave. */
function checkReport(
  kind: ReportSource['kind'],
  read: { regions: readonly HostRegion[]; warnings: readonly Warning[] },
) {
  const report = buildReport({
    sources: [{ kind, name: 'f', ...read }],
    named: ['0000:01:00.0'],
    ram: pcRam(4n << 30n),
  });
  JSON.stringify(reportJson(report));
  graphSvg(report);
  for (const { resv } of report.devices) {
    for (const [i, region] of (resv?.reserved ?? []).entries()) {
      const next = resv?.reserved[i + 1];
      if (next !== undefined && next.start <= region.end) throw new Error('RESV_MEM regions overlap');
      if (region.start === 0n && region.end === U64_MAX) throw new Error('RESV_MEM of all addresses');
    }
  }
}

function check(read: { regions: readonly HostRegion[]; warnings: readonly Warning[] }, limit: number): void {
  if (read.warnings.length > MAX_WARNINGS + 1) throw new Error(`${read.warnings.length} warnings`);
  if (read.regions.length > limit) throw new Error(`${read.regions.length} regions of ${limit} bytes`);
  for (const { where, what } of read.warnings)
    if (where === '' || what.length > 4096) throw new Error('warning without place or end');
  entangle(read.regions);
  try {
    toResvMem(read.regions, { probeSize: 1 << 24 });
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
}

it(`survives ${CASES} mutated inputs, seed ${SEED}`, { timeout: 60_000 + CASES }, () => {
  const random = generator(SEED);
  for (let i = 0; i < CASES; i++) {
    if (i % 2 === 0) {
      const bytes = mutateBytes(TABLES[(i >> 1) % TABLES.length]!, random);
      for (const parse of [parseDmar, parseIvrs, parseIort]) check(parse(bytes), bytes.length);
      if (i % REPORT_EVERY === 0) {
        checkReport('dmar', parseDmar(bytes));
        checkReport('ivrs', parseIvrs(bytes));
        checkReport('iort', parseIort(bytes));
      }
    } else {
      const text = mutateText(TEXTS[(i >> 1) % TEXTS.length]!, random);
      check(parseReservedRegions(text), text.length);
      check(parseKernelLog(text), text.length);
      if (i % REPORT_EVERY === 1) checkReport('dmesg', parseKernelLog(text));
      if (i % REPORT_EVERY === 1) checkReport('sysfs', parseReservedRegions(text));
    }
  }
});

it('reads long hostile lines', { timeout: 60_000 }, () => {
  for (const piece of [
    ' ',
    '>',
    '[',
    '0',
    'RMRR base: ',
    'Setting identity map for device ',
    'a ',
    '0x',
    'BIOS vendor: ;',
    'Command line: intel_iommu=',
    'devid_start: 0000:00:00.0 ',
    'RMR descriptor[0x1 - 0x2] overlaps with ',
  ]) {
    check(parseKernelLog(piece.repeat(100_000)), 1e6);
    check(parseKernelLog(`${piece}\n`.repeat(20_000)), 1e6);
    check(parseReservedRegions(piece.repeat(100_000)), 1e6);
  }
});

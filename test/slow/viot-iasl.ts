// Our VIOT tables against iasl, the compiler of the ACPI reference implementation: it must decode every field to the
// bytes that we wrote and compile its own text back to the same table. Not part of the default suite: it downloads iasl
// (see debian-packages.ts). Run by `npm run test:iasl`; ends with `N passed, N failed` and exit status 1 for a failure.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ViotConfig } from '../../src/firmware/viot.ts';
import { buildViot, viotAroundPci } from '../../src/firmware/viot.ts';
import { cacheFolder, ownLoader, unpackedPackages } from './debian-packages.ts';

/** Debian's first suite whose iasl knows VIOT. */
const SUITE = 'trixie';
const PACKAGES = ['acpica-tools', 'libc6'];

const range = { kind: 'pci-range', iommu: 0, endpointStart: 0, segmentStart: 0, segmentEnd: 0 } as const;
const CONFIGS: Readonly<Record<string, ViotConfig>> = {
  'PCI IOMMU at 00:01.0, ranges around it': viotAroundPci({ segment: 0, bdf: 8 }),
  'PCI IOMMU at 00:00.0, one range': viotAroundPci({ segment: 0, bdf: 0 }),
  'PCI IOMMU at ff:1f.7 of segment 0xffff': viotAroundPci({ segment: 0xffff, bdf: 0xffff }),
  'MMIO IOMMU, all functions and an MMIO endpoint': {
    iommus: [{ kind: 'mmio', base: 0xd000_0000n }],
    endpoints: [
      { ...range, bdfStart: 0, bdfEnd: 0xffff },
      { kind: 'mmio', iommu: 0, endpoint: 0x1_0000, base: 0x1c00_0000n },
    ],
  },
  'single endpoints': {
    iommus: [{ kind: 'pci', segment: 0, bdf: 8 }],
    endpoints: [0x10, 0x18, 0x100].map((bdf) => ({ ...range, bdfStart: bdf, bdfEnd: bdf, endpointStart: bdf })),
  },
  'two IOMMUs of two kinds, three segments': {
    iommus: [
      { kind: 'pci', segment: 1, bdf: 0x10 },
      { kind: 'mmio', base: 0xffff_ffff_ffff_f000n },
    ],
    endpoints: [
      { ...range, segmentEnd: 1, bdfStart: 0, bdfEnd: 0xffff },
      { ...range, iommu: 1, segmentStart: 2, segmentEnd: 2, bdfStart: 8, bdfEnd: 0xfff, endpointStart: 0xfffe_0000 },
      { kind: 'mmio', iommu: 1, endpoint: 0xffff_ffff, base: 0x12_3456_7000n },
    ],
    header: { oemId: 'ABCDEF', oemTableId: 'LONGNAME', oemRevision: 7, creatorId: 'TEST', creatorRevision: 9 },
  },
  'an IOMMU without endpoints': { iommus: [{ kind: 'mmio', base: 0x1000n }], endpoints: [] },
};

/** iasl writes its own name and version when it compiles, and so another checksum. */
const COMPILER_BYTES = new Set([9, 28, 29, 30, 31, 32, 33, 34, 35]);
const NODE_NAMES: readonly string[] = ['', 'PCI Range', 'MMIO Endpoint', 'VirtIO-PCI IOMMU', 'VirtIO-MMIO IOMMU'];

let folder = '';
let command: readonly string[] = [];

function iasl(...args: readonly string[]): string {
  const [program = '', ...rest] = command;
  return execFileSync(program, [...rest, ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] }).toString();
}

function decode(bytes: Uint8Array): { text: string; output: string } {
  writeFileSync(join(folder, 'table.aml'), bytes);
  rmSync(join(folder, 'decoded.dsl'), { force: true });
  const output = iasl('-d', '-p', 'decoded', 'table.aml');
  return { text: readFileSync(join(folder, 'decoded.dsl'), 'latin1'), output };
}

/** Every line `[024h 0036 002h]  Node count : 0003` against the little-endian bytes at its offset. */
function fieldErrors(text: string, bytes: Uint8Array): string[] {
  const errors: string[] = [];
  const covered = new Set<number>();
  for (const line of text.split('\n')) {
    const match = /^\[([0-9A-F]+)h \d+ 0*([0-9A-F]+)h\]\s+(.*?) : (.*)$/.exec(line);
    if (match === null) continue;
    const [, at = '', size = '', name = '', value = ''] = match;
    const offset = Number.parseInt(at, 16);
    const length = Number.parseInt(size, 16);
    for (let i = 0; i < length; i++) covered.add(offset + i);
    const field = bytes.subarray(offset, offset + length);
    const quoted = /^"(.*)"/.exec(value)?.[1];
    const number = [...field].reverse().map((byte) => byte.toString(16).padStart(2, '0'));
    const ours = quoted === undefined ? number.join('').toUpperCase() : String.fromCharCode(...field);
    const theirs = quoted ?? value.replace(/ \[.*$/, '').trim();
    if (ours !== theirs) errors.push(`${name} at ${offset}: we wrote ${ours}, iasl reads ${theirs}`);
  }
  for (let i = 0; i < bytes.length; i++) if (!covered.has(i)) errors.push(`iasl shows no field at byte ${i}`);
  return errors;
}

function nodeErrors(text: string, config: ViotConfig): string[] {
  const found = [...text.matchAll(/Type : ([0-9A-F]{2}) \[(.*?)\]/g)].map((match) => match[2] ?? '');
  const types = [
    ...config.iommus.map(({ kind }) => (kind === 'pci' ? 3 : 4)),
    ...config.endpoints.map(({ kind }) => (kind === 'mmio' ? 2 : 1)),
  ];
  const expected = types.map((type) => NODE_NAMES[type]).join(', ');
  return found.join(', ') === expected ? [] : [`nodes: expected ${expected}, iasl reads ${found.join(', ')}`];
}

function roundTripErrors(bytes: Uint8Array): string[] {
  iasl('-p', 'again', 'decoded.dsl');
  const again = new Uint8Array(readFileSync(join(folder, 'again.aml')));
  if (again.length !== bytes.length) return [`compiled again: ${again.length} bytes, ours ${bytes.length}`];
  const errors: string[] = [];
  for (const [i, byte] of bytes.entries()) {
    if (again[i] !== byte && !COMPILER_BYTES.has(i))
      errors.push(`compiled again: byte ${i} is ${again[i]}, ours ${byte}`);
  }
  return errors;
}

function checkConfig(config: ViotConfig): string[] {
  const bytes = buildViot(config);
  const { text, output } = decode(bytes);
  const complaints = `${output}\n${text}`.match(/^.*(?:incorrect checksum|invalid|error|unknown).*$/gim) ?? [];
  return [...complaints, ...nodeErrors(text, config), ...fieldErrors(text, bytes), ...roundTripErrors(bytes)];
}

/** The check itself must be able to fail: a table that is not what was asked for, and one with a wrong sum. */
function checkOfTheCheck(): string[] {
  const config = viotAroundPci({ segment: 0, bdf: 8 });
  const bytes = buildViot(config);
  const { text } = decode(bytes);
  const other = bytes.slice();
  other[60] = (other[60] ?? 0) ^ 1;
  const errors: string[] = [];
  if (fieldErrors(text, other).length === 0) errors.push('a changed byte is not noticed');
  if (nodeErrors(text, { ...config, endpoints: [] }).length === 0) errors.push('a missing node is not noticed');
  if (!/checksum/i.test(decode(other).text)) errors.push('iasl does not notice a wrong checksum');
  return errors;
}

function main(): number {
  const tree = unpackedPackages(SUITE, PACKAGES, cacheFolder(`iasl-${SUITE}`));
  command = [...ownLoader(tree), join(tree.path, 'usr/bin/iasl')];
  folder = mkdtempSync(join(tmpdir(), 'viot-iasl-'));
  mkdirSync(folder, { recursive: true });
  console.log(tree.packages.join('\n'));
  console.log(/version.*/.exec(iasl('-v'))?.[0] ?? 'iasl of unknown version');
  let failed = 0;
  const cases = [
    ...Object.entries(CONFIGS).map(([name, config]) => [name, () => checkConfig(config)] as const),
    ['the check notices wrong tables', checkOfTheCheck] as const,
  ];
  for (const [name, run] of cases) {
    const errors = run();
    if (errors.length > 0) failed++;
    console.log(`${errors.length === 0 ? 'ok    ' : 'FAILED'} ${name}`);
    for (const error of errors) console.log(`       ${error}`);
  }
  rmSync(folder, { recursive: true, force: true });
  console.log(`${cases.length - failed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = main();

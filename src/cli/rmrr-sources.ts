// Files and the live host into the input of a report. File access of the `rmrr` command is here and in host/sysfs.ts.
import { existsSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { acpiSignature } from '../firmware/acpi-table.ts';
import type { DeviceRef } from '../firmware/device-ref.ts';
import { parseDeviceName } from '../firmware/device-ref.ts';
import { parseDmar } from '../firmware/dmar.ts';
import { parseIort } from '../firmware/iort.ts';
import { parseIvrs } from '../firmware/ivrs.ts';
import type { KernelLog } from '../firmware/kernel-log.ts';
import { parseKernelLog } from '../firmware/kernel-log.ts';
import { NEWEST_OLD_RULE, parseKernelVersion } from '../firmware/kernel-version.ts';
import type { ReportInput, ReportSource } from '../firmware/report-types.ts';
import type { SysfsSnapshot } from '../firmware/sysfs.ts';
import { parseReservedRegions, snapshotRegions } from '../firmware/sysfs.ts';
import type { HostRoots } from '../host/sysfs.ts';
import { groupMembers, readHost, readSysfs } from '../host/sysfs.ts';
import { CliError } from './errors.ts';
import type { RmrrOptions } from './rmrr-options.ts';

/** As a file name: standard input. */
const STDIN = '-';
const MAX_TABLE_FILE = 16 << 20;
const MAX_TEXT_FILE = 256 << 20;

const READERS = { dmar: parseDmar, ivrs: parseIvrs, iort: parseIort } as const;
type TableKind = keyof typeof READERS;

interface Gathered {
  readonly sources: ReportSource[];
  readonly snapshots: SysfsSnapshot[];
  readonly logs: KernelLog[];
  kernel: string | undefined;
  commandLine: string | undefined;
}

/** Reads every file of the options, or the live host when there is none. */
export function loadSources(options: RmrrOptions, roots: HostRoots = {}): ReportInput {
  const gathered: Gathered = { sources: [], snapshots: [], logs: [], kernel: undefined, commandLine: undefined };
  const { files } = options;
  for (const kind of ['dmar', 'ivrs', 'iort'] as const) for (const file of files[kind]) loadTable(gathered, kind, file);
  for (const path of files.sysfs) loadSysfs(gathered, path);
  for (const file of files.dmesg) loadLog(gathered, file);
  if (Object.values(files).every((list) => list.length === 0)) loadHost(gathered, roots);
  return {
    sources: gathered.sources,
    snapshot: joinSnapshots(gathered.snapshots),
    ...kernelOf(options, gathered),
    relaxRmrr: relaxState(options, gathered),
    groups: new Map(gathered.logs.flatMap((log) => [...log.groups])),
    refusals: gathered.logs.flatMap((log) => log.refusals),
    bound: gathered.logs.flatMap((log) => log.brokenScope),
    classes: options.classes,
    named: options.devices,
    resv: options.resv,
    mode: options.mode,
    ram: options.ram,
  };
}

/** The version that was asked for, or what the host or a log says; the wording of a refusal tells the time it is from. */
function kernelOf(options: RmrrOptions, gathered: Gathered): Pick<ReportInput, 'kernel' | 'kernelFromWording'> {
  const named = gathered.kernel ?? gathered.logs.find((log) => log.kernel !== undefined)?.kernel;
  const kernel = options.kernel ?? (named === undefined ? undefined : parseKernelVersion(named));
  if (kernel !== undefined) return { kernel };
  const isOld = gathered.logs.some((log) => log.refusals.some(({ rule }) => rule === 'rmrr-locked'));
  return isOld ? { kernel: NEWEST_OLD_RULE, kernelFromWording: true } : {};
}

function loadTable(gathered: Gathered, kind: TableKind, file: string): void {
  addTable(gathered, kind, readBytes(file, MAX_TABLE_FILE), file, `--${kind} ${file}`);
}

function addTable(gathered: Gathered, kind: TableKind, bytes: Uint8Array, name: string, what: string): void {
  const table = READERS[kind](bytes);
  if (table.header === undefined) {
    const signature = JSON.stringify(acpiSignature(bytes));
    throw new CliError(
      `${what}: not a readable ${kind.toUpperCase()} table (${bytes.length} bytes, signature ${signature})`,
    );
  }
  gathered.sources.push({ kind, name: basename(name), regions: table.regions, warnings: table.warnings });
}

function loadSysfs(gathered: Gathered, given: string): void {
  const inGroup = join(given, 'reserved_regions');
  const path = given !== STDIN && isDirectory(given) && existsSync(inGroup) ? inGroup : given;
  if (path !== STDIN && isDirectory(path)) {
    const snapshot = readSysfs(path);
    if (snapshot.groups.length === 0 && snapshot.devices.length === 0) {
      throw new CliError(`--sysfs ${path}: no IOMMU groups and no PCI devices there`);
    }
    addSnapshot(gathered, snapshot, basename(path));
    return;
  }
  const text = readText(path);
  const number = /(?:^|\/)(\d+)\/reserved_regions$/.exec(path)?.[1];
  const group = number === undefined ? `group of ${basename(path)}` : `group ${number}`;
  const members = number === undefined ? [] : groupMembers(path);
  const devices = members.map((name): DeviceRef => parseDeviceName(name) ?? { kind: 'group', name });
  const read = parseReservedRegions(text, members.length === 0 ? { group } : { group, devices });
  if (read.regions.length === 0 && text.trim() !== '') {
    throw new CliError(`--sysfs ${path}: holds no line of reserved_regions`);
  }
  gathered.sources.push({ kind: 'sysfs', name: basename(path), ...read });
}

function addSnapshot(gathered: Gathered, snapshot: SysfsSnapshot, name: string): void {
  gathered.snapshots.push(snapshot);
  gathered.sources.push({ kind: 'sysfs', name, ...snapshotRegions(snapshot) });
}

function loadLog(gathered: Gathered, file: string): void {
  const text = readText(file);
  const log = parseKernelLog(text);
  if (log.knownLines === 0 && text.includes('\0')) throw new CliError(`--dmesg ${file}: not a text`);
  addLog(gathered, log, file === STDIN ? 'stdin' : basename(file));
}

function addLog(gathered: Gathered, log: KernelLog, name: string): void {
  const none = { where: 'line 1', what: 'no line of this log is about reserved memory' };
  const warnings = log.knownLines === 0 ? [...log.warnings, none] : log.warnings;
  gathered.logs.push(log);
  gathered.sources.push({ kind: 'dmesg', name, regions: log.regions, warnings });
}

function loadHost(gathered: Gathered, roots: HostRoots): void {
  const host = readHost(roots);
  gathered.kernel = host.kernel;
  gathered.commandLine = host.commandLine;
  for (const [name, bytes] of host.tables) {
    const kind = name.toLowerCase() as TableKind;
    addTable(gathered, kind, bytes, name, `live host ${name}`);
  }
  addSnapshot(gathered, host.snapshot, 'live host');
  const log = host.kernelLog === undefined ? undefined : parseKernelLog(host.kernelLog);
  if (log !== undefined && log.knownLines > 0) addLog(gathered, log, 'live host log');
  const warnings = host.unreadable.map((name) => ({ where: name, what: 'only root may read this table' }));
  if (host.snapshot.groups.length === 0) {
    warnings.push({ where: 'iommu_groups', what: 'no IOMMU group: the IOMMU is off or absent' });
  }
  if (warnings.length > 0) gathered.sources.push({ kind: 'sysfs', name: 'live host', regions: [], warnings });
}

function relaxState(options: RmrrOptions, gathered: Gathered): 'active' | 'requested' | 'unknown' {
  if (options.relaxRmrr || gathered.logs.some((log) => log.relaxAllRmrr)) return 'active';
  const onLine = /\bintel_iommu=\S*relax_rmrr/.test(gathered.commandLine ?? '');
  return onLine || gathered.logs.some((log) => log.relaxRequested) ? 'requested' : 'unknown';
}

function joinSnapshots(snapshots: readonly SysfsSnapshot[]): SysfsSnapshot | undefined {
  if (snapshots.length <= 1) return snapshots[0];
  return { devices: snapshots.flatMap((one) => one.devices), groups: snapshots.flatMap((one) => one.groups) };
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch (error) {
    throw unreadable(path, error);
  }
}

function readBytes(path: string, most: number): Uint8Array {
  if (path !== STDIN && isDirectory(path)) throw new CliError(`${path}: is a directory`);
  try {
    if (path === STDIN) return new Uint8Array(readFileSync(process.stdin.fd));
    const { size } = statSync(path);
    if (size > most) throw new CliError(`${path}: ${size} bytes are more than the ${most} that are read`);
    return new Uint8Array(readFileSync(path));
  } catch (error) {
    throw unreadable(path, error);
  }
}

function readText(path: string): string {
  return new TextDecoder().decode(readBytes(path, MAX_TEXT_FILE));
}

function unreadable(path: string, error: unknown): CliError {
  if (error instanceof CliError) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : String(error);
  return new CliError(`${path}: cannot be read (${code})`);
}

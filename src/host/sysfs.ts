// Reads what the reserved-memory report needs of a Linux host: /sys (IOMMU groups, PCI functions, ACPI tables), /proc and
// /dev/kmsg. Node only. Never writes. Works on a copy of /sys too: links may dangle there, attributes may be missing.
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  readlinkSync,
  statSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { SysfsDevice, SysfsGroup, SysfsSnapshot } from '../firmware/sysfs.ts';
import { isVfioPci } from './survey-drivers.ts';

/** Where the host's file systems are; a test or a copy gives its own. */
export interface HostRoots {
  /** `/sys` by default. */
  readonly sys?: string;
  /** `/proc` by default. */
  readonly proc?: string;
  /** `/dev` by default, for its kernel log; none when `sys` is given, since a copy has none. */
  readonly dev?: string;
}

/** What a live host says. */
export interface HostFacts {
  readonly snapshot: SysfsSnapshot;
  /** Bytes of the tables that are there; `unreadable` holds the names of those that only root may read. */
  readonly tables: ReadonlyMap<'DMAR' | 'IVRS' | 'IORT', Uint8Array>;
  readonly unreadable: readonly string[];
  /** `6.12.107-amd64`, undefined when /proc does not say. */
  readonly kernel: string | undefined;
  readonly commandLine: string | undefined;
  /** Kernel log as `dmesg` prints it; undefined when it may not be read. */
  readonly kernelLog: string | undefined;
}

const BDF = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;
const TABLES = ['DMAR', 'IVRS', 'IORT'] as const;
const CONFIG = { headerType: 0x0e, secondaryBus: 0x19, subordinateBus: 0x1a, SIZE: 64 };
const MAX_TEXT = 1 << 20;
/** No ACPI table of a real machine comes near it. */
const MAX_TABLE = 16 << 20;
const MAX_ENTRIES = 1 << 16;
const MAX_DEPTH = 16;
const MAX_LOG = 64 << 20;
/** The kernel gives one record a read, never more than this. */
const KMSG_RECORD = 8192;

/** Reads the live host; missing files are missing facts, never errors. */
export function readHost(roots: HostRoots = {}): HostFacts {
  const sys = roots.sys ?? '/sys';
  const proc = roots.proc ?? '/proc';
  const tables = new Map<(typeof TABLES)[number], Uint8Array>();
  const unreadable: string[] = [];
  for (const name of TABLES) {
    const path = join(sys, 'firmware/acpi/tables', name);
    if (!existsSync(path)) continue;
    try {
      const { size } = statSync(path);
      if (size > MAX_TABLE) unreadable.push(name);
      else tables.set(name, new Uint8Array(readFileSync(path)));
    } catch {
      unreadable.push(name);
    }
  }
  return {
    snapshot: readSysfs(sys),
    tables,
    unreadable,
    kernel: text(join(proc, 'sys/kernel/osrelease')),
    commandLine: text(join(proc, 'cmdline')),
    kernelLog: kernelLog(roots.dev ?? (roots.sys === undefined ? '/dev' : undefined)),
  };
}

/**
 * Reads the IOMMU groups and PCI functions below a /sys directory or a copy of it; also a copy that holds only
 * `iommu_groups`, or only `devices` without `bus`. An empty snapshot when there is nothing of the kind.
 */
export function readSysfs(root: string): SysfsSnapshot {
  const base = existsSync(join(root, 'sys')) && !existsSync(join(root, 'kernel')) ? join(root, 'sys') : root;
  const groupsDir = groupDirectory(base);
  const groups = groupsDir === undefined ? [] : readGroups(groupsDir);
  const paths = devicePaths(base);
  for (const group of groups) {
    for (const name of group.devices) {
      if (BDF.test(name) && !paths.has(name)) paths.set(name, join(groupsDir ?? base, group.id, 'devices', name));
    }
  }
  const groupOf = new Map(groups.flatMap((group) => group.devices.map((name) => [name, group.id] as const)));
  const childBus = new Map<string, number>();
  for (const [name, path] of paths) noteParent(name, path, childBus);
  const devices = [...paths].map(([name, path]) => readDevice(name, path, groupOf.get(name), childBus.get(name)));
  devices.sort((a, b) => (a.name < b.name ? -1 : 1));
  return { devices, groups };
}

/** PCI functions of a group that a VFIO driver has, in order; bridges and functions without one are left out. Reads only these. */
export function vfioFunctions(root: string, group: number): string[] {
  const folder = join(root, 'kernel/iommu_groups', String(group), 'devices');
  const names = entries(folder).filter((name) => BDF.test(name));
  return names.sort().filter((name) => isVfioPci(basename(link(join(folder, name, 'driver')) ?? '')));
}

/** Members of the group whose `reserved_regions` file this is, from the `devices` directory beside it; empty without one. */
export function groupMembers(reservedRegionsFile: string): string[] {
  return entries(join(dirname(reservedRegionsFile), 'devices')).sort();
}

/** Records of /dev/kmsg (Documentation/ABI/testing/dev-kmsg) up to now, as lines with a time stamp in brackets. */
function kernelLog(dev: string | undefined): string | undefined {
  if (dev === undefined) return undefined;
  let file: number;
  try {
    file = openSync(join(dev, 'kmsg'), constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
  let raw = '';
  try {
    const bytes = Buffer.alloc(KMSG_RECORD);
    for (let got = KMSG_RECORD; got > 0 && raw.length < MAX_LOG;) {
      got = readRecord(file, bytes);
      raw += bytes.toString('utf8', 0, got);
    }
  } finally {
    closeSync(file);
  }
  return raw.replace(/^\d+,\d+,(\d+)[^;\n]*;/gm, stamp).replace(/^ [A-Z].*\n/gm, '');
}

/** 0 at the end of the log, and when it may not be read. */
function readRecord(file: number, bytes: Buffer): number {
  for (;;) {
    try {
      return readSync(file, bytes);
    } catch (error) {
      // EPIPE: the record was overwritten meanwhile, the next read gives the oldest one left.
      if ((error as NodeJS.ErrnoException).code !== 'EPIPE') return 0;
    }
  }
}

function stamp(_: string, microseconds: string): string {
  const digits = microseconds.padStart(7, '0');
  return `[${digits.slice(0, -6).padStart(5)}.${digits.slice(-6)}] `;
}

function groupDirectory(base: string): string | undefined {
  for (const candidate of ['kernel/iommu_groups', 'iommu_groups', '.']) {
    const path = join(base, candidate);
    if (entries(path).some((name) => /^\d+$/.test(name) && existsSync(join(path, name, 'devices')))) return path;
    if (entries(path).some((name) => /^\d+$/.test(name) && existsSync(join(path, name, 'reserved_regions'))))
      return path;
  }
  return undefined;
}

function readGroups(directory: string): SysfsGroup[] {
  return entries(directory)
    .filter((name) => /^\d+$/.test(name))
    .sort((a, b) => Number(a) - Number(b))
    .map((id) => ({
      id,
      reservedRegions: text(join(directory, id, 'reserved_regions')),
      devices: entries(join(directory, id, 'devices')).sort(),
    }));
}

/** PCI functions by name, with the directory of their attributes. */
function devicePaths(base: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const directory of ['bus/pci/devices', 'devices']) {
    for (const name of entries(join(base, directory))) if (BDF.test(name)) found.set(name, join(base, directory, name));
  }
  if (found.size > 0) return found;
  for (const name of entries(join(base, 'devices'))) {
    if (/^pci[0-9a-f]{4,8}:[0-9a-f]{2}$/.test(name)) walk(join(base, 'devices', name), found, 0);
  }
  return found;
}

function walk(directory: string, found: Map<string, string>, depth: number): void {
  if (depth > MAX_DEPTH || found.size > MAX_ENTRIES) return;
  for (const name of entries(directory)) {
    if (!BDF.test(name)) continue;
    const path = join(directory, name);
    found.set(name, path);
    walk(path, found, depth + 1);
  }
}

/** The directory above a function (also of a dangling link) is its bridge: tells the bridge's secondary bus. */
function noteParent(name: string, path: string, childBus: Map<string, number>): void {
  const target = link(path) ?? path;
  const parts = target.split('/').filter((part) => part !== '');
  const parent = parts.at(-1) === name ? parts.at(-2) : undefined;
  if (parent !== undefined && BDF.test(parent)) childBus.set(parent, busOf(name));
}

function readDevice(name: string, path: string, group: string | undefined, childBus: number | undefined): SysfsDevice {
  const config = firstBytes(join(path, 'config'));
  const headerType = config === undefined ? undefined : config[CONFIG.headerType]! & 0x7f;
  const isBridge = headerType === 1;
  const groupLink = link(join(path, 'iommu_group'));
  const driver = link(join(path, 'driver'));
  return {
    name,
    classCode: number(text(join(path, 'class'))),
    group: group ?? (groupLink === undefined ? undefined : basename(groupLink)),
    secondaryBus:
      number(text(join(path, 'secondary_bus_number'))) ??
      (isBridge ? config![CONFIG.secondaryBus] : undefined) ??
      childBus,
    subordinateBus:
      number(text(join(path, 'subordinate_bus_number'))) ?? (isBridge ? config![CONFIG.subordinateBus] : undefined),
    headerType,
    virtualFunction: link(join(path, 'physfn')) !== undefined || existsSync(join(path, 'physfn')),
    driver: driver === undefined ? undefined : basename(driver),
  };
}

function busOf(name: string): number {
  return Number.parseInt(name.split(':').at(-2) ?? '0', 16);
}

function entries(directory: string): string[] {
  try {
    return readdirSync(directory).slice(0, MAX_ENTRIES);
  } catch {
    return [];
  }
}

function link(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function text(path: string): string | undefined {
  try {
    const stat = statSync(path);
    if (!stat.isFile() || stat.size > MAX_TEXT) return undefined;
    return readFileSync(path, 'utf8').trimEnd();
  } catch {
    return undefined;
  }
}

/** The first 64 bytes of PCI configuration space, which everybody may read. */
function firstBytes(path: string): Uint8Array | undefined {
  let file: number | undefined;
  try {
    // A copy of /sys may hold anything under this name: a FIFO would be waited for.
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const bytes = new Uint8Array(CONFIG.SIZE);
    return readSync(file, bytes) === CONFIG.SIZE ? bytes : undefined;
  } catch {
    return undefined;
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

function number(value: string | undefined): number | undefined {
  if (value === undefined || !/^(?:0x[0-9a-f]+|\d+)$/i.test(value)) return undefined;
  return Number(value);
}

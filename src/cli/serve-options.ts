// Settings of `virtio-iommu serve`: flags over the configuration file over defaults, checked against each other.
// Not here: what the file may hold (serve-config.ts), what is built (serve-machine.ts). Ranges have INCLUSIVE ends.
import { relative, resolve } from 'node:path';
import type { AddressRange } from '../base/ranges.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import type { DeviceKind, EndpointInit, FileConfig, IommuInit } from './serve-config.ts';
import type { LoopbackPort, PciAddress } from './serve-values.ts';
import { CliError } from './errors.ts';
import { readConfigFile } from './serve-config.ts';
import { parsePciAddress } from './serve-values.ts';

/** `--endpoint` and `--iommu`: an address, and a socket where it is not the default one. */
export interface FunctionFlag {
  readonly device: DeviceKind;
  readonly addr: PciAddress;
  readonly socket: string | undefined;
  /** The function on the host, of kind vfio only. */
  readonly host?: string;
}

/** `--reserved`: for one endpoint, or for all. */
export interface ReservedFlag {
  readonly addr: PciAddress | undefined;
  readonly region: ReservedRegion;
}

/** What commander hands over. */
export interface ServeFlags {
  readonly config?: string;
  readonly dir?: string;
  readonly iommu?: Omit<FunctionFlag, 'device' | 'host'>;
  readonly endpoint?: readonly FunctionFlag[];
  readonly reserved?: readonly ReservedFlag[];
  readonly msi?: AddressRange | 'none';
  readonly policy?: NonNullable<IommuInit['policy']>;
  readonly pageSizeMask?: bigint;
  readonly inputRange?: AddressRange;
  readonly bypass?: 'on' | 'off';
  readonly queueSize?: number;
  readonly eventQueueSize?: number;
  readonly packed?: true;
  readonly viot?: string;
  readonly record?: string;
  readonly requireSealed?: boolean;
  readonly stats?: string;
  readonly metrics?: LoopbackPort;
  readonly qemu?: string;
  readonly memory?: number;
  readonly msgTimeout?: number;
  readonly interval?: number;
  readonly dryRun?: true;
  readonly quiet?: true;
  readonly json?: true;
  // For tests; commander sets `translation` to true when `--no-translation` is not there.
  readonly translation: boolean;
  readonly entropy?: NonNullable<EndpointInit['entropy']>;
  readonly rngProbeUnmapped?: bigint;
  readonly rngProbeAccess?: 'read' | 'write';
}

/** Settings of the IOMMU function. */
export interface IommuSettings extends Omit<IommuInit, 'addr' | 'socket' | 'inputRange'> {
  readonly addr: PciAddress;
  readonly socket: string;
  readonly inputRange: AddressRange;
}

/** Settings of a function behind it. */
export interface EndpointSettings extends Omit<EndpointInit, 'socket' | 'reserved' | 'translate'> {
  readonly name: string;
  readonly socket: string;
  readonly reserved: readonly ReservedRegion[];
  readonly translate: boolean;
}

/** All settings; paths are absolute, but for a socket whose absolute path would be too long. */
export interface ServeSettings {
  readonly iommu: IommuSettings;
  readonly endpoints: readonly EndpointSettings[];
  readonly viot: string;
  readonly record: string | undefined;
  /** Memory that its owner could shrink under us is refused. */
  readonly requireSealed: boolean;
  readonly stats: string | undefined;
  readonly metrics: LoopbackPort | undefined;
  readonly qemu: { readonly command: string; readonly memory: number; readonly messageTimeout: number };
  /** Seconds between two looks at the state; undefined: one on a terminal, ten elsewhere. */
  readonly interval: number | undefined;
}

/** The MSI window of a PC. */
const PC_MSI: AddressRange = { start: 0xfee0_0000n, end: 0xfeef_ffffn };
/** 48 bits, as the page tables of a PC have them. A queue counts addresses as exact numbers: the end is below 2^53. */
const INPUT_RANGE: AddressRange = { start: 0n, end: 0xffff_ffff_ffffn };
const DEFAULT_IOMMU = '1.0';
const DEFAULT_ENDPOINT: EndpointInit = { device: 'rng', addr: parsePciAddress('3.0') };
/** Bytes that sun_path has for a name and its NUL. */
const SOCKET_PATH_BYTES = 108;
/** Milliseconds in which QEMU wants an answer: its own default of 5000 is too short for a process that a debugger stops. */
const MESSAGE_TIMEOUT = 60_000;

/** Puts flags, file and defaults together. @throws CliError that names the flag, or the file and its key. */
export function serveSettings(flags: ServeFlags): ServeSettings {
  const file = flags.config === undefined ? {} : readConfigFile(flags.config);
  const dir = resolve(flags.dir ?? file.dir ?? '.');
  const place = (path: string): string => resolve(dir, path);
  const endpoints = endpointSettings(flags, file, dir);
  const iommu = iommuSettings(flags, file, dir);
  const record = flags.record ?? file.record;
  const stats = flags.stats ?? file.stats;
  const statsPath = stats === undefined ? undefined : socketPath(place(stats));
  const viot = place(flags.viot ?? file.viot ?? 'viot.bin');
  checkFunctions(iommu, endpoints, statsPath);
  if (record !== undefined && place(record) === viot)
    throw new CliError(`the trace and the table are one file, ${viot}`);
  return {
    iommu,
    endpoints,
    viot,
    record: record === undefined ? undefined : place(record),
    requireSealed: flags.requireSealed ?? file.requireSealed ?? false,
    stats: statsPath,
    metrics: flags.metrics ?? file.metrics,
    qemu: {
      command: flags.qemu ?? file.qemu?.command ?? 'qemu-system-x86_64',
      memory: flags.memory ?? file.qemu?.memory ?? 256 * 2 ** 20,
      messageTimeout: flags.msgTimeout ?? file.qemu?.messageTimeout ?? MESSAGE_TIMEOUT,
    },
    interval: flags.interval ?? file.interval,
  };
}

function iommuSettings(flags: ServeFlags, file: FileConfig, dir: string): IommuSettings {
  const init = file.iommu ?? {};
  const addr = flags.iommu?.addr ?? init.addr ?? parsePciAddress(DEFAULT_IOMMU);
  const socket = flags.iommu?.socket ?? init.socket ?? 'iommu.sock';
  return {
    ...init,
    ...given('policy', flags.policy),
    ...given('pageSizeMask', flags.pageSizeMask),
    ...given('requestQueueSize', flags.queueSize),
    ...given('eventQueueSize', flags.eventQueueSize),
    ...given('packed', flags.packed),
    ...given('bypass', flags.bypass === undefined ? undefined : flags.bypass === 'on'),
    inputRange: flags.inputRange ?? init.inputRange ?? INPUT_RANGE,
    addr,
    socket: socketPath(resolve(dir, socket)),
  };
}

function endpointSettings(flags: ServeFlags, file: FileConfig, dir: string): EndpointSettings[] {
  const inits: readonly EndpointInit[] = flags.endpoint?.map(({ device, addr, socket, host }) => ({
    device,
    addr,
    ...given('socket', socket),
    ...given('host', host),
  })) ??
    file.endpoints ?? [DEFAULT_ENDPOINT];
  const addresses = new Set(inits.map(({ addr }) => addr.bdf));
  for (const { addr } of flags.reserved ?? []) {
    if (addr !== undefined && !addresses.has(addr.bdf))
      throw new CliError(`--reserved: no endpoint is at ${addr.text}`);
  }
  const msi = flags.msi ?? file.msi ?? PC_MSI;
  return inits.map((init) => {
    checkHost(init, flags);
    checkRingKeys(init);
    const alone = inits.filter(({ device }) => device === init.device).length === 1;
    const name = alone ? init.device : `${init.device}-${init.addr.text}`;
    return {
      ...init,
      ...given('packed', flags.packed),
      ...rngFlags(init.device, flags),
      name,
      socket: socketPath(resolve(dir, init.socket ?? `${name}.sock`)),
      reserved: reservedOf(init, flags.reserved ?? [], msi),
      translate: flags.translation && (init.translate ?? true),
    };
  });
}

/** A function of the host is named, exactly where one is meant, and is always translated. */
function checkHost({ device, addr, host, backend, translate }: EndpointInit, flags: ServeFlags): void {
  if (device !== 'vfio') {
    if (host !== undefined || backend !== undefined)
      throw new CliError(`the endpoint at ${addr.text} is a ${device}: "host" and "backend" are for vfio`);
    return;
  }
  if (host === undefined) throw new CliError(`the vfio endpoint at ${addr.text} names no "host" function`);
  if (!flags.translation || translate === false)
    throw new CliError(`the vfio endpoint at ${addr.text} cannot take addresses untranslated`);
}

const RNG_KEYS = ['queueSize', 'packed', 'maxBytes', 'entropy', 'probeUnmapped', 'probeAccess'] as const;

/** What only an entropy device has is not given to another one, where it would have no effect. */
function checkRingKeys(init: EndpointInit): void {
  const key = init.device === 'rng' ? undefined : RNG_KEYS.find((name) => init[name] !== undefined);
  if (key !== undefined)
    throw new CliError(`the endpoint at ${init.addr.text} is a ${init.device}: "${key}" is for rng`);
}

function rngFlags(device: DeviceKind, flags: ServeFlags): Partial<EndpointInit> {
  if (device !== 'rng') return {};
  return {
    ...given('entropy', flags.entropy),
    ...given('probeUnmapped', flags.rngProbeUnmapped),
    ...given('probeAccess', flags.rngProbeAccess),
  };
}

/** What the endpoint has of its own, and the MSI window of the machine unless it has one; the host says that of its functions. */
function reservedOf(
  init: EndpointInit,
  flags: readonly ReservedFlag[],
  msi: AddressRange | 'none',
): readonly ReservedRegion[] {
  const own = [
    ...(init.reserved ?? []),
    ...flags.filter(({ addr }) => (addr?.bdf ?? init.addr.bdf) === init.addr.bdf).map(({ region }) => region),
  ];
  if (init.device === 'vfio' || msi === 'none' || own.some(({ kind }) => kind === 'msi')) return own;
  return [...own, { ...msi, kind: 'msi' }];
}

/** One function at an address, one socket for a function, and function 0 where there are others. */
function checkFunctions(iommu: IommuSettings, endpoints: readonly EndpointSettings[], stats: string | undefined): void {
  const functions = [{ name: 'iommu', addr: iommu.addr, socket: iommu.socket }, ...endpoints];
  const clash = functions.find(({ socket }) => socket === stats);
  if (clash !== undefined) throw new CliError(`the state and ${clash.name} have the same socket ${clash.socket}`);
  const places = new Map<number, string>();
  const sockets = new Map<string, string>();
  for (const { name, addr, socket } of functions) {
    const at = places.get(addr.bdf);
    if (at !== undefined) throw new CliError(`${name} and ${at} have the same address ${addr.text}`);
    places.set(addr.bdf, name);
    const other = sockets.get(socket);
    if (other !== undefined) throw new CliError(`${name} and ${other} have the same socket ${socket}`);
    sockets.set(socket, name);
  }
  const hosts = new Map<string, string>();
  for (const { name, host } of endpoints) {
    if (host === undefined) continue;
    const other = hosts.get(host);
    if (other !== undefined) throw new CliError(`${name} and ${other} are the same function of the host, ${host}`);
    hosts.set(host, name);
  }
  for (const { name, addr } of functions) {
    if (!places.has(addr.device * 8)) {
      throw new CliError(`${name} is at ${addr.text}: a guest looks for it only when there is a function 0 beside it`);
    }
  }
}

/** The path itself, or relative to the working directory when only that fits into a socket address. */
function socketPath(path: string): string {
  const near = relative('.', path);
  for (const candidate of [path, near]) if (Buffer.byteLength(candidate) < SOCKET_PATH_BYTES) return candidate;
  throw new CliError(`${path}: a socket's path has at most ${SOCKET_PATH_BYTES - 1} bytes`);
}

function given<K extends string, T>(key: K, value: T | undefined): Partial<Record<K, T>> {
  return value === undefined ? {} : ({ [key]: value } as Record<K, T>);
}

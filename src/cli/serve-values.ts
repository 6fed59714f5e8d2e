// Values of `virtio-iommu serve` as people write them, in the configuration file and in flags alike: PCI addresses, address
// ranges (both ends INCLUSIVE), reserved regions. Each parser throws a RangeError whose message follows the value's name.
import type { AddressRange } from '../base/ranges.ts';
import type { ReservedRegion } from '../base/reserved.ts';
import { U32_MAX, U64_MAX, hex } from '../base/check.ts';

/** A function on the guest's root bus. */
export interface PciAddress {
  readonly device: number;
  readonly function: number;
  /** Number of the function within its segment: also its endpoint id. */
  readonly bdf: number;
  /** As QEMU writes it: `3.0`, device number in hex. */
  readonly text: string;
}

const PCI = /^(?:(?:0000:)?00:)?([0-9a-f]{1,2})(?:\.([0-7]))?$/i;
/** Device numbers that QEMU's q35 machine has taken on its root bus: the host bridge and the ICH9. */
const TAKEN = new Map([
  [0x00, 'the host bridge'],
  [0x1f, 'the ICH9 of q35'],
]);

/** Reads `3.0`, `3`, `00:03.0` or `0000:00:03.0`; numbers are hex, the bus is the root bus. */
export function parsePciAddress(text: string): PciAddress {
  const match = PCI.exec(text.trim());
  const device = parseInt(match?.[1] ?? 'x', 16);
  const fn = parseInt(match?.[2] ?? '0', 16);
  if (!(device <= 0x1f)) {
    throw new RangeError(`must be a function of the root bus like 3.0 (device 1 to 1e in hex), got ${quote(text)}`);
  }
  const taken = TAKEN.get(device);
  if (taken !== undefined) throw new RangeError(`must not be ${quote(text)}: that is ${taken}`);
  return { device, function: fn, bdf: device * 8 + fn, text: `${device.toString(16)}.${fn}` };
}

const HOST = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/i;

/** Reads a function of the host, `0000:04:00.0` or `04:00.0`; numbers are hex. */
export function parseHostFunction(text: string): string {
  const match = HOST.exec(text.trim());
  if (match === null) throw new RangeError(`must be a function of the host like 0000:04:00.0, got ${quote(text)}`);
  const [, segment = '0000', bus = '', device = '', fn = ''] = match;
  return `${segment}:${bus}:${device}.${fn}`.toLowerCase();
}

const NUMBER = /^(?:0x[0-9a-f]{1,16}|\d{1,20})$/i;

/** Reads an unsigned 64-bit number, decimal or 0x. */
export function parseU64(text: string): bigint {
  const value = NUMBER.test(text.trim()) ? BigInt(text.trim()) : -1n;
  if (value < 0n || value > U64_MAX)
    throw new RangeError(`must be a 64-bit number like 0x40201000, got ${quote(text)}`);
  return value;
}

/** Reads `START-END`, both inclusive. */
export function parseRange(text: string): AddressRange {
  const parts = text.split('-');
  if (parts.length !== 2) throw new RangeError(`must be START-END, both inclusive, got ${quote(text)}`);
  const [start, end] = parts.map(parseU64) as [bigint, bigint];
  if (end < start) throw new RangeError(`must not end before it starts, got ${quote(text)}`);
  return { start, end };
}

/** Reads `START-END` of 32-bit numbers, both inclusive. */
export function parseDomainRange(text: string): { readonly start: number; readonly end: number } {
  const { start, end } = parseRange(text);
  if (end > BigInt(U32_MAX)) throw new RangeError(`must end at most at ${hex(U32_MAX)}, got ${quote(text)}`);
  return { start: Number(start), end: Number(end) };
}

/** Reads `START-END:reserved` or `START-END:msi`; without a kind it is reserved. */
export function parseReserved(text: string): ReservedRegion {
  const [range = '', kind = 'reserved', ...rest] = text.split(':');
  if ((kind !== 'reserved' && kind !== 'msi') || rest.length > 0) {
    throw new RangeError(`must be START-END:reserved or START-END:msi, got ${quote(text)}`);
  }
  return { ...parseRange(range), kind };
}

/** Where metrics are served: a loopback address and a port. */
export interface LoopbackPort {
  readonly host: string;
  readonly port: number;
}

const PORT = /^(.*):(\d{1,5})$/;
const LOOPBACK_V4 = /^127(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}$/;

/** Reads `127.0.0.1:PORT`, `localhost:PORT` or `[::1]:PORT`; nothing that another machine could reach. Port 0: any. */
export function parseLoopback(text: string): LoopbackPort {
  const match = PORT.exec(text.trim());
  const host = match?.[1] ?? '';
  const port = Number(match?.[2] ?? NaN);
  if (!(port <= 0xffff)) throw new RangeError(`must be HOST:PORT like 127.0.0.1:9464, got ${quote(text)}`);
  if (host === '[::1]') return { host: '::1', port };
  if (host === 'localhost') return { host: '127.0.0.1', port };
  if (!LOOPBACK_V4.test(host)) {
    throw new RangeError(`must be a loopback address (127.0.0.1, localhost or [::1]), got ${quote(text)}`);
  }
  return { host, port };
}

function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}

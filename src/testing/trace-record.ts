// The records of a `viommu-trace/1` file: what each operation carries, and one table that reads and writes them.
// All address ends are INCLUSIVE, as on the wire.
import type { Status } from '../iommu/status.ts';
import { STATUS_NAMES } from '../iommu/status.ts';
import type { Field, Kind } from './trace-fields.ts';
import { FieldError, count, decodeFields, encodeFields, flag, oneOf, seconds, u32, u64, u8 } from './trace-fields.ts';

/** Name of a status of [VIRTIO 5.13.6], without the `VIRTIO_IOMMU_S_` prefix. */
export type StatusName = Status;

interface Timed {
  /** Notification number, from 0; requests with the same number belong to one notification. */
  readonly kick?: number;
  /** Seconds since the recording started. */
  readonly time?: number;
}

interface Request extends Timed {
  readonly kick: number;
  /** Bytes of the device-readable part, without a value that of the request's struct. */
  readonly readable?: number;
  /** Bytes of the device-writable part. */
  readonly writable?: number;
  /** Status that the device answered. */
  readonly status: StatusName;
  /** Used length that the device returned. */
  readonly usedLength?: number;
}

/** ATTACH request. */
export interface TraceAttach extends Request {
  readonly op: 'ATTACH';
  readonly domain: number;
  readonly endpoint: number;
  readonly flags: number;
}

/** DETACH request. */
export interface TraceDetach extends Request {
  readonly op: 'DETACH';
  readonly domain: number;
  readonly endpoint: number;
}

/** MAP request; both ends inclusive. */
export interface TraceMap extends Request {
  readonly op: 'MAP';
  readonly domain: number;
  readonly virtStart: bigint;
  readonly virtEnd: bigint;
  readonly physStart: bigint;
  readonly flags: number;
}

/** UNMAP request; both ends inclusive. */
export interface TraceUnmap extends Request {
  readonly op: 'UNMAP';
  readonly domain: number;
  readonly virtStart: bigint;
  readonly virtEnd: bigint;
}

/** PROBE request. */
export interface TraceProbe extends Request {
  readonly op: 'PROBE';
  readonly endpoint: number;
  /** Number of RESV_MEM properties answered. */
  readonly reservedRegions?: number;
}

/** Device reset by the driver. */
export interface TraceReset extends Timed {
  readonly op: 'RESET';
}

/** Write of the driver to the configuration space. */
export interface TraceConfigWrite extends Timed {
  readonly op: 'CFG';
  readonly offset: number;
  readonly size: 1 | 2 | 4 | 8;
  readonly value: bigint;
}

/** The bus-master enable bit of an endpoint changed to `on`. */
export interface TraceBusMaster extends Timed {
  readonly op: 'BM';
  readonly endpoint: number;
  readonly on: boolean;
}

/** Direction of an access: R = the device reads memory, W = it writes. */
export type TraceDirection = 'R' | 'W';

/** A piece of a translated access. */
export interface TracePiece {
  readonly gpa: bigint;
  readonly length: number;
}

/** The endpoint accessed `length` bytes at `iova`, which resolved to `pieces`. */
export interface TraceTranslate extends Timed {
  readonly op: 'XLATE';
  readonly endpoint: number;
  readonly iova: bigint;
  readonly length: number;
  readonly direction: TraceDirection;
  readonly pieces: readonly TracePiece[];
}

/** A test function copied `length` bytes from IOVA to IOVA; `ok` false when it was refused. */
export interface TraceCopy extends Timed {
  readonly op: 'COPY';
  readonly endpoint: number;
  readonly source: bigint;
  readonly target: bigint;
  readonly length: bigint;
  readonly ok: boolean;
}

/** An access without a valid mapping. */
export interface TraceFault extends Timed {
  readonly op: 'FAULT';
  readonly endpoint: number;
  readonly iova: bigint;
  readonly direction: TraceDirection;
}

/** A fault record of `length` bytes on the event queue. */
export interface TraceEvent extends Timed {
  readonly op: 'EVENT';
  readonly endpoint: number;
  readonly iova?: bigint;
  readonly reason: number;
  readonly length: number;
}

/** A record that is a request of the driver. */
export type TraceRequest = TraceAttach | TraceDetach | TraceMap | TraceUnmap | TraceProbe;

/** One record of a trace. */
export type TraceRecord =
  TraceRequest | TraceReset | TraceConfigWrite | TraceBusMaster | TraceTranslate | TraceCopy | TraceFault | TraceEvent;

/** True when the record is a request of the driver, false when it is something else that happened. */
export function isTraceRequest(record: TraceRecord): record is TraceRequest {
  return 'status' in record;
}

const pieces: Kind<readonly TracePiece[]> = {
  expect: 'a list of [address in hex, length]',
  decode(value) {
    if (!Array.isArray(value)) return undefined;
    const found: TracePiece[] = [];
    for (const pair of value as unknown[]) {
      if (!Array.isArray(pair) || pair.length !== 2) return undefined;
      const gpa = u64.decode(pair[0]);
      const length = count.decode(pair[1]);
      if (gpa === undefined || length === undefined) return undefined;
      found.push({ gpa, length });
    }
    return found;
  },
  encode: (list) => list.map((piece) => [u64.encode(piece.gpa), piece.length]),
};

const direction = oneOf<TraceDirection>(['R', 'W']);
const KICK: Field = { key: 'k', name: 'kick', kind: count };
const TIME: Field = { key: 't', name: 'time', kind: seconds, optional: true };
const REQUEST_HEAD = [KICK, TIME];
const OTHER_HEAD: readonly Field[] = [{ ...KICK, optional: true }, TIME];
const DOMAIN: Field = { key: 'dom', name: 'domain', kind: u32 };
const ENDPOINT: Field = { key: 'ep', name: 'endpoint', kind: u32 };
const IOVA: Field = { key: 'iova', name: 'iova', kind: u64 };
const DIRECTION: Field = { key: 'dir', name: 'direction', kind: direction };
const LENGTH: Field = { key: 'len', name: 'length', kind: count };
const FLAGS: Field = { key: 'fl', name: 'flags', kind: u32 };
const VIRT: readonly Field[] = [
  { key: 'vs', name: 'virtStart', kind: u64 },
  { key: 've', name: 'virtEnd', kind: u64 },
];
const SIZES: readonly Field[] = [
  { key: 'rd', name: 'readable', kind: u32, optional: true },
  { key: 'wr', name: 'writable', kind: u32, optional: true },
];
const REPLY: readonly Field[] = [
  { key: 'st', name: 'status', kind: oneOf(STATUS_NAMES), optional: true, fallback: 'OK' },
  { key: 'ul', name: 'usedLength', kind: u32, optional: true },
];

type Op = TraceRecord['op'];

/** Keys before and after `op`, in the order in which they are written. */
interface Layout {
  readonly head: readonly Field[];
  readonly body: readonly Field[];
}

const request = (...body: Field[]): Layout => ({ head: REQUEST_HEAD, body: [...body, ...SIZES, ...REPLY] });
const other = (...body: Field[]): Layout => ({ head: OTHER_HEAD, body });

const LAYOUTS: Readonly<Record<Op, Layout>> = {
  ATTACH: request(DOMAIN, ENDPOINT, { ...FLAGS, optional: true, fallback: 0, keep: true }),
  DETACH: request(DOMAIN, ENDPOINT),
  MAP: request(DOMAIN, ...VIRT, { key: 'pa', name: 'physStart', kind: u64 }, FLAGS),
  UNMAP: request(DOMAIN, ...VIRT),
  PROBE: {
    head: REQUEST_HEAD,
    body: [ENDPOINT, ...SIZES, { key: 'resv', name: 'reservedRegions', kind: count, optional: true }, ...REPLY],
  },
  RESET: other(),
  CFG: other(
    { key: 'off', name: 'offset', kind: u32 },
    { key: 'size', name: 'size', kind: oneOf([1, 2, 4, 8]) },
    { key: 'val', name: 'value', kind: u64 },
  ),
  BM: other(ENDPOINT, { key: 'on', name: 'on', kind: flag }),
  XLATE: other(ENDPOINT, IOVA, LENGTH, DIRECTION, { key: 'gpa', name: 'pieces', kind: pieces }),
  COPY: other(
    ENDPOINT,
    { key: 'src', name: 'source', kind: u64 },
    { key: 'dst', name: 'target', kind: u64 },
    { key: 'len', name: 'length', kind: u64 },
    { key: 'ok', name: 'ok', kind: flag },
  ),
  FAULT: other(ENDPOINT, IOVA, DIRECTION),
  EVENT: other(ENDPOINT, { ...IOVA, optional: true }, { key: 'reason', name: 'reason', kind: u8 }, LENGTH),
};

/** Reads one record from the parsed JSON of its line; throws {@link FieldError}. Unknown keys are ignored. */
export function decodeRecord(json: object): TraceRecord {
  const op = (json as { op?: unknown }).op;
  if (op === undefined) throw new FieldError('"op" is missing');
  if (typeof op !== 'string' || !Object.hasOwn(LAYOUTS, op)) {
    throw new FieldError(`unknown op ${JSON.stringify(op)} (known: ${Object.keys(LAYOUTS).join(', ')})`);
  }
  const layout = LAYOUTS[op as Op];
  const record: Record<string, unknown> = { op };
  try {
    decodeFields(layout.head, json, record);
    decodeFields(layout.body, json, record);
  } catch (error) {
    throw error instanceof FieldError ? new FieldError(`${op}: ${error.message}`) : error;
  }
  if (op === 'CFG' && (record['value'] as bigint) >> BigInt((record['size'] as number) * 8) !== 0n) {
    throw new FieldError(`CFG: "val" does not fit in ${record['size'] as number} bytes`);
  }
  return record as unknown as TraceRecord;
}

/** The JSON object of a record, keys in the order of the format. */
export function encodeRecord(record: TraceRecord): object {
  const layout = LAYOUTS[record.op];
  const json: Record<string, unknown> = {};
  encodeFields(layout.head, record, json);
  json['op'] = record.op;
  encodeFields(layout.body, record, json);
  return json;
}

// The header (line 1) of a `viommu-trace/1` file. Only the format is required; unknown keys are ignored.
// All address ends are INCLUSIVE.
import type { AddressRange } from '../base/ranges.ts';
import type { Field, Kind } from './trace-fields.ts';
import { U32_MAX } from '../base/check.ts';
import {
  FieldError,
  addressRange,
  count,
  decodeFields,
  encodeFields,
  integer,
  listOf,
  nonZeroU64,
  text,
  u32,
  u64,
  u8,
} from './trace-fields.ts';

/** Name and version of the format. */
export const TRACE_FORMAT = 'viommu-trace/1';

/** An endpoint that the recorded machine had. */
export interface TraceEndpoint {
  readonly id: number;
  readonly name: string;
}

/** A RESV_MEM property that the recorded device reported; both ends inclusive, subtype 1 is MSI. */
export interface TraceReservedRegion extends AddressRange {
  readonly subtype: number;
}

/** What the recording says about itself and the recorded machine. */
export interface TraceHeader {
  readonly trace?: string;
  readonly device?: string;
  readonly transport?: string;
  readonly qemu?: string;
  readonly guestKernel?: string;
  readonly workload?: string;
  /** Guest-physical RAM. */
  readonly guestRam?: readonly AddressRange[];
  readonly requestQueueSize?: number;
  /** Feature bits that the driver accepted. */
  readonly driverFeatures?: bigint;
  readonly pageSizeMask?: bigint;
  readonly inputRange?: AddressRange;
  /** Endpoints in order of their id; without a list they are those that the records name. */
  readonly endpoints?: readonly TraceEndpoint[];
  /** Device-specific feature bits that the device offered. */
  readonly featuresOffered?: bigint;
  readonly probeSize?: number;
  /** Domain ids, both inclusive. */
  readonly domainRange?: { readonly start: number; readonly end: number };
  /** Initial value of config.bypass. */
  readonly bypass?: boolean;
  readonly reservedRegions?: readonly TraceReservedRegion[];
  /** `inferred` when the kick numbers are not a recording. */
  readonly kickSource?: string;
  readonly timeUnit?: string;
  /** Notifications in the recording, empty ones included. */
  readonly recordedKicks?: number;
  /** Requests in the recording. */
  readonly requests?: number;
}

const DECIMAL = /^(0|[1-9][0-9]{0,9})$/;

const endpoints: Kind<readonly TraceEndpoint[]> = {
  expect: 'an object of endpoint id to name like {"24": "virtio-rng"}',
  decode(value) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
    const list: TraceEndpoint[] = [];
    for (const [key, name] of Object.entries(value as Record<string, unknown>)) {
      if (!DECIMAL.test(key) || Number(key) > U32_MAX || typeof name !== 'string') return undefined;
      list.push({ id: Number(key), name });
    }
    return list.sort((a, b) => a.id - b.id);
  },
  encode: (list) => Object.fromEntries(list.map((endpoint) => [String(endpoint.id), endpoint.name])),
};

const domainRange: Kind<{ readonly start: number; readonly end: number }> = {
  expect: 'a pair of 32-bit numbers [start, end] with start <= end',
  decode(value) {
    if (!Array.isArray(value) || value.length !== 2) return undefined;
    const start = u32.decode(value[0]);
    const end = u32.decode(value[1]);
    return start === undefined || end === undefined || end < start ? undefined : { start, end };
  },
  encode: (range) => [range.start, range.end],
};

const bit: Kind<boolean> = {
  expect: '0 or 1',
  decode: (value) => (value === 1 ? true : value === 0 ? false : undefined),
  encode: Number,
};

const reservedRegion: Kind<TraceReservedRegion> = {
  expect: '{"subtype", "start", "end"} with start <= end in hex',
  decode(value) {
    if (typeof value !== 'object' || value === null) return undefined;
    const item = value as { subtype?: unknown; start?: unknown; end?: unknown };
    const subtype = u8.decode(item.subtype);
    const range = addressRange.decode([item.start, item.end]);
    return subtype === undefined || range === undefined ? undefined : { subtype, ...range };
  },
  encode: (region) => ({ subtype: region.subtype, start: u64.encode(region.start), end: u64.encode(region.end) }),
};

const optional = (key: string, name: string, kind: Kind<unknown>): Field => ({ key, name, kind, optional: true });

const FIELDS: readonly Field[] = [
  optional('trace', 'trace', text),
  optional('device', 'device', text),
  optional('transport', 'transport', text),
  optional('qemu', 'qemu', text),
  optional('guest_kernel', 'guestKernel', text),
  optional('workload', 'workload', text),
  optional('guest_ram', 'guestRam', listOf(addressRange)),
  optional('request_queue_size', 'requestQueueSize', integer(1, 32768)),
  optional('driver_features', 'driverFeatures', u64),
  optional('page_size_mask', 'pageSizeMask', nonZeroU64),
  optional('input_range', 'inputRange', addressRange),
  optional('endpoints', 'endpoints', endpoints),
  optional('features_offered', 'featuresOffered', u64),
  optional('probe_size', 'probeSize', u32),
  optional('domain_range', 'domainRange', domainRange),
  optional('bypass', 'bypass', bit),
  optional('resv_mem', 'reservedRegions', listOf(reservedRegion)),
  optional('kick_source', 'kickSource', text),
  optional('time_unit', 'timeUnit', text),
  optional('recorded_kicks', 'recordedKicks', count),
  optional('requests', 'requests', count),
];

/** Reads the header from the parsed JSON of line 1; throws {@link FieldError}. */
export function decodeHeader(json: object): TraceHeader {
  const format = (json as { format?: unknown }).format;
  if (format !== TRACE_FORMAT) {
    const found = format === undefined ? 'no "format" key' : JSON.stringify(format);
    throw new FieldError(`the first line must be a header of format "${TRACE_FORMAT}", got ${found}`);
  }
  const header: Record<string, unknown> = {};
  decodeFields(FIELDS, json, header);
  return header;
}

/** The JSON object of a header, keys in the order of the format. */
export function encodeHeader(header: TraceHeader): object {
  const json: Record<string, unknown> = { format: TRACE_FORMAT };
  encodeFields(FIELDS, header, json);
  return json;
}

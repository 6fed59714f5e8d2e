// Reads `req` and `raw` of a vector file and encodes them: struct, truncation, tail, descriptor layout.
// Addresses are written as they stand in the file, inclusive ends as on the wire.
import * as abi from '../../wire/abi.ts';
import type { Read } from './read.ts';
import {
  Fields,
  MAX_PART_BYTES,
  MAX_REPEAT,
  count,
  flag,
  hexBytes,
  layout,
  list,
  refuse,
  tagOf,
  wide,
} from './read.ts';
import type { ChainSpec, FieldStep } from './vector-types.ts';

const TYPES = ['ATTACH', 'DETACH', 'MAP', 'UNMAP', 'PROBE'] as const;
type TypeName = (typeof TYPES)[number];

/** Place of a field in its struct; `optional`: 0 when the file leaves it out. */
interface StructField {
  readonly offset: number;
  readonly bytes: number;
  readonly optional?: boolean;
}

interface Struct {
  readonly type: number;
  readonly size: number;
  readonly fields: Readonly<Record<string, StructField>>;
  readonly reserved: { readonly offset: number; readonly bytes: number } | undefined;
}

const STRUCTS: Readonly<Record<TypeName, Struct>> = {
  ATTACH: {
    type: abi.VIRTIO_IOMMU_T_ATTACH,
    size: abi.Attach.SIZE,
    fields: {
      domain: { offset: abi.Attach.domain, bytes: 4 },
      endpoint: { offset: abi.Attach.endpoint, bytes: 4 },
      flags: { offset: abi.Attach.flags, bytes: 4, optional: true },
    },
    reserved: { offset: abi.Attach.reserved, bytes: abi.Attach.SIZE - abi.Attach.reserved },
  },
  DETACH: {
    type: abi.VIRTIO_IOMMU_T_DETACH,
    size: abi.Detach.SIZE,
    fields: {
      domain: { offset: abi.Detach.domain, bytes: 4 },
      endpoint: { offset: abi.Detach.endpoint, bytes: 4 },
    },
    reserved: { offset: abi.Detach.reserved, bytes: abi.Detach.SIZE - abi.Detach.reserved },
  },
  MAP: {
    type: abi.VIRTIO_IOMMU_T_MAP,
    size: abi.MapRequest.SIZE,
    fields: {
      domain: { offset: abi.MapRequest.domain, bytes: 4 },
      virt_start: { offset: abi.MapRequest.virt_start, bytes: 8 },
      virt_end: { offset: abi.MapRequest.virt_end, bytes: 8 },
      phys_start: { offset: abi.MapRequest.phys_start, bytes: 8 },
      flags: { offset: abi.MapRequest.flags, bytes: 4, optional: true },
    },
    reserved: undefined,
  },
  UNMAP: {
    type: abi.VIRTIO_IOMMU_T_UNMAP,
    size: abi.Unmap.SIZE,
    fields: {
      domain: { offset: abi.Unmap.domain, bytes: 4 },
      virt_start: { offset: abi.Unmap.virt_start, bytes: 8 },
      virt_end: { offset: abi.Unmap.virt_end, bytes: 8 },
    },
    reserved: { offset: abi.Unmap.reserved, bytes: abi.Unmap.SIZE - abi.Unmap.reserved },
  },
  PROBE: {
    type: abi.VIRTIO_IOMMU_T_PROBE,
    size: abi.Probe.SIZE,
    fields: { endpoint: { offset: abi.Probe.endpoint, bytes: 4 } },
    reserved: { offset: abi.Probe.reserved, bytes: abi.Probe.SIZE - abi.Probe.reserved },
  },
};

const FRAMING = [
  'op',
  'type',
  'head_reserved',
  'readable_len',
  'writable_len',
  'prefill',
  'readable_layout',
  'writable_layout',
  'indirect',
  'indirect_table_write_flag',
  'tail_in_readable',
  'status_at',
  'order',
];
/** What writable parts hold before the device writes them. */
export const DEFAULT_PREFILL = 0xa5;

const length = count(0, MAX_PART_BYTES);

/** Reads a `req` or a `raw`; `probeSize` is the device's. */
export function readRequest(probeSize: number): Read<ChainSpec> {
  return (value, key) =>
    tagOf(value, key, 'op', ['req', 'raw']) === 'raw' ? raw(value, key) : req(probeSize)(value, key);
}

/** Reads a `repeat`: the first request, and what grows from one to the next. */
export function readRepeat(
  probeSize: number,
  value: unknown,
  key: string,
): { readonly chain: ChainSpec; readonly count: number; readonly steps: FieldStep[] } {
  const fields = new Fields(value, key, ['op', 'request', 'count', 'step']);
  const chain = fields.required('request', req(probeSize));
  const repeats = fields.required('count', count(1, MAX_REPEAT));
  const struct = STRUCTS[chain.name as TypeName];
  const steps = fields.optional('step', (steps_, at) =>
    readSteps(struct, fields.required('request', object), steps_, at),
  );
  return { chain, count: repeats, steps: steps ?? [] };
}

/** Reads a `req` only. */
export function req(probeSize: number): Read<ChainSpec> {
  return (value, key) => {
    tagOf(value, key, 'op', ['req']);
    const name = tagOf(value, key, 'type', TYPES);
    const struct = STRUCTS[name];
    const own = [...Object.keys(struct.fields), ...(struct.reserved === undefined ? [] : ['reserved'])];
    const fields = new Fields(value, key, [...FRAMING, ...own, ...(name === 'PROBE' ? ['probe_size'] : [])]);
    const structBytes = fields.optional('readable_len', length) ?? struct.size;
    const prefill = fields.optional('prefill', hexBytes(1))?.[0] ?? DEFAULT_PREFILL;
    const tailInReadable = fields.optional('tail_in_readable', flag) ?? false;
    const readable = new Uint8Array(structBytes + (tailInReadable ? abi.Tail.SIZE : 0));
    readable.set(encodeStruct(struct, fields).subarray(0, structBytes));
    // A tail in the wrong part holds the prefill too, so that a status written there shows.
    readable.fill(prefill, structBytes);
    const properties = name === 'PROBE' ? (fields.optional('probe_size', length) ?? probeSize) : 0;
    const writableLength = fields.optional('writable_len', length) ?? properties + (tailInReadable ? 0 : abi.Tail.SIZE);
    return {
      name,
      readable,
      structBytes: Math.min(structBytes, struct.size),
      writableLength,
      prefill,
      statusAt: fields.optional('status_at', list(length, 1, 64)) ?? tailOf(writableLength),
      ...readFraming(fields, readable.length, writableLength, tailInReadable),
    };
  };
}

function readFraming(
  fields: Fields,
  readableLength: number,
  writableLength: number,
  tailInReadable: boolean,
): Pick<ChainSpec, 'readableLayout' | 'writableLayout' | 'indirect' | 'indirectTableWriteFlag' | 'writableFirst'> {
  let readableLayout = fields.optional('readable_layout', layout);
  if (tailInReadable && readableLayout !== undefined && sum(readableLayout) === readableLength - abi.Tail.SIZE) {
    readableLayout = [...readableLayout, abi.Tail.SIZE];
  }
  const writableLayout = fields.optional('writable_layout', layout);
  checkSum(fields, 'readable_layout', readableLayout, readableLength);
  checkSum(fields, 'writable_layout', writableLayout, writableLength);
  const order = fields.optional('order', (value, key) =>
    value === 'writable_first' ? value : refuse(key, 'only writable_first is an order of a request'),
  );
  return {
    readableLayout: readableLayout ?? emptyLayout(readableLength, writableLength, writableLayout),
    writableLayout,
    indirect: fields.optional('indirect', (value, key) => (value === 'tail' ? value : flag(value, key))),
    indirectTableWriteFlag: fields.optional('indirect_table_write_flag', flag) ?? false,
    writableFirst: order !== undefined,
  };
}

function raw(value: unknown, key: string): ChainSpec {
  const fields = new Fields(value, key, ['op', 'readable', 'writable_len']);
  const readable = fields.required('readable', hexBytes(MAX_PART_BYTES));
  const writableLength = fields.required('writable_len', length);
  return {
    name: 'raw',
    readable,
    structBytes: readable.length,
    writableLength,
    prefill: DEFAULT_PREFILL,
    statusAt: tailOf(writableLength),
    readableLayout: emptyLayout(readable.length, writableLength, undefined),
    writableLayout: undefined,
    indirect: undefined,
    indirectTableWriteFlag: false,
    writableFirst: false,
  };
}

function encodeStruct(struct: Struct, fields: Fields): Uint8Array {
  const bytes = new Uint8Array(struct.size);
  bytes[abi.Head.type] = struct.type;
  bytes.set(fields.optional('head_reserved', hexBytes(abi.Head.SIZE - abi.Head.reserved)) ?? [], abi.Head.reserved);
  if (struct.reserved !== undefined) {
    const { offset, bytes: room } = struct.reserved;
    bytes.set(fields.optional('reserved', hexBytes(room)) ?? [], offset);
  }
  for (const [name, field] of Object.entries(struct.fields)) {
    const read = wide((1n << BigInt(8 * field.bytes)) - 1n);
    const number = field.optional === true ? (fields.optional(name, read) ?? 0n) : fields.required(name, read);
    writeField(bytes, field.offset, field.bytes, number);
  }
  return bytes;
}

function readSteps(
  struct: Struct,
  request: Readonly<Record<string, unknown>>,
  value: unknown,
  key: string,
): FieldStep[] {
  const steps = new Fields(value, key, Object.keys(struct.fields));
  return Object.entries(struct.fields).flatMap(([name, { offset, bytes }]) => {
    const limit = (1n << BigInt(8 * bytes)) - 1n;
    const step = steps.optional(name, wide(limit));
    return step === undefined ? [] : [{ offset, bytes, step, start: wide(limit)(request[name] ?? 0, name) }];
  });
}

const object: Read<Readonly<Record<string, unknown>>> = (value) => value as Readonly<Record<string, unknown>>;

/** Writes the low bytes of `value`, as many as there are from `offset` to the end of `bytes`, at most `size`. */
export function writeField(bytes: Uint8Array, offset: number, size: number, value: bigint): void {
  for (let i = 0; i < size && offset + i < bytes.length; i++) {
    bytes[offset + i] = Number((value >> BigInt(8 * i)) & 0xffn);
  }
}

function tailOf(writableLength: number): number[] {
  return writableLength >= abi.Tail.SIZE ? [writableLength - abi.Tail.SIZE] : [];
}

/** A chain needs one descriptor at least, if only one of length 0. */
function emptyLayout(
  readableLength: number,
  writableLength: number,
  writableLayout: readonly number[] | undefined,
): readonly number[] | undefined {
  return readableLength === 0 && writableLength === 0 && writableLayout === undefined ? [0] : undefined;
}

function checkSum(fields: Fields, name: string, lengths: readonly number[] | undefined, total: number): void {
  if (lengths === undefined || sum(lengths) === total) return;
  const key = fields.key === '' ? name : `${fields.key}.${name}`;
  refuse(key, `the descriptors hold ${sum(lengths)} bytes, that part of the request has ${total}`);
}

function sum(lengths: readonly number[]): number {
  return lengths.reduce((total, each) => total + each, 0);
}

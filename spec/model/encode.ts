// Encodes the requests of a vector file as bytes, from the golden layouts alone.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Num, RawOp, RequestOp } from '../vector-format.ts';
import { writeLe } from './bytes.ts';

export interface EncodedRequest {
  readonly readable: Uint8Array;
  readonly writableLength: number;
  readonly prefill: number;
  /** Offsets in the writable part where the status may stand. */
  readonly statusAt: readonly number[];
  /** The case asks for a descriptor arrangement of its own. */
  readonly framed: boolean;
}

interface Layout {
  readonly size: number;
  readonly requestType: number;
  readonly fields: readonly {
    readonly name: string;
    readonly offset: number;
    readonly size: number;
    readonly type: string;
  }[];
}

const TYPES = ['ATTACH', 'DETACH', 'MAP', 'UNMAP', 'PROBE'] as const;
const LAYOUTS = Object.fromEntries(
  TYPES.map((type) => {
    const file = join(import.meta.dirname, '..', 'layout', `${type.toLowerCase()}.json`);
    return [type, JSON.parse(readFileSync(file, 'utf8')) as Layout];
  }),
) as Readonly<Record<RequestOp['type'], Layout>>;

/** `probeSize` is that of the device; a PROBE may bring another one. */
export function encodeRequest(op: RequestOp | RawOp, probeSize: number): EncodedRequest {
  if (op.op === 'raw') {
    const readable = Uint8Array.from(Buffer.from(op.readable, 'hex'));
    return {
      readable,
      writableLength: op.writable_len,
      prefill: 0xa5,
      statusAt: tailOf(op.writable_len),
      framed: false,
    };
  }
  const layout = LAYOUTS[op.type];
  const full = new Uint8Array(layout.size);
  full[0] = layout.requestType;
  full.set(Buffer.from(op.head_reserved ?? '', 'hex'), 1);
  const values = op as unknown as Readonly<Record<string, Num | undefined>>;
  for (const field of layout.fields) {
    if (field.name === 'reserved')
      full.set(Buffer.from(op.reserved ?? '', 'hex').subarray(0, field.size), field.offset);
    else if (field.name !== 'head') writeLe(full, field.offset, field.size, BigInt(values[field.name] ?? 0));
  }
  const readable = new Uint8Array((op.readable_len ?? full.length) + (op.tail_in_readable === true ? 4 : 0));
  readable.set(full.subarray(0, readable.length));
  const writableLength = op.writable_len ?? (op.type === 'PROBE' ? (op.probe_size ?? probeSize) + 4 : 4);
  return {
    readable,
    writableLength,
    prefill: Number.parseInt(op.prefill ?? 'a5', 16),
    statusAt: op.status_at ?? tailOf(writableLength),
    framed: op.readable_layout !== undefined || op.writable_layout !== undefined || op.indirect !== undefined,
  };
}

function tailOf(writableLength: number): number[] {
  return writableLength >= 4 ? [writableLength - 4] : [];
}

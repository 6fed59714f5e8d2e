// Turns a request operation into bytes and into descriptors. Not here: placing them in a ring (DriverQueue does).
import type { DriverRequest } from '../../src/testing/driver-request.ts';
import type { RequestOp } from './sequence.ts';
import { T } from './sequence.ts';

const STRUCT_BYTES: Readonly<Record<number, number>> = {
  [T.ATTACH]: 20,
  [T.DETACH]: 20,
  [T.MAP]: 36,
  [T.UNMAP]: 28,
  [T.PROBE]: 72,
};
const UNKNOWN_BYTES = 36;
const TAIL_BYTES = 4;
/** What stands behind the struct in a longer readable part. */
const FILLER = 0x5a;
/** What stands in the writable part before. */
export const PREFILL = 0xa5;

/** Readable part: the struct, cut or filled up to the length that the operation asks for. */
export function requestBytes(op: RequestOp): Uint8Array {
  const natural = STRUCT_BYTES[op.type] ?? UNKNOWN_BYTES;
  const length = Math.max(natural + op.readableDelta, 0);
  const bytes = new Uint8Array(Math.max(length, 80)).fill(FILLER, natural);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, ((op.headReserved << 8) | (op.type & 0xff)) >>> 0, true);
  if (op.type === T.PROBE) {
    view.setUint32(4, op.endpoint, true);
    view.setUint32(8, op.reserved, true);
    return bytes.subarray(0, length);
  }
  view.setUint32(4, op.domain, true);
  if (op.type === T.ATTACH || op.type === T.DETACH) {
    view.setUint32(8, op.endpoint, true);
    view.setUint32(12, op.type === T.ATTACH ? op.flags : op.reserved, true);
    view.setUint32(16, op.type === T.ATTACH ? op.reserved : 0, true);
    return bytes.subarray(0, length);
  }
  view.setBigUint64(8, op.start, true);
  view.setBigUint64(16, op.end, true);
  if (op.type === T.UNMAP) {
    view.setUint32(24, op.reserved, true);
  } else {
    view.setBigUint64(24, op.phys, true);
    view.setUint32(32, op.flags, true);
  }
  return bytes.subarray(0, length);
}

/** Bytes of the writable part. */
export function writableBytes(op: RequestOp, probeSize: number): number {
  return Math.max((op.type === T.PROBE ? probeSize : 0) + TAIL_BYTES + op.writableDelta, 0);
}

/** A framed request, and whether its readable bytes stand behind writable ones, so that it goes back unwritten. */
export interface Framed {
  readonly request: DriverRequest;
  readonly outOfOrder: boolean;
}

/**
 * Cuts a request into descriptors as `framing` says: bits 0-1 direct, indirect table, one direct then a table, table with
 * the WRITE flag; bits 2-3 no cuts, two pieces, many pieces, pieces of length 0 between; bits 4-8 all set: writable part
 * first; bits 9 and up choose where to cut. What does not fit into `queueSize` descriptors is not cut.
 */
export function frame(
  framing: number,
  readable: Uint8Array,
  writableLength: number,
  queueSize: number,
  indirectUsable: boolean,
): Framed {
  const style = (framing >> 2) & 3;
  const cutSeed = framing >>> 9;
  let readableLayout = cut(readable.length, style, cutSeed);
  let writableLayout = cut(writableLength, style, cutSeed * 7 + 3);
  if (readableLayout.length + writableLayout.length > queueSize) {
    readableLayout = readable.length === 0 ? [] : [readable.length];
    writableLayout = writableLength === 0 ? [] : [writableLength];
  }
  if (readableLayout.length + writableLayout.length === 0) readableLayout = [0];
  const descriptors = readableLayout.length + writableLayout.length;
  if (descriptors > queueSize) {
    // A queue of one entry has room for one descriptor.
    return { request: { readable, writableLength: 0, readableLayout: [readable.length] }, outOfOrder: false };
  }
  const mode = indirectUsable ? framing & 3 : 0;
  const writableFirst = ((framing >> 4) & 31) === 31;
  return {
    request: {
      readable,
      writableLength,
      readableLayout,
      writableLayout,
      prefill: PREFILL,
      indirect: mode === 0 ? false : mode === 2 ? 'tail' : true,
      indirectTableWriteFlag: mode === 3,
      writableFirst,
    },
    outOfOrder: writableFirst && readable.length > 0 && writableLength > 0,
  };
}

function cut(length: number, style: number, seed: number): number[] {
  if (style === 0) return length === 0 ? [] : [length];
  const layout: number[] = [];
  let left = length;
  let state = seed + 1;
  const most = style === 1 ? 2 : 12;
  while (left > 0 && layout.length + 1 < most) {
    state = (Math.imul(state, 0x9e37_79b1) ^ (state >>> 15)) >>> 0;
    if (style === 3 && (state & 3) === 0) {
      layout.push(0);
      continue;
    }
    const piece = 1 + ((state >>> 8) % Math.min(left, style === 1 ? left : 16));
    layout.push(piece);
    left -= piece;
  }
  if (left > 0) layout.push(left);
  if (style === 3) layout.push(0);
  return layout;
}

// PROBE of the reference model: the whole writable part of the reply.
import { readLe, writeLe } from './bytes.ts';
import type { ModelState } from './state.ts';
import { STATUS, findEndpoint } from './state.ts';

const PROPERTY_BYTES = 24;
const RESV_MEM = 1n;
const RESV_MEM_LENGTH = 20n;

/** Returns the writable part: properties or zeroes, then the tail in the LAST four bytes. `writableLength` is at least 4. */
export function probe(state: ModelState, bytes: Uint8Array, writableLength: number): Uint8Array {
  const reply = new Uint8Array(writableLength);
  const tail = writableLength - 4;
  const endpoint = findEndpoint(state, Number(readLe(bytes, 4, 4)));
  if (endpoint === undefined) {
    reply[tail] = STATUS.NOENT;
    return reply;
  }
  if (tail < state.options.probeSize) {
    reply[tail] = STATUS.INVAL;
    return reply;
  }
  if (endpoint.regions.length * PROPERTY_BYTES > state.options.probeSize) {
    reply[tail] = STATUS.DEVERR;
    return reply;
  }
  let at = 0;
  const regions = [...endpoint.regions].sort((a, b) => (a.start < b.start ? -1 : 1));
  for (const region of regions) {
    writeLe(reply, at, 2, RESV_MEM);
    writeLe(reply, at + 2, 2, RESV_MEM_LENGTH);
    reply[at + 4] = region.kind === 'msi' ? 1 : 0;
    writeLe(reply, at + 8, 8, region.start);
    writeLe(reply, at + 16, 8, region.end);
    at += PROPERTY_BYTES;
  }
  reply[tail] = STATUS.OK;
  return reply;
}

// What became of one request, in the words of a vector file: the results that hold for it, and the bytes it brought back.
import { Tail } from '../../wire/abi.ts';
import type { CompletedChain } from '../driver-request.ts';
import { STATUS_NAMES } from '../../iommu/status.ts';
import type { ChainSpec } from './vector-types.ts';

/** What became of a request. */
export interface Reply {
  readonly name: string;
  /** Result names that hold; none of them for an answer that has no name. */
  readonly results: readonly string[];
  /** The same for a message. */
  readonly seen: string;
  /** Used length, -1 when the chain is not in the used ring. */
  readonly usedLength: number;
  readonly writable: Uint8Array;
  readonly prefill: number;
  /** Where the status was found, -1 when there is none. */
  readonly statusOffset: number;
}

/** An operation that is no request. */
export const NO_REQUEST: Reply = {
  name: 'operation',
  results: ['N/A'],
  seen: 'N/A',
  usedLength: -1,
  writable: new Uint8Array(0),
  prefill: 0,
  statusOffset: -1,
};

/** Names what came back for `chain`; `completed` undefined: it is not in the used ring. */
export function replyOf(chain: ChainSpec, completed: CompletedChain | undefined, needsReset: boolean): Reply {
  const { name, prefill, statusAt } = chain;
  if (completed === undefined) {
    const results = needsReset ? ['NEEDS_RESET', 'NOT_CONSUMED'] : ['NOT_CONSUMED'];
    return { ...NO_REQUEST, name, prefill, results, seen: results[0]! };
  }
  const { usedLength, writable } = completed;
  const changed = writable.some((byte) => byte !== prefill);
  const base = { name, prefill, usedLength, writable };
  if (usedLength === 0) {
    const seen = changed ? 'an answer written with used length 0' : 'NOT_WRITTEN';
    return { ...base, seen, ...named(changed ? undefined : seen, needsReset), statusOffset: -1 };
  }
  if (usedLength > writable.length) {
    const seen = `used length ${usedLength} for ${writable.length} writable bytes`;
    return { ...base, seen, ...named(undefined, needsReset), statusOffset: -1 };
  }
  // The first place that was written; when a status equals the prefill nothing shows it, and the last place holds it.
  const inside = statusAt.filter((offset) => offset < writable.length);
  const statusOffset = inside.find((offset) => writable[offset] !== prefill) ?? inside.at(-1) ?? -1;
  const status = writable[statusOffset];
  const known = status === undefined ? undefined : STATUS_NAMES[status];
  const seen = known ?? (status === undefined ? 'an answer without room for a status' : `status ${status}`);
  return { ...base, seen, ...named(known, needsReset), statusOffset };
}

/** A request that was answered may have made the device ask for a reset all the same. */
function named(result: string | undefined, needsReset: boolean): Pick<Reply, 'results'> {
  return { results: [...(result === undefined ? [] : [result]), ...(needsReset ? ['NEEDS_RESET'] : [])] };
}

/** The bytes before and behind the tail: properties of a PROBE reply and whatever else is not status. */
export function propertyBytes(reply: Reply): Uint8Array {
  const { writable, statusOffset } = reply;
  return statusOffset < 0 ? writable : writable.subarray(0, statusOffset);
}

/** True when a tail was written. */
export function hasTail(reply: Reply): boolean {
  return reply.statusOffset >= 0 && reply.statusOffset + Tail.SIZE <= reply.writable.length;
}

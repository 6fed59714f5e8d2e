// What becomes of one access of an endpoint in the reference model, and the fault record that it gives.
import { writeLe } from './bytes.ts';
import type { ModelEndpoint, ModelState } from './state.ts';
import { findEndpoint, granuleOf, inputRangeOf, isNegotiated, isOffered } from './state.ts';

export type Direction = 'R' | 'W';

/** A fault record; `bytes` is what stands in the event buffer. */
export interface ModelFault {
  readonly reason: 'DOMAIN' | 'MAPPING';
  readonly flags: number;
  readonly endpoint: number;
  readonly address: bigint;
  readonly bytes: Uint8Array;
}

/** A guest-physical address, or FAULT = blocked, or MSI = delivered as an interrupt. */
export interface ModelAccess {
  readonly result: bigint | 'FAULT' | 'MSI';
  /** Only with FAULT, and only for endpoints that exist. */
  readonly fault: ModelFault | undefined;
}

const REASON = { DOMAIN: 1, MAPPING: 2 } as const;
const RIGHT = { R: 1, W: 2 } as const;
const FAULT_F_ADDRESS = 0x100;

/** One byte at `iova` (0 to 2^64-1). */
export function access(state: ModelState, endpointId: number, iova: bigint, direction: Direction): ModelAccess {
  const endpoint = findEndpoint(state, endpointId);
  // A record has to name an endpoint that exists, so there is none for a stranger.
  if (endpoint === undefined) return { result: 'FAULT', fault: undefined };
  // Reserved regions come first, bypass or not; the reason is MAPPING whether attached or not.
  const region = endpoint.regions.find((each) => each.start <= iova && iova <= each.end);
  if (region?.kind === 'msi' && direction === 'W') return { result: 'MSI', fault: undefined };
  if (region !== undefined) return refused('MAPPING', endpoint, iova, direction);
  const domain = endpoint.domain;
  if (domain === undefined && !unattachedBypass(state)) return refused('DOMAIN', endpoint, iova, direction);
  if (domain === undefined || domain.bypass) {
    // Below a 4 KiB granule nothing outside the whole granules of the input range passes, not even in bypass.
    const granule = granuleOf(state);
    const input = inputRangeOf(state);
    const start = (iova / granule) * granule;
    if (granule < 4096n && (start < input.start || start + granule - 1n > input.end)) {
      return refused('MAPPING', endpoint, iova, direction);
    }
    return { result: iova, fault: undefined };
  }
  for (const mapping of domain.mappings) {
    if (mapping.virtStart <= iova && iova <= mapping.virtEnd) {
      if ((mapping.flags & RIGHT[direction]) === 0) return refused('MAPPING', endpoint, iova, direction);
      return { result: iova - mapping.virtStart + mapping.physStart, fault: undefined };
    }
  }
  return refused('MAPPING', endpoint, iova, direction);
}

function unattachedBypass(state: ModelState): boolean {
  if (isOffered(state, 'BYPASS_CONFIG') && state.bypass) return true;
  return isNegotiated(state, 'BYPASS');
}

function refused(
  reason: ModelFault['reason'],
  endpoint: ModelEndpoint,
  address: bigint,
  direction: Direction,
): ModelAccess {
  const flags = RIGHT[direction] | FAULT_F_ADDRESS;
  const bytes = new Uint8Array(24);
  bytes[0] = REASON[reason];
  writeLe(bytes, 4, 4, BigInt(flags));
  writeLe(bytes, 8, 4, BigInt(endpoint.id));
  writeLe(bytes, 16, 8, address);
  return { result: 'FAULT', fault: { reason, flags, endpoint: endpoint.id, address, bytes } };
}

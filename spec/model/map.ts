// MAP and UNMAP of the reference model. The numbered steps are the order of checks of decisions.md;
// that MAP_UNMAP is negotiated was checked by the caller. Both ends of every range INCLUSIVE.
import { anySet, readLe } from './bytes.ts';
import type { ModelState, StatusName } from './state.ts';
import { allDomains, endpointsOf, findDomain, granuleOf, inputRangeOf, isNegotiated, meet } from './state.ts';

const MAP_F_MMIO = 4n;
const KNOWN_FLAGS = 7n;
const LAST_ADDRESS = 0xffff_ffff_ffff_ffffn;

export function map(state: ModelState, bytes: Uint8Array): StatusName {
  const domainId = Number(readLe(bytes, 4, 4));
  const virtStart = readLe(bytes, 8, 8);
  const virtEnd = readLe(bytes, 16, 8);
  const physStart = readLe(bytes, 24, 8);
  const flags = readLe(bytes, 32, 4);
  // 2. Flags that do not exist; MMIO exists only when negotiated.
  if ((flags & ~KNOWN_FLAGS) !== 0n) return 'INVAL';
  if ((flags & MAP_F_MMIO) !== 0n && !isNegotiated(state, 'MMIO')) return 'INVAL';
  // 3. and 4. The domain.
  const domain = findDomain(state, domainId);
  if (domain === undefined) return 'NOENT';
  if (domain.bypass) return 'INVAL';
  // 5. Inverted range. A range of one byte is fine where the granule is one byte.
  if (virtEnd < virtStart) return 'RANGE';
  // 6. Alignment of both starts and of the end, exclusive.
  const granule = granuleOf(state);
  if (virtStart % granule !== 0n || physStart % granule !== 0n || (virtEnd + 1n) % granule !== 0n) return 'RANGE';
  // 7. The physical range must not wrap; below a 4 KiB granule it must end below 2^53.
  const physEnd = physStart + (virtEnd - virtStart);
  if (physEnd > LAST_ADDRESS) return 'RANGE';
  if (granule < 4096n && physEnd >= 2n ** 53n) return 'RANGE';
  // 8. Outside the input range.
  const input = inputRangeOf(state);
  if (virtStart < input.start || virtEnd > input.end) return 'RANGE';
  // 9. Reserved region of any endpoint of the domain.
  for (const endpoint of endpointsOf(state, domain)) {
    for (const region of endpoint.regions) {
      if (meet(virtStart, virtEnd, region.start, region.end)) return 'INVAL';
    }
  }
  // 10. Something is mapped there.
  for (const mapping of domain.mappings) {
    if (meet(virtStart, virtEnd, mapping.virtStart, mapping.virtEnd)) return 'INVAL';
  }
  // 11. Room for one more mapping.
  let count = 0;
  for (const each of allDomains(state)) count += each.mappings.length;
  if (count >= (state.options.maxMappings ?? 32 * 1024 * 1024)) return 'NOMEM';
  domain.mappings.push({ virtStart, virtEnd, physStart, flags: Number(flags) });
  return 'OK';
}

export function unmap(state: ModelState, bytes: Uint8Array): StatusName {
  const domainId = Number(readLe(bytes, 4, 4));
  const virtStart = readLe(bytes, 8, 8);
  const virtEnd = readLe(bytes, 16, 8);
  // 2. Reserved bytes: refused, and nothing is unmapped.
  if (anySet(bytes, 24, 4)) return 'INVAL';
  // 3. and 4. The domain.
  const domain = findDomain(state, domainId);
  if (domain === undefined) return 'NOENT';
  if (domain.bypass) return 'INVAL';
  // 5. Inverted range.
  if (virtEnd < virtStart) return 'RANGE';
  // 6. A mapping that is met has to be covered; alignment and input range do not matter.
  const met = domain.mappings.filter((mapping) => meet(virtStart, virtEnd, mapping.virtStart, mapping.virtEnd));
  for (const mapping of met) {
    if (mapping.virtStart < virtStart || mapping.virtEnd > virtEnd) return 'RANGE';
  }
  domain.mappings = domain.mappings.filter((mapping) => !met.includes(mapping));
  return 'OK';
}

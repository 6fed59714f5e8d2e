// Puts the options of the device, its endpoints, its memory and its hosts together from what a setup says. No logic.
import { POLICIES } from '../../src/coalesce/settings.ts';
import type { GatherMode, Policy } from '../../src/coalesce/settings.ts';
import type { ContextOptions, IommufdContextOptions, MmapOptions } from '../../src/host/simulated.ts';
import type { EndpointInit } from '../../src/iommu/endpoints.ts';
import type { VirtioIommuOptions } from '../../src/iommu/virtio-iommu.ts';
import type { RamRegionInit } from '../../src/virtio/memory.ts';
import type { ContextSetup, RegionSetup, Setup } from './setup.ts';

/** The policy of a name; RangeError for an unknown one. */
export function policyOf(name: string): Policy {
  const policy = POLICIES.find((known) => known === name);
  if (policy === undefined) throw new RangeError(`policy must be one of ${POLICIES.join(', ')}, got ${name}`);
  return policy;
}

/** The options of the device that concern the plan. */
export function planOptions(
  setup: Setup,
  hooks: { readonly pause: (context: string) => boolean; readonly resume: (context: string) => void },
): Partial<VirtioIommuOptions> {
  return {
    policy: policyOf(setup.policy),
    gather: setup.gather as GatherMode,
    maxInstalled: setup.cap,
    ...(setup.maxEntryPages > 0 ? { maxEntryBytes: setup.maxEntryPages * 4096 } : {}),
    ...(setup.lowWater >= 0 ? { lowWater: setup.lowWater } : {}),
    ...(setup.pause === 'none' ? {} : { pauseDma: hooks.pause, resumeDma: hooks.resume }),
  };
}

export function endpointOptions(init: EndpointInit, busMaster: boolean | undefined): EndpointInit {
  return busMaster === undefined ? init : { ...init, busMaster };
}

const isFile = ({ kind }: RegionSetup): boolean => kind === 'memfd' || kind === 'hugetlb';

/** What the embedder says of a file; `sealed: 'untold'` it does not know of the seal. */
export function regionOptions(init: RamRegionInit, region: RegionSetup): RamRegionInit {
  if (!isFile(region)) return init;
  const pageSize = region.kind === 'hugetlb' ? 2 ** 21 : 4096;
  return { ...init, file: { pageSize, ...(region.sealed === 'told' ? { seals: ['future-write'] } : {}) } };
}

/** What the file really is. */
export function mmapOptions(region: RegionSetup, seed: number): Omit<MmapOptions, 'at'> {
  return {
    length: BigInt(region.pages) * 4096n,
    kind: region.kind === 'mmio' ? 'pfnmap' : region.kind,
    ...(region.scattered ? { layout: 'scattered', seed } : {}),
    ...(region.sealed !== 'no' && isFile(region) ? { seals: ['future-write'] } : {}),
  };
}

export function contextOptions(group: number, setup: ContextSetup): ContextOptions | IommufdContextOptions {
  const common = { group, endpoints: setup.endpoints, writeOnlyReadable: setup.writeOnlyReadable };
  const usableRanges = setup.usable.map(([first, end]) => ({
    start: BigInt(first) * 4096n,
    end: BigInt(end) * 4096n - 1n,
  }));
  if (setup.flavour === 'iommufd')
    return { ...common, usableRanges, flavour: 'iommufd', mode: setup.mode, share: setup.share };
  const limits = { entryLimit: setup.entryLimit, entriesLeftOffset: setup.lie };
  if (setup.mediated) return { ...common, ...limits, mediated: true };
  const windows = setup.windowPieces < 0 ? {} : { windowPieces: setup.windowPieces };
  return { ...common, ...limits, ...windows, usableRanges };
}

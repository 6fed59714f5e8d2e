// Builds the machine that a trace was recorded on, as far as its header and records tell.
import type { AddressRange } from '../../base/ranges.ts';
import { cutRanges, mergeRanges, roundOutward } from '../../base/ranges.ts';
import type { ReservedRegion } from '../../base/reserved.ts';
import { U64_MAX } from '../../base/check.ts';
import type { Policy } from '../../coalesce/settings.ts';
import type { FeatureName } from '../../iommu/options.ts';
import { FEATURES } from '../../iommu/options.ts';
import { VIRTIO_IOMMU_RESV_MEM_T_MSI } from '../../wire/abi.ts';
import { LINUX_DRIVER_FEATURES } from '../driver-setup.ts';
import { IommuDriver } from '../iommu-driver.ts';
import type { MemoryRange } from '../l2-memory.ts';
import type { Trace } from '../trace.ts';
import { traceEndpointIds } from '../trace.ts';
import { LabMachine, PC_MSI } from './machine.ts';

/** Where the driver's rings lie: above any RAM of a recorded machine. */
const DRIVER_BASE = 0x100_0000_0000n;
const DEFAULT_QUEUE = 64;
const DEFAULT_PROBE_SIZE = 512;
const PAGE = 4096n;
const LOW_END = 0xc000_0000n;
const HIGH = 0x1_0000_0000n;
const MIB = 0x10_0000n;

/** A machine for a trace; every endpoint has a host context of its own where the granule allows one. */
export function replayMachine(trace: Trace, entryLimit: number, policy: Policy): LabMachine {
  const { header } = trace;
  const features = offeredFeatures(header.featuresOffered);
  const inputRange = header.inputRange ?? { start: 0n, end: U64_MAX };
  const reserved = header.reservedRegions?.map((region): ReservedRegion => ({
    start: region.start,
    end: region.end,
    kind: region.subtype === VIRTIO_IOMMU_RESV_MEM_T_MSI ? 'msi' : 'reserved',
  })) ?? [PC_MSI];
  const granule = header.pageSizeMask === undefined ? PAGE : header.pageSizeMask & -header.pageSizeMask;
  const requestQueueSize = powerOfTwo(header.requestQueueSize ?? DEFAULT_QUEUE);
  const probeSize = header.probeSize ?? DEFAULT_PROBE_SIZE;
  const driverBytes = BigInt(IommuDriver.byteLength(requestQueueSize, DEFAULT_QUEUE, probeSize));
  const ring = roundOutward({ start: DRIVER_BASE, end: DRIVER_BASE + driverBytes - 1n }, PAGE);
  return new LabMachine({
    ram: [...toMemory(header.guestRam ?? guessRam(trace)), ...toMemory([ring])],
    endpoints: traceEndpointIds(trace).map((id) => ({ id, passed: granule >= PAGE, reserved })),
    driverBase: DRIVER_BASE,
    entryLimit,
    usableRanges: cutRanges([inputRange], reserved),
    requestQueueSize,
    driverFeatures: (header.driverFeatures ?? LINUX_DRIVER_FEATURES) & driverMask(features),
    device: {
      features,
      policy,
      probeSize,
      ...(features.includes('inputRange') ? { inputRange } : {}),
      ...(header.pageSizeMask === undefined ? {} : { pageSizeMask: header.pageSizeMask }),
      ...(header.domainRange === undefined ? {} : { domainRange: header.domainRange }),
      ...(header.bypass === undefined ? {} : { bypass: header.bypass }),
      eventQueueSize: DEFAULT_QUEUE,
      // A recording keeps every fault record: so must a replay.
      faults: { perSecond: Infinity },
    },
  });
}

function offeredFeatures(bits: bigint | undefined): readonly FeatureName[] {
  const names = Object.keys(FEATURES) as FeatureName[];
  if (bits === undefined) return names.filter((name) => name !== 'bypass');
  const offered = names.filter((name) => ((bits >> BigInt(FEATURES[name])) & 1n) === 1n);
  return offered.includes('bypassConfig') ? offered.filter((name) => name !== 'bypass') : offered;
}

/** Bits that a recorded driver can have accepted of this device: the rest belongs to the recorded transport. */
function driverMask(features: readonly FeatureName[]): bigint {
  const device = features.reduce((bits, name) => bits | (1n << BigInt(FEATURES[name])), 0n);
  return device | (LINUX_DRIVER_FEATURES & ~0xff_ffffn);
}

/** RAM that holds everything that the trace maps, when the header does not say: low memory and, if need be, above 4 GiB. */
function guessRam(trace: Trace): AddressRange[] {
  let lowEnd = MIB;
  let highEnd = 0n;
  for (const record of trace.records) {
    if (record.op !== 'MAP') continue;
    const end = record.physStart + (record.virtEnd - record.virtStart) + 1n;
    if (record.physStart >= HIGH && end <= DRIVER_BASE) highEnd = end > highEnd ? end : highEnd;
    else if (end <= LOW_END && end > lowEnd) lowEnd = end;
  }
  const low = { start: 0n, end: ((lowEnd + MIB - 1n) & ~(MIB - 1n)) - 1n };
  return highEnd === 0n ? [low] : [low, { start: HIGH, end: ((highEnd + MIB - 1n) & ~(MIB - 1n)) - 1n }];
}

function toMemory(ranges: readonly AddressRange[]): MemoryRange[] {
  return mergeRanges(ranges.map((range) => roundOutward(range, PAGE))).map((range) => ({
    gpa: range.start,
    size: range.end - range.start + 1n,
  }));
}

function powerOfTwo(size: number): number {
  return 2 ** Math.ceil(Math.log2(size));
}

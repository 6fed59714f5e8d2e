// Entry `virtio-iommu/firmware`: readers of reserved memory (DMAR, IVRS, IORT, sysfs, kernel logs), what follows from it,
// and builders of VIOT and device-tree fragments. Bytes or text in, no file access; runs in a browser.
export type { ReservedRegion } from './base/reserved.ts';
export type { AnySource } from './firmware/any-source.ts';
export type { DeviceRef, PathHop } from './firmware/device-ref.ts';
export type { IommuMapEntry } from './firmware/device-tree.ts';
export type { DmarTable, Rmrr } from './firmware/dmar.ts';
export type { Eligibility, GroupMember, Verdict } from './firmware/eligibility.ts';
export type { Component, SharedPair } from './firmware/entanglement.ts';
export type { GroupReservedOptions } from './firmware/group-reserved.ts';
export type { GuestMode, Hole, HotAdd, RamLayout } from './firmware/holes.ts';
export type { IortTable, RmrDescriptor } from './firmware/iort.ts';
export type { Ivmd, IvrsTable } from './firmware/ivrs.ts';
export type { KernelLog } from './firmware/kernel-log.ts';
export type { KernelEra, KernelVersion } from './firmware/kernel-version.ts';
export type { RegionDiff } from './firmware/region-diff.ts';
export type { HostRegion, RegionSource, RegionType } from './firmware/region.ts';
export type { ReportDevice, ReportInput, ReportSource, RmrrReport } from './firmware/report-types.ts';
export type { ResvMem, ResvMemOptions } from './firmware/resv-mem.ts';
export type { ReservedRegionsText, SysfsDevice, SysfsGroup, SysfsSnapshot } from './firmware/sysfs.ts';
export type { ViotConfig, ViotEndpoint, ViotHeader, ViotIommu } from './firmware/viot.ts';
export type { Warning } from './firmware/warnings.ts';
export { parseAnySource } from './firmware/any-source.ts';
export { formatDevice, parseDeviceName } from './firmware/device-ref.ts';
export {
  encodeIommuMap,
  iommuMapAround,
  iommuMapText,
  iommusText,
  mmioIommuNode,
  pciIommuNode,
} from './firmware/device-tree.ts';
export { parseDmar } from './firmware/dmar.ts';
export { assignability, classifyRelaxable } from './firmware/eligibility.ts';
export { entangle, sharedPairs } from './firmware/entanglement.ts';
export { graphSvg } from './firmware/graph-svg.ts';
export { groupReserved } from './firmware/group-reserved.ts';
export { GUEST_MODES, checkHotAdd, guestHoles, layRam, pcRam } from './firmware/holes.ts';
export { parseIort } from './firmware/iort.ts';
export { parseIvrs } from './firmware/ivrs.ts';
export { parseKernelLog } from './firmware/kernel-log.ts';
export { KERNEL_ERAS, eraOf, parseKernelVersion } from './firmware/kernel-version.ts';
export { pciClassName } from './firmware/pci-class.ts';
export { diffRegions } from './firmware/region-diff.ts';
export { X86_MSI_WINDOW } from './firmware/region.ts';
export { remediesFor } from './firmware/remedies.ts';
export { diffJson, holesJson, layoutJson, reportJson } from './firmware/report-json.ts';
export { buildReport } from './firmware/report.ts';
export { RESV_MEM_BYTES, endpointReserved, probeBytes, toResvMem } from './firmware/resv-mem.ts';
export { parseReservedRegions, snapshotRegions } from './firmware/sysfs.ts';
export { PciTopology } from './firmware/topology.ts';
export { buildViot, viotAroundPci } from './firmware/viot.ts';

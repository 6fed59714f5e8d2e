// Entry `virtio-iommu/host`: what needs the host: its files, and the native addon for guest RAM and VFIO. Node only.
// Loading this entry needs no addon; the first use of it does, and says how to build it when it is missing.
export { EventCounter } from './host/event-counter.ts';
export { FileSeal, GuestRam } from './host/guest-ram.ts';
export type { AdoptOptions, AllocationProgress, GuestRamOptions, GuestRamRegion } from './host/guest-ram.ts';
export { lockedMemory, nativeIsAvailable } from './host/native.ts';
export type { HostFacts, HostRoots } from './host/sysfs.ts';
export { groupMembers, readHost, readSysfs } from './host/sysfs.ts';
export { CONFIG_REGION, IrqKind, RegionFlag, VfioDevice } from './host/vfio-device.ts';
export type { MappedRegisters, VfioRegion } from './host/vfio-device.ts';
export { VfioType1Context } from './host/vfio-type1.ts';
export type { VfioType1Options } from './host/vfio-type1.ts';

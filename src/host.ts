// Entry `virtio-iommu/host`: what needs the host: its files, and the native addon for guest RAM and VFIO. Node only.
// Loading this entry needs no addon; the first use of it does, and says how to build it when it is missing.
export { EventCounter } from './host/event-counter.ts';
export { FileSeal, GuestRam } from './host/guest-ram.ts';
export type { AdoptOptions, AllocationProgress, GuestRamOptions, GuestRamRegion } from './host/guest-ram.ts';
export { IommufdContext, IommufdIoas, iommufdIsAvailable, iommufdLack } from './host/iommufd.ts';
export type { IommufdOptions } from './host/iommufd.ts';
export { lockedMemory, nativeIsAvailable } from './host/native.ts';
export { openHostContext } from './host/open-host.ts';
export type { Backend, BackendChoice, OpenHostOptions } from './host/open-host.ts';
export { groupOfDevice, hostReserved, passthroughEndpoint } from './host/reserved.ts';
export type {
  GroupName,
  GroupReservedOptions,
  HostReservedOptions,
  PassthroughEndpoint,
  PassthroughOptions,
} from './host/reserved.ts';
export type { CheckState, HostCheck } from './host/survey-check.ts';
export { judgeDevice } from './host/survey-judge.ts';
export type { DeviceJudgement, GroupMate, JudgeOptions, PassVerdict } from './host/survey-judge.ts';
export { surveyHost } from './host/survey.ts';
export type { HostSurvey } from './host/survey.ts';
export type { HostFacts, HostRoots } from './host/sysfs.ts';
export { groupMembers, readHost, readSysfs } from './host/sysfs.ts';
export { CONFIG_REGION, IrqKind, RegionFlag, VfioDevice } from './host/vfio-device.ts';
export type { MappedRegisters, VfioRegion } from './host/vfio-device.ts';
export { VfioType1Context } from './host/vfio-type1.ts';
export type { VfioType1Options } from './host/vfio-type1.ts';

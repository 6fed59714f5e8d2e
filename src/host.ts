// Entry `virtio-iommu/host`: what needs the host's files. Node only.
export type { HostFacts, HostRoots } from './host/sysfs.ts';
export { groupMembers, readHost, readSysfs } from './host/sysfs.ts';

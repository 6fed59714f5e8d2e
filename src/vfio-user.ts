// Entry `virtio-iommu/vfio-user`: serves a PCI function to another process over the vfio-user protocol. Linux, native addon.
export type { FunctionBar, PciFunction } from './vfio-user/function.ts';
export type { VfioUserLogEntry, VfioUserServerOptions } from './vfio-user/options.ts';
export { VfioUserServer } from './vfio-user/server.ts';
export type { VfioUserStats } from './vfio-user/server.ts';

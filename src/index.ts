// Entry `virtio-iommu`: the device and what an embedder needs around it. Runs in a browser; composition only.
export type { HostErrorCode } from './base/errors.ts';
export type { Listener } from './base/events.ts';
export type { AddressRange } from './base/ranges.ts';
export type { ReservedKind, ReservedRegion } from './base/reserved.ts';
export type { GatherMode, Policy } from './coalesce/settings.ts';
export type { HostContext, HostLimits, SharingContext } from './host/context.ts';
export type { AccessFault, AccessPiece, TranslateResult } from './iommu/core.ts';
export type { DmaResult, MsiSink } from './iommu/dma-view.ts';
export type { EndpointInit } from './iommu/endpoints.ts';
export type {
  ContextBlockedEvent,
  ContextSwitchedEvent,
  FaultEvent,
  HostRefusalEvent,
  IommuEvent,
  MmioLeftOutEvent,
  RequestEvent,
  RingBrokenEvent,
} from './iommu/events.ts';
export type { FaultLimits, FeatureName, IommuOptions, ReservedOverflow } from './iommu/options.ts';
export type { ContextStats, IommuStats } from './iommu/stats.ts';
export type { Status } from './iommu/status.ts';
export type { VirtioIommuOptions } from './iommu/virtio-iommu.ts';
export type {
  ConfigWidth,
  QueueSetup,
  RingFeatureName,
  TransportPort,
  VirtioDeviceModel,
  VirtioDeviceOptions,
} from './virtio/device.ts';
export type {
  FileSeal,
  MemoryObserver,
  MemoryRegion,
  MmioAccess,
  MmioRegionInit,
  RamRegionInit,
  RegionFile,
} from './virtio/memory.ts';
export type { VirtioMmioOptions } from './virtio/mmio/virtio-mmio-device.ts';
export type { MsixMessage, PciBar, PciInterrupts, VirtioPciOptions } from './virtio/pci/virtio-pci-function.ts';
export type { Virtqueue } from './virtio/virtqueue.ts';
export { Errno, HostError, errnoName, isHostError } from './base/errors.ts';
export { normaliseReserved } from './base/reserved.ts';
export { GATHER_MODES, POLICIES } from './coalesce/settings.ts';
export { HOST_MMIO, HOST_PAGE_SHIFT, HostBatch, HostOp, HostRight, isSharing } from './host/context.ts';
export {
  DmaProber,
  SimulatedAddressSpace,
  SimulatedHost,
  SimulatedIommufdContext,
  SimulatedType1Context,
} from './host/simulated.ts';
export { IommuCore } from './iommu/core.ts';
export { DmaView } from './iommu/dma-view.ts';
export { STATUS_NAMES } from './iommu/status.ts';
export { PieceKind, Translation } from './iommu/translation.ts';
export { VirtioIommu } from './iommu/virtio-iommu.ts';
export { DescriptorChain } from './virtio/chain.ts';
export { VirtioDevice } from './virtio/device.ts';
export { Feature, Status as DeviceStatus } from './virtio/features.ts';
export { GuestMemory } from './virtio/memory.ts';
export { VirtioMmioDevice } from './virtio/mmio/virtio-mmio-device.ts';
export { PackedQueue } from './virtio/packed-queue.ts';
export { PCI_CONFIG_BYTES, VirtioPciFunction } from './virtio/pci/virtio-pci-function.ts';
export { PopResult } from './virtio/virtqueue.ts';
export { SplitQueue } from './virtio/split-queue.ts';

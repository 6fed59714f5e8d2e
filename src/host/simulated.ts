// Public names of the simulated host: VFIO type1 v2 rules, process memory, DMA prober, fault injection. No logic.
export { SimulatedAddressSpace } from './simulated/address-space.ts';
export type { MappedMemory, MemoryByte, MemoryProtection, MmapOptions } from './simulated/address-space.ts';
export { BackingObject } from './simulated/backing-object.ts';
export type { BackingKind } from './simulated/backing-object.ts';
export type { FaultSelection, OperationKind } from './simulated/fault-plan.ts';
export { SimulatedHost, VTD_PAGE_SIZES, VTD_USABLE_RANGES } from './simulated/host.ts';
export type {
  ContextOptions,
  HostLimitOptions,
  IommufdContextOptions,
  SimulatedHostOptions,
} from './simulated/host.ts';
export type { ReachableRun } from './simulated/io-page-table.ts';
export type { HostCosts, OperationObserver, SimulatedOperation } from './simulated/machine.ts';
export { DmaProber } from './simulated/prober.ts';
export { SimulatedIommufdContext } from './simulated/iommufd-context.ts';
export type { IoasCopyArguments, IommufdMode } from './simulated/iommufd-context.ts';
export { IoasFlag } from './simulated/iommufd-rules.ts';
export type { IoasMapArguments, IoasUnmapArguments } from './simulated/iommufd-rules.ts';
export type { ContextStatistics } from './simulated/simulated-context.ts';
export { SimulatedType1Context } from './simulated/type1-context.ts';
export type { HostEntry, Type1Statistics } from './simulated/type1-context.ts';
export { MapFlag, UnmapFlag } from './simulated/type1-rules.ts';
export type { IoctlResult, KernelVersion, MapArguments, UnmapArguments } from './simulated/type1-rules.ts';

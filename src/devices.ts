// Entry `virtio-iommu/devices`: emulated devices behind the IOMMU, whose DMA goes through a DmaView.
export type { DmaAccess } from './devices/dma-access.ts';
export type { DmaEngineOptions, DmaEngineStats } from './devices/dma-engine.ts';
export type { EntropyName, EntropySource } from './devices/entropy.ts';
export type { IrqKindName, PassedDevice, VfioFunctionOptions, VfioFunctionStats } from './devices/vfio-function.ts';
export type { VirtioRngOptions, VirtioRngStats } from './devices/virtio-rng.ts';
export { UntranslatedDma } from './devices/dma-access.ts';
export { DmaEngine } from './devices/dma-engine.ts';
export {
  ENGINE_BAR_BYTES,
  ENGINE_ID,
  ENGINE_MAX_LENGTH,
  EngineCommand,
  EngineRegister,
  EngineStatus,
} from './devices/dma-engine-registers.ts';
export { DmaRingMemory } from './devices/dma-ring-memory.ts';
export { VfioFunction } from './devices/vfio-function.ts';
export { VfioInterrupts } from './devices/vfio-function-irqs.ts';
export { VirtioRng } from './devices/virtio-rng.ts';

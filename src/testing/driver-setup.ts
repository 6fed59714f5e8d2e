// How a virtio-iommu driver brings its device up: features, configuration, order of the status bits.
// Values are those of Linux (drivers/iommu/virtio-iommu.c, 6.1 to 7.2). Ranges have INCLUSIVE ends, as on the wire.
import type { AddressRange } from '../base/ranges.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { Virtqueue } from '../virtio/virtqueue.ts';
import { U32_MAX, U64_MAX, hex } from '../base/check.ts';
import { Feature, Status } from '../virtio/features.ts';
import {
  Config,
  VIRTIO_IOMMU_F_BYPASS_CONFIG,
  VIRTIO_IOMMU_F_DOMAIN_RANGE,
  VIRTIO_IOMMU_F_INPUT_RANGE,
  VIRTIO_IOMMU_F_MAP_UNMAP,
  VIRTIO_IOMMU_F_MMIO,
  VIRTIO_IOMMU_F_PROBE,
} from '../wire/abi.ts';

/** What a driver needs of its device; a {@link VirtioDevice}, or a transport that shows the same. */
export type DriverDevice = Pick<
  VirtioDevice,
  | 'offeredFeatures'
  | 'status'
  | 'writeStatus'
  | 'setDriverFeatures'
  | 'readConfig'
  | 'writeConfig'
  | 'setupQueue'
  | 'enableQueue'
  | 'notify'
> & {
  /** What the device offers of a queue. */
  queue(index: number): Pick<Virtqueue, 'maxSize'>;
};

/** Features that Linux accepts when they are offered: never BYPASS (3). */
export const LINUX_DRIVER_FEATURES: bigint = [
  VIRTIO_IOMMU_F_INPUT_RANGE,
  VIRTIO_IOMMU_F_DOMAIN_RANGE,
  VIRTIO_IOMMU_F_MAP_UNMAP,
  VIRTIO_IOMMU_F_PROBE,
  VIRTIO_IOMMU_F_MMIO,
  VIRTIO_IOMMU_F_BYPASS_CONFIG,
].reduce((mask, bit) => mask | (1n << BigInt(bit)), Feature.version1 | Feature.indirectDesc | Feature.eventIdx);

/** The configuration as the driver understands it; a field without its feature has the value that the standard names. */
export interface DriverConfig {
  readonly pageSizeMask: bigint;
  readonly inputRange: AddressRange;
  readonly domainRange: { readonly start: number; readonly end: number };
  /** 0 without the feature PROBE. */
  readonly probeSize: number;
  /** Undefined without the feature BYPASS_CONFIG. */
  readonly bypass: boolean | undefined;
}

/** Where the driver put a queue and how large it is. */
export interface QueuePlace {
  readonly size: number;
  readonly desc: bigint;
  readonly avail: bigint;
  readonly used: bigint;
}

/** Resets the device and negotiates; Error when it refuses the features (the device is then in state FAILED). */
export function negotiate(device: DriverDevice, features: bigint): void {
  device.writeStatus(0);
  device.writeStatus(Status.acknowledge);
  device.writeStatus(Status.acknowledge | Status.driver);
  device.setDriverFeatures(features);
  device.writeStatus(Status.acknowledge | Status.driver | Status.featuresOk);
  if ((device.status & Status.featuresOk) === 0) {
    device.writeStatus(Status.acknowledge | Status.driver | Status.failed);
    throw new Error(`the device refused the features ${hex(features)}`);
  }
}

/** Sets the queues up in the order of their number and sets DRIVER_OK. */
export function runQueues(device: DriverDevice, queues: readonly QueuePlace[]): void {
  queues.forEach(({ size, desc, avail, used }, index) => {
    device.setupQueue(index, { size, desc, avail, used });
    device.enableQueue(index);
  });
  device.writeStatus(Status.acknowledge | Status.driver | Status.featuresOk | Status.driverOk);
}

/** Reads the configuration space, each field only with its feature. */
export function readDriverConfig(device: DriverDevice, features: bigint): DriverConfig {
  const has = (bit: number): boolean => (features & (1n << BigInt(bit))) !== 0n;
  const u32 = (offset: number): number => Number(device.readConfig(offset, 4));
  return {
    pageSizeMask: device.readConfig(Config.page_size_mask, 8),
    inputRange: has(VIRTIO_IOMMU_F_INPUT_RANGE)
      ? { start: device.readConfig(Config.input_range_start, 8), end: device.readConfig(Config.input_range_end, 8) }
      : { start: 0n, end: U64_MAX },
    domainRange: has(VIRTIO_IOMMU_F_DOMAIN_RANGE)
      ? { start: u32(Config.domain_range_start), end: u32(Config.domain_range_end) }
      : { start: 0, end: U32_MAX },
    probeSize: has(VIRTIO_IOMMU_F_PROBE) ? u32(Config.probe_size) : 0,
    // [5.13.4] DRV-CFG-3: the driver SHOULD ignore bits 1 to 7.
    bypass: has(VIRTIO_IOMMU_F_BYPASS_CONFIG) ? (device.readConfig(Config.bypass, 1) & 1n) !== 0n : undefined,
  };
}

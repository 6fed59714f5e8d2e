// What a device model gives to the lifecycle of a virtio device. Not here: the lifecycle itself (device.ts).
import type { Virtqueue } from './virtqueue.ts';

/**
 * The device-specific half of a virtio device. {@link VirtioDevice} calls it; it never runs two of `driverReady` and
 * `notified` inside each other (see device.ts on re-entry).
 */
export interface VirtioDeviceModel {
  /** Virtio device id (23 is the IOMMU device). */
  readonly deviceId: number;
  /** Device-specific feature bits offered (0..23 and 50..63). */
  readonly deviceFeatures: bigint;
  /** Largest size of each queue in entries; powers of two in 1..32768. */
  readonly queueMaxSizes: readonly number[];
  /** Bytes of the device-specific configuration space. */
  readonly configLength: number;
  /** Fills `into` (`configLength` bytes, zeroed) with the whole configuration space. May be called at any time. */
  readConfig(into: Uint8Array): void;
  /** The driver wrote `bytes` at `offset`: any width, any alignment, inside `configLength`; valid during the call only. */
  writeConfig(offset: number, bytes: Uint8Array): void;
  /** Called at FEATURES_OK with what the driver accepted; false refuses the set. */
  featuresNegotiated(features: bigint): boolean;
  /** Called at DRIVER_OK: the device starts using its queues and looks at them, since earlier kicks are gone. */
  driverReady(queues: readonly Virtqueue[]): void;
  /** The driver kicked a queue. */
  notified(queue: number): void;
  /** Device reset: status was written 0. Queues are already reset; chains in flight must be forgotten. */
  reset(): void;
  /** One queue was reset or disabled (VIRTIO_F_RING_RESET); its chains in flight must be forgotten. */
  queueReset(queue: number): void;
}

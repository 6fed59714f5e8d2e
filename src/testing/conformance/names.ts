// Names that a vector file uses for results and feature bits, and the numbers behind them.
import * as abi from '../../wire/abi.ts';
import { STATUS_NAMES } from '../../iommu/status.ts';

/** Results that are no status byte: buffer untouched, not in the used ring, no request at all, DEVICE_NEEDS_RESET. */
export const PSEUDO_RESULTS = ['NOT_WRITTEN', 'NOT_CONSUMED', 'N/A', 'NEEDS_RESET'] as const;

/** Everything that a request can be expected to give. */
export const RESULT_NAMES: readonly string[] = [...STATUS_NAMES, ...PSEUDO_RESULTS];

/** Feature bit numbers of the device type [5.13.3] and of virtio [6]. */
export const FEATURE_BITS = {
  INPUT_RANGE: abi.VIRTIO_IOMMU_F_INPUT_RANGE,
  DOMAIN_RANGE: abi.VIRTIO_IOMMU_F_DOMAIN_RANGE,
  MAP_UNMAP: abi.VIRTIO_IOMMU_F_MAP_UNMAP,
  BYPASS: abi.VIRTIO_IOMMU_F_BYPASS,
  PROBE: abi.VIRTIO_IOMMU_F_PROBE,
  MMIO: abi.VIRTIO_IOMMU_F_MMIO,
  BYPASS_CONFIG: abi.VIRTIO_IOMMU_F_BYPASS_CONFIG,
  RING_INDIRECT_DESC: 28,
  RING_EVENT_IDX: 29,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  ORDER_PLATFORM: 36,
  SR_IOV: 37,
  NOTIFICATION_DATA: 38,
  NOTIF_CONFIG_DATA: 39,
  RING_RESET: 40,
  ADMIN_VQ: 41,
  SUSPEND: 43,
} as const;

export const FEATURE_NAMES: readonly string[] = Object.keys(FEATURE_BITS);

/** The bits of feature names. */
export function featureMask(names: readonly string[]): bigint {
  const bits: Readonly<Record<string, number>> = FEATURE_BITS;
  return names.reduce((mask, name) => mask | (1n << BigInt(bits[name]!)), 0n);
}

// Reserved feature bits and device status bits of virtio [2.1, 6]. Not here: feature bits of device types.

/** Feature bits as masks [6]. */
export const Feature = {
  indirectDesc: 1n << 28n,
  eventIdx: 1n << 29n,
  version1: 1n << 32n,
  accessPlatform: 1n << 33n,
  ringPacked: 1n << 34n,
  ringReset: 1n << 40n,
} as const;

/** Bits that belong to the device type [2.2]: 0..23 and 50..63. */
export const DEVICE_FEATURE_MASK = (0xffn << 56n) | (0x3fn << 50n) | 0xff_ffffn;

/** Device status bits [2.1]. */
export const Status = {
  acknowledge: 1,
  driver: 2,
  driverOk: 4,
  featuresOk: 8,
  needsReset: 64,
  failed: 128,
} as const;

// Encodes the device configuration space [5.13.4]. Range ends are INCLUSIVE here, as the standard has them.
import type { AddressRange } from '../base/ranges.ts';
import { Config } from './abi.ts';

/** Values of struct virtio_iommu_config; ends inclusive. */
export interface ConfigValues {
  readonly pageSizeMask: bigint;
  readonly inputRange: AddressRange;
  readonly domainRange: { readonly start: number; readonly end: number };
  /** Bytes of the properties buffer of a PROBE request. */
  readonly probeSize: number;
  /** 0 or 1. */
  readonly bypass: number;
}

/** Fills the first {@link Config.SIZE} bytes of `into` (T-CFG-0: fields stand at fixed places whatever was offered). */
export function encodeConfig(values: ConfigValues, into: Uint8Array): void {
  const view = new DataView(into.buffer, into.byteOffset, Config.SIZE);
  view.setBigUint64(Config.page_size_mask, values.pageSizeMask, true);
  view.setBigUint64(Config.input_range_start, values.inputRange.start, true);
  view.setBigUint64(Config.input_range_end, values.inputRange.end, true);
  view.setUint32(Config.domain_range_start, values.domainRange.start, true);
  view.setUint32(Config.domain_range_end, values.domainRange.end, true);
  view.setUint32(Config.probe_size, values.probeSize, true);
  view.setUint8(Config.bypass, values.bypass);
  into.fill(0, Config.reserved, Config.SIZE);
}

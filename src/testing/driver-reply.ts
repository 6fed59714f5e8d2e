// What a driver makes of the answer to a request. Not here: sending it (iommu-driver.ts).
import type { CompletedChain } from './driver-request.ts';
import type { ProbedProperties } from './requests.ts';
import { Tail, VIRTIO_IOMMU_S_OK } from '../wire/abi.ts';
import { NO_STATUS } from './kick-totals.ts';

/** Answer to one request. */
export interface Reply {
  /** VIRTIO_IOMMU_S_ number of the tail; {@link NO_STATUS} when the device did not write up to it, or never answered. */
  readonly status: number;
  /** Used length; -1 when there was no answer. */
  readonly usedLength: number;
  /** Status as Linux sees it: OK unless the used length is exactly the writable length. */
  readonly linuxStatus: number;
}

/** Answer to a PROBE; the properties are those that Linux would take. */
export interface ProbeReply extends Reply {
  readonly properties: ProbedProperties;
}

/** Answer to a request of any bytes. */
export interface RawReply {
  /** Used length; -1 when there was no answer. */
  readonly usedLength: number;
  readonly writable: Uint8Array;
}

/** Reads the tail at the end of a writable part of `writableLength` bytes; `chain` undefined = no answer. */
export function replyOf(chain: CompletedChain | undefined, writableLength: number): Reply {
  if (chain === undefined) return { status: NO_STATUS, usedLength: -1, linuxStatus: NO_STATUS };
  const { usedLength, writable } = chain;
  const status = writable[writableLength - Tail.SIZE]!;
  return {
    status: usedLength < writableLength ? NO_STATUS : status,
    usedLength,
    linuxStatus: usedLength === writableLength ? status : VIRTIO_IOMMU_S_OK,
  };
}

// Statuses by name, and the status that answers a host's errno.
import { Errno } from '../base/errors.ts';
import * as abi from '../wire/abi.ts';

/** Status names in the order of their wire values ([5.13.6]). */
export const STATUS_NAMES = ['OK', 'IOERR', 'UNSUPP', 'DEVERR', 'INVAL', 'RANGE', 'NOENT', 'FAULT', 'NOMEM'] as const;

/** Name of a request status. */
export type Status = (typeof STATUS_NAMES)[number];

/** Name of a wire status. */
export function statusName(status: number): Status {
  return STATUS_NAMES[status] ?? 'IOERR';
}

/** The status that answers a request which the host refused with `errno` (spec/decisions.md). */
export function statusOfErrno(errno: number): number {
  switch (errno) {
    case Errno.ENOSPC:
    case Errno.ENOMEM:
      return abi.VIRTIO_IOMMU_S_NOMEM;
    case Errno.EINVAL:
      return abi.VIRTIO_IOMMU_S_RANGE;
    case Errno.EEXIST:
    case Errno.EFAULT:
      return abi.VIRTIO_IOMMU_S_DEVERR;
    default:
      return abi.VIRTIO_IOMMU_S_IOERR;
  }
}

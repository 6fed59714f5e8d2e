// The error of a refusing host. Guest mistakes are statuses, caller mistakes TypeError or RangeError (see check.ts).

/** Linux errno numbers that VFIO and iommufd return (asm-generic/errno-base.h, asm-generic/errno.h). */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ENOTTY: 25,
  ENOSPC: 28,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
} as const;

/** Name of an errno number, `errno N` when it is not in the table. */
export function errnoName(errno: number): string {
  for (const [name, value] of Object.entries(Errno)) if (value === errno) return name;
  return `errno ${errno}`;
}

/** Codes of {@link HostError}. */
export type HostErrorCode =
  'ERR_VIOMMU_HOST_REFUSED' | 'ERR_VIOMMU_HOST_UNAVAILABLE' | 'ERR_VIOMMU_HOST_INCOMPATIBLE' | 'ERR_VIOMMU_HOST_CLOSED';

/** A host interface refused an operation; carries the errno and the operation. */
export class HostError extends Error {
  readonly code: HostErrorCode;
  /** Linux errno, 0 when no system call was made. */
  readonly errno: number;
  /** The operation, in the host interface's spelling (for example `VFIO_IOMMU_MAP_DMA`). */
  readonly syscall: string;
  /** First I/O virtual address concerned, when there is one. */
  readonly iova: bigint | undefined;

  constructor(code: HostErrorCode, message: string, detail: { errno: number; syscall: string; iova?: bigint }) {
    super(message);
    this.name = 'HostError';
    this.code = code;
    this.errno = detail.errno;
    this.syscall = detail.syscall;
    this.iova = detail.iova;
  }
}

/** True for a {@link HostError}, also one from a second copy of this package. */
export function isHostError(value: unknown): value is HostError {
  return value instanceof Error && value.name === 'HostError' && 'errno' in value && 'syscall' in value;
}

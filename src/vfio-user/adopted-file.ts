// The file behind a DMA mapping as memory of this process. Not here: where the guest sees it (dma-table.ts).
// Ranges are offset + size in bytes, end exclusive.
import { statfsSync } from 'node:fs';
import { Errno, HostError } from '../base/errors.ts';
import type { GuestRamRegion } from '../host/guest-ram.ts';
import { FileSeal, GuestRam } from '../host/guest-ram.ts';

/** A mapped part of a client's file. */
export interface AdoptedFile {
  readonly ram: GuestRam;
  /** The argument of `GuestMemory.addRegion` for the part at a guest-physical address. */
  region(gpa: bigint): GuestRamRegion | Omit<GuestRamRegion, 'file'>;
  /** False when the client can shrink the file, which kills who touches a page that is gone. */
  readonly sealed: boolean;
}

/**
 * Maps `size` bytes at `offset` of a client's file, both multiples of 4096. A part that is not whole pages of the file
 * (QEMU cuts hugetlbfs at 640 KiB) is mapped with what is around it; gather windows are not made of it.
 * @throws HostError with the errno that the client gets.
 */
export function adoptFile(fd: number, offset: bigint, size: bigint): AdoptedFile {
  const page = filePage(fd);
  const start = offset - (offset % page);
  const end = offset + size + (page - ((offset + size) % page || page));
  const ram = GuestRam.adopt(fd, { offset: start, size: end - start });
  const sealed = ram.seals >= 0 && (ram.seals & FileSeal.shrink) !== 0;
  if (start === offset && end === offset + size) return { ram, sealed, region: (gpa) => ram.region(gpa) };
  const before = offset - start;
  const region = (gpa: bigint): Omit<GuestRamRegion, 'file'> => ({
    gpa,
    size,
    windows: cutWindows(ram.windows, Number(before), Number(size)) as never,
    hva: ram.hva + before,
  });
  return { ram, sealed, region };
}

/** statfs(2), f_type of hugetlbfs. */
const HUGETLBFS = 0x958458f6;

/** Size of the pages of a file: of hugetlbfs a huge one, of tmpfs 4096 also where it uses transparent huge pages. */
function filePage(fd: number): bigint {
  try {
    const { type, bsize } = statfsSync(`/proc/self/fd/${fd}`);
    return type === HUGETLBFS ? BigInt(bsize) : 4096n;
  } catch {
    throw new HostError('ERR_VIOMMU_HOST_REFUSED', 'the descriptor cannot be used', {
      errno: Errno.EINVAL,
      syscall: 'fstatfs',
    });
  }
}

/** Bytes [start, start + length) of windows that follow each other, without copying. */
export function cutWindows(windows: readonly ArrayBuffer[], start: number, length: number): Uint8Array[] {
  const parts: Uint8Array[] = [];
  let at = 0;
  for (const window of windows) {
    const from = Math.max(start - at, 0);
    const to = Math.min(start + length - at, window.byteLength);
    if (from < to) parts.push(new Uint8Array(window, from, to - from));
    at += window.byteLength;
  }
  return parts;
}

// DMA_MAP and DMA_UNMAP: what the fields may be. Not here: the table behind them (dma-table.ts).
// Results are bytes of payload of the reply, or a negative errno.
import { Errno } from '../base/errors.ts';
import type { Agreement } from './version.ts';
import { DmaMap, DmaMapFlag, DmaUnmap, DmaUnmapFlag } from './abi.ts';
import type { DmaTable } from './dma-table.ts';
import type { Reply, Request } from './message.ts';
import { ProtocolError } from './protocol-error.ts';

/** First address that cannot be guest memory. */
const MEMORY_END = 1n << 53n;
const ADDRESS_END = 1n << 64n;
const FILE_PAGE = 4096n;
/** mmap takes offsets of 63 bits. */
const OFFSET_END = 1n << 63n;

/** DMA_MAP; "map over an existing region must be failed with EEXIST". */
export function dmaMap(request: Request, table: DmaTable, { pageSize, maxMaps }: Agreement): number {
  const { count } = request.descriptors;
  if (count > 1) throw new ProtocolError(`DMA_MAP with ${count} descriptors`);
  const flags = request.u32(DmaMap.flags);
  const offset = request.u64(DmaMap.offset);
  const address = request.u64(DmaMap.address);
  const size = request.u64(DmaMap.size);
  const rights = DmaMapFlag.read | DmaMapFlag.write;
  if (request.u32(DmaMap.argsz) < DmaMap.SIZE || (flags & ~rights) !== 0 || flags === 0) return -Errno.EINVAL;
  if (size === 0n || size > MEMORY_END || address + size > MEMORY_END) return -Errno.EINVAL;
  if (address % pageSize !== 0n || size % pageSize !== 0n) return -Errno.EINVAL;
  if (count === 1 && (offset % FILE_PAGE !== 0n || offset + size > OFFSET_END)) return -Errno.EINVAL;
  const order = {
    address: Number(address),
    size: Number(size),
    readable: (flags & DmaMapFlag.read) !== 0,
    writable: (flags & DmaMapFlag.write) !== 0,
    fd: count === 1 ? request.descriptors.at(0) : -1,
    offset,
  };
  return -table.map(order, maxMaps);
}

/**
 * DMA_UNMAP. The protocol wants address and size of one mapping; like VFIO's type 1 we take a range that holds several.
 * The reply comes when no host context has the memory any more.
 */
export function dmaUnmap(request: Request, reply: Reply, table: DmaTable): number {
  const flags = request.u32(DmaUnmap.flags);
  const address = request.u64(DmaUnmap.address);
  const size = request.u64(DmaUnmap.size);
  if (request.u32(DmaUnmap.argsz) < DmaUnmap.SIZE) return -Errno.EINVAL;
  if ((flags & DmaUnmapFlag.getDirtyBitmap) !== 0) return -Errno.EOPNOTSUPP;
  if ((flags & ~DmaUnmapFlag.all) !== 0) return -Errno.EINVAL;
  const all = flags === DmaUnmapFlag.all;
  if (all ? address !== 0n || size !== 0n : size === 0n || address + size > ADDRESS_END) return -Errno.EINVAL;
  // Above 2^53 no mapping begins or ends, so that rounding does not matter there.
  const errno = all ? table.unmapAll() : table.unmap(Number(address), Number(address + size));
  if (errno !== 0) return -errno;
  reply.echo(request, DmaUnmap.SIZE);
  return DmaUnmap.SIZE;
}

// REGION_READ and REGION_WRITE: the registers of the function. The way of a kick: no allocation for 1, 2, 4 and 8 bytes.
// Results are bytes of payload of the reply, or a negative errno.
import { Errno } from '../base/errors.ts';
import { MAX_TRANSFER, MessageHeader, RegionAccess, RegionIndex } from './abi.ts';
import { regionSize } from './device-info.ts';
import type { PciFunction } from './function.ts';
import type { Reply, Request } from './message.ts';
import { ProtocolError } from './protocol-error.ts';

/** REGION_READ. */
export function regionRead(request: Request, reply: Reply, pci: PciFunction): number {
  const errno = checkAccess(request, pci);
  if (errno !== 0) return -errno;
  const region = request.u32(RegionAccess.region);
  const offset = offsetOf(request);
  const count = request.u32(RegionAccess.count);
  reply.reserve(MessageHeader.SIZE + RegionAccess.SIZE + count, 0);
  reply.echo(request, RegionAccess.SIZE);
  const into = reply.data(count);
  if (region === RegionIndex.config) pci.readConfigBytes(offset, into);
  else pci.readBar(region, offset, into);
  return RegionAccess.SIZE + count;
}

/** REGION_WRITE. */
export function regionWrite(request: Request, reply: Reply, pci: PciFunction): number {
  const count = request.u32(RegionAccess.count);
  if (request.payload - RegionAccess.SIZE !== count) {
    throw new ProtocolError(`REGION_WRITE of ${count} bytes with ${request.payload - RegionAccess.SIZE} bytes of data`);
  }
  const errno = checkAccess(request, pci);
  if (errno !== 0) return -errno;
  const region = request.u32(RegionAccess.region);
  const offset = offsetOf(request);
  const bytes = request.data(count);
  if (region === RegionIndex.config) pci.writeConfigBytes(offset, bytes);
  else pci.writeBar(region, offset, bytes);
  reply.echo(request, RegionAccess.SIZE);
  return RegionAccess.SIZE;
}

/** EINVAL unless the access lies wholly in a region, and in one message. */
function checkAccess(request: Request, pci: PciFunction): number {
  const region = request.u32(RegionAccess.region);
  const count = request.u32(RegionAccess.count);
  if (count > MAX_TRANSFER || region >= RegionIndex.COUNT) return Errno.EINVAL;
  if (region !== RegionIndex.config && count > (pci.maxAccess ?? MAX_TRANSFER)) return Errno.EINVAL;
  const size = regionSize(pci, region);
  const offset = offsetOf(request);
  return offset > size || count > size - offset ? Errno.EINVAL : 0;
}

/** Position in the region; above 2^53, where no region reaches, it is rounded. */
function offsetOf(request: Request): number {
  return request.u32(RegionAccess.offset) + request.u32(RegionAccess.offset + 4) * 2 ** 32;
}

// DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO: what the device looks like.
// Results are bytes of payload of the reply, or a negative errno.
import { Errno } from '../base/errors.ts';
import { DeviceFlag, DeviceInfo, IrqIndex, IrqInfo, IrqInfoFlag, RegionFlag, RegionIndex, RegionInfo } from './abi.ts';
import type { DirectInterrupts, PciFunction } from './function.ts';
import { CONFIG_BYTES } from './function.ts';
import type { Reply, Request } from './message.ts';

/** Where a region lies in the address space of all regions; nobody maps them, so only the order counts. */
const REGION_SHIFT = 40n;

/** DEVICE_GET_INFO. */
export function getInfo(request: Request, reply: Reply): number {
  if (request.u32(DeviceInfo.argsz) < DeviceInfo.SIZE) return -Errno.EINVAL;
  reply.setU32(DeviceInfo.argsz, DeviceInfo.SIZE);
  reply.setU32(DeviceInfo.flags, DeviceFlag.reset | DeviceFlag.pci);
  reply.setU32(DeviceInfo.regions, RegionIndex.COUNT);
  reply.setU32(DeviceInfo.irqs, IrqIndex.COUNT);
  return DeviceInfo.SIZE;
}

/** Bytes of a region; 0 for one that is not there. */
export function regionSize(pci: PciFunction, index: number): number {
  if (index === RegionIndex.config) return pci.configBytes ?? CONFIG_BYTES;
  const { bars } = pci;
  for (const bar of bars) if (bar.index === index) return bar.size;
  return 0;
}

/** DEVICE_GET_REGION_INFO; no region can be mapped by the client. */
export function getRegionInfo(request: Request, reply: Reply, pci: PciFunction): number {
  const index = request.u32(RegionInfo.index);
  if (request.u32(RegionInfo.argsz) < RegionInfo.SIZE || index >= RegionIndex.COUNT) return -Errno.EINVAL;
  const size = regionSize(pci, index);
  reply.setU32(RegionInfo.argsz, RegionInfo.SIZE);
  reply.setU32(RegionInfo.flags, size > 0 ? RegionFlag.read | RegionFlag.write : 0);
  reply.setU32(RegionInfo.index, index);
  reply.setU32(RegionInfo.capOffset, 0);
  reply.setU64(RegionInfo.size, BigInt(size));
  reply.setU64(RegionInfo.offset, BigInt(index) << REGION_SHIFT);
  return RegionInfo.SIZE;
}

/** The interrupts of a kind that do not go through this process; undefined when the kind is the server's. */
export function directKind(pci: PciFunction, index: number): DirectInterrupts | undefined {
  const { direct } = pci;
  return direct !== undefined && direct.count(index) > 0 ? direct : undefined;
}

/** Number of interrupts of a kind. One for errors, which never come: QEMU warns of a device that has none. */
export function irqCount(pci: PciFunction, index: number): number {
  const direct = directKind(pci, index);
  if (direct !== undefined) return direct.count(index);
  if (index === IrqIndex.msix) return pci.vectors;
  return index === IrqIndex.error ? 1 : 0;
}

/** DEVICE_GET_IRQ_INFO. */
export function getIrqInfo(request: Request, reply: Reply, pci: PciFunction): number {
  const index = request.u32(IrqInfo.index);
  if (request.u32(IrqInfo.argsz) < IrqInfo.SIZE || index >= IrqIndex.COUNT) return -Errno.EINVAL;
  const resize = index === IrqIndex.msix ? IrqInfoFlag.noResize : 0;
  reply.setU32(IrqInfo.argsz, IrqInfo.SIZE);
  const own = IrqInfoFlag.eventfd | resize;
  reply.setU32(IrqInfo.flags, directKind(pci, index)?.flags(index) ?? own);
  reply.setU32(IrqInfo.index, index);
  reply.setU32(IrqInfo.count, irqCount(pci, index));
  return IrqInfo.SIZE;
}

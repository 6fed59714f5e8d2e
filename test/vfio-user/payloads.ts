// Payloads of requests, field by field. Not here: sending them (client.ts).
import { DmaMap, DmaUnmap, IrqSet, RegionAccess } from '../../src/vfio-user/abi.ts';

/** A payload of `size` bytes, filled by `fill`. */
export function payload(size: number, fill: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(size);
  fill(new DataView(bytes.buffer));
  return bytes;
}

/** VERSION; `data` as text gets its NUL. */
export function version(major = 0, minor = 0, data?: string): Uint8Array {
  const text = data === undefined ? new Uint8Array(0) : new TextEncoder().encode(`${data}\0`);
  const bytes = new Uint8Array(4 + text.length);
  new DataView(bytes.buffer).setUint16(0, major, true);
  new DataView(bytes.buffer).setUint16(2, minor, true);
  bytes.set(text, 4);
  return bytes;
}

/** What QEMU 11 proposes. */
export const QEMU_CAPABILITIES = JSON.stringify({
  capabilities: {
    pgsizes: 4096,
    max_msg_fds: 16,
    max_dma_maps: 65535,
    max_data_xfer_size: 1048576,
    migration: { max_bitmap_size: 268435456, pgsize: 4096 },
    write_multiple: true,
  },
});

export function dmaMap(address: bigint, size: bigint, offset = 0n, flags = 3, argsz = 32): Uint8Array {
  return payload(DmaMap.SIZE, (view) => {
    view.setUint32(DmaMap.argsz, argsz, true);
    view.setUint32(DmaMap.flags, flags, true);
    view.setBigUint64(DmaMap.offset, offset, true);
    view.setBigUint64(DmaMap.address, address, true);
    view.setBigUint64(DmaMap.size, size, true);
  });
}

export function dmaUnmap(address: bigint, size: bigint, flags = 0, argsz = 24): Uint8Array {
  return payload(DmaUnmap.SIZE, (view) => {
    view.setUint32(DmaUnmap.argsz, argsz, true);
    view.setUint32(DmaUnmap.flags, flags, true);
    view.setBigUint64(DmaUnmap.address, address, true);
    view.setBigUint64(DmaUnmap.size, size, true);
  });
}

/** GET_INFO, GET_REGION_INFO and GET_IRQ_INFO: argsz, and index at offset 8. */
export function info(size: number, index = 0, argsz = size): Uint8Array {
  return payload(size, (view) => {
    view.setUint32(0, argsz, true);
    view.setUint32(8, index, true);
  });
}

export function setIrqs(
  flags: number,
  index: number,
  start: number,
  count: number,
  bools: readonly number[] = [],
  argsz = IrqSet.SIZE + bools.length,
): Uint8Array {
  const bytes = payload(IrqSet.SIZE + bools.length, (view) => {
    view.setUint32(IrqSet.argsz, argsz, true);
    view.setUint32(IrqSet.flags, flags, true);
    view.setUint32(IrqSet.index, index, true);
    view.setUint32(IrqSet.start, start, true);
    view.setUint32(IrqSet.count, count, true);
  });
  bytes.set(bools, IrqSet.data);
  return bytes;
}

/** REGION_READ, and REGION_WRITE with `data`. */
export function region(
  index: number,
  offset: number | bigint,
  count: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const bytes = payload(RegionAccess.SIZE + data.length, (view) => {
    view.setBigUint64(RegionAccess.offset, BigInt(offset), true);
    view.setUint32(RegionAccess.region, index, true);
    view.setUint32(RegionAccess.count, count, true);
  });
  bytes.set(data, RegionAccess.data);
  return bytes;
}

// The vfio-user protocol on the wire, version 0.0 (QEMU docs/interop/vfio-user.rst; structures as linux/vfio.h has them).
// Not here: what messages do. Offsets in bytes, from the start of the message for the header and from the end of the header
// for everything else; values little-endian (the protocol says: of the host, and rings need a little-endian one anyway).

/** The header of every message. */
export const MessageHeader = { id: 0, command: 2, size: 4, flags: 8, error: 12, SIZE: 16 } as const;

/** Bits of the header's flags. */
export const MessageFlag = { type: 0xf, command: 0, reply: 1, noReply: 0x10, error: 0x20 } as const;

/** Commands; those that only a client or only a server sends share the numbers. */
export const Command = {
  version: 1,
  dmaMap: 2,
  dmaUnmap: 3,
  getInfo: 4,
  getRegionInfo: 5,
  getRegionIoFds: 6,
  getIrqInfo: 7,
  setIrqs: 8,
  regionRead: 9,
  regionWrite: 10,
  dmaRead: 11,
  dmaWrite: 12,
  deviceReset: 13,
} as const;

/** Name of a command for messages, `command N` when it is none. */
export function commandName(command: number): string {
  for (const [name, value] of Object.entries(Command)) if (value === command) return name;
  return `command ${command}`;
}

/** VERSION: what comes behind `data` is JSON with a NUL at its end. */
export const Version = { major: 0, minor: 2, data: 4 } as const;

/** DMA_MAP. */
export const DmaMap = { argsz: 0, flags: 4, offset: 8, address: 16, size: 24, SIZE: 32 } as const;
export const DmaMapFlag = { read: 1, write: 2 } as const;

/** DMA_UNMAP; the reply is the same. */
export const DmaUnmap = { argsz: 0, flags: 4, address: 8, size: 16, SIZE: 24 } as const;
export const DmaUnmapFlag = { getDirtyBitmap: 1, all: 2 } as const;

/** DEVICE_GET_INFO, request and reply. */
export const DeviceInfo = { argsz: 0, flags: 4, regions: 8, irqs: 12, SIZE: 16 } as const;
export const DeviceFlag = { reset: 1, pci: 2 } as const;

/** DEVICE_GET_REGION_INFO, request and reply. */
export const RegionInfo = { argsz: 0, flags: 4, index: 8, capOffset: 12, size: 16, offset: 24, SIZE: 32 } as const;
export const RegionFlag = { read: 1, write: 2 } as const;

/** Regions of a PCI device: 0 to 5 are the BARs. */
export const RegionIndex = { rom: 6, config: 7, vga: 8, COUNT: 9 } as const;

/** DEVICE_GET_IRQ_INFO, request and reply. */
export const IrqInfo = { argsz: 0, flags: 4, index: 8, count: 12, SIZE: 16 } as const;
export const IrqInfoFlag = { eventfd: 1, noResize: 8 } as const;

/** Kinds of interrupts of a PCI device. */
export const IrqIndex = { intx: 0, msi: 1, msix: 2, error: 3, request: 4, COUNT: 5 } as const;

/** DEVICE_SET_IRQS; `data` only with {@link IrqSetFlag} bool. */
export const IrqSet = { argsz: 0, flags: 4, index: 8, start: 12, count: 16, SIZE: 20, data: 20 } as const;
export const IrqSetFlag = {
  none: 1,
  bool: 2,
  eventfd: 4,
  mask: 8,
  unmask: 16,
  trigger: 32,
  /** Bits that say what the data is, and what is done. */
  DATA: 7,
  ACTION: 56,
} as const;

/** REGION_READ and REGION_WRITE, request and reply. */
export const RegionAccess = { offset: 0, region: 8, count: 12, data: 16, SIZE: 16 } as const;

/** DMA_READ and DMA_WRITE, request and reply. */
export const DmaAccess = { address: 0, count: 8, data: 16, SIZE: 16 } as const;

/** Most descriptors that we take with one message; QEMU takes 16 as the most that it may be told. */
export const MAX_DESCRIPTORS = 16;
/** Most bytes of data of one message. */
export const MAX_TRANSFER = 2 ** 20;
/** Longest message. */
export const MAX_MESSAGE = MessageHeader.SIZE + RegionAccess.SIZE + MAX_TRANSFER;

// Registers of the DMA engine (dma-engine.ts): where they lie and which bits a driver can write. Offsets in bytes; values
// little-endian.

/** Bytes of BAR 0; registers are in its first bytes, the rest reads as 0. */
export const ENGINE_BAR_BYTES = 4096;

/**
 * Layout of BAR 0. A register may be written in any width; 64-bit ones may be written by halves.
 *
 * | offset | register | access |
 * |---|---|---|
 * | 0x00 | id, 32 bits, `ENGINE_ID` | read |
 * | 0x04 | largest length, 32 bits | read |
 * | 0x08 | source I/O virtual address, 64 bits | read, write |
 * | 0x10 | target I/O virtual address, 64 bits | read, write |
 * | 0x18 | length in bytes, 32 bits | read, write |
 * | 0x1c | command, 32 bits: writing its lowest byte starts it; reads as 0 | write |
 * | 0x20 | status of the last command, 32 bits | read |
 * | 0x24 | bytes that the last command moved, 32 bits | read |
 */
export const EngineRegister = {
  id: 0x00,
  maxLength: 0x04,
  source: 0x08,
  target: 0x10,
  length: 0x18,
  command: 0x1c,
  status: 0x20,
  moved: 0x24,
  SIZE: 0x28,
} as const;

/** Content of the register `id`: "DMA1". */
export const ENGINE_ID = 0x3141_4d44;

/** Commands. `copy`: source to target. `read`: source only. `write`: zeroes to the target. */
export const EngineCommand = { copy: 1, read: 2, write: 3 } as const;

/** Values of the register `status`. A command is over when the write that started it returns. */
export const EngineStatus = {
  /** No command since the reset. */
  idle: 0,
  done: 1,
  /** The IOMMU refused the source, or no memory is there. */
  sourceRefused: 2,
  targetRefused: 3,
  /** Unknown command, length 0 or too large, or a range that wraps 2^64. */
  invalid: 4,
  /** The bus-master bit is clear: nothing was accessed. */
  noBusMaster: 5,
} as const;

/** Most bytes of one command. */
export const ENGINE_MAX_LENGTH = 16 * 1024 * 1024;

/** Base of the identification: vendor Red Hat (virtio), a device id of the range for experiments (QEMU, pci-ids). */
export const ENGINE_VENDOR = 0x1af4;
export const ENGINE_DEVICE = 0x10f0;

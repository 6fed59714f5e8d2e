// Numbers of PCI and of virtio over PCI [4.1]: configuration header, capabilities, registers. Offsets in bytes.

/** Bytes of the configuration space of a conventional function. */
export const CONFIG_BYTES = 256;

/** Type 0 configuration header. */
export const Header = {
  vendorId: 0x00,
  deviceId: 0x02,
  command: 0x04,
  status: 0x06,
  revisionId: 0x08,
  classCode: 0x09,
  cacheLineSize: 0x0c,
  bar0: 0x10,
  subsystemVendorId: 0x2c,
  subsystemId: 0x2e,
  capabilities: 0x34,
  interruptLine: 0x3c,
  interruptPin: 0x3d,
  SIZE: 0x40,
} as const;

/** Command register. There are no I/O BARs, so bit 0 is hardwired to 0. */
export const Command = { memory: 0x0002, busMaster: 0x0004, intxDisable: 0x0400, WRITABLE: 0x0546 } as const;

/** Status register: interrupt pending, capability list present. */
export const PciStatus = { interrupt: 0x0008, capabilities: 0x0010 } as const;

/** Low bits of a memory BAR. */
export const BarFlag = { width64: 0x4 } as const;

/** Capability ids. */
export const CapabilityId = { vendor: 0x09, msix: 0x11 } as const;

export const VIRTIO_PCI_VENDOR = 0x1af4;
/** PCI device id of virtio device id 0 [4.1.2]. */
export const VIRTIO_PCI_DEVICE_BASE = 0x1040;

/** struct virtio_pci_cap and what follows it [4.1.4]. */
export const VirtioCap = {
  vendor: 0,
  next: 1,
  length: 2,
  cfgType: 3,
  bar: 4,
  id: 5,
  offset: 8,
  regionLength: 12,
  SIZE: 16,
  /** struct virtio_pci_notify_cap. */
  notifyMultiplier: 16,
  /** struct virtio_pci_cfg_cap. */
  cfgData: 16,
  LONG_SIZE: 20,
} as const;

/** cfg_type of a virtio capability. */
export const CfgType = { common: 1, notify: 2, isr: 3, device: 4, pci: 5 } as const;

/** MSI-X capability. */
export const MsixCap = { control: 2, table: 4, pba: 8, SIZE: 12 } as const;
export const MsixControl = { functionMask: 0x4000, enable: 0x8000 } as const;

/** An entry of the MSI-X table. */
export const MsixEntry = { addressLow: 0, addressHigh: 4, data: 8, control: 12, SIZE: 16 } as const;
export const MSIX_ENTRY_MASKED = 1;
/** Most vectors that a function can have. */
export const MSIX_MAX_VECTORS = 2048;

/** [4.1.5.1.2] no vector for this event. */
export const NO_VECTOR = 0xffff;

/** struct virtio_pci_common_cfg [4.1.4.3]. */
export const Common = {
  deviceFeatureSelect: 0,
  deviceFeature: 4,
  driverFeatureSelect: 8,
  driverFeature: 12,
  configMsixVector: 16,
  numQueues: 18,
  deviceStatus: 20,
  configGeneration: 21,
  queueSelect: 22,
  queueSize: 24,
  queueMsixVector: 26,
  queueEnable: 28,
  queueNotifyOff: 30,
  queueDesc: 32,
  queueDriver: 40,
  queueDevice: 48,
  queueNotifConfigData: 56,
  queueReset: 58,
  adminQueueIndex: 60,
  adminQueueNum: 62,
  SIZE: 64,
} as const;

/** Bits of ISR status [4.1.4.5]. */
export const Isr = { queue: 1, config: 2 } as const;

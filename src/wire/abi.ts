// Constants of the virtio-iommu ABI in the spelling of the standard [VIRTIO 1.2-1.4, 5.13] and of Linux
// (include/uapi/linux/virtio_iommu.h). The only file with that spelling. All fields are little-endian.

/** [5.13.1] Device ID. */
export const VIRTIO_ID_IOMMU = 23;

/** [5.13.2] Queue numbers. */
export const VIRTIO_IOMMU_REQUESTQ = 0;
export const VIRTIO_IOMMU_EVENTQ = 1;

/** [5.13.3] Feature bit numbers. */
export const VIRTIO_IOMMU_F_INPUT_RANGE = 0;
export const VIRTIO_IOMMU_F_DOMAIN_RANGE = 1;
export const VIRTIO_IOMMU_F_MAP_UNMAP = 2;
export const VIRTIO_IOMMU_F_BYPASS = 3;
export const VIRTIO_IOMMU_F_PROBE = 4;
export const VIRTIO_IOMMU_F_MMIO = 5;
export const VIRTIO_IOMMU_F_BYPASS_CONFIG = 6;

/** [5.13.6] Request types. */
export const VIRTIO_IOMMU_T_ATTACH = 1;
export const VIRTIO_IOMMU_T_DETACH = 2;
export const VIRTIO_IOMMU_T_MAP = 3;
export const VIRTIO_IOMMU_T_UNMAP = 4;
export const VIRTIO_IOMMU_T_PROBE = 5;

/** [5.13.6] Status codes. */
export const VIRTIO_IOMMU_S_OK = 0;
export const VIRTIO_IOMMU_S_IOERR = 1;
export const VIRTIO_IOMMU_S_UNSUPP = 2;
export const VIRTIO_IOMMU_S_DEVERR = 3;
export const VIRTIO_IOMMU_S_INVAL = 4;
export const VIRTIO_IOMMU_S_RANGE = 5;
export const VIRTIO_IOMMU_S_NOENT = 6;
export const VIRTIO_IOMMU_S_FAULT = 7;
export const VIRTIO_IOMMU_S_NOMEM = 8;

/** [5.13.6.3] ATTACH flags. */
export const VIRTIO_IOMMU_ATTACH_F_BYPASS = 1;

/** [5.13.6.5] MAP flags. */
export const VIRTIO_IOMMU_MAP_F_READ = 1;
export const VIRTIO_IOMMU_MAP_F_WRITE = 2;
export const VIRTIO_IOMMU_MAP_F_MMIO = 4;

/** [5.13.6.7] PROBE property types and RESV_MEM subtypes. */
export const VIRTIO_IOMMU_PROBE_T_NONE = 0;
export const VIRTIO_IOMMU_PROBE_T_RESV_MEM = 1;
export const VIRTIO_IOMMU_RESV_MEM_T_RESERVED = 0;
export const VIRTIO_IOMMU_RESV_MEM_T_MSI = 1;

/** [5.13.6.9] Fault reasons and flags. */
export const VIRTIO_IOMMU_FAULT_R_UNKNOWN = 0;
export const VIRTIO_IOMMU_FAULT_R_DOMAIN = 1;
export const VIRTIO_IOMMU_FAULT_R_MAPPING = 2;
export const VIRTIO_IOMMU_FAULT_F_READ = 1;
export const VIRTIO_IOMMU_FAULT_F_WRITE = 2;
export const VIRTIO_IOMMU_FAULT_F_ADDRESS = 0x100;

/** [5.13.4] struct virtio_iommu_config: field offsets and size in bytes. */
export const Config = {
  page_size_mask: 0,
  input_range_start: 8,
  input_range_end: 16,
  domain_range_start: 24,
  domain_range_end: 28,
  probe_size: 32,
  bypass: 36,
  reserved: 37,
  SIZE: 40,
} as const;

/** [5.13.6] struct virtio_iommu_req_head. */
export const Head = { type: 0, reserved: 1, SIZE: 4 } as const;

/** [5.13.6] struct virtio_iommu_req_tail. */
export const Tail = { status: 0, reserved: 1, SIZE: 4 } as const;

/** [5.13.6.3] struct virtio_iommu_req_attach without its tail. */
export const Attach = { head: 0, domain: 4, endpoint: 8, flags: 12, reserved: 16, SIZE: 20 } as const;

/** [5.13.6.4] struct virtio_iommu_req_detach without its tail. */
export const Detach = { head: 0, domain: 4, endpoint: 8, reserved: 12, SIZE: 20 } as const;

/** [5.13.6.5] struct virtio_iommu_req_map without its tail; no padding before the 64-bit fields. */
export const MapRequest = {
  head: 0,
  domain: 4,
  virt_start: 8,
  virt_end: 16,
  phys_start: 24,
  flags: 32,
  SIZE: 36,
} as const;

/** [5.13.6.6] struct virtio_iommu_req_unmap without its tail. */
export const Unmap = { head: 0, domain: 4, virt_start: 8, virt_end: 16, reserved: 24, SIZE: 28 } as const;

/** [5.13.6.7] struct virtio_iommu_req_probe: device-readable part. */
export const Probe = { head: 0, endpoint: 4, reserved: 8, SIZE: 72 } as const;

/** [5.13.6.7] struct virtio_iommu_probe_property: type in bits 0-11 of the first field, then the value's length. */
export const ProbeProperty = { type: 0, length: 2, SIZE: 4 } as const;

/** [5.13.6.8.1] struct virtio_iommu_probe_resv_mem, property header included. */
export const ResvMem = { head: 0, subtype: 4, reserved: 5, start: 8, end: 16, SIZE: 24 } as const;

/** [5.13.6.9] struct virtio_iommu_fault. */
export const Fault = { reason: 0, reserved: 1, flags: 4, endpoint: 8, reserved1: 12, address: 16, SIZE: 24 } as const;

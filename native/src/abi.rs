//! The VFIO ABI (include/uapi/linux/vfio.h): ioctl numbers, structs, constants. No calls.

use libc::Ioctl;

/// `VFIO_TYPE`, `VFIO_BASE`.
const TYPE: Ioctl = b';' as Ioctl;
const BASE: Ioctl = 100;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`: no direction and no size, the type in bits 8-15, the number in bits 0-7.
const fn io(number: Ioctl) -> Ioctl {
    (TYPE << 8) | (BASE + number)
}

pub const GET_API_VERSION: Ioctl = io(0);
pub const CHECK_EXTENSION: Ioctl = io(1);
pub const SET_IOMMU: Ioctl = io(2);
pub const GROUP_GET_STATUS: Ioctl = io(3);
pub const GROUP_SET_CONTAINER: Ioctl = io(4);
pub const GROUP_GET_DEVICE_FD: Ioctl = io(6);
pub const DEVICE_GET_INFO: Ioctl = io(7);
pub const DEVICE_GET_REGION_INFO: Ioctl = io(8);
pub const DEVICE_GET_IRQ_INFO: Ioctl = io(9);
pub const DEVICE_SET_IRQS: Ioctl = io(10);
pub const DEVICE_RESET: Ioctl = io(11);
pub const IOMMU_GET_INFO: Ioctl = io(12);
pub const IOMMU_MAP_DMA: Ioctl = io(13);
pub const IOMMU_UNMAP_DMA: Ioctl = io(14);

pub const API_VERSION: i32 = 0;
/// `VFIO_TYPE1v2_IOMMU`, an extension and an argument of SET_IOMMU.
pub const TYPE1V2_IOMMU: u32 = 3;
/// `VFIO_UNMAP_ALL`, an extension.
pub const UNMAP_ALL: u32 = 9;

pub const GROUP_FLAGS_VIABLE: u32 = 1;

pub const DMA_MAP_FLAG_READ: u32 = 1;
pub const DMA_MAP_FLAG_WRITE: u32 = 2;
pub const DMA_UNMAP_FLAG_ALL: u32 = 2;

pub const IOMMU_INFO_PGSIZES: u32 = 1;
pub const IOMMU_INFO_CAPS: u32 = 2;
pub const CAP_IOVA_RANGE: u16 = 1;
pub const CAP_MIGRATION: u16 = 2;
pub const CAP_DMA_AVAIL: u16 = 3;

pub const REGION_INFO_FLAG_CAPS: u32 = 8;
pub const REGION_CAP_SPARSE_MMAP: u16 = 1;
pub const REGION_CAP_MSIX_MAPPABLE: u16 = 3;

pub const IRQ_SET_DATA_NONE: u32 = 1;
pub const IRQ_SET_DATA_EVENTFD: u32 = 4;
pub const IRQ_SET_ACTION_MASK: u32 = 8;
pub const IRQ_SET_ACTION_UNMASK: u32 = 16;
pub const IRQ_SET_ACTION_TRIGGER: u32 = 32;

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct GroupStatus {
    pub argsz: u32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct DeviceInfo {
    pub argsz: u32,
    pub flags: u32,
    pub num_regions: u32,
    pub num_irqs: u32,
    pub cap_offset: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct RegionInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub cap_offset: u32,
    pub size: u64,
    pub offset: u64,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct IrqInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub count: u32,
}

/// `struct vfio_irq_set` without its data.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct IrqSet {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub start: u32,
    pub count: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct DmaMap {
    pub argsz: u32,
    pub flags: u32,
    pub vaddr: u64,
    pub iova: u64,
    pub size: u64,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct DmaUnmap {
    pub argsz: u32,
    pub flags: u32,
    pub iova: u64,
    pub size: u64,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct IommuInfo {
    pub argsz: u32,
    pub flags: u32,
    pub iova_pgsizes: u64,
    pub cap_offset: u32,
    pub pad: u32,
}

/// The size of a struct as its `argsz` wants it.
pub const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

const _: () = {
    assert!(GET_API_VERSION == 0x3b64);
    assert!(IOMMU_UNMAP_DMA == 0x3b72);
    assert!(size_of::<GroupStatus>() == 8);
    assert!(size_of::<DeviceInfo>() == 20);
    assert!(size_of::<RegionInfo>() == 32);
    assert!(size_of::<IrqInfo>() == 16);
    assert!(size_of::<IrqSet>() == 20);
    assert!(size_of::<DmaMap>() == 32);
    assert!(size_of::<DmaUnmap>() == 24);
    assert!(size_of::<IommuInfo>() == 24);
    assert!(core::mem::offset_of!(RegionInfo, offset) == 24);
    assert!(core::mem::offset_of!(DmaMap, iova) == 16);
    assert!(core::mem::offset_of!(DmaUnmap, size) == 16);
    assert!(core::mem::offset_of!(IommuInfo, cap_offset) == 16);
};

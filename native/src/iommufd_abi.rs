//! The iommufd ABI (include/uapi/linux/iommufd.h) and what VFIO adds for it: ioctl numbers, structs, constants. No calls.

use libc::Ioctl;

use crate::ioctl::Plain;

/// `IOMMUFD_TYPE` (which is `VFIO_TYPE`), `IOMMUFD_CMD_BASE`, `VFIO_BASE`.
const TYPE: Ioctl = b';' as Ioctl;
const BASE: Ioctl = 0x80;
const VFIO_BASE: Ioctl = 100;

/// `_IO(IOMMUFD_TYPE, number)`.
const fn io(number: Ioctl) -> Ioctl {
    (TYPE << 8) | number
}

pub const DESTROY: Ioctl = io(BASE);
pub const IOAS_ALLOC: Ioctl = io(BASE + 1);
pub const IOAS_COPY: Ioctl = io(BASE + 3);
pub const IOAS_IOVA_RANGES: Ioctl = io(BASE + 4);
pub const IOAS_MAP: Ioctl = io(BASE + 5);
pub const IOAS_UNMAP: Ioctl = io(BASE + 6);
pub const OPTION: Ioctl = io(BASE + 7);
pub const VFIO_IOAS: Ioctl = io(BASE + 8);
pub const IOAS_MAP_FILE: Ioctl = io(BASE + 15);

pub const DEVICE_FEATURE: Ioctl = io(VFIO_BASE + 17);
pub const DEVICE_BIND: Ioctl = io(VFIO_BASE + 18);
pub const DEVICE_ATTACH: Ioctl = io(VFIO_BASE + 19);
pub const DEVICE_DETACH: Ioctl = io(VFIO_BASE + 20);

/// `IOMMU_IOAS_MAP_*`, also of a copy.
pub const MAP_FIXED_IOVA: u32 = 1;
pub const MAP_WRITEABLE: u32 = 2;
pub const MAP_READABLE: u32 = 4;

pub const OPTION_RLIMIT_MODE: u32 = 0;
pub const OPTION_HUGE_PAGES: u32 = 1;
pub const OPTION_OP_SET: u16 = 0;
pub const OPTION_OP_GET: u16 = 1;
pub const VFIO_IOAS_SET: u16 = 1;

/// `VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF`.
pub const FEATURE_GET_DMA_BUF: u32 = (1 << 16) | 11;

macro_rules! layout {
    ($name:ident, $bytes:literal, { $($field:ident: $type:ty),* $(,)? }) => {
        #[repr(C)]
        #[derive(Debug, Default, Clone, Copy)]
        pub struct $name { $(pub $field: $type),* }

        const _: () = assert!(size_of::<$name>() == $bytes && $(size_of::<$type>() +)* 0 == $bytes);

        // SAFETY: integer fields only, whose sizes add up to the size of the struct, as has just been asserted.
        unsafe impl Plain for $name {}
    };
}

layout!(Destroy, 8, { size: u32, id: u32 });
layout!(IoasAlloc, 12, { size: u32, flags: u32, out_ioas_id: u32 });
layout!(IoasCopy, 40, {
    size: u32, flags: u32, dst_ioas_id: u32, src_ioas_id: u32, length: u64, dst_iova: u64, src_iova: u64,
});
layout!(IoasIovaRanges, 32, {
    size: u32, ioas_id: u32, num_iovas: u32, reserved: u32, allowed_iovas: u64, out_iova_alignment: u64,
});
layout!(IoasMap, 40, {
    size: u32, flags: u32, ioas_id: u32, reserved: u32, user_va: u64, length: u64, iova: u64,
});
layout!(IoasMapFile, 40, {
    size: u32, flags: u32, ioas_id: u32, fd: i32, start: u64, length: u64, iova: u64,
});
layout!(IoasUnmap, 24, { size: u32, ioas_id: u32, iova: u64, length: u64 });
layout!(Setting, 24, { size: u32, option_id: u32, op: u16, reserved: u16, object_id: u32, val64: u64 });
layout!(VfioIoas, 12, { size: u32, ioas_id: u32, op: u16, reserved: u16 });
layout!(Bind, 16, { argsz: u32, flags: u32, iommufd: i32, out_devid: u32 });
layout!(Attach, 12, { argsz: u32, flags: u32, pt_id: u32 });
layout!(Detach, 8, { argsz: u32, flags: u32 });
// struct vfio_device_feature with a vfio_device_feature_dma_buf of one range behind it.
layout!(DmaBuf, 40, {
    argsz: u32, flags: u32, region_index: u32, open_flags: u32, dma_buf_flags: u32, nr_ranges: u32, offset: u64,
    length: u64,
});

/// `struct iommu_iova_range`: first and last address.
pub const IOVA_RANGE: usize = 16;

const _: () = {
    assert!(DESTROY == 0x3b80);
    assert!(VFIO_IOAS == 0x3b88);
    assert!(IOAS_MAP_FILE == 0x3b8f);
    assert!(DEVICE_FEATURE == 0x3b75);
    assert!(DEVICE_DETACH == 0x3b78);
    assert!(core::mem::offset_of!(IoasMap, iova) == 32);
    assert!(core::mem::offset_of!(IoasMapFile, start) == 16);
    assert!(core::mem::offset_of!(IoasUnmap, length) == 16);
    assert!(core::mem::offset_of!(IoasIovaRanges, allowed_iovas) == 16);
    assert!(core::mem::offset_of!(Setting, val64) == 16);
    assert!(core::mem::offset_of!(VfioIoas, op) == 8);
};

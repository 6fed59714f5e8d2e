//! Devices of an iommufd: opened through their own file (vfio-dev cdev), bound, attached to an address space, and their
//! registers as dma-bufs.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::abi as vfio;
use crate::device::Device;
use crate::failure::{Failure, Result};
use crate::ioctl::{Kernel, Plain};
use crate::iommufd::{Iommufd, is_kept};
use crate::iommufd_abi::{self as abi, Attach, Bind, Detach, DmaBuf};
use crate::registry;
use crate::sys;

/// Regions 0 to 5 are the BARs.
const BARS: u32 = 6;
const PAGE: u64 = 4096;

impl<K: Kernel> Iommufd<K> {
    /// Opens a device file and binds the device, which no one can use before.
    pub fn bind(&self, path: &str) -> Result<Device<K>>
    where
        K: Clone,
    {
        let fd = sys::open_device(path).map_err(|it| Failure::new("open device", it.errno))?;
        let device = Device::of_iommufd(self.kernel().clone(), fd);
        let mut bind =
            Bind { argsz: vfio::argsz::<Bind>(), iommufd: self.fd().as_raw_fd(), ..Bind::default() };
        let (kernel, fd) = device.parts();
        // SAFETY: the kernel reads and fills a vfio_device_bind_iommufd, which `bind` is.
        unsafe { kernel.with_bytes("VFIO_DEVICE_BIND_IOMMUFD", fd, abi::DEVICE_BIND, bind.bytes())? };
        Ok(device)
    }

    /// Attaches a device to an address space, which pins and maps all of its areas for it. EFAULT when memory of an area
    /// is registered no more, since the kernel would pin what is at its address now.
    pub fn attach(&self, device: &Device<K>, ioas: u32) -> Result<()> {
        let call = "VFIO_DEVICE_ATTACH_IOMMUFD_PT";
        let table = registry::read();
        let mut areas = self.areas(ioas).into_iter().flat_map(|areas| areas.iter());
        if !areas.all(|(first, area)| is_kept(&table, area.va, area.last - first)) {
            return Err(Failure::new(call, libc::EFAULT));
        }
        let mut attach = Attach { argsz: vfio::argsz::<Attach>(), flags: 0, pt_id: ioas };
        let (kernel, fd) = device.parts();
        // SAFETY: the kernel reads and fills a vfio_device_attach_iommufd_pt, which `attach` is.
        unsafe { kernel.with_bytes(call, fd, abi::DEVICE_ATTACH, attach.bytes())? };
        Ok(())
    }

    /// Detaches a device: its DMA is blocked.
    pub fn detach(&self, device: &Device<K>) -> Result<()> {
        let mut detach = Detach { argsz: vfio::argsz::<Detach>(), flags: 0 };
        let (kernel, fd) = device.parts();
        let call = "VFIO_DEVICE_DETACH_IOMMUFD_PT";
        // SAFETY: the kernel reads a vfio_device_detach_iommufd_pt, which `detach` is.
        unsafe { kernel.with_bytes(call, fd, abi::DEVICE_DETACH, detach.bytes())? };
        Ok(())
    }
}

impl<K: Kernel> Iommufd<K> {
    /// True when a page of one of the device's BARs can be mapped as a dma-buf; tried in an address space of its own.
    pub fn maps_registers(&mut self, device: &Device<K>) -> bool {
        let Ok(ioas) = self.allocate() else { return false };
        let mut buffers = (0..BARS).filter_map(|index| {
            let large = device.region(index).is_ok_and(|region| region.size >= PAGE);
            if large { dma_buf(device, index, 0, PAGE).ok() } else { None }
        });
        let maps = buffers.any(|buffer| self.map_descriptor(ioas, buffer.as_fd(), PAGE).is_ok());
        drop(buffers);
        // The trial's map goes with its address space.
        self.destroy(ioas).is_ok() && maps
    }
}

/// A dma-buf of a part of a region, for maps of peers; refused where the kernel makes none (6.12 does not, 7.2 does).
pub fn dma_buf<K: Kernel>(device: &Device<K>, region: u32, offset: u64, length: u64) -> Result<OwnedFd> {
    let mut feature = DmaBuf {
        argsz: vfio::argsz::<DmaBuf>(),
        flags: abi::FEATURE_GET_DMA_BUF,
        region_index: region,
        open_flags: (libc::O_RDWR | libc::O_CLOEXEC) as u32,
        dma_buf_flags: 0,
        nr_ranges: 1,
        offset,
        length,
    };
    let (kernel, fd) = device.parts();
    let call = "VFIO_DEVICE_FEATURE_DMA_BUF";
    // SAFETY: the kernel reads a vfio_device_feature and the dma-buf request of one range behind it.
    let fd = unsafe { kernel.with_bytes(call, fd, abi::DEVICE_FEATURE, feature.bytes())? };
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

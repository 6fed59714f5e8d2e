//! An iommufd for JavaScript.

use napi::bindgen_prelude::{BigInt, BigUint64Array, Float64ArraySlice, Int32ArraySlice};
use napi_derive::napi;

use super::columns::{are_apart, span};
use super::device::NativeDevice;
use super::type1::NativeIoctlResult;
use super::{Result, closed, refused, u64_of};
use crate::failure::Failure;
use crate::ioctl::Linux;
use crate::iommufd::{Copy, Iommufd, Map};
use crate::iommufd_areas::Areas;
use crate::iommufd_batch::{self, IommufdColumns};
use crate::registry;

/// An open /dev/iommu.
#[napi]
pub struct NativeIommufd {
    file: Option<Iommufd<Linux>>,
}

/// What IOMMU_IOAS_IOVA_RANGES says.
#[napi(object, object_from_js = false)]
pub struct NativeIovaRanges {
    /// First and last address of each range, inclusive.
    pub ranges: BigUint64Array,
    pub alignment: BigInt,
}

fn errno_of(result: crate::failure::Result<()>) -> i32 {
    result.err().map_or(0, |Failure { errno, .. }| errno)
}

#[napi]
impl NativeIommufd {
    /// Opens a file; `per_process`: how locked memory is counted.
    #[napi(factory)]
    pub fn open(path: String, per_process: bool) -> Result<Self> {
        Ok(Self { file: Some(Iommufd::open(Linux, &path, per_process)?) })
    }

    fn file(&mut self) -> Result<&mut Iommufd<Linux>> {
        self.file.as_mut().ok_or_else(closed)
    }

    /// Makes an address space; returns its id.
    #[napi]
    pub fn allocate(&mut self) -> Result<u32> {
        Ok(self.file()?.allocate()?)
    }

    #[napi]
    pub fn destroy(&mut self, ioas: u32) -> Result<()> {
        Ok(self.file()?.destroy(ioas)?)
    }

    /// The smallest IOPTEs only, whose areas `unmap_dma` cuts.
    #[napi]
    pub fn small_pages(&mut self, ioas: u32) -> Result<()> {
        Ok(self.file()?.small_pages(ioas)?)
    }

    #[napi]
    pub fn ranges(&mut self, ioas: u32) -> Result<NativeIovaRanges> {
        let found = self.file()?.ranges(ioas)?;
        let numbers = found.ranges.into_iter().flat_map(|(first, last)| [first, last]).collect();
        Ok(NativeIovaRanges {
            ranges: BigUint64Array::new(numbers),
            alignment: BigInt::from(found.alignment),
        })
    }

    /// Opens a device file and binds the device.
    #[napi]
    pub fn bind(&mut self, path: String) -> Result<NativeDevice> {
        Ok(NativeDevice::new(self.file()?.bind(&path)?))
    }

    /// Attaches a device to an address space; returns 0 or errno.
    #[napi]
    pub fn attach(&mut self, device: &NativeDevice, ioas: u32) -> Result<i32> {
        Ok(errno_of(self.file()?.attach(device.device()?, ioas)))
    }

    #[napi]
    pub fn detach(&mut self, device: &NativeDevice) -> Result<i32> {
        Ok(errno_of(self.file()?.detach(device.device()?)))
    }

    /// True when registers of the device can be mapped.
    #[napi]
    pub fn maps_registers(&mut self, device: &NativeDevice) -> Result<bool> {
        Ok(self.file()?.maps_registers(device.device()?))
    }

    /// Number of areas of an address space; 0 for one that there is not.
    #[napi]
    pub fn area_count(&mut self, ioas: u32) -> Result<u32> {
        let count = self.file()?.areas(ioas).map_or(0, Areas::len);
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// First and last address of each area of an address space, ascending.
    #[napi]
    pub fn areas(&mut self, ioas: u32) -> Result<BigUint64Array> {
        let areas = self.file()?.areas(ioas).into_iter().flat_map(Areas::iter);
        Ok(BigUint64Array::new(areas.flat_map(|(first, area)| [first, area.last]).collect()))
    }

    /// Maps registered memory by its address, or by the file behind it; returns 0 or errno.
    #[napi]
    pub fn map(
        &mut self,
        ioas: u32,
        by_file: bool,
        flags: u32,
        va: BigInt,
        length: BigInt,
        iova: BigInt,
    ) -> Result<i32> {
        let map = Map { ioas, flags, va: u64_of(&va)?, length: u64_of(&length)?, iova: u64_of(&iova)? };
        let table = registry::read();
        let file = self.file()?;
        Ok(errno_of(if by_file { file.map_file(&table, map) } else { file.map(&table, map) }))
    }

    /// IOMMU_IOAS_COPY from another address space of this file; returns 0 or errno.
    #[napi]
    pub fn copy(
        &mut self,
        ioas: u32,
        source: u32,
        flags: u32,
        source_iova: BigInt,
        length: BigInt,
        iova: BigInt,
    ) -> Result<i32> {
        let (source_iova, length, iova) = (u64_of(&source_iova)?, u64_of(&length)?, u64_of(&iova)?);
        let table = registry::read();
        Ok(errno_of(self.file()?.copy(&table, Copy { ioas, source, flags, source_iova, length, iova })))
    }

    /// IOMMU_IOAS_UNMAP; 0 and 2^64 - 1 together: everything.
    #[napi]
    pub fn unmap(&mut self, ioas: u32, iova: BigInt, length: BigInt) -> Result<NativeIoctlResult> {
        let (iova, length) = (u64_of(&iova)?, u64_of(&length)?);
        let (errno, size) = self.file()?.unmap(ioas, iova, length);
        Ok(NativeIoctlResult { errno, size: BigInt::from(size) })
    }

    /// VFIO_IOMMU_UNMAP_DMA on an address space.
    #[napi]
    pub fn unmap_dma(
        &mut self,
        ioas: u32,
        argsz: u32,
        flags: u32,
        iova: BigInt,
        size: BigInt,
    ) -> Result<NativeIoctlResult> {
        let (iova, size) = (u64_of(&iova)?, u64_of(&size)?);
        let (errno, size) = self.file()?.unmap_dma(ioas, argsz, flags, iova, size);
        Ok(NativeIoctlResult { errno, size: BigInt::from(size) })
    }

    /// Applies the operations `from`..`count` of columns of a HostBatch. Returns `count`, or the index of the operation
    /// that was refused. EINVAL when the columns are too short or share memory.
    #[napi]
    #[allow(clippy::too_many_arguments, reason = "one argument for each column of a HostBatch")]
    pub fn run(
        &mut self,
        ioas: u32,
        cut: bool,
        from: u32,
        count: u32,
        kind: &[u8],
        iova: &[f64],
        pages: &[f64],
        va: &[f64],
        rights: &[u8],
        mut errno: Int32ArraySlice<'_>,
        mut done: Float64ArraySlice<'_>,
    ) -> Result<u32> {
        let read = [span(kind), span(iova), span(pages), span(va), span(rights)];
        if !are_apart(&[span(&errno), span(&done)], &read) {
            return Err(refused("batch", libc::EINVAL));
        }
        // SAFETY: no other column shares memory with these two, and JavaScript does not run before this returns.
        let (errno, done) = unsafe { (errno.as_mut(), done.as_mut()) };
        let mut columns = IommufdColumns { kind, iova, pages, va, rights, errno, done };
        let (first, end) = (from as usize, count as usize);
        if !columns.hold(first, end) {
            return Err(refused("batch", libc::EINVAL));
        }
        let reached = iommufd_batch::apply(self.file()?, ioas, cut, &mut columns, first, end);
        // At most `count`, which is a u32.
        Ok(reached as u32)
    }

    /// Closes the file; what its devices are attached to stays until they are closed too. Twice is no error.
    #[napi]
    pub fn close(&mut self) {
        self.file = None;
    }
}

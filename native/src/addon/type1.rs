//! A container for JavaScript.

use napi::bindgen_prelude::{BigInt, BigUint64Array, Float64ArraySlice, Int32ArraySlice};
use napi_derive::napi;

use super::columns::{are_apart, span};
use super::device::NativeDevice;
use super::{Result, bigint, closed, refused, u64_of};
use crate::batch::{self, Batches, Columns};
use crate::container::Container;
use crate::device::Device;
use crate::ioctl::Linux;
use crate::registry;
use crate::windows::Windows;

/// A VFIO type 1 v2 container with one group. Windows exist after `reserveWindows`.
#[napi]
pub struct NativeType1 {
    batches: Option<Batches<Linux>>,
}

/// What VFIO_IOMMU_GET_INFO says.
#[napi(object, object_from_js = false)]
pub struct NativeType1Facts {
    pub page_sizes: BigInt,
    /// First and last address of each range, inclusive; undefined without the capability.
    pub ranges: Option<BigUint64Array>,
    pub available: Option<u32>,
    pub migration: bool,
}

/// An errno or 0, and the size that the kernel left in the struct.
#[napi(object, object_from_js = false)]
pub struct NativeIoctlResult {
    pub errno: i32,
    pub size: BigInt,
}

#[napi]
impl NativeType1 {
    /// Opens the two device files and brings the group into the container.
    #[napi(factory)]
    pub fn open(container: String, group: String) -> Result<Self> {
        let container = Container::open(Linux, &container, &group)?;
        Ok(Self { batches: Some(Batches { container, windows: None }) })
    }

    fn batches(&mut self) -> Result<&mut Batches<Linux>> {
        self.batches.as_mut().ok_or_else(closed)
    }

    #[napi]
    pub fn facts(&mut self) -> Result<NativeType1Facts> {
        let facts = self.batches()?.container.facts()?;
        let ranges = facts.ranges.map(|ranges| {
            BigUint64Array::new(ranges.into_iter().flat_map(|(start, end)| [start, end]).collect())
        });
        Ok(NativeType1Facts {
            page_sizes: BigInt::from(facts.page_sizes),
            ranges,
            available: facts.available,
            migration: facts.migration,
        })
    }

    /// Opens a device of the group by its name in sysfs.
    #[napi]
    pub fn device(&mut self, name: String) -> Result<NativeDevice> {
        let fd = self.batches()?.container.device(&name)?;
        Ok(NativeDevice::new(Device::new(Linux, fd)))
    }

    /// Takes `bytes` of address space for windows of at most `pieces` pieces together. Once only.
    #[napi]
    pub fn reserve_windows(&mut self, bytes: BigInt, pieces: u32) -> Result<()> {
        let batches = self.batches()?;
        if batches.windows.is_some() {
            return Err(refused("mmap", libc::EALREADY));
        }
        let bytes = usize::try_from(u64_of(&bytes)?).map_err(|_| refused("mmap", libc::ENOMEM))?;
        batches.windows = Some(Windows::new(bytes, pieces as usize)?);
        Ok(())
    }

    /// First address and length of the reserve, and pieces of the windows that stand now; zeroes without one.
    #[napi]
    pub fn window_state(&mut self) -> Result<Vec<BigInt>> {
        let windows = self.batches()?.windows.as_ref();
        let (address, length) = windows.map_or((0, 0), Windows::reserve);
        Ok(vec![bigint(address), bigint(length), bigint(windows.map_or(0, Windows::pieces))])
    }

    /// `what`: 0 applies the operations `from`..`count`, 1 builds their windows, 2 drops these. Returns `count`, or the index
    /// of the operation that was refused. EINVAL when the columns are too short or share memory.
    #[napi]
    #[allow(clippy::too_many_arguments, reason = "one argument for each column of a HostBatch")]
    pub fn run(
        &mut self,
        what: u32,
        from: u32,
        count: u32,
        kind: &[u8],
        iova: &[f64],
        pages: &[f64],
        va: &[f64],
        rights: &[u8],
        pieces: &[i32],
        mut window: Float64ArraySlice<'_>,
        mut errno: Int32ArraySlice<'_>,
        mut done: Float64ArraySlice<'_>,
        piece_va: &[f64],
        piece_pages: &[f64],
    ) -> Result<u32> {
        let written = [span(&window), span(&errno), span(&done)];
        let read = [
            span(kind),
            span(iova),
            span(pages),
            span(va),
            span(rights),
            span(pieces),
            span(piece_va),
            span(piece_pages),
        ];
        if !are_apart(&written, &read) {
            return Err(refused("batch", libc::EINVAL));
        }
        // SAFETY: no other column shares memory with these three, and JavaScript does not run before this returns.
        let (window, errno, done) = unsafe { (window.as_mut(), errno.as_mut(), done.as_mut()) };
        let mut columns =
            Columns { kind, iova, pages, va, rights, pieces, window, errno, done, piece_va, piece_pages };
        let (first, end) = (from as usize, count as usize);
        if !columns.hold(first, end) {
            return Err(refused("batch", libc::EINVAL));
        }
        let batches = self.batches()?;
        let reached = match what {
            0 => batches.apply(&mut columns, first, end),
            1 => batches.build(&mut columns, first, end),
            _ => {
                batches.drop_windows(&mut columns, first, end);
                end
            }
        };
        // At most `count`, which is a u32.
        Ok(reached as u32)
    }

    /// VFIO_IOMMU_MAP_DMA in bytes; memory that is not registered becomes an address that the kernel refuses (EFAULT).
    #[napi]
    pub fn map_dma(
        &mut self,
        argsz: u32,
        flags: u32,
        vaddr: BigInt,
        iova: BigInt,
        size: BigInt,
    ) -> Result<NativeIoctlResult> {
        let (vaddr, iova, bytes) = (u64_of(&vaddr)?, u64_of(&iova)?, u64_of(&size)?);
        let table = registry::read();
        let vaddr = batch::allowed(&table, vaddr, bytes);
        let result = self.batches()?.container.map(argsz, flags, vaddr, iova, bytes);
        Ok(NativeIoctlResult { errno: result.err().map_or(0, |failure| failure.errno), size })
    }

    /// VFIO_IOMMU_UNMAP_DMA in bytes.
    #[napi]
    pub fn unmap_dma(
        &mut self,
        argsz: u32,
        flags: u32,
        iova: BigInt,
        size: BigInt,
    ) -> Result<NativeIoctlResult> {
        let (iova, size) = (u64_of(&iova)?, u64_of(&size)?);
        let (errno, size) = self.batches()?.container.unmap(argsz, flags, iova, size);
        Ok(NativeIoctlResult { errno, size: BigInt::from(size) })
    }

    /// Removes every entry; returns 0 or errno.
    #[napi]
    pub fn unmap_all(&mut self) -> Result<i32> {
        Ok(self.batches()?.container.unmap_all().0)
    }

    /// Leaves the group and gives the reserve back. Twice is no error.
    #[napi]
    pub fn close(&mut self) {
        self.batches = None;
    }
}

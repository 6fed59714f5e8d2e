//! An iommufd file: I/O address spaces (IOAS), maps by address and by file, copies, unmaps, the legacy unmap that cuts.
//! Not here: batches (`iommufd_batch`), devices (`iommufd_device`). Bytes; lengths, not ends.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use libc::Ioctl;

use crate::abi::{self as vfio, DmaUnmap};
use crate::failure::{Failure, Result};
use crate::ioctl::{Kernel, Plain};
use crate::iommufd_abi::{self as abi, Destroy, IoasAlloc, IoasCopy, IoasIovaRanges, IoasMap, IoasMapFile};
use crate::iommufd_abi::{IoasUnmap, Setting, VfioIoas};
use crate::iommufd_areas::Areas;
use crate::registry::Table;
use crate::sys;

/// Most ranges that are asked for; a device has a handful.
const MAX_RANGES: u32 = 1 << 16;
/// First address that a process can never map, so that the kernel refuses to pin it.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// What IOMMU_IOAS_IOVA_RANGES says: first and last addresses, and the alignment of maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    pub ranges: Vec<(u64, u64)>,
    pub alignment: u64,
}

/// A map: by address, or by the file behind the address.
#[derive(Debug, Clone, Copy)]
pub struct Map {
    pub ioas: u32,
    pub flags: u32,
    pub va: u64,
    pub length: u64,
    pub iova: u64,
}

/// A copy into `ioas`.
#[derive(Debug, Clone, Copy)]
pub struct Copy {
    pub ioas: u32,
    pub source: u32,
    pub flags: u32,
    pub source_iova: u64,
    pub length: u64,
    pub iova: u64,
}

/// An open /dev/iommu with what its address spaces hold.
#[derive(Debug)]
pub struct Iommufd<K: Kernel> {
    kernel: K,
    file: OwnedFd,
    spaces: BTreeMap<u32, Areas>,
    /// Address spaces whose areas may be cut.
    small: BTreeSet<u32>,
    /// The address space that the legacy calls change.
    selected: Option<u32>,
}

impl<K: Kernel> Iommufd<K> {
    /// Opens a file. `per_process`: locked memory counts against this process (as type 1 does), not against its user.
    pub fn open(kernel: K, path: &str, per_process: bool) -> Result<Self> {
        let file = sys::open_device(path).map_err(|it| Failure::new("open iommufd", it.errno))?;
        let (spaces, small) = (BTreeMap::new(), BTreeSet::new());
        let opened = Self { kernel, file, spaces, small, selected: None };
        if per_process {
            opened.set_option("IOMMU_OPTION_RLIMIT_MODE", abi::OPTION_RLIMIT_MODE, 0, 1)?;
        }
        Ok(opened)
    }

    pub const fn kernel(&self) -> &K {
        &self.kernel
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn call<T: Plain>(&self, call: &'static str, request: Ioctl, argument: &mut T) -> Result<()> {
        // SAFETY: requests of this file take the struct that their type names, whose size is in its first word; addresses
        // inside are those of registered memory, or of buffers that live over the call.
        unsafe { self.kernel.with_bytes(call, self.file.as_fd(), request, argument.bytes())? };
        Ok(())
    }

    /// Makes an address space.
    pub fn allocate(&mut self) -> Result<u32> {
        let mut alloc = IoasAlloc { size: vfio::argsz::<IoasAlloc>(), ..IoasAlloc::default() };
        self.call("IOMMU_IOAS_ALLOC", abi::IOAS_ALLOC, &mut alloc)?;
        self.spaces.insert(alloc.out_ioas_id, Areas::default());
        Ok(alloc.out_ioas_id)
    }

    /// Removes an address space that no device uses.
    pub fn destroy(&mut self, ioas: u32) -> Result<()> {
        let mut destroy = Destroy { size: vfio::argsz::<Destroy>(), id: ioas };
        self.call("IOMMU_DESTROY", abi::DESTROY, &mut destroy)?;
        self.spaces.remove(&ioas);
        self.small.remove(&ioas);
        // The kernel forgets it too, and may give its id to the next one.
        self.selected = self.selected.filter(|&selected| selected != ioas);
        Ok(())
    }

    fn set_option(&self, call: &'static str, option_id: u32, object_id: u32, val64: u64) -> Result<()> {
        let op = abi::OPTION_OP_SET;
        let mut option =
            Setting { size: vfio::argsz::<Setting>(), option_id, op, reserved: 0, object_id, val64 };
        self.call(call, abi::OPTION, &mut option)
    }

    /// The smallest IOPTEs only (IOMMU_OPTION_HUGE_PAGES = 0), which allows [`Self::unmap_dma`] to cut areas.
    pub fn small_pages(&mut self, ioas: u32) -> Result<()> {
        self.set_option("IOMMU_OPTION_HUGE_PAGES", abi::OPTION_HUGE_PAGES, ioas, 0)?;
        self.small.insert(ioas);
        Ok(())
    }

    /// Has the legacy calls change this address space; no call where they do already.
    fn select(&mut self, ioas: u32) -> Result<()> {
        if self.selected == Some(ioas) {
            return Ok(());
        }
        let (size, op) = (vfio::argsz::<VfioIoas>(), abi::VFIO_IOAS_SET);
        let mut select = VfioIoas { size, ioas_id: ioas, op, reserved: 0 };
        self.call("IOMMU_VFIO_IOAS", abi::VFIO_IOAS, &mut select)?;
        self.selected = Some(ioas);
        Ok(())
    }

    /// Addresses that may be mapped; asks again while there are more than there was room for.
    pub fn ranges(&self, ioas: u32) -> Result<Ranges> {
        let (call, mut room) = ("IOMMU_IOAS_IOVA_RANGES", 16u32);
        loop {
            let mut list = vec![0u64; room as usize * (abi::IOVA_RANGE / 8)];
            let mut query = IoasIovaRanges {
                size: vfio::argsz::<IoasIovaRanges>(),
                ioas_id: ioas,
                num_iovas: room,
                allowed_iovas: list.as_mut_ptr() as u64,
                ..IoasIovaRanges::default()
            };
            let result = self.call(call, abi::IOAS_IOVA_RANGES, &mut query);
            match result {
                Err(Failure { errno: libc::EMSGSIZE, .. })
                    if query.num_iovas > room && query.num_iovas <= MAX_RANGES =>
                {
                    room = query.num_iovas;
                }
                Err(failure) => return Err(failure),
                Ok(()) => {
                    let count = query.num_iovas.min(room) as usize;
                    let ranges = list.chunks_exact(2).take(count).map(|pair| (pair[0], pair[1])).collect();
                    return Ok(Ranges { ranges, alignment: query.out_iova_alignment });
                }
            }
        }
    }

    /// IOMMU_IOAS_MAP. Memory that is not registered becomes an address that the kernel refuses to pin, at once or, as
    /// long as no device is attached, when one is.
    pub fn map(&mut self, table: &Table, map: Map) -> Result<()> {
        let Map { ioas, flags, length, .. } = map;
        let va = guarded(table, map.va, length);
        let mut argument = IoasMap {
            size: vfio::argsz::<IoasMap>(),
            flags,
            ioas_id: ioas,
            reserved: 0,
            user_va: va,
            length,
            iova: map.iova,
        };
        self.call("IOMMU_IOAS_MAP", abi::IOAS_MAP, &mut argument)?;
        self.record(ioas, argument.iova, length, Some(va));
        Ok(())
    }

    /// IOMMU_IOAS_MAP_FILE of the file behind registered memory: guest RAM, or the dma-buf of device registers. EFAULT
    /// where there is none.
    pub fn map_file(&mut self, table: &Table, map: Map) -> Result<()> {
        let call = "IOMMU_IOAS_MAP_FILE";
        let Map { ioas, flags, length, .. } = map;
        let (file, start) = file_behind(table, map.va, length).ok_or(Failure::new(call, libc::EFAULT))?;
        let (size, fd) = (vfio::argsz::<IoasMapFile>(), file.raw());
        let mut argument = IoasMapFile { size, flags, ioas_id: ioas, fd, start, length, iova: map.iova };
        self.call(call, abi::IOAS_MAP_FILE, &mut argument)?;
        self.record(ioas, argument.iova, length, None);
        Ok(())
    }

    /// IOMMU_IOAS_MAP_FILE of the first bytes of a file, at address 0.
    pub fn map_descriptor(&mut self, ioas: u32, fd: BorrowedFd<'_>, length: u64) -> Result<()> {
        let (size, fd) = (vfio::argsz::<IoasMapFile>(), fd.as_raw_fd());
        let flags = abi::MAP_FIXED_IOVA | abi::MAP_READABLE | abi::MAP_WRITEABLE;
        let mut argument = IoasMapFile { size, flags, ioas_id: ioas, fd, start: 0, length, iova: 0 };
        self.call("IOMMU_IOAS_MAP_FILE", abi::IOAS_MAP_FILE, &mut argument)?;
        self.record(ioas, 0, length, None);
        Ok(())
    }

    /// IOMMU_IOAS_COPY. EFAULT when memory of the source is registered no more.
    pub fn copy(&mut self, table: &Table, copy: Copy) -> Result<()> {
        let Copy { ioas, source, flags, source_iova, length, iova } = copy;
        let slices = length
            .checked_sub(1)
            .and_then(|rest| source_iova.checked_add(rest))
            .and_then(|last| self.spaces.get(&source)?.slices(source_iova, last))
            .unwrap_or_default();
        if !slices.iter().all(|&(rest, va)| is_kept(table, va, rest)) {
            return Err(Failure::new("IOMMU_IOAS_COPY", libc::EFAULT));
        }
        let mut argument = IoasCopy {
            size: vfio::argsz::<IoasCopy>(),
            flags,
            dst_ioas_id: ioas,
            src_ioas_id: source,
            length,
            dst_iova: iova,
            src_iova: source_iova,
        };
        self.call("IOMMU_IOAS_COPY", abi::IOAS_COPY, &mut argument)?;
        let mut at = argument.dst_iova;
        for (rest, va) in slices {
            self.spaces.entry(ioas).or_default().insert(at, at + rest, va);
            at = at.wrapping_add(rest).wrapping_add(1);
        }
        Ok(())
    }

    /// IOMMU_IOAS_UNMAP; returns the bytes that were removed, or as given after a refusal, with the errno or 0. Areas
    /// before one that the range cuts are gone then.
    pub fn unmap(&mut self, ioas: u32, iova: u64, length: u64) -> (i32, u64) {
        let mut argument = IoasUnmap { size: vfio::argsz::<IoasUnmap>(), ioas_id: ioas, iova, length };
        let result = self.call("IOMMU_IOAS_UNMAP", abi::IOAS_UNMAP, &mut argument);
        let errno = result.err().map_or(0, |failure| failure.errno);
        if errno == 0 || errno == libc::ENOENT {
            self.forget(ioas, iova, length);
        }
        (errno, argument.length)
    }

    /// Removes everything; no error when there is nothing.
    pub fn unmap_all(&mut self, ioas: u32) -> (i32, u64) {
        self.unmap(ioas, 0, u64::MAX)
    }

    /// VFIO_IOMMU_UNMAP_DMA on an address space, which is selected first: there is one target for the whole file. Where
    /// [`Self::small_pages`] was called it first cuts the areas at both ends of the range. Returns the size that the kernel
    /// left, with the errno or 0.
    pub fn unmap_dma(&mut self, ioas: u32, argsz: u32, flags: u32, iova: u64, size: u64) -> (i32, u64) {
        if let Err(failure) = self.select(ioas) {
            return (failure.errno, size);
        }
        let mut argument = DmaUnmap { argsz, flags, iova, size };
        let result = self.call("VFIO_IOMMU_UNMAP_DMA", vfio::IOMMU_UNMAP_DMA, &mut argument);
        let errno = result.err().map_or(0, |failure| failure.errno);
        if argsz >= vfio::argsz::<DmaUnmap>() && flags & !vfio::DMA_UNMAP_FLAG_ALL == 0 {
            self.follow(ioas, flags & vfio::DMA_UNMAP_FLAG_ALL != 0, iova, size, errno);
        }
        (errno, argument.size)
    }

    /// Does to the record of an address space what the legacy unmap has done to it: cuts come before all checks.
    fn follow(&mut self, ioas: u32, all: bool, iova: u64, size: u64, errno: i32) {
        let small = self.small.contains(&ioas);
        let Some(areas) = self.spaces.get_mut(&ioas) else { return };
        if all {
            if errno == 0 {
                areas.clear();
            }
            return;
        }
        if small && areas.cut(iova.wrapping_add(size)) && iova != 0 {
            areas.cut(iova);
        }
        if errno == 0 || errno == libc::ENOENT {
            self.forget(ioas, iova, size);
        }
    }

    /// What an address space holds; nothing for one that there is not.
    pub fn areas(&self, ioas: u32) -> Option<&Areas> {
        self.spaces.get(&ioas)
    }

    fn record(&mut self, ioas: u32, iova: u64, length: u64, va: Option<u64>) {
        self.spaces.entry(ioas).or_default().insert(iova, iova + (length - 1), va);
    }

    fn forget(&mut self, ioas: u32, iova: u64, length: u64) {
        let Some(areas) = self.spaces.get_mut(&ioas) else { return };
        match (iova, length) {
            (0, u64::MAX) => areas.clear(),
            (_, 0) => {}
            _ => areas.remove(iova, iova.saturating_add(length - 1)),
        }
    }
}

/// A file that stays open over a call.
enum Held<'a> {
    Guest(BorrowedFd<'a>),
    Registers(Arc<OwnedFd>),
}

impl Held<'_> {
    fn raw(&self) -> i32 {
        match self {
            Held::Guest(fd) => fd.as_raw_fd(),
            Held::Registers(fd) => fd.as_raw_fd(),
        }
    }
}

/// The file behind all of [va, va + length), and where the range starts in it.
fn file_behind(table: &Table, va: u64, length: u64) -> Option<(Held<'_>, u64)> {
    let (address, bytes) = (usize::try_from(va).ok()?, usize::try_from(length).ok()?);
    if let Some((fd, start)) = table.registers_at(address, bytes) {
        return Some((Held::Registers(fd), start));
    }
    let part = table.file_at(address, bytes).ok()?;
    (part.length == bytes).then(|| (Held::Guest(part.file.fd.as_fd()), part.offset))
}

/// The address to give to the kernel for a map of [va, va + length).
fn guarded(table: &Table, va: u64, length: u64) -> u64 {
    // A range that wraps, or lies in the kernel's half, is refused by the kernel itself, with the errno of its choice.
    if va >= KERNEL_HALF || va.checked_add(length).is_none() || table.contains(va, length) {
        va
    } else {
        KERNEL_HALF | (va & 0xfff)
    }
}

/// True while memory that was registered when it was mapped still is, so that it may be pinned now.
pub fn is_kept(table: &Table, va: Option<u64>, rest: u64) -> bool {
    va.is_none_or(|va| {
        va >= KERNEL_HALF || rest.checked_add(1).is_some_and(|length| table.contains(va, length))
    })
}

#[cfg(test)]
#[path = "iommufd_tests.rs"]
mod tests;

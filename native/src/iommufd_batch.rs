//! Many operations on one address space in one call: columns of a HostBatch, in 4 KiB pages held in f64, in order.

use libc::{EINVAL, ENOENT, EOVERFLOW};

use crate::abi;
use crate::batch::{MAP, UNMAP, page_number};
use crate::ioctl::Kernel;
use crate::iommufd::{Iommufd, Map};
use crate::iommufd_abi as iommufd;
use crate::registry::{self, Table};

const PAGE: u64 = 4096;
/// `HOST_MMIO`: the memory is a device's registers.
const MMIO: u8 = 4;

/// The columns that this backend looks at.
#[derive(Debug)]
pub struct IommufdColumns<'a> {
    pub kind: &'a [u8],
    pub iova: &'a [f64],
    pub pages: &'a [f64],
    pub va: &'a [f64],
    pub rights: &'a [u8],
    pub errno: &'a mut [i32],
    pub done: &'a mut [f64],
}

impl IommufdColumns<'_> {
    /// True when operations `from`..`count` are inside every column.
    pub fn hold(&self, from: usize, count: usize) -> bool {
        let floats = [self.iova.len(), self.pages.len(), self.va.len(), self.done.len()];
        let rows = [self.kind.len(), self.rights.len(), self.errno.len()];
        from <= count && floats.iter().chain(&rows).all(|&length| count <= length)
    }
}

/// Executes `from`..`count` and stops at the first refusal, which has changed nothing; returns its index, or `count`.
/// `cut`: unmaps cut areas at their ends.
pub fn apply<K: Kernel>(
    file: &mut Iommufd<K>,
    ioas: u32,
    cut: bool,
    columns: &mut IommufdColumns<'_>,
    from: usize,
    count: usize,
) -> usize {
    // Held over the whole batch: memory that an operation names cannot be unmapped on another thread meanwhile.
    let table = registry::read();
    for i in from..count {
        let numbers = (page_number(columns.iova[i]), page_number(columns.pages[i]));
        let errno = match (columns.kind[i], numbers) {
            (MAP, (Some(iova), Some(pages))) => map(file, &table, ioas, columns, i, iova, pages),
            (UNMAP, (Some(iova), Some(pages))) => {
                let (errno, bytes) = unmap(file, ioas, cut, iova, pages);
                columns.done[i] = if errno == 0 { (bytes / PAGE) as f64 } else { 0.0 };
                errno
            }
            _ => EINVAL,
        };
        columns.errno[i] = errno;
        if errno != 0 {
            return i;
        }
    }
    count
}

fn map<K: Kernel>(
    file: &mut Iommufd<K>,
    table: &Table,
    ioas: u32,
    columns: &IommufdColumns<'_>,
    i: usize,
    iova: u64,
    pages: u64,
) -> i32 {
    let (Some(iova), Some(length)) = (iova.checked_mul(PAGE), pages.checked_mul(PAGE)) else {
        return EOVERFLOW;
    };
    let Some(va) = page_number(columns.va[i]) else { return EINVAL };
    let rights = columns.rights[i];
    let mut flags = iommufd::MAP_FIXED_IOVA;
    if u32::from(rights) & abi::DMA_MAP_FLAG_READ != 0 {
        flags |= iommufd::MAP_READABLE;
    }
    if u32::from(rights) & abi::DMA_MAP_FLAG_WRITE != 0 {
        flags |= iommufd::MAP_WRITEABLE;
    }
    // 2^64 itself is no address; the last page of 64 bits wraps like it.
    let map = Map { ioas, flags, va: va.saturating_mul(PAGE) & !(PAGE - 1), length, iova };
    let by_file = rights & MMIO != 0 && table.registers_at(map.va as usize, length as usize).is_some();
    let result = if by_file { file.map_file(table, map) } else { file.map(table, map) };
    result.err().map_or(0, |failure| failure.errno)
}

fn unmap<K: Kernel>(file: &mut Iommufd<K>, ioas: u32, cut: bool, iova: u64, pages: u64) -> (i32, u64) {
    let (Some(first), Some(length)) = (iova.checked_mul(PAGE), pages.checked_mul(PAGE)) else {
        // All 2^64 bytes are no u64, but there is a spelling for them.
        return if iova == 0 { file.unmap_all(ioas) } else { (EOVERFLOW, 0) };
    };
    let Some(rest) = length.checked_sub(1) else { return (EINVAL, 0) };
    let Some(last) = first.checked_add(rest) else { return (EOVERFLOW, 0) };
    if cut {
        return file.unmap_dma(ioas, abi::argsz::<abi::DmaUnmap>(), 0, first, length);
    }
    // The kernel would remove the areas before one that is cut, and not say how many.
    if file.areas(ioas).is_some_and(|areas| !areas.is_whole(first, last)) {
        return (ENOENT, 0);
    }
    file.unmap(ioas, first, length)
}

#[cfg(test)]
#[path = "iommufd_batch_tests.rs"]
mod tests;

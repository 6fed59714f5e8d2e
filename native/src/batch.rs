//! Many operations in one call: the columns of a HostBatch, in 4 KiB pages held in f64, executed in order.

use libc::{EINVAL, EOPNOTSUPP};

use crate::abi;
use crate::container::Container;
use crate::ioctl::Kernel;
use crate::pages::Access;
use crate::registry::{self, Table};
use crate::windows::{Piece, Windows};

/// Values of the column `kind`.
pub const MAP: u8 = 1;
pub const UNMAP: u8 = 2;
pub const GATHER: u8 = 3;

const RIGHTS: u32 = abi::DMA_MAP_FLAG_READ | abi::DMA_MAP_FLAG_WRITE;
const PAGE: u64 = 4096;
/// One past the last page number of 64 bits.
const PAGE_END: u64 = 1 << 52;
/// Bits that turn any address into one of the kernel, which a process cannot map and the kernel cannot pin.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// The columns of a HostBatch.
#[derive(Debug)]
pub struct Columns<'a> {
    pub kind: &'a [u8],
    pub iova: &'a [f64],
    pub pages: &'a [f64],
    pub va: &'a [f64],
    pub rights: &'a [u8],
    pub pieces: &'a [i32],
    pub window: &'a mut [f64],
    pub errno: &'a mut [i32],
    pub done: &'a mut [f64],
    pub piece_va: &'a [f64],
    pub piece_pages: &'a [f64],
}

impl Columns<'_> {
    /// True when operations `from`..`count` are inside every column.
    pub fn hold(&self, from: usize, count: usize) -> bool {
        let rows = [
            self.kind.len(),
            self.iova.len(),
            self.pages.len(),
            self.va.len(),
            self.rights.len(),
            self.pieces.len(),
            self.window.len(),
            self.errno.len(),
            self.done.len(),
        ];
        from <= count && rows.iter().all(|&length| count <= length)
    }

    /// The pieces of gather `i`; EINVAL when they are not inside their columns or are not whole pages.
    fn pieces_of(&self, i: usize) -> Result<Vec<Piece>, i32> {
        let first = page_number(self.va[i]).ok_or(EINVAL)? as usize;
        let count = usize::try_from(self.pieces[i]).map_err(|_| EINVAL)?;
        let range = first..first.checked_add(count).ok_or(EINVAL)?;
        let va = self.piece_va.get(range.clone()).ok_or(EINVAL)?;
        let pages = self.piece_pages.get(range).ok_or(EINVAL)?;
        va.iter().zip(pages).map(|(&va, &pages)| piece(va, pages).ok_or(EINVAL)).collect()
    }
}

fn piece(va: f64, pages: f64) -> Option<Piece> {
    let address = usize::try_from(bytes(page_number(va)?)?).ok()?;
    let length = usize::try_from(bytes(page_number(pages)?)?).ok()?;
    address.checked_add(length)?;
    Some(Piece { address, length })
}

/// An exact page number in [0, 2^52].
pub fn page_number(value: f64) -> Option<u64> {
    (value >= 0.0 && value <= PAGE_END as f64 && value.trunc() == value).then_some(value as u64)
}

/// None for 2^52 pages, which are no u64 of bytes.
fn bytes(pages: u64) -> Option<u64> {
    pages.checked_mul(PAGE)
}

/// Address of a window as a page number; exact, since user addresses have fewer than 57 bits.
fn window_page(address: usize) -> f64 {
    (address as u64 / PAGE) as f64
}

/// A container and its windows: None where the container never gathers.
#[derive(Debug)]
pub struct Batches<K: Kernel> {
    pub container: Container<K>,
    pub windows: Option<Windows>,
}

impl<K: Kernel> Batches<K> {
    /// Builds the window of every gather among `from`..`count` that has none, all or none; returns `count`, or the index of
    /// the refused one.
    pub fn build(&mut self, columns: &mut Columns<'_>, from: usize, count: usize) -> usize {
        let table = registry::read();
        let mut built = Vec::new();
        for i in from..count {
            if columns.kind[i] != GATHER || self.standing(columns, i).is_some() {
                continue;
            }
            match self.build_one(&table, columns, i) {
                Ok(address) => {
                    columns.window[i] = window_page(address);
                    built.push(i);
                }
                Err(errno) => {
                    columns.errno[i] = errno;
                    for i in built {
                        self.drop_one(columns, i);
                    }
                    return i;
                }
            }
        }
        count
    }

    /// Address of the window of gather `i`, when it stands and has the gather's length.
    fn standing(&self, columns: &Columns<'_>, i: usize) -> Option<usize> {
        let address = window_address(columns.window[i])?;
        let length = self.windows.as_ref()?.length(address)?;
        (page_number(columns.pages[i]).and_then(bytes) == Some(length as u64)).then_some(address)
    }

    fn build_one(&mut self, table: &Table, columns: &Columns<'_>, i: usize) -> Result<usize, i32> {
        let windows = self.windows.as_mut().ok_or(EOPNOTSUPP)?;
        let pieces = columns.pieces_of(i)?;
        let total =
            pieces.iter().try_fold(0usize, |sum, piece| sum.checked_add(piece.length)).ok_or(EINVAL)?;
        let pages = page_number(columns.pages[i]).and_then(bytes).ok_or(EINVAL)?;
        if total as u64 != pages {
            return Err(EINVAL);
        }
        let write = u32::from(columns.rights[i]) & abi::DMA_MAP_FLAG_WRITE != 0;
        windows.build(table, &pieces, if write { Access::ReadWrite } else { Access::Read })
    }

    /// Drops the windows of the gathers among `from`..`count` that still stand.
    pub fn drop_windows(&mut self, columns: &mut Columns<'_>, from: usize, count: usize) {
        for i in from..count {
            if columns.kind[i] == GATHER {
                self.drop_one(columns, i);
            }
        }
    }

    fn drop_one(&mut self, columns: &mut Columns<'_>, i: usize) {
        if let (Some(windows), Some(address)) = (&mut self.windows, window_address(columns.window[i])) {
            windows.drop_window(address);
        }
        columns.window[i] = 0.0;
    }

    /// Executes `from`..`count` and stops at the first refusal; returns its index, or `count`.
    pub fn apply(&mut self, columns: &mut Columns<'_>, from: usize, count: usize) -> usize {
        // Held over the whole batch: memory that an operation names cannot be unmapped on another thread meanwhile.
        let table = registry::read();
        for i in from..count {
            let errno = match columns.kind[i] {
                MAP => self.map(&table, columns, i),
                UNMAP => self.unmap(columns, i),
                GATHER => self.gather(columns, i),
                _ => EINVAL,
            };
            columns.errno[i] = errno;
            if errno != 0 {
                return i;
            }
        }
        count
    }

    fn map(&self, table: &Table, columns: &Columns<'_>, i: usize) -> i32 {
        let va = page_number(columns.va[i]).and_then(bytes);
        self.map_bytes(columns, i, va, |va, size| allowed(table, va, size))
    }

    fn gather(&mut self, columns: &mut Columns<'_>, i: usize) -> i32 {
        let errno = match self.standing(columns, i) {
            Some(address) => self.map_bytes(columns, i, Some(address as u64), |va, _| va),
            None => EINVAL,
        };
        self.drop_one(columns, i);
        errno
    }

    fn map_bytes(
        &self,
        columns: &Columns<'_>,
        i: usize,
        va: Option<u64>,
        guard: impl Fn(u64, u64) -> u64,
    ) -> i32 {
        let iova = page_number(columns.iova[i]).and_then(bytes);
        let size = page_number(columns.pages[i]).and_then(bytes);
        let (Some(iova), Some(size), Some(va)) = (iova, size, va) else {
            return EINVAL;
        };
        // Linux takes the last page of 64 bits where the IOMMU has it, and then finds it for no unmap: its end is 0.
        if size > 0 && iova.wrapping_add(size) == 0 {
            return EINVAL;
        }
        let flags = u32::from(columns.rights[i]) & RIGHTS;
        let argsz = abi::argsz::<abi::DmaMap>();
        let result = self.container.map(argsz, flags, guard(va, size), iova, size);
        result.err().map_or(0, |failure| failure.errno)
    }

    fn unmap(&self, columns: &mut Columns<'_>, i: usize) -> i32 {
        let (Some(first), Some(pages)) = (page_number(columns.iova[i]), page_number(columns.pages[i])) else {
            return EINVAL;
        };
        let (errno, size) = match (bytes(first), bytes(pages)) {
            (Some(iova), Some(size)) => self.container.unmap(abi::argsz::<abi::DmaUnmap>(), 0, iova, size),
            // All 2^64 bytes: the struct cannot say it, the flag can.
            (Some(0), None) => self.container.unmap_all(),
            _ => (EINVAL, 0),
        };
        columns.done[i] = if errno == 0 { (size / PAGE) as f64 } else { 0.0 };
        errno
    }
}

/// The address to give to the kernel for a map of [va, va + size): itself when the memory is registered; else one that
/// the kernel refuses with EFAULT, after all the checks that come before it.
pub fn allowed(table: &Table, va: u64, size: u64) -> u64 {
    if table.contains(va, size) {
        return va;
    }
    // A range that wraps must go on to wrap, and no other may begin to. Low bits stay, for the check of the alignment.
    let low = va & 0xffff_ffff;
    let end = size.saturating_sub(1);
    match (va.checked_add(end), (KERNEL_HALF | low).checked_add(end)) {
        (None, _) => va | KERNEL_HALF,
        (_, Some(_)) => KERNEL_HALF | low,
        // More than all addresses of a process, from a page on that none has.
        (Some(_), None) => va & (PAGE - 1),
    }
}

fn window_address(page: f64) -> Option<usize> {
    match page_number(page).and_then(bytes) {
        None | Some(0) => None,
        Some(address) => usize::try_from(address).ok(),
    }
}

#[cfg(test)]
mod tests;

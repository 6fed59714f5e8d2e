//! Which memory of this process may be given to a device: guest RAM and device registers, by address.
//!
//! One table for the process, so that a container on any thread refuses everything else (a heap, a stack), and so that
//! memory cannot be given back while a batch of host calls is using it: batches hold the lock for reading, a mapping
//! leaves the table (for writing) before it is unmapped. Ends are exclusive.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A file of guest RAM.
#[derive(Debug)]
pub struct GuestFile {
    pub fd: OwnedFd,
    /// Size in bytes of the file's own pages (hugetlbfs: the huge page).
    pub page: u64,
}

/// What stands behind registered addresses.
#[derive(Debug, Clone)]
pub enum Source {
    /// A range of a file of guest RAM that starts at `offset`.
    File { file: Arc<GuestFile>, offset: u64 },
    /// Device registers with a dma-buf of them that starts at the first address; else as [`Source::Other`].
    Registers { dma_buf: Arc<OwnedFd> },
    /// Device registers, or memory of a test: may be mapped, never gathered.
    Other,
}

#[derive(Debug)]
struct Row {
    end: usize,
    source: Source,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<usize, Row>,
}

/// A part of a piece that lies in one file.
#[derive(Debug)]
pub struct FilePart<'a> {
    pub file: &'a Arc<GuestFile>,
    pub offset: u64,
    pub length: usize,
}

impl Table {
    pub const fn new() -> Self {
        Self { rows: BTreeMap::new() }
    }

    /// Adds addresses that are in no row yet.
    pub fn insert(&mut self, start: usize, length: usize, source: Source) {
        self.rows.insert(start, Row { end: start + length, source });
    }

    pub fn remove(&mut self, start: usize) {
        self.rows.remove(&start);
    }

    fn row(&self, address: usize) -> Option<(usize, &Row)> {
        let (&start, row) = self.rows.range(..=address).next_back()?;
        (address < row.end).then_some((start, row))
    }

    /// True when every byte of [start, start + length) is registered.
    pub fn contains(&self, start: u64, length: u64) -> bool {
        let (Ok(mut at), Some(end)) = (usize::try_from(start), start.checked_add(length)) else {
            return false;
        };
        let Ok(end) = usize::try_from(end) else {
            return false;
        };
        while at < end {
            match self.row(at) {
                Some((_, row)) => at = row.end,
                None => return false,
            }
        }
        true
    }

    /// The file behind `address`, as far as one row goes and at most `length` bytes. EFAULT where nothing is registered,
    /// EINVAL where it is no file.
    pub fn file_at(&self, address: usize, length: usize) -> Result<FilePart<'_>, i32> {
        let (start, row) = self.row(address).ok_or(libc::EFAULT)?;
        let Source::File { file, offset } = &row.source else { return Err(libc::EINVAL) };
        let offset = offset + (address - start) as u64;
        Ok(FilePart { file, offset, length: length.min(row.end - address) })
    }
}

impl Table {
    /// The dma-buf of the device registers at all of [address, address + length), and where the range starts in it.
    pub fn registers_at(&self, address: usize, length: usize) -> Option<(Arc<OwnedFd>, u64)> {
        let (start, row) = self.row(address)?;
        let Source::Registers { dma_buf } = &row.source else { return None };
        let inside = address.checked_add(length)? <= row.end;
        inside.then(|| (Arc::clone(dma_buf), (address - start) as u64))
    }
}

static TABLE: RwLock<Table> = RwLock::new(Table::new());

/// The table of this process; while the guard lives nothing leaves it.
pub fn read() -> RwLockReadGuard<'static, Table> {
    // A panic elsewhere leaves the table usable: every change of it is one call on a BTreeMap.
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Table> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}

/// A row of the process's table; leaves it when dropped. Must be dropped before the addresses are given back.
#[derive(Debug)]
pub struct Registration {
    start: usize,
}

impl Registration {
    pub fn new(start: usize, length: usize, source: Source) -> Self {
        write().insert(start, length, source);
        Self { start }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        write().remove(self.start);
    }
}

/// Held by tests that make memory, since they look at the one table of the process.
#[cfg(test)]
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Source {
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
        Source::File { file: Arc::new(GuestFile { fd, page: 4096 }), offset: 0x10_000 }
    }

    #[test]
    fn contains_ranges_over_neighbours_but_not_over_gaps() {
        let mut table = Table::new();
        table.insert(0x1000, 0x2000, Source::Other);
        table.insert(0x3000, 0x1000, file());
        table.insert(0x5000, 0x1000, Source::Other);
        for (start, length, expected) in [
            (0x1000, 0x3000, true),
            (0x1000, 0x3001, false),
            (0xfff, 1, false),
            (0x3fff, 1, true),
            (0x4000, 1, false),
            (0x5000, 0x1000, true),
            (0x2000, 0x4000, false),
            (0x9000, 0, true),
            (u64::MAX, 1, false),
            (u64::MAX - 1, 2, false),
        ] {
            assert_eq!(table.contains(start, length), expected, "{start:#x} + {length:#x}");
        }
    }

    #[test]
    fn finds_the_file_and_its_offset() {
        let mut table = Table::new();
        table.insert(0x3000, 0x3000, file());
        table.insert(0x6000, 0x1000, Source::Other);
        let part = table.file_at(0x4000, 0x8000).expect("a file");
        assert_eq!((part.offset, part.length), (0x11_000, 0x2000));
        assert_eq!(table.file_at(0x5fff, 1).expect("a file").offset, 0x12_fff);
        assert_eq!(table.file_at(0x6000, 1).err(), Some(libc::EINVAL));
        assert_eq!(table.file_at(0x2fff, 1).err(), Some(libc::EFAULT));
        let dma_buf = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null")));
        table.insert(0x8000, 0x2000, Source::Registers { dma_buf });
        let start = |address, length| table.registers_at(address, length).map(|(_, start)| start);
        assert_eq!([start(0x8000, 0x2000), start(0x9000, 0x1000)], [Some(0), Some(0x1000)]);
        assert_eq!(
            [start(0x9000, 0x1001), start(0x6000, 1), start(0x7000, 1), start(0x9000, usize::MAX)],
            [None; 4]
        );
        assert_eq!(table.file_at(0x8000, 1).err(), Some(libc::EINVAL));
        table.remove(0x3000);
        assert_eq!(table.file_at(0x4000, 1).err(), Some(libc::EFAULT));
    }
}

//! Guest RAM: a sealed file in memory, or a given one, and its mapping into this process.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::failure::{Failure, Result};
use crate::pages::{Access, Pages};
use crate::registry::{GuestFile, Registration, Source};
use crate::sys;

/// A mapping of guest RAM; registered while it lives, unmapped when the last owner is gone.
#[derive(Debug)]
pub struct Ram {
    // Order matters: fields drop in order, and the row must leave the table before the addresses go.
    _registration: Registration,
    pages: Pages,
    file: Arc<GuestFile>,
    offset: u64,
}

impl Ram {
    /// Makes a file of `size` bytes, maps it and seals it. `huge_shift`: log2 of the huge page, 0 for normal ones.
    pub fn create(name: &str, size: u64, huge_shift: u32, seals: i32) -> Result<Self> {
        let name = CString::new(name).map_err(|_| Failure::new("memfd_create", libc::EINVAL))?;
        let fd = sys::memory_file(&name, huge_shift)?;
        let (_, page) = sys::file_system(fd.as_fd())?;
        check_size(size, page)?;
        sys::truncate(fd.as_fd(), size)?;
        let ram = Self::map(fd, page, 0, size)?;
        sys::add_seals(ram.file.fd.as_fd(), seals)?;
        Ok(ram)
    }

    /// Maps `size` bytes (0: all) at `offset` of a file that somebody else made; takes a descriptor of its own.
    /// EMEDIUMTYPE for a file that is not on tmpfs or hugetlbfs.
    pub fn adopt(fd: RawFd, offset: u64, size: u64) -> Result<Self> {
        let fd = sys::duplicate(fd)?;
        let (kind, page) = sys::file_system(fd.as_fd())?;
        if kind != sys::TMPFS_MAGIC && kind != sys::HUGETLBFS_MAGIC {
            return Err(Failure::new("fstatfs", libc::EMEDIUMTYPE));
        }
        let whole = sys::file_size(fd.as_fd())?;
        let rest = whole.checked_sub(offset).ok_or(Failure::new("fstat", libc::ERANGE))?;
        let size = if size == 0 { rest } else { size };
        if size > rest {
            return Err(Failure::new("fstat", libc::ERANGE));
        }
        check_size(size, page)?;
        if !offset.is_multiple_of(page) {
            return Err(Failure::new("mmap", libc::EINVAL));
        }
        Self::map(fd, page, offset, size)
    }

    fn map(fd: OwnedFd, page: u64, offset: u64, size: u64) -> Result<Self> {
        let length = usize::try_from(size).map_err(|_| Failure::new("mmap", libc::ENOMEM))?;
        let pages = Pages::of_file(fd.as_fd(), offset, length, Access::ReadWrite)?;
        let file = Arc::new(GuestFile { fd, page });
        let source = Source::File { file: Arc::clone(&file), offset };
        let registration = Registration::new(pages.address(), length, source);
        Ok(Self { _registration: registration, pages, file, offset })
    }

    pub const fn address(&self) -> usize {
        self.pages.address()
    }

    pub const fn length(&self) -> usize {
        self.pages.length()
    }

    /// Size of the file's pages in bytes.
    pub fn page(&self) -> u64 {
        self.file.page
    }

    /// The seals of the file, -1 where it has none to speak of.
    pub fn seals(&self) -> i32 {
        sys::seals(self.file.fd.as_fd()).unwrap_or(-1)
    }

    /// A descriptor of the file for somebody else.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        sys::duplicate(self.file.fd.as_raw_fd())
    }

    /// Makes the pages of a part of these bytes.
    pub fn allocate(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if length > 0 && end <= self.length() as u64 => {
                sys::allocate(self.file.fd.as_fd(), self.offset + offset, length)
            }
            _ => Err(Failure::new("fallocate", libc::EINVAL)),
        }
    }
}

fn check_size(size: u64, page: u64) -> Result<()> {
    if size == 0 || !size.is_multiple_of(page) || !size.is_multiple_of(sys::page_size()) {
        return Err(Failure::new("ftruncate", libc::EINVAL));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

    #[test]
    fn makes_a_sealed_file_and_gives_everything_back() {
        let _alone = registry::alone();
        let ram = Ram::create("test", 0x10_000, 0, SEALS).expect("a memfd");
        assert_eq!((ram.length(), ram.page(), ram.seals()), (0x10_000, sys::page_size(), SEALS));
        let start = ram.address() as u64;
        assert!(registry::read().contains(start, 0x10_000));
        assert!(!registry::read().contains(start, 0x10_001));
        drop(ram);
        assert!(!registry::read().contains(start, 1));
    }

    #[test]
    fn refuses_sizes_that_are_not_whole_pages() {
        let _alone = registry::alone();
        for size in [0, 1, 0xfff, 0x1001, u64::MAX] {
            assert_eq!(
                Ram::create("test", size, 0, SEALS).expect_err("refused").errno,
                libc::EINVAL,
                "{size:#x}"
            );
        }
        let page = 0u64.wrapping_sub(sys::page_size());
        assert_eq!(Ram::create("test", page, 0, SEALS).expect_err("refused").errno, libc::EFBIG);
        assert_eq!(Ram::create("a\0b", 0x1000, 0, SEALS).expect_err("refused").errno, libc::EINVAL);
    }

    #[test]
    fn adopts_a_part_of_a_file() {
        let _alone = registry::alone();
        let first = Ram::create("test", 0x10_000, 0, SEALS).expect("a memfd");
        let fd = first.duplicate().expect("a descriptor");
        use std::os::fd::AsRawFd;
        let fd = fd.as_raw_fd();
        let second = Ram::adopt(fd, 0x2000, 0).expect("adopted");
        assert_eq!(second.length(), 0xe000);
        for (offset, size, errno) in [
            (0x1000, 0x10_000, libc::ERANGE),
            (0x11_000, 0, libc::ERANGE),
            (0x10_000, 0, libc::EINVAL),
            (1, 0x1000, libc::EINVAL),
            (0, 0x1001, libc::EINVAL),
            (u64::MAX, 1, libc::ERANGE),
        ] {
            assert_eq!(
                Ram::adopt(fd, offset, size).expect_err("refused").errno,
                errno,
                "{offset:#x} {size:#x}"
            );
        }
        assert_eq!(second.allocate(0, 0xe000), Ok(()));
        assert_eq!(second.allocate(0, 0xe001).expect_err("refused").errno, libc::EINVAL);
        assert_eq!(second.allocate(u64::MAX, 2).expect_err("refused").errno, libc::EINVAL);
        assert_eq!(Ram::adopt(-1, 0, 0).expect_err("refused").errno, libc::EBADF);
    }
}

//! mmap and its relatives: the only place where address space is made, replaced and given back.
//! Addresses are `usize`: nothing here is read or written through them.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::failure::{Failure, Result};

/// What a mapping allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    None,
    Read,
    ReadWrite,
}

impl Access {
    const fn bits(self) -> i32 {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// Address space that this value owns: given back when it is dropped.
#[derive(Debug)]
pub struct Pages {
    address: usize,
    length: usize,
}

impl Pages {
    /// Maps a range of a file (shared) where the kernel finds room.
    pub fn of_file(fd: BorrowedFd<'_>, offset: u64, length: usize, access: Access) -> Result<Self> {
        let offset = file_offset(offset)?;
        // SAFETY: without MAP_FIXED the kernel takes free addresses, so no mapping of anybody is replaced.
        let address = unsafe { map(0, length, access, libc::MAP_SHARED, fd.as_raw_fd(), offset)? };
        Ok(Self { address, length })
    }

    /// Takes address space, without memory behind it that counts as long as nobody touches it.
    pub fn anonymous(length: usize, access: Access) -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: as in `of_file`.
        let address = unsafe { map(0, length, access, flags, -1, 0)? };
        Ok(Self { address, length })
    }

    pub const fn address(&self) -> usize {
        self.address
    }

    pub const fn length(&self) -> usize {
        self.length
    }

    /// Replaces a part by a range of a file (shared). `at` is an offset into these pages.
    pub fn show_file(
        &self,
        at: usize,
        fd: BorrowedFd<'_>,
        offset: u64,
        length: usize,
        access: Access,
    ) -> Result<()> {
        let address = self.part(at, length)?;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: [address, address + length) is a part of what this value owns, so only our mappings are replaced.
        unsafe { map(address, length, access, flags, fd.as_raw_fd(), file_offset(offset)?)? };
        Ok(())
    }

    /// Replaces a part by addresses that nobody can access: the file is let go, the addresses stay taken.
    pub fn hide(&self, at: usize, length: usize) -> Result<()> {
        let address = self.part(at, length)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: as in `show_file`.
        unsafe { map(address, length, Access::None, flags, -1, 0)? };
        Ok(())
    }

    /// Changes what a part allows.
    pub fn protect(&self, at: usize, length: usize, access: Access) -> Result<()> {
        let address = self.part(at, length)?;
        // SAFETY: the range is a part of what this value owns, and no reference into it exists in this process's Rust.
        let result = unsafe { libc::mprotect(address as *mut libc::c_void, length, access.bits()) };
        if result != 0 { Err(Failure::last("mprotect")) } else { Ok(()) }
    }

    fn part(&self, at: usize, length: usize) -> Result<usize> {
        match at.checked_add(length) {
            Some(end) if length > 0 && end <= self.length => Ok(self.address + at),
            _ => Err(Failure::new("mmap", libc::EINVAL)),
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this value owns the range and goes away. A failure leaves the range mapped, which harms nobody.
        unsafe { libc::munmap(self.address as *mut libc::c_void, self.length) };
    }
}

fn file_offset(offset: u64) -> Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| Failure::new("mmap", libc::EOVERFLOW))
}

/// # Safety
/// With MAP_FIXED in `flags` the caller owns [address, address + length).
unsafe fn map(
    address: usize,
    length: usize,
    access: Access,
    flags: i32,
    fd: i32,
    offset: libc::off_t,
) -> Result<usize> {
    // SAFETY: the caller answers for MAP_FIXED; else the kernel chooses free addresses.
    let result =
        unsafe { libc::mmap(address as *mut libc::c_void, length, access.bits(), flags, fd, offset) };
    if result == libc::MAP_FAILED { Err(Failure::last("mmap")) } else { Ok(result as usize) }
}

//! System calls that take no VFIO struct, each with its errno. The calls on memory are in `pages`, the ioctls in `ioctl`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::failure::{Failure, Result};

/// `statfs.f_type` of the two file systems that guest RAM may be on.
pub const TMPFS_MAGIC: u64 = 0x0102_1994;
pub const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// The result of a call that returns -1 on error.
fn checked(call: &'static str, result: i64) -> Result<i64> {
    if result < 0 { Err(Failure::last(call)) } else { Ok(result) }
}

/// Runs a call again while a signal interrupts it.
fn uninterrupted(call: &'static str, mut run: impl FnMut() -> i64) -> Result<i64> {
    loop {
        match checked(call, run()) {
            Err(Failure { errno: libc::EINTR, .. }) => {}
            result => return result,
        }
    }
}

/// Takes ownership of a descriptor that a call has just made.
fn owned(call: &'static str, result: i64) -> Result<OwnedFd> {
    let fd = checked(call, result)? as RawFd;
    // SAFETY: the kernel has just returned this descriptor to us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Size of a page of the host in bytes.
pub fn page_size() -> u64 {
    // SAFETY: sysconf reads a constant and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Opens a file for reading and writing, close-on-exec.
pub fn open_device(path: &str) -> Result<OwnedFd> {
    let path = CString::new(path).map_err(|_| Failure::new("open", libc::EINVAL))?;
    // SAFETY: `path` is a NUL-terminated string that lives over the call.
    let fd = uninterrupted("open", || unsafe {
        i64::from(libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC))
    })?;
    owned("open", fd)
}

/// A new descriptor of the same file, close-on-exec.
pub fn duplicate(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl with F_DUPFD_CLOEXEC takes integers only; a wrong number is EBADF.
    owned("fcntl", i64::from(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }))
}

/// An anonymous file in memory. `huge_shift`: log2 of the huge page, 0 for normal pages.
pub fn memory_file(name: &CStr, huge_shift: u32) -> Result<OwnedFd> {
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if huge_shift != 0 {
        flags |= libc::MFD_HUGETLB | (huge_shift << libc::MFD_HUGE_SHIFT);
    }
    // SAFETY: `name` is a NUL-terminated string that lives over the call.
    owned("memfd_create", i64::from(unsafe { libc::memfd_create(name.as_ptr(), flags) }))
}

pub fn truncate(fd: BorrowedFd<'_>, size: u64) -> Result<()> {
    let size = libc::off_t::try_from(size).map_err(|_| Failure::new("ftruncate", libc::EFBIG))?;
    // SAFETY: ftruncate takes integers only, and `fd` is open.
    uninterrupted("ftruncate", || unsafe { i64::from(libc::ftruncate(fd.as_raw_fd(), size)) })?;
    Ok(())
}

pub fn add_seals(fd: BorrowedFd<'_>, seals: i32) -> Result<()> {
    // SAFETY: F_ADD_SEALS takes an integer, and `fd` is open.
    checked("F_ADD_SEALS", i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }))?;
    Ok(())
}

pub fn seals(fd: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: F_GET_SEALS takes no argument, and `fd` is open.
    let seals = checked("F_GET_SEALS", i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) }))?;
    Ok(seals as i32)
}

/// Type of the file system and its block size (hugetlbfs: the huge page).
pub fn file_system(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    // SAFETY: all bytes zero is a valid statfs, which is plain data.
    let mut facts: libc::statfs = unsafe { core::mem::zeroed() };
    // SAFETY: `facts` is writable and of the type that fstatfs fills, and `fd` is open.
    uninterrupted("fstatfs", || unsafe { i64::from(libc::fstatfs(fd.as_raw_fd(), &mut facts)) })?;
    // The types of these fields differ between C libraries; the magic numbers have 32 bits.
    Ok((facts.f_type as u64 & 0xffff_ffff, facts.f_bsize as u64))
}

/// Size of a regular file in bytes; EINVAL for another kind of file.
pub fn file_size(fd: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: all bytes zero is a valid stat, which is plain data.
    let mut facts: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: `facts` is writable and of the type that fstat fills, and `fd` is open.
    checked("fstat", i64::from(unsafe { libc::fstat(fd.as_raw_fd(), &mut facts) }))?;
    if facts.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Failure::new("fstat", libc::EINVAL));
    }
    u64::try_from(facts.st_size).map_err(|_| Failure::new("fstat", libc::EOVERFLOW))
}

/// Makes the pages of a range of the file, filled with zeroes where there were none.
pub fn allocate(fd: BorrowedFd<'_>, offset: u64, length: u64) -> Result<()> {
    let overflow = |_| Failure::new("fallocate", libc::EFBIG);
    let offset = libc::off_t::try_from(offset).map_err(overflow)?;
    let length = libc::off_t::try_from(length).map_err(overflow)?;
    // SAFETY: fallocate takes integers only, and `fd` is open.
    uninterrupted("fallocate", || unsafe { i64::from(libc::fallocate(fd.as_raw_fd(), 0, offset, length)) })?;
    Ok(())
}

/// Reads at a position; returns the number of bytes.
pub fn read_at(fd: BorrowedFd<'_>, into: &mut [u8], position: u64) -> Result<usize> {
    let at = libc::off_t::try_from(position).map_err(|_| Failure::new("pread", libc::EINVAL))?;
    // SAFETY: `into` is writable for its length, and `fd` is open.
    let count = uninterrupted("pread", || unsafe {
        libc::pread(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), at) as i64
    })?;
    Ok(count as usize)
}

/// Writes at a position; returns the number of bytes.
pub fn write_at(fd: BorrowedFd<'_>, from: &[u8], position: u64) -> Result<usize> {
    let at = libc::off_t::try_from(position).map_err(|_| Failure::new("pwrite", libc::EINVAL))?;
    // SAFETY: `from` is readable for its length, and `fd` is open.
    let count = uninterrupted("pwrite", || unsafe {
        libc::pwrite(fd.as_raw_fd(), from.as_ptr().cast(), from.len(), at) as i64
    })?;
    Ok(count as usize)
}

/// A counter that the kernel signals; reads never wait.
pub fn event_counter() -> Result<OwnedFd> {
    // SAFETY: eventfd takes integers only.
    owned("eventfd", i64::from(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }))
}

/// Takes the count of an event counter: 0 when nothing has happened.
pub fn take_events(fd: BorrowedFd<'_>) -> Result<u64> {
    let mut count = 0u64;
    // SAFETY: `count` is writable for the 8 bytes of an eventfd read, and `fd` is open.
    let result =
        uninterrupted("read", || unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) as i64 });
    match result {
        Err(Failure { errno: libc::EAGAIN, .. }) => Ok(0),
        Err(failure) => Err(failure),
        Ok(_) => Ok(count),
    }
}

/// Adds to the count of an event counter.
pub fn add_events(fd: BorrowedFd<'_>, count: u64) -> Result<()> {
    // SAFETY: `count` is readable for the 8 bytes of an eventfd write, and `fd` is open.
    uninterrupted("write", || unsafe { libc::write(fd.as_raw_fd(), (&raw const count).cast(), 8) as i64 })?;
    Ok(())
}

//! The ioctls: one trait, so that everything above runs in tests against a kernel made of Rust.

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::Ioctl;

use crate::failure::{Failure, Result};

/// Something that answers ioctls.
pub trait Kernel {
    /// An ioctl that takes a number, or nothing (0).
    fn with_value(&self, call: &'static str, fd: BorrowedFd<'_>, request: Ioctl, value: u64) -> Result<i32>;

    /// An ioctl that takes a pointer: to a struct that says in its first word how many bytes it has, or to what the
    /// request wants there.
    ///
    /// # Safety
    /// `argument` holds at least as many bytes as `request` makes the kernel read and write, and addresses inside it
    /// are what the kernel may use.
    unsafe fn with_bytes(
        &self,
        call: &'static str,
        fd: BorrowedFd<'_>,
        request: Ioctl,
        argument: &mut [u8],
    ) -> Result<i32>;
}

/// The kernel that runs this process.
#[derive(Debug, Default, Clone, Copy)]
pub struct Linux;

impl Kernel for Linux {
    fn with_value(&self, call: &'static str, fd: BorrowedFd<'_>, request: Ioctl, value: u64) -> Result<i32> {
        // SAFETY: requests called this way take an integer and touch no memory of ours.
        result(call, unsafe { libc::ioctl(fd.as_raw_fd(), request, value as libc::c_ulong) })
    }

    unsafe fn with_bytes(
        &self,
        call: &'static str,
        fd: BorrowedFd<'_>,
        request: Ioctl,
        argument: &mut [u8],
    ) -> Result<i32> {
        // SAFETY: the caller promises that `argument` is long enough for `request`.
        result(call, unsafe { libc::ioctl(fd.as_raw_fd(), request, argument.as_mut_ptr()) })
    }
}

fn result(call: &'static str, value: i32) -> Result<i32> {
    if value < 0 { Err(Failure::last(call)) } else { Ok(value) }
}

/// Structs of the ABI: plain integers without padding.
///
/// # Safety
/// Every byte of the type is part of an integer field, so that any bytes are a value of it.
pub unsafe trait Plain: Sized {
    /// The struct as bytes.
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the bytes of `self`, borrowed as long as it is; no padding, and any bytes written are a value.
        unsafe { core::slice::from_raw_parts_mut((self as *mut Self).cast(), size_of::<Self>()) }
    }
}

macro_rules! plain {
    ($($name:ident),*) => {
        $(
            // SAFETY: fields of u32 and u64 only; `abi` asserts that their sizes add up to the size of the struct.
            unsafe impl Plain for crate::abi::$name {}
        )*
    };
}

plain!(GroupStatus, DeviceInfo, RegionInfo, IrqInfo, IrqSet, DmaMap, DmaUnmap, IommuInfo);

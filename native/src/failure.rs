//! The one error type: a system call or ioctl, and the errno with which it was refused.

/// A refused call. `errno` 0 means that no call was refused but its answer does not do (a group that is not viable).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// In the spelling of the interface, for example `VFIO_SET_IOMMU` or `mmap`.
    pub call: &'static str,
    pub errno: i32,
}

pub type Result<T> = core::result::Result<T, Failure>;

impl Failure {
    pub const fn new(call: &'static str, errno: i32) -> Self {
        Self { call, errno }
    }

    /// The failure of the libc call that has just returned an error.
    pub fn last(call: &'static str) -> Self {
        Self::new(call, std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

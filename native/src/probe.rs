//! Memory laid out by hand, for the contract tests of host backends: what a kernel accepts and what it refuses to pin.

use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;

use crate::failure::Result;
use crate::pages::{Access, Pages};
use crate::registry::{GuestFile, Registration, Source};
use crate::sys;

/// Addresses that nobody can access, parts of which are replaced by other memory. Only parts are registered.
#[derive(Debug)]
pub struct Probe {
    // Before `pages`: rows must leave the table before the addresses go.
    registrations: Vec<Registration>,
    pages: Pages,
}

impl Probe {
    pub fn new(length: usize) -> Result<Self> {
        Ok(Self { registrations: Vec::new(), pages: Pages::anonymous(length, Access::None)? })
    }

    pub const fn address(&self) -> usize {
        self.pages.address()
    }

    /// Makes a part anonymous memory with the given access, also none.
    pub fn anonymous(&mut self, at: usize, length: usize, access: Access) -> Result<()> {
        self.pages.protect(at, length, access)?;
        self.register(at, length, Source::Other);
        Ok(())
    }

    /// Makes a part a range of a file.
    pub fn file(&mut self, at: usize, fd: RawFd, offset: u64, length: usize, access: Access) -> Result<()> {
        let fd = sys::duplicate(fd)?;
        let (_, page) = sys::file_system(fd.as_fd())?;
        self.pages.show_file(at, fd.as_fd(), offset, length, access)?;
        self.register(at, length, Source::File { file: Arc::new(GuestFile { fd, page }), offset });
        Ok(())
    }

    fn register(&mut self, at: usize, length: usize, source: Source) {
        self.registrations.push(Registration::new(self.pages.address() + at, length, source));
    }
}

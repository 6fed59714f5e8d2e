//! Event counters (eventfd) for JavaScript: what interrupts signal.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use napi::bindgen_prelude::BigInt;
use napi_derive::napi;

use super::{Result, closed, u64_of};
use crate::sys;

#[napi]
pub struct NativeEvents {
    fd: Option<OwnedFd>,
}

#[napi]
impl NativeEvents {
    #[napi(factory)]
    pub fn create() -> Result<Self> {
        Ok(Self { fd: Some(sys::event_counter()?) })
    }

    /// The descriptor; stays owned here.
    #[napi]
    pub fn fd(&self) -> Result<i32> {
        Ok(self.fd.as_ref().ok_or_else(closed)?.as_raw_fd())
    }

    /// The count since the last call; 0 when nothing has happened.
    #[napi]
    pub fn take(&self) -> Result<BigInt> {
        Ok(BigInt::from(sys::take_events(self.fd.as_ref().ok_or_else(closed)?.as_fd())?))
    }

    #[napi]
    pub fn signal(&self, count: BigInt) -> Result<()> {
        Ok(sys::add_events(self.fd.as_ref().ok_or_else(closed)?.as_fd(), u64_of(&count)?)?)
    }

    #[napi]
    pub fn close(&mut self) {
        self.fd = None;
    }
}

//! The glue to Node: checks that numbers are in range, hands over, turns failures into exceptions.

mod columns;
mod device;
mod events;
mod iommufd;
mod poll;
mod ram;
mod socket;
mod type1;

use napi::bindgen_prelude::{BigInt, Error, Status};
use napi_derive::napi;

use crate::failure::Failure;

/// Raised whenever JavaScript and this library have to change together; the loading side compares it.
#[napi]
pub fn native_api() -> u32 {
    3
}

/// `code` of an exception that carries a {@link Failure}; its message is `<call> <errno>`.
#[derive(Debug, Clone, Copy)]
pub struct Code;

impl AsRef<str> for Code {
    fn as_ref(&self) -> &str {
        "ERR_NATIVE"
    }
}

type Result<T> = napi::Result<T, Code>;

impl From<Failure> for Error<Code> {
    fn from(failure: Failure) -> Self {
        Self::new(Code, format!("{} {}", failure.call, failure.errno))
    }
}

fn refused(call: &'static str, errno: i32) -> Error<Code> {
    Failure::new(call, errno).into()
}

/// What Node itself refused.
fn node(error: Error<Status>) -> Error<Code> {
    Error::new(Code, format!("{} {}", error.reason, libc::EIO))
}

/// A use after close.
fn closed() -> Error<Code> {
    refused("close", libc::EBADF)
}

/// An unsigned 64-bit value; EOVERFLOW for any other bigint.
fn u64_of(value: &BigInt) -> Result<u64> {
    match (value.sign_bit, value.words.as_slice()) {
        (_, [] | [0]) => Ok(0),
        (false, &[word]) => Ok(word),
        _ => Err(refused("bigint", libc::EOVERFLOW)),
    }
}

fn bigint(value: usize) -> BigInt {
    BigInt::from(value as u64)
}

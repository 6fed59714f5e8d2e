//! Signals an eventfd of somebody who must not be trusted, without ever waiting.
//!
//! A write to an eventfd waits when its counter is full, unless the open file has O_NONBLOCK; that flag is shared with the
//! other process, which can clear it between any check and the write, and so stop this process for good. The kernel itself
//! signals without waiting: an asynchronous operation that completes adds one to the eventfd that it names. The operation here
//! is to poll that same eventfd, which at any moment can be read or written, so it completes at once and needs no file. Where
//! that is not to be had (Linux before 4.18), what is left is the write, with the flag set before each one.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::failure::{Failure, Result};
use crate::sys;

/// An eventfd that somebody else made.
#[derive(Debug)]
pub struct Signal {
    fd: OwnedFd,
}

impl Signal {
    /// Takes a descriptor of its own; EINVAL for anything that is no eventfd.
    pub fn adopt(fd: RawFd) -> Result<Self> {
        let fd = sys::duplicate(fd)?;
        let target = std::fs::read_link(Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string()));
        if target.is_ok_and(|name| name.as_os_str() == "anon_inode:[eventfd]") {
            Ok(Self { fd })
        } else {
            Err(Failure::new("eventfd", libc::EINVAL))
        }
    }

    /// Adds one. What the counter has no room for has been signalled already.
    pub fn raise(&self) -> Result<()> {
        match Bell::of_process().map(|bell| bell.ring(&self.fd)) {
            Some(Ok(())) => Ok(()),
            _ => self.write(),
        }
    }

    fn write(&self) -> Result<()> {
        self.stay_awake()?;
        match sys::add_events(self.fd.as_fd(), 1) {
            Err(Failure { errno: libc::EAGAIN, .. }) => Ok(()),
            result => result,
        }
    }

    fn stay_awake(&self) -> Result<()> {
        // SAFETY: F_GETFL takes no argument, and `fd` is open.
        let flags = unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(Failure::last("F_GETFL"));
        }
        if flags & libc::O_NONBLOCK == 0 {
            // SAFETY: F_SETFL takes an integer, and `fd` is open.
            let result = unsafe { libc::fcntl(self.fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
            if result < 0 {
                return Err(Failure::last("F_SETFL"));
            }
        }
        Ok(())
    }
}

/// `struct iocb` of linux/aio_abi.h on a little-endian machine.
#[repr(C)]
#[derive(Debug, Default)]
struct Order {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Completion {
    data: u64,
    order: u64,
    result: i64,
    result2: i64,
}

const _: () = {
    assert!(size_of::<Order>() == 64);
    assert!(size_of::<Completion>() == 32);
    assert!(core::mem::offset_of!(Order, event) == 60);
    assert!(core::mem::offset_of!(Order, fd) == 20);
    // The order of `key` and `rw_flags` is that of little-endian machines.
    assert!(cfg!(target_endian = "little"));
};

/// `IOCB_CMD_POLL`, `IOCB_FLAG_RESFD`.
const POLL: u16 = 5;
const NAMES_EVENT: u32 = 1;
/// Operations that may be under way at a time.
const DEPTH: usize = 8;

/// Has the kernel signal eventfds. One for the process; holds memory of the kernel, no descriptor.
#[derive(Debug)]
struct Bell {
    /// Held while an operation is under way.
    context: Mutex<libc::c_ulong>,
}

impl Bell {
    fn of_process() -> Option<&'static Self> {
        static BELL: OnceLock<Option<Bell>> = OnceLock::new();
        BELL.get_or_init(|| Self::new().ok()).as_ref()
    }

    fn new() -> Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: io_setup takes a number and a place for the context, which must be 0 before.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH as libc::c_ulong, &raw mut context) };
        if result < 0 { Err(Failure::last("io_setup")) } else { Ok(Self { context: Mutex::new(context) }) }
    }

    fn ring(&self, event: &OwnedFd) -> Result<()> {
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order = Order {
            opcode: POLL,
            fd: event.as_raw_fd() as u32,
            buffer: (libc::POLLIN | libc::POLLOUT) as u64,
            flags: NAMES_EVENT,
            event: event.as_raw_fd() as u32,
            ..Order::default()
        };
        let orders = [&raw mut order];
        // SAFETY: `orders` has one order, which the kernel copies, and which names no memory.
        let result = unsafe { libc::syscall(libc::SYS_io_submit, *context, 1, orders.as_ptr()) };
        let submitted = if result < 0 { Err(Failure::last("io_submit")) } else { Ok(()) };
        let mut completions = [Completion::default(); DEPTH];
        let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `completions` has room for as many as are asked for; with no time and no least number it does not wait.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                *context,
                0,
                DEPTH,
                completions.as_mut_ptr(),
                &raw const no_time,
            )
        };
        submitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::FromRawFd;

    /// An eventfd that waits, as another process may make it.
    fn waiting() -> OwnedFd {
        // SAFETY: eventfd takes integers only, and the descriptor is new.
        unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, 0)) }
    }

    fn count(event: &OwnedFd) -> u64 {
        sys::take_events(event.as_fd()).expect("an eventfd")
    }

    #[test]
    fn is_an_eventfd() {
        let file = sys::memory_file(c"no eventfd", 0).expect("a memfd");
        assert_eq!(Signal::adopt(file.as_raw_fd()).expect_err("refused").errno, libc::EINVAL);
        assert_eq!(Signal::adopt(-1).expect_err("refused").errno, libc::EBADF);
    }

    #[test]
    fn adds_one_each_time() {
        let event = waiting();
        let signal = Signal::adopt(event.as_raw_fd()).expect("an eventfd");
        for _ in 0..100 {
            assert_eq!(signal.raise(), Ok(()));
        }
        assert_eq!(count(&event), 100);
    }

    #[test]
    fn does_not_wait_for_a_counter_that_is_full() {
        let event = waiting();
        let signal = Signal::adopt(event.as_raw_fd()).expect("an eventfd");
        sys::add_events(event.as_fd(), u64::MAX - 1).expect("room");
        let bell = Bell::of_process().expect("asynchronous operations");
        for _ in 0..3 {
            assert_eq!(bell.ring(&signal.fd), Ok(()));
        }
        // SAFETY: F_GETFL takes no argument.
        let flags = unsafe { libc::fcntl(event.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & libc::O_NONBLOCK, 0, "the flag of the other side is left alone");
        assert!(count(&event) >= u64::MAX - 1);
        sys::add_events(event.as_fd(), u64::MAX - 1).expect("room");
        assert_eq!(signal.write(), Ok(()));
        assert_eq!(count(&event), u64::MAX - 1);
    }

    #[test]
    fn counts_from_several_threads() {
        let event = waiting();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let signal = Signal::adopt(event.as_raw_fd()).expect("an eventfd");
                    for _ in 0..500 {
                        assert_eq!(signal.raise(), Ok(()));
                    }
                });
            }
        });
        assert_eq!(count(&event), 2000);
    }
}

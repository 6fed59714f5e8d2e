//! Waiting for a descriptor on an event loop of libuv: no thread, and no more than one system call between an event and who
//! waits for it. Knows nothing of JavaScript.
//!
//! The functions are those of the process (Node exports libuv's), looked up when they are first needed, so that the crate
//! links without them; a process that has none gets ENOSYS.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::OnceLock;

use crate::failure::{Failure, Result};

/// Events, as libuv counts them: there is something to read, there is room to write, the other side has hung up.
pub const READABLE: i32 = 1;
pub const WRITABLE: i32 = 2;
pub const DISCONNECT: i32 = 4;

/// `uv_handle_type` of a poll handle.
const UV_POLL: c_int = 8;

type Loop = c_void;
type Handle = c_void;
type OnEvent = extern "C" fn(*mut Handle, c_int, c_int);
type OnClosed = extern "C" fn(*mut Handle);

/// The part of libuv's interface that is needed; stable within its version 1.
#[derive(Debug)]
struct Uv {
    handle_size: unsafe extern "C" fn(c_int) -> usize,
    poll_init: unsafe extern "C" fn(*mut Loop, *mut Handle, c_int) -> c_int,
    poll_start: unsafe extern "C" fn(*mut Handle, c_int, OnEvent) -> c_int,
    poll_stop: unsafe extern "C" fn(*mut Handle) -> c_int,
    close: unsafe extern "C" fn(*mut Handle, OnClosed),
    reference: unsafe extern "C" fn(*mut Handle),
    unreference: unsafe extern "C" fn(*mut Handle),
    set_data: unsafe extern "C" fn(*mut Handle, *mut c_void),
    get_data: unsafe extern "C" fn(*const Handle) -> *mut c_void,
}

impl Uv {
    fn of_process() -> Option<&'static Self> {
        static UV: OnceLock<Option<Uv>> = OnceLock::new();
        UV.get_or_init(Self::find).as_ref()
    }

    fn find() -> Option<Self> {
        // SAFETY: each symbol, where there is one, is libuv's function of that name, which has the type of the field.
        unsafe {
            Some(Self {
                handle_size: symbol(c"uv_handle_size")?,
                poll_init: symbol(c"uv_poll_init")?,
                poll_start: symbol(c"uv_poll_start")?,
                poll_stop: symbol(c"uv_poll_stop")?,
                close: symbol(c"uv_close")?,
                reference: symbol(c"uv_ref")?,
                unreference: symbol(c"uv_unref")?,
                set_data: symbol(c"uv_handle_set_data")?,
                get_data: symbol(c"uv_handle_get_data")?,
            })
        }
    }
}

/// A function of the process.
///
/// # Safety
/// `F` is the type of the function of that name.
unsafe fn symbol<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: `name` is NUL-terminated; RTLD_DEFAULT needs no handle.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: `F` is a pointer to a function, per the contract, and has the size of an address, see above.
    (!address.is_null()).then(|| unsafe { core::mem::transmute_copy::<*mut c_void, F>(&address) })
}

/// What is told of a descriptor.
pub trait Watcher {
    /// Events have come; a negative errno when waiting failed. May close the poll that calls.
    fn ready(&self, events: i32);
    /// The poll is closed: the last call.
    fn closed(&self);
}

/// Shared by a [`Poll`] and by libuv, which lets go of it when the handle is closed.
struct State {
    uv: &'static Uv,
    handle: NonNull<Handle>,
    words: usize,
    /// A descriptor of its own, so that nobody else can close what the loop waits for.
    fd: RefCell<Option<OwnedFd>>,
    closing: Cell<bool>,
    watcher: Box<dyn Watcher>,
}

/// A descriptor that a loop waits for; belongs to the thread of the loop. Closing ends it, dropping closes.
pub struct Poll {
    state: Rc<State>,
}

impl Poll {
    /// Prepares to wait for `fd`; nothing is told before [`Poll::start`]. EPERM for what cannot be waited for, as a file.
    ///
    /// # Safety
    /// `event_loop` is a `uv_loop_t` that is alive and belongs to this thread, and outlives the handle.
    pub unsafe fn new(event_loop: *mut c_void, fd: OwnedFd, watcher: Box<dyn Watcher>) -> Result<Self> {
        let uv = Uv::of_process().ok_or(Failure::new("uv_poll_init", libc::ENOSYS))?;
        // SAFETY: uv_handle_size takes an integer only.
        let words = unsafe { (uv.handle_size)(UV_POLL) }.div_ceil(size_of::<u64>());
        let handle = into_raw(vec![0u64; words]);
        // SAFETY: `handle` has the size of a poll handle, and the loop is alive per the contract.
        let status = unsafe { (uv.poll_init)(event_loop, handle.as_ptr(), fd.as_raw_fd()) };
        if status < 0 {
            // SAFETY: libuv has not taken the handle.
            unsafe { free(handle, words) };
            return Err(Failure::new("uv_poll_init", -status));
        }
        let fd = RefCell::new(Some(fd));
        let state = Rc::new(State { uv, handle, words, fd, closing: Cell::new(false), watcher });
        // SAFETY: the handle is initialised; the pointer is a count of the Rc that `on_closed` takes back.
        unsafe { (uv.set_data)(handle.as_ptr(), Rc::into_raw(Rc::clone(&state)).cast_mut().cast()) };
        Ok(Self { state })
    }

    /// Waits for `events` from now on, until stopped.
    ///
    /// EINVAL for anything but the three: libuv would end the process.
    pub fn start(&self, events: i32) -> Result<()> {
        if events & !(READABLE | WRITABLE | DISCONNECT) != 0 {
            return Err(Failure::new("uv_poll_start", libc::EINVAL));
        }
        self.call("uv_poll_start", |uv, handle| {
            // SAFETY: the handle is initialised and not closing.
            unsafe { (uv.poll_start)(handle, events, on_event) }
        })
    }

    /// Waits for nothing.
    pub fn stop(&self) -> Result<()> {
        self.call("uv_poll_stop", |uv, handle| {
            // SAFETY: the handle is initialised and not closing.
            unsafe { (uv.poll_stop)(handle) }
        })
    }

    /// Whether waiting keeps the loop running.
    pub fn keep_alive(&self, on: bool) -> Result<()> {
        self.call("uv_ref", |uv, handle| {
            let change = if on { uv.reference } else { uv.unreference };
            // SAFETY: the handle is initialised and not closing.
            unsafe { change(handle) };
            0
        })
    }

    /// Ends waiting and closes the descriptor; the rest goes when the loop says so. Twice is no error.
    pub fn close(&self) {
        let state = &self.state;
        if !state.closing.replace(true) {
            // SAFETY: the handle is initialised and not closing; it lives until `on_closed`.
            unsafe { (state.uv.close)(state.handle.as_ptr(), on_closed) };
            state.fd.borrow_mut().take();
        }
    }

    fn call(&self, name: &'static str, run: impl FnOnce(&Uv, *mut Handle) -> c_int) -> Result<()> {
        let state = &self.state;
        if state.closing.get() {
            return Err(Failure::new(name, libc::EBADF));
        }
        let status = run(state.uv, state.handle.as_ptr());
        if status < 0 { Err(Failure::new(name, -status)) } else { Ok(()) }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.close();
    }
}

extern "C" fn on_event(handle: *mut Handle, status: c_int, events: c_int) {
    let Some(uv) = Uv::of_process() else { return };
    // SAFETY: the data is the Rc of `Poll::new`, which lives until `on_closed`.
    let state = unsafe { &*(uv.get_data)(handle).cast::<State>() };
    if !state.closing.get() {
        state.watcher.ready(if status < 0 { status } else { events });
    }
}

extern "C" fn on_closed(handle: *mut Handle) {
    let Some(uv) = Uv::of_process() else { return };
    // SAFETY: the data is the Rc that `Poll::new` gave away; libuv calls this once.
    let state = unsafe { Rc::from_raw((uv.get_data)(handle).cast::<State>()) };
    state.watcher.closed();
    // SAFETY: libuv is done with the handle, which is the one that `Poll::new` has made.
    unsafe { free(state.handle, state.words) };
}

fn into_raw(words: Vec<u64>) -> NonNull<Handle> {
    NonNull::from(Box::leak(words.into_boxed_slice())).cast()
}

/// # Safety
/// `handle` is from [`into_raw`] with as many words, and nobody uses it any more.
unsafe fn free(handle: NonNull<Handle>, words: usize) {
    // SAFETY: per the contract, this is the slice that was leaked.
    drop(unsafe { Box::from_raw(core::ptr::slice_from_raw_parts_mut(handle.cast::<u64>().as_ptr(), words)) });
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Watcher for Nobody {
        fn ready(&self, _: i32) {}
        fn closed(&self) {}
    }

    /// With a loop it is tested from JavaScript (test/vfio-user).
    #[test]
    fn says_where_there_is_no_loop() {
        let fd = crate::sys::event_counter().expect("an eventfd");
        // SAFETY: a process without libuv does not look at the loop.
        let poll = unsafe { Poll::new(core::ptr::null_mut(), fd, Box::new(Nobody)) };
        assert_eq!(poll.err(), Some(Failure::new("uv_poll_init", libc::ENOSYS)));
    }
}

//! Waiting for descriptors on Node's own loop, for JavaScript.

use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;

use napi::bindgen_prelude::{Env, Unknown};
use napi::sys as node_api;
use napi::{JsValue, ValueType};
use napi_derive::napi;

use super::{Result, refused};
use crate::poll::{Poll, Watcher};
use crate::sys;

/// Calls a function when something happens to a descriptor. Close it: while it waits it keeps its function alive, and,
/// unless `keepAlive(false)` was called, the process.
#[napi]
pub struct NativePoll {
    poll: Rc<Poll>,
}

#[napi]
impl NativePoll {
    /// Prepares to wait for `fd`, of which it keeps a descriptor of its own. `ready` gets the events (1 readable, 2 writable,
    /// 4 hung up), or a negative errno.
    #[napi(factory)]
    pub fn create(
        env: &Env,
        fd: i32,
        #[napi(ts_arg_type = "(events: number) => void")] ready: Unknown<'_>,
    ) -> Result<Self> {
        if ready.get_type().map_err(super::node)? != ValueType::Function {
            return Err(refused("napi_create_reference", libc::EINVAL));
        }
        let fd = sys::duplicate(fd)?;
        let mut event_loop = core::ptr::null_mut();
        // SAFETY: `env` is the environment of this call, and `event_loop` is writable.
        let status = unsafe { node_api::napi_get_uv_event_loop(env.raw(), &raw mut event_loop) };
        if status != node_api::Status::napi_ok {
            return Err(refused("napi_get_uv_event_loop", libc::ENOSYS));
        }
        let shared = Rc::new(Shared {
            callback: Callback::new(env.raw(), ready.raw())?,
            hook: Cell::new(core::ptr::null_mut()),
            poll: Cell::new(core::ptr::null()),
        });
        // SAFETY: Node's loop belongs to this thread, and lives until the hooks of the environment have run; the hook below
        // waits for the handle.
        let poll = Rc::new(unsafe { Poll::new(event_loop.cast(), fd, Box::new(Rc::clone(&shared))) }?);
        shared.hold(env.raw(), &poll)?;
        Ok(Self { poll })
    }

    /// Waits for events from now on: 1 to read, 2 to write, 4 hung up, added together.
    #[napi]
    pub fn start(&self, events: i32) -> Result<()> {
        Ok(self.poll.start(events)?)
    }

    #[napi]
    pub fn stop(&self) -> Result<()> {
        Ok(self.poll.stop()?)
    }

    /// Whether waiting keeps the process running; true at first.
    #[napi]
    pub fn keep_alive(&self, on: bool) -> Result<()> {
        Ok(self.poll.keep_alive(on)?)
    }

    /// Ends waiting. Twice is no error.
    #[napi]
    pub fn close(&self) {
        self.poll.close();
    }
}

impl Drop for NativePoll {
    fn drop(&mut self) {
        self.poll.close();
    }
}

/// What libuv's handle and the hook of the environment share.
struct Shared {
    callback: Callback,
    hook: Cell<node_api::napi_async_cleanup_hook_handle>,
    /// A count of the poll that the hook has until the handle is closed; null before and after.
    poll: Cell<*const Poll>,
}

impl Shared {
    /// Has the environment close the handle before it takes its loop away.
    fn hold(&self, env: node_api::napi_env, poll: &Rc<Poll>) -> Result<()> {
        let held = Rc::into_raw(Rc::clone(poll));
        let mut hook = core::ptr::null_mut();
        // SAFETY: `held` is alive until `closed` takes it back, which removes the hook.
        let status = unsafe {
            node_api::napi_add_async_cleanup_hook(env, Some(on_exit), held.cast_mut().cast(), &raw mut hook)
        };
        if status != node_api::Status::napi_ok {
            // SAFETY: the count of above, which nobody has taken.
            drop(unsafe { Rc::from_raw(held) });
            return Err(refused("napi_add_async_cleanup_hook", libc::ENOMEM));
        }
        self.hook.set(hook);
        self.poll.set(held);
        Ok(())
    }
}

impl Watcher for Rc<Shared> {
    fn ready(&self, events: i32) {
        self.callback.call(events);
    }

    fn closed(&self) {
        self.callback.release();
        let held = self.poll.replace(core::ptr::null());
        if held.is_null() {
            return;
        }
        // SAFETY: the hook was added and not removed; the environment waits for it.
        unsafe { node_api::napi_remove_async_cleanup_hook(self.hook.get()) };
        // SAFETY: the count that `hold` has given away, taken back once.
        drop(unsafe { Rc::from_raw(held) });
    }
}

extern "C" fn on_exit(_: node_api::napi_async_cleanup_hook_handle, held: *mut c_void) {
    // SAFETY: `held` is the count of `hold`; it is alive, because the hook is removed before it goes.
    unsafe { &*held.cast::<Poll>() }.close();
}

/// A function of JavaScript that is called from the loop.
struct Callback {
    env: node_api::napi_env,
    function: Cell<node_api::napi_ref>,
}

impl Callback {
    fn new(env: node_api::napi_env, function: node_api::napi_value) -> Result<Self> {
        let mut reference = core::ptr::null_mut();
        // SAFETY: `function` is a value of this call in this environment.
        let status = unsafe { node_api::napi_create_reference(env, function, 1, &raw mut reference) };
        if status != node_api::Status::napi_ok {
            return Err(refused("napi_create_reference", libc::ENOMEM));
        }
        Ok(Self { env, function: Cell::new(reference) })
    }

    /// Calls the function as Node calls one: what it leaves in the queues of ticks and promises runs then, and an exception
    /// is an uncaught one.
    fn call(&self, events: i32) {
        let env = self.env;
        let mut scope = core::ptr::null_mut();
        // SAFETY: the loop runs on the thread of `env`, outside of any other call; every value lives in the scope that is
        // opened here, and what cannot be had is not used.
        unsafe {
            if node_api::napi_open_handle_scope(env, &raw mut scope) != node_api::Status::napi_ok {
                return;
            }
            let mut function = core::ptr::null_mut();
            let mut receiver = core::ptr::null_mut();
            let mut argument = core::ptr::null_mut();
            let mut result = core::ptr::null_mut();
            let ready = node_api::napi_get_reference_value(env, self.function.get(), &raw mut function)
                == node_api::Status::napi_ok
                && node_api::napi_get_global(env, &raw mut receiver) == node_api::Status::napi_ok
                && node_api::napi_create_int32(env, events, &raw mut argument) == node_api::Status::napi_ok;
            if ready {
                let status = node_api::napi_make_callback(
                    env,
                    core::ptr::null_mut(),
                    receiver,
                    function,
                    1,
                    &raw const argument,
                    &raw mut result,
                );
                if status == node_api::Status::napi_pending_exception {
                    let mut thrown = core::ptr::null_mut();
                    if node_api::napi_get_and_clear_last_exception(env, &raw mut thrown)
                        == node_api::Status::napi_ok
                    {
                        node_api::napi_fatal_exception(env, thrown);
                    }
                }
            }
            node_api::napi_close_handle_scope(env, scope);
        }
    }

    fn release(&self) {
        let reference = self.function.replace(core::ptr::null_mut());
        if !reference.is_null() {
            // SAFETY: the reference was made in this environment and is deleted once, on its thread.
            unsafe { node_api::napi_delete_reference(self.env, reference) };
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.release();
    }
}

//! Guest RAM for JavaScript: windows as ArrayBuffers that keep the mapping alive.

use std::ffi::c_void;
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use napi::bindgen_prelude::{Array, ArrayBuffer, BigInt, Env};
use napi::sys as node_api;
use napi_derive::napi;

use super::{Result, bigint, closed, node, refused, u64_of};
use crate::pages::Access;
use crate::probe::Probe;
use crate::ram::Ram;

/// Guest RAM. `close` gives the file back; the mapping goes with the last window that JavaScript can still reach.
#[napi]
pub struct NativeRam {
    ram: Option<Arc<Ram>>,
    shown: bool,
}

#[napi]
impl NativeRam {
    /// A memfd of `size` bytes with seals (F_SEAL_*); `hugeShift` is log2 of the huge page, 0 for normal ones.
    #[napi(factory)]
    pub fn create(name: String, size: BigInt, huge_shift: u32, seals: i32) -> Result<Self> {
        let ram = Ram::create(&name, u64_of(&size)?, huge_shift, seals)?;
        Ok(Self { ram: Some(Arc::new(ram)), shown: false })
    }

    /// `size` bytes (0: all) at `offset` of the file that `fd` names.
    #[napi(factory)]
    pub fn adopt(fd: i32, offset: BigInt, size: BigInt) -> Result<Self> {
        let ram = Ram::adopt(fd, u64_of(&offset)?, u64_of(&size)?)?;
        Ok(Self { ram: Some(Arc::new(ram)), shown: false })
    }

    fn ram(&self) -> Result<&Arc<Ram>> {
        self.ram.as_ref().ok_or_else(closed)
    }

    #[napi]
    pub fn address(&self) -> Result<BigInt> {
        Ok(bigint(self.ram()?.address()))
    }

    #[napi]
    pub fn size(&self) -> Result<BigInt> {
        Ok(bigint(self.ram()?.length()))
    }

    /// Size of the file's pages in bytes.
    #[napi]
    pub fn page_size(&self) -> Result<f64> {
        Ok(self.ram()?.page() as f64)
    }

    /// F_GET_SEALS, -1 where the file has none.
    #[napi]
    pub fn seals(&self) -> Result<i32> {
        Ok(self.ram()?.seals())
    }

    /// A new descriptor of the file, close-on-exec; the caller owns it.
    #[napi]
    pub fn duplicate(&self) -> Result<i32> {
        Ok(self.ram()?.duplicate()?.into_raw_fd())
    }

    /// Makes the pages of a part.
    #[napi]
    pub fn allocate(&self, offset: BigInt, length: BigInt) -> Result<()> {
        Ok(self.ram()?.allocate(u64_of(&offset)?, u64_of(&length)?)?)
    }

    /// All bytes in order, in ArrayBuffers of at most `largest` bytes. Once only: two ArrayBuffers must never have the same
    /// address.
    #[napi(ts_return_type = "ArrayBuffer[]")]
    pub fn windows<'env>(&mut self, env: &'env Env, largest: u32) -> Result<Array<'env>> {
        let ram = Arc::clone(self.ram()?);
        if self.shown || largest == 0 {
            return Err(refused("windows", libc::EALREADY));
        }
        self.shown = true;
        let mut list = env.create_array(0).map_err(node)?;
        let mut at = 0;
        while at < ram.length() {
            let length = (ram.length() - at).min(largest as usize);
            list.insert(window(env, &ram, at, length)?).map_err(node)?;
            at += length;
        }
        Ok(list)
    }

    /// Empties the given windows for JavaScript (they get length 0) and lets go of file and mapping. Twice is no error.
    #[napi]
    pub fn close(
        &mut self,
        #[napi(ts_arg_type = "ArrayBuffer[]")] windows: Vec<ArrayBuffer<'_>>,
    ) -> Result<()> {
        self.ram = None;
        for window in windows {
            if !window.is_detached().map_err(node)? {
                window.detach().map_err(node)?;
            }
        }
        Ok(())
    }
}

/// An ArrayBuffer over [at, at + length) that keeps the mapping alive. Not through napi's own type, which copies where
/// external memory is not allowed: a copy of guest RAM would be wrong.
fn window<'env>(env: &'env Env, ram: &Arc<Ram>, at: usize, length: usize) -> Result<ArrayBuffer<'env>> {
    use napi::bindgen_prelude::FromNapiValue;
    let owner = Box::into_raw(Box::new(Arc::clone(ram)));
    let mut value = core::ptr::null_mut();
    // SAFETY: the bytes are mapped for reading and writing as long as an owner lives, and `owner` is released by the
    // finaliser, which runs when no ArrayBuffer has the memory any more; `windows` runs once, so that no two
    // ArrayBuffers have the same address.
    let status = unsafe {
        node_api::napi_create_external_arraybuffer(
            env.raw(),
            (ram.address() + at) as *mut c_void,
            length,
            Some(release),
            owner.cast(),
            &mut value,
        )
    };
    if status != node_api::Status::napi_ok {
        // SAFETY: Node has not taken the pointer, which is the one from Box::into_raw above.
        drop(unsafe { Box::from_raw(owner) });
        return Err(refused("napi_create_external_arraybuffer", libc::ENOMEM));
    }
    // SAFETY: `value` is the ArrayBuffer that was made in this environment just now.
    unsafe { ArrayBuffer::from_napi_value(env.raw(), value) }.map_err(node)
}

extern "C" fn release(_: node_api::napi_env, _: *mut c_void, owner: *mut c_void) {
    // SAFETY: `owner` is the pointer that `window` gave to Node, which calls this once.
    drop(unsafe { Box::from_raw(owner.cast::<Arc<Ram>>()) });
}

/// Memory for the contract tests; see `probe`. Access: 0 none, 1 read, 2 read and write.
#[napi]
pub struct NativeProbe {
    probe: Option<Probe>,
}

#[napi]
impl NativeProbe {
    #[napi(factory)]
    pub fn create(length: u32) -> Result<Self> {
        Ok(Self { probe: Some(Probe::new(length as usize)?) })
    }

    #[napi]
    pub fn address(&self) -> Result<BigInt> {
        Ok(bigint(self.probe.as_ref().ok_or_else(closed)?.address()))
    }

    /// Makes a part anonymous memory.
    #[napi]
    pub fn anonymous(&mut self, at: u32, length: u32, access: u32) -> Result<()> {
        let probe = self.probe.as_mut().ok_or_else(closed)?;
        Ok(probe.anonymous(at as usize, length as usize, access_of(access)?)?)
    }

    /// Makes a part a range of a file.
    #[napi]
    pub fn file(&mut self, at: u32, fd: i32, offset: BigInt, length: u32, access: u32) -> Result<()> {
        let probe = self.probe.as_mut().ok_or_else(closed)?;
        Ok(probe.file(at as usize, fd, u64_of(&offset)?, length as usize, access_of(access)?)?)
    }

    #[napi]
    pub fn close(&mut self) {
        self.probe = None;
    }
}

fn access_of(value: u32) -> Result<Access> {
    match value {
        0 => Ok(Access::None),
        1 => Ok(Access::Read),
        2 => Ok(Access::ReadWrite),
        _ => Err(refused("mmap", libc::EINVAL)),
    }
}

//! Unix stream sockets and signals for JavaScript.

use std::os::fd::AsRawFd;

use napi::bindgen_prelude::Uint8ArraySlice;
use napi_derive::napi;

use super::{Result, closed, refused};
use crate::socket::{Listener, Socket};
use crate::socket_signal::Signal;

/// A socket file that takes connections.
#[napi]
pub struct NativeListener {
    listener: Option<Listener>,
}

#[napi]
impl NativeListener {
    /// Binds to a new file with `mode` and listens.
    #[napi(factory)]
    pub fn bind(path: String, mode: u32, backlog: i32) -> Result<Self> {
        Ok(Self { listener: Some(Listener::bind(&path, mode, backlog)?) })
    }

    fn listener(&self) -> Result<&Listener> {
        self.listener.as_ref().ok_or_else(closed)
    }

    /// The descriptor; stays owned here.
    #[napi]
    pub fn fd(&self) -> Result<i32> {
        Ok(self.listener()?.fd())
    }

    /// The next connection, null when there is none at the moment.
    #[napi]
    pub fn accept(&self) -> Result<Option<NativeSocket>> {
        Ok(self.listener()?.accept()?.map(NativeSocket::from))
    }

    /// The file stays. Twice is no error.
    #[napi]
    pub fn close(&mut self) {
        self.listener = None;
    }
}

/// A connected socket and the descriptors that came with what was read.
#[napi]
pub struct NativeSocket {
    socket: Option<Socket>,
}

impl From<Socket> for NativeSocket {
    fn from(socket: Socket) -> Self {
        Self { socket: Some(socket) }
    }
}

impl NativeSocket {
    fn socket(&self) -> Result<&Socket> {
        self.socket.as_ref().ok_or_else(closed)
    }
}

#[napi]
impl NativeSocket {
    #[napi(factory)]
    pub fn connect(path: String) -> Result<Self> {
        Ok(Self::from(Socket::connect(&path)?))
    }

    /// Two sockets that are connected to each other.
    #[napi]
    pub fn pair() -> Result<Vec<NativeSocket>> {
        let (a, b) = Socket::pair()?;
        Ok(vec![Self::from(a), Self::from(b)])
    }

    /// The descriptor; stays owned here.
    #[napi]
    pub fn fd(&self) -> Result<i32> {
        Ok(self.socket()?.fd())
    }

    /// Reads into [start, end) of `into`; returns the number of bytes, 0 at the end of the stream, -1 when there are none at
    /// the moment. Descriptors stay here; more than `limit` of them (EMSGSIZE) are closed.
    #[napi]
    pub fn receive(
        &mut self,
        mut into: Uint8ArraySlice<'_>,
        start: u32,
        end: u32,
        limit: u32,
    ) -> Result<i32> {
        // SAFETY: JavaScript does not run before this returns, and nothing else here holds the bytes.
        let into = unsafe { into.as_mut() };
        let part = into.get_mut(start as usize..end as usize).ok_or_else(out_of_range)?;
        let socket = self.socket.as_mut().ok_or_else(closed)?;
        count(socket.receive(part, limit as usize)?)
    }

    /// Number of received descriptors.
    #[napi]
    pub fn descriptors(&self) -> Result<u32> {
        Ok(self.socket()?.received().len() as u32)
    }

    /// A received descriptor; stays owned here, until `dropDescriptors`.
    #[napi]
    pub fn descriptor(&self, index: u32) -> Result<i32> {
        let row = self.socket()?.received().get(index as usize);
        Ok(row.ok_or_else(|| refused("recvmsg", libc::ENOENT))?.as_raw_fd())
    }

    /// Closes the received descriptors.
    #[napi]
    pub fn drop_descriptors(&mut self) -> Result<()> {
        self.socket.as_mut().ok_or_else(closed)?.drop_received();
        Ok(())
    }

    /// Writes [start, end) of `from`, with descriptors that stay the caller's; returns the number of bytes, -1 when there is
    /// no room at the moment.
    #[napi]
    pub fn send(&self, from: &[u8], start: u32, end: u32, descriptors: Option<&[i32]>) -> Result<i32> {
        let part = from.get(start as usize..end as usize).ok_or_else(out_of_range)?;
        count(self.socket()?.send(part, descriptors.unwrap_or(&[]))?)
    }

    /// Closes the socket and the received descriptors. Twice is no error.
    #[napi]
    pub fn close(&mut self) {
        self.socket = None;
    }
}

fn out_of_range() -> napi::Error<super::Code> {
    refused("recvmsg", libc::EINVAL)
}

fn count(bytes: Option<usize>) -> Result<i32> {
    match bytes {
        None => Ok(-1),
        Some(bytes) => i32::try_from(bytes).map_err(|_| refused("recvmsg", libc::EOVERFLOW)),
    }
}

/// An eventfd of somebody else.
#[napi]
pub struct NativeSignal {
    signal: Option<Signal>,
}

#[napi]
impl NativeSignal {
    /// Takes a descriptor of its own; EINVAL for anything that is no eventfd.
    #[napi(factory)]
    pub fn adopt(fd: i32) -> Result<Self> {
        Ok(Self { signal: Some(Signal::adopt(fd)?) })
    }

    /// Adds one; never waits.
    #[napi]
    pub fn raise(&self) -> Result<()> {
        Ok(self.signal.as_ref().ok_or_else(closed)?.raise()?)
    }

    #[napi]
    pub fn close(&mut self) {
        self.signal = None;
    }
}

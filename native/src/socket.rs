//! Unix stream sockets that never wait, with descriptors beside the bytes (SCM_RIGHTS). No framing, no protocol.
//!
//! A descriptor that arrives belongs to the socket until it is dropped with the others, so that no path of the caller can
//! lose one. What the kernel says of one `recvmsg` belongs together: bytes behind a set of descriptors come with the next.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::failure::{Failure, Result};

/// Bytes of `sockaddr_un.sun_path`, the last of which is the NUL.
const PATH_BYTES: usize = 108;
/// Most descriptors that one message may carry here; the kernel's own limit (SCM_MAX_FD) is 253.
pub const MAX_DESCRIPTORS: usize = 64;
/// Room for the control data of one message: a header and the descriptors, in words that align it.
const CONTROL_WORDS: usize = 4 + MAX_DESCRIPTORS / 2;

const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// A connected socket and the descriptors that came with the bytes read so far.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    received: Vec<OwnedFd>,
}

/// A socket that takes connections.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Binds to a new file, which gets `mode` (as far as the umask lets it at first, then wholly), and listens.
    pub fn bind(path: &str, mode: u32, backlog: i32) -> Result<Self> {
        let (address, length) = address(path)?;
        let fd = stream()?;
        // Linux gives the file the mode of the socket: no moment in which others could connect.
        // SAFETY: fchmod takes integers only, and `fd` is open.
        checked("fchmod", unsafe { libc::fchmod(fd.as_raw_fd(), mode) })?;
        // SAFETY: `address` is a sockaddr_un that lives over the call, and `length` is not longer than it.
        checked("bind", unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
        let listener = Self { fd };
        let ready = set_mode(path, mode).and_then(|()| {
            // SAFETY: listen takes integers only, and the descriptor is open.
            checked("listen", unsafe { libc::listen(listener.fd.as_raw_fd(), backlog) })
        });
        match ready {
            Ok(_) => Ok(listener),
            Err(failure) => {
                // The file is this call's own.
                let _ = std::fs::remove_file(path);
                Err(failure)
            }
        }
    }

    /// The next connection; `None` when there is none at the moment.
    pub fn accept(&self) -> Result<Option<Socket>> {
        // SAFETY: accept4 may have null for the address, which is not asked for.
        let result = unsafe {
            libc::accept4(self.fd.as_raw_fd(), core::ptr::null_mut(), core::ptr::null_mut(), FLAGS)
        };
        match checked("accept", result) {
            Ok(fd) => Ok(Some(Socket::new(own(fd)))),
            // A client that is gone again is none.
            Err(failure) if matches!(failure.errno, libc::EAGAIN | libc::EINTR | libc::ECONNABORTED) => {
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Socket {
    const fn new(fd: OwnedFd) -> Self {
        Self { fd, received: Vec::new() }
    }

    /// Connects to a listening socket; EAGAIN when its queue is full.
    pub fn connect(path: &str) -> Result<Self> {
        let (address, length) = address(path)?;
        let fd = stream()?;
        // SAFETY: `address` is a sockaddr_un that lives over the call, and `length` is not longer than it.
        checked("connect", unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self::new(fd))
    }

    /// Two sockets that are connected to each other.
    pub fn pair() -> Result<(Self, Self)> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the two descriptors.
        checked("socketpair", unsafe {
            libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | FLAGS, 0, fds.as_mut_ptr())
        })?;
        Ok((Self::new(own(fds[0])), Self::new(own(fds[1]))))
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Descriptors that came since they were last dropped, in order.
    pub fn received(&self) -> &[OwnedFd] {
        &self.received
    }

    /// Closes the received descriptors.
    pub fn drop_received(&mut self) {
        self.received.clear();
    }

    /// Reads at most `into.len()` bytes: `None` when there are none at the moment, 0 at the end of the stream. EMSGSIZE when
    /// more than `limit` descriptors have come since they were last dropped, or when the kernel had to leave some out
    /// (control data too long, or no descriptor free); all of them are closed then.
    pub fn receive(&mut self, into: &mut [u8], limit: usize) -> Result<Option<usize>> {
        let mut control = [0u64; CONTROL_WORDS];
        let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        // SAFETY: all bytes zero is a valid msghdr, which is plain data.
        let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        let count = loop {
            // SAFETY: `message` names `into` and `control`, both writable for the lengths given and alive over the call.
            let result = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, flags) };
            match waiting("recvmsg", result)? {
                Answer::Again => return Ok(None),
                Answer::Interrupted => {}
                Answer::Count(count) => break count,
            }
        };
        // SAFETY: the kernel has filled `message`, whose control data is `control`.
        unsafe { self.take(&message) };
        if message.msg_flags & libc::MSG_CTRUNC != 0 || self.received.len() > limit {
            self.drop_received();
            return Err(Failure::new("recvmsg", libc::EMSGSIZE));
        }
        Ok(Some(count))
    }

    /// Takes over the descriptors in the control data of a received message.
    ///
    /// # Safety
    /// `message` is as recvmsg has left it, and its control data is alive.
    unsafe fn take(&mut self, message: &libc::msghdr) {
        // SAFETY: per the contract, the control data is what the kernel has written.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
        while !header.is_null() {
            // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers that lie wholly in the control data, or null.
            let row = unsafe { &*header };
            if row.cmsg_level == libc::SOL_SOCKET && row.cmsg_type == libc::SCM_RIGHTS {
                // SAFETY: as above; CMSG_LEN of nothing is the length of the header with its padding.
                let (data, bytes) =
                    unsafe { (libc::CMSG_DATA(header), row.cmsg_len as usize - libc::CMSG_LEN(0) as usize) };
                for at in (0..bytes).step_by(size_of::<RawFd>()) {
                    // SAFETY: the data of SCM_RIGHTS are whole descriptors, perhaps not aligned; the kernel has just made
                    // them for us, so nobody else owns them.
                    self.received.push(own(unsafe { data.add(at).cast::<RawFd>().read_unaligned() }));
                }
            }
            // SAFETY: `header` is one of the headers of this message.
            header = unsafe { libc::CMSG_NXTHDR(message, header) };
        }
    }

    /// Writes at most `from.len()` bytes, the descriptors with the first one: `None` when there is no room at the moment,
    /// and nothing is sent then. EMSGSIZE for more than [`MAX_DESCRIPTORS`].
    pub fn send(&self, from: &[u8], descriptors: &[RawFd]) -> Result<Option<usize>> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Failure::new("sendmsg", libc::EMSGSIZE));
        }
        let mut control = [0u64; CONTROL_WORDS];
        let mut part = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
        // SAFETY: all bytes zero is a valid msghdr, which is plain data.
        let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if !descriptors.is_empty() {
            let bytes = size_of_val(descriptors) as u32;
            message.msg_control = control.as_mut_ptr().cast();
            // SAFETY: `control` holds a header and MAX_DESCRIPTORS descriptors, and no more are written; it is aligned as a
            // header must be.
            unsafe {
                message.msg_controllen = libc::CMSG_SPACE(bytes) as _;
                let header = &mut *libc::CMSG_FIRSTHDR(&raw const message);
                header.cmsg_level = libc::SOL_SOCKET;
                header.cmsg_type = libc::SCM_RIGHTS;
                header.cmsg_len = libc::CMSG_LEN(bytes) as _;
                let data = libc::CMSG_DATA(header);
                core::ptr::copy_nonoverlapping(descriptors.as_ptr().cast::<u8>(), data, bytes as usize);
            }
        }
        loop {
            // SAFETY: `message` names `from` and `control`, both readable for the lengths given and alive over the call.
            let result = unsafe {
                libc::sendmsg(
                    self.fd.as_raw_fd(),
                    &raw const message,
                    libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
                )
            };
            match waiting("sendmsg", result)? {
                Answer::Again => return Ok(None),
                Answer::Interrupted => {}
                Answer::Count(count) => return Ok(Some(count)),
            }
        }
    }
}

enum Answer {
    Count(usize),
    Again,
    Interrupted,
}

fn waiting(call: &'static str, result: isize) -> Result<Answer> {
    match usize::try_from(result) {
        Ok(count) => Ok(Answer::Count(count)),
        Err(_) => match Failure::last(call) {
            Failure { errno: libc::EAGAIN, .. } => Ok(Answer::Again),
            Failure { errno: libc::EINTR, .. } => Ok(Answer::Interrupted),
            failure => Err(failure),
        },
    }
}

fn checked(call: &'static str, result: i32) -> Result<i32> {
    if result < 0 { Err(Failure::last(call)) } else { Ok(result) }
}

/// Owns a descriptor that the kernel has just given to this process.
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass descriptors that a system call has just made for them, so nobody else owns them.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn stream() -> Result<OwnedFd> {
    // SAFETY: socket takes integers only.
    Ok(own(checked("socket", unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | FLAGS, 0) })?))
}

/// The address of a file; ENAMETOOLONG from 108 bytes on, EINVAL for an empty name or one with a NUL.
fn address(path: &str) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    let bytes = path.as_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(Failure::new("bind", libc::EINVAL));
    }
    if bytes.len() >= PATH_BYTES {
        return Err(Failure::new("bind", libc::ENAMETOOLONG));
    }
    // SAFETY: all bytes zero is a valid sockaddr_un, which is plain data.
    let mut address: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn set_mode(path: &str, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error: io::Error| Failure::new("chmod", error.raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests;

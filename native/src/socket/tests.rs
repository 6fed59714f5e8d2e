use std::os::fd::AsFd;

use super::*;

/// A file that no other test has, to count the descriptors of.
fn file(name: &std::ffi::CStr) -> OwnedFd {
    crate::sys::memory_file(name, 0).expect("a memfd")
}

fn open_descriptors(name: &std::ffi::CStr) -> usize {
    let name = format!("/memfd:{} (deleted)", name.to_str().expect("text"));
    std::fs::read_dir("/proc/self/fd")
        .expect("procfs")
        .filter(|row| {
            row.as_ref().is_ok_and(|row| {
                std::fs::read_link(row.path()).is_ok_and(|to| to.as_os_str() == name.as_str())
            })
        })
        .count()
}

fn folder(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("viommu-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).expect("a folder");
    path
}

#[test]
fn moves_bytes_and_descriptors() {
    let (a, mut b) = Socket::pair().expect("a pair");
    let event = crate::sys::event_counter().expect("an eventfd");
    let mut into = [0u8; 16];
    assert_eq!(b.receive(&mut into, 8), Ok(None));
    assert_eq!(a.send(b"first", &[]), Ok(Some(5)));
    assert_eq!(a.send(b"second", &[event.as_raw_fd(), event.as_raw_fd()]), Ok(Some(6)));
    assert_eq!(a.send(b"third", &[]), Ok(Some(5)));
    assert_eq!(b.receive(&mut into[..5], 8), Ok(Some(5)));
    assert_eq!(b.received().len(), 0);
    // A read ends behind bytes that have descriptors.
    assert_eq!(b.receive(&mut into, 8), Ok(Some(6)));
    assert_eq!((&into[..6], b.received().len()), (&b"second"[..], 2));
    // SAFETY: F_GETFD takes no argument.
    let flags = unsafe { libc::fcntl(b.received()[0].as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags, libc::FD_CLOEXEC);
    assert_eq!(crate::sys::add_events(b.received()[1].as_fd(), 3), Ok(()));
    b.drop_received();
    assert_eq!(crate::sys::take_events(event.as_fd()), Ok(3));
    assert_eq!(b.receive(&mut into, 8), Ok(Some(5)));
    drop(a);
    assert_eq!(b.receive(&mut into, 8), Ok(Some(0)));
    assert_eq!(b.send(b"x", &[]), Err(Failure::new("sendmsg", libc::EPIPE)));
}

#[test]
fn refuses_too_many_descriptors_and_keeps_none() {
    const NAME: &std::ffi::CStr = c"viommu-too-many";
    let (a, mut b) = Socket::pair().expect("a pair");
    let event = file(NAME);
    let mut into = [0u8; 4];
    for (count, limit, fits) in [(8, 8, true), (9, 8, false), (64, 64, true), (64, 63, false), (1, 0, false)]
    {
        assert_eq!(a.send(b"x", &vec![event.as_raw_fd(); count]), Ok(Some(1)));
        let expected = if fits { Ok(Some(1)) } else { Err(Failure::new("recvmsg", libc::EMSGSIZE)) };
        assert_eq!(b.receive(&mut into, limit), expected, "{count} {limit}");
        assert_eq!(b.received().len(), if fits { count } else { 0 });
        b.drop_received();
        assert_eq!(open_descriptors(NAME), 1);
    }
    assert_eq!(
        a.send(b"x", &[event.as_raw_fd(); 65]).expect_err("too many"),
        Failure::new("sendmsg", libc::EMSGSIZE)
    );
    // The limit counts over several reads.
    for _ in 0..2 {
        assert_eq!(a.send(b"x", &[event.as_raw_fd(); 5]), Ok(Some(1)));
    }
    assert_eq!(b.receive(&mut into, 8), Ok(Some(1)));
    assert_eq!(b.receive(&mut into, 8), Err(Failure::new("recvmsg", libc::EMSGSIZE)));
    assert_eq!(open_descriptors(NAME), 1);
}

#[test]
fn drops_what_does_not_fit_into_the_control_data() {
    const NAME: &std::ffi::CStr = c"viommu-control-data";
    let (a, mut b) = Socket::pair().expect("a pair");
    let event = file(NAME);
    // More than MAX_DESCRIPTORS in one message, as another implementation could send them.
    let fds = vec![event.as_raw_fd(); 253];
    // SAFETY: a message with one byte and room for the header and 253 descriptors.
    unsafe {
        let mut control = vec![0u64; 4 + 127];
        let mut byte = [1u8];
        let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let mut message: libc::msghdr = core::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(253 * 4) as _;
        let header = &mut *libc::CMSG_FIRSTHDR(&raw const message);
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        header.cmsg_len = libc::CMSG_LEN(253 * 4) as _;
        core::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), 253 * 4);
        assert_eq!(libc::sendmsg(a.fd(), &raw const message, 0), 1);
    }
    assert_eq!(b.receive(&mut [0; 4], 64), Err(Failure::new("recvmsg", libc::EMSGSIZE)));
    assert_eq!(open_descriptors(NAME), 1);
}

#[test]
fn listens_on_a_file_with_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder("listen");
    let path = folder.join("a.sock");
    let name = path.to_str().expect("text");
    let listener = Listener::bind(name, 0o640, 4).expect("a listener");
    assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o7777, 0o640);
    assert!(listener.accept().expect("no error").is_none());
    assert_eq!(Listener::bind(name, 0o600, 4).expect_err("in use"), Failure::new("bind", libc::EADDRINUSE));
    let client = Socket::connect(name).expect("connected");
    let server = listener.accept().expect("no error").expect("a connection");
    assert_eq!(client.send(b"x", &[]), Ok(Some(1)));
    drop(client);
    drop(server);
    drop(listener);
    assert_eq!(Socket::connect(name).expect_err("nobody"), Failure::new("connect", libc::ECONNREFUSED));
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn refuses_names_that_do_not_fit() {
    for (name, errno) in [
        (String::new(), libc::EINVAL),
        ("a\0b".to_owned(), libc::EINVAL),
        ("a".repeat(108), libc::ENAMETOOLONG),
        ("/nowhere/".to_owned() + &"a".repeat(98), libc::ENOENT),
    ] {
        assert_eq!(Listener::bind(&name, 0o600, 1).expect_err("refused").errno, errno, "{name}");
        assert_eq!(Socket::connect(&name).expect_err("refused").errno, errno, "{name}");
    }
}

#[test]
fn never_waits_for_room() {
    let (a, mut b) = Socket::pair().expect("a pair");
    let bytes = vec![7u8; 1 << 16];
    let mut sent = 0;
    while let Some(count) = a.send(&bytes, &[]).expect("no error") {
        sent += count;
    }
    let mut into = vec![0u8; 1 << 16];
    let mut got = 0;
    while let Some(count) = b.receive(&mut into, 0).expect("no error") {
        got += count;
    }
    assert_eq!(sent, got);
    assert!(sent > 0);
}

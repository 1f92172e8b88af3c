//! FENCE: system calls on descriptors: Unix seqpacket sockets with descriptor passing, doorbells, waiting.
#![expect(unsafe_code, reason = "fence: system calls that the standard library does not offer")]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::control::{MAX_DESCRIPTORS, MAX_RECORD};

/// A connected Unix seqpacket socket.
#[derive(Debug)]
pub struct Seqpacket(OwnedFd);

/// A listening Unix seqpacket socket.
#[derive(Debug)]
pub struct SeqpacketListener(OwnedFd);

/// One received record.
#[derive(Debug)]
pub struct Record {
    /// Its bytes; none at the end of the connection.
    pub bytes: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(raw: RawFd) -> OwnedFd {
    // SAFETY: called only with descriptors that a system call just made for us.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn unix_address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all zeros is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "socket path is too long (107 bytes at most)",
        ));
    }
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(0);
    for (place, &byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = libc::c_char::from_ne_bytes([byte]); // Signed on some processors, unsigned on others.
    }
    let length = mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, libc::socklen_t::try_from(length).unwrap_or(0)))
}

fn new_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let raw = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
    check(raw).map(owned)
}

impl Seqpacket {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        let (address, length) = unix_address(path)?;
        // SAFETY: `address` is valid for `length` bytes during the call.
        check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self(socket))
    }

    /// Two connected sockets, for tests.
    pub fn pair() -> io::Result<(Self, Self)> {
        let mut ends = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: `ends` has room for two descriptors.
        check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
        Ok((Self(owned(ends[0])), Self(owned(ends[1]))))
    }

    /// Sends one record with descriptors. The other side gets copies of them. Never raises SIGPIPE.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(
            descriptors.len() <= MAX_DESCRIPTORS && bytes.len() <= MAX_RECORD,
            "record within its limits"
        );
        let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = ControlBuffer([0; 128]);
        // SAFETY: all zeros is a valid `msghdr`.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        if !descriptors.is_empty() {
            let size = libc::c_uint::try_from(mem::size_of_val(descriptors)).unwrap_or(0);
            header.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: computes a size only.
            header.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
            // SAFETY: the control buffer has room for one header and MAX_DESCRIPTORS descriptors (asserted above).
            unsafe {
                let first = libc::CMSG_FIRSTHDR(&raw const header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(size) as usize;
                let data = libc::CMSG_DATA(first).cast::<RawFd>();
                for (index, descriptor) in descriptors.iter().enumerate() {
                    data.add(index).write_unaligned(descriptor.as_raw_fd());
                }
            }
        }
        // SAFETY: `header` points at memory that lives for the call.
        let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one record. Blocks unless the socket is non-blocking. More descriptors or bytes than the limits are an error.
    pub fn receive(&self) -> io::Result<Record> {
        let mut bytes = vec![0_u8; MAX_RECORD];
        let mut piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut control = ControlBuffer([0; 128]);
        // SAFETY: all zeros is a valid `msghdr`.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len();
        // SAFETY: `header` points at memory that lives for the call.
        let got = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let descriptors = received_descriptors(&header);
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "record beyond its limits"));
        }
        bytes.truncate(got);
        Ok(Record { bytes, descriptors })
    }

    /// Lets `receive` and `send` answer `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        set_nonblocking(&self.0, on)
    }

    /// Fails `receive` after `timeout_ms` milliseconds; 0 waits for ever.
    pub fn set_receive_timeout(&self, timeout_ms: u32) -> io::Result<()> {
        let timeout = libc::timeval {
            tv_sec: i64::from(timeout_ms / 1000),
            tv_usec: i64::from(timeout_ms % 1000) * 1000,
        };
        let size = libc::socklen_t::try_from(mem::size_of_val(&timeout)).unwrap_or(0);
        let (level, name) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
        // SAFETY: `timeout` is valid for `size` bytes during the call.
        let result =
            unsafe { libc::setsockopt(self.0.as_raw_fd(), level, name, (&raw const timeout).cast(), size) };
        check(result).map(drop)
    }

    /// Process, user and group of the other end when it connected.
    pub fn peer(&self) -> io::Result<(u32, u32, u32)> {
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut size = libc::socklen_t::try_from(mem::size_of_val(&peer)).unwrap_or(0);
        let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
        // SAFETY: `peer` is writable for `size` bytes during the call.
        let result = unsafe {
            libc::getsockopt(self.0.as_raw_fd(), level, name, (&raw mut peer).cast(), &raw mut size)
        };
        check(result)?;
        Ok((peer.pid.cast_unsigned(), peer.uid, peer.gid))
    }

    /// A descriptor that is readable when the process at the other end has died, even if a child of it keeps the socket
    /// open: `SO_PEERPIDFD` (Linux 6.5), or pidfd_open of the process that connected.
    pub fn peer_pidfd(&self) -> io::Result<OwnedFd> {
        const SO_PEERPIDFD: libc::c_int = 77;
        let mut raw: RawFd = -1;
        let mut size = libc::socklen_t::try_from(mem::size_of_val(&raw)).unwrap_or(0);
        // SAFETY: `raw` is writable for `size` bytes during the call.
        let result = unsafe {
            let into = (&raw mut raw).cast();
            libc::getsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, into, &raw mut size)
        };
        if result == 0 && raw >= 0 {
            return Ok(owned(raw));
        }
        let (pid, ..) = self.peer()?;
        // SAFETY: no pointers.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let raw = RawFd::try_from(raw).map_err(|_| io::Error::other("pidfd_open answered no descriptor"))?;
        check(raw).map(owned)
    }
}

#[repr(align(8))]
struct ControlBuffer([u8; 128]);

fn received_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled the control buffer that `header` names; the CMSG macros walk it within its length.
    unsafe {
        let mut entry = libc::CMSG_FIRSTHDR(header);
        while !entry.is_null() {
            if (*entry).cmsg_level == libc::SOL_SOCKET && (*entry).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*entry).cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(entry).cast::<RawFd>();
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    descriptors.push(owned(data.add(index).read_unaligned()));
                }
            }
            entry = libc::CMSG_NXTHDR(header, entry);
        }
    }
    descriptors
}

impl AsFd for Seqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl SeqpacketListener {
    /// Binds to `path` and listens. The path must not exist.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        let (address, length) = unix_address(path)?;
        // SAFETY: `address` is valid for `length` bytes during the call.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        // SAFETY: no pointers.
        check(unsafe { libc::listen(socket.as_raw_fd(), 1024) })?;
        let listener = Self(socket);
        listener.refuse_descriptors();
        Ok(listener)
    }

    /// Lets the kernel refuse descriptors that a client sends (Linux 6.16, inherited by accepted sockets; ignored before).
    /// Closing a stranger's descriptor may block: a TCP socket that lingers, a file of a file system in user space.
    fn refuse_descriptors(&self) {
        const SO_PASSRIGHTS: libc::c_int = 83;
        let off: libc::c_int = 0;
        let size = libc::socklen_t::try_from(mem::size_of_val(&off)).unwrap_or(0);
        // SAFETY: `off` is valid for `size` bytes during the call.
        unsafe {
            let value = (&raw const off).cast();
            libc::setsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, value, size)
        };
    }

    /// Takes the next connection; the new socket is non-blocking if `nonblocking`.
    pub fn accept(&self, nonblocking: bool) -> io::Result<Seqpacket> {
        let flags = libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
        // SAFETY: null pointers mean that the peer's address is not wanted.
        let raw =
            unsafe { libc::accept4(self.0.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        check(raw).map(|raw| Seqpacket(owned(raw)))
    }

    /// Lets `accept` answer `WouldBlock` instead of waiting.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        set_nonblocking(&self.0, on)
    }
}

impl AsFd for SeqpacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set_nonblocking(descriptor: &OwnedFd, on: bool) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) })?;
    let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// The two ends of a non-blocking pipe: read, write.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
    Ok((owned(ends[0]), owned(ends[1])))
}

/// The two ends of a non-blocking stream socket pair.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    Ok((owned(ends[0]), owned(ends[1])))
}

/// What ringing a doorbell came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ring {
    /// The byte is in, or so many are in already that none more fits: the other side will wake.
    Rung,
    /// The other end is gone.
    HungUp,
}

/// Writes one byte to a doorbell end of our own. Never blocks, never raises a signal (sockets; for pipes the process
/// ignores SIGPIPE as Rust programs do, and C programs are protected by [`ring_quietly`]).
pub fn ring(bell: BorrowedFd<'_>, is_socket: bool) -> Ring {
    let byte = [1_u8];
    loop {
        let raw = bell.as_raw_fd();
        // SAFETY: `byte` is readable for the call.
        let written = unsafe {
            if is_socket {
                libc::send(raw, byte.as_ptr().cast(), 1, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            } else {
                libc::write(raw, byte.as_ptr().cast(), 1)
            }
        };
        if written == 1 {
            return Ring::Rung;
        }
        match io::Error::last_os_error().kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Ring::Rung,
            _ => return Ring::HungUp,
        }
    }
}

/// What a doorbell held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// At least one byte.
    Some,
    /// Nothing.
    None,
    /// The other end is gone.
    HungUp,
}

/// Reads what is in a doorbell, at most 64 bytes. Never blocks even if the other side cleared O_NONBLOCK on its own end:
/// each side has a description of its own.
pub fn drain(bell: BorrowedFd<'_>) -> Drained {
    let mut bytes = [0_u8; 64];
    loop {
        // SAFETY: `bytes` is writable for its length.
        let got = unsafe { libc::read(bell.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
        match got {
            0 => return Drained::HungUp,
            1.. => return Drained::Some,
            _ => match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Drained::None,
                _ => return Drained::HungUp,
            },
        }
    }
}

/// Reads at most `most` bytes of a doorbell, 64 at a time at most; says how many, or nothing if the other end is gone.
pub fn take_rings(bell: BorrowedFd<'_>, most: u32) -> Option<u32> {
    let mut bytes = [0_u8; 64];
    let most = bytes.len().min(most as usize);
    if most == 0 {
        return Some(0);
    }
    loop {
        // SAFETY: `bytes` is writable for `most` bytes.
        let got = unsafe { libc::read(bell.as_raw_fd(), bytes.as_mut_ptr().cast(), most) };
        if got > 0 {
            return u32::try_from(got).ok();
        }
        match io::Error::last_os_error().kind() {
            _ if got == 0 => return None,
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => return Some(0),
            _ => return None,
        }
    }
}

/// Waits until `descriptor` is readable or hung up. `timeout` of `None` waits for ever. Says whether it is.
pub fn wait_readable(descriptor: BorrowedFd<'_>, timeout: Option<std::time::Duration>) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let span = timeout.map(|timeout| libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let span = span.as_ref().map_or(std::ptr::null(), |span| &raw const *span);
    // SAFETY: `entry` and `span` are valid for the call.
    let ready = unsafe { libc::ppoll(&raw mut entry, 1, span, std::ptr::null()) };
    match ready {
        0 => Ok(false),
        1.. => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}

/// What ended a [`wait_bell`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Woken {
    /// The doorbell is readable.
    pub bell: bool,
    /// The other end of the doorbell is gone.
    pub hung_up: bool,
    /// The second descriptor is readable.
    pub nudge: bool,
}

/// Waits until the doorbell rings (only if `listen`) or hangs up, or `nudge` is readable, or `timeout` has passed (`None`:
/// for ever), or a signal came.
pub fn wait_bell(
    bell: BorrowedFd<'_>,
    listen: bool,
    nudge: Option<BorrowedFd<'_>>,
    timeout: Option<std::time::Duration>,
) -> io::Result<Woken> {
    let events = if listen { libc::POLLIN } else { 0 };
    let mut entries = [
        libc::pollfd { fd: bell.as_raw_fd(), events, revents: 0 },
        libc::pollfd { fd: nudge.map_or(-1, |fd| fd.as_raw_fd()), events: libc::POLLIN, revents: 0 },
    ];
    let span = timeout.map(|timeout| libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let span = span.as_ref().map_or(std::ptr::null(), |span| &raw const *span);
    // SAFETY: `entries` and `span` are valid for the call; a negative descriptor is skipped.
    let ready = unsafe { libc::ppoll(entries.as_mut_ptr(), 2, span, std::ptr::null()) };
    if ready < 0 {
        return match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(Woken::default()),
            error => Err(error),
        };
    }
    let ended = libc::POLLHUP | libc::POLLERR | libc::POLLNVAL;
    Ok(Woken {
        bell: entries[0].revents & libc::POLLIN != 0,
        hung_up: entries[0].revents & ended != 0,
        nudge: entries[1].revents != 0,
    })
}

/// Lets a pipe's broken end answer an error in programs that have not ignored SIGPIPE: blocks the signal for the thread,
/// rings, and takes back a signal that was raised meanwhile.
pub fn ring_quietly(bell: BorrowedFd<'_>, is_socket: bool) -> Ring {
    if is_socket {
        return ring(bell, true);
    }
    // SAFETY: the sets live on this stack; the calls only change this thread's mask, which is put back.
    unsafe {
        let mut pipe_signal: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut pipe_signal);
        libc::sigaddset(&raw mut pipe_signal, libc::SIGPIPE);
        let mut pending: libc::sigset_t = mem::zeroed();
        libc::sigpending(&raw mut pending);
        let was_pending = libc::sigismember(&raw const pending, libc::SIGPIPE) == 1;
        let mut before: libc::sigset_t = mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe_signal, &raw mut before);
        let result = ring(bell, false);
        if result == Ring::HungUp && !was_pending {
            let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(&raw const pipe_signal, std::ptr::null_mut(), &raw const none);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        result
    }
}

/// The user whose rights this process has.
pub fn effective_user() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

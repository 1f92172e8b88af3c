//! FENCE: the few system calls of the command that the standard library does not offer.
#![expect(
    unsafe_code,
    reason = "fence: signals, prctl, kill, namespaces, poll, getifaddrs and flags of send and recv"
)]

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// The write end of the pipe that the signal handler writes to, or -1.
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// The signals that ask this process to end, as bytes of a pipe.
#[derive(Debug)]
pub(crate) struct Signals(File);

extern "C" fn on_signal(signal: libc::c_int) {
    let byte = u8::try_from(signal).unwrap_or(0);
    // SAFETY: write is safe in a signal handler, `byte` is one readable byte, and the descriptor is never closed. A full pipe
    // (the descriptor does not block) means that enough signals wait already. errno is kept for whoever was interrupted.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(SIGNAL_PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *errno = before;
    }
}

impl Signals {
    /// From now on SIGINT, SIGTERM and SIGHUP end up here and not in the process's death. Call once, before threads start.
    pub(crate) fn install() -> io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two descriptors.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
        // SAFETY: the call above made this descriptor, and nobody else owns it.
        let read_end = unsafe { OwnedFd::from_raw_fd(ends[0]) };
        // SAFETY: fcntl with an integer argument on a descriptor of ours.
        check(unsafe { libc::fcntl(ends[1], libc::F_SETFL, libc::O_NONBLOCK) })?;
        SIGNAL_PIPE.store(ends[1], Ordering::Relaxed);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: all zeros is a valid sigaction; the handler has the right type and does only what a handler may.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
                action.sa_flags = libc::SA_RESTART;
                check(libc::sigaction(signal, &raw const action, std::ptr::null_mut()))?;
            }
        }
        Ok(Self(File::from(read_end)))
    }

    /// Waits for the next signal and names it.
    pub(crate) fn wait(&mut self) -> io::Result<&'static str> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(match i32::from(byte[0]) {
            libc::SIGINT => "SIGINT",
            libc::SIGHUP => "SIGHUP",
            _ => "SIGTERM",
        })
    }
}

/// Makes the process that `command` starts die (SIGKILL) when the calling thread ends, and leave our process group, so that
/// Ctrl-C reaches only us. To be called by a thread that lives as long as the process: the main thread.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    command.process_group(0);
    let in_child = move || {
        // SAFETY: prctl with integers and getppid touch no memory and may be called between fork and exec.
        let orphaned = unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            u32::try_from(libc::getppid()) != Ok(parent)
        };
        // The parent may have died before the request was made.
        if orphaned { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
    };
    // SAFETY: the closure does only what is safe between fork and exec: two system calls, no allocation, no lock.
    unsafe { command.pre_exec(in_child) };
}

/// A network namespace of its own, in which nothing is but a loopback interface that is down. It lives as long as the
/// descriptor, and as any process in it.
pub(crate) fn new_network_namespace() -> io::Result<OwnedFd> {
    let make = || {
        // SAFETY: no memory is passed; only this thread, which ends at once, leaves the namespace that it was in.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
    };
    std::thread::spawn(make).join().unwrap_or_else(|_| Err(io::Error::other("a thread ended")))
}

/// Makes the process that `command` starts belong to another network namespace.
pub(crate) fn enter_namespace(command: &mut Command, namespace: &OwnedFd) {
    let descriptor = namespace.as_raw_fd();
    let in_child = move || {
        // SAFETY: a descriptor and an integer: no memory. It is open in the child until exec.
        check(unsafe { libc::setns(descriptor, libc::CLONE_NEWNET) }).map(drop)
    };
    // SAFETY: the closure makes one system call, without allocation and lock.
    unsafe { command.pre_exec(in_child) };
}

/// Processor time that this process and its children that have ended used so far.
pub(crate) fn processor_time_of_family() -> Duration {
    let mut total = Duration::ZERO;
    for whose in [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN] {
        // SAFETY: all zeros is a valid rusage, and the call fills it in.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(whose, &raw mut usage);
            usage
        };
        for time in [usage.ru_utime, usage.ru_stime] {
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            total += Duration::from_secs(seconds)
                + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0));
        }
    }
    total
}

/// Whether there is a process of that number.
pub(crate) fn process_exists(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 only asks.
    let result = unsafe { libc::kill(pid, 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Asks the kernel to end the timed sleeps of the calling thread as exactly as it can, not up to 50 microseconds later.
pub(crate) fn sleep_exactly() {
    // SAFETY: prctl with integers. If it fails, sleeps stay as they are.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// Waits until a socket can be read (also: hung up) or, if so wanted, written, at most `timeout`.
pub(crate) fn wait(socket: BorrowedFd<'_>, or_writable: bool, timeout: Duration) -> io::Result<()> {
    let events = if or_writable { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
    let limit = libc::timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    // SAFETY: `entry` and `limit` live through the call; a null mask keeps the current one.
    match check(unsafe { libc::ppoll(&raw mut entry, 1, &raw const limit, std::ptr::null()) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Receives into `buffer`; without `block` at once, with [`io::ErrorKind::WouldBlock`] if nothing is there.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], block: bool) -> io::Result<usize> {
    let flags = if block { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: the pointer and length are those of one mutable slice.
    let result = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sends what the socket takes now of `head` and then `body`, in one call and without waiting.
pub(crate) fn send_two(socket: BorrowedFd<'_>, head: &[u8], body: &[u8]) -> io::Result<usize> {
    let part =
        |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut parts = [part(head), part(body)];
    // SAFETY: all zeros is a valid msghdr; `parts` points to two slices that live through the call, which only reads them.
    let result = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len();
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The IPv4 addresses of all interfaces that are up, each with the interface's name, loopback apart.
pub(crate) fn interface_addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a place for the pointer; it is freed below.
    check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut found = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: getifaddrs made the list; entries, names and addresses are valid until freeifaddrs. An address is read only
        // if there is one, and as IPv4 only if its family says so.
        unsafe {
            let it = &*entry;
            let flags = it.ifa_flags.cast_signed();
            let usable = flags & libc::IFF_UP != 0 && flags & libc::IFF_LOOPBACK == 0;
            if usable && !it.ifa_addr.is_null() && i32::from((*it.ifa_addr).sa_family) == libc::AF_INET {
                let address = it.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                let name = std::ffi::CStr::from_ptr(it.ifa_name).to_string_lossy().into_owned();
                found.push((name, IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))));
            }
            entry = it.ifa_next;
        }
    }
    // SAFETY: the list comes from getifaddrs and is not used any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

//! FENCE: system calls of the engine and the controller: epoll, limits, scheduling.
#![expect(unsafe_code, reason = "fence: system calls that the standard library does not offer")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Most events that one call of [`Epoll::wait`] hands over.
pub const EVENT_BURST: usize = 64;
const EVENT_ROOM: libc::c_int = 64;
const _: () = assert!(EVENT_ROOM.cast_unsigned() as usize == EVENT_BURST);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// When a watched descriptor is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    /// As long as it is readable.
    Readable,
    /// As long as it is readable or takes more.
    ReadableOrWritable,
    /// Once for each time that something came: nobody has to read it, and a writer who does not stop costs little.
    Edge,
}

/// What happened to a watched descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The number given when it was added.
    pub token: u64,
    /// It can be read, or has an error to be read.
    pub readable: bool,
    /// It takes more.
    pub writable: bool,
    /// The other end is gone.
    pub hung_up: bool,
}

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Epoll {
    descriptor: OwnedFd,
    has_pwait2: bool,
}

impl AsFd for Epoll {
    /// Readable while something in the set is ready.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let raw = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just made for us.
        Ok(Self { descriptor: unsafe { OwnedFd::from_raw_fd(raw) }, has_pwait2: true })
    }

    /// Watches a descriptor. It leaves the set by [`Self::remove`] or with its last close.
    pub fn add(&self, descriptor: BorrowedFd<'_>, token: u64, watch: Watch) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, descriptor, token, watch)
    }

    /// Changes when a watched descriptor is reported.
    pub fn modify(&self, descriptor: BorrowedFd<'_>, token: u64, watch: Watch) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, descriptor, token, watch)
    }

    /// Watches a descriptor no longer.
    pub fn remove(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, descriptor, 0, Watch::Readable)
    }

    fn control(
        &self,
        operation: libc::c_int,
        descriptor: BorrowedFd<'_>,
        token: u64,
        watch: Watch,
    ) -> io::Result<()> {
        let flags = match watch {
            Watch::Readable => libc::EPOLLIN | libc::EPOLLRDHUP,
            Watch::ReadableOrWritable => libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT,
            Watch::Edge => libc::EPOLLIN | libc::EPOLLET,
        };
        let mut event = libc::epoll_event { events: flags.cast_unsigned(), u64: token };
        // SAFETY: `event` is valid for the call.
        let result = unsafe {
            libc::epoll_ctl(self.descriptor.as_raw_fd(), operation, descriptor.as_raw_fd(), &raw mut event)
        };
        check(result).map(drop)
    }

    /// Waits for at most `timeout_ns` nanoseconds (`None`: for ever) and hands what is ready to `each`. Says how many there
    /// were. A signal ends the wait early.
    pub fn wait(&mut self, timeout_ns: Option<u64>, mut each: impl FnMut(Ready)) -> io::Result<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENT_BURST];
        let got = match timeout_ns {
            Some(0) => self.wait_ms(&mut events, 0),
            _ => self.wait_ns(&mut events, timeout_ns),
        };
        let got = match got {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(0),
            other => other?,
        };
        for event in &events[..got] {
            let flags = event.events.cast_signed();
            each(Ready {
                token: event.u64,
                readable: flags & (libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP) != 0,
                writable: flags & libc::EPOLLOUT != 0,
                hung_up: flags & (libc::EPOLLHUP | libc::EPOLLRDHUP) != 0,
            });
        }
        Ok(got)
    }

    fn wait_ms(
        &self,
        events: &mut [libc::epoll_event; EVENT_BURST],
        timeout_ms: libc::c_int,
    ) -> io::Result<usize> {
        // SAFETY: `events` has room for EVENT_BURST events.
        let got = unsafe {
            libc::epoll_wait(self.descriptor.as_raw_fd(), events.as_mut_ptr(), EVENT_ROOM, timeout_ms)
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// epoll_pwait2 (Linux 5.11) knows nanoseconds; before it, the wait is rounded up to milliseconds.
    fn wait_ns(
        &mut self,
        events: &mut [libc::epoll_event; EVENT_BURST],
        timeout_ns: Option<u64>,
    ) -> io::Result<usize> {
        const NANOS: u64 = 1_000_000_000;
        if self.has_pwait2 {
            let span = timeout_ns.map(|ns| libc::timespec {
                tv_sec: i64::try_from(ns / NANOS).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(ns % NANOS).unwrap_or(0),
            });
            let span = span.as_ref().map_or(std::ptr::null(), |span| &raw const *span);
            // SAFETY: `events` has room for EVENT_BURST events, `span` is null or valid for the call, no signal mask is given.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.descriptor.as_raw_fd(),
                    events.as_mut_ptr(),
                    EVENT_ROOM,
                    span,
                    std::ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            match usize::try_from(got) {
                Ok(got) => return Ok(got),
                Err(_) => match io::Error::last_os_error() {
                    error if error.raw_os_error() == Some(libc::ENOSYS) => self.has_pwait2 = false,
                    error => return Err(error),
                },
            }
        }
        let timeout_ms =
            timeout_ns.map_or(-1, |ns| i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX));
        self.wait_ms(events, timeout_ms)
    }
}

/// Raises the number of descriptors that this process may have to the most that it may allow itself. Answers that number.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable for the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is valid for the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

/// Lets this thread's sleeps end within a microsecond of their time instead of fifty. Only a hint.
pub fn sleep_precisely() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
}

/// The processors that the calling thread may run on, in order.
pub fn allowed_cpus() -> io::Result<Vec<u32>> {
    // SAFETY: a set of zeros is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable for the call, with its own size.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) })?;
    let most = libc::CPU_SETSIZE.cast_unsigned();
    // SAFETY: the numbers are below CPU_SETSIZE.
    Ok((0..most).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu as usize, &set) }).collect())
}

/// Keeps the calling thread on one processor, one of [`allowed_cpus`].
pub fn run_on(cpu: u32) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE.cast_unsigned() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: a set of zeros is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: `set` is valid for the call, with its own size.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) }).map(drop)
}

/// The number of a group by its name, if there is one.
pub fn group_id(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    let mut buffer = vec![0 as libc::c_char; 16 * 1024];
    // SAFETY: all zeros is a valid `group`.
    let mut group: libc::group = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call, and the buffer's length is its own.
    let result = unsafe {
        libc::getgrnam_r(name.as_ptr(), &raw mut group, buffer.as_mut_ptr(), buffer.len(), &raw mut found)
    };
    (result == 0 && !found.is_null()).then_some(group.gr_gid)
}

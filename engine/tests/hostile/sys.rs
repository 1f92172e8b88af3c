//! FENCE: what only an attacker asks of the system: holes in sealed memory, other rights, hundreds of descriptors.
#![expect(unsafe_code, reason = "fence: system calls that nobody else makes")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A shared mapping that the test makes past the library.
#[derive(Debug)]
pub struct Area {
    start: *mut libc::c_void,
    length: usize,
}

impl Area {
    pub fn map(region: BorrowedFd<'_>, length: usize, writable: bool) -> io::Result<Self> {
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let raw = region.as_raw_fd();
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, raw, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, length }) }
    }

    /// Asks for the right to write into it.
    pub fn make_writable(&self) -> io::Result<()> {
        // SAFETY: the range is our own mapping, to which nothing refers.
        check(unsafe { libc::mprotect(self.start, self.length, libc::PROT_READ | libc::PROT_WRITE) })
            .map(drop)
    }

    /// Asks the kernel to free the pages: a hole.
    pub fn remove_pages(&self) -> io::Result<()> {
        // SAFETY: the range is our own mapping, to which nothing refers.
        check(unsafe { libc::madvise(self.start, self.length, libc::MADV_REMOVE) }).map(drop)
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and nothing refers to it.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

pub fn punch_hole(region: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointers.
    check(unsafe { libc::fallocate(region.as_raw_fd(), mode, 0, length as i64) }).map(drop)
}

pub fn add_seals(region: BorrowedFd<'_>, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(region.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

pub fn change_mode(region: BorrowedFd<'_>, mode: libc::mode_t) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(region.as_raw_fd(), mode) }).map(drop)
}

pub fn set_blocking(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) }).map(drop)
}

pub fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Gives this one thread the rights of nobody: the system call changes the calling thread only. Says whether it did.
pub fn become_nobody() -> bool {
    const NOBODY: libc::c_long = 65_534;
    // SAFETY: no pointers; the thread ends soon after.
    unsafe {
        libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0
            && libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0
    }
}

/// Sends a record with as many descriptors as wanted (the system takes 253).
pub fn send_with_descriptors(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut control = [0_u64; 160];
    let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let size = size_of_val(descriptors) as libc::c_uint;
    // SAFETY: computes a size only.
    let space = unsafe { libc::CMSG_SPACE(size) } as usize;
    assert!(space <= size_of_val(&control), "at most 253 descriptors");
    // SAFETY: all zeros is a valid `msghdr`; the control buffer is aligned and has room (asserted); all pointers live for
    // the call.
    let sent = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut piece;
        header.msg_iovlen = 1;
        if !descriptors.is_empty() {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = space;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size) as usize;
            let data = libc::CMSG_DATA(first).cast::<libc::c_int>();
            for (index, descriptor) in descriptors.iter().enumerate() {
                data.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
        libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! The system calls that move a thread between network namespaces, and one that makes a kernel send large frames.
#![expect(unsafe_code, reason = "unshare, setns and setsockopt exist only as C calls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Gives the calling thread a network of its own, with nothing in it but a loopback that is down.
pub fn leave_for_new_network() -> io::Result<()> {
    // SAFETY: takes a number, touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Moves the calling thread to the network that the file of /proc stands for.
pub fn enter_network(network: &File) -> io::Result<()> {
    // SAFETY: takes a descriptor that lives through the call, touches no memory.
    check(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// From now on the UDP socket sends what it is given in datagrams of so many bytes (`UDP_SEGMENT`).
pub fn set_udp_segment(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(0);
    let value = (&raw const bytes).cast();
    // SAFETY: pointer and length name `bytes`, which the kernel only reads.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, length) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

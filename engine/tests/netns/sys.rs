//! The two system calls that move a thread between network namespaces.
#![expect(unsafe_code, reason = "unshare and setns exist only as C calls")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

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

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

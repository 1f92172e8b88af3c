//! Keeps a second sidecar off an address that one already serves.
//!
//! Sockets of several engines share one UDP port with `SO_REUSEPORT`, so the kernel would let a second sidecar of the same
//! user join the group without a word, and take half of the first one's datagrams. An abstract Unix socket, named by network
//! namespace, address and port, can be bound only once; the kernel frees it when its holder dies, however it dies.
//!
//! The name says nothing of the user, so sidecars of different users exclude each other, too. Any local program could hold
//! the name to keep a sidecar out, just as it could hold the UDP port.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use socket2::{Domain, SockAddr, Socket, Type};

use super::sys;

/// Strangers that may wait on the lock's socket. Nobody accepts them: they connect only to learn who holds the lock.
const LISTEN_BACKLOG: i32 = 16;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another sidecar has it.
    #[error("another machnet sidecar serves this address")]
    Held {
        /// The holder's process, where it can be seen.
        process: Option<u32>,
    },
    /// The system refused.
    #[error("cannot make the lock: {0}")]
    System(#[from] io::Error),
}

/// The right to serve one address and port in this network namespace, until it is dropped.
#[derive(Debug)]
pub struct AddressLock {
    address: SocketAddr,
    /// Only held, never read.
    _socket: Socket,
}

impl AddressLock {
    /// Takes the lock of `address`, whose port must be the real one, not 0.
    pub fn acquire(address: SocketAddr) -> Result<Self, LockError> {
        assert!(address.port() != 0, "port 0 stands for any port; a lock needs the one that was given");
        let name = lock_name(address)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        match socket.bind(&name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(LockError::Held { process: holder(&name).ok().flatten() });
            }
            Err(error) => return Err(error.into()),
        }
        // Listening lets the one that comes second ask the kernel for our process number.
        socket.listen(LISTEN_BACKLOG)?;
        Ok(Self { address, _socket: socket })
    }

    /// The address and port that this lock is for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Abstract names are already separate in each network namespace. The namespace's inode is in the name all the same, for
/// the reader of /proc/net/unix.
fn lock_name(address: SocketAddr) -> io::Result<SockAddr> {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").map_or(0, |data| data.ino());
    SockAddr::unix(format!("\0machnet/udp/{namespace}/{address}"))
}

fn holder(name: &SockAddr) -> io::Result<Option<u32>> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog must not make us wait.
    socket.set_nonblocking(true)?;
    socket.connect(name)?;
    sys::peer_process(socket.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_of_one_address_names_the_holder_and_succeeds_once_it_is_gone() {
        let address: SocketAddr = "127.0.0.1:4".parse().unwrap();
        let first = AddressLock::acquire(address).unwrap();
        match AddressLock::acquire(address) {
            Err(LockError::Held { process }) => assert_eq!(process, Some(std::process::id())),
            other => panic!("expected that the lock is held, got {other:?}"),
        }
        drop(first);
        AddressLock::acquire(address).unwrap();
    }

    #[test]
    fn locks_of_other_ports_and_addresses_are_independent() {
        let addresses = ["127.0.0.1:5", "127.0.0.2:5", "127.0.0.1:6", "[::1]:5"];
        let locks: Vec<_> =
            addresses.iter().map(|address| AddressLock::acquire(address.parse().unwrap()).unwrap()).collect();
        assert_eq!(locks.len(), addresses.len());
    }
}

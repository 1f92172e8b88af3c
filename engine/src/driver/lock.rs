//! Keeps a second sidecar off an address that one already serves.
//!
//! Sockets of several engines share one UDP port with `SO_REUSEPORT`, so the kernel would let a second sidecar of the same
//! user join the group without a word, and take half of the first one's datagrams. An abstract Unix socket, named by address
//! and port, can be bound only once in a network namespace; the kernel frees it when its holder dies, however it dies.
//!
//! The kernel keeps the names of each network namespace apart, so the namespace is not spelled out in the name: its number
//! would come from /proc, and a sidecar that does not see /proc would then make another name than one that does. Neither is
//! the user, so sidecars of different users exclude each other, too. Any local program could hold
//! the name to keep a sidecar out, just as it could hold the UDP port.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

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
        Self::acquire_patiently(address, 1, Duration::ZERO)
    }

    /// The same, trying so often and pausing in between: a sidecar that was killed may take a moment to be gone.
    pub fn acquire_patiently(address: SocketAddr, attempts: u32, pause: Duration) -> Result<Self, LockError> {
        assert!(address.port() != 0, "port 0 stands for any port; a lock needs the one that was given");
        let name = lock_name(address)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        for attempt in 1.. {
            match socket.bind(&name) {
                Ok(()) => break,
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error.into()),
                // Asked once, at the end: nobody takes the question off the holder's backlog.
                Err(_) if attempt >= attempts => {
                    return Err(LockError::Held { process: holder(&name).ok().flatten() });
                }
                Err(_) => std::thread::sleep(pause),
            }
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

/// A first byte of zero makes the name abstract (unix(7)); /proc/net/unix shows it with an `@` there.
fn lock_name(address: SocketAddr) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0machnet/udp/{address}"))
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
        // Another test may be starting a child, which has copies of our descriptors until it runs its program.
        let is_free = (0..1_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            AddressLock::acquire(address).is_ok()
        });
        assert!(is_free);
    }

    #[test]
    fn locks_of_other_ports_and_addresses_are_independent() {
        let addresses = ["127.0.0.1:5", "127.0.0.2:5", "127.0.0.1:6", "[::1]:5"];
        let locks: Vec<_> =
            addresses.iter().map(|address| AddressLock::acquire(address.parse().unwrap()).unwrap()).collect();
        assert_eq!(locks.len(), addresses.len());
    }
}

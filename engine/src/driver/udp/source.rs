//! Sockets that only send: each is one more port that datagrams can come from, and so another place in the hash of whoever
//! receives them (paper, section 4.2). They are opened when the first datagram is to leave from their port: a sidecar that
//! talks only to sidecars of one engine never has one.
//!
//! Each belongs to one engine and to nobody else (no SO_REUSEPORT): another program, or another sidecar whose range overlaps,
//! cannot share it by accident. A port that someone else has is done without: its datagrams leave from the port that all
//! engines receive at, and are counted.
//!
//! Nobody should send to these ports. What comes all the same is dropped by a filter before it takes any memory, and the kernel
//! counts it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::super::sys;
use super::open;
use crate::proto::PortRange;

/// The one instruction of a filter that takes nothing: return 0 (BPF_RET | BPF_K in linux/bpf_common.h).
const TAKE_NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);

#[derive(Debug)]
enum Source {
    Unopened,
    Open(Socket),
    /// Someone else has the port, or the system gives no more sockets.
    Unavailable,
}

/// The ports that one engine sends from.
#[derive(Debug)]
pub(super) struct Sources {
    ip: IpAddr,
    /// Where we receive, and can always send from.
    receive_port: u16,
    range: PortRange,
    send_buffer_bytes: usize,
    sources: Vec<Source>,
    /// Datagrams that had to leave from the receive port.
    pub(super) unavailable: u64,
}

impl Sources {
    pub(super) fn new(bound: SocketAddr, range: PortRange, send_buffer_bytes: usize) -> Self {
        let sources = range.ports().map(|_| Source::Unopened).collect();
        let (ip, receive_port) = (bound.ip(), bound.port());
        Self { ip, receive_port, range, send_buffer_bytes, sources, unavailable: 0 }
    }

    pub(super) fn range(&self) -> PortRange {
        self.range
    }

    /// The port that a datagram really leaves from when it is to leave from `port`.
    #[inline]
    pub(super) fn resolve(&mut self, port: u16) -> u16 {
        if port == self.receive_port { port } else { self.resolve_other(port) }
    }

    fn resolve_other(&mut self, port: u16) -> u16 {
        let index = usize::from(port.wrapping_sub(self.range.first()));
        if let Some(source @ Source::Unopened) = self.sources.get_mut(index) {
            *source = match open_source(SocketAddr::new(self.ip, port), self.send_buffer_bytes) {
                Ok(socket) => Source::Open(socket),
                Err(error) => {
                    tracing::debug!("UDP port {port} cannot be sent from: {error}");
                    Source::Unavailable
                }
            };
        }
        match self.sources.get(index) {
            Some(Source::Open(_)) => port,
            _ => {
                self.unavailable += 1;
                self.receive_port
            }
        }
    }

    /// The socket of a port that [`Self::resolve`] gave, if it is not the receive port.
    #[inline]
    pub(super) fn socket(&self, port: u16) -> Option<&Socket> {
        if port == self.receive_port {
            return None;
        }
        match self.sources.get(usize::from(port.wrapping_sub(self.range.first()))) {
            Some(Source::Open(socket)) => Some(socket),
            _ => None,
        }
    }

    /// How many are open.
    pub(super) fn opened(&self) -> usize {
        self.open_sockets().count()
    }

    /// Datagrams that came to these ports by mistake. A system call for each.
    pub(super) fn dropped(&self) -> u64 {
        self.open_sockets().map(|socket| u64::from(sys::receive_drops(socket).unwrap_or(0))).sum()
    }

    fn open_sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sources.iter().filter_map(|source| match source {
            Source::Open(socket) => Some(socket.as_fd()),
            Source::Unopened | Source::Unavailable => None,
        })
    }
}

fn open_source(address: SocketAddr, send_buffer_bytes: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Before the socket has a port, so that nothing comes in between.
    socket.attach_filter(&[TAKE_NOTHING])?;
    socket.bind(&address.into())?;
    open::forbid_fragments(socket.as_fd(), address)?;
    open::widen(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send_buffer_bytes)?;
    Ok(socket)
}

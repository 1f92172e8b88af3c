//! The kernel's TCP and UDP as peers to compare with, used as well as a careful program would: one system call a message
//! where that suffices, TCP_NODELAY, buffered reads, and blocking or spinning as asked.

use super::content::Content;
use super::link::{Answer, Link};
use crate::cli::{Exit, Failure, Outcome, clock, sys};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

/// A TCP message is its length in four bytes, little endian, and then its bytes.
pub(super) const LENGTH_BYTES: usize = 4;
/// Bytes read at a time where messages are small.
pub(super) const READ_BYTES: usize = 256 * 1024;
/// Receive timeouts of sockets are rounded up to the kernel's ticks (4 ms and more); shorter ones need another way.
const SHORT: Duration = Duration::from_millis(50);
/// How long a connect may take, as Machnet has it by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of the socket buffers of a UDP socket that are asked for; the kernel may give fewer.
pub(super) const UDP_BUFFER_BYTES: usize = 4 << 20;

/// One TCP connection.
#[derive(Debug)]
pub(crate) struct TcpLink {
    stream: TcpStream,
    content: Content,
    spins: bool,
    /// The message being sent, and how many bytes of it, length included, are sent.
    sending: Option<(u64, usize)>,
    /// A message that `receive` finished; `try_send` has not said so yet.
    finished: Option<u64>,
    buffer: Vec<u8>,
    /// The part of `buffer` that was read and not used.
    filled: std::ops::Range<usize>,
    /// What the socket's receive timeout is now.
    timeout: Option<Duration>,
}

impl TcpLink {
    pub(crate) fn connect(peer: SocketAddr, size: usize, spins: bool) -> Outcome<Self> {
        let stream = TcpStream::connect_timeout(&peer, CONNECT_TIMEOUT).map_err(|error| {
            Failure::new(
                Exit::Peer,
                format!(
                    "cannot connect to {peer} over TCP: {error}; does the server run there, with --over tcp?"
                ),
            )
        })?;
        stream.set_nodelay(true).map_err(failed)?;
        let buffer = vec![0; READ_BYTES.max(LENGTH_BYTES + size)];
        let content = Content::new(size);
        Ok(Self {
            stream,
            content,
            spins,
            sending: None,
            finished: None,
            buffer,
            filled: 0..0,
            timeout: None,
        })
    }

    /// Goes on with the message being sent. `true`: it is out.
    fn go_on_sending(&mut self) -> Outcome<bool> {
        let Some((number, mut sent)) = self.sending else { return Ok(true) };
        let message = self.content.bytes();
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes();
        let total = LENGTH_BYTES + message.len();
        while sent < total {
            let head = &length[sent.min(LENGTH_BYTES)..];
            let body = &message[sent.saturating_sub(LENGTH_BYTES)..];
            match sys::send_two(self.stream.as_fd(), head, body) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        self.sending = (sent < total).then_some((number, sent));
        Ok(sent == total)
    }

    /// The answer at the front of the buffer, if it is there whole.
    fn take(&mut self) -> Option<Answer> {
        let size = self.content.bytes().len();
        let end = self.filled.start + LENGTH_BYTES + size;
        if end > self.filled.end {
            return None;
        }
        let (head, body) = self.buffer[self.filled.start..end].split_at(LENGTH_BYTES);
        let is_right = head == u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
        let answer = if is_right { self.content.check(body) } else { None };
        self.filled.start = end;
        Some(answer)
    }

    /// Reads once into the free part of the buffer.
    fn read(&mut self, block: bool) -> io::Result<()> {
        if self.filled.is_empty() {
            self.filled = 0..0;
        } else if self.filled.start + LENGTH_BYTES + self.content.bytes().len() > self.buffer.len() {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        match sys::receive(self.stream.as_fd(), &mut self.buffer[self.filled.end..], block)? {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            count => {
                self.filled.end += count;
                Ok(())
            }
        }
    }

    /// Sleeps until something can be read, and reads it, or while a message is being sent until either way is open.
    fn wait_in_kernel(&mut self, patience: Duration) -> io::Result<()> {
        if self.sending.is_some() {
            return sys::wait(self.stream.as_fd(), true, patience);
        }
        if patience < SHORT {
            sys::wait(self.stream.as_fd(), false, patience)?;
            return self.read(false);
        }
        // A blocking receive is one system call; poll and receive would be two.
        if self.timeout != Some(patience) {
            self.stream.set_read_timeout(Some(patience))?;
            self.timeout = Some(patience);
        }
        self.read(true)
    }
}

impl Link for TcpLink {
    fn try_send(&mut self, number: u64) -> Outcome<bool> {
        if self.finished.take() == Some(number) {
            return Ok(true);
        }
        if self.sending.is_none() {
            self.content.stamp(number);
            self.sending = Some((number, 0));
        }
        self.go_on_sending()
    }

    fn receive(&mut self, patience: Duration) -> Outcome<Option<Answer>> {
        let end = clock::now() + patience;
        loop {
            if let Some(answer) = self.take() {
                return Ok(Some(answer));
            }
            if let Some((number, _)) = self.sending
                && self.go_on_sending()?
            {
                // The caller must know that it is out before the answer comes.
                self.finished = Some(number);
                return Ok(None);
            }
            let left = end.saturating_duration_since(clock::now());
            let result = if self.spins || left.is_zero() || self.sending.is_some() {
                self.read(false)
            } else {
                self.wait_in_kernel(if patience < SHORT { left } else { patience })
            };
            match result {
                Ok(()) => continue,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
            if left.is_zero() {
                return Ok(None);
            }
            if self.sending.is_some() && !self.spins {
                self.wait_in_kernel(left).map_err(failed)?;
            }
        }
    }

    fn receive_more(&mut self) -> Outcome<Option<Answer>> {
        Ok(self.take())
    }

    fn visible(&self, number: u64) -> u64 {
        self.content.visible(number)
    }
}

/// One UDP socket, connected to the server's.
#[derive(Debug)]
pub(crate) struct UdpLink {
    socket: UdpSocket,
    content: Content,
    spins: bool,
    buffer: Vec<u8>,
    timeout: Option<Duration>,
}

impl UdpLink {
    pub(crate) fn connect(peer: SocketAddr, size: usize, spins: bool) -> Outcome<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
        socket.connect(peer).map_err(failed)?;
        enlarge_buffers(&socket);
        Ok(Self { socket, content: Content::new(size), spins, buffer: vec![0; 1 << 16], timeout: None })
    }

    fn receive_once(&mut self, block: bool) -> Outcome<Option<Answer>> {
        match sys::receive(self.socket.as_fd(), &mut self.buffer, block) {
            Ok(length) => Ok(Some(self.content.check(&self.buffer[..length]))),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(udp_failed(error)),
        }
    }
}

/// Room for bursts, as far as the kernel allows.
pub(super) fn enlarge_buffers(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
}

impl Link for UdpLink {
    fn try_send(&mut self, number: u64) -> Outcome<bool> {
        let message = self.content.stamp(number);
        match sys::send_two(self.socket.as_fd(), message, &[]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(udp_failed(error)),
        }
    }

    fn receive(&mut self, patience: Duration) -> Outcome<Option<Answer>> {
        if self.spins || patience.is_zero() {
            let end = clock::now() + patience;
            loop {
                let answer = self.receive_once(false)?;
                if answer.is_some() || clock::now() >= end {
                    return Ok(answer);
                }
            }
        }
        if patience < SHORT {
            sys::wait(self.socket.as_fd(), false, patience).map_err(failed)?;
            return self.receive_once(false);
        }
        if self.timeout != Some(patience) {
            self.socket.set_read_timeout(Some(patience)).map_err(failed)?;
            self.timeout = Some(patience);
        }
        self.receive_once(true)
    }

    fn receive_more(&mut self) -> Outcome<Option<Answer>> {
        Ok(None)
    }

    fn visible(&self, number: u64) -> u64 {
        self.content.visible(number)
    }

    fn loses(&self) -> bool {
        true
    }
}

fn udp_failed(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            Failure::new(Exit::Peer, "nobody listens there: does the server run, with --over udp?")
        }
        _ => failed(error),
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::new(Exit::Peer, error.to_string())
}

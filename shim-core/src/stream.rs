//! A byte stream over a flow: the one framing that every language shares, defined in docs/protocol.md.
//!
//! Each message begins with a byte that says what it is: the next bytes of the stream, or the end of one direction.

use crate::attachment::{Flow, Wait};
use crate::error::{Error, Result, would_block};
use crate::message::Message;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// First byte of a message with the next bytes of the stream.
const DATA: u8 = 0;
/// The only byte of a message that ends the sender's direction.
const HALF_CLOSE: u8 = 1;
/// Most bytes of a message, the first one included, if the peer takes so many.
const LARGEST_MESSAGE: usize = 64 * 1024;

/// A byte stream, both ways, over a flow whose other end is a stream too. Message boundaries mean nothing.
///
/// It is used as [`std::net::TcpStream`] is: any thread may read and any thread write, through a shared reference. What is
/// written goes at once. `shutdown(Shutdown::Write)` is the half-close: the peer reads what was written and then the end of the
/// stream, and this side reads on. Dropped, the stream closes in order; a peer that still writes gets a broken pipe. A flow that
/// was reset is an error to readers and writers, never an end of the stream.
#[derive(Debug)]
pub struct Stream {
    flow: Flow,
    reader: Mutex<Reader>,
    writer: Mutex<Writer>,
    timeouts: Mutex<Timeouts>,
}

#[derive(Debug, Default)]
struct Reader {
    /// The message that is being read, and how much of it was.
    message: Option<(Message, usize)>,
    end: Option<ReadEnd>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ReadEnd {
    /// The peer writes no more.
    Peer,
    /// This side reads no more.
    Ours,
    /// The peer does not speak the framing.
    NotAStream,
}

#[derive(Debug, Default)]
struct Writer {
    /// The half-close was sent.
    has_ended: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Timeouts {
    read: Option<Duration>,
    write: Option<Duration>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// A stream over a flow of which nothing was received yet. Both ends have to agree on it, as they agree on a port.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the flow takes only messages of one byte.
    pub fn new(flow: Flow) -> Result<Self> {
        if flow.max_message() < 2 {
            return Err(Error::invalid("a stream needs messages of two bytes"));
        }
        Ok(Self { flow, reader: Mutex::default(), writer: Mutex::default(), timeouts: Mutex::default() })
    }

    /// The flow under it: for addresses, statistics and [`Flow::reset`], not to send or receive.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// The peer's end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.flow.peer_addr()
    }

    /// Our end.
    pub fn local_addr(&self) -> SocketAddr {
        self.flow.local_addr()
    }

    /// Reads through [`Read`] end with `TimedOut` after this time; `None`: never.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        lock(&self.timeouts).read = timeout;
    }

    /// Writes through [`Write`], and half-closes, end with `TimedOut` after this time; `None`: never.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        lock(&self.timeouts).write = timeout;
    }

    /// Copies what is there into `buffer`; says how many bytes: 0 at the end of the stream, or for an empty buffer. Nothing: none
    /// are there now.
    ///
    /// # Errors
    /// [`Error::Reset`], [`Error::NotAStream`], [`Error::Closed`] if this side closed the channel, [`Error::EngineLost`],
    /// [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn try_read(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        let reader = &mut *lock(&self.reader);
        loop {
            if let Some(count) = reader.take(buffer) {
                return Ok(Some(count));
            }
            match reader.end {
                Some(ReadEnd::NotAStream) => return Err(Error::NotAStream),
                Some(_) => return Ok(Some(0)),
                None => {}
            }
            match self.flow.try_recv() {
                Ok(Some(message)) => self.accept(reader, message)?,
                Ok(None) => return Ok(None),
                Err(Error::Closed) if self.flow.is_closed_by_peer() => reader.end = Some(ReadEnd::Peer),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a message for what its first byte says.
    fn accept(&self, reader: &mut Reader, message: Message) -> Result<()> {
        match (message.first(), message.len()) {
            (Some(&DATA), 2..) => {
                reader.message = Some((message, 1));
                Ok(())
            }
            (Some(&HALF_CLOSE), 1) => {
                reader.end = Some(ReadEnd::Peer);
                // Other readers may wait for a message, and none comes any more.
                self.flow.end_waits_to_recv()?;
                // Both directions are over: nothing that the close could make void is under way.
                if lock(&self.writer).has_ended { self.flow.shutdown() } else { Ok(()) }
            }
            _ => {
                reader.end = Some(ReadEnd::NotAStream);
                self.flow.reset()?;
                Err(Error::NotAStream)
            }
        }
    }

    /// As [`Self::try_read`], and waits for the first byte as long as `wait` says.
    ///
    /// # Errors
    /// As for [`Self::try_read`], [`Error::TimedOut`] and [`Error::Cancelled`]: then nothing was read.
    pub fn read_with<'a>(&self, buffer: &mut [u8], wait: impl Into<Wait<'a>>) -> Result<usize> {
        let wait = wait.into();
        // Another reader may take what this one was woken for.
        loop {
            if let Some(count) = self.try_read(buffer)? {
                return Ok(count);
            }
            self.flow.wait_to_recv(wait)?;
        }
    }

    /// Sends as many of these bytes as one message takes; says how many: at least one, unless there are none. Nothing: there is
    /// no credit or room now.
    ///
    /// # Errors
    /// [`Error::Closed`] if the peer closed or this side half-closed, [`Error::Reset`], [`Error::EngineLost`],
    /// [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn try_write(&self, bytes: &[u8]) -> Result<Option<usize>> {
        let count = bytes.len().min(self.largest_chunk());
        let writer = lock(&self.writer);
        if writer.has_ended {
            return Err(Error::Closed);
        }
        if count == 0 {
            return Ok(Some(0));
        }
        let sent = would_block(self.flow.try_send_parts(&[&[DATA], &bytes[..count]]))?;
        Ok(sent.map(|()| count))
    }

    /// Length of the message that the next write of `len` bytes makes: what to wait for room for, after [`Self::try_write`] found none.
    pub fn message_len(&self, len: usize) -> usize {
        1 + len.min(self.largest_chunk())
    }

    fn largest_chunk(&self) -> usize {
        self.flow.max_message().min(LARGEST_MESSAGE) - 1
    }

    /// As [`Self::try_write`], and waits for credit and room as long as `wait` says.
    ///
    /// # Errors
    /// As for [`Self::try_write`], [`Error::TimedOut`] and [`Error::Cancelled`]: then nothing was written.
    pub fn write_with<'a>(&self, bytes: &[u8], wait: impl Into<Wait<'a>>) -> Result<usize> {
        let wait = wait.into();
        let message = self.message_len(bytes.len());
        loop {
            if let Some(count) = self.try_write(bytes)? {
                return Ok(count);
            }
            self.flow.wait_to_send(message, wait)?;
        }
    }

    /// Half-closes without waiting: the peer reads what was written, then the end of the stream. Says false if there is no
    /// credit for it now. Doing it again does nothing.
    ///
    /// # Errors
    /// [`Error::Reset`], [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn try_end(&self) -> Result<bool> {
        let reader = lock(&self.reader);
        let mut writer = lock(&self.writer);
        if writer.has_ended {
            return Ok(true);
        }
        match would_block(self.flow.try_send(&[HALF_CLOSE])) {
            Ok(None) => return Ok(false),
            // A peer that is gone in order needs no telling.
            Ok(Some(())) | Err(Error::Closed) => writer.has_ended = true,
            Err(error) => return Err(error),
        }
        if reader.end == Some(ReadEnd::Peer) {
            self.flow.shutdown()?;
        }
        Ok(true)
    }

    /// As [`Self::try_end`], and waits for credit as long as `wait` says.
    ///
    /// # Errors
    /// As for [`Self::try_end`], [`Error::TimedOut`] and [`Error::Cancelled`].
    pub fn end_with<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<()> {
        let wait = wait.into();
        while !self.try_end()? {
            self.flow.wait_to_send(1, wait)?;
        }
        Ok(())
    }

    /// Ends one direction or both. To end reading tells the peer nothing: what it writes is no longer looked at.
    ///
    /// # Errors
    /// As for [`Self::end_with`], with the write timeout.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            let reader = &mut *lock(&self.reader);
            reader.message = None;
            reader.end.get_or_insert(ReadEnd::Ours);
            self.flow.end_waits_to_recv()?;
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            let timeout = lock(&self.timeouts).write;
            self.end_with(timeout)?;
        }
        Ok(())
    }
}

impl Reader {
    /// Copies bytes of the message that is being read. A message that was read to its end goes back to the engine.
    fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let (message, at) = self.message.as_mut()?;
        let left = &message[*at..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        *at += count;
        if *at == message.len() {
            self.message = None;
        }
        Some(count)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The flow's own close says the same to a peer that still reads, if there is no credit for this.
        let _ = self.try_end();
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = lock(&self.timeouts).read;
        Ok(self.read_with(buffer, timeout)?)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let timeout = lock(&self.timeouts).write;
        Ok(self.write_with(bytes, timeout)?)
    }

    /// Nothing is held back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

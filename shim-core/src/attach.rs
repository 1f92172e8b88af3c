//! The attach handshake, and the control socket after it.

use crate::channel::{Channel, ChannelInfo, Core, Doorbell};
use crate::control::{FLOW_STATS_VERSION, FailureCode, OLDEST_VERSION, Reply, Request, VERSION};
use crate::error::{Error, Result};
use crate::options::{AttachOptions, socket_candidates};
use crate::shm::Geometry;
use crate::shm::atomic::Ordering;
use crate::shm::layout::{self, MAGIC};
use crate::shm::region::fork::Generation;
use crate::shm::region::{Mapping, Read, Write};
use crate::shm::ring::{Memory, WritableMemory};
use crate::socket::{Record, Seqpacket};
use crate::stats::FlowStats;
use crate::wait::Idle;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The sidecar answers each record of the control socket within this time, or the call fails.
const REPLY_TIMEOUT_MS: u32 = 5000;
/// The version lies behind the magic in a region's header.
const VERSION_OFFSET: usize = 8;
/// Most stale replies that are skipped while waiting for one: those of calls that timed out.
const MOST_STALE_REPLIES: u32 = 1024;

/// The application's end of the control socket. Dropped, it tells the sidecar to close the channel in order.
#[derive(Debug)]
pub(crate) struct Control {
    socket: Arc<Seqpacket>,
    generation: Generation,
    /// Version of the records that both sides speak.
    version: u32,
    next_request: u32,
    detached: bool,
}

/// Attaches to the first socket that answers.
pub(crate) fn attach(options: AttachOptions) -> Result<Channel> {
    let (socket, path) = connect(&options)?;
    socket.set_receive_timeout(REPLY_TIMEOUT_MS)?;
    let mut control = Control {
        socket: Arc::new(socket),
        generation: Generation::current(),
        version: VERSION,
        next_request: 1,
        detached: true,
    };
    let hello = Request::Hello {
        versions: (OLDEST_VERSION, VERSION),
        geometry: options.geometry,
        doorbell: options.doorbell,
        engine: options.engine,
        name: options.program_name(),
    };
    control.send(&hello).map_err(|error| during_attach(error, &path))?;
    let record = control.receive().map_err(|error| during_attach(error, &path))?;
    let reply = decode(&record.bytes)?;
    let Reply::Welcome { version, channel, engine, pid, local, geometry } = reply else {
        return Err(refusal(reply, &options));
    };
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(Error::Version { ours: VERSION, text: format!("it chose version {version}") });
    }
    if let Some(fault) = geometry.fault() {
        return Err(Error::AttachRefused { text: format!("it offered impossible sizes: {fault}") });
    }
    control.version = version;
    let (ours, theirs, bell) = map(record.descriptors, &geometry, &options)?;
    control.send(&Request::Mapped)?;
    match decode(&control.receive()?.bytes)? {
        Reply::Attached => {}
        reply => return Err(refusal(reply, &options)),
    }
    if theirs.words::<1>(0).load(0) != MAGIC {
        return Err(Error::AttachRefused { text: "its memory region has no header".into() });
    }
    control.detached = false;
    let info = ChannelInfo { channel, engine, sidecar_pid: pid, local, geometry };
    let core = Core::new(ours, theirs, geometry, bell, local.port());
    Ok(Channel::new(core, control, info, Idle::new(options.wait_policy), options.linger))
}

fn connect(options: &AttachOptions) -> Result<(Seqpacket, PathBuf)> {
    let candidates = options.socket.clone().map_or_else(socket_candidates, |path| vec![path]);
    let mut first_error = None;
    for path in candidates {
        match Seqpacket::connect(&path) {
            Ok(socket) => return Ok((socket, path)),
            Err(error) => {
                let error = connect_error(error, path);
                // A right that is missing tells more than a socket that is.
                if first_error.is_none() || matches!(error, Error::SocketPermission { .. }) {
                    first_error = Some(error);
                }
            }
        }
    }
    Err(first_error.unwrap_or_else(|| Error::invalid("there is no socket to try")))
}

fn connect_error(error: io::Error, socket: PathBuf) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
            Error::NoSidecar { socket }
        }
        io::ErrorKind::PermissionDenied => Error::SocketPermission { socket },
        io::ErrorKind::InvalidInput => Error::invalid(format!("{}: {error}", socket.display())),
        _ => Error::Io(error),
    }
}

/// A sidecar that ends during the handshake is none.
fn during_attach(error: Error, socket: &Path) -> Error {
    match error {
        Error::EngineLost => Error::NoSidecar { socket: socket.to_owned() },
        error => error,
    }
}

fn refusal(reply: Reply, options: &AttachOptions) -> Error {
    match reply {
        Reply::Failed { code: FailureCode::Version, text, .. } => Error::Version { ours: VERSION, text },
        Reply::Failed { code: FailureCode::NoEngine, text, .. } => {
            Error::NoEngine { engine: options.engine, text }
        }
        Reply::Failed { text, .. } => Error::AttachRefused { text },
        _ => Error::AttachRefused { text: "it gave an answer that makes no sense now".into() },
    }
}

/// Maps both regions and writes the header of ours.
fn map(
    descriptors: Vec<OwnedFd>,
    geometry: &Geometry,
    options: &AttachOptions,
) -> Result<(Mapping<Write>, Mapping<Read>, Doorbell)> {
    let count = descriptors.len();
    let wrong = || Error::AttachRefused { text: format!("it sent {count} descriptors, which is wrong") };
    let mut descriptors = descriptors.into_iter();
    let (Some(ours), Some(theirs)) = (descriptors.next(), descriptors.next()) else { return Err(wrong()) };
    let bell = Doorbell::new(options.doorbell, descriptors.collect()).ok_or_else(wrong)?;
    let ours = Mapping::writable(&ours, geometry.application_bytes())?;
    let theirs = Mapping::read_only(&theirs, geometry.engine_bytes())?;
    // The rings are used at once; the buffers' pages come as they are needed.
    ours.prefault(0, geometry.tx_offset(), true);
    theirs.prefault(0, geometry.rx_offset(), false);
    ours.words_mut::<1>(VERSION_OFFSET)[0].store(u64::from(layout::VERSION), Ordering::Relaxed);
    ours.words_mut::<1>(0)[0].store(MAGIC, Ordering::Release);
    Ok((ours, theirs, bell))
}

fn decode(record: &[u8]) -> Result<Reply> {
    Reply::decode(record).map_err(|_| Error::AttachRefused { text: "it sent a malformed answer".into() })
}

impl Control {
    fn send(&self, request: &Request) -> Result<()> {
        self.socket.send(&request.encode(), &[]).map_err(socket_error)
    }

    fn receive(&self) -> Result<Record> {
        loop {
            match self.socket.receive() {
                Ok(record) if record.bytes.is_empty() => return Err(Error::EngineLost),
                Ok(record) => return Ok(record),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(socket_error(error)),
            }
        }
    }

    /// Listens; says the listener's number and where it listens.
    pub(crate) fn listen(&mut self, local: SocketAddr, backlog: u32) -> Result<(u32, SocketAddr)> {
        let request = self.number_request()?;
        match self.ask(request, &Request::Listen { request, local, backlog })? {
            Reply::Listening { listener, local, .. } => Ok((listener, local)),
            Reply::Failed { code, text, .. } => Err(listen_error(code, text, local)),
            _ => Err(senseless_answer()),
        }
    }

    /// What the sidecar knows of a flow.
    pub(crate) fn flow_stats(&mut self, flow: u32) -> Result<FlowStats> {
        let request = self.number_request()?;
        if self.version < FLOW_STATS_VERSION {
            let text = format!("version {} of the channel, which has no statistics of flows", self.version);
            return Err(Error::Version { ours: VERSION, text });
        }
        match self.ask(request, &Request::FlowStats { request, flow })? {
            Reply::FlowStats { stats, .. } => Ok(*stats),
            Reply::Failed { code: FailureCode::NoFlow, .. } => Err(Error::UnknownFlow),
            Reply::Failed { text, .. } => Err(Error::Io(io::Error::other(text))),
            _ => Err(senseless_answer()),
        }
    }

    fn number_request(&mut self) -> Result<u32> {
        if self.detached {
            return Err(Error::Closed);
        }
        let request = self.next_request;
        // 0 stands for the attach.
        self.next_request = self.next_request.wrapping_add(1).max(1);
        Ok(request)
    }

    /// Sends a request and waits for the answer to it, past those of calls that timed out.
    fn ask(&self, request: u32, record: &Request) -> Result<Reply> {
        self.send(record)?;
        for _ in 0..MOST_STALE_REPLIES {
            let reply = decode(&self.receive()?.bytes)?;
            match reply {
                Reply::Listening { request: of, .. }
                | Reply::FlowStats { request: of, .. }
                | Reply::Failed { request: of, .. }
                    if of == request =>
                {
                    return Ok(reply);
                }
                Reply::Listening { listener, .. } => self.unlisten(listener),
                _ => {}
            }
        }
        Err(Error::TimedOut)
    }

    /// Stops listening.
    pub(crate) fn unlisten(&self, listener: u32) {
        self.unlistener().unlisten(listener);
    }

    /// What stops listeners while another thread waits for a reply: that needs no answer.
    pub(crate) fn unlistener(&self) -> Unlistener {
        Unlistener(Arc::clone(&self.socket))
    }

    /// Tells the sidecar to close everything in order, and waits for the end of the connection.
    pub(crate) fn detach(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.detached, true) {
            return Ok(());
        }
        self.send(&Request::Detach)?;
        for _ in 0..MOST_STALE_REPLIES {
            match self.receive() {
                Ok(_) => {}
                Err(Error::EngineLost) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(Error::TimedOut)
    }
}

/// Stops listeners without waiting.
#[derive(Debug)]
pub(crate) struct Unlistener(Arc<Seqpacket>);

impl Unlistener {
    /// Tells the sidecar. There is no answer.
    pub(crate) fn unlisten(&self, listener: u32) {
        let request = Request::Unlisten { listener };
        let _ = self.0.send(&request.encode(), &[]); // A sidecar that is gone does not listen.
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if !self.detached && self.generation.is_current() && self.socket.set_nonblocking(true).is_ok() {
            let _ = self.send(&Request::Detach); // If it cannot go, the end of the connection says the same.
        }
    }
}

fn senseless_answer() -> Error {
    Error::Io(io::Error::other("the sidecar gave an answer that makes no sense now"))
}

fn socket_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::TimedOut,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
            Error::EngineLost
        }
        _ => Error::Io(error),
    }
}

fn listen_error(code: FailureCode, text: String, local: SocketAddr) -> Error {
    match code {
        FailureCode::AddressNotLocal => Error::AddressNotLocal { address: local },
        FailureCode::AddressInUse => Error::AddressInUse { address: local },
        _ => Error::ListenRefused { text },
    }
}

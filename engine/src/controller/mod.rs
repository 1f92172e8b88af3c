//! The control socket's server: attach, listen, detach, status, and the end of applications.
//!
//! One thread that sleeps until something happens. It hands finished channels to the engines, and knows by socket and
//! process when an application is gone.

mod attach;
mod connection;
mod ports;
mod requests;
mod socket_file;

pub use socket_file::{SocketFile, SocketFileError};

use crate::clock::Clock;
use crate::mailbox::{Command, Notice, Receiver, Sender};
use crate::proto::time::{Duration, Instant};
use crate::status::{EngineStatus, Status};
use crate::sys::{Epoll, Ready, Watch};
use connection::{Connection, State};
use machnet_client::control::{FailureCode, Reply};
use machnet_client::shm::ring::PeerFault;
use machnet_client::socket::SeqpacketListener;
use ports::Ports;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// Connections that may be in a handshake at a time; with one more, the oldest is dropped.
const MAX_PENDING: usize = 64;
/// A handshake takes a millisecond; one that takes so long is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that only asks for the status may be quiet for so long.
const STATUS_IDLE: Duration = Duration::from_secs(60);
/// Engines that do not answer a status request within this time are left out.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// After the system had no descriptor for a new connection, so long none is taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections taken, and records read from one connection, before others have their turn.
const BURST: usize = 32;

const LISTENER_TOKEN: u64 = u64::MAX;
const NOTICE_TOKEN: u64 = u64::MAX - 1;

/// What the controller is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sidecar's IP address and UDP port.
    pub own: SocketAddr,
    /// Most channels at a time.
    pub max_channels: usize,
    /// What is the same in every status.
    pub status: Status,
}

/// What the controller counts.
#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    connections: u64,
    attaches: u64,
    attaches_refused: u64,
    handshake_timeouts: u64,
    pending_dropped: u64,
    malformed_records: u64,
    listens: u64,
    listens_refused: u64,
    accept_errors: u64,
}

impl Counts {
    fn to_map(self) -> BTreeMap<String, u64> {
        [
            ("connections", self.connections),
            ("attaches", self.attaches),
            ("attaches_refused", self.attaches_refused),
            ("handshake_timeouts", self.handshake_timeouts),
            ("pending_dropped", self.pending_dropped),
            ("malformed_records", self.malformed_records),
            ("listens", self.listens),
            ("listens_refused", self.listens_refused),
            ("accept_errors", self.accept_errors),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// A channel that an engine has.
#[derive(Debug)]
struct Channel {
    engine: usize,
    /// Its connection, until that hung up.
    connection: Option<usize>,
    pid: u32,
    name: String,
    /// Listens that not all engines have confirmed yet.
    listening: Vec<Listening>,
    /// Questions about flows that the engine has not answered yet.
    stats_asked: usize,
}

/// A listen that engines were told of.
#[derive(Debug)]
struct Listening {
    listener: u32,
    /// The application's number for it.
    request: u32,
    local: SocketAddr,
    /// Engines that have not confirmed it.
    missing: usize,
}

/// A status that engines are asked for.
#[derive(Debug)]
struct Gathering {
    connection: usize,
    generation: u32,
    deadline: Instant,
    missing: usize,
    engines: Vec<EngineStatus>,
}

/// The server.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    clock: Clock,
    listener: SeqpacketListener,
    epoll: Epoll,
    engines: Vec<Sender<Command>>,
    notices: Receiver<Notice>,
    connections: Vec<Option<Connection>>,
    generation: u32,
    channels: HashMap<u64, Channel>,
    next_channel: u64,
    next_listener: u32,
    next_engine: usize,
    ports: Ports,
    gatherings: BTreeMap<u64, Gathering>,
    next_token: u64,
    accepts_again: Option<Instant>,
    shutting_down: bool,
    stopped: bool,
    counts: Counts,
}

fn token(place: usize, generation: u32, is_process: bool) -> u64 {
    u64::from(generation) << 32 | (place as u64) << 1 | u64::from(is_process)
}

impl Controller {
    /// A server for a listening socket. It answers once [`Self::run`] is called.
    pub fn new(
        settings: Settings,
        listener: SeqpacketListener,
        engines: Vec<Sender<Command>>,
        notices: Receiver<Notice>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new()?;
        epoll.add(listener.as_fd(), LISTENER_TOKEN, Watch::Readable)?;
        epoll.add(notices.wake_fd(), NOTICE_TOKEN, Watch::Readable)?;
        Ok(Self {
            settings,
            clock: Clock::start(),
            listener,
            epoll,
            engines,
            notices,
            connections: Vec::new(),
            generation: 0,
            channels: HashMap::new(),
            next_channel: 1,
            next_listener: 1,
            next_engine: 0,
            ports: Ports::new(),
            gatherings: BTreeMap::new(),
            next_token: 1,
            accepts_again: None,
            shutting_down: false,
            stopped: false,
            counts: Counts::default(),
        })
    }

    /// Serves until told to stop.
    pub fn run(&mut self) {
        let mut ready = Vec::new();
        while !self.stopped {
            let timeout_ns = self.next_deadline().map(|due| due.since(self.clock.now()).as_nanos());
            ready.clear();
            if let Err(error) = self.epoll.wait(timeout_ns, |event| ready.push(event)) {
                tracing::error!("the controller cannot wait: {error}");
                return;
            }
            for &event in &ready {
                self.handle_ready(event);
            }
            self.handle_notices();
            self.handle_deadlines();
        }
    }

    fn handle_ready(&mut self, event: Ready) {
        match event.token {
            LISTENER_TOKEN => self.accept(),
            NOTICE_TOKEN => self.notices.drain_bell(),
            #[expect(clippy::cast_possible_truncation, reason = "the parts of a token")]
            token => {
                let (place, generation) = ((token as u32 >> 1) as usize, (token >> 32) as u32);
                let Some(Some(connection)) = self.connections.get(place) else { return };
                if connection.generation != generation {
                    return;
                }
                if token & 1 == 1 {
                    self.hang_up(place); // The process died.
                } else {
                    self.serve(place, event);
                }
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..BURST {
            match self.listener.accept(true) {
                Ok(socket) => {
                    self.counts.connections += 1;
                    // Without a descriptor of its process (it died already) nobody is there to serve.
                    if let Ok(process) = socket.peer_pidfd() {
                        self.admit(socket, process);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.counts.accept_errors += 1;
                    tracing::warn!("cannot take another connection for now: {error}");
                    self.accepts_again = Some(self.clock.now() + ACCEPT_PAUSE);
                    let _: io::Result<()> = self.epoll.remove(self.listener.as_fd());
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: machnet_client::socket::Seqpacket, process: std::os::fd::OwnedFd) {
        self.drop_oldest_pending();
        self.generation = self.generation.wrapping_add(1);
        let deadline = self.clock.now() + HANDSHAKE_TIMEOUT;
        let connection = Connection::new(socket, process, self.generation, deadline);
        let place = match self.connections.iter().position(Option::is_none) {
            Some(place) => place,
            None => {
                self.connections.push(None);
                self.connections.len() - 1
            }
        };
        let watched = self
            .epoll
            .add(connection.socket.as_fd(), token(place, connection.generation, false), Watch::Readable)
            .and_then(|()| {
                let token = token(place, connection.generation, true);
                self.epoll.add(connection.process.as_fd(), token, Watch::Readable)
            });
        if watched.is_ok() {
            self.connections[place] = Some(connection);
        }
    }

    fn drop_oldest_pending(&mut self) {
        let pending = self.connections.iter().enumerate().filter_map(|(place, connection)| {
            let connection = connection.as_ref()?;
            Some((connection.deadline()?, place))
        });
        let (mut count, mut oldest) = (0, None);
        for entry in pending {
            count += 1;
            oldest = Some(oldest.map_or(entry, |other: (Instant, usize)| other.min(entry)));
        }
        if count >= MAX_PENDING
            && let Some((_, place)) = oldest
        {
            self.counts.pending_dropped += 1;
            self.connections[place] = None;
        }
    }

    /// Reads what a connection asks, and sends what waits for it.
    fn serve(&mut self, place: usize, event: Ready) {
        if event.writable {
            let flushed = self.connection(place).is_none_or(|connection| connection.flush().is_ok());
            if !flushed {
                return self.hang_up(place);
            }
        }
        for _ in 0..BURST {
            let Some(connection) = self.connection(place) else { return };
            match connection.socket.receive() {
                Ok(record) if record.bytes.is_empty() => return self.hang_up(place),
                Ok(record) => self.handle_record(place, &record),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        self.counts.malformed_records += 1;
                    }
                    return self.hang_up(place);
                }
            }
        }
        self.watch_for_room(place);
    }

    fn connection(&mut self, place: usize) -> Option<&mut Connection> {
        self.connections.get_mut(place)?.as_mut()
    }

    /// Sends a reply; a connection that cannot take it is dropped.
    fn reply(&mut self, place: usize, reply: &Reply) {
        let Some(connection) = self.connection(place) else { return };
        if connection.reply(reply).is_err() {
            return self.hang_up(place);
        }
        self.watch_for_room(place);
    }

    fn watch_for_room(&mut self, place: usize) {
        let Some(Some(connection)) = self.connections.get_mut(place) else { return };
        if connection.has_waiting() == connection.watches_writable {
            return;
        }
        connection.watches_writable = connection.has_waiting();
        let watch = if connection.has_waiting() { Watch::ReadableOrWritable } else { Watch::Readable };
        let token = token(place, connection.generation, false);
        let _: io::Result<()> = self.epoll.modify(connection.socket.as_fd(), token, watch);
    }

    /// The application's socket or process is no more: the engine delivers what was published and drops the channel.
    fn hang_up(&mut self, place: usize) {
        let Some(connection) = self.connections.get_mut(place).and_then(Option::take) else { return };
        if let State::Attached { channel } = connection.state
            && let Some(entry) = self.channels.get_mut(&channel)
        {
            entry.connection = None;
            let engine = entry.engine;
            self.release_ports(channel, engine);
            self.engines[engine].send(Command::Gone { channel });
        }
    }

    /// A channel on this engine gives up all its ports.
    fn release_ports(&mut self, channel: u64, engine: usize) {
        for (port, listener) in self.ports.release_all(channel) {
            self.tell_others(engine, || Command::UnlistenElsewhere { port, listener });
        }
    }

    /// Tells all engines but one.
    fn tell_others(&self, engine: usize, command: impl Fn() -> Command) {
        for (index, other) in self.engines.iter().enumerate() {
            if index != engine {
                other.send(command());
            }
        }
    }

    fn handle_notices(&mut self) {
        while let Some(notice) = self.notices.try_receive() {
            match notice {
                Notice::Ended { channel, fault } => self.channel_ended(channel, fault),
                Notice::Listening { channel, listener } => self.listening(channel, listener),
                Notice::Status { token, status } => self.status_came(token, *status),
                Notice::FlowStats { channel, request, stats } => {
                    self.flow_stats_came(channel, request, stats);
                }
                Notice::ShuttingDown => self.shutting_down = true,
                Notice::Stop => self.stopped = true,
            }
        }
    }

    fn channel_ended(&mut self, channel: u64, fault: Option<PeerFault>) {
        let Some(entry) = self.channels.remove(&channel) else { return };
        self.release_ports(channel, entry.engine);
        let Some(place) = entry.connection else { return };
        if let Some(fault) = fault {
            let text = format!("the application broke a rule of the channel: {fault}");
            self.reply(place, &Reply::Failed { request: 0, code: FailureCode::Unexpected, text });
        }
        if let Some(connection) = self.connections.get_mut(place) {
            *connection = None;
        }
    }

    fn listening(&mut self, channel: u64, listener: u32) {
        let Some(entry) = self.channels.get_mut(&channel) else { return };
        let Some(at) = entry.listening.iter().position(|listening| listening.listener == listener) else {
            return;
        };
        entry.listening[at].missing -= 1;
        if entry.listening[at].missing > 0 {
            return;
        }
        let Listening { request, local, .. } = entry.listening.swap_remove(at);
        if let Some(place) = entry.connection {
            self.reply(place, &Reply::Listening { request, listener, local });
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().flatten().filter_map(Connection::deadline);
        let gatherings = self.gatherings.values().map(|gathering| gathering.deadline);
        connections.chain(gatherings).chain(self.accepts_again).min()
    }

    fn handle_deadlines(&mut self) {
        let now = self.clock.now();
        for place in 0..self.connections.len() {
            let due = self.connections[place].as_ref().and_then(Connection::deadline);
            if due.is_some_and(|due| due <= now) {
                self.counts.handshake_timeouts += 1;
                self.connections[place] = None;
            }
        }
        if self.accepts_again.is_some_and(|due| due <= now) {
            self.accepts_again = None;
            let _: io::Result<()> = self.epoll.add(self.listener.as_fd(), LISTENER_TOKEN, Watch::Readable);
        }
        let overdue = |gathering: &Gathering| gathering.deadline <= now;
        let tokens: Vec<u64> = self
            .gatherings
            .iter()
            .filter(|(_, gathering)| overdue(gathering))
            .map(|(&token, _)| token)
            .collect();
        for token in tokens {
            self.answer_status(token);
        }
    }
}

//! What applications ask on the control socket.

use super::attach::{PendingAttach, agree_on_version};
use super::connection::State;
use super::ports::Owner;
use super::{Channel, Controller, Gathering, HANDSHAKE_TIMEOUT, Listening, STATUS_IDLE, STATUS_TIMEOUT};
use crate::mailbox::Command;
use crate::status::{EngineStatus, Status};
use crate::tenant::Identity;
use machnet_client::FlowStats;
use machnet_client::control::{ANY_ENGINE, DoorbellKind, FailureCode, MAX_TEXT, Reply, Request};
use machnet_client::shm::Geometry;
use machnet_client::socket::Record;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// Most listeners of one channel.
const MAX_LISTENERS: usize = 1024;
/// Most flows that a listener may let wait.
const MAX_BACKLOG: u32 = 65_535;
/// Most bytes of a program's name that are kept.
const MAX_NAME: usize = 64;
/// Status requests that may wait for the engines' answers.
const MAX_GATHERINGS: usize = 64;
/// Questions about flows that one channel may have waiting. An honest application waits for each answer.
const MAX_STATS_ASKED: usize = 64;

type Refusal = (FailureCode, String);

impl Controller {
    pub(super) fn handle_record(&mut self, place: usize, record: &Record) {
        // No request comes with descriptors; whoever sends some wants us to have them, and to be there when they are closed.
        let request = match Request::decode(&record.bytes) {
            Ok(request) if record.descriptors.is_empty() => request,
            _ => {
                self.counts.malformed_records += 1;
                return self.hang_up(place);
            }
        };
        let Some(connection) = self.connection(place) else { return };
        let channel = match connection.state {
            State::Attached { channel } => Some(channel),
            _ => None,
        };
        match (request, channel) {
            // Not twice: each Welcome that is not taken holds four descriptors of ours in flight.
            (Request::Hello { .. }, None) if !matches!(connection.state, State::Fresh { .. }) => {
                self.counts.malformed_records += 1;
                self.hang_up(place);
            }
            (Request::Hello { versions, geometry, doorbell, engine, name }, None) => {
                let result = self.hello(place, versions, geometry, doorbell, engine, &name);
                if let Err((code, text)) = result {
                    self.counts.attaches_refused += 1;
                    self.reply(place, &Reply::Failed { request: 0, code, text });
                }
            }
            (Request::Mapped, None) => self.mapped(place),
            (Request::Listen { request, local, backlog }, Some(channel)) => {
                if let Err((code, text)) = self.listen(channel, request, local, backlog) {
                    self.counts.listens_refused += 1;
                    self.reply(place, &Reply::Failed { request, code, text });
                }
            }
            (Request::Unlisten { listener }, Some(channel)) => self.unlisten(channel, listener),
            (Request::FlowStats { request, flow }, Some(channel)) => {
                if let Err((code, text)) = self.ask_flow_stats(channel, request, flow) {
                    self.reply(place, &Reply::Failed { request, code, text });
                }
            }
            (Request::Detach, Some(channel)) => {
                if let Some(engine) = self.channels.get(&channel).map(|entry| entry.engine) {
                    self.release_ports(channel, engine);
                    self.engines[engine].send(Command::Detach { channel });
                }
            }
            (Request::Status, _) => self.gather_status(place),
            _ => {
                let text = "this request makes no sense now".to_owned();
                self.reply(place, &Reply::Failed { request: 0, code: FailureCode::Unexpected, text });
            }
        }
    }

    fn hello(
        &mut self,
        place: usize,
        versions: (u32, u32),
        geometry: Geometry,
        doorbell: DoorbellKind,
        engine: u32,
        name: &str,
    ) -> Result<(), Refusal> {
        let internal = |error: std::io::Error| {
            (FailureCode::Internal, format!("the sidecar could not make the channel: {error}"))
        };
        if self.shutting_down {
            return Err((FailureCode::ShuttingDown, "the sidecar is shutting down".to_owned()));
        }
        let version = agree_on_version(versions)?;
        if let Some(fault) = geometry.fault() {
            return Err((FailureCode::Geometry, fault.to_owned()));
        }
        if self.channels.len() >= self.settings.max_channels {
            let text = format!(
                "all {} channels of the sidecar are in use (max_channels in its configuration)",
                self.settings.max_channels
            );
            return Err((FailureCode::Full, text));
        }
        let engine = self.choose_engine(engine)?;
        let (own, channel) = (self.settings.own, self.next_channel);
        let deadline = self.clock.now() + HANDSHAKE_TIMEOUT;
        let Some(connection) = self.connection(place) else { return Ok(()) };
        let (pid, uid, _) = connection.socket.peer().map_err(internal)?;
        let identity = Identity { channel, pid, uid, name: shortened(name), version };
        let (pending, given) = PendingAttach::make(geometry, doorbell, identity, engine).map_err(internal)?;
        let welcome =
            Reply::Welcome { version, channel, engine, pid: std::process::id(), local: own, geometry };
        let borrowed: Vec<_> = given.iter().map(AsFd::as_fd).collect();
        connection.socket.send(&welcome.encode(), &borrowed).map_err(internal)?;
        connection.state = State::Mapping { deadline, pending: Box::new(pending) };
        self.next_channel += 1;
        Ok(())
    }

    fn choose_engine(&mut self, wanted: u32) -> Result<u32, Refusal> {
        let count = self.engines.len();
        let chosen = if wanted == ANY_ENGINE {
            let next = self.next_engine;
            self.next_engine = (next + 1) % count;
            next
        } else {
            wanted as usize
        };
        if chosen >= count {
            let to_last = if count > 1 { format!(" to engine{}", count - 1) } else { String::new() };
            let text = format!("it has engine0{to_last}");
            return Err((FailureCode::NoEngine, text));
        }
        Ok(u32::try_from(chosen).unwrap_or(0))
    }

    fn mapped(&mut self, place: usize) {
        let Some(connection) = self.connection(place) else { return };
        let unmapped = State::Fresh { deadline: self_deadline(&connection.state) };
        let State::Mapping { pending, .. } = std::mem::replace(&mut connection.state, unmapped) else {
            self.counts.malformed_records += 1;
            return self.hang_up(place);
        };
        let (channel, engine) = (pending.channel(), pending.engine as usize);
        match pending.seal() {
            Ok(tenant) => {
                connection.state = State::Attached { channel };
                let identity = tenant.identity();
                let entry = Channel {
                    engine,
                    connection: Some(place),
                    pid: identity.pid,
                    name: identity.name.clone(),
                    listening: Vec::new(),
                    stats_asked: 0,
                };
                self.channels.insert(channel, entry);
                self.counts.attaches += 1;
                self.engines[engine].send(Command::Attach(Box::new(tenant)));
                self.reply(place, &Reply::Attached);
            }
            Err(error) => {
                self.counts.attaches_refused += 1;
                let text = format!("the sidecar could not map the channel: {error}");
                self.reply(place, &Reply::Failed { request: 0, code: FailureCode::Internal, text });
            }
        }
    }

    fn listen(&mut self, channel: u64, request: u32, local: SocketAddr, backlog: u32) -> Result<(), Refusal> {
        if self.shutting_down {
            return Err((FailureCode::ShuttingDown, "the sidecar is shutting down".to_owned()));
        }
        let own = self.settings.own.ip();
        if !local.ip().is_unspecified() && local.ip() != own {
            let text = format!("{} is not the sidecar's address; it has {own}", local.ip());
            return Err((FailureCode::AddressNotLocal, text));
        }
        if self.ports.count(channel) >= MAX_LISTENERS {
            let text = format!("a channel has at most {MAX_LISTENERS} listeners");
            return Err((FailureCode::Full, text));
        }
        let listener = self.next_listener;
        let port = match self.ports.take(local.port(), Owner { channel, listener }) {
            Ok(port) => port,
            Err(None) => return Err((FailureCode::Full, "no port is free".to_owned())),
            Err(Some(owner)) => {
                let who = self.channels.get(&owner.channel).map_or_else(String::new, |entry| {
                    format!(" by {} (process {})", entry.name.escape_debug(), entry.pid)
                });
                let text = format!("port {} of {own} is already listened on{who}", local.port());
                return Err((FailureCode::AddressInUse, text));
            }
        };
        self.next_listener = listener.wrapping_add(1);
        self.counts.listens += 1;
        let Some(entry) = self.channels.get_mut(&channel) else { return Ok(()) };
        let (local, missing) = (SocketAddr::new(own, port), self.engines.len());
        entry.listening.push(Listening { listener, request, local, missing });
        let backlog = backlog.clamp(1, MAX_BACKLOG);
        let at = entry.engine;
        self.engines[at].send(Command::Listen { channel, port, listener, backlog });
        let engine = u8::try_from(at).unwrap_or(u8::MAX);
        self.tell_others(at, || Command::ListenElsewhere { channel, port, engine, listener });
        Ok(())
    }

    fn unlisten(&mut self, channel: u64, listener: u32) {
        // A listener that is not (or no longer) the channel's: nothing to do, and nobody waits for an answer.
        let Some(port) = self.ports.release(Owner { channel, listener }) else { return };
        if let Some(engine) = self.channels.get(&channel).map(|entry| entry.engine) {
            self.engines[engine].send(Command::Unlisten { listener });
            self.tell_others(engine, || Command::UnlistenElsewhere { port, listener });
        }
    }

    fn ask_flow_stats(&mut self, channel: u64, request: u32, flow: u32) -> Result<(), Refusal> {
        let Some(entry) = self.channels.get_mut(&channel) else { return Ok(()) };
        if entry.stats_asked >= MAX_STATS_ASKED {
            let text =
                format!("{MAX_STATS_ASKED} questions about flows of this channel wait for their answers");
            return Err((FailureCode::Full, text));
        }
        entry.stats_asked += 1;
        self.engines[entry.engine].send(Command::FlowStats { channel, request, flow });
        Ok(())
    }

    pub(super) fn flow_stats_came(&mut self, channel: u64, request: u32, stats: Option<Box<FlowStats>>) {
        let Some(entry) = self.channels.get_mut(&channel) else { return };
        entry.stats_asked -= 1;
        let Some(place) = entry.connection else { return };
        let reply = match stats {
            Some(stats) => Reply::FlowStats { request, stats },
            None => {
                let text = "the channel has no such flow".to_owned();
                Reply::Failed { request, code: FailureCode::NoFlow, text }
            }
        };
        self.reply(place, &reply);
    }

    fn gather_status(&mut self, place: usize) {
        let now = self.clock.now();
        let Some(connection) = self.connection(place) else { return };
        if let State::Fresh { deadline } = &mut connection.state {
            *deadline = now + STATUS_IDLE;
        }
        let generation = connection.generation;
        if self.gatherings.len() >= MAX_GATHERINGS {
            let text = "too many status requests at a time".to_owned();
            return self.reply(place, &Reply::Failed { request: 0, code: FailureCode::Full, text });
        }
        let token = self.next_token;
        self.next_token += 1;
        let missing = self.engines.len();
        let deadline = now + STATUS_TIMEOUT;
        let gathering = Gathering { connection: place, generation, deadline, missing, engines: Vec::new() };
        self.gatherings.insert(token, gathering);
        for engine in &self.engines {
            engine.send(Command::Status { token });
        }
    }

    pub(super) fn status_came(&mut self, token: u64, status: EngineStatus) {
        let Some(gathering) = self.gatherings.get_mut(&token) else { return };
        gathering.engines.push(status);
        gathering.missing -= 1;
        if gathering.missing == 0 {
            self.answer_status(token);
        }
    }

    pub(super) fn answer_status(&mut self, token: u64) {
        let Some(mut gathering) = self.gatherings.remove(&token) else { return };
        let asks_still = |connection: &super::Connection| connection.generation == gathering.generation;
        if !self.connection(gathering.connection).is_some_and(|connection| asks_still(connection)) {
            return;
        }
        gathering.engines.sort_by_key(|engine| engine.id);
        let status = Status {
            uptime_seconds: self.clock.now().as_nanos() / 1_000_000_000,
            engines: gathering.engines,
            controller: self.counts.to_map(),
            ..self.settings.status.clone()
        };
        let text =
            serde_json::to_string(&status).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(boundary(rest, MAX_TEXT));
            rest = after;
            let reply = Reply::StatusText { last: rest.is_empty(), text: piece.to_owned() };
            self.reply(gathering.connection, &reply);
        }
    }
}

fn self_deadline(state: &State) -> crate::proto::time::Instant {
    match state {
        State::Fresh { deadline } | State::Mapping { deadline, .. } => *deadline,
        State::Attached { .. } => crate::proto::time::Instant::ZERO,
    }
}

fn shortened(name: &str) -> String {
    name[..boundary(name, MAX_NAME)].to_owned()
}

/// The last boundary between two characters that is not beyond `most` bytes.
fn boundary(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

//! An application without manners: the control protocol and the shared memory, past the library's channel.

use crate::common::PATIENCE;
use crate::dice::Dice;
use machnet_client::control::{ANY_ENGINE, DoorbellKind, Reply, Request};
use machnet_client::shm::Geometry;
use machnet_client::shm::atomic::Ordering;
use machnet_client::shm::layout::{
    ConnectRequest, DONE_HEAD_OFFSET, DONE_WORDS, MESSAGE_HEAD_OFFSET, RING_OFFSET, SLOT_WORDS,
    receive_done_kind, receive_kind, send_kind,
};
use machnet_client::shm::region::{Mapping, Read, Write};
use machnet_client::shm::ring::{Consumer, PeerFault, Producer, SlotHead, WritableMemory};
use machnet_client::socket::{self, Record, Seqpacket};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// So small that every ring goes round soon.
pub const TINY: Geometry = Geometry {
    send_slots: 16,
    receive_slots: 16,
    tx_buffers: 16,
    rx_buffers: 16,
    buffer_bytes: 1024,
    max_flows: 4,
    flow_credit: 8,
};

/// What became of the channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Alive,
    /// The sidecar named this rule, and hung up.
    Fault(PeerFault),
    /// It hung up.
    Gone,
}

/// A slot of the receive ring.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub kind: u8,
    pub flow: u32,
    pub argument: u32,
    pub words: [u64; SLOT_WORDS],
}

impl Event {
    pub fn token(&self) -> u32 {
        (self.words[SLOT_WORDS - 1] >> 32) as u32
    }
}

/// Between Welcome and Mapped.
pub struct Welcomed {
    pub socket: Seqpacket,
    pub geometry: Geometry,
    pub own: SocketAddr,
    pub doorbell: DoorbellKind,
    pub region: OwnedFd,
    pub engine_region: OwnedFd,
    pub bells: Vec<OwnedFd>,
}

pub fn hello(geometry: Geometry, doorbell: DoorbellKind) -> Request {
    Request::Hello { versions: (1, 1), geometry, doorbell, engine: ANY_ENGINE, name: "hostile".into() }
}

pub fn connect(path: &Path) -> Seqpacket {
    let socket = Seqpacket::connect(path).expect("the control socket takes connections");
    socket.set_receive_timeout(PATIENCE.as_millis() as u32).expect("a timeout can be set");
    socket
}

impl Welcomed {
    pub fn new(path: &Path, geometry: Geometry, doorbell: DoorbellKind) -> Self {
        let socket = connect(path);
        socket.send(&hello(geometry, doorbell).encode(), &[]).expect("Hello goes");
        let record = socket.receive().expect("Hello is answered");
        let Ok(Reply::Welcome { local, geometry, .. }) = Reply::decode(&record.bytes) else {
            panic!("no Welcome but {:?}", Reply::decode(&record.bytes));
        };
        let mut descriptors = record.descriptors.into_iter();
        let region = descriptors.next().expect("the application's region");
        let engine_region = descriptors.next().expect("the engine's region");
        let bells = descriptors.collect();
        Self { socket, geometry, own: local, doorbell, region, engine_region, bells }
    }

    pub fn mapped(self) -> Raw {
        let g = self.geometry;
        let ours = Mapping::writable(&self.region, g.application_bytes()).expect("maps its own region");
        let theirs =
            Mapping::read_only(&self.engine_region, g.engine_bytes()).expect("maps the engine's region");
        self.socket.send(&Request::Mapped.encode(), &[]).expect("Mapped goes");
        let record = self.socket.receive().expect("Mapped is answered");
        assert_eq!(Reply::decode(&record.bytes), Ok(Reply::Attached));
        Raw {
            ours: Arc::new(ours),
            theirs,
            send: Producer::new(RING_OFFSET, g.send_slots, MESSAGE_HEAD_OFFSET),
            done: Producer::new(g.receive_done_offset(), g.receive_done_slots(), DONE_HEAD_OFFSET),
            receive: Consumer::new(RING_OFFSET, g.receive_slots, MESSAGE_HEAD_OFFSET),
            send_done: Consumer::new(g.send_done_offset(), g.send_done_slots(), DONE_HEAD_OFFSET),
            tells_heads: (true, true),
            next_request: 1,
            listener: None,
            ended: None,
            stray: VecDeque::new(),
            made: self,
        }
    }
}

/// An attached channel in the hands of an attacker.
pub struct Raw {
    pub made: Welcomed,
    pub ours: Arc<Mapping<Write>>,
    pub theirs: Mapping<Read>,
    pub send: Producer<SLOT_WORDS>,
    pub done: Producer<DONE_WORDS>,
    receive: Consumer<SLOT_WORDS>,
    send_done: Consumer<DONE_WORDS>,
    /// Whether the head of the engine's receive ring, and of its send-done ring, is told.
    pub tells_heads: (bool, bool),
    next_request: u32,
    listener: Option<SocketAddr>,
    ended: Option<Outcome>,
    /// Events that another call waits for.
    stray: VecDeque<Event>,
}

/// Two flows of one channel that are each other's peers.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub client: u32,
    pub server: u32,
}

impl Raw {
    pub fn attach(path: &Path, geometry: Geometry, dice: &mut Dice) -> Self {
        let doorbell = if dice.chance(30) { DoorbellKind::Socket } else { DoorbellKind::Pipe };
        Welcomed::new(path, geometry, doorbell).mapped()
    }

    pub fn geometry(&self) -> Geometry {
        self.made.geometry
    }

    /// Stores a word anywhere into the region.
    pub fn poke(&self, offset: usize, word: u64) {
        self.ours.words_mut::<1>(offset & !7)[0].store(word, Ordering::Relaxed);
    }

    /// Rings the engine, asked or not.
    pub fn nudge(&self) {
        let is_socket = self.made.doorbell == DoorbellKind::Socket;
        if let Some(bell) = self.made.bells.last() {
            socket::ring(bell.as_fd(), is_socket);
        }
    }

    /// Publishes a slot of the send ring, true or not. Waits for room; `false` if the channel ended meanwhile.
    pub fn slot(
        &mut self,
        kind: u8,
        count: u8,
        length: u16,
        flow: u32,
        argument: u32,
        words: &[u64],
    ) -> bool {
        if !self.wait(|raw| !matches!(raw.send.free(&raw.theirs, 1), Ok(0))) {
            return false;
        }
        let first = u64::from(flow) | u64::from(argument) << 32;
        self.send.publish(&*self.ours, SlotHead { kind, count, length }, |places| {
            places[1].store(first, Ordering::Relaxed);
            for (place, &word) in places[2..].iter().zip(words) {
                place.store(word, Ordering::Relaxed);
            }
        });
        self.nudge();
        true
    }

    /// Publishes a slot of the receive-done ring.
    pub fn give_back(&mut self, kind: u8, length: u16, flow: u32, argument: u32) -> bool {
        if !self.wait(|raw| !matches!(raw.done.free(&raw.theirs, 1), Ok(0))) {
            return false;
        }
        let word = u64::from(flow) | u64::from(argument) << 32;
        self.done.publish(&*self.ours, SlotHead { kind, count: 0, length }, |places| {
            places[1].store(word, Ordering::Relaxed);
        });
        self.nudge();
        true
    }

    /// A small message.
    pub fn say(&mut self, flow: u32, bytes: &[u8]) -> bool {
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|piece| {
                let mut word = [0; 8];
                word[..piece.len()].copy_from_slice(piece);
                u64::from_le_bytes(word)
            })
            .collect();
        self.slot(send_kind::INLINE, 0, bytes.len() as u16, flow, bytes.len() as u32, &words)
    }

    /// A message in buffers, given as (first, count).
    pub fn say_buffers(&mut self, flow: u32, len: u32, extents: &[(u16, u16)]) -> bool {
        let raw: Vec<u32> =
            extents.iter().map(|&(first, count)| u32::from(first) | u32::from(count) << 16).collect();
        let words: Vec<u64> = raw
            .chunks(2)
            .map(|pair| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32)
            .collect();
        self.slot(send_kind::BUFFERS, extents.len() as u8, 0, flow, len, &words)
    }

    /// Answers the number of the request.
    pub fn ask_to_connect(&mut self, to: &ConnectRequest) -> u32 {
        self.next_request += 1;
        let request = self.next_request;
        self.slot(send_kind::CONNECT, 0, 0, 0, request, &to.to_words());
        request
    }

    /// Connects; the flow if that succeeded.
    pub fn connect(&mut self, to: SocketAddr) -> Option<u32> {
        let request = self.ask_to_connect(&ConnectRequest { remote: to, local: None, timeout_ms: 2000 });
        let kinds = [receive_kind::CONNECTED, receive_kind::CONNECT_FAILED];
        let answers = |event: &Event| kinds.contains(&event.kind) && event.argument == request;
        let event = self.event_where(answers)?;
        (event.kind == receive_kind::CONNECTED).then_some(event.flow)
    }

    /// The next slot of the receive ring, if there is one now.
    pub fn try_event(&mut self) -> Option<Event> {
        if let Some(event) = self.stray.pop_front() {
            return Some(event);
        }
        while let Ok(Some(_)) = self.send_done.peek(&self.theirs) {
            self.send_done.advance();
        }
        let slot = self.receive.peek(&self.theirs).expect("the engine tells the truth")?;
        let words: [u64; SLOT_WORDS] = std::array::from_fn(|index| slot.word(index));
        let event =
            Event { kind: slot.head.kind, flow: words[1] as u32, argument: (words[1] >> 32) as u32, words };
        self.receive.advance();
        if self.tells_heads.0 {
            self.receive.tell_head(&*self.ours);
        }
        if self.tells_heads.1 {
            self.send_done.tell_head(&*self.ours);
        }
        Some(event)
    }

    /// Waits for an event of one of these kinds; others are kept. Nothing if the channel ended.
    pub fn event(&mut self, kinds: &[u8]) -> Option<Event> {
        self.event_where(|event| kinds.contains(&event.kind))
    }

    /// Likewise for the events of some flows.
    pub fn event_of(&mut self, flows: &[u32], kinds: &[u8]) -> Option<Event> {
        self.event_where(|event| kinds.contains(&event.kind) && flows.contains(&event.flow))
    }

    /// Events of these flows that nobody waited for.
    pub fn take_stray(&mut self, flows: &[u32]) -> Vec<Event> {
        let of_these = |event: &Event| flows.contains(&event.flow);
        let taken = self.stray.iter().copied().filter(of_these).collect();
        self.stray.retain(|event| !of_these(event));
        taken
    }

    fn event_where(&mut self, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let mut others = VecDeque::new();
        let mut found = None;
        self.wait(|raw| {
            while let Some(event) = raw.try_event() {
                if wanted(&event) {
                    found = Some(event);
                    return true;
                }
                others.push_back(event);
            }
            false
        });
        others.append(&mut self.stray);
        self.stray = others;
        found
    }

    /// Connects the channel to itself. Nothing if it ended.
    pub fn pair(&mut self) -> Option<Pair> {
        let to = match self.listener {
            Some(to) => to,
            None => self.listen()?,
        };
        self.listener = Some(to);
        let client = self.connect(to)?;
        let accepted = self.event(&[receive_kind::ACCEPTED])?;
        self.give_back(receive_done_kind::ACCEPTED, 0, accepted.flow, 0);
        Some(Pair { client, server: accepted.flow })
    }

    /// Where `pair` connects to.
    pub fn listening_at(&self) -> SocketAddr {
        self.listener.expect("there is a pair")
    }

    fn listen(&mut self) -> Option<SocketAddr> {
        match self.ask_to_listen() {
            Ok((_, local)) => Some(local),
            Err(outcome) => {
                self.ended = Some(outcome);
                None
            }
        }
    }

    fn ask_to_listen(&mut self) -> Result<(u32, SocketAddr), Outcome> {
        self.next_request += 1;
        let request = self.next_request;
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let asked = Request::Listen { request, local, backlog: 64 };
        // If it cannot go, why not stands in the socket.
        let _ = self.made.socket.send(&asked.encode(), &[]);
        loop {
            let record = match self.receive() {
                Ok(record) => record,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("STALL: the control socket does not answer")
                }
                Err(_) => return Err(Outcome::Gone),
            };
            if record.bytes.is_empty() {
                return Err(Outcome::Gone);
            }
            match Reply::decode(&record.bytes).expect("the sidecar's replies can be decoded") {
                Reply::Listening { request: of, listener, local } if of == request => {
                    return Ok((listener, local));
                }
                Reply::Failed { request: 0, text, .. } => return Err(outcome_in(&text)),
                Reply::Failed { request: of, text, .. } if of == request => panic!("no listener: {text}"),
                _ => {}
            }
        }
    }

    /// Lets the engine run past everything published so far, and tells what became of the channel.
    pub fn settle(&mut self) -> Outcome {
        for _ in 0..2 {
            if let Some(outcome) = &self.ended {
                return outcome.clone();
            }
            self.nudge();
            match self.ask_to_listen() {
                Ok((listener, _)) => {
                    let _ = self.made.socket.send(&Request::Unlisten { listener }.encode(), &[]);
                }
                Err(outcome) => self.ended = Some(outcome),
            }
        }
        self.ended.clone().unwrap_or(Outcome::Alive)
    }

    /// Waits for the end of the channel.
    pub fn end(&mut self) -> Outcome {
        self.wait(|_| false);
        self.ended.clone().unwrap_or(Outcome::Alive)
    }

    /// Waits until `done`. `false` if the channel ended first; a stall panics.
    pub fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        for turn in 0_u32.. {
            if self.ended.is_some() {
                return false;
            }
            if done(self) {
                return true;
            }
            if turn < 50 {
                std::thread::yield_now();
                continue;
            }
            // The socket is looked at now and then: it is readable when the channel ended.
            let short = Duration::from_micros(if turn < 200 { 50 } else { 1000 });
            if socket::wait_readable(self.made.socket.as_fd(), Some(short)).unwrap_or(true) {
                self.read_end();
            }
            assert!(turn < 25_000, "STALL: nothing came for {PATIENCE:?}");
        }
        false
    }

    /// A socket that was closed before it read all says so first, and then what was in it for us.
    fn receive(&self) -> io::Result<Record> {
        match self.made.socket.receive() {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.made.socket.receive(),
            other => other,
        }
    }

    fn read_end(&mut self) {
        match self.receive() {
            Ok(record) if record.bytes.is_empty() => self.ended = Some(Outcome::Gone),
            Ok(record) => {
                if let Ok(Reply::Failed { request: 0, text, .. }) = Reply::decode(&record.bytes) {
                    self.ended = Some(outcome_in(&text));
                }
            }
            Err(_) => self.ended = Some(Outcome::Gone),
        }
    }
}

fn outcome_in(text: &str) -> Outcome {
    let named = PeerFault::ALL.into_iter().find(|fault| text.contains(&fault.to_string()));
    Outcome::Fault(named.unwrap_or_else(|| panic!("the end names no rule: {text}")))
}

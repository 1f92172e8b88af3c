//! An application made of the channel's parts, for tests that run engine and application in one thread, step by step.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use machnet_client::shm::Geometry;
use machnet_client::shm::bell::{REASON_ANY, Ringer, Sleeper};
use machnet_client::shm::layout::{
    ConnectRequest, DONE_HEAD_OFFSET, DONE_WORDS, FlowInfo, MESSAGE_HEAD_OFFSET, RING_OFFSET, SLOT_WORDS,
    receive_done_kind, receive_kind, send_kind,
};
use machnet_client::shm::region::{self, Mapping, Read, Write};
use machnet_client::shm::ring::{Consumer, Producer, SlotHead};
use machnet_client::socket;
use machnet_engine::tenant::{Bells, Identity, Tenant};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

/// What the engine told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Message { flow: u32, bytes: Vec<u8> },
    Connected { flow: u32, request: u32, info: FlowInfo },
    ConnectFailed { request: u32, reason: u16 },
    Accepted { flow: u32, listener: u32, info: FlowInfo },
    Closed { flow: u32, unacknowledged: u32 },
    Reset { flow: u32, reason: u16, unacknowledged: u32 },
    Finished { flow: u32 },
    ListenerEnded { listener: u32, reason: u16 },
}

pub struct FakeApp {
    pub ours: Mapping<Write>,
    theirs: Mapping<Read>,
    geometry: Geometry,
    send_ring: Producer<SLOT_WORDS>,
    receive_ring: Consumer<SLOT_WORDS>,
    receive_done: Producer<DONE_WORDS>,
    send_done: Consumer<DONE_WORDS>,
    sleeper: Sleeper,
    ringer: Ringer,
    reads: OwnedFd,
    writes: OwnedFd,
    /// Lengths of the in-slot messages that were received and not given back.
    received: HashMap<u32, VecDeque<u32>>,
}

impl FakeApp {
    /// A channel: the application's end, and the engine's.
    pub fn new(channel: u64, geometry: Geometry) -> (Self, Box<Tenant>) {
        Self::of_version(machnet_client::control::VERSION, channel, geometry)
    }

    /// A channel of an application that speaks this version of the control messages.
    pub fn of_version(version: u32, channel: u64, geometry: Geometry) -> (Self, Box<Tenant>) {
        let application = region::create(c"test-application", geometry.application_bytes()).expect("memfd");
        let engine = region::create(c"test-engine", geometry.engine_bytes()).expect("memfd");
        let map = |region: &OwnedFd, length| Mapping::writable(region, length).expect("maps");
        let read = |region: &OwnedFd, length| Mapping::read_only(region, length).expect("maps");
        let (reads, we_write) = socket::pipe().expect("a pipe");
        let (we_read, writes) = socket::pipe().expect("a pipe");
        let identity = Identity { channel, pid: 1, uid: 0, name: format!("app{channel}"), version };
        let tenant = Tenant::new(
            identity,
            geometry,
            read(&application, geometry.application_bytes()),
            map(&engine, geometry.engine_bytes()),
            Bells { application: we_write, engine: Some(we_read) },
        );
        let app = Self {
            ours: map(&application, geometry.application_bytes()),
            theirs: read(&engine, geometry.engine_bytes()),
            send_ring: Producer::new(RING_OFFSET, geometry.send_slots, MESSAGE_HEAD_OFFSET),
            receive_ring: Consumer::new(RING_OFFSET, geometry.receive_slots, MESSAGE_HEAD_OFFSET),
            receive_done: Producer::new(
                geometry.receive_done_offset(),
                geometry.receive_done_slots(),
                DONE_HEAD_OFFSET,
            ),
            send_done: Consumer::new(
                geometry.send_done_offset(),
                geometry.send_done_slots(),
                DONE_HEAD_OFFSET,
            ),
            sleeper: Sleeper::default(),
            ringer: Ringer::default(),
            geometry,
            reads,
            writes,
            received: HashMap::new(),
        };
        (app, Box::new(tenant))
    }

    fn publish(&mut self, head: SlotHead, flow: u32, argument: u32, more: &[u64]) {
        assert!(self.send_ring.free(&self.theirs, 1).expect("an honest engine") > 0, "the send ring is full");
        self.send_ring.publish(&self.ours, head, |words| {
            words[1].store(u64::from(flow) | u64::from(argument) << 32, Ordering::Relaxed);
            for (place, &word) in words[2..].iter().zip(more) {
                place.store(word, Ordering::Relaxed);
            }
        });
    }

    pub fn connect(&mut self, request: u32, remote: SocketAddr) {
        let head = SlotHead { kind: send_kind::CONNECT, ..SlotHead::default() };
        let to = ConnectRequest { remote, local: None, timeout_ms: 0 };
        self.publish(head, 0, request, &to.to_words());
    }

    /// Sends up to 112 bytes in the slot.
    pub fn send(&mut self, flow: u32, bytes: &[u8]) {
        let mut words = [0_u64; SLOT_WORDS - 2];
        for (word, piece) in words.iter_mut().zip(bytes.chunks(8)) {
            let mut eight = [0; 8];
            eight[..piece.len()].copy_from_slice(piece);
            *word = u64::from_le_bytes(eight);
        }
        let length = u16::try_from(bytes.len()).expect("small");
        let head = SlotHead { kind: send_kind::INLINE, count: 0, length };
        self.publish(head, flow, u32::from(length), &words);
    }

    pub fn close(&mut self, flow: u32) {
        self.publish(SlotHead { kind: send_kind::CLOSE, ..SlotHead::default() }, flow, 0, &[]);
    }

    pub fn reset(&mut self, flow: u32) {
        self.publish(SlotHead { kind: send_kind::RESET, ..SlotHead::default() }, flow, 0, &[]);
    }

    /// A slot of no kind there is.
    pub fn misbehave(&mut self) {
        self.publish(SlotHead { kind: 99, ..SlotHead::default() }, 0, 0, &[]);
    }

    fn done(&mut self, kind: u8, count: u16, flow: u32, argument: u32) {
        assert!(self.receive_done.free(&self.theirs, 1).expect("an honest engine") > 0, "there is room");
        self.receive_done.publish(&self.ours, SlotHead { kind, count: 0, length: count }, |words| {
            words[1].store(u64::from(flow) | u64::from(argument) << 32, Ordering::Relaxed);
        });
    }

    pub fn accept(&mut self, flow: u32) {
        self.done(receive_done_kind::ACCEPTED, 0, flow, 0);
    }

    /// Gives back in-slot messages that were received.
    pub fn give_back(&mut self, flow: u32, messages: u16) {
        let lengths = self.received.entry(flow).or_default();
        let bytes = (0..messages).map(|_| lengths.pop_front().expect("it was received")).sum();
        self.give_back_unread(flow, messages, bytes);
    }

    /// Says that in-slot messages of so many bytes in all were taken, whether they were or not.
    pub fn give_back_unread(&mut self, flow: u32, messages: u16, bytes: u32) {
        self.done(receive_done_kind::INLINE_TAKEN, messages, flow, bytes);
    }

    pub fn release(&mut self, flow: u32) {
        self.done(receive_done_kind::RELEASED, 0, flow, 0);
    }

    /// Rings the engine if it asked for it. Says whether it did.
    pub fn ring(&mut self) -> bool {
        let rings = self.ringer.must_ring(&self.ours, &self.theirs, REASON_ANY);
        if rings {
            socket::ring(self.writes.as_fd(), false);
        }
        rings
    }

    /// Asks to be rung.
    pub fn arm(&mut self) {
        self.sleeper.arm(&self.ours, REASON_ANY);
    }

    /// Whether the engine rang since the last time this was asked.
    pub fn was_rung(&mut self) -> bool {
        let rung = socket::drain(self.reads.as_fd()) == socket::Drained::Some;
        self.sleeper.drained(rung);
        rung
    }

    /// The next thing told. Messages in buffers are given back at once.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of words")]
    pub fn next(&mut self) -> Option<Told> {
        let slot = self.receive_ring.peek(&self.theirs).expect("an honest engine")?;
        let (flow, argument) = (slot.word(1) as u32, (slot.word(1) >> 32) as u32);
        let info = FlowInfo::from_words(std::array::from_fn(|index| slot.word(2 + index)));
        let (head, at) = (slot.head, self.receive_ring.next_offset());
        let told = match head.kind {
            receive_kind::INLINE => {
                let mut bytes = vec![0; usize::from(head.length)];
                self.theirs.read_bytes(at + 16, &mut bytes);
                self.received.entry(flow).or_default().push_back(u32::from(head.length));
                Told::Message { flow, bytes }
            }
            receive_kind::BUFFERS => {
                let token = (slot.word(SLOT_WORDS - 1) >> 32) as u32;
                self.done(receive_done_kind::BUFFERS_TAKEN, 0, flow, token);
                Told::Message { flow, bytes: vec![0; argument as usize] }
            }
            receive_kind::CONNECTED => Told::Connected { flow, request: argument, info },
            receive_kind::CONNECT_FAILED => Told::ConnectFailed { request: argument, reason: head.length },
            receive_kind::ACCEPTED => Told::Accepted { flow, listener: argument, info },
            receive_kind::CLOSED => Told::Closed { flow, unacknowledged: argument },
            receive_kind::RESET => Told::Reset { flow, reason: head.length, unacknowledged: argument },
            receive_kind::FINISHED => Told::Finished { flow },
            receive_kind::LISTENER_ENDED => Told::ListenerEnded { listener: argument, reason: head.length },
            other => panic!("the engine told {other}"),
        };
        self.receive_ring.advance();
        self.receive_ring.tell_head(&self.ours);
        Some(told)
    }

    /// Everything told.
    pub fn all(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Flows and how many of their messages were acknowledged, as told since the last time.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of words")]
    pub fn credits(&mut self) -> Vec<(u32, u32)> {
        let mut credits = Vec::new();
        while let Some(slot) = self.send_done.peek(&self.theirs).expect("an honest engine") {
            credits.push((slot.word(1) as u32, (slot.word(1) >> 32) as u32));
            self.send_done.advance();
        }
        self.send_done.tell_head(&self.ours);
        credits
    }

    /// Whether another slot can be published.
    pub fn has_send_room(&mut self) -> bool {
        self.send_ring.free(&self.theirs, 1).expect("an honest engine") > 0
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

//! A sidecar for tests: the smallest engine that keeps the channel's rules, in a thread of the test, over real memfds.
//!
//! A connect to port 7 reaches an echo, to 9 a peer that acknowledges nothing by itself, to 11 nobody, to 12 a full
//! backlog, to 13 no answer. Everything else is done by command.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use machnet_client::control::{FailureCode, Reply, Request};
use machnet_client::shm::bell::{REASON_ANY, Ringer, Sleeper};
use machnet_client::shm::layout::*;
use machnet_client::shm::ledger::{Extents, Ledger};
use machnet_client::shm::region::{self, Mapping, Read, Write};
use machnet_client::shm::ring::{Consumer, Memory, Producer, SlotHead, WritableMemory};
use machnet_client::socket::{self, Seqpacket, SeqpacketListener};
use machnet_client::{DoorbellKind, Geometry};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

pub const ECHO: u16 = 7;
pub const HOLD: u16 = 9;
pub const REFUSE: u16 = 11;
pub const BUSY: u16 = 12;
pub const SILENT: u16 = 13;

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// A running sidecar. Dropped, it ends as if killed.
pub struct Sidecar {
    pub path: PathBuf,
    jobs: Sender<Option<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sidecar {
    /// Serves one attach.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Serves one attach; `prepare` may change the welcome.
    pub fn start_with(change: impl Fn(&mut Reply) + Send + 'static) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("machnet-fake-{}-{number}.sock", std::process::id()));
        Self::start_at(path, change)
    }

    /// Serves one attach at a path of the caller's choice.
    pub fn start_at(path: PathBuf, change: impl Fn(&mut Reply) + Send + 'static) -> Self {
        let _ = std::fs::remove_file(&path);
        let listener = SeqpacketListener::bind(&path).unwrap();
        let (jobs, received) = channel();
        let thread = std::thread::spawn(move || {
            if let Some(engine) = Engine::attach(&listener, &change) {
                engine.run(&received);
            }
        });
        Self { path, jobs, thread: Some(thread) }
    }

    /// Runs something in the engine's thread between two of its turns, and waits for it.
    pub fn with<T: Send + 'static>(&self, job: impl FnOnce(&mut Engine) -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        let job: Job = Box::new(move |engine| drop(answer.send(job(engine))));
        self.jobs.send(Some(job)).unwrap();
        answered.recv_timeout(Duration::from_secs(20)).expect("the fake engine answers")
    }

    /// Waits until a condition on the engine holds.
    pub fn until(&self, what: &str, condition: impl Fn(&Engine) -> bool + Send + Sync + Copy + 'static) {
        for _ in 0..20_000 {
            if self.with(move |engine| condition(engine)) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("never came true: {what}");
    }

    /// Waits until the application detached or went.
    pub fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    /// Ends as if killed.
    pub fn kill(&mut self) {
        let _ = self.jobs.send(None);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.jobs.send(None);
        } else {
            self.kill();
        }
    }
}

#[derive(Default, Debug)]
pub struct Flow {
    pub echo: bool,
    pub hold: bool,
    pub sent: u32,
    pub acknowledged: u32,
    pub messages: Vec<Vec<u8>>,
    pub tx: VecDeque<Extents>,
    pub closing: bool,
    pub ended: bool,
    /// In-slot messages that the application holds.
    pub inline_out: u32,
    /// Lengths of the in-slot messages that are out.
    pub inline_lengths: VecDeque<u32>,
}

/// The engine's end of one channel.
pub struct Engine {
    control: Seqpacket,
    pub geometry: Geometry,
    theirs: Mapping<Read>,
    pub ours: Mapping<Write>,
    send_ring: Consumer<SLOT_WORDS>,
    receive_done: Consumer<DONE_WORDS>,
    pub receive_ring: Producer<SLOT_WORDS>,
    send_done: Producer<DONE_WORDS>,
    sleeper: Sleeper,
    ringer: Ringer,
    bell_read: OwnedFd,
    bell_write: Option<OwnedFd>,
    tx: Ledger,
    pub rx: Ledger,
    pub flows: BTreeMap<u32, Flow>,
    generations: HashMap<u16, u16>,
    lent: HashMap<u32, Extents>,
    next_token: u32,
    outgoing: VecDeque<(u32, Vec<u8>)>,
    pub listeners: Vec<(u32, SocketAddr)>,
    pub accepted: Vec<u32>,
    pub released: Vec<u32>,
    pub inline_taken: u32,
    pub out: u32,
    pub most_out: u32,
    pub rings: u32,
    /// Gather every larger message from single buffers.
    pub scatter: bool,
    pub detached: bool,
    /// Times the application woke us.
    pub wakes: u32,
}

fn flow_info(peer_port: u16, credit: u32) -> FlowInfo {
    FlowInfo {
        peer: SocketAddr::from(([127, 0, 0, 2], peer_port)),
        local: SocketAddr::from(([127, 0, 0, 1], 40_000)),
        max_message: MAX_MESSAGE,
        credit,
    }
}

impl Engine {
    fn attach(listener: &SeqpacketListener, change: &impl Fn(&mut Reply)) -> Option<Self> {
        let control = listener.accept(false).unwrap();
        control.set_receive_timeout(10_000).unwrap();
        let hello = control.receive().ok()?;
        let Request::Hello { geometry, doorbell, .. } = Request::decode(&hello.bytes).unwrap() else {
            panic!("attach begins with Hello")
        };
        let application = region::create(c"application", geometry.application_bytes()).unwrap();
        let engine = region::create(c"engine", geometry.engine_bytes()).unwrap();
        let ours = Mapping::writable(&engine, geometry.engine_bytes()).unwrap();
        ours.words_mut::<1>(8)[0].store(u64::from(VERSION), machnet_client::shm::atomic::Ordering::Relaxed);
        ours.words_mut::<1>(0)[0].store(MAGIC, machnet_client::shm::atomic::Ordering::Relaxed);
        let readable = region::read_only(&engine).unwrap();
        let mut welcome = Reply::Welcome {
            version: VERSION,
            channel: 17,
            engine: 0,
            pid: std::process::id(),
            local: SocketAddr::from(([127, 0, 0, 1], 0)),
            geometry,
        };
        change(&mut welcome);
        let (bell_read, bell_write) = match doorbell {
            DoorbellKind::Pipe => {
                let (their_read, our_write) = socket::pipe().unwrap();
                let (our_read, their_write) = socket::pipe().unwrap();
                let all = [application.as_fd(), readable.as_fd(), their_read.as_fd(), their_write.as_fd()];
                control.send(&welcome.encode(), &all).unwrap();
                (our_read, Some(our_write))
            }
            DoorbellKind::Socket => {
                let (our, their) = socket::stream_pair().unwrap();
                control
                    .send(&welcome.encode(), &[application.as_fd(), readable.as_fd(), their.as_fd()])
                    .unwrap();
                (our, None)
            }
        };
        let mapped = control.receive().ok()?;
        if mapped.bytes.is_empty() {
            return None; // It did not like the welcome.
        }
        assert_eq!(Request::decode(&mapped.bytes).unwrap(), Request::Mapped);
        region::seal_writer(&application).unwrap();
        assert!(region::is_sealed(&application).unwrap());
        let theirs = Mapping::read_only(&application, geometry.application_bytes()).unwrap();
        control.send(&Reply::Attached.encode(), &[]).unwrap();
        control.set_nonblocking(true).unwrap();
        let g = geometry;
        Some(Self {
            control,
            geometry,
            theirs,
            ours,
            send_ring: Consumer::new(RING_OFFSET, g.send_slots, MESSAGE_HEAD_OFFSET),
            receive_done: Consumer::new(g.receive_done_offset(), g.receive_done_slots(), DONE_HEAD_OFFSET),
            receive_ring: Producer::new(RING_OFFSET, g.receive_slots, MESSAGE_HEAD_OFFSET),
            send_done: Producer::new(g.send_done_offset(), g.send_done_slots(), DONE_HEAD_OFFSET),
            sleeper: Sleeper::default(),
            ringer: Ringer::default(),
            bell_read,
            bell_write,
            tx: Ledger::new(g.tx_buffers),
            rx: Ledger::new(g.rx_buffers),
            flows: BTreeMap::new(),
            generations: HashMap::new(),
            lent: HashMap::new(),
            next_token: 1,
            outgoing: VecDeque::new(),
            listeners: Vec::new(),
            accepted: Vec::new(),
            released: Vec::new(),
            inline_taken: 0,
            out: 0,
            most_out: 0,
            rings: 0,
            scatter: false,
            detached: false,
            wakes: 0,
        })
    }

    fn run(mut self, jobs: &Receiver<Option<Job>>) {
        loop {
            let mut busy = self.turn();
            while let Ok(job) = jobs.try_recv() {
                let Some(job) = job else { return };
                self.turn(); // What was published before the job was asked for has been seen.
                job(&mut self);
                busy = true;
            }
            if !self.serve_control() {
                return;
            }
            if !busy {
                self.sleeper.arm(&self.ours, REASON_ANY);
                if !self.turn() {
                    // Short, because jobs and the control socket do not ring.
                    let span = Some(Duration::from_micros(300));
                    if socket::wait_readable(self.bell_read.as_fd(), span).unwrap() {
                        match socket::drain(self.bell_read.as_fd()) {
                            socket::Drained::HungUp => return,
                            drained => self.sleeper.drained(drained == socket::Drained::Some),
                        }
                        self.wakes += 1;
                    }
                }
                self.sleeper.disarm(&self.ours);
            }
        }
    }

    fn serve_control(&mut self) -> bool {
        let record = match self.control.receive() {
            Ok(record) => record,
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        };
        if record.bytes.is_empty() {
            return false;
        }
        match Request::decode(&record.bytes).unwrap() {
            Request::Listen { request, mut local, .. } => {
                let reply = if local.port() == 1 {
                    Reply::Failed { request, code: FailureCode::AddressInUse, text: "in use".into() }
                } else {
                    if local.port() == 0 {
                        local.set_port(5000);
                    }
                    let listener = u32::try_from(self.listeners.len()).unwrap() + 100;
                    self.listeners.push((listener, local));
                    Reply::Listening { request, listener, local }
                };
                self.control.send(&reply.encode(), &[]).unwrap();
                true
            }
            Request::Unlisten { listener } => {
                self.listeners.retain(|&(number, _)| number != listener);
                true
            }
            Request::Detach => {
                while self.turn() {}
                self.detached = true;
                false
            }
            other => panic!("unexpected request {other:?}"),
        }
    }

    /// Takes everything there is. Says whether there was anything.
    pub fn turn(&mut self) -> bool {
        let mut any = self.turn_done();
        while let Some((head, words)) = take(&mut self.send_ring, &self.theirs) {
            any = true;
            // Before any answer, as the engine does: who waits for room in the ring is woken by an answer only.
            self.send_ring.tell_head(&self.ours);
            self.handle_send(head, words);
            // A quick application keeps the send ring from ever being empty: what it released comes in between.
            self.turn_done();
        }
        any | self.push_outgoing()
    }

    fn turn_done(&mut self) -> bool {
        let mut any = false;
        while let Some((head, words)) = take(&mut self.receive_done, &self.theirs) {
            any = true;
            self.handle_done(head, words);
        }
        self.receive_done.tell_head(&self.ours);
        any
    }

    fn handle_send(&mut self, head: SlotHead, words: [u64; SLOT_WORDS]) {
        let (handle, length) = (low(words[1]), low(words[1] >> 32));
        let mut bytes = Vec::new();
        match head.kind {
            send_kind::INLINE => {
                assert_eq!(u32::from(head.length), length);
                for word in &words[2..] {
                    bytes.extend_from_slice(&word.to_le_bytes());
                }
                bytes.truncate(length as usize);
                self.got(handle, bytes, Extents::NONE);
            }
            send_kind::BUFFERS => {
                let raw: Vec<u32> = (0..usize::from(head.count))
                    .map(|index| low(words[2 + index / 2] >> (32 * (index % 2))))
                    .collect();
                let extents = self.tx.claim(&raw, self.geometry.buffers_for(length)).unwrap();
                bytes.resize(length as usize, 0);
                let (offset, size) = (self.geometry.tx_offset(), self.geometry.buffer_bytes);
                extents.pieces(offset, size, 0, length, |at, from, count| {
                    self.theirs.read_bytes(at, &mut bytes[from as usize..][..count as usize]);
                });
                self.got(handle, bytes, extents);
            }
            send_kind::CONNECT => self.connect(&words),
            send_kind::CLOSE => {
                self.flows.get_mut(&handle).unwrap().closing = true;
                self.finish_if_done(handle);
            }
            send_kind::RESET => {
                if self.flows.get(&handle).is_some_and(|flow| !flow.ended) {
                    self.end(handle, receive_kind::RESET, 5);
                }
            }
            kind => panic!("send slot of kind {kind}"),
        }
    }

    fn got(&mut self, handle: u32, bytes: Vec<u8>, extents: Extents) {
        let flow = self.flows.get_mut(&handle).expect("sends name living flows");
        assert!(!flow.closing, "a message behind a close");
        flow.sent += 1;
        assert!(flow.sent - flow.acknowledged <= self.geometry.flow_credit, "beyond the credit");
        flow.tx.push_back(extents);
        if flow.ended {
            let extents = flow.tx.pop_back().unwrap();
            self.tx.release(&extents);
            return;
        }
        let hold = flow.hold;
        if flow.echo {
            self.outgoing.push_back((handle, bytes));
        } else {
            flow.messages.push(bytes);
        }
        if !hold {
            self.acknowledge(handle, 1);
        }
    }

    /// Acknowledges so many more messages of the flow.
    pub fn acknowledge(&mut self, handle: u32, count: u32) {
        let flow = self.flows.get_mut(&handle).unwrap();
        for _ in 0..count {
            let extents = flow.tx.pop_front().unwrap();
            self.tx.release(&extents);
        }
        flow.acknowledged += count;
        let total = flow.acknowledged;
        self.done(send_done_kind::CREDIT, handle, total);
        self.finish_if_done(handle);
    }

    /// Publishes a raw send-done entry.
    pub fn done(&mut self, kind: u8, handle: u32, argument: u32) {
        while self.send_done.free(&self.theirs, 1).unwrap() == 0 {
            std::thread::yield_now();
        }
        self.send_done.publish(&self.ours, SlotHead { kind, count: 0, length: 0 }, |words| {
            let word = u64::from(handle) | u64::from(argument) << 32;
            words[1].store(word, machnet_client::shm::atomic::Ordering::Relaxed);
        });
        self.ring();
    }

    fn finish_if_done(&mut self, handle: u32) {
        let flow = &self.flows[&handle];
        let waits = self.outgoing.iter().any(|&(of, _)| of == handle);
        if flow.closing && !flow.ended && flow.acknowledged == flow.sent && !waits {
            self.end(handle, receive_kind::FINISHED, 0);
        }
    }

    fn connect(&mut self, words: &[u64; SLOT_WORDS]) {
        let request = low(words[1] >> 32);
        let asked = ConnectRequest::from_words(std::array::from_fn(|index| words[2 + index]));
        let failed = |reason| SlotHead { kind: receive_kind::CONNECT_FAILED, count: 0, length: reason };
        match asked.remote.port() {
            REFUSE => self.slot(failed(1), 0, request, &[]),
            BUSY => self.slot(failed(2), 0, request, &[]),
            SILENT => {}
            port => {
                let handle = self.open(port);
                let head = SlotHead { kind: receive_kind::CONNECTED, count: 0, length: 0 };
                let info = flow_info(port, self.geometry.flow_credit);
                self.slot(head, handle, request, &info.to_words());
            }
        }
    }

    fn open(&mut self, port: u16) -> u32 {
        let place = (0..u16::try_from(self.geometry.max_flows).unwrap())
            .find(|&place| self.flows.keys().all(|&handle| low16(handle) != place))
            .unwrap();
        let generation = *self.generations.entry(place).and_modify(|g| *g = g.wrapping_add(1)).or_insert(0);
        let handle = u32::from(place) | u32::from(generation) << 16;
        self.flows.insert(handle, Flow { echo: port == ECHO, hold: port == HOLD, ..Flow::default() });
        handle
    }

    /// A flow arrives at a listener.
    pub fn arrive(&mut self, listener: u32, peer_port: u16) -> u32 {
        let handle = self.open(0);
        let head = SlotHead { kind: receive_kind::ACCEPTED, count: 0, length: 0 };
        let info = flow_info(peer_port, self.geometry.flow_credit);
        self.slot(head, handle, listener, &info.to_words());
        handle
    }

    /// A message for the application.
    pub fn deliver(&mut self, handle: u32, bytes: &[u8]) {
        self.outgoing.push_back((handle, bytes.to_vec()));
        self.push_outgoing();
    }

    fn push_outgoing(&mut self) -> bool {
        let mut any = false;
        while let Some((handle, bytes)) = self.outgoing.front() {
            let (handle, bytes) = (*handle, bytes.clone());
            let length = u32::try_from(bytes.len()).unwrap();
            let flow_over = self.flows.get(&handle).is_none_or(|flow| flow.ended);
            if flow_over {
                self.outgoing.pop_front();
                continue;
            }
            if self.out == self.geometry.receive_slots || !self.has_receive_slot() {
                break;
            }
            if bytes.len() <= INLINE_BYTES {
                let mut words = [0; SLOT_WORDS - 2];
                for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
                    let mut whole = [0; 8];
                    whole[..chunk.len()].copy_from_slice(chunk);
                    *word = u64::from_le_bytes(whole);
                }
                let flow = self.flows.get_mut(&handle).unwrap();
                flow.inline_out += 1;
                flow.inline_lengths.push_back(length);
                let inline = u16::try_from(length).unwrap();
                let head = SlotHead { kind: receive_kind::INLINE, count: 0, length: inline };
                self.slot(head, handle, length, &words);
            } else {
                let Some(extents) = self.take_rx(self.geometry.buffers_for(length)) else { break };
                self.publish_buffers(handle, &bytes, extents);
            }
            self.out += 1;
            self.most_out = self.most_out.max(self.out);
            self.outgoing.pop_front();
            self.finish_if_done(handle);
            any = true;
        }
        any
    }

    fn take_rx(&mut self, count: u32) -> Option<Extents> {
        if !self.scatter || count < 2 {
            return self.rx.allocate(count);
        }
        // Every second buffer of the upper half, so that no two are adjacent.
        let half = self.rx.total() / 2;
        let raw: Vec<u32> = (0..count).map(|index| (half + 2 * index) | 1 << 16).collect();
        self.rx.claim(&raw, count).ok()
    }

    fn publish_buffers(&mut self, handle: u32, bytes: &[u8], extents: Extents) {
        let length = u32::try_from(bytes.len()).unwrap();
        let (offset, size) = (self.geometry.rx_offset(), self.geometry.buffer_bytes);
        extents.pieces(offset, size, 0, length, |at, from, count| {
            self.ours.write_bytes(at, &bytes[from as usize..][..count as usize]);
        });
        let token = self.next_token;
        self.next_token += 1;
        let mut words = [0_u64; SLOT_WORDS - 2];
        for (index, run) in extents.as_slice().iter().enumerate() {
            words[index / 2] |= u64::from(run.to_raw()) << (32 * (index % 2));
        }
        words[SLOT_WORDS - 3] |= u64::from(token) << 32;
        let count = u8::try_from(extents.as_slice().len()).unwrap();
        self.lent.insert(token, extents);
        self.slot(SlotHead { kind: receive_kind::BUFFERS, count, length: 0 }, handle, length, &words);
    }

    fn has_receive_slot(&mut self) -> bool {
        self.receive_ring.free(&self.theirs, 1).unwrap() > 0
    }

    /// Publishes a raw receive slot.
    pub fn slot(&mut self, head: SlotHead, flow: u32, argument: u32, words: &[u64]) {
        assert!(self.has_receive_slot(), "the receive ring is full");
        self.receive_ring.publish(&self.ours, head, |slot| {
            let order = machnet_client::shm::atomic::Ordering::Relaxed;
            slot[1].store(u64::from(flow) | u64::from(argument) << 32, order);
            for (place, word) in slot[2..].iter().zip(words) {
                place.store(*word, order);
            }
        });
        self.ring();
    }

    fn ring(&mut self) {
        if self.ringer.must_ring(&self.ours, &self.theirs, REASON_ANY) {
            self.rings += 1;
            match &self.bell_write {
                Some(write) => socket::ring(write.as_fd(), false),
                None => socket::ring(self.bell_read.as_fd(), true),
            };
        }
    }

    /// The flow's last slot.
    pub fn end(&mut self, handle: u32, kind: u8, reason: u16) {
        let flow = self.flows.get_mut(&handle).unwrap();
        assert!(!flow.ended, "a flow ends once");
        flow.ended = true;
        let unacknowledged = flow.sent - flow.acknowledged;
        for extents in flow.tx.drain(..) {
            self.tx.release(&extents);
        }
        self.slot(SlotHead { kind, count: 0, length: reason }, handle, unacknowledged, &[]);
    }

    fn handle_done(&mut self, head: SlotHead, words: [u64; DONE_WORDS]) {
        let (handle, argument) = (low(words[1]), low(words[1] >> 32));
        match head.kind {
            receive_done_kind::INLINE_TAKEN => {
                let flow = self.flows.get_mut(&handle).expect("names a living flow");
                assert!(head.length > 0 && u32::from(head.length) <= flow.inline_out);
                let taken = flow.inline_lengths.drain(..usize::from(head.length));
                assert_eq!(taken.sum::<u32>(), argument, "the bytes of the messages that were taken");
                flow.inline_out -= u32::from(head.length);
                self.inline_taken += u32::from(head.length);
                self.out -= u32::from(head.length);
            }
            receive_done_kind::BUFFERS_TAKEN => {
                let extents = self.lent.remove(&argument).expect("a token that is out");
                self.rx.release(&extents);
                self.out -= 1;
            }
            receive_done_kind::ACCEPTED => {
                assert!(self.flows.contains_key(&handle));
                self.accepted.push(handle);
            }
            receive_done_kind::RELEASED => {
                let flow = self.flows.remove(&handle).expect("names a living flow");
                assert!(flow.ended && flow.inline_out == 0, "released too early");
                self.released.push(handle);
            }
            kind => panic!("done slot of kind {kind}"),
        }
    }

    /// Whether every buffer is home and every message was given back.
    pub fn all_home(&self) -> bool {
        self.rx.free() == self.rx.total() && self.tx.free() == self.tx.total() && self.out == 0
    }
}

#[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
fn low(word: u64) -> u32 {
    word as u32
}

#[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
fn low16(word: u32) -> u16 {
    word as u16
}

fn take<const N: usize>(ring: &mut Consumer<N>, theirs: &impl Memory) -> Option<(SlotHead, [u64; N])> {
    let slot = ring.peek(theirs).expect("the application keeps the rules")?;
    let taken = (slot.head, std::array::from_fn(|index| if index == 0 { 0 } else { slot.word(index) }));
    ring.advance();
    Some(taken)
}

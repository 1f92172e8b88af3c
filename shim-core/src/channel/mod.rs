//! The application's end of a channel: everything that one thread does with it, without waiting.
//!
//! [`Core`] drains the engine's rings into private state and answers every call from there. [`Channel`] is a core for one
//! thread; the attachment puts a lock around one. Whatever the engine writes is checked on the way in: an application
//! trusts its sidecar with its data, but not with its memory.

mod drain;
mod events;
mod flows;
mod news;
mod queue;
mod receive;
mod send;
mod single;

pub(crate) use receive::{Ends, Source};
pub(crate) use send::Room;
pub use single::Channel;

use crate::control::DoorbellKind;
use crate::error::{Error, ResetReason, Result};
use crate::message::Returns;
use crate::shm::Geometry;
use crate::shm::atomic::Ordering;
use crate::shm::bell::{REASON_ANY, Ringer, Sleeper};
use crate::shm::layout::{
    DONE_HEAD_OFFSET, DONE_WORDS, MESSAGE_HEAD_OFFSET, RING_OFFSET, SLOT_WORDS, receive_done_kind,
};
use crate::shm::ledger::Ledger;
use crate::shm::region::fork::Generation;
use crate::shm::region::{Mapping, Read, Write};
use crate::shm::ring::{Consumer, PeerFault, Producer, SlotHead};
use crate::socket::{self, Ring};
pub(crate) use events::{Wants, Watch};
pub(crate) use flows::End;
use flows::{FlowTable, NO_HANDLE};
pub use news::News;
use news::{Board, Told};
use queue::{List, Slab};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A flow of one channel. An id whose flow was released is refused, even when its place is in use again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct FlowId {
    pub(crate) handle: u32,
}

impl FlowId {
    /// The flow's number on its channel: place in the lower 16 bits, generation in the upper.
    pub fn handle(self) -> u32 {
        self.handle
    }

    /// The flow of that number; whether there is one, each call says.
    pub fn from_handle(handle: u32) -> Self {
        Self { handle }
    }
}

/// A listener of one channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ListenerId(pub(crate) u32);

/// A connect under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ConnectId(pub(crate) u32);

/// What a channel is.
#[derive(Clone, Debug)]
pub struct ChannelInfo {
    /// Number of the channel, unique for the sidecar's life.
    pub channel: u64,
    /// Engine that serves it.
    pub engine: u32,
    /// The sidecar's process.
    pub sidecar_pid: u32,
    /// The address that the sidecar owns.
    pub local: SocketAddr,
    /// Sizes granted.
    pub geometry: Geometry,
}

/// The two ends of the doorbell that belong to the application.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Readable when the engine rang, hung up when it is gone.
    wait: OwnedFd,
    /// Where we ring the engine; a socket is both.
    ring: Option<OwnedFd>,
}

impl Doorbell {
    /// A doorbell of descriptors as they come with `Welcome`; none if their number is wrong for the kind.
    pub(crate) fn new(kind: DoorbellKind, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let wait = descriptors.next()?;
        let ring = descriptors.next();
        let right = ring.is_some() == (kind == DoorbellKind::Pipe) && descriptors.next().is_none();
        right.then_some(Self { wait, ring })
    }

    /// The descriptor that becomes readable.
    pub(crate) fn wait_fd(&self) -> BorrowedFd<'_> {
        self.wait.as_fd()
    }

    fn ring(&self) -> Ring {
        match &self.ring {
            Some(ring) => socket::ring_quietly(ring.as_fd(), false),
            None => socket::ring_quietly(self.wait.as_fd(), true),
        }
    }
}

/// Why a channel serves no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    /// The sidecar is gone.
    Lost,
    /// The sidecar broke the rules.
    Broken(PeerFault),
    /// We closed it.
    Closed,
}

impl From<Over> for Error {
    fn from(over: Over) -> Self {
        match over {
            Over::Lost => Self::EngineLost,
            Over::Broken(fault) => Self::SidecarBroken(fault),
            Over::Closed => Self::Closed,
        }
    }
}

/// What can be asked about a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowLook {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) max_message: u32,
    pub(crate) unacknowledged: u32,
    pub(crate) end: Option<End>,
}

/// A listener as the application's end knows it.
#[derive(Debug)]
struct ListenerState {
    channel_mode: bool,
    /// Flows that arrived and were not accepted yet.
    arrived: VecDeque<u32>,
    /// Why no more will.
    ended: Option<ResetReason>,
    told: Told,
    token: u64,
}

/// A connect that was asked for.
#[derive(Debug)]
struct Connecting {
    remote: SocketAddr,
    local: SocketAddr,
    /// Nobody waits for it any more.
    abandoned: bool,
    /// The flow's handle, or the reason's code.
    outcome: Option<std::result::Result<u32, u16>>,
    told: Told,
    token: u64,
}

/// A done slot that waits for room in its ring.
#[derive(Debug, Clone, Copy)]
struct Done {
    kind: u8,
    count: u16,
    flow: u32,
    argument: u32,
}

/// In-slot messages that were taken from one flow.
#[derive(Debug, Clone, Copy)]
struct Run {
    handle: u32,
    messages: u32,
    bytes: u32,
}

impl Default for Run {
    fn default() -> Self {
        Self { handle: NO_HANDLE, messages: 0, bytes: 0 }
    }
}

/// After so many polls in a row that found nothing, what was taken is told to the engine.
const EMPTY_POLLS_BEFORE_FLUSH: u32 = 8;
/// After so many, the doorbell is asked whether the sidecar is still there.
const EMPTY_POLLS_BEFORE_CHECK: u32 = 4096;
/// The state of a channel. Not safe for threads, never waits.
#[derive(Debug)]
pub(crate) struct Core {
    generation: Generation,
    ours: Arc<Mapping<Write>>,
    theirs: Arc<Mapping<Read>>,
    geometry: Geometry,
    /// The sidecar's UDP port, to name it when a peer does not answer.
    udp_port: u16,
    send_ring: Producer<SLOT_WORDS>,
    receive_done: Producer<DONE_WORDS>,
    receive_ring: Consumer<SLOT_WORDS>,
    send_done: Consumer<DONE_WORDS>,
    sleeper: Sleeper,
    ringer: Ringer,
    bell: Arc<Doorbell>,
    tx: Ledger,
    flows: FlowTable,
    slab: Slab,
    /// Messages of all channel-mode flows in order of arrival.
    common: List,
    /// Channel-mode flows by peer and own end.
    by_ends: HashMap<(SocketAddr, SocketAddr), u32>,
    /// Peer and own end of the channel-mode flows that ended last, oldest first: tells "closed" from "never was".
    ended: VecDeque<(SocketAddr, SocketAddr)>,
    listeners: HashMap<u32, ListenerState>,
    /// Listen requests whose reply has not come: a flow may arrive before it.
    listens_pending: u32,
    /// Listeners that ended before their reply came.
    ended_early: Vec<(u32, ResetReason)>,
    /// A listener in channel mode has ended; who receives from any flow is told once.
    ended_any: Option<ResetReason>,
    /// Flows that arrived for a listener whose reply has not come.
    orphans: Vec<(u32, u32)>,
    connects: HashMap<u32, Connecting>,
    next_request: u32,
    /// CLOSE and RESET slots that wait for room in the send ring.
    unsent_ends: VecDeque<(u8, u32)>,
    /// Done slots that wait for room. The ring is sized so that this stays empty.
    unsent_done: VecDeque<Done>,
    /// In-slot messages that were taken from one flow in a row, and not told.
    run: Run,
    /// Flows with in-slot messages that were taken before that and not told, and the sum of those.
    taken_flows: Vec<u32>,
    taken_total: u32,
    /// So many of them are told at once.
    taken_limit: u32,
    returns: Arc<Returns>,
    /// Kept to be used again: what [`Self::flush_returns`] takes.
    returned: Vec<u32>,
    over: Option<Over>,
    event_mode: bool,
    empty_polls: u32,
    quiet_looks: u32,
    idle_calls: u32,
    /// Rings that were answered to us and whose bytes lie in the doorbell.
    bytes_due: u32,
    news: Board,
    /// Who was told that there is nothing in the common queue, and no slot of the send ring.
    common_told: Told,
    slot_told: Told,
    /// Flows with credit that were told to wait: for buffers or a slot.
    room_waiters: Vec<u32>,
    /// Something came since [`Self::take_changed`].
    changed: bool,
    /// Done slots were published and the engine was not woken for them yet.
    unrung: bool,
}

impl Core {
    /// The application's end of two mapped regions.
    pub(crate) fn new(
        ours: Mapping<Write>,
        theirs: Mapping<Read>,
        geometry: Geometry,
        bell: Doorbell,
        udp_port: u16,
    ) -> Self {
        let g = geometry;
        Self {
            generation: Generation::current(),
            ours: Arc::new(ours),
            theirs: Arc::new(theirs),
            geometry,
            udp_port,
            send_ring: Producer::new(RING_OFFSET, g.send_slots, MESSAGE_HEAD_OFFSET),
            receive_done: Producer::new(g.receive_done_offset(), g.receive_done_slots(), DONE_HEAD_OFFSET),
            receive_ring: Consumer::new(RING_OFFSET, g.receive_slots, MESSAGE_HEAD_OFFSET),
            send_done: Consumer::new(g.send_done_offset(), g.send_done_slots(), DONE_HEAD_OFFSET),
            sleeper: Sleeper::default(),
            ringer: Ringer::default(),
            bell: Arc::new(bell),
            tx: Ledger::new(g.tx_buffers),
            flows: FlowTable::new(g.max_flows),
            slab: Slab::new(g.receive_slots),
            common: List::EMPTY,
            by_ends: HashMap::new(),
            ended: VecDeque::new(),
            listeners: HashMap::new(),
            ended_early: Vec::new(),
            ended_any: None,
            listens_pending: 0,
            orphans: Vec::new(),
            connects: HashMap::new(),
            next_request: 1,
            unsent_ends: VecDeque::new(),
            unsent_done: VecDeque::new(),
            run: Run::default(),
            taken_flows: Vec::new(),
            taken_total: 0,
            // A sixteenth of the ring at most, so that what is held back here never matters to the senders' windows; and
            // more than 16 to an entry would save nothing that can be measured.
            taken_limit: (g.receive_slots / 16).min(16),
            returns: Arc::new(Returns::new(&g)),
            returned: Vec::new(),
            over: None,
            event_mode: false,
            empty_polls: 0,
            quiet_looks: 0,
            idle_calls: 0,
            bytes_due: 0,
            news: Board::default(),
            common_told: Told::default(),
            slot_told: Told::default(),
            room_waiters: Vec::new(),
            changed: false,
            unrung: false,
        }
    }

    /// What the application may know of a flow.
    pub(crate) fn look(&self, id: FlowId) -> Result<FlowLook> {
        let flow = self.flows.look(id.handle).ok_or(Error::UnknownFlow)?;
        let unacknowledged = if flow.end.is_some() { flow.lost } else { flow.outstanding() };
        Ok(FlowLook {
            peer: flow.info.peer,
            local: flow.info.local,
            max_message: flow.max_message,
            unacknowledged,
            end: flow.end,
        })
    }

    /// Answers [`Error::Forked`] in a child of the process that attached: its rings are the parent's.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.generation.is_current() { Ok(()) } else { Err(Error::Forked) }
    }

    /// The process that attached.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// The doorbell, to be waited on outside of any lock.
    pub(crate) fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    /// Where loans go when they are dropped.
    pub(crate) fn returns(&self) -> &Arc<Returns> {
        &self.returns
    }

    /// The channel serves no more; the first reason stays.
    fn set_over(&mut self, over: Over) {
        if self.over.is_none() {
            self.over = Some(over);
            self.changed = true;
        }
    }

    /// The application closed the channel.
    pub(crate) fn set_over_closed(&mut self) {
        self.set_over(Over::Closed);
    }

    fn broken(&mut self, fault: PeerFault) {
        self.set_over(Over::Broken(fault));
    }

    /// Answers why the channel serves no more, if so.
    #[inline]
    pub(crate) fn check_over(&self) -> Result<()> {
        match self.over {
            None => Ok(()),
            Some(over) => Err(over.into()),
        }
    }

    /// Whether something came since the last call.
    #[inline]
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Wakes the engine if it sleeps. Call once per batch, after publishing.
    #[inline]
    fn notify(&mut self) {
        self.unrung = false;
        if self.ringer.must_ring(&*self.ours, &*self.theirs, REASON_ANY) && self.bell.ring() == Ring::HungUp {
            self.set_over(Over::Lost);
        }
    }

    /// As [`Self::notify`], if anything went into the receive-done ring since.
    #[inline]
    fn notify_if_pushed(&mut self) {
        if self.unrung {
            self.notify();
        }
    }

    /// Puts an entry into the receive-done ring, or keeps it until there is room.
    fn push_done(&mut self, kind: u8, count: u16, flow: u32, argument: u32) {
        let done = Done { kind, count, flow, argument };
        if !self.unsent_done.is_empty() || !self.publish_done(done) {
            self.unsent_done.push_back(done);
        }
    }

    /// Says false if the ring is full.
    fn publish_done(&mut self, done: Done) -> bool {
        match self.receive_done.free(&*self.theirs, 1) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(fault) => {
                self.broken(fault);
                return false;
            }
        }
        self.unrung = true;
        let head = SlotHead { kind: done.kind, count: 0, length: done.count };
        self.receive_done.publish(&*self.ours, head, |words| {
            let word = u64::from(done.flow) | u64::from(done.argument) << 32;
            words[1].store(word, Ordering::Relaxed);
        });
        true
    }

    fn flush_done(&mut self) {
        while let Some(&done) = self.unsent_done.front() {
            if !self.publish_done(done) {
                return;
            }
            self.unsent_done.pop_front();
        }
    }

    /// Tells the engine of every in-slot message that was taken and every loan that was dropped.
    pub(crate) fn flush(&mut self) {
        self.receive_ring.tell_head(&*self.ours);
        self.flush_taken();
        self.flush_returns();
        self.flush_done();
        self.notify_if_pushed();
    }

    fn flush_taken(&mut self) {
        self.set_run_aside();
        self.taken_total = 0;
        while let Some(handle) = self.taken_flows.pop() {
            self.flush_taken_of(handle);
        }
    }

    /// Counts an in-slot message of the flow as taken. Says whether it is time to tell.
    #[inline(always)]
    fn count_taken(&mut self, handle: u32, length: u16) -> bool {
        if self.run.handle != handle {
            self.begin_run(handle);
        }
        self.run.messages += 1;
        self.run.bytes += u32::from(length);
        self.run.messages + self.taken_total >= self.taken_limit
    }

    #[inline(never)]
    fn begin_run(&mut self, handle: u32) {
        self.set_run_aside();
        self.run.handle = handle;
    }

    fn set_run_aside(&mut self) {
        let Run { handle, messages, bytes } = std::mem::take(&mut self.run);
        let Some(flow) = self.flows.find(handle) else { return };
        if flow.taken == 0 && messages > 0 {
            self.taken_flows.push(handle);
        }
        flow.taken += messages;
        flow.taken_bytes += bytes;
        self.taken_total += messages;
    }

    fn flush_taken_of(&mut self, handle: u32) {
        self.set_run_aside();
        let Some(flow) = self.flows.find(handle) else { return };
        let (count, bytes) = (std::mem::take(&mut flow.taken), std::mem::take(&mut flow.taken_bytes));
        if count > 0 {
            let count = u16::try_from(count).unwrap_or(u16::MAX); // At most `taken_flow_limit`.
            self.push_done(receive_done_kind::INLINE_TAKEN, count, handle, bytes);
        }
    }

    /// Gives dropped loans back.
    fn flush_returns(&mut self) {
        if self.returns.any() {
            let mut tokens = std::mem::take(&mut self.returned);
            self.returns.take(&mut tokens);
            for token in tokens.drain(..) {
                self.push_done(receive_done_kind::BUFFERS_TAKEN, 0, 0, token);
            }
            self.returned = tokens;
        }
    }

    /// A poll found nothing: now and then time to tell what was held back, and to see whether the sidecar lives.
    fn count_empty_poll(&mut self) {
        self.empty_polls = self.empty_polls.wrapping_add(1);
        self.receive_ring.tell_head(&*self.ours);
        if self.returns.any() || self.empty_polls.is_multiple_of(EMPTY_POLLS_BEFORE_FLUSH) {
            self.flush();
        }
        if self.empty_polls.is_multiple_of(EMPTY_POLLS_BEFORE_CHECK) {
            self.check_alive();
        }
    }
}

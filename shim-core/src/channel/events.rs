//! The doorbell as the application's descriptor, and the sleeps on it.
//!
//! In event mode each call that finds nothing leaves things so that a plain epoll loop misses nothing: either the descriptor
//! is readable, or nothing has come since that anybody waits for. One descriptor serves many flows, and a call for one may
//! take from the rings what another was told is not there. That is *news*: the descriptor stays readable until the other
//! one has asked, or until somebody was told of nothing twice, so that a whole round of the loop has passed it by. A loop that
//! also calls between its rounds says where a round begins; then news stay for a whole one, whatever is told.

use super::{Core, FlowId};
use crate::error::Result;
use crate::shm::bell::REASON_ANY;
use crate::socket::{self, Woken};
use std::time::Duration;

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    /// A message of the flow.
    Receive(FlowId),
    /// A message of any channel-mode flow.
    Any,
    /// Credit and room to send.
    Send(FlowId),
    /// A flow that arrived at the listener.
    Accept(u32),
    /// The outcome of the connect.
    Connect(u32),
    /// A slot of the send ring.
    Slot,
}

/// Whether somebody was told that there is nothing, and what came since.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// When, on the clock of [`News`]; 0: nobody waits.
    since: u64,
    /// The period of [`News`] in which something came; 0: nothing did.
    period: u64,
}

impl Told {
    /// Whether somebody waits.
    #[inline]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.since != 0
    }
}

/// What came for those who were told that there is nothing.
#[derive(Debug)]
pub(crate) struct News {
    /// How many of them have not asked since.
    count: u32,
    /// When the latest came.
    latest: u64,
    clock: u64,
    /// Counts how often the news were given up, so that nobody has to be visited then.
    period: u64,
    /// When the present round of the loop began; 0: it does not say.
    round: u64,
}

impl Default for News {
    fn default() -> Self {
        Self { count: 0, latest: 0, clock: 0, period: 1, round: 0 }
    }
}

impl News {
    /// Something came.
    #[inline]
    pub(crate) fn note(&mut self, told: &mut Told) {
        if told.since != 0 && told.period != self.period {
            told.period = self.period;
            self.count += 1;
            self.clock += 1;
            self.latest = self.clock;
        }
    }

    /// Somebody asks.
    pub(crate) fn ask(&mut self, told: &mut Told) {
        if told.period == self.period {
            self.count -= 1;
        }
        told.period = 0;
    }

    /// Somebody found something, or does not wait any more.
    pub(crate) fn satisfy(&mut self, told: &mut Told) {
        self.ask(told);
        told.since = 0;
    }

    /// Somebody is told that there is nothing. Says whether the descriptor has to stay readable for others.
    fn tell(&mut self, told: &mut Told) -> bool {
        let again = told.since > self.latest;
        self.clock += 1;
        told.since = self.clock;
        if self.count > 0 && again && self.round == 0 {
            self.give_up();
        }
        self.count > 0
    }

    /// A round of the loop begins. What was there when the last one did concerns nobody who waits.
    fn begin_round(&mut self) {
        if self.count > 0 && self.latest <= self.round {
            self.give_up();
        }
        self.clock += 1;
        self.round = self.clock;
    }

    fn give_up(&mut self) {
        self.count = 0;
        self.period += 1;
    }
}

/// What a thread that is about to sleep has to watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watch {
    /// The doorbell will ring.
    Bell,
    /// The doorbell holds a byte that belongs to the application's own event loop: look again soon.
    Slice,
}

impl Watch {
    /// Whether to wait for the doorbell's byte, or only for its hang-up.
    pub(crate) fn listens(self) -> bool {
        self == Self::Bell
    }

    /// How long to sleep of what is `left`.
    pub(crate) fn span(self, left: Option<Duration>) -> Option<Duration> {
        match self {
            Self::Bell => left,
            Self::Slice => Some(left.map_or(SLICE, |left| left.min(SLICE))),
        }
    }
}

/// While a byte lies in the doorbell that is not ours to read, look this often.
const SLICE: Duration = Duration::from_millis(1);
/// Calls in event mode that found nothing, with no ring between them, before the doorbell is asked why it is readable.
const IDLE_CALLS_BEFORE_CHECK: u32 = 2;

impl Core {
    /// From now on a call that finds nothing arms the doorbell.
    pub(crate) fn enter_event_mode(&mut self) {
        if !self.event_mode {
            self.event_mode = true;
            self.sleeper.arm(&*self.ours, REASON_ANY);
            self.poll();
        }
    }

    /// The application's loop begins a round, in which everything is asked for that is waited for.
    pub(crate) fn begin_round(&mut self) {
        self.news.begin_round();
    }

    /// A call that does not wait, as event mode wants it.
    #[inline]
    pub(crate) fn attempt<T>(
        &mut self,
        wants: Wants,
        mut call: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if self.event_mode { self.attempt_in_event_mode(wants, call) } else { call(self) }
    }

    fn attempt_in_event_mode<T>(
        &mut self,
        wants: Wants,
        mut call: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if let Some((news, told)) = self.told(wants) {
            news.ask(told);
        }
        let mut outcome = call(self);
        if matches!(outcome, Ok(None)) && self.over.is_none() && self.must_look_again(wants) {
            self.poll();
            outcome = call(self);
            if matches!(outcome, Ok(None)) && self.news.count == 0 {
                self.read_due_bytes();
            }
        }
        if !matches!(outcome, Ok(None))
            && let Some((news, told)) = self.told(wants)
        {
            news.satisfy(told);
        }
        outcome
    }

    /// The rule of event mode: arm, look again, and read what was rung before only if nothing came for anybody.
    fn must_look_again(&mut self, wants: Wants) -> bool {
        self.flush();
        self.note_room_waiter(wants);
        if let Some((news, told)) = self.told(wants)
            && news.tell(told)
        {
            // The descriptor stays readable for others. But what this call took from the rings behind its own look was no news
            // to it, and the others' calls may be the last that are woken.
            return true;
        }
        if self.sleeper.is_answered(&*self.theirs) {
            self.idle_calls = 0;
            self.bytes_due += 1;
            self.sleeper.arm(&*self.ours, REASON_ANY);
            return true;
        }
        // Still armed: what the caller just did was the second look.
        if self.bytes_due > 0 {
            self.read_due_bytes();
        } else {
            self.check_idle_bell();
        }
        false
    }

    /// A flow that has credit waits for buffers, which any flow's acknowledgement may bring.
    fn note_room_waiter(&mut self, wants: Wants) {
        if let Wants::Send(id) = wants
            && let Some(flow) = self.flows.look(id.handle)
            && flow.outstanding() + flow.reserved < flow.credit
            && !self.room_waiters.contains(&id.handle)
        {
            self.room_waiters.push(id.handle);
        }
    }

    /// TX buffers or slots came back.
    pub(super) fn note_room(&mut self) {
        self.news.note(&mut self.slot_told);
        while let Some(handle) = self.room_waiters.pop() {
            if let Some(flow) = self.flows.find(handle) {
                self.news.note(&mut flow.sending);
            }
        }
    }

    /// Reads as many bytes as were rung for earlier armings, and no more: the next one may be the present arming's.
    fn read_due_bytes(&mut self) {
        match socket::take_rings(self.bell.wait_fd(), self.bytes_due) {
            Some(count) => self.bytes_due -= count,
            None => self.lost(),
        }
    }

    /// Armed, not rung, and called again with nothing to find: if the descriptor is readable, that is a hang-up, or a byte
    /// of the time before event mode.
    fn check_idle_bell(&mut self) {
        self.idle_calls += 1;
        if self.idle_calls < IDLE_CALLS_BEFORE_CHECK {
            return;
        }
        self.idle_calls = 0;
        let Ok(woken) = socket::wait_bell(self.bell.wait_fd(), true, None, Some(Duration::ZERO)) else {
            return;
        };
        if woken.hung_up {
            self.lost();
        } else if woken.bell && !self.sleeper.is_answered(&*self.theirs) {
            self.bytes_due = 1; // RUNG is written before its byte: this byte answers no arming of now.
            self.read_due_bytes();
        }
    }

    /// Who was told what, with the channel's news.
    fn told(&mut self, wants: Wants) -> Option<(&mut News, &mut Told)> {
        let told = match wants {
            Wants::Receive(id) => &mut self.flows.find(id.handle)?.receiving,
            Wants::Send(id) => &mut self.flows.find(id.handle)?.sending,
            Wants::Any => &mut self.common_told,
            Wants::Slot => &mut self.slot_told,
            Wants::Accept(listener) => &mut self.listeners.get_mut(&listener)?.told,
            Wants::Connect(request) => &mut self.connects.get_mut(&request)?.told,
        };
        Some((&mut self.news, told))
    }

    /// Asks the doorbell whether the other end is gone.
    pub(crate) fn check_alive(&mut self) {
        let zero = Some(Duration::ZERO);
        if socket::wait_bell(self.bell.wait_fd(), false, None, zero).is_ok_and(|woken| woken.hung_up) {
            self.lost();
        }
    }

    /// Arms the doorbell for a thread that wants to sleep. It has to look again, then watch what this says, and call
    /// [`Self::after_sleep`].
    pub(crate) fn before_sleep(&mut self) -> Watch {
        self.flush();
        // In event mode the byte in the doorbell is the application's: were it read here, its event loop would miss
        // what came for other flows meanwhile.
        if self.event_mode {
            let rung = self.bytes_due > 0 || self.sleeper.is_answered(&*self.theirs);
            return if rung { Watch::Slice } else { Watch::Bell };
        }
        self.sleeper.arm(&*self.ours, REASON_ANY);
        Watch::Bell
    }

    /// Whether the byte in the doorbell is the application's to read.
    pub(crate) fn is_in_event_mode(&self) -> bool {
        self.event_mode
    }

    /// The sleep is over, or was not needed (`woken` of nothing).
    pub(crate) fn after_sleep(&mut self, woken: Woken) {
        if woken.hung_up {
            self.lost();
        }
        if self.event_mode {
            return;
        }
        self.sleeper.disarm(&*self.ours);
        if woken.bell && socket::drain(self.bell.wait_fd()) == socket::Drained::HungUp {
            self.lost();
        }
    }

    /// The sidecar is gone. What it published before is still there and is taken first.
    fn lost(&mut self) {
        self.poll();
        self.set_over(super::Over::Lost);
    }
}

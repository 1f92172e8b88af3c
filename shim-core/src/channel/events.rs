//! The doorbell as the application's descriptor, and the sleeps on it.
//!
//! In event mode each call that finds nothing leaves things so that a plain epoll loop misses nothing: either the descriptor
//! is readable, or nothing has come since that anybody waits for. One descriptor serves many flows, and a call for one may
//! take from the rings what another was told is not there. That is *news*: the descriptor stays readable until the other
//! one has asked, or until somebody was told of nothing twice, so that a whole round of the loop has passed it by. A loop that
//! takes the news themselves (see [`super::news`]) needs none of that.

use super::news::{Board, Told};
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

impl Wants {
    /// Whether it is about sending.
    #[inline]
    pub(super) fn is_room(self) -> bool {
        matches!(self, Self::Send(_) | Self::Slot)
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
        if self.news.is_taken() {
            return self.attempt_beside_news(wants, call);
        }
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
        if self.arm_again() {
            return true;
        }
        // Still armed: what the caller just did was the second look.
        self.read_answered_bytes(true);
        false
    }

    /// Arms the doorbell anew if it was rung; then the caller has to look again.
    pub(super) fn arm_again(&mut self) -> bool {
        let rung = self.over.is_none() && self.sleeper.is_answered(&*self.theirs);
        if rung {
            self.idle_calls = 0;
            self.bytes_due += 1;
            self.sleeper.arm(&*self.ours, REASON_ANY);
        }
        rung
    }

    /// Armed, and looked since: what was rung for before is done with.
    pub(super) fn read_answered_bytes(&mut self, found_nothing: bool) {
        if self.bytes_due > 0 {
            self.read_due_bytes();
        } else if found_nothing {
            // Who takes the news does so because the descriptor is readable.
            self.check_idle_bell(if self.news.is_taken() { 1 } else { IDLE_CALLS_BEFORE_CHECK });
        }
    }

    /// A flow that has credit waits for buffers, which any flow's acknowledgement may bring.
    pub(super) fn note_room_waiter(&mut self, wants: Wants) {
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
        self.news.note(&mut self.slot_told, Wants::Slot);
        while let Some(handle) = self.room_waiters.pop() {
            if let Some(flow) = self.flows.find(handle) {
                self.news.note(&mut flow.sending, Wants::Send(FlowId { handle }));
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
    fn check_idle_bell(&mut self, calls: u32) {
        self.idle_calls += 1;
        if self.idle_calls < calls {
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
    pub(super) fn told(&mut self, wants: Wants) -> Option<(&mut Board, &mut Told)> {
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

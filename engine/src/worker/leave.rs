//! How a channel ends: in order when its application leaves or dies, at once when it broke a rule.

use super::Worker;
use crate::counters::Counter;
use crate::driver::Driver;
use crate::host::{LeaveCause, Leaving};
use crate::mailbox::Notice;
use crate::proto::Reason;
use crate::proto::time::{Duration, Instant};
use crate::tenant::{Flow, FlowSlot, Link, Taken};

impl<D: Driver> Worker<D> {
    /// The application of a channel is gone or going: what it published is sent, its flows are closed in order.
    pub(super) fn leave(&mut self, now: Instant, channel: u64, cause: LeaveCause, linger: Duration) {
        let Some(index) = self.host.find(channel) else { return };
        let seat = self.host.at(index);
        if seat.fault.is_some() {
            return;
        }
        let deadline = now + linger;
        if let Some(leaving) = &mut seat.leaving {
            // Told before, perhaps with more patience.
            leaving.deadline = leaving.deadline.min(deadline);
            return;
        }
        self.take_what_was_published(now, index);
        self.host.forget_listeners(index);
        let seat = self.host.at(index);
        seat.tenant.disarm();
        seat.leaving = Some(Leaving { cause, deadline });
        if seat.polled {
            seat.polled = false;
            self.host.polled.retain(|&other| other != index);
        }
        for slot in self.live_flows(index) {
            let flow = self.host.look(index).tenant.look(slot);
            if flow.connecting().is_some() || (flow.unaccepted.is_some() && cause != LeaveCause::Shutdown) {
                self.reset(now, index, slot, Reason::ApplicationGone);
            } else {
                self.close(now, index, slot);
            }
        }
        self.leaving.push(index);
    }

    /// One bounded pass over the send ring: `send(); exit(0)` delivers.
    fn take_what_was_published(&mut self, now: Instant, index: u32) {
        let slots = self.host.look(index).tenant.geometry().send_slots;
        for _ in 0..slots {
            let result = match self.host.at(index).tenant.take() {
                Ok(Some(Taken::Connect { .. })) => Ok(()),
                Ok(Some(taken)) => self.handle_taken(now, index, taken),
                Ok(None) => return,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = result {
                self.host.fault(index, fault);
                return;
            }
        }
    }

    /// The flows of a tenant that did not end; made for the caller, because ending them changes the table.
    fn live_flows(&self, index: u32) -> Vec<FlowSlot> {
        let flows = self.host.look(index).tenant.flows();
        flows.filter(|(_, flow)| flow.link != Link::Ended).map(|(slot, _)| slot).collect()
    }

    /// Drops tenants whose flows have ended, and ends those of tenants whose time is over.
    pub(super) fn finish_leaving(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        let mut place = 0;
        while place < self.leaving.len() {
            let index = self.leaving[place];
            let seat = self.host.at(index);
            let overdue = seat.leaving.is_some_and(|leaving| now >= leaving.deadline);
            if seat.fault.is_none() && seat.live_flows > 0 && !overdue {
                place += 1;
                continue;
            }
            self.leaving.swap_remove(place);
            if seat.fault.is_some() {
                continue; // Ended with the other faulted ones.
            }
            if seat.live_flows > 0 {
                self.host.counters.count(Counter::LingerExpired);
            }
            self.retire(now, index);
            ended += 1;
        }
        if let Some(deadline) = self.shutdown
            && self.leaving.is_empty()
            && self.host.is_empty()
        {
            // One cycle more, so that the last resets and acknowledgements leave.
            self.finished = ended == 0 && (!self.host.owes_neighbours() || now >= deadline);
        }
        ended
    }

    /// The next deadline of a tenant on its way out.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadline = |&index: &u32| self.host.look(index).leaving.map(|leaving| leaving.deadline);
        self.leaving.iter().filter_map(deadline).min()
    }

    /// Ends what is left of a tenant and drops it.
    fn retire(&mut self, now: Instant, index: u32) {
        let leaving = self.host.look(index).leaving;
        let reason = match leaving {
            Some(leaving) if leaving.is_shutdown() => Reason::ShuttingDown,
            _ => Reason::ApplicationGone,
        };
        for slot in self.live_flows(index) {
            self.reset(now, index, slot, reason);
        }
        self.host.publish(index);
        if let Some(seat) = self.host.unseat(index) {
            self.backlog.retain(|&other| other != index);
            let channel = seat.tenant.identity().channel;
            self.notices.send(Notice::Ended { channel, fault: seat.fault });
        }
    }

    /// Ends the channels that broke a rule in this cycle; their neighbours notice nothing.
    #[cold]
    pub(super) fn end_faulted(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while let Some(index) = self.host.faulted.pop() {
            let seat = self.host.at(index);
            let Some(fault) = seat.fault else { continue };
            let identity = seat.tenant.identity();
            tracing::warn!(
                channel = identity.channel,
                pid = identity.pid,
                name = %identity.name.escape_debug(),
                "channel ended: {fault}"
            );
            self.host.counters.count(Counter::ChannelsFaulted);
            self.host.counters.count(fault.into());
            self.leaving.retain(|&other| other != index);
            self.retire(now, index);
            ended += 1;
        }
        ended
    }

    /// A listener is given up: flows that were not accepted yet are refused, the others stay.
    pub(super) fn unlisten(&mut self, now: Instant, listener: u32) {
        // Only the flows of its own channel are looked through, and only if one waits: applications can ask for this often.
        let Some(index) = self.host.unlisten(listener) else { return };
        // The application may have accepted them just before: that lies in its ring, and this came by another way.
        if let Err(fault) = self.take_all_returned(now, index) {
            return self.host.fault(index, fault);
        }
        let waits = |flow: &Flow| flow.unaccepted == Some(listener) && flow.link != Link::Ended;
        let flows = self.host.look(index).tenant.flows();
        let unaccepted: Vec<_> = flows.filter(|(_, flow)| waits(flow)).map(|(slot, _)| slot).collect();
        for slot in unaccepted {
            self.reset(now, index, slot, Reason::Refused);
        }
    }

    /// Closes everything in order and lets the applications know; ends when all is closed or `linger` is over.
    pub(super) fn shut_down(&mut self, now: Instant, linger: Duration) {
        let deadline = now + linger;
        self.shutdown = Some(self.shutdown.map_or(deadline, |earlier| earlier.min(deadline)));
        let seats = self.host.seats().filter(|(_, seat)| seat.fault.is_none() && seat.leaving.is_none());
        let (places, channels): (Vec<u32>, Vec<u64>) =
            seats.map(|(index, seat)| (index, seat.tenant.identity().channel)).unzip();
        // Everything that was sent before the first close: one application's close may end another's flow.
        for index in places {
            self.take_what_was_published(now, index);
        }
        self.host.shut_down_bridges();
        for channel in channels {
            self.leave(now, channel, LeaveCause::Shutdown, linger);
        }
        if self.host.is_empty() && !self.host.owes_neighbours() {
            self.finished = true;
        }
    }
}

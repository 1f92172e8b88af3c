//! What the engine does when its network path goes and comes back.

use super::Worker;
use super::intake::INTERFACE_GONE;
use super::rest;
use crate::driver::{Driver, PathState};
use crate::proto::time::Instant;
use crate::proto::{FlowId, Reason};
use crate::tenant::{FlowSlot, Link};

impl<D: Driver> Worker<D> {
    /// The network path is not what it was. A path that is merely down may be up again before anybody's patience ends, so flows
    /// live on. One that is gone may come back with another address or not at all, so they end, and the applications learn why.
    #[cold]
    pub(super) fn handle_path(&mut self, now: Instant) {
        let before = std::mem::replace(&mut self.path, self.driver.state());
        if self.path == PathState::Gone {
            self.end_remote_flows(now);
            self.end_listeners(now);
        } else if before == PathState::Gone
            && let Err(error) = rest::watch_again(&self.epoll, &self.driver)
        {
            self.path_failed(&error);
        }
    }

    fn end_remote_flows(&mut self, now: Instant) {
        let mut remote: Vec<(u32, FlowSlot, FlowId)> = Vec::new();
        for (index, seat) in self.host.seats().filter(|(_, seat)| seat.fault.is_none()) {
            remote.extend(seat.tenant.flows().filter_map(|(slot, flow)| match flow.link {
                Link::Remote(id) => Some((index, slot, id)),
                Link::Local { .. } | Link::Bridge(_) | Link::Ended => None,
            }));
        }
        for (index, slot, id) in remote {
            // Nothing reaches the peer; it learns of it by its own timers, or when it hears from us again.
            self.endpoint.reset(now, id, Reason::Aborted, &mut self.host);
            self.tell_reset(index, slot, INTERFACE_GONE);
        }
    }

    /// Applications listen again when they see fit; flows of this host that were not accepted yet are refused.
    fn end_listeners(&mut self, now: Instant) {
        for (index, listener) in self.host.all_listeners() {
            let seat = self.host.at(index);
            if seat.fault.is_none() && seat.tenant.end_listener(listener, INTERFACE_GONE) {
                self.unlisten(now, listener);
                self.host.touch(index);
                self.host.wake(index);
            }
        }
    }
}

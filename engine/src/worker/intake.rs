//! What applications published: messages, requests, and what they give back.

use super::{SLOT_BURST, Worker};
use crate::counters::Counter;
use crate::driver::{Driver, PathState};
use crate::proto::time::{Duration, Instant};
use crate::proto::{Endpoint, FlowId, Reason, SendError, TxHandle};
use crate::tenant::{FlowSlot, Link, Returned, Taken};
use machnet_client::shm::layout::{ConnectRequest, FlowInfo, receive_kind};
use machnet_client::shm::ring::PeerFault;
use std::net::SocketAddr;

/// A connect failed: the local address that the application insists on is not the sidecar's. Never on the wire.
const ADDRESS_NOT_LOCAL: u16 = 11;
/// A connect failed: no packet can go to that address. Never on the wire.
const NO_ROUTE: u16 = 12;
/// A connect failed, or a flow ended: the network interface is gone. Never on the wire.
pub(super) const INTERFACE_GONE: u16 = 13;

/// After so many empty looks a tenant is told what was held back.
const LOOKS_BEFORE_SETTLING: u32 = 16;

impl<D: Driver> Worker<D> {
    /// Takes from every polled tenant, beginning with another one in each cycle.
    pub(super) fn take_from_tenants(&mut self, now: Instant) -> usize {
        let count = self.host.polled.len();
        if count == 0 {
            return 0;
        }
        self.first_polled = if self.first_polled + 1 < count { self.first_polled + 1 } else { 0 };
        let mut work = 0;
        for offset in 0..count {
            let mut place = self.first_polled + offset;
            if place >= count {
                place -= count;
            }
            // The list only grows meanwhile; tenants leave it in `rest`, `leave` and `end_faulted`.
            let index = self.host.polled[place];
            work += self.take_from(now, index);
        }
        work
    }

    #[inline]
    fn take_from(&mut self, now: Instant, index: u32) -> usize {
        let seat = self.host.at(index);
        let found = if seat.tenant.has_input() { self.take_all(now, index) } else { 0 };
        let seat = self.host.at(index);
        if found == 0 {
            seat.empty_looks = seat.empty_looks.saturating_add(1);
            if seat.empty_looks == LOOKS_BEFORE_SETTLING && seat.tenant.is_unsettled() {
                self.host.settle(index);
            }
            return 0;
        }
        (seat.empty_looks, seat.last_found) = (0, now);
        if seat.tenant.take_relief() {
            self.host.relieved.push(index);
        }
        self.host.touch(index);
        found
    }

    #[inline(never)]
    fn take_all(&mut self, now: Instant, index: u32) -> usize {
        let mut found = 0;
        match self.take_sent(now, index) {
            Ok(taken) => found += taken,
            Err(fault) => self.host.fault(index, fault),
        }
        match self.take_returned(now, index) {
            Ok(taken) => found += taken,
            Err(fault) => self.host.fault(index, fault),
        }
        found
    }

    #[inline]
    fn take_sent(&mut self, now: Instant, index: u32) -> Result<usize, PeerFault> {
        let mut taken = 0;
        while taken < SLOT_BURST {
            let Self { endpoint, host, .. } = self;
            let (seat, counters) = host.at_with_counters(index);
            if seat.fault.is_some() || seat.tenant.has_too_many_events() {
                return Ok(taken);
            }
            // Messages for the network, which most are, without another look at who sits where.
            let other = loop {
                match seat.tenant.take()? {
                    None => return Ok(taken),
                    Some(Taken::Message { flow, handle, len }) => {
                        taken += 1;
                        let Link::Remote(id) = seat.tenant.look(flow).link else {
                            break Taken::Message { flow, handle, len };
                        };
                        counters.count(Counter::MessagesSent);
                        send(endpoint, now, id, handle, len)?;
                        if taken == SLOT_BURST {
                            return Ok(taken);
                        }
                    }
                    Some(other) => {
                        taken += 1;
                        break other;
                    }
                }
            };
            self.handle_taken(now, index, other)?;
        }
        Ok(taken)
    }

    fn take_returned(&mut self, now: Instant, index: u32) -> Result<usize, PeerFault> {
        for taken in 0..SLOT_BURST {
            let seat = self.host.at(index);
            if seat.fault.is_some() {
                return Ok(taken);
            }
            match seat.tenant.take_back()? {
                Some(Returned::Messages { flow, messages, bytes }) => {
                    if let Link::Remote(id) = seat.tenant.look(flow).link {
                        self.endpoint.handle_room(now, id, messages, bytes, &mut self.host);
                    }
                }
                Some(Returned::Accepted { listener }) => self.host.accepted(listener),
                Some(Returned::Nothing) => {}
                None => return Ok(taken),
            }
        }
        Ok(SLOT_BURST)
    }

    /// What the application gave back and said until now: at most as much as its ring holds.
    pub(super) fn take_all_returned(&mut self, now: Instant, index: u32) -> Result<(), PeerFault> {
        let slots = self.host.look(index).tenant.geometry().receive_done_slots() as usize;
        for _ in 0..=slots / SLOT_BURST {
            if self.take_returned(now, index)? < SLOT_BURST {
                break;
            }
        }
        Ok(())
    }

    /// What one slot asked for.
    pub(super) fn handle_taken(&mut self, now: Instant, index: u32, taken: Taken) -> Result<(), PeerFault> {
        match taken {
            Taken::Message { flow, handle, len } => {
                self.host.counters.count(Counter::MessagesSent);
                let state = self.host.look(index).tenant.look(flow);
                match state.link {
                    Link::Remote(id) => send(&mut self.endpoint, now, id, handle, len)?,
                    Link::Local { .. } if !state.blocked => drop(self.host.relay(index, flow)),
                    Link::Bridge(id) => self.host.ship(id),
                    Link::Local { .. } | Link::Ended => {}
                }
            }
            Taken::Connect { request, to } => self.connect(now, index, request, &to),
            Taken::Close { flow } => self.close(now, index, flow),
            Taken::Reset { flow } => self.reset(now, index, flow, Reason::Aborted),
            Taken::Nothing => {}
        }
        Ok(())
    }

    fn connect(&mut self, now: Instant, index: u32, request: u32, to: &ConnectRequest) {
        self.host.counters.count(Counter::Connects);
        let own = self.host.own_ip();
        let outcome = if self.shutdown.is_some() {
            Err(Reason::ShuttingDown as u16)
        } else if to.local.is_some_and(|local| local != own) {
            Err(ADDRESS_NOT_LOCAL)
        } else if !is_reachable(to.remote, own.is_ipv4()) {
            Err(NO_ROUTE)
        } else if to.remote.ip() == own {
            match self.host.listening_engine(to.remote.port()) {
                Some(engine) => self.host.connect_neighbour(index, request, to, engine),
                None => {
                    self.notice_accepts(now, to.remote.port());
                    self.host.connect_local(index, request, to);
                }
            }
            Ok(())
        } else if self.path == PathState::Gone {
            Err(INTERFACE_GONE)
        } else {
            self.connect_remote(now, index, request, to).map_err(|reason| reason as u16)
        };
        if let Err(reason) = outcome {
            self.host.at(index).tenant.refuse_connect(request, reason);
            self.host.touch(index);
        }
    }

    /// A listener whose backlog looks full may have accepted this very moment: its word is older than the connect.
    pub(super) fn notice_accepts(&mut self, now: Instant, port: u16) {
        for index in self.host.full_listeners(port) {
            if let Err(fault) = self.take_returned(now, index) {
                self.host.fault(index, fault);
            }
            self.host.touch(index);
        }
    }

    fn connect_remote(
        &mut self,
        now: Instant,
        index: u32,
        request: u32,
        to: &ConnectRequest,
    ) -> Result<(), Reason> {
        let timeout = match to.timeout_ms {
            0 => self.settings.connect_timeout,
            timeout_ms => Duration::from_millis(u64::from(timeout_ms)),
        };
        if !self.host.look(index).tenant.has_flow_room() {
            return Err(Reason::TooManyFlows);
        }
        let geometry = *self.host.look(index).tenant.geometry();
        let sidecar = SocketAddr::new(to.remote.ip(), self.settings.udp_port);
        let ours = crate::host::limits(&geometry);
        let id = self.endpoint.connect(now, sidecar, to.remote.port(), ours, timeout)?;
        let local = SocketAddr::new(self.host.own_ip(), self.endpoint.flow_port(id).unwrap_or(0));
        let info = FlowInfo { peer: to.remote, local, max_message: 0, credit: geometry.flow_credit };
        let slot = self.host.open_flow(index, Link::Remote(id), info).ok_or(Reason::TooManyFlows)?;
        self.host.at(index).tenant.flow(slot).begin_connecting(request);
        Ok(())
    }

    /// Closes a flow in order, if it did not end or begin to close before.
    pub(super) fn close(&mut self, now: Instant, index: u32, slot: FlowSlot) {
        let flow = self.host.at(index).tenant.flow(slot);
        if flow.closing {
            return;
        }
        match flow.link {
            Link::Remote(id) => {
                flow.closing = true;
                self.endpoint.close(now, id, &mut self.host);
            }
            Link::Local { .. } => self.host.close_local(index, slot),
            Link::Bridge(id) => self.host.close_bridge(index, slot, id),
            Link::Ended => {}
        }
    }

    /// Ends a flow at once, and tells both ends why.
    pub(super) fn reset(&mut self, now: Instant, index: u32, slot: FlowSlot, reason: Reason) {
        match self.host.at(index).tenant.flow(slot).link {
            Link::Remote(id) => {
                self.endpoint.reset(now, id, reason, &mut self.host);
                self.tell_reset(index, slot, reason as u16);
            }
            Link::Local { .. } => self.host.reset_local(index, slot, reason),
            Link::Bridge(id) => self.host.reset_bridge(index, slot, id, reason),
            Link::Ended => {}
        }
    }

    /// The application learns that a flow over the network is no more; `reason` need not be one that peers know.
    pub(super) fn tell_reset(&mut self, index: u32, slot: FlowSlot, reason: u16) {
        if self.host.look(index).tenant.look(slot).connecting().is_some() {
            self.host.fail_connect(index, slot, reason);
        } else {
            self.host.end_flow(index, slot, receive_kind::RESET, reason);
        }
    }
}

/// A message for the network.
#[inline]
fn send(endpoint: &mut Endpoint, now: Instant, flow: FlowId, handle: u32, len: u32) -> Result<(), PeerFault> {
    match endpoint.send(now, flow, TxHandle(handle), len) {
        // An unknown flow has ended; the event that says so is on its way to the application.
        Ok(()) | Err(SendError::UnknownFlow) => Ok(()),
        Err(SendError::NoCredit) => Err(PeerFault::Credit),
        Err(SendError::MessageSize) => Err(PeerFault::Length),
    }
}

fn is_reachable(remote: SocketAddr, is_ipv4: bool) -> bool {
    let ip = remote.ip();
    let is_broadcast = matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast());
    remote.port() != 0
        && ip.is_ipv4() == is_ipv4
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !is_broadcast
}

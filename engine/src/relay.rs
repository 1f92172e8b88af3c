//! Two applications of one sidecar: the engine copies from the sender's TX buffers to the receiver's RX buffers, once, with
//! the same flows, credit and events as over the network, and without a network.
//!
//! A message that finds no room stays with its sender, who runs out of credit: nobody else notices. The receiver keeps a
//! list of the flows that wait for it, each at most once, and they are tried again in turn when it gives room back.

use crate::counters::Counter;
use crate::host::{Blocked, Host};
use crate::proto::Reason;
use crate::tenant::{FlowSlot, Link};
use machnet_client::shm::layout::{ConnectRequest, FlowInfo, receive_kind};
use std::net::SocketAddr;

/// Most messages of one flow that are relayed before it is another's turn.
const RELAY_BURST: u32 = 32;

impl Host {
    /// Connects two applications of this sidecar; the outcome is told to both at once.
    pub(crate) fn connect_local(&mut self, client: u32, request: u32, to: &ConnectRequest) {
        if let Err(reason) = self.try_connect_local(client, request, to) {
            self.at(client).tenant.refuse_connect(request, reason as u16);
            self.touch(client);
        }
    }

    fn try_connect_local(&mut self, client: u32, request: u32, to: &ConnectRequest) -> Result<(), Reason> {
        let port = to.remote.port();
        let (server, listener) = self.find_listener(port)?;
        let client_address = self.ephemeral_address();
        let (client_sizes, server_sizes) =
            (*self.look(client).tenant.geometry(), *self.look(server).tenant.geometry());
        let client_info = FlowInfo {
            peer: to.remote,
            local: client_address,
            max_message: server_sizes.max_receive(),
            credit: client_sizes.flow_credit,
        };
        let server_info = FlowInfo {
            peer: client_address,
            local: SocketAddr::new(self.own_ip(), port),
            max_message: client_sizes.max_receive(),
            credit: server_sizes.flow_credit,
        };
        // The link of the first one is completed when the second is known.
        let unknown = Link::Local { tenant: server, flow: FlowSlot::default() };
        let client_flow = self.open_flow(client, unknown, client_info).ok_or(Reason::TooManyFlows)?;
        let link = Link::Local { tenant: client, flow: client_flow };
        let Some(server_flow) = self.open_flow(server, link, server_info) else {
            self.abandon_flow(client, client_flow);
            return Err(Reason::Busy);
        };
        let flow = self.at(client).tenant.flow(client_flow);
        flow.link = Link::Local { tenant: server, flow: server_flow };
        flow.begin_connecting(request);
        self.announce(server, server_flow, port, listener);
        self.announce_connected(client, client_flow, server_sizes.max_receive());
        Ok(())
    }

    /// Moves messages of a local flow to its peer, in order, until there are no more or no room; then completes a close that
    /// stood behind them. Answers how many were moved.
    pub(crate) fn relay(&mut self, from: u32, slot: FlowSlot) -> u32 {
        for moved in 0..RELAY_BURST {
            let seat = self.look(from);
            let flow = seat.tenant.look(slot);
            let Link::Local { tenant: to, flow: peer_slot } = flow.link else { return moved };
            let Some(first) = seat.tenant.first_sent(slot) else {
                if flow.closing {
                    self.finish_local(from, slot);
                }
                return moved;
            };
            let message = seat.tenant.outgoing(first);
            let peer = self.at(to);
            if peer.tenant.look(peer_slot).closing {
                // Nothing is delivered to a flow that was closed. Its end is on its way, unless it waits for us likewise.
                if self.look(from).tenant.look(slot).closing {
                    self.end_flow(to, peer_slot, receive_kind::CLOSED, 0);
                    self.end_flow(from, slot, receive_kind::CLOSED, 0);
                }
                return moved;
            }
            if peer.fault.is_some() {
                return moved; // Its end is on its way.
            }
            match peer.tenant.deliver_local(peer_slot, &message) {
                Ok(true) => {
                    self.at(from).tenant.acknowledged(slot, std::iter::once(first));
                    self.counters.count(Counter::MessagesRelayed);
                    self.counters.count(Counter::MessagesDelivered);
                    self.touch(from);
                    self.touch(to);
                    self.wake(to);
                }
                Ok(false) => {
                    self.counters.count(Counter::NoRoom);
                    self.block(from, slot, to);
                    return moved;
                }
                Err(fault) => {
                    self.fault(to, fault);
                    return moved;
                }
            }
        }
        // More may wait: in turn with others, in the next cycle.
        if let Link::Local { tenant: to, .. } = self.look(from).tenant.look(slot).link {
            self.block(from, slot, to);
            self.relieved.push(to);
        }
        RELAY_BURST
    }

    fn block(&mut self, from: u32, slot: FlowSlot, to: u32) {
        let flow = self.at(from).tenant.flow(slot);
        if !flow.blocked {
            flow.blocked = true;
            self.at(to).blocked.push(Blocked { tenant: from, flow: slot });
        }
        // So that the receiver's full ring is noticed as backlog.
        self.touch(to);
    }

    /// A tenant has room again: the flows that wait for it are tried, each once. Answers how many messages were moved.
    pub(crate) fn relay_blocked(&mut self, to: u32) -> u32 {
        let Some(seat) = self.get(to) else { return 0 };
        if seat.blocked.is_empty() {
            return 0;
        }
        let mut waiting = std::mem::take(&mut self.scratch);
        std::mem::swap(&mut waiting, &mut self.at(to).blocked);
        let mut moved = 0;
        for Blocked { tenant, flow: slot } in waiting.drain(..) {
            // The flow may have ended, and its place be another's: then it does not wait, or not for us.
            let Some(sender) = self.get(tenant) else { continue };
            let Some(flow) = sender.tenant.find(slot) else { continue };
            if let (true, Link::Bridge(id)) = (flow.blocked && tenant == to, flow.link) {
                sender.tenant.flow(slot).blocked = false;
                moved += self.deliver_waiting(id);
                continue;
            }
            if !flow.blocked || !matches!(flow.link, Link::Local { tenant, .. } if tenant == to) {
                continue;
            }
            sender.tenant.flow(slot).blocked = false;
            moved += self.relay(tenant, slot);
        }
        self.scratch = waiting;
        moved
    }

    /// The application closes a local flow: at once, or behind the messages that wait.
    pub(crate) fn close_local(&mut self, index: u32, slot: FlowSlot) {
        self.at(index).tenant.flow(slot).closing = true;
        if !self.look(index).tenant.look(slot).blocked {
            self.relay(index, slot);
        }
    }

    fn finish_local(&mut self, index: u32, slot: FlowSlot) {
        let Link::Local { tenant: peer, flow: peer_slot } = self.look(index).tenant.look(slot).link else {
            return;
        };
        self.end_flow(peer, peer_slot, receive_kind::CLOSED, 0);
        let shutdown = self.look(index).leaving.is_some_and(|leaving| leaving.is_shutdown());
        if shutdown {
            self.end_flow(index, slot, receive_kind::RESET, Reason::ShuttingDown as u16);
        } else {
            self.end_flow(index, slot, receive_kind::FINISHED, 0);
        }
    }

    /// Ends a local flow at once, for both.
    pub(crate) fn reset_local(&mut self, index: u32, slot: FlowSlot, reason: Reason) {
        let Link::Local { tenant: peer, flow: peer_slot } = self.look(index).tenant.look(slot).link else {
            return;
        };
        self.end_flow(peer, peer_slot, receive_kind::RESET, reason as u16);
        self.end_flow(index, slot, receive_kind::RESET, reason as u16);
    }
}

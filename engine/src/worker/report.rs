//! What the engine does, for `machnet status`.

use super::Worker;
use crate::driver::Driver;
use crate::host::{Host, Seat};
use crate::neighbours::{HandOver, Neighbours};
use crate::proto::{Endpoint, FlowStats as PathStats, Learned, Pair};
use crate::status::{ChannelStatus, EngineStatus, FlowStatus, LearnedStatus, PairStatus};
use crate::tenant::{Flow, Link, Tenant};
use machnet_client::FlowStats;
use std::collections::BTreeMap;
use std::net::IpAddr;

impl<D: Driver> Worker<D> {
    pub(super) fn status(&self) -> EngineStatus {
        let own = self.host.own_ip();
        let channel = |(index, seat): (u32, &Seat)| {
            channel_status(&self.endpoint, &self.host, seat, self.host.ports_of(index), own)
        };
        EngineStatus {
            id: self.settings.id,
            idle: self.settings.idle.to_owned(),
            cpu: self.cpu,
            path: self.path.to_string(),
            counters: self.all_counters(),
            channels: self.host.seats().map(channel).collect(),
            learned: self.endpoint.learned().map(learned_status).collect(),
        }
    }

    /// What is known of the flow that the application of `channel` calls `handle`.
    pub(super) fn flow_stats(&self, channel: u64, handle: u32) -> Option<FlowStats> {
        let tenant = &self.host.look(self.host.find(channel)?).tenant;
        Some(flow_stats(&self.endpoint, tenant, tenant.named(handle)?))
    }

    fn all_counters(&self) -> BTreeMap<String, u64> {
        let path = self.driver.counters();
        let taken = self.inbox.as_ref().map_or(0, |inbox| inbox.taken);
        let neighbours = self.host.neighbours.as_ref().map(Neighbours::counters).unwrap_or_default();
        let neighbours = HandOver { taken, ..neighbours }.iter();
        let core = self.endpoint.counters().iter();
        let all = self.host.counters.iter().chain(core).chain(path.iter()).chain(neighbours);
        let mut all: BTreeMap<_, _> = all.map(|(name, value)| (name.to_owned(), value)).collect();
        self.driver.statistics(&mut |name, value| {
            all.insert(format!("interface_{name}"), value);
        });
        all
    }
}

fn learned_status(learned: Learned) -> LearnedStatus {
    let pair = |(engine, pair): (u8, Pair)| PairStatus { engine, from_port: pair.from, to_port: pair.to };
    LearnedStatus {
        host: learned.host.to_string(),
        engines: learned.engines,
        heard: learned.heard.map(|pair| (pair.from, pair.to)),
        pairs: learned.pairs.into_iter().map(pair).collect(),
    }
}

fn channel_status(
    endpoint: &Endpoint,
    host: &Host,
    seat: &Seat,
    ports: Vec<u16>,
    own: IpAddr,
) -> ChannelStatus {
    let identity = seat.tenant.identity();
    ChannelStatus {
        id: identity.channel,
        pid: identity.pid,
        uid: identity.uid,
        name: identity.name.clone(),
        flows: seat
            .tenant
            .flows()
            .map(|(slot, flow)| flow_status(endpoint, host, &seat.tenant, seat.tenant.handle(slot), flow))
            .collect(),
        listeners: ports.into_iter().map(|port| std::net::SocketAddr::new(own, port).to_string()).collect(),
    }
}

fn flow_status(endpoint: &Endpoint, host: &Host, tenant: &Tenant, id: u32, flow: &Flow) -> FlowStatus {
    let kind = match flow.link {
        Link::Remote(_) => "remote",
        Link::Local { .. } | Link::Bridge(_) => "local",
        Link::Ended => "",
    };
    let state = match flow {
        Flow { link: Link::Ended, .. } => "ended",
        flow if flow.connecting().is_some() => "connecting",
        Flow { closing: true, .. } => "closing",
        _ => "open",
    };
    let stats = flow_stats(endpoint, tenant, flow);
    let path = path_stats(endpoint, flow);
    FlowStatus {
        id,
        kind: kind.to_owned(),
        state: state.to_owned(),
        peer: flow.info.peer.to_string(),
        local: flow.info.local.to_string(),
        srtt_ns: stats.smoothed_rtt_ns,
        min_rtt_ns: stats.min_rtt_ns,
        messages_sent: stats.messages_sent,
        bytes_sent: stats.bytes_sent,
        messages_acknowledged: stats.messages_acknowledged,
        bytes_acknowledged: stats.bytes_acknowledged,
        messages_delivered: stats.messages_received,
        bytes_delivered: stats.bytes_received,
        retransmissions: stats.retransmissions,
        datagram_size: u32::try_from(stats.path_datagram_bytes).unwrap_or(u32::MAX),
        congestion_window: stats.congestion_window_bytes,
        bytes_in_flight: stats.bytes_in_flight,
        peer_engine: match flow.link {
            Link::Local { .. } => u8::try_from(host.engine()).ok(),
            Link::Bridge(id) => host.bridges.engine_of(id),
            Link::Remote(_) => Some(path.remote_engine),
            Link::Ended => None,
        },
        from_port: path.pair.from,
        to_port: path.pair.to,
        direct: path.is_direct,
        taken_over: path.taken_over,
    }
}

fn path_stats(endpoint: &Endpoint, flow: &Flow) -> PathStats {
    match flow.link {
        Link::Remote(remote) => endpoint.stats(remote).unwrap_or_default(),
        Link::Local { .. } | Link::Bridge(_) | Link::Ended => PathStats::default(),
    }
}

/// What the engine knows of a flow: the tenant counts messages, the core knows the path.
fn flow_stats(endpoint: &Endpoint, tenant: &Tenant, flow: &Flow) -> FlowStats {
    let path = path_stats(endpoint, flow);
    let mut stats = FlowStats::default();
    stats.local = matches!(flow.link, Link::Local { .. } | Link::Bridge(_));
    stats.smoothed_rtt_ns = path.srtt_ns;
    stats.min_rtt_ns = path.min_rtt_ns;
    stats.messages_sent = flow.sent;
    stats.bytes_sent = flow.sent_bytes;
    stats.messages_acknowledged = flow.acknowledged;
    stats.bytes_acknowledged = tenant.acknowledged_bytes(flow);
    stats.messages_received = flow.delivered;
    stats.bytes_received = flow.delivered_bytes;
    stats.retransmissions = path.retransmissions;
    stats.datagrams_sent = path.packets_sent;
    stats.datagrams_received = path.packets_received;
    stats.wire_bytes_sent = path.bytes_sent;
    stats.wire_bytes_received = path.bytes_received;
    stats.congestion_window_bytes = path.congestion_window;
    stats.bytes_in_flight = path.bytes_in_flight;
    stats.path_datagram_bytes = u64::from(path.datagram_size);
    stats
}

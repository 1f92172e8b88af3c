//! What the engine does, for `machnet status`.

use super::Worker;
use crate::driver::Driver;
use crate::host::Seat;
use crate::proto::{Endpoint, FlowStats};
use crate::status::{ChannelStatus, EngineStatus, FlowStatus};
use crate::tenant::{Flow, Link};
use std::collections::BTreeMap;
use std::net::IpAddr;

impl<D: Driver> Worker<D> {
    pub(super) fn status(&self) -> EngineStatus {
        let own = self.host.own_ip();
        let channel = |(index, seat): (u32, &Seat)| {
            channel_status(&self.endpoint, seat, self.host.ports_of(index), own)
        };
        EngineStatus {
            id: self.settings.id,
            idle: self.settings.idle.to_owned(),
            counters: self.all_counters(),
            channels: self.host.seats().map(channel).collect(),
        }
    }

    fn all_counters(&self) -> BTreeMap<String, u64> {
        let path = self.driver.counters();
        let path = [
            ("path_datagrams_received", path.datagrams_received),
            ("path_datagrams_sent", path.datagrams_sent),
            ("path_receive_calls", path.receive_calls),
            ("path_send_calls", path.send_calls),
            ("path_dropped_queue_full", path.dropped_queue_full),
            ("path_dropped_too_large", path.dropped_too_large),
            ("path_dropped_error", path.dropped_error),
            ("path_dropped_truncated", path.dropped_truncated),
            ("path_dropped_checksum", path.dropped_checksum),
        ];
        let core = self.endpoint.counters().iter();
        let all = self.host.counters.iter().chain(core).chain(path);
        all.map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn channel_status(endpoint: &Endpoint, seat: &Seat, ports: Vec<u16>, own: IpAddr) -> ChannelStatus {
    let identity = seat.tenant.identity();
    ChannelStatus {
        id: identity.channel,
        pid: identity.pid,
        uid: identity.uid,
        name: identity.name.clone(),
        flows: seat
            .tenant
            .flows()
            .map(|(slot, flow)| flow_status(endpoint, seat.tenant.handle(slot), flow))
            .collect(),
        listeners: ports.into_iter().map(|port| std::net::SocketAddr::new(own, port).to_string()).collect(),
    }
}

fn flow_status(endpoint: &Endpoint, id: u32, flow: &Flow) -> FlowStatus {
    let (kind, stats) = match flow.link {
        Link::Remote(remote) => ("remote", endpoint.stats(remote).unwrap_or_default()),
        Link::Local { .. } => ("local", FlowStats::default()),
        Link::Ended => ("", FlowStats::default()),
    };
    let state = match flow {
        Flow { link: Link::Ended, .. } => "ended",
        flow if flow.connecting().is_some() => "connecting",
        Flow { closing: true, .. } => "closing",
        _ => "open",
    };
    FlowStatus {
        id,
        kind: kind.to_owned(),
        state: state.to_owned(),
        peer: flow.info.peer.to_string(),
        local: flow.info.local.to_string(),
        srtt_ns: stats.srtt_ns,
        min_rtt_ns: stats.min_rtt_ns,
        messages_sent: u64::from(flow.sent),
        messages_acknowledged: u64::from(flow.acknowledged),
        messages_delivered: flow.delivered,
        retransmissions: stats.retransmissions,
        datagram_size: stats.datagram_size,
        congestion_window: stats.congestion_window,
    }
}

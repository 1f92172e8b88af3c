//! What a sidecar does, as `machnet status` shows it: plain data, written as JSON.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// Its control socket.
    pub socket: String,
    /// The address and UDP port that it owns.
    pub address: String,
    /// Its network path.
    pub driver: String,
    /// What its control socket counted, by name.
    pub controller: BTreeMap<String, u64>,
    /// Its engines; one that did not answer in time is missing.
    pub engines: Vec<EngineStatus>,
}

/// One engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Its number.
    pub id: u32,
    /// How it waits: auto, spin, yield or block.
    pub idle: String,
    /// The processor that it was put on, if it was.
    #[serde(default)]
    pub cpu: Option<u32>,
    /// Its network path: up, down or gone.
    #[serde(default)]
    pub path: String,
    /// Counters of the engine, the protocol and the driver, by name.
    pub counters: BTreeMap<String, u64>,
    /// Its channels.
    pub channels: Vec<ChannelStatus>,
    /// What it learned of other hosts with several engines.
    #[serde(default)]
    pub learned: Vec<LearnedStatus>,
}

/// What one engine learned of another host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedStatus {
    /// The host.
    pub host: String,
    /// Engines of its sidecar.
    pub engines: u8,
    /// The UDP ports, its own and ours, on which its datagrams reach this engine; none: not known yet.
    pub heard: Option<(u16, u16)>,
    /// How this engine's datagrams reach its engines, as far as that is known.
    pub pairs: Vec<PairStatus>,
}

/// UDP ports that reach one engine of another host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairStatus {
    /// The other host's engine.
    pub engine: u8,
    /// Our UDP port.
    pub from_port: u16,
    /// The other host's UDP port.
    pub to_port: u16,
}

/// One attached application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Number of the channel.
    pub id: u64,
    /// The application's process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its own name for itself.
    pub name: String,
    /// Its flows.
    pub flows: Vec<FlowStatus>,
    /// Where it listens.
    pub listeners: Vec<String>,
}

/// One flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowStatus {
    /// Its name on its channel.
    pub id: u32,
    /// "remote" over the network, "local" to another application of this sidecar.
    pub kind: String,
    /// connecting, open, closing or ended.
    pub state: String,
    /// The other end.
    pub peer: String,
    /// Our end.
    pub local: String,
    /// Smoothed round-trip time in nanoseconds, 0 if not known.
    pub srtt_ns: u64,
    /// Least round-trip time in nanoseconds, 0 if not known.
    pub min_rtt_ns: u64,
    /// Messages taken from the application.
    pub messages_sent: u64,
    /// Bytes of those.
    pub bytes_sent: u64,
    /// Messages of those that the peer has.
    pub messages_acknowledged: u64,
    /// Bytes of those.
    pub bytes_acknowledged: u64,
    /// Messages delivered to the application.
    pub messages_delivered: u64,
    /// Bytes of those.
    pub bytes_delivered: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// UDP payload size in bytes proved for the path.
    pub datagram_size: u32,
    /// Congestion window in bytes.
    pub congestion_window: u64,
    /// UDP payload bytes on their way.
    pub bytes_in_flight: u64,
    /// The engine of the other end, where it is known: of this sidecar for a "local" flow, of the peer's for a "remote" one.
    pub peer_engine: Option<u8>,
    /// The UDP port that the last datagram left from, 0 before the first.
    pub from_port: u16,
    /// The UDP port that it went to.
    pub to_port: u16,
    /// Whether what is sent lands at the engine that has the flow's other end, as far as it said so.
    pub direct: bool,
    /// Datagrams of the flow that landed at another engine of ours, which handed them over.
    pub taken_over: u64,
}

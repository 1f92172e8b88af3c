//! STUB until the sidecar is merged: what `machnet status` shows.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a sidecar does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "stub")]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    pub socket: String,
    pub address: String,
    pub driver: String,
    pub engines: Vec<EngineStatus>,
}

/// One engine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "stub")]
pub struct EngineStatus {
    pub id: u32,
    pub idle: String,
    pub counters: BTreeMap<String, u64>,
    pub channels: Vec<ChannelStatus>,
}

/// One application.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "stub")]
pub struct ChannelStatus {
    pub id: u64,
    pub pid: u32,
    pub uid: u32,
    pub name: String,
    pub flows: Vec<FlowStatus>,
    pub listeners: Vec<String>,
}

/// One flow.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "stub")]
pub struct FlowStatus {
    pub id: u32,
    pub kind: String,
    pub state: String,
    pub peer: String,
    pub local: String,
    pub srtt_us: f64,
    pub messages_sent: u64,
    pub messages_received: u64,
}

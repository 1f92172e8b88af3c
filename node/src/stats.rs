//! Statistics of a flow.

use napi::Env;
use napi::bindgen_prelude::{JsObjectValue, Object, Result};

/// The numbers as an object. They are exact up to 2^53.
pub(crate) fn show<'env>(env: &'env Env, stats: &machnet_client::FlowStats) -> Result<Object<'env>> {
    let mut shown = Object::new(env)?;
    shown.set_named_property("local", stats.local)?;
    for (name, value) in [
        ("smoothedRttNs", stats.smoothed_rtt_ns),
        ("minRttNs", stats.min_rtt_ns),
        ("messagesSent", stats.messages_sent),
        ("bytesSent", stats.bytes_sent),
        ("messagesAcknowledged", stats.messages_acknowledged),
        ("bytesAcknowledged", stats.bytes_acknowledged),
        ("messagesReceived", stats.messages_received),
        ("bytesReceived", stats.bytes_received),
        ("retransmissions", stats.retransmissions),
        ("datagramsSent", stats.datagrams_sent),
        ("datagramsReceived", stats.datagrams_received),
        ("wireBytesSent", stats.wire_bytes_sent),
        ("wireBytesReceived", stats.wire_bytes_received),
        ("congestionWindowBytes", stats.congestion_window_bytes),
        ("bytesInFlight", stats.bytes_in_flight),
        ("pathDatagramBytes", stats.path_datagram_bytes),
    ] {
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact up to 2^53: petabytes, and months in nanoseconds"
        )]
        let value = value as f64;
        shown.set_named_property(name, value)?;
    }
    Ok(shown)
}

//! The protocol core: connections that carry whole messages, without bytes, sockets, clocks or threads.
//!
//! The core moves numbers, the engine moves bytes. Input comes through the `handle_*` calls of [`Endpoint`], output through
//! its `poll_*` calls, payload goes around it through [`Payload`], which the worker implements over its tenants. Time and
//! randomness are arguments, so the same calls give the same answers, byte for byte.
//!
//! One endpoint belongs to one engine. Of the others it knows how many there are: a connection's id names the one that owns
//! it, and what belongs to another is handed over by the caller ([`Handling`]).

use core::fmt;
use std::net::{IpAddr, SocketAddr};

pub mod congestion;
pub mod rng;
pub mod time;

mod config;
mod endpoint;
mod flow;
mod handshake;
mod hosts;
mod pmtu;
mod ports;
mod queue_map;
mod ranges;
mod receiver;
mod route;
mod rtt;
mod sender;
mod seq;
mod spray;
mod timers;

#[cfg(test)]
mod tests;

pub use config::{Config, Congestion, Counters, Spread};
pub use endpoint::Endpoint;
pub use ports::{Pair, PortRange};

use time::Duration;

/// Largest message in bytes (paper, section 5: 8 MB).
pub const MAX_MESSAGE: u32 = 8 * 1024 * 1024;

/// One connection of an endpoint. The generation makes an old identifier of a reused slot answer "unknown".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    index: u32,
    generation: u32,
}

impl FlowId {
    /// Made by the endpoint for a slot of its flow table, and by tests.
    pub const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// The slot: dense, so that a caller can keep a table beside the endpoint's.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// How often the slot was used before.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flow{}.{}", self.index, self.generation)
    }
}

/// The caller's name for a message that it gave to [`Endpoint::send`]; the core only hands it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TxHandle(pub u32);

/// The caller's name for the room that [`Payload::reserve`] gave; the core only hands it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct RxHandle(pub u32);

/// What one side tells the other about itself at handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest message in bytes that this side can take.
    pub max_message: u32,
    /// Messages that may be on their way to the application, not yet given back by it.
    pub window_messages: u32,
    /// Bytes of messages that may be on their way; one message always may, however large.
    pub window_bytes: u32,
}

/// What a listener says to a first datagram for its port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listening {
    /// A flow would be taken, with these limits.
    Open(Limits),
    /// The backlog is full.
    Busy,
    /// Nobody listens there.
    Nobody,
    /// The listener belongs to another engine of this sidecar: the one with this index.
    Elsewhere(u8),
}

/// Why a flow ended or never came to be. The numbers are on the wire; see docs/protocol.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Nobody listens on the port.
    Refused = 1,
    /// The listener's backlog is full.
    Busy = 2,
    /// The peer speaks no version of the protocol that we speak.
    Version = 3,
    /// The peer does not know the flow: its sidecar was started again.
    UnknownFlow = 4,
    /// The application aborted the flow.
    Aborted = 5,
    /// The application died or left without closing.
    ApplicationGone = 6,
    /// The peer broke a rule of the protocol.
    ProtocolError = 7,
    /// The sidecar shuts down.
    ShuttingDown = 8,
    /// Nothing was heard from the peer for too long. Never on the wire.
    Timeout = 9,
    /// The engine has no slot for another flow.
    TooManyFlows = 10,
}

impl Reason {
    /// The reason with this number, if there is one.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Refused,
            2 => Self::Busy,
            3 => Self::Version,
            4 => Self::UnknownFlow,
            5 => Self::Aborted,
            6 => Self::ApplicationGone,
            7 => Self::ProtocolError,
            8 => Self::ShuttingDown,
            9 => Self::Timeout,
            10 => Self::TooManyFlows,
            _ => return None,
        })
    }
}

/// One UDP payload as the driver received it.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// The UDP port of ours that it came to.
    pub to_port: u16,
    /// The engine whose queue it landed on, if that engine handed it over; `None` if it landed here.
    pub landed: Option<u8>,
    /// How long it lay in the receive queue before it was handed over, as far as the path tells. Round trips are measured
    /// without it: an engine that waits for its processor is no slow path.
    pub waited: Duration,
    /// The UDP payload.
    pub bytes: &'a [u8],
}

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Handling {
    /// It was dealt with: used, answered or dropped.
    Done,
    /// It belongs to the engine with this index: give it the same bytes, with `landed` naming this engine. Never the answer
    /// to a datagram that was handed over already.
    HandOver(u8),
}

/// Where received bytes go and sent bytes come from: implemented by the worker over its tenants, and by the simulator.
///
/// Every call is synchronous and cheap; none may call back into the endpoint.
pub trait Payload {
    /// A first datagram asks for this port: would a flow be taken?
    fn listening(&mut self, port: u16) -> Listening;
    /// A flow for the listener of `port` is established. `from` is the peer's address with its *flow port*, which tells
    /// flows of one peer apart; `peer` are the other side's limits. An error ends it again.
    fn accept(&mut self, flow: FlowId, port: u16, from: SocketAddr, peer: Limits) -> Result<(), Reason>;
    /// Room for all of a message of `len` bytes, or none: `None` counts as a lost datagram and the peer tries again.
    ///
    /// `in_order`: every message before it was delivered or has its room. Those that are not `in_order` may never hold so
    /// much of a common pool that the largest message would not fit beside all of them: an earlier message may still need
    /// that room, and what is acknowledged cannot be evicted to make it.
    fn reserve(&mut self, flow: FlowId, len: u32, in_order: bool) -> Option<RxHandle>;
    /// Bytes of a message for which there is room. `offset` + `bytes.len()` is at most the reserved length.
    fn keep(&mut self, flow: FlowId, message: RxHandle, offset: u32, bytes: &[u8]);
    /// The message is whole and next in order. `false`: no room now; it is offered again at `handle_room` and timeouts.
    fn deliver(&mut self, flow: FlowId, message: RxHandle) -> bool;
    /// A whole message that is next in order and came in one datagram: reserve, keep and deliver in one step.
    /// `false`: nothing was taken.
    fn deliver_whole(&mut self, flow: FlowId, bytes: &[u8]) -> bool;
    /// As [`Self::deliver_whole`] for whole messages one behind the other. Answers how many were taken; after one that was not,
    /// none is.
    #[inline]
    fn deliver_all<'a>(&mut self, flow: FlowId, messages: impl Iterator<Item = &'a [u8]>) -> u32 {
        let mut taken = 0;
        for bytes in messages {
            if !self.deliver_whole(flow, bytes) {
                break;
            }
            taken += 1;
        }
        taken
    }
    /// The flow is gone and the message will not be whole or not be delivered: its room is free again.
    fn discard(&mut self, flow: FlowId, message: RxHandle);
    /// The peer has all of the message: its buffers may be used again. Called in the order of sending.
    fn acknowledged(&mut self, flow: FlowId, message: TxHandle);
    /// As [`Self::acknowledged`] for messages one behind the other.
    #[inline]
    fn acknowledged_all(&mut self, flow: FlowId, messages: impl Iterator<Item = TxHandle>) {
        for message in messages {
            self.acknowledged(flow, message);
        }
    }
}

/// The bytes that follow the header of a datagram to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Nothing but the header.
    Empty,
    /// `len` bytes of one message, from `offset`.
    Segment {
        /// Whose bytes.
        message: TxHandle,
        /// Where they start in the message.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// Whole small messages, each behind its length; [`Endpoint::bundle`] lists them.
    Bundle {
        /// How many messages.
        count: u8,
    },
    /// A probe of the path: so many zero bytes.
    Padding {
        /// How many.
        len: u32,
    },
}

/// A send that was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The flow is not known, not connected, or closing at either end.
    UnknownFlow,
    /// More messages than [`Config::max_outstanding`] are unacknowledged.
    NoCredit,
    /// Empty, or longer than the peer takes.
    MessageSize,
}

/// One datagram to send: write `header_len` bytes with [`Endpoint::emit_header`], then the body.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// The UDP port to send it from.
    pub from_port: u16,
    /// To whom; the port is the one that makes a pair with `from_port`.
    pub to: SocketAddr,
    /// The flow, if the datagram belongs to one (a reset for a stranger does not).
    pub flow: Option<FlowId>,
    /// Bytes of the header.
    pub header_len: usize,
    /// What follows the header.
    pub body: Body,
    /// Bytes of the body on the wire (for a bundle: the two-byte lengths included).
    pub body_len: usize,
}

/// Something the worker has to tell an application or its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Our connect succeeded.
    Connected {
        /// The flow that `connect` named.
        flow: FlowId,
        /// What the peer can take.
        peer: Limits,
    },
    /// Our connect failed; the flow is gone.
    ConnectFailed {
        /// The flow that `connect` named.
        flow: FlowId,
        /// Why.
        reason: Reason,
    },
    /// The peer closed in order and everything it sent was delivered. The flow is gone; what we had not yet sent is lost.
    Closed {
        /// Which flow.
        flow: FlowId,
        /// Messages that we sent and the peer did not acknowledge.
        unacknowledged: u32,
    },
    /// Our close is complete: the peer has everything. The flow is gone.
    Finished {
        /// Which flow.
        flow: FlowId,
    },
    /// The flow ended badly and is gone.
    Reset {
        /// Which flow.
        flow: FlowId,
        /// Why.
        reason: Reason,
        /// Messages that we sent and the peer did not acknowledge.
        unacknowledged: u32,
    },
}

/// What an engine learned of another host, for `machnet status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Learned {
    /// The host.
    pub host: IpAddr,
    /// Engines of its sidecar.
    pub engines: u8,
    /// The pair on which the host's datagrams land at this engine.
    pub heard: Option<Pair>,
    /// Engines of the host with the pairs on which this engine's datagrams land there.
    pub pairs: Vec<(u8, Pair)>,
}

/// What is known of a flow, for `machnet status` and the statistics calls of the SDKs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowStats {
    /// Smoothed round-trip time in nanoseconds, 0 before the first sample.
    pub srtt_ns: u64,
    /// Least round-trip time in nanoseconds.
    pub min_rtt_ns: u64,
    /// Messages sent and acknowledged.
    pub messages_acknowledged: u64,
    /// Messages delivered to the application.
    pub messages_delivered: u64,
    /// Payload bytes sent, repeats included.
    pub bytes_sent: u64,
    /// Payload bytes received, repeats included.
    pub bytes_received: u64,
    /// Datagrams sent.
    pub packets_sent: u64,
    /// Datagrams received.
    pub packets_received: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// Congestion window in bytes.
    pub congestion_window: u64,
    /// Bytes sent and neither acknowledged nor given up.
    pub bytes_in_flight: u64,
    /// UDP payload size in bytes proved for the path.
    pub datagram_size: u32,
    /// The UDP ports that the last datagram was sent on: 0 and 0 before the first.
    pub pair: Pair,
    /// The peer's engine that owns the flow.
    pub remote_engine: u8,
    /// Whether the peer said that datagrams on this pair land where the flow is, or there is one engine there.
    pub is_direct: bool,
    /// Datagrams of the peer that landed at another engine of ours and were handed over to this flow's.
    pub taken_over: u64,
}

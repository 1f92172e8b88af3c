//! PLACEHOLDER with the signatures of the endpoint, so that others can build against them. The owner of `proto/` replaces
//! this file by config.rs, endpoint.rs and so on, keeping the names and signatures.

use super::time::{Duration, Instant};
use super::{Body, Datagram, Event, FlowId, FlowStats, Limits, Payload, Reason, TxHandle};
use std::net::SocketAddr;

/// Which congestion controller new flows get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Congestion {
    /// Delay-based, for use.
    Delay,
    /// A fixed window of so many bytes, for tests and comparison.
    Fixed(u32),
}

/// Everything about an endpoint that can be chosen. All times are minimums or exact unless said otherwise.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest UDP payload in bytes that our own interface takes (MTU less 28 for IPv4).
    pub max_datagram: u32,
    /// Most flows at a time.
    pub max_flows: u32,
    /// A connect fails after this long without an answer (default 3 s).
    pub connect_timeout: Duration,
    /// A flow with nothing to say sends a keepalive this often (default 10 s).
    pub keepalive: Duration,
    /// A flow that heard nothing for this long although it asked ends with `Timeout` (default 30 s).
    pub dead_after: Duration,
    /// Least retransmission timeout (default 2 ms).
    pub min_rto: Duration,
    /// Longest that an acknowledgement waits for data to ride on (default 50 us... see docs).
    pub max_ack_delay: Duration,
    /// The congestion controller of new flows.
    pub congestion: Congestion,
    /// Most messages of one flow that may be unacknowledged at a time; `send` beyond it is `SendError::NoCredit`.
    pub max_outstanding: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_datagram: 1472,
            max_flows: 1024,
            connect_timeout: Duration::from_secs(3),
            keepalive: Duration::from_secs(10),
            dead_after: Duration::from_secs(30),
            min_rto: Duration::from_millis(2),
            max_ack_delay: Duration::from_micros(50),
            congestion: Congestion::Delay,
            max_outstanding: 1024,
        }
    }
}

/// A send that was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The flow is not (or no longer) known or is closing.
    UnknownFlow,
    /// More messages than `Config::max_outstanding` are unacknowledged.
    NoCredit,
    /// Longer than the peer takes, or empty.
    MessageSize,
}

/// One datagram to send: write `header_len` bytes with [`Endpoint::emit_header`], then the body.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    /// To whom.
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

/// Counters of one endpoint. A drop reason is a counter.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// PLACEHOLDER: the owner adds one public u64 field per event; `iter` lists them all by name.
    pub datagrams_received: u64,
}

impl Counters {
    /// Every counter with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("datagrams_received", self.datagrams_received)].into_iter()
    }
}

/// The connections of one engine.
#[derive(Debug)]
pub struct Endpoint {
    counters: Counters,
}

#[expect(unused_variables, reason = "placeholder")]
impl Endpoint {
    /// An endpoint without flows. `seed` decides every identifier and jitter; in production it comes from the system.
    pub fn new(config: Config, seed: [u64; 2]) -> Self {
        Self { counters: Counters::default() }
    }
    /// One datagram from the network. Events it causes must be polled before the next one is handled.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &Datagram<'_>, payload: &mut impl Payload) {}
    /// Call when `poll_timeout` has passed.
    pub fn handle_timeout(&mut self, now: Instant, payload: &mut impl Payload) {}
    /// The application gave back `messages` messages of `bytes` bytes in all: the window opens, undelivered ones are offered.
    pub fn handle_room(
        &mut self,
        now: Instant,
        flow: FlowId,
        messages: u32,
        bytes: u64,
        payload: &mut impl Payload,
    ) {
    }
    /// Room appeared that is not of one flow (for example another flow's buffers came home): offer what waits, for all flows
    /// that were refused room, and let peers try again at once.
    pub fn handle_pool_room(&mut self, now: Instant, payload: &mut impl Payload) {}
    /// Starts a connection to the listener of `port` at `to`. The outcome is an event.
    pub fn connect(
        &mut self,
        now: Instant,
        to: SocketAddr,
        port: u16,
        ours: Limits,
        timeout: Duration,
    ) -> Result<FlowId, Reason> {
        Err(Reason::Timeout)
    }
    /// Gives a message of `len` bytes to a connected flow. `acknowledged` names it when the peer has it.
    pub fn send(&mut self, now: Instant, flow: FlowId, message: TxHandle, len: u32) -> Result<(), SendError> {
        Err(SendError::UnknownFlow)
    }
    /// Closes in order: everything sent is delivered first. Ends with `Finished` or `Reset`. Nothing more is delivered to us.
    pub fn close(&mut self, now: Instant, flow: FlowId, payload: &mut impl Payload) {}
    /// Ends at once and tells the peer why. No event follows; reserved room is discarded before the call returns.
    pub fn reset(&mut self, now: Instant, flow: FlowId, reason: Reason, payload: &mut impl Payload) {}
    /// The next datagram to send, if window and pacing allow one now. `size_limit` bytes is what the driver lends.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        None
    }
    /// Writes the header of the datagram that the last `poll_transmit` returned into `out`, `header_len` bytes.
    pub fn emit_header(&self, out: &mut [u8]) {}
    /// The messages of the bundle that the last `poll_transmit` returned, in order, with their lengths.
    pub fn bundle(&self) -> &[(TxHandle, u16)] {
        &[]
    }
    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }
    /// When `handle_timeout` is due. The endpoint may be early, never late.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// How many flows there are.
    pub fn flows(&self) -> usize {
        0
    }
    /// What is known of a flow.
    pub fn stats(&self, flow: FlowId) -> Option<FlowStats> {
        None
    }
    /// What the peer of a connected flow can take.
    pub fn peer_limits(&self, flow: FlowId) -> Option<Limits> {
        None
    }
    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

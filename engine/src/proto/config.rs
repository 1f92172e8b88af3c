//! What can be chosen about an endpoint, and what it counts.

use super::congestion;
use super::ports::PortRange;
use super::time::Duration;
use crate::wire::header::ParseError;

/// The UDP port of an endpoint that is told no other.
const DEFAULT_PORT: u16 = 31_580;

/// Which congestion controller new flows get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Congestion {
    /// Delay-based, for use.
    Delay,
    /// A fixed window of so many bytes, for tests and comparison.
    Fixed(u32),
}

impl Congestion {
    pub(super) fn controller(self) -> Box<dyn congestion::Controller> {
        match self {
            Self::Delay => Box::new(congestion::Delay::default()),
            Self::Fixed(bytes) => Box::new(congestion::Fixed(u64::from(bytes))),
        }
    }
}

/// How the datagrams of a flow find the engines that own it, on network cards that only hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Spread {
    /// Established after one round trip: what lands at a wrong engine is handed over, until both directions know a pair of
    /// ports that does not.
    #[default]
    Learned,
    /// The paper's handshake (section 4.2): batches of SYNs on random pairs; data only on pairs that are proven.
    Paper,
}

/// Everything about an endpoint that can be chosen.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest UDP payload in bytes that our own interface takes (MTU less 28 for IPv4).
    pub max_datagram: u32,
    /// Most flows at a time.
    pub max_flows: u32,
    /// A flow with nothing to say sends a keepalive this often.
    pub keepalive: Duration,
    /// A flow that heard nothing for this long although it asked ends with `Timeout`.
    pub dead_after: Duration,
    /// Least time between a second and later retransmissions of the same tail.
    pub min_rto: Duration,
    /// Longest that an acknowledgement waits for data to ride on.
    pub max_ack_delay: Duration,
    /// The congestion controller of new flows.
    pub congestion: Congestion,
    /// Most messages of one flow that may be unacknowledged at a time.
    pub max_outstanding: u32,
    /// Index of the engine that the endpoint belongs to: below `engines`.
    pub engine: u8,
    /// Engines of this sidecar, told to peers. At least one.
    pub engines: u8,
    /// UDP ports that datagrams can be sent from; the first is used where it does not matter.
    pub ports: PortRange,
    /// UDP ports that peers may send to, told to them.
    pub receive_ports: PortRange,
    /// How flows find their engines.
    pub spread: Spread,
    /// With [`Spread::Paper`]: how long a batch of SYNs waits for its answers before the next, larger one.
    pub spray_interval: Duration,
    /// The secret of cookies, the same for all engines of a sidecar and for nobody else. `None`: drawn from the endpoint's
    /// seed, which serves a sidecar of one engine.
    pub cookie_secret: Option<[u64; 2]>,
}

impl Config {
    /// Whether datagrams can leave from this port: a driver sends from the port at which it hears where it must.
    pub(super) fn may_send_from(&self, port: u16) -> bool {
        self.ports.contains(port) || self.receive_ports.contains(port)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_datagram: 1_472,
            max_flows: 65_536,
            keepalive: Duration::from_secs(10),
            dead_after: Duration::from_secs(30),
            min_rto: Duration::from_millis(2),
            max_ack_delay: Duration::from_micros(50),
            congestion: Congestion::Delay,
            max_outstanding: 32_768,
            engine: 0,
            engines: 1,
            ports: PortRange::only(DEFAULT_PORT),
            receive_ports: PortRange::only(DEFAULT_PORT),
            spread: Spread::Learned,
            spray_interval: Duration::from_millis(300),
            cookie_secret: None,
        }
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What an endpoint counted. A drop reason is a counter.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams handed to the endpoint.
    datagrams_received,
    /// Datagrams made by the endpoint.
    datagrams_sent,
    /// Datagrams that landed here and were handed over to the engine that they belong to.
    handed_over,
    /// Datagrams of ours that landed at another engine, which handed them over.
    taken_over,
    /// Pairs of ports that peers named as landing where they should.
    paths_learned,
    /// Pairs of ports that worked and no longer do.
    paths_lost,
    /// Messages delivered whole.
    messages_delivered,
    /// Messages acknowledged by peers.
    messages_acknowledged,
    /// Segments and bundled messages sent again.
    retransmissions,
    /// Packets that were declared lost.
    packets_lost,
    /// Packets declared lost whose acknowledgement came later.
    spurious_losses,
    /// Probes of a silent tail.
    tail_probes,
    /// Second and later timeouts of the same tail.
    timeouts,
    /// Acknowledgements that rode on no data.
    pure_acks,
    /// Keepalives sent.
    keepalives,
    /// Flows connected by us.
    connected,
    /// Flows accepted from peers.
    accepted,
    /// Connects that failed.
    connects_failed,
    /// Flows that ended in order.
    flows_closed,
    /// Flows that ended by reset or timeout.
    flows_reset,
    /// SYNs answered with a refusal.
    syns_refused,
    /// Dropped: shorter than its fields promise.
    drop_truncated,
    /// Dropped: a version that we do not speak.
    drop_version,
    /// Dropped: an unknown packet type.
    drop_type,
    /// Dropped: impossible flags.
    drop_flags,
    /// Dropped: a field with an impossible value.
    drop_field,
    /// Dropped: names a flow that we do not know; answered by a reset if the rate allows.
    drop_unknown_flow,
    /// Dropped: was handed over to us and is not ours either.
    drop_wrong_engine,
    /// Dropped: names a flow of another host.
    drop_wrong_address,
    /// Dropped: a packet number that was received already or is too old to know.
    drop_duplicate,
    /// Dropped: a packet number further ahead than anything we could have missed.
    drop_number_ahead,
    /// Dropped: a forged or outdated cookie.
    drop_cookie,
    /// Dropped: a SYN_ACK, REJECT or RESET that answers nothing of ours.
    drop_forged_answer,
    /// Dropped: data beyond the limits told.
    drop_beyond_window,
    /// Dropped: a segment that contradicts earlier ones of its message.
    drop_contradiction,
    /// Dropped: a SYN_ACK for a flow that another one connected.
    drop_late_answer,
    /// Dropped: acknowledges packets that were never sent.
    drop_false_ack,
    /// Dropped: no room at the receiving application; the peer repeats it.
    drop_no_room,
    /// Dropped: for a flow whose application closed it.
    drop_after_close,
    /// Replies to strangers not sent because of the rate limit or a full queue.
    replies_suppressed,
    /// Path size probes sent.
    path_probes,
    /// Paths that became narrower.
    path_black_holes,
}

impl Counters {
    pub(super) fn count_parse_error(&mut self, error: ParseError) {
        let counter = match error {
            ParseError::Truncated => &mut self.drop_truncated,
            ParseError::Version => &mut self.drop_version,
            ParseError::Type => &mut self.drop_type,
            ParseError::Flags => &mut self.drop_flags,
            ParseError::Field => &mut self.drop_field,
        };
        *counter += 1;
    }
}

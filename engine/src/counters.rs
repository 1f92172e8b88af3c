//! Every counter of an engine but those of the protocol core and the driver, which keep their own beside their code.
//!
//! A counter is a plain number of one engine thread; a drop reason is a counter.

use machnet_client::shm::ring::PeerFault;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident => $label:literal,)+) => {
        /// Name of a counter.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Counter {
            /// Every counter, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name that operators see.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

counters! {
    /// Duty cycles run.
    Cycles => "cycles",
    /// Duty cycles in which something was done.
    BusyCycles => "busy_cycles",
    /// Times the engine went to sleep.
    Sleeps => "sleeps",
    /// Doorbells of applications rung.
    Rings => "rings",
    /// Channels attached.
    ChannelsAttached => "channels_attached",
    /// Channels that ended, for whatever reason.
    ChannelsEnded => "channels_ended",
    /// Channels ended because the application broke a rule of the shared memory.
    ChannelsFaulted => "channels_faulted",
    /// Messages taken from applications.
    MessagesSent => "messages_sent",
    /// Messages put into receive rings.
    MessagesDelivered => "messages_delivered",
    /// Messages relayed between two applications of this host.
    MessagesRelayed => "messages_relayed",
    /// A message had to wait or was dropped for the peer to repeat: the receiving application has no room.
    NoRoom => "no_room",
    /// Connects asked for by applications.
    Connects => "connects",
    /// Flows given to listeners.
    Accepts => "accepts",
    /// A connect came for a listener whose backlog is full.
    BacklogFull => "backlog_full",
    /// A connect came for a port where nobody listens.
    NobodyListens => "nobody_listens",
    /// Datagrams that the driver had no room for; the protocol repeats them.
    TransmitNoRoom => "transmit_no_room",
    /// Times that the network path or the engine's waiting failed as a whole.
    PathErrors => "path_errors",
    /// Flows reset because their application was gone and the linger time over.
    LingerExpired => "linger_expired",
    /// A slot had a sequence number that was never due.
    FaultSequence => "peer_fault_sequence",
    /// A ring's head was beyond what was published.
    FaultHead => "peer_fault_head",
    /// A slot had an unknown kind.
    FaultKind => "peer_fault_kind",
    /// A message had an impossible length.
    FaultLength => "peer_fault_length",
    /// A slot named a flow that does not exist.
    FaultFlow => "peer_fault_flow",
    /// A slot named a buffer that its sender does not hold.
    FaultBuffer => "peer_fault_buffer",
    /// More was sent than the credit allows.
    FaultCredit => "peer_fault_credit",
    /// Something was given back that was never handed over.
    FaultToken => "peer_fault_token",
}

impl From<PeerFault> for Counter {
    fn from(fault: PeerFault) -> Self {
        match fault {
            PeerFault::Sequence => Self::FaultSequence,
            PeerFault::Head => Self::FaultHead,
            PeerFault::Kind => Self::FaultKind,
            PeerFault::Length => Self::FaultLength,
            PeerFault::Flow => Self::FaultFlow,
            PeerFault::Buffer => Self::FaultBuffer,
            PeerFault::Credit => Self::FaultCredit,
            PeerFault::Token => Self::FaultToken,
        }
    }
}

/// The counters of one engine.
#[derive(Clone, Debug)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Counter::ALL.len()])
    }
}

impl Counters {
    /// Counts one.
    #[inline]
    pub fn count(&mut self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `number` at once.
    #[inline]
    pub fn add(&mut self, counter: Counter, number: u64) {
        self.0[counter as usize] += number;
    }

    /// The value of one counter.
    pub fn value(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Every counter with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Counter::ALL.iter().map(|&counter| (counter.label(), self.value(counter)))
    }
}

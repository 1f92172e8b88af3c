//! What a run tells: totals, a hash of everything that happened, and a readable log on request.

use crate::dice::mix;
use crate::world::{MOST_HOSTS, host_of};
use core::fmt;
use machnet_engine::wire::header::{self, Packet};
use std::net::SocketAddr;

macro_rules! totals {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// What happened, summed over all seeds of a run.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Totals {
            $($(#[$doc])* pub(crate) $field: u64,)*
        }

        impl Totals {
            /// Adds another run's.
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// All of them by name.
            pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)*]
            }
        }
    };
}

totals! {
    /// Seeds run.
    seeds,
    connects,
    connected,
    refused,
    busy,
    connect_timeouts,
    closed,
    finished,
    reset,
    aborted,
    /// Messages accepted by `send`.
    messages,
    message_bytes,
    delivered,
    delivered_bytes,
    /// Messages of 1 MiB or more that arrived.
    large_delivered,
    acknowledged,
    unacknowledged,
    datagrams,
    datagram_bytes,
    retransmissions,
    bundles,
    probes,
    lost,
    duplicated,
    ghosts,
    reordered,
    corrupted,
    corrupted_unnoticed,
    queue_full,
    too_large,
    cut,
    /// Dropped by a receive queue of 256 descriptors.
    descriptors_full,
    to_nobody,
    partitions,
    /// Paths that began to take only smaller datagrams.
    narrowed,
    restarts,
    naps,
    /// `reserve` or `deliver_whole` that found no room.
    no_room,
    /// `deliver` that found the ring full.
    ring_full,
    no_credit,
    unread_pauses,
    stranger_sent,
    stranger_answered,
    flood_syns,
    idle_checks,
    peeks,
    /// Datagrams that landed at another engine than their own, and what became of those.
    handed_over,
    hand_over_lost,
    inbox_full,
    /// Sent to a port at which nobody hears.
    to_closed_port,
    rehashes,
    direct_checks,
    clock_jumps,
    events,
    virtual_ms,
}

/// The log of one seed.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) printing: bool,
    hash: u64,
}

impl Log {
    pub(crate) const fn new(printing: bool) -> Self {
        Self { printing, hash: 0 }
    }

    /// A hash of everything noted so far.
    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    /// Notes numbers that a replay must repeat.
    pub(crate) fn note(&mut self, values: &[u64]) {
        for value in values {
            self.hash = mix(self.hash ^ *value);
        }
    }

    /// Notes bytes that a replay must repeat.
    pub(crate) fn note_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.note(&[u64::from_le_bytes(word)]);
        }
    }

    /// Prints a line if someone watches; the text is made only then.
    pub(crate) fn say(&self, now_ns: u64, text: impl FnOnce() -> String) {
        if self.printing {
            println!("{:>6}.{:06} ms  {}", now_ns / 1_000_000, now_ns % 1_000_000, text());
        }
    }
}

/// A short name for a simulated address.
pub(crate) struct Short(pub(crate) SocketAddr);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match host_of(self.0.ip(), MOST_HOSTS) {
            Some(host) => write!(f, "host{}:{}", host + 1, self.0.port()),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A datagram's header in words: what an endpoint makes of it, but for the message bytes.
pub(crate) fn decoded(bytes: &[u8]) -> String {
    match header::parse(bytes) {
        Ok(Packet::Data(data)) => {
            let mut text = format!("#{:08x}", data.number);
            if let Some(extended) = data.extended {
                text += &format!(" {extended:?}");
            }
            if let Some(ack) = data.ack {
                let ranges: Vec<_> = ack.ranges.iter().collect();
                text += &format!(" ack {:08x} run {} {ranges:?}", ack.largest, ack.run);
            }
            if let Some(window) = data.window {
                text += &format!(" window {} messages {} KiB", window.messages, window.kibibytes);
            }
            if let Some(fin) = data.fin {
                text += &format!(" fin {fin}");
            }
            text += if data.confirm.is_some() { " confirm" } else { "" };
            match data.body {
                header::Body::None => text,
                header::Body::Whole { message, .. } => text + &format!(" whole {message}"),
                header::Body::Segment { message, offset, total, .. } => {
                    text + &format!(" segment {message} at {offset} of {total}")
                }
                header::Body::Bundle { first, .. } => text + &format!(" bundle from {first}"),
                header::Body::Ping { padding } => text + &format!(" ping {padding}"),
                header::Body::Nudge => text + " nudge",
            }
        }
        Ok(other) => format!("{other:?}"),
        Err(error) => format!("{error:?}"),
    }
}

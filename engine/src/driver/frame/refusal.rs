//! Why a frame that arrived went no further.

/// The reason; each has its counter in [`DriverCounters`](super::super::DriverCounters).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// For another host, another VLAN, or of a protocol that is not ours.
    NotOurs,
    /// Cut short, inconsistent, with IPv4 options, or from an address that cannot be a host's.
    Header,
    /// Part of a packet that was cut up on its way.
    Fragment,
    /// A checksum says that it was damaged.
    Checksum,
    /// For a UDP port that nobody has.
    NoPort,
    /// Larger than the largest datagram that was agreed on.
    TooLarge,
}

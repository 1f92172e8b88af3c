//! IPv4 headers (RFC 791): those that we write have no options, and packets are never cut up.
//!
//! ```text
//!   0      1      2        4        6               8     9          10         12       16            20
//!   | 4 5  | 0    | length | number | flags, offset | TTL | protocol | checksum | source | destination | payload
//! ```

use super::checksum::Sum;
use super::refusal::Refusal;
use std::net::Ipv4Addr;

/// Bytes of a header without options.
pub(super) const HEADER: usize = 20;
/// Protocol number of ICMP.
pub(super) const ICMP: u8 = 1;
/// Protocol number of UDP.
pub(super) const UDP: u8 = 17;

/// Version 4, and five words of header.
const VERSION_AND_LENGTH: u8 = 0x45;
/// The flag that forbids to cut the packet up.
const DONT_FRAGMENT: u16 = 0x4000;
/// The flag that more parts follow, and the place of this one.
const FRAGMENT_BITS: u16 = 0x3fff;
/// Routers that a packet may pass.
const TIME_TO_LIVE: u8 = 64;

/// A packet that arrived whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) protocol: u8,
    /// Without what Ethernet padded it with.
    pub(super) payload: &'a [u8],
    /// The header and the payload.
    pub(super) whole: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet that `bytes` begin with.
    #[inline]
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let header = bytes.first_chunk::<HEADER>().ok_or(Refusal::Header)?;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        // Options are for routers and for the curious; nobody whom we talk to sends any.
        if header[0] != VERSION_AND_LENGTH || total < HEADER || total > bytes.len() {
            return Err(Refusal::Header);
        }
        if !Sum::default().bytes(header).is_intact() {
            return Err(Refusal::Checksum);
        }
        if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_BITS != 0 {
            return Err(Refusal::Fragment);
        }
        Ok(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
            protocol: header[9],
            payload: &bytes[HEADER..total],
            whole: &bytes[..total],
        })
    }
}

/// The header of packets of one protocol from `source` to `destination`, but for length and checksum, which are zero.
///
/// The number that parts would be put together by is zero: a packet that must not be cut up needs none (RFC 6864).
pub(super) fn header(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = VERSION_AND_LENGTH;
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = TIME_TO_LIVE;
    header[9] = protocol;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    header
}

/// Writes length and checksum into a header that has none; `sum` is that of the header so far.
#[inline]
pub(super) fn complete(header: &mut [u8; HEADER], sum: Sum, total: u16) {
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[10..12].copy_from_slice(&sum.word(total).checksum());
}

/// What the checksum of UDP covers besides the datagram: addresses and protocol; the length is still to be added.
#[inline]
pub(super) fn pseudo_header(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) -> Sum {
    Sum::default().bytes(&source.octets()).bytes(&destination.octets()).word(u16::from(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with four bytes of payload and six of padding.
    fn packet() -> Vec<u8> {
        let mut bytes = vec![7; HEADER + 10];
        let mut start = header(UDP, [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let sum = Sum::default().bytes(&start);
        complete(&mut start, sum, 24);
        bytes[..HEADER].copy_from_slice(&start);
        bytes
    }

    /// The packet with one byte changed, and a checksum that is right all the same.
    fn changed(at: usize, value: u8) -> Vec<u8> {
        let mut bytes = packet();
        bytes[at] = value;
        bytes[10..12].fill(0);
        let sum = Sum::default().bytes(&bytes[..HEADER]).checksum();
        bytes[10..12].copy_from_slice(&sum);
        bytes
    }

    #[test]
    fn a_packet_ends_where_its_length_says_and_not_where_the_frame_does() {
        let bytes = packet();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.payload, [7; 4]);
        assert_eq!(packet.whole.len(), 24);
        assert_eq!((packet.source, packet.destination), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
        assert_eq!(packet.protocol, UDP);
        assert_eq!(bytes[6..8], [0x40, 0], "must not be cut up");
        assert_eq!(bytes[8], 64);
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_reason() {
        let reason = |bytes: &[u8]| Packet::parse(bytes).map(|_| ()).unwrap_err();
        for len in 0..24 {
            assert_eq!(reason(&packet()[..len]), Refusal::Header, "{len} bytes");
        }
        for (at, value) in [(0, 0x46), (0, 0x44), (0, 0x65), (3, 19), (2, 1)] {
            assert_eq!(reason(&changed(at, value)), Refusal::Header, "byte {at} = {value:#x}");
        }
        for (at, value) in [(6, 0x20), (6, 0x01), (7, 1)] {
            assert_eq!(reason(&changed(at, value)), Refusal::Fragment, "byte {at} = {value:#x}");
        }
        for bit in 64..160 {
            let mut damaged = packet();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(reason(&damaged), Refusal::Checksum, "bit {bit}");
        }
    }
}

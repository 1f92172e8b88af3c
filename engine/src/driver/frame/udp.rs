//! UDP over IPv4 over Ethernet: the datagram that a packet carries, and headers that are written in one go.
//!
//! ```text
//!   0        2        4        6          8
//!   | from   | to     | length | checksum | payload
//! ```

use super::checksum::Sum;
use super::ethernet::{self, Ethernet};
use super::ipv4::{self, Packet};
use super::refusal::Refusal;
use super::{ReceivedChecksum, SentChecksum};
use std::net::Ipv4Addr;

/// Bytes of a UDP header.
pub(super) const HEADER: usize = 8;

/// Bytes of all headers, with a VLAN tag.
const MOST_HEADERS: usize = ethernet::HEADER + ethernet::TAG + ipv4::HEADER + HEADER;

/// A datagram that arrived whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Datagram<'a> {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The datagram of a UDP packet.
    #[inline]
    pub(super) fn parse(packet: &Packet<'a>, checksum: ReceivedChecksum) -> Result<Self, Refusal> {
        let bytes = packet.payload;
        let header = bytes.first_chunk::<HEADER>().ok_or(Refusal::Header)?;
        let length = u16::from_be_bytes([header[4], header[5]]);
        let Some(payload) = bytes.get(HEADER..usize::from(length)) else { return Err(Refusal::Header) };
        // A checksum of zero is none: the sender did not compute one.
        let is_right = match checksum {
            ReceivedChecksum::Good => true,
            ReceivedChecksum::Wrong => false,
            ReceivedChecksum::Unknown if header[6..8] == [0, 0] => true,
            ReceivedChecksum::Unknown => {
                let pseudo = ipv4::pseudo_header(ipv4::UDP, packet.source, packet.destination);
                pseudo.word(length).bytes(&bytes[..usize::from(length)]).is_intact()
            }
        };
        if !is_right {
            return Err(Refusal::Checksum);
        }
        let from = u16::from_be_bytes([header[0], header[1]]);
        Ok(Self { from, to: u16::from_be_bytes([header[2], header[3]]), payload })
    }
}

/// All headers of datagrams from one host to another, but for what differs from datagram to datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers {
    bytes: [u8; MOST_HEADERS],
    /// How much of them is used: with a tag or without.
    len: u8,
    /// Of the IPv4 header, without length and checksum.
    ip_sum: Sum,
    /// Of what UDP's checksum covers besides the datagram, without the length.
    pseudo_sum: Sum,
}

impl Headers {
    /// The headers of datagrams from `source` to `destination` behind this Ethernet header.
    pub(super) fn new(ethernet: &Ethernet, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let ip = ipv4::header(ipv4::UDP, source, destination);
        let mut bytes = [0; MOST_HEADERS];
        ethernet.emit(&mut bytes)[..ipv4::HEADER].copy_from_slice(&ip);
        let len = ethernet.len() + ipv4::HEADER + HEADER;
        Self {
            bytes,
            len: u8::try_from(len).expect("headers are short"),
            ip_sum: Sum::default().bytes(&ip),
            pseudo_sum: ipv4::pseudo_header(ipv4::UDP, source, destination),
        }
    }

    /// Bytes before the payload.
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Writes the headers of `frame`, whose payload is there, for datagrams between these ports. With `completed`, somebody else
    /// completes the checksum.
    #[inline]
    pub(super) fn write(&self, frame: &mut [u8], from: u16, to: u16, completed: bool) -> SentChecksum {
        let (headers, payload) = frame.split_at_mut(self.len());
        headers.copy_from_slice(&self.bytes[..headers.len()]);
        let (_, ip_and_udp) =
            headers.split_last_chunk_mut::<{ ipv4::HEADER + HEADER }>().expect("all headers are there");
        let (ip, udp) =
            ip_and_udp.split_first_chunk_mut::<{ ipv4::HEADER }>().expect("all headers are there");
        let length = u16::try_from(HEADER + payload.len()).expect("a frame is below 64 KiB");
        let ip_header = u16::try_from(ipv4::HEADER).expect("20");
        ipv4::complete(ip, self.ip_sum, length + ip_header);
        udp[..2].copy_from_slice(&from.to_be_bytes());
        udp[2..4].copy_from_slice(&to.to_be_bytes());
        udp[4..6].copy_from_slice(&length.to_be_bytes());
        let sum = self.pseudo_sum.word(length);
        if completed {
            udp[6..8].copy_from_slice(&sum.folded());
            let udp_at = u16::from(self.len) - u16::try_from(HEADER).expect("8");
            return SentChecksum::ToComplete { udp_at };
        }
        let checksum = sum.word(from).word(to).word(length).bytes(payload).checksum();
        // Zero would say that there is none.
        udp[6..8].copy_from_slice(if checksum == [0, 0] { &[0xff, 0xff] } else { &checksum });
        SentChecksum::Complete
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::MacAddress;
    use super::*;

    const ETHERNET: Ethernet = Ethernet {
        to: MacAddress([2, 0, 0, 0, 0, 2]),
        from: MacAddress([2, 0, 0, 0, 0, 1]),
        vlan: 0,
        kind: ethernet::IPV4,
    };

    fn frame(vlan: u16, payload: &[u8], completed: bool) -> (Vec<u8>, SentChecksum) {
        let ethernet = Ethernet { vlan, ..ETHERNET };
        let headers = Headers::new(&ethernet, [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut frame = vec![0xee; headers.len()];
        frame.extend_from_slice(payload);
        let checksum = headers.write(&mut frame, 31_580, 31_581, completed);
        (frame, checksum)
    }

    fn parse(frame: &[u8], checksum: ReceivedChecksum) -> Result<(u16, u16, Vec<u8>), Refusal> {
        let (_, bytes) = Ethernet::parse(frame).unwrap();
        let packet = Packet::parse(bytes)?;
        Datagram::parse(&packet, checksum).map(|it| (it.from, it.to, it.payload.to_vec()))
    }

    #[test]
    fn what_is_written_is_read_back_at_every_length() {
        for len in (0..300).chain([1_472, 8_972]) {
            let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
            for vlan in [0, 9] {
                let (frame, _) = frame(vlan, &payload, false);
                let expected = (31_580, 31_581, payload.clone());
                assert_eq!(parse(&frame, ReceivedChecksum::Unknown), Ok(expected));
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_unless_somebody_vouches_for_the_frame() {
        let (frame, _) = frame(0, b"some payload", false);
        for bit in (34 * 8..38 * 8).chain(40 * 8..frame.len() * 8) {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&damaged, ReceivedChecksum::Unknown), Err(Refusal::Checksum), "bit {bit}");
            assert!(parse(&damaged, ReceivedChecksum::Good).is_ok());
        }
        assert_eq!(parse(&frame, ReceivedChecksum::Wrong), Err(Refusal::Checksum));
    }

    #[test]
    fn a_checksum_of_zero_is_none_and_is_never_written() {
        let (mut other, _) = frame(0, b"some payload", false);
        other[40..42].fill(0);
        assert!(parse(&other, ReceivedChecksum::Unknown).is_ok());
        // Two bytes of payload take the sum through all its values, and so through the one that would be zero.
        let mut ones = 0;
        for word in 0..=u16::MAX {
            let (frame, _) = frame(0, &word.to_be_bytes(), false);
            assert_ne!(frame[40..42], [0, 0]);
            ones += u32::from(frame[40..42] == [0xff, 0xff]);
            assert!(parse(&frame, ReceivedChecksum::Unknown).is_ok());
        }
        assert!(ones > 0);
    }

    #[test]
    fn a_checksum_to_be_completed_lacks_ports_length_and_payload_only() {
        for vlan in [0, 9] {
            let (mut begun, checksum) = frame(vlan, b"odd", true);
            let (whole, _) = frame(vlan, b"odd", false);
            let SentChecksum::ToComplete { udp_at } = checksum else { panic!("{checksum:?}") };
            // As a network card does it: the sum over the UDP packet, with what stands in the field.
            let at = usize::from(udp_at);
            let sum = Sum::default().bytes(&begun[at..]).checksum();
            begun[at + 6..at + 8].copy_from_slice(&sum);
            assert_eq!(begun, whole);
        }
    }

    #[test]
    fn a_length_that_does_not_fit_the_packet_is_refused() {
        for length in [0_u16, 7, 21, u16::MAX] {
            let (mut frame, _) = frame(0, b"some payload", false);
            frame[38..40].copy_from_slice(&length.to_be_bytes());
            assert_eq!(parse(&frame, ReceivedChecksum::Good), Err(Refusal::Header), "{length}");
        }
    }
}

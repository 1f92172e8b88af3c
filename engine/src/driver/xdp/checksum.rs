//! What can be known of the UDP checksum of a frame that may never have left this machine.
//!
//! A kernel that hands a datagram to a virtual interface leaves its checksum half done: the field holds the sum of the pseudo
//! header only, for a network card to complete, and beside the frame stands a mark that says so. XDP sockets get the frame
//! without the mark. On a veth pair in native mode, a field that is just the pseudo header's sum vouches for the frame: who wrote it was a
//! kernel that copied the bytes in memory.
//!
//! Elsewhere the same field is a danger. A kernel that sends a run of datagrams as one (GSO) leaves it to the card to cut, too. In
//! native mode veth has the run cut before; in generic mode it comes whole, several datagrams behind one header, and where they end is
//! nowhere to be seen. Such a run always has the half checksum, so in generic mode what has one is refused, even if the sum were right by
//! chance.
//!
//! A complete checksum looks like a half one by chance in one of 65,536 frames. On veth in native mode such a frame is taken without a
//! look at its checksum; if it came over a wire, that wire's own frame check stood before it. In generic mode it is lost, and
//! repeated by the protocol with other bytes in its header. On all other interfaces every checksum is computed.

use crate::driver::frame::ReceivedChecksum;

/// What a half checksum says on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Half {
    /// A kernel of this machine made the frame, and it is one datagram.
    Vouches,
    /// It may be several datagrams glued together.
    Refused,
    /// There are none: where the sum of a frame is that of a half checksum, it is by chance.
    ByChance,
}

const ETHERTYPE_AT: usize = 12;
const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const VLAN: [u8; 2] = [0x81, 0x00];
const ADDRESSES_AT: usize = 12;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const PROTOCOL_UDP: u32 = 17;

/// What the checksum field says of a frame that the program let through: IPv4 without options, UDP.
#[inline]
pub(super) fn look(frame: &[u8], half: Half) -> ReceivedChecksum {
    let known = match half {
        Half::Vouches => ReceivedChecksum::Good,
        Half::Refused => ReceivedChecksum::Wrong,
        Half::ByChance => return ReceivedChecksum::Unknown,
    };
    if pseudo_header_is_summed(frame).unwrap_or(false) { known } else { ReceivedChecksum::Unknown }
}

fn pseudo_header_is_summed(frame: &[u8]) -> Option<bool> {
    let tag = if frame.get(ETHERTYPE_AT..ETHERTYPE_AT + 2)? == VLAN { TAG_BYTES } else { 0 };
    let ip = frame.get(ETHERNET_BYTES + tag..)?;
    let udp = ip.get(IPV4_BYTES..IPV4_BYTES + UDP_BYTES)?;
    let half = |bytes: &[u8], at: usize| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let addresses: u32 = (0..4).map(|word| half(ip, ADDRESSES_AT + 2 * word)).sum();
    let sum = addresses + PROTOCOL_UDP + half(udp, 4);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    Some(half(udp, 6) == folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame to 10.0.0.2 with 3 bytes of payload and this checksum.
    fn frame(tagged: bool, checksum: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if tagged {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend([8, 0, 0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x7b, 0x5c, 0x7b, 0x5c, 0, 11]);
        frame.extend(checksum.to_be_bytes());
        frame.extend(b"abc");
        frame
    }

    #[test]
    fn only_the_pseudo_headers_sum_is_a_half_checksum_and_the_interface_says_what_it_means() {
        let sum = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 11;
        for tagged in [false, true] {
            let half = frame(tagged, sum);
            assert_eq!(look(&half, Half::Vouches), ReceivedChecksum::Good);
            assert_eq!(look(&half, Half::Refused), ReceivedChecksum::Wrong);
            assert_eq!(look(&half, Half::ByChance), ReceivedChecksum::Unknown);
            for other in [0, sum + 1, !sum, 0xffff] {
                for half in [Half::Vouches, Half::Refused, Half::ByChance] {
                    assert_eq!(look(&frame(tagged, other), half), ReceivedChecksum::Unknown, "{other:#x}");
                }
            }
        }
    }

    #[test]
    fn a_frame_that_is_cut_is_neither_vouched_for_nor_refused() {
        let whole = frame(true, 0x0a00 + 1 + 0x0a00 + 2 + 17 + 11);
        for len in 0..14 + 4 + 20 + 8 {
            assert_eq!(look(&whole[..len], Half::Vouches), ReceivedChecksum::Unknown);
            assert_eq!(look(&whole[..len], Half::Refused), ReceivedChecksum::Unknown);
        }
    }
}

//! What can be known of the UDP checksum of a frame that never left this machine.
//!
//! A kernel that hands a datagram to a virtual interface leaves its checksum half done: the field holds the sum of the pseudo
//! header only, for a network card to complete, and beside the frame stands a mark that says so. XDP sockets get the frame
//! without the mark. So where frames may come from this machine (a veth pair, a TAP, a virtual machine's neighbour), a field that is just
//! the pseudo header's sum vouches for the frame: whoever wrote it was a kernel that copied the bytes in memory.
//!
//! A frame from a wire that was bridged to such an interface has a complete checksum, which looks like that by chance in one
//! of 65,536. Such a one is taken without a look at its checksum; the wire's own frame check stood before it. On all other
//! interfaces every checksum is computed.

use crate::driver::frame::ReceivedChecksum;

const ETHERTYPE_AT: usize = 12;
const ETHERNET_BYTES: usize = 14;
const TAG_BYTES: usize = 4;
const VLAN: [u8; 2] = [0x81, 0x00];
const ADDRESSES_AT: usize = 12;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const PROTOCOL_UDP: u32 = 17;

/// What the checksum field says of a frame that the program let through: IPv4 without options, UDP.
pub(super) fn of_local(frame: &[u8]) -> ReceivedChecksum {
    if pseudo_header_is_summed(frame).unwrap_or(false) {
        ReceivedChecksum::Good
    } else {
        ReceivedChecksum::Unknown
    }
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
    fn the_pseudo_headers_sum_vouches_for_a_frame_and_nothing_else_does() {
        let sum = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 11;
        for tagged in [false, true] {
            assert_eq!(of_local(&frame(tagged, sum)), ReceivedChecksum::Good);
            for other in [0, sum + 1, !sum, 0xffff] {
                assert_eq!(of_local(&frame(tagged, other)), ReceivedChecksum::Unknown, "{other:#x}");
            }
        }
    }

    #[test]
    fn a_frame_that_is_cut_is_not_vouched_for() {
        let whole = frame(true, 0x0a00 + 1 + 0x0a00 + 2 + 17 + 11);
        for len in 0..14 + 4 + 20 + 8 {
            assert_eq!(of_local(&whole[..len]), ReceivedChecksum::Unknown);
        }
    }
}

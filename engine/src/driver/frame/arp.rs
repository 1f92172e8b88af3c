//! ARP packets for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!   0        2        4    5    6            8               14            18              24
//!   | 1      | 0800   | 6  | 4  | operation  | sender's MAC   | sender's IP | target's MAC   | target's IP |
//! ```

use super::super::MacAddress;
use std::net::Ipv4Addr;

/// Bytes of a packet.
pub(super) const LEN: usize = 28;

/// Ethernet, IPv4, and the lengths of their addresses.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Ask,
    Answer,
}

/// An ARP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arp {
    pub(super) operation: Operation,
    pub(super) sender_mac: MacAddress,
    /// 0.0.0.0 where someone asks whether an address is free (RFC 5227).
    pub(super) sender: Ipv4Addr,
    pub(super) target_mac: MacAddress,
    pub(super) target: Ipv4Addr,
}

impl Arp {
    /// The packet that `bytes` begin with; none if they are no ARP packet for IPv4 over Ethernet, or no sane one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<LEN>()?;
        let operation = match bytes[6..8] {
            [0, 1] => Operation::Ask,
            [0, 2] => Operation::Answer,
            _ => return None,
        };
        let arp = Self {
            operation,
            sender_mac: mac_at(bytes, 8),
            sender: address_at(bytes, 14),
            target_mac: mac_at(bytes, 18),
            target: address_at(bytes, 24),
        };
        let is_sane = bytes[..6] == FIXED && arp.sender_mac.is_unicast() && is_of_a_host(arp.sender);
        is_sane.then_some(arp)
    }

    /// Writes the packet to the beginning of `out`.
    pub(super) fn emit(&self, out: &mut [u8]) {
        let out = out.first_chunk_mut::<LEN>().expect("there is room for an ARP packet");
        out[..6].copy_from_slice(&FIXED);
        out[6..8].copy_from_slice(match self.operation {
            Operation::Ask => &[0, 1],
            Operation::Answer => &[0, 2],
        });
        out[8..14].copy_from_slice(&self.sender_mac.0);
        out[14..18].copy_from_slice(&self.sender.octets());
        out[18..24].copy_from_slice(&self.target_mac.0);
        out[24..28].copy_from_slice(&self.target.octets());
    }
}

fn mac_at(bytes: &[u8; LEN], at: usize) -> MacAddress {
    MacAddress(std::array::from_fn(|index| bytes[at + index]))
}

fn address_at(bytes: &[u8; LEN], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|index| bytes[at + index]))
}

/// 0.0.0.0 stands for no address yet.
fn is_of_a_host(address: Ipv4Addr) -> bool {
    !address.is_multicast() && !address.is_broadcast() && !address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: Arp = Arp {
        operation: Operation::Ask,
        sender_mac: MacAddress([2, 0, 0, 0, 0, 1]),
        sender: Ipv4Addr::new(10, 0, 0, 1),
        target_mac: MacAddress([0; 6]),
        target: Ipv4Addr::new(10, 0, 0, 2),
    };

    #[test]
    fn what_is_written_is_read_back() {
        let answer = Arp { operation: Operation::Answer, target_mac: MacAddress([4; 6]), ..ASK };
        for arp in [ASK, answer, Arp { sender: Ipv4Addr::UNSPECIFIED, ..ASK }] {
            let mut bytes = [0; 46];
            arp.emit(&mut bytes);
            assert_eq!(Arp::parse(&bytes), Some(arp));
        }
    }

    #[test]
    fn what_is_cut_short_of_other_kinds_or_from_nobody_is_none() {
        let mut bytes = [0; LEN];
        ASK.emit(&mut bytes);
        assert!((0..LEN).all(|len| Arp::parse(&bytes[..len]).is_none()));
        for at in 0..8 {
            let mut other = bytes;
            other[at] ^= 4;
            assert_eq!(Arp::parse(&other), None, "byte {at}");
        }
        for sender_mac in [MacAddress::BROADCAST, MacAddress([0; 6]), MacAddress([1, 0, 0, 0, 0, 1])] {
            Arp { sender_mac, ..ASK }.emit(&mut bytes);
            assert_eq!(Arp::parse(&bytes), None, "{sender_mac}");
        }
        for sender in [[224, 0, 0, 1], [255; 4], [127, 0, 0, 1]] {
            Arp { sender: sender.into(), ..ASK }.emit(&mut bytes);
            assert_eq!(Arp::parse(&bytes), None, "{sender:?}");
        }
    }
}

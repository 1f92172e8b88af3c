//! Ethernet II headers, with or without a tag of IEEE 802.1Q.
//!
//! ```text
//!   0          6          12      14            16      18
//!   | to       | from     | kind  | payload ...                   untagged
//!   | to       | from     | 8100  | priority, ID | kind  | ...     tagged
//! ```

use super::super::MacAddress;

/// Kind of frames that carry IPv4.
pub(super) const IPV4: u16 = 0x0800;
/// Kind of frames that carry ARP.
pub(super) const ARP: u16 = 0x0806;
/// What stands in place of the kind before a tag.
const TAGGED: u16 = 0x8100;
/// The bits of a tag that name the VLAN; the others are a priority.
const VLAN_BITS: u16 = 0x0fff;

/// Bytes of the header without a tag.
pub(super) const HEADER: usize = 14;
/// Bytes of a tag.
pub(super) const TAG: usize = 4;

/// An Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ethernet {
    pub(super) to: MacAddress,
    pub(super) from: MacAddress,
    /// 0: no tag, or one that names no VLAN but only a priority.
    pub(super) vlan: u16,
    pub(super) kind: u16,
}

impl Ethernet {
    /// The header and what follows it; none if the frame ends within it.
    #[inline]
    pub(super) fn parse(frame: &[u8]) -> Option<(Self, &[u8])> {
        let (header, payload) = frame.split_first_chunk::<HEADER>()?;
        let [t0, t1, t2, t3, t4, t5, f0, f1, f2, f3, f4, f5, k0, k1] = *header;
        let to = MacAddress([t0, t1, t2, t3, t4, t5]);
        let from = MacAddress([f0, f1, f2, f3, f4, f5]);
        let kind = u16::from_be_bytes([k0, k1]);
        if kind != TAGGED {
            return Some((Self { to, from, vlan: 0, kind }, payload));
        }
        let ([v0, v1, k0, k1], payload) = payload.split_first_chunk::<TAG>()?;
        let vlan = u16::from_be_bytes([*v0, *v1]) & VLAN_BITS;
        Some((Self { to, from, vlan, kind: u16::from_be_bytes([*k0, *k1]) }, payload))
    }

    /// Bytes that [`Self::emit`] writes.
    pub(super) fn len(&self) -> usize {
        if self.vlan == 0 { HEADER } else { HEADER + TAG }
    }

    /// Writes the header to the beginning of `frame` and returns the rest.
    pub(super) fn emit<'a>(&self, frame: &'a mut [u8]) -> &'a mut [u8] {
        let (header, payload) = frame.split_at_mut(self.len());
        header[..6].copy_from_slice(&self.to.0);
        header[6..12].copy_from_slice(&self.from.0);
        if self.vlan != 0 {
            header[12..14].copy_from_slice(&TAGGED.to_be_bytes());
            header[14..16].copy_from_slice(&self.vlan.to_be_bytes());
        }
        let kind_at = self.len() - 2;
        header[kind_at..].copy_from_slice(&self.kind.to_be_bytes());
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Ethernet =
        Ethernet { to: MacAddress::BROADCAST, from: MacAddress([2, 0, 0, 0, 0, 1]), vlan: 0, kind: ARP };

    #[test]
    fn what_is_written_is_read_back_with_and_without_a_tag() {
        for header in [PLAIN, Ethernet { vlan: 4094, kind: IPV4, ..PLAIN }] {
            let mut frame = [0xee; 60];
            let rest = header.emit(&mut frame).len();
            let (read, payload) = Ethernet::parse(&frame).unwrap();
            assert_eq!(read, header);
            assert_eq!((payload.len(), rest), (60 - header.len(), 60 - header.len()));
            assert!(payload.iter().all(|&byte| byte == 0xee));
        }
    }

    #[test]
    fn a_tag_that_only_has_a_priority_names_no_vlan() {
        let mut frame = [0; 60];
        Ethernet { vlan: 7, ..PLAIN }.emit(&mut frame);
        frame[14..16].copy_from_slice(&[0xe0, 0]);
        assert_eq!(Ethernet::parse(&frame).unwrap().0, PLAIN);
    }

    #[test]
    fn a_frame_that_ends_within_its_header_is_none() {
        let mut frame = [0; 18];
        Ethernet { vlan: 7, ..PLAIN }.emit(&mut frame);
        assert!((0..18).all(|len| Ethernet::parse(&frame[..len]).is_none()));
        assert_eq!(Ethernet::parse(&frame).unwrap().1.len(), 0);
    }
}

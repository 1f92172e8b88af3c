//! A capture of one seed's datagrams, as every packet analyzer reads it (classic pcap, raw IPv4, nanoseconds).

use std::net::{IpAddr, SocketAddr};

/// What was captured so far.
#[derive(Debug)]
pub(crate) struct Pcap(Vec<u8>);

/// Packets with nanoseconds.
const MAGIC: u32 = 0xA1B2_3C4D;
/// LINKTYPE_RAW: the packet begins with its IP header.
const LINK_TYPE: u32 = 101;
const IP_HEADER: u16 = 20;
const UDP_HEADER: u16 = 8;

impl Default for Pcap {
    fn default() -> Self {
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_be_bytes());
        bytes.extend([0, 2, 0, 4]);
        for field in [0, 0, u32::from(u16::MAX), LINK_TYPE] {
            bytes.extend(u32::to_be_bytes(field));
        }
        Self(bytes)
    }
}

impl Pcap {
    /// One UDP datagram, sent at this time.
    pub(crate) fn add(&mut self, now_ns: u64, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let (IpAddr::V4(source), IpAddr::V4(target)) = (from.ip(), to.ip()) else { return };
        let udp_len = UDP_HEADER + payload.len() as u16;
        let total = IP_HEADER + udp_len;
        for field in
            [(now_ns / 1_000_000_000) as u32, (now_ns % 1_000_000_000) as u32, total.into(), total.into()]
        {
            self.0.extend(u32::to_be_bytes(field));
        }
        let mut ip = vec![0x45, 0];
        ip.extend(total.to_be_bytes());
        // Number 0, don't fragment, time to live 64, UDP, and the checksum that is computed below.
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(source.octets());
        ip.extend(target.octets());
        let sum: u32 = ip.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        let checksum = !(((sum & 0xFFFF) + (sum >> 16)) as u16);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        self.0.extend(ip);
        // A UDP checksum of zero: none was computed.
        for field in [from.port(), to.port(), udp_len, 0] {
            self.0.extend(field.to_be_bytes());
        }
        self.0.extend(payload);
    }

    /// The file.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

//! From what a port says of itself to how it is set up: a pure function.
//!
//! It asks for no more than the LCD NIC has (paper, section 3.1): queue pairs, at most 256 descriptors a queue, an RSS of which
//! nothing is known. Checksums are left to the card where it offers that. Whatever a port lacks is a warning, and done in software.

use std::fmt;

/// Most descriptors of a queue that are asked for.
pub const MOST_DESCRIPTORS: u16 = 256;
/// Bytes of an Ethernet header.
const ETHERNET_BYTES: u32 = 14;
/// Bytes of the frame check sequence.
const CHECK_SEQUENCE_BYTES: u32 = 4;
/// Bytes of one VLAN tag.
const TAG_BYTES: u32 = 4;
/// What DPDK adds to an MTU where a port's own limits do not tell (`RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN`).
const USUAL_OVERHEAD: u32 = ETHERNET_BYTES + CHECK_SEQUENCE_BYTES;
/// Smallest buffer: many cards count buffers in units of 1 KiB, and 2 KiB is what every one takes.
const SMALLEST_BUFFER: u32 = 2_048;
const BUFFER_UNIT: u32 = 1_024;
/// Buffers of a queue beside those in its rings: a received burst, what is staged to be sent, and what its thread keeps at hand.
const BUFFERS_BESIDE: u32 = 64 + 256 + 2 * 64;
/// MTU of Ethernet where nobody says otherwise.
const USUAL_MTU: u16 = 1_500;
/// What IPv4 asks of every link that the protocol is to run on.
const SMALLEST_MTU: u16 = 1_280;

/// Bits of `RTE_ETH_RX_OFFLOAD_*`, `RTE_ETH_TX_OFFLOAD_*` and `RTE_ETH_RSS_*`; the plugin checks them against DPDK's headers.
pub const RX_UDP_CHECKSUM: u64 = 1 << 2;
/// See [`RX_UDP_CHECKSUM`].
pub const TX_UDP_CHECKSUM: u64 = 1 << 2;
/// The hash covers the addresses.
pub const RSS_IPV4: u64 = 1 << 2;
/// The hash covers addresses and UDP ports.
pub const RSS_IPV4_UDP: u64 = 1 << 5;

/// The port tells by an interrupt when its link changes (`RTE_ETH_DEV_INTR_LSC`).
pub const LINK_INTERRUPT: u32 = 1 << 0;
/// The port tells by an interrupt that it was removed (`RTE_ETH_DEV_INTR_RMV`).
pub const REMOVAL_INTERRUPT: u32 = 1 << 1;

/// Drivers whose queues can wake a sleeper through an eventfd of their own ("Rx interrupt" in DPDK's
/// doc/guides/nics/features/*.ini). A driver that is not named here is only polled: gve, netvsc, memif, af_packet, ring and null have
/// none; those of mlx5, mana, tap and vhost are of another kind.
const WITH_RX_INTERRUPTS: &[&str] = &[
    "net_ena",
    "net_virtio",
    "net_virtio_user",
    "net_vmxnet3",
    "net_ixgbe",
    "net_ixgbe_vf",
    "net_i40e",
    "net_ice",
    "net_iavf",
    "net_e1000_igb",
    "net_e1000_igb_vf",
    "net_igc",
];

/// How many descriptors a ring can have (`rte_eth_desc_lim`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Most; 0 where the port does not tell.
    pub max: u16,
    /// Fewest.
    pub min: u16,
    /// A multiple of this; 0 and 1: any number.
    pub align: u16,
}

/// What a port offers: the values of `rte_eth_dev_info`, and what stands beside it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortInfo {
    /// The poll-mode driver, such as `net_ena`.
    pub driver: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Most receive queues.
    pub max_rx_queues: u16,
    /// Most transmit queues.
    pub max_tx_queues: u16,
    /// Receive descriptors of a queue.
    pub rx_desc: Limits,
    /// Transmit descriptors of a queue.
    pub tx_desc: Limits,
    /// Smallest MTU.
    pub min_mtu: u16,
    /// Largest MTU; 0xffff where the port does not tell.
    pub max_mtu: u16,
    /// The MTU as it is.
    pub mtu: u16,
    /// Smallest receive buffer in bytes.
    pub min_rx_bufsize: u32,
    /// Longest frame in bytes.
    pub max_rx_pktlen: u32,
    /// `RTE_ETH_RX_OFFLOAD_*`.
    pub rx_offload_capa: u64,
    /// `RTE_ETH_TX_OFFLOAD_*`.
    pub tx_offload_capa: u64,
    /// `RTE_ETH_RSS_*` of what the hash can cover; 0: there is no RSS to set up.
    pub flow_type_rss_offloads: u64,
    /// [`LINK_INTERRUPT`] and [`REMOVAL_INTERRUPT`].
    pub dev_flags: u32,
}

/// What the operator wants of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// One queue pair for each engine.
    pub queues: u16,
    /// The MTU; none: the port's.
    pub mtu: Option<u32>,
}

/// How a port is to be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortPlan {
    /// Queue pairs.
    pub queues: u16,
    /// Receive descriptors of each queue.
    pub rx_descriptors: u16,
    /// Transmit descriptors of each queue.
    pub tx_descriptors: u16,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// Bytes of a buffer: a whole frame of that MTU always fits.
    pub buffer_bytes: u32,
    /// Buffers of each queue.
    pub buffers: u32,
    /// Bits of [`PortInfo::rx_offload_capa`].
    pub rx_offloads: u64,
    /// Bits of [`PortInfo::tx_offload_capa`].
    pub tx_offloads: u64,
    /// Bits of [`PortInfo::flow_type_rss_offloads`]; 0: RSS is not set up.
    pub rss_functions: u64,
    /// Whether queues are to wake sleepers.
    pub rx_interrupts: bool,
    /// Bits of [`PortInfo::dev_flags`].
    pub dev_flags: u32,
}

impl PortPlan {
    /// Whether the card completes UDP checksums.
    pub fn completes_checksums(&self) -> bool {
        self.tx_offloads & TX_UDP_CHECKSUM != 0
    }

    /// Bytes of memory that the buffers take, with what DPDK keeps beside each.
    pub fn memory_bytes(&self) -> u64 {
        /// `struct rte_mbuf`, the headroom, and the header of a memory pool's element.
        const BESIDE: u64 = 128 + 128 + 64;
        u64::from(self.queues) * u64::from(self.buffers) * (u64::from(self.buffer_bytes) + BESIDE)
    }
}

/// What a port lacks; software or another way takes its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lack {
    /// It has no hash of its own that could be switched on.
    Rss,
    /// Its hash does not look at UDP ports: all flows between two hosts share a queue.
    RssOfPorts,
    /// It does not look at UDP checksums that arrive.
    RxChecksum,
    /// It does not write UDP checksums.
    TxChecksum,
    /// It insists on rings of so many descriptors, more than 256.
    SmallRings(u16),
    /// The MTU is so much smaller than asked for.
    Mtu {
        /// What was asked for.
        wanted: u32,
        /// What the port takes.
        possible: u16,
    },
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rss => {
                f.write_str("no RSS to set up: flows find their engines as the device happens to spread them")
            }
            Self::RssOfPorts => f.write_str(
                "its RSS does not look at UDP ports: flows between two hosts share a queue, and engines hand over to each other",
            ),
            Self::RxChecksum => f.write_str("UDP checksums that arrive are checked in software"),
            Self::TxChecksum => f.write_str("UDP checksums are written in software"),
            Self::SmallRings(descriptors) => {
                write!(f, "its rings have {descriptors} descriptors at least: what waits there can grow older")
            }
            Self::Mtu { wanted, possible } => {
                write!(f, "it takes packets of {possible} bytes at most; mtu = {wanted} is not possible")
            }
        }
    }
}

impl Lack {
    /// Whether an operator has to know it, rather than who looks for the last microsecond.
    pub fn is_warning(&self) -> bool {
        !matches!(self, Self::RxChecksum | Self::TxChecksum)
    }
}

/// A port that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    /// Fewer queues than engines.
    #[error(
        "it has queues for {possible} engines, and {wanted} are asked for: start with --engines {possible}"
    )]
    Queues {
        /// One per engine.
        wanted: u16,
        /// What the port has.
        possible: u16,
    },
    /// No queues at all.
    #[error("it has no queue to receive from and send to")]
    NoQueues,
    /// Its packets are too small.
    #[error("it takes packets of {possible} bytes at most, and Machnet needs {SMALLEST_MTU}")]
    SmallMtu {
        /// The port's largest.
        possible: u16,
    },
    /// Its smallest is larger than what is wanted.
    #[error("its smallest MTU is {smallest}, and mtu = {wanted} is asked for")]
    LargeMtu {
        /// What was asked for.
        wanted: u16,
        /// The port's smallest.
        smallest: u16,
    },
}

/// How a port that offers this is set up, and what it lacks.
pub fn plan(info: &PortInfo, wanted: Wanted) -> Result<(PortPlan, Vec<Lack>), PlanError> {
    let mut lacks = Vec::new();
    let queues = wanted.queues.max(1);
    let possible = info.max_rx_queues.min(info.max_tx_queues);
    if possible == 0 {
        return Err(PlanError::NoQueues);
    }
    if queues > possible {
        return Err(PlanError::Queues { wanted: queues, possible });
    }
    let mtu = plan_mtu(info, wanted.mtu, &mut lacks)?;
    let [rx_descriptors, tx_descriptors] = [info.rx_desc, info.tx_desc].map(descriptors);
    let largest = rx_descriptors.max(tx_descriptors);
    if largest > MOST_DESCRIPTORS {
        lacks.push(Lack::SmallRings(largest));
    }
    let rx_offloads = info.rx_offload_capa & RX_UDP_CHECKSUM;
    if rx_offloads == 0 {
        lacks.push(Lack::RxChecksum);
    }
    let tx_offloads = info.tx_offload_capa & TX_UDP_CHECKSUM;
    if tx_offloads == 0 {
        lacks.push(Lack::TxChecksum);
    }
    let frame = u32::from(mtu) + ETHERNET_BYTES + 2 * TAG_BYTES + CHECK_SEQUENCE_BYTES;
    let plan = PortPlan {
        queues,
        rx_descriptors,
        tx_descriptors,
        mtu,
        buffer_bytes: frame.max(SMALLEST_BUFFER).max(info.min_rx_bufsize).next_multiple_of(BUFFER_UNIT),
        buffers: buffers(rx_descriptors, tx_descriptors),
        rx_offloads,
        tx_offloads,
        rss_functions: plan_rss(info, queues, &mut lacks),
        rx_interrupts: WITH_RX_INTERRUPTS.contains(&info.driver.as_str()),
        dev_flags: info.dev_flags & (LINK_INTERRUPT | REMOVAL_INTERRUPT) & !unwanted_interrupts(&info.driver),
    };
    Ok((plan, lacks))
}

/// A client of memif looks for a server that was started again only when it is asked for its link, and DPDK does not ask drivers whose
/// interrupt tells it.
fn unwanted_interrupts(driver: &str) -> u32 {
    if driver == "net_memif" { LINK_INTERRUPT } else { 0 }
}

/// The functions of the hash that look at most of a UDP datagram. One queue needs no hash.
fn plan_rss(info: &PortInfo, queues: u16, lacks: &mut Vec<Lack>) -> u64 {
    let functions = info.flow_type_rss_offloads & (RSS_IPV4 | RSS_IPV4_UDP);
    if queues == 1 {
        return 0;
    }
    if functions == 0 {
        lacks.push(Lack::Rss);
    } else if functions & RSS_IPV4_UDP == 0 {
        lacks.push(Lack::RssOfPorts);
    }
    functions
}

fn descriptors(limits: Limits) -> u16 {
    let align = limits.align.max(1);
    let fits = MOST_DESCRIPTORS.min(if limits.max == 0 { u16::MAX } else { limits.max });
    let aligned = fits - fits % align;
    if aligned >= limits.min && aligned > 0 {
        return aligned;
    }
    // The fewest that the port takes are more than we want.
    limits.min.max(1).checked_next_multiple_of(align).unwrap_or(limits.min)
}

/// Memory pools are best one below a power of two.
fn buffers(rx_descriptors: u16, tx_descriptors: u16) -> u32 {
    let needed = u32::from(rx_descriptors) + u32::from(tx_descriptors) + BUFFERS_BESIDE;
    (needed + 1).next_power_of_two() - 1
}

fn plan_mtu(info: &PortInfo, wanted: Option<u32>, lacks: &mut Vec<Lack>) -> Result<u16, PlanError> {
    // As DPDK reckons what a frame has beside its packet.
    let overhead = if info.max_mtu != u16::MAX && info.max_rx_pktlen > u32::from(info.max_mtu) {
        info.max_rx_pktlen - u32::from(info.max_mtu)
    } else {
        USUAL_OVERHEAD
    };
    let by_length =
        if info.max_rx_pktlen == 0 { u32::MAX } else { info.max_rx_pktlen.saturating_sub(overhead) };
    let by_mtu = if info.max_mtu == 0 { u32::from(u16::MAX) } else { u32::from(info.max_mtu) };
    // No link carries more than 9 kB, and buffers have to hold it.
    let possible = u16::try_from(by_mtu.min(by_length).min(9_600)).unwrap_or(u16::MAX);
    let asked = wanted.unwrap_or(u32::from(if info.mtu == 0 { USUAL_MTU } else { info.mtu }));
    if possible < SMALLEST_MTU {
        return Err(PlanError::SmallMtu { possible });
    }
    if asked > u32::from(possible) && wanted.is_some() {
        lacks.push(Lack::Mtu { wanted: asked, possible });
    }
    let mtu = u16::try_from(asked.min(u32::from(possible))).unwrap_or(possible);
    if mtu < info.min_mtu {
        return match wanted {
            Some(_) => Err(PlanError::LargeMtu { wanted: mtu, smallest: info.min_mtu }),
            None => Ok(info.min_mtu),
        };
    }
    Ok(mtu.max(SMALLEST_MTU))
}

#[cfg(test)]
mod tests;

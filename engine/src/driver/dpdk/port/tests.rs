//! What the cards of clouds and servers say of themselves, and that nothing beyond it is asked.

use super::*;

const UDP: u64 = 1 << 2;
const IPV4: u64 = 1 << 2;
const IPV4_TCP: u64 = 1 << 4;
const IPV4_UDP: u64 = 1 << 5;
/// `RTE_ETH_RSS_FRAG_IPV4`, and what there is of IPv6.
const OTHERS: u64 = 1 << 3 | 1 << 8 | 1 << 10 | 1 << 11;
/// VLAN stripping, LRO, scatter and the like, which some cards offer: nothing of it may be asked for.
const MORE_RX: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 13 | 1 << 19;
const MORE_TX: u64 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 15 | 1 << 16;
const UNKNOWN: u16 = u16::MAX;

/// A row: the values of `rte_eth_dev_info` in the source that is named.
struct Card {
    source: &'static str,
    info: PortInfo,
    /// Descriptors that follow.
    rings: (u16, u16),
    lacks: &'static [Lack],
}

fn limits(max: u16, min: u16, align: u16) -> Limits {
    Limits { max, min, align }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cards() -> Vec<Card> {
    let port = |driver: &str, queues: u16| PortInfo {
        driver: driver.to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        max_rx_queues: queues,
        max_tx_queues: queues,
        min_mtu: 68,
        max_mtu: 9_000,
        mtu: 1_500,
        min_rx_bufsize: 1_024,
        max_rx_pktlen: 9_018,
        rx_desc: limits(4_096, 64, 32),
        tx_desc: limits(4_096, 64, 32),
        rx_offload_capa: MORE_RX | UDP,
        tx_offload_capa: MORE_TX | UDP,
        flow_type_rss_offloads: IPV4 | IPV4_TCP | IPV4_UDP | OTHERS,
        dev_flags: LINK_INTERRUPT,
    };
    vec![
        // ena_infos_get: limits of the device, ENA_MIN_RING_DESC 128, ENA_MIN_MTU 128, ENA_MIN_FRAME_LEN 64; align left at DPDK's 1.
        Card {
            source: "drivers/net/ena/ena_ethdev.c",
            info: PortInfo {
                min_mtu: 128,
                max_mtu: 9_216,
                min_rx_bufsize: 64,
                max_rx_pktlen: 9_216 + 18,
                rx_desc: limits(16_384, 128, 1),
                tx_desc: limits(1_024, 128, 1),
                ..port("net_ena", 32)
            },
            rings: (256, 256),
            lacks: &[],
        },
        // An instance whose card completes no sums of UDP (ena_get_tx_port_offloads asks the device).
        Card {
            source: "drivers/net/ena/ena_ethdev.c",
            info: PortInfo {
                rx_offload_capa: MORE_RX,
                tx_offload_capa: MORE_TX,
                rx_desc: limits(1_024, 128, 1),
                tx_desc: limits(512, 128, 1),
                ..port("net_ena", 8)
            },
            rings: (256, 256),
            lacks: &[Lack::RxChecksum, Lack::TxChecksum],
        },
        // gve_dev_info_get of 22.11: rings are as long as the device says, no RSS to set up, no checksums received.
        Card {
            source: "drivers/net/gve/gve_ethdev.c (22.11)",
            info: PortInfo {
                max_mtu: 1_500,
                mtu: 1_460,
                max_rx_pktlen: 65_535,
                rx_desc: limits(1_024, 1_024, 1),
                tx_desc: limits(512, 512, 1),
                rx_offload_capa: 0,
                flow_type_rss_offloads: 0,
                dev_flags: 0,
                ..port("net_gve", 16)
            },
            rings: (1_024, 512),
            lacks: &[Lack::SmallRings(1_024), Lack::RxChecksum, Lack::Rss],
        },
        // The same of 24.x: rings may be shorter, RSS is there.
        Card {
            source: "drivers/net/gve/gve_ethdev.c (24.11)",
            info: PortInfo {
                max_mtu: 8_896,
                mtu: 1_460,
                max_rx_pktlen: 8_896 + 14,
                rx_desc: limits(2_048, 512, 1),
                tx_desc: limits(2_048, 256, 1),
                dev_flags: 0,
                ..port("net_gve", 16)
            },
            rings: (512, 256),
            lacks: &[Lack::SmallRings(512)],
        },
        // hn_dev_info_get: HN_MAX_XFER_LEN 2048, no limits of MTU, none of receive rings; RSS as the host says, often without UDP.
        Card {
            source: "drivers/net/netvsc/hn_ethdev.c",
            info: PortInfo {
                min_mtu: 0,
                max_mtu: UNKNOWN,
                max_rx_pktlen: 2_048,
                rx_desc: limits(UNKNOWN, 0, 1),
                tx_desc: limits(4_096, 1, 1),
                flow_type_rss_offloads: IPV4 | IPV4_TCP | OTHERS,
                ..port("net_netvsc", 64)
            },
            rings: (256, 256),
            lacks: &[Lack::RssOfPorts],
        },
        // mana_dev_info_get: MANA_MAX_MTU 9000, MIN_RX_BUF_SIZE 1024.
        Card {
            source: "drivers/net/mana/mana.c",
            info: PortInfo {
                max_rx_pktlen: 9_014,
                rx_desc: limits(UNKNOWN, 64, 1),
                tx_desc: limits(UNKNOWN, 64, 1),
                dev_flags: REMOVAL_INTERRUPT,
                ..port("net_mana", 64)
            },
            rings: (256, 256),
            lacks: &[],
        },
        // mlx5_dev_infos_get: buffers from 32 bytes, frames to 65536, DPDK's own limits of rings.
        Card {
            source: "drivers/net/mlx5/mlx5_ethdev.c",
            info: PortInfo {
                min_mtu: 68,
                max_mtu: UNKNOWN,
                min_rx_bufsize: 32,
                max_rx_pktlen: 65_536,
                rx_desc: limits(UNKNOWN, 0, 1),
                tx_desc: limits(UNKNOWN, 0, 1),
                dev_flags: LINK_INTERRUPT | REMOVAL_INTERRUPT,
                ..port("mlx5_pci", 1_024)
            },
            rings: (256, 256),
            lacks: &[],
        },
        // virtio_dev_info_get: VIRTIO_MIN_RX_BUFSIZE 64, VIRTIO_MAX_RX_PKTLEN 9728; a host without hash reports.
        Card {
            source: "drivers/net/virtio/virtio_ethdev.c",
            info: PortInfo {
                max_mtu: 9_698,
                min_rx_bufsize: 64,
                max_rx_pktlen: 9_728,
                rx_desc: limits(1_024, 32, 1),
                tx_desc: limits(1_024, 32, 1),
                flow_type_rss_offloads: 0,
                ..port("net_virtio", 8)
            },
            rings: (256, 256),
            lacks: &[Lack::Rss],
        },
        // A host with rings of 128, as some clouds have.
        Card {
            source: "drivers/net/virtio/virtio_ethdev.c",
            info: PortInfo {
                max_mtu: 1_500,
                min_rx_bufsize: 64,
                max_rx_pktlen: 9_728,
                rx_desc: limits(128, 32, 1),
                tx_desc: limits(128, 32, 1),
                flow_type_rss_offloads: 0,
                rx_offload_capa: 1,
                tx_offload_capa: 1 << 15,
                ..port("net_virtio", 1)
            },
            rings: (128, 128),
            lacks: &[Lack::RxChecksum, Lack::TxChecksum],
        },
        // ixgbe_dev_info_get: IXGBE_MIN_RING_DESC 32, IXGBE_MAX_RING_DESC 4096, multiples of 8; frames to 15872.
        Card {
            source: "drivers/net/ixgbe/ixgbe_ethdev.c",
            info: PortInfo {
                max_mtu: 15_872 - 26,
                max_rx_pktlen: 15_872,
                rx_desc: limits(4_096, 32, 8),
                tx_desc: limits(4_096, 32, 8),
                ..port("net_ixgbe", 128)
            },
            rings: (256, 256),
            lacks: &[],
        },
        // i40e_dev_info_get: I40E_MIN_RING_DESC 64, multiples of 32; the hash has no bit of its own for IPv4 alone (I40E_RSS_OFFLOAD_ALL).
        Card {
            source: "drivers/net/i40e/i40e_ethdev.c",
            info: PortInfo {
                max_mtu: 9_728 - 26,
                max_rx_pktlen: 9_728,
                flow_type_rss_offloads: IPV4_TCP | IPV4_UDP | OTHERS,
                ..port("net_i40e", 192)
            },
            rings: (256, 256),
            lacks: &[],
        },
        // ice_dev_info_get: as i40e, with multiples of 32.
        Card {
            source: "drivers/net/ice/ice_ethdev.c",
            info: PortInfo { max_mtu: 9_728 - 26, max_rx_pktlen: 9_728, ..port("net_ice", 256) },
            rings: (256, 256),
            lacks: &[],
        },
        // iavf_dev_info_get: IAVF_BUF_SIZE_MIN 1024, IAVF_FRAME_SIZE_MAX 9728.
        Card {
            source: "drivers/net/iavf/iavf_ethdev.c",
            info: PortInfo { max_mtu: 9_728 - 26, max_rx_pktlen: 9_728, ..port("net_iavf", 16) },
            rings: (256, 256),
            lacks: &[],
        },
        // vmxnet3_dev_info_get: VMXNET3_DEF_RX_RING_SIZE 128 and VMXNET3_DEF_TX_RING_SIZE 512 are the fewest; before version 4 no UDP in
        // the hash (VMXNET3_RSS_OFFLOAD_ALL); buffers of 1518 and the headroom.
        Card {
            source: "drivers/net/vmxnet3/vmxnet3_ethdev.c",
            info: PortInfo {
                min_mtu: 60,
                max_mtu: 9_000,
                min_rx_bufsize: 1_518 + 128,
                max_rx_pktlen: 16_384,
                rx_desc: limits(4_096, 128, 1),
                tx_desc: limits(4_096, 512, 1),
                flow_type_rss_offloads: IPV4 | IPV4_TCP | OTHERS,
                ..port("net_vmxnet3", 8)
            },
            rings: (256, 512),
            lacks: &[Lack::SmallRings(512), Lack::RssOfPorts],
        },
    ]
}

/// What DPDK itself would refuse (`rte_eth_dev_configure` and the set-up of queues), and what the LCD NIC does not have.
fn assert_nothing_beyond(info: &PortInfo, plan: &PortPlan, what: &str) {
    assert!(plan.queues >= 1 && plan.queues <= info.max_rx_queues.min(info.max_tx_queues), "{what}: queues");
    for (descriptors, limits) in [(plan.rx_descriptors, info.rx_desc), (plan.tx_descriptors, info.tx_desc)] {
        assert!(
            descriptors >= limits.min.max(1) && descriptors <= limits.max,
            "{what}: {descriptors} descriptors"
        );
        assert_eq!(descriptors % limits.align.max(1), 0, "{what}: {descriptors} descriptors");
        let fewest = limits.min.next_multiple_of(limits.align.max(1));
        let is_as_small_as_can_be = descriptors <= MOST_DESCRIPTORS.max(fewest);
        assert!(is_as_small_as_can_be, "{what}: {descriptors} are more than the LCD NIC has");
    }
    assert_eq!(plan.rx_offloads & !info.rx_offload_capa, 0, "{what}: receive offloads");
    assert_eq!(plan.tx_offloads & !info.tx_offload_capa, 0, "{what}: transmit offloads");
    assert_eq!(
        [plan.rx_offloads, plan.tx_offloads].map(|bits| bits & !UDP),
        [0; 2],
        "{what}: only UDP's checksum"
    );
    assert_eq!(plan.rss_functions & !info.flow_type_rss_offloads, 0, "{what}: RSS");
    assert_eq!(plan.dev_flags & !info.dev_flags, 0, "{what}: interrupts");
    assert!(plan.mtu >= info.min_mtu && plan.mtu <= info.max_mtu, "{what}: MTU {}", plan.mtu);
    let overhead = if info.max_mtu != UNKNOWN && info.max_rx_pktlen > u32::from(info.max_mtu) {
        info.max_rx_pktlen - u32::from(info.max_mtu)
    } else {
        18
    };
    assert!(u32::from(plan.mtu) + overhead <= info.max_rx_pktlen, "{what}: MTU {}", plan.mtu);
    // A frame with a tag lies in one buffer, also where a card counts buffers in KiB.
    assert!(plan.buffer_bytes >= info.min_rx_bufsize && plan.buffer_bytes.is_multiple_of(1_024), "{what}");
    assert!(plan.buffer_bytes >= u32::from(plan.mtu) + 14 + 4 + 4, "{what}");
    assert!(plan.buffers > u32::from(plan.rx_descriptors) + u32::from(plan.tx_descriptors) + 64, "{what}");
}

#[test]
fn no_card_is_asked_for_more_than_it_has() {
    for Card { source, info, rings, lacks } in cards() {
        for queues in [1, 2, 4, info.max_rx_queues] {
            let what = format!("{} ({source}), {queues} queues", info.driver);
            let result = plan(&info, Wanted { queues, mtu: None });
            if queues > info.max_rx_queues {
                let possible = info.max_rx_queues;
                assert_eq!(result, Err(PlanError::Queues { wanted: queues, possible }), "{what}");
                continue;
            }
            let (plan, lacking) = result.unwrap();
            assert_nothing_beyond(&info, &plan, &what);
            assert_eq!((plan.rx_descriptors, plan.tx_descriptors), rings, "{what}");
            assert_eq!(plan.mtu, info.mtu, "{what}");
            // With one queue there is nothing to spread.
            let expected: Vec<Lack> = lacks
                .iter()
                .filter(|lack| queues > 1 || !matches!(lack, Lack::Rss | Lack::RssOfPorts))
                .copied()
                .collect();
            assert_eq!(lacking, expected, "{what}");
        }
        for mtu in [1_280, 1_500, 3_000, 9_000, 65_535] {
            let (plan, lacking) = plan(&info, Wanted { queues: 1, mtu: Some(mtu) }).unwrap();
            let what = format!("{} ({source}), MTU {mtu}", info.driver);
            assert_nothing_beyond(&info, &plan, &what);
            assert!(u32::from(plan.mtu) <= mtu, "{what}");
            let is_told = lacking.iter().any(|lack| matches!(lack, Lack::Mtu { .. }));
            assert_eq!(is_told, u32::from(plan.mtu) < mtu, "{what}");
        }
    }
}

#[test]
fn rss_is_only_set_up_where_there_is_one_and_something_to_spread() {
    let gve = cards().into_iter().find(|card| card.info.flow_type_rss_offloads == 0).unwrap().info;
    assert_eq!(plan(&gve, Wanted { queues: 2, mtu: None }).unwrap().0.rss_functions, 0);
    let ena = cards().remove(0).info;
    assert_eq!(plan(&ena, Wanted { queues: 1, mtu: None }).unwrap().0.rss_functions, 0);
    assert_eq!(plan(&ena, Wanted { queues: 2, mtu: None }).unwrap().0.rss_functions, IPV4 | IPV4_UDP);
}

#[test]
fn a_port_that_cannot_serve_says_why() {
    let ena = cards().remove(0).info;
    let said = |info: PortInfo, mtu| plan(&info, Wanted { queues: 4, mtu }).unwrap_err().to_string();
    let text = said(PortInfo { max_tx_queues: 2, ..ena.clone() }, None);
    assert!(text.contains("2 engines") && text.contains("--engines 2"), "{text}");
    assert!(said(PortInfo { max_rx_queues: 0, ..ena.clone() }, None).contains("no queue"));
    assert!(said(PortInfo { max_mtu: 576, ..ena.clone() }, None).contains("576"));
    assert!(said(PortInfo { min_mtu: 1_400, ..ena }, Some(1_300)).contains("1400"));
}

#[test]
fn any_limits_give_a_plan_within_them_or_a_reason() {
    // Every combination of awkward numbers.
    let some = [0, 1, 63, 64, 256, 257, 1_000, UNKNOWN];
    let base = cards().remove(0).info;
    let mut plans = 0;
    for max in some {
        for min in some.into_iter().filter(|min| *min <= max || max == 0) {
            for align in [0, 1, 8, 32] {
                // A card whose multiples all lie outside is none.
                let largest = if max == 0 { UNKNOWN } else { max };
                if u32::from(min.max(1)).next_multiple_of(u32::from(align.max(1))) > u32::from(largest) {
                    continue;
                }
                let info = PortInfo { rx_desc: limits(max, min, align), ..base.clone() };
                let (plan, _) = plan(&info, Wanted { queues: 1, mtu: None }).unwrap();
                let told = PortInfo { rx_desc: limits(largest, min, align), ..base.clone() };
                assert_nothing_beyond(&told, &plan, &format!("{max} {min} {align}"));
                plans += 1;
            }
        }
    }
    assert!(plans > 50, "{plans}");
}

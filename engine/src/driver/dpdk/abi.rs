//! Sizes and offsets of what plugin and sidecar share, for the test that compares them with dpdk/machnet_dpdk.h.

use super::plugin::{RawDriver, RawFrame, RawLimits, RawPortInfo, RawPortPlan, Table};
use std::mem::offset_of;

/// For each C structure its size (an empty name), and for each of its fields the offset.
pub fn layout() -> Vec<(&'static str, &'static str, usize)> {
    let mut all = Vec::new();
    macro_rules! structure {
        ($name:literal, $type:ty, $($field:ident)+) => {
            all.push(($name, "", size_of::<$type>()));
            $(all.push(($name, stringify!($field), offset_of!($type, $field)));)+
        };
    }
    structure!("machnet_dpdk_frame", RawFrame, bytes buffer length flags);
    structure!("machnet_dpdk_limits", RawLimits, max min align reserved);
    structure!("machnet_dpdk_port_info", RawPortInfo, driver rx_offload_capa tx_offload_capa flow_type_rss_offloads
        min_rx_bufsize max_rx_pktlen dev_flags reserved max_rx_queues max_tx_queues min_mtu max_mtu mtu mac rx_desc tx_desc);
    structure!("machnet_dpdk_port_plan", RawPortPlan, rx_offloads tx_offloads rss_functions buffer_bytes buffers queues
        rx_descriptors tx_descriptors mtu rx_interrupts dev_flags);
    structure!("machnet_dpdk_driver", RawDriver, name ids id_count);
    structure!("machnet_dpdk_table", Table, abi size version drivers start plug open info set_up queue close link mtu
        statistics missed thread_begins thread_ends receive lend send give_back receive_fd wake_on_receive);
    all
}

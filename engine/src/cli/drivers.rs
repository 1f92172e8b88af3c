//! What `machnet up` says of the ways to the network.

use super::say;
use machnet_engine::config::DriverKind;
use machnet_engine::driver::{dpdk, packet};
use std::path::Path;

/// One sentence of what goes where.
pub(crate) const fn about(driver: DriverKind) -> &'static str {
    match driver {
        DriverKind::Udp => {
            "messages still go through the kernel's network stack; it needs no rights and no special hardware"
        }
        DriverKind::Packet => {
            "frames go through rings that the kernel shares (AF_PACKET); everything else on the interface stays the kernel's"
        }
        DriverKind::Xdp => {
            "frames for our ports are taken before the kernel's network stack (AF_XDP); everything else on the interface stays \
             the kernel's"
        }
        DriverKind::Dpdk => "the network card is ours alone; the kernel does not see what it carries",
    }
}

/// What a driver needs.
const fn needs(driver: DriverKind) -> &'static str {
    match driver {
        DriverKind::Udp => "nothing: any user, any interface, in any container",
        DriverKind::Packet => {
            "the capability CAP_NET_RAW and an Ethernet interface; as an ordinary user in a namespace of one's own: `unshare -Urn`"
        }
        DriverKind::Xdp => {
            "the capabilities CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF, and an interface with one receive queue for each engine; best with a \
             card whose driver has native XDP"
        }
        DriverKind::Dpdk => {
            "the plugin library, and a card that is bound to vfio-pci (or a card of Mellanox or Azure, or a virtual device); huge pages \
             are better"
        }
    }
}

/// The first line of an error, for a list.
fn missing(error: impl std::fmt::Display) -> String {
    format!("not here: {error}")
}

fn found(driver: DriverKind, dpdk_plugin: Option<&Path>) -> Vec<String> {
    match driver {
        DriverKind::Udp => vec!["ready".to_owned()],
        DriverKind::Packet => vec![packet::check_right().map_or_else(missing, |()| "ready".to_owned())],
        DriverKind::Xdp => vec!["linked in; `machnet up --driver xdp` says what this host lacks".to_owned()],
        DriverKind::Dpdk => match dpdk::plugin_info(dpdk_plugin) {
            Err(error) => vec![missing(error)],
            Ok(info) => {
                let names: Vec<&str> = info.drivers.iter().map(|driver| driver.name.as_str()).collect();
                let is_there = |name: &&&str| names.contains(*name);
                let tested: Vec<&str> = dpdk::TESTED_DRIVERS.iter().filter(is_there).copied().collect();
                vec![
                    format!("plugin {}, {}", info.path.display(), info.dpdk),
                    format!("with the poll-mode drivers {}", names.join(", ")),
                    format!("of these, the tests of Machnet run {}", tested.join(", ")),
                ]
            }
        },
    }
}

/// Prints every driver of this program.
pub(crate) fn list(dpdk_plugin: Option<&Path>) {
    for driver in DriverKind::ALL {
        say(format_args!("{:<8}{}", driver.name(), about(driver)));
        say(format_args!("        needs {}", needs(driver)));
        for line in found(driver, dpdk_plugin) {
            say(format_args!("        {line}"));
        }
    }
    say("`machnet up --driver NAME` starts one; hosts with different drivers reach each other");
}

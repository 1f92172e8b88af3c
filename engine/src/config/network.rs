//! What is chosen about the way to the network, and what of it fits together.

use super::Config;
use crate::driver::{MacAddress, Route, is_host, network_of};
use std::net::{IpAddr, Ipv4Addr};

/// Most routes and most static neighbours of the settings.
const MAX_ROUTES: usize = 256;
const MAX_NEIGHBOURS: usize = 1_024;

/// Most characters of an interface's name (`IFNAMSIZ` of Linux, less the zero at the end).
const LONGEST_INTERFACE_NAME: usize = 15;

/// Most characters of a virtual device with its arguments.
const LONGEST_VDEV: usize = 1_024;

/// How packets reach the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DriverKind {
    /// Through the kernel's UDP sockets: no rights, no special hardware.
    #[default]
    Udp,
    /// Through rings that the kernel shares (`AF_PACKET`): one right, any interface.
    Packet,
    /// Through rings that the interface's driver shares (`AF_XDP`).
    Xdp,
    /// Through DPDK's drivers, which own the network card.
    Dpdk,
}

impl DriverKind {
    /// Every driver.
    pub const ALL: [Self; 4] = [Self::Udp, Self::Packet, Self::Xdp, Self::Dpdk];

    /// The word that names it in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Packet => "packet",
            Self::Xdp => "xdp",
            Self::Dpdk => "dpdk",
        }
    }
}

/// Where driver xdp hooks into an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XdpMode {
    /// Native if the interface can, else generic.
    #[default]
    Auto,
    /// In the interface's own driver, before the kernel makes anything of a frame.
    Native,
    /// Behind it: works with every interface and costs more.
    Generic,
}

impl XdpMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Native, Self::Generic];

    /// The word that names it in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Whether something is done that not every machine can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// If it works.
    #[default]
    Auto,
    /// Yes, or the sidecar does not start.
    On,
    /// No.
    Off,
}

impl Choice {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];

    /// The word that names it in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }

    pub(super) fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == text)
    }
}

/// Whether one host can have the address: neither the first nor the last of its network, which stand for all.
pub(super) fn is_address_of_a_host(address: Ipv4Addr, prefix: Option<u8>) -> bool {
    let stands_for_all = prefix.filter(|bits| (1..=30).contains(bits)).is_some_and(|bits| {
        let network = network_of(address, bits);
        let last = network.to_bits() | u32::MAX >> bits;
        address == network || address.to_bits() == last
    });
    is_host(address) && !stands_for_all && prefix != Some(0)
}

/// As the kernel has it (`dev_valid_name`), without what would be taken for a label.
pub(super) fn is_interface_name(text: &str) -> bool {
    (1..=LONGEST_INTERFACE_NAME).contains(&text.len())
        && !text.bytes().any(|byte| byte.is_ascii_whitespace() || b"/:\0".contains(&byte))
        && ![".", ".."].contains(&text)
}

/// "0000:00:05.0": domain, bus, device, function.
pub(super) fn is_pci_address(text: &str) -> bool {
    let mut parts = text.split([':', '.']);
    let mut is_next =
        |digits| parts.next().is_some_and(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_hexdigit()));
    let all = [4, 2, 2, 1].into_iter().all(&mut is_next);
    all && parts.next().is_none() && text.find('.') == Some("0000:00:05".len())
}

/// A device name, then its arguments. Nothing that could be read as another argument of the command line below.
pub(super) fn is_vdev(text: &str) -> bool {
    text.len() <= LONGEST_VDEV
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The entries of a list with commas between them.
fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

pub(super) fn routes(text: &str) -> Option<Vec<Route>> {
    let routes = entries(text).map(|entry| entry.parse().ok()).collect::<Option<Vec<_>>>()?;
    (routes.len() <= MAX_ROUTES).then_some(routes)
}

pub(super) fn neighbours(text: &str) -> Option<Vec<(Ipv4Addr, MacAddress)>> {
    let neighbour = |entry: &str| {
        let (ip, mac) = entry.split_once(char::is_whitespace)?;
        let (ip, mac): (Ipv4Addr, MacAddress) = (ip.parse().ok()?, mac.trim().parse().ok()?);
        (is_host(ip) && mac.is_unicast()).then_some((ip, mac))
    };
    let neighbours = entries(text).map(neighbour).collect::<Option<Vec<_>>>()?;
    (neighbours.len() <= MAX_NEIGHBOURS).then_some(neighbours)
}

/// What the driver needs and what contradicts it.
pub(super) fn check(config: &Config, address_is_chosen: bool) -> Result<(), String> {
    if config.driver == DriverKind::Dpdk {
        match (&config.pci, &config.vdev) {
            (None, None) => {
                return Err("driver dpdk needs a network card, such as --pci 0000:00:05.0 (`dpdk-devbind.py --status` lists \
                            them), or a virtual device, such as --vdev net_memif0,role=server,socket=/run/memif.sock"
                    .to_owned());
            }
            (Some(pci), Some(vdev)) => {
                return Err(format!("driver dpdk takes one device: pci = \"{pci}\" or vdev = \"{vdev}\""));
            }
            _ => {}
        }
        if !address_is_chosen || config.prefix.is_none() {
            return Err("driver dpdk needs an address with the length of its network's prefix, such as \
                        --address 10.0.0.5/24: the kernel does not know a card that DPDK owns"
                .to_owned());
        }
    }
    let own = |ip: &Ipv4Addr| address_is_chosen && config.address == IpAddr::V4(*ip);
    if let Some(gateway) = config.gateway.filter(own) {
        return Err(format!("gateway = \"{gateway}\" is the address of this host itself"));
    }
    if let Some(route) = config.routes.iter().find(|route| route.via.is_some_and(|via| own(&via))) {
        return Err(format!("the route \"{route}\" leads to the address of this host itself"));
    }
    match config.neighbours.iter().find(|(ip, _)| own(ip)) {
        Some((ip, _)) => Err(format!("neighbours has {ip}, the address of this host itself")),
        None => Ok(()),
    }
}

/// Settings that were chosen and that the driver does not look at: one sentence each.
pub(super) fn settings_without_effect(config: &Config) -> Vec<String> {
    use DriverKind::{Dpdk, Packet, Udp, Xdp};
    let all_but_udp: &[DriverKind] = &[Packet, Xdp, Dpdk];
    let settings: [(&str, bool, &[DriverKind]); 11] = [
        ("interface", config.interface.is_some(), &[Packet, Xdp]),
        ("gateway", config.gateway.is_some(), all_but_udp),
        ("routes", !config.routes.is_empty(), all_but_udp),
        ("neighbours", !config.neighbours.is_empty(), all_but_udp),
        ("vlan", config.vlan.is_some(), all_but_udp),
        ("xdp_mode", config.xdp_mode != XdpMode::Auto, &[Xdp]),
        ("zero_copy", config.zero_copy != Choice::Auto, &[Xdp]),
        ("pci", config.pci.is_some(), &[Dpdk]),
        ("vdev", config.vdev.is_some(), &[Dpdk]),
        ("hugepages", config.hugepages != Choice::Auto, &[Dpdk]),
        ("dpdk_plugin", config.dpdk_plugin.is_some(), &[Dpdk]),
    ];
    let idle = settings.iter().filter(|(_, chosen, drivers)| *chosen && !drivers.contains(&config.driver));
    let mut sentences: Vec<String> = idle
        .map(|(name, _, drivers)| {
            let names: Vec<&str> = drivers.iter().map(|driver| driver.name()).collect();
            format!(
                "{name} has no effect with driver {}; it is for {}",
                config.driver.name(),
                names.join(", ")
            )
        })
        .collect();
    if config.driver == Udp && config.prefix.is_some() {
        sentences
            .push("the prefix of the address has no effect with driver udp: the kernel knows it".to_owned());
    }
    sentences
}

//! The table of settings: how each is named, checked, set and shown.

use super::network;
use super::{
    Choice, Config, Cpus, DriverKind, IdlePolicy, LogFormat, LogLevel, MAX_ENGINES, Spread, XdpMode,
};
use crate::driver::{address_with_prefix, is_host};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// One setting.
#[derive(Clone, Copy)]
pub struct Key {
    /// Its name in the file. In the environment it is `MACHNET_` and the name in capitals, as a flag `--` and dashes.
    pub name: &'static str,
    /// What it decides, in one line.
    pub help: &'static str,
    /// What may be written, so that "must be ..." reads well.
    pub allowed: &'static str,
    /// Checks the text and sets the field; `false` when the text is not allowed.
    pub(super) set: fn(&mut Config, &str) -> bool,
    /// The field as it would be written in the file.
    pub(super) show: fn(&Config) -> String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Key").field(&self.name).finish()
    }
}

impl Key {
    /// The setting of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Its name in the environment.
    pub fn environment(&self) -> String {
        format!("MACHNET_{}", self.name.to_uppercase())
    }

    /// Its name as a flag.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The value as it would be written in the file.
    pub fn show(&self, config: &Config) -> String {
        (self.show)(config)
    }
}

/// The word for "the sidecar finds out".
pub(super) const AUTO: &str = "auto";
const SPREADS: [(Spread, &str); 2] = [(Spread::Learned, "learned"), (Spread::Paper, "paper")];
const LONGEST_SOCKET_PATH: usize = 107;

/// Every setting, in the order in which `machnet config show` prints them.
pub const KEYS: &[Key] = &[
    Key {
        name: "socket",
        help: "the Unix socket that applications attach to",
        allowed: "a path of 1 to 107 bytes",
        set: |config, text| {
            config.socket = PathBuf::from(text);
            (1..=LONGEST_SOCKET_PATH).contains(&text.len()) && !text.contains('\0')
        },
        show: |config| quoted(&config.socket.to_string_lossy()),
    },
    Key {
        name: "socket_mode",
        help: "permission bits of that socket, in octal",
        allowed: "an octal number from 0000 to 0777, such as \"0660\"",
        set: |config, text| put(&mut config.socket_mode, octal(text)),
        show: |config| format!("\"{:04o}\"", config.socket_mode),
    },
    Key {
        name: "socket_group",
        help: "the group that owns the socket; \"\" keeps the group of the process",
        allowed: "the name of a group, at most 64 characters",
        set: |config, text| {
            config.socket_group = (!text.is_empty()).then(|| text.to_owned());
            text.len() <= 64 && !text.contains(char::is_whitespace)
        },
        show: |config| quoted(config.socket_group.as_deref().unwrap_or("")),
    },
    Key {
        name: "address",
        help: "the address of this host that peers reach it at; auto: the only one there is",
        allowed: "\"auto\" or an IPv4 address of this host, such as \"10.0.0.5\" or \"10.0.0.5/24\"",
        set: |config, text| match address_with_prefix(text) {
            Some((address, prefix)) => {
                (config.address, config.prefix) = (IpAddr::V4(address), prefix);
                network::is_address_of_a_host(address, prefix)
            }
            None => text == AUTO,
        },
        show: |config| {
            let prefix = config.prefix.map_or_else(String::new, |bits| format!("/{bits}"));
            quoted(&format!("{}{prefix}", config.address))
        },
    },
    Key {
        name: "udp_port",
        help: "the UDP port that everything is sent to; the same on every host",
        allowed: "a number from 1024 to 65535",
        set: |config, text| put(&mut config.udp_port, number(text, 1_024..=65_535)),
        show: |config| config.udp_port.to_string(),
    },
    Key {
        name: "udp_ports",
        help: "the UDP ports to send from, beginning with udp_port; auto: 64 for each engine",
        allowed: "\"auto\" or a range of ports from 1024 to 65535, such as \"31580-31707\"",
        set: |config, text| {
            config.udp_ports = port_range(text);
            config.udp_ports.is_some() || text == AUTO
        },
        show: |config| match &config.udp_ports {
            Some(ports) => quoted(&format!("{}-{}", ports.start(), ports.end())),
            None => quoted(AUTO),
        },
    },
    Key {
        name: "driver",
        help: "how packets reach the network",
        allowed: "one of \"udp\", \"packet\", \"xdp\", \"dpdk\" (`machnet up --list-drivers` tells them apart)",
        set: |config, text| put(&mut config.driver, DriverKind::ALL.into_iter().find(|d| d.name() == text)),
        show: |config| quoted(config.driver.name()),
    },
    Key {
        name: "interface",
        help: "the network interface of the drivers packet and xdp; auto: the one that has the address",
        allowed: "\"auto\" or the name of a network interface, such as \"eth0\"",
        set: |config, text| {
            config.interface = (text != AUTO).then(|| text.to_owned());
            network::is_interface_name(text)
        },
        show: |config| quoted(config.interface.as_deref().unwrap_or(AUTO)),
    },
    Key {
        name: "gateway",
        help: "the router for what is not on the link; auto: as the kernel's table has it",
        allowed: "\"auto\" or an IPv4 address, such as \"10.0.0.1\"",
        set: |config, text| {
            config.gateway = text.parse::<Ipv4Addr>().ok().filter(|address| is_host(*address));
            config.gateway.is_some() || text == AUTO
        },
        show: |config| quoted(&config.gateway.map_or_else(|| AUTO.to_owned(), |gateway| gateway.to_string())),
    },
    Key {
        name: "routes",
        help: "networks that other routers lead to",
        allowed: "a list of routes, such as [\"10.9.0.0/16 via 10.0.0.1\"], at most 256",
        set: |config, text| put(&mut config.routes, network::routes(text)),
        show: |config| list(config.routes.iter()),
    },
    Key {
        name: "neighbours",
        help: "hardware addresses of hosts on the link that are not asked for (static ARP)",
        allowed: "a list of addresses, such as [\"10.0.0.7 02:00:00:00:00:01\"], at most 1024",
        set: |config, text| put(&mut config.neighbours, network::neighbours(text)),
        show: |config| list(config.neighbours.iter().map(|(ip, mac)| format!("{ip} {mac}"))),
    },
    Key {
        name: "vlan",
        help: "the VLAN tag of all frames; 0: none",
        allowed: "a number from 0 to 4094",
        set: |config, text| {
            let vlan = number(text, 0..=4_094);
            config.vlan = vlan.filter(|&tag| tag != 0);
            vlan.is_some()
        },
        show: |config| config.vlan.unwrap_or(0).to_string(),
    },
    Key {
        name: "xdp_mode",
        help: "where driver xdp hooks in: in the interface's own driver, or behind it",
        allowed: "one of \"auto\", \"native\", \"generic\"",
        set: |config, text| put(&mut config.xdp_mode, XdpMode::ALL.into_iter().find(|m| m.name() == text)),
        show: |config| quoted(config.xdp_mode.name()),
    },
    Key {
        name: "zero_copy",
        help: "whether driver xdp gives its memory to the network card; on: or does not start",
        allowed: "one of \"auto\", \"on\", \"off\"",
        set: |config, text| put(&mut config.zero_copy, Choice::named(text)),
        show: |config| quoted(config.zero_copy.name()),
    },
    Key {
        name: "pci",
        help: "driver dpdk: the PCI address of the network card; \"\": none",
        allowed: "a PCI address such as \"0000:00:05.0\"",
        set: |config, text| {
            config.pci = (!text.is_empty()).then(|| text.to_lowercase());
            text.is_empty() || network::is_pci_address(text)
        },
        show: |config| quoted(config.pci.as_deref().unwrap_or("")),
    },
    Key {
        name: "vdev",
        help: "driver dpdk: a virtual device instead of a card; \"\": none",
        allowed: "a device name with its arguments, such as \"net_memif0,role=server,socket=/run/memif.sock\"",
        set: |config, text| {
            config.vdev = (!text.is_empty()).then(|| text.to_owned());
            text.is_empty() || network::is_vdev(text)
        },
        show: |config| quoted(config.vdev.as_deref().unwrap_or("")),
    },
    Key {
        name: "hugepages",
        help: "driver dpdk: whether to take huge pages; auto: if there are enough",
        allowed: "one of \"auto\", \"on\", \"off\"",
        set: |config, text| put(&mut config.hugepages, Choice::named(text)),
        show: |config| quoted(config.hugepages.name()),
    },
    Key {
        name: "dpdk_plugin",
        help: "the plugin library of driver dpdk; auto: beside the program, then the system's library folders",
        allowed: "\"auto\" or the path of a library",
        set: |config, text| {
            config.dpdk_plugin = (text != AUTO).then(|| PathBuf::from(text));
            !text.is_empty() && !text.contains('\0')
        },
        show: |config| match &config.dpdk_plugin {
            Some(path) => quoted(&path.to_string_lossy()),
            None => quoted(AUTO),
        },
    },
    Key {
        name: "force",
        help: "take the interface of the default route even if the kernel then loses it (xdp with all queues, dpdk)",
        allowed: "true or false",
        set: |config, text| put(&mut config.force, text.parse().ok()),
        show: |config| config.force.to_string(),
    },
    Key {
        name: "engines",
        help: "engine threads; each has queues, channels and flows of its own",
        allowed: "a number from 1 to 16",
        set: |config, text| put(&mut config.engines, number(text, 1..=MAX_ENGINES)),
        show: |config| config.engines.to_string(),
    },
    Key {
        name: "cpus",
        help: "the processor of each engine; auto: the first that the process may use; \"\": the system decides",
        allowed: "\"\", \"auto\" or a list of processors, one for each engine, such as [2, 3]",
        set: |config, text| put(&mut config.cpus, cpus(text)),
        show: |config| match &config.cpus {
            Cpus::Any => quoted(""),
            Cpus::Auto => quoted(AUTO),
            Cpus::These(list) => format!("{list:?}"),
        },
    },
    Key {
        name: "spread",
        help: "how flows find the engines of hosts that have several",
        allowed: "one of \"learned\", \"paper\"",
        set: |config, text| put(&mut config.spread, SPREADS.into_iter().find(|s| s.1 == text).map(|s| s.0)),
        show: |config| {
            let name = SPREADS.into_iter().find(|spread| spread.0 == config.spread).map_or("", |s| s.1);
            quoted(name)
        },
    },
    Key {
        name: "spray_interval_ms",
        help: "with spread = \"paper\": first packets without an answer are sprayed again after so many milliseconds",
        allowed: "a number from 10 to 60000",
        set: |config, text| put(&mut config.spray_interval_ms, number(text, 10..=60_000)),
        show: |config| config.spray_interval_ms.to_string(),
    },
    Key {
        name: "idle",
        help: "what an engine does when there is nothing to do",
        allowed: "one of \"auto\", \"spin\", \"yield\", \"block\"",
        set: |config, text| put(&mut config.idle, IdlePolicy::ALL.into_iter().find(|p| p.name() == text)),
        show: |config| quoted(config.idle.name()),
    },
    Key {
        name: "connect_timeout_ms",
        help: "a connect without an answer fails after so many milliseconds",
        allowed: "a number from 10 to 600000",
        set: |config, text| put(&mut config.connect_timeout_ms, number(text, 10..=600_000)),
        show: |config| config.connect_timeout_ms.to_string(),
    },
    Key {
        name: "keepalive_ms",
        help: "a silent flow shows its peer that it lives this often, in milliseconds",
        allowed: "a number from 100 to 600000",
        set: |config, text| put(&mut config.keepalive_ms, number(text, 100..=600_000)),
        show: |config| config.keepalive_ms.to_string(),
    },
    Key {
        name: "dead_after_ms",
        help: "a peer that is silent for so many milliseconds is given up",
        allowed: "a number from 300 to 3600000",
        set: |config, text| put(&mut config.dead_after_ms, number(text, 300..=3_600_000)),
        show: |config| config.dead_after_ms.to_string(),
    },
    Key {
        name: "linger_ms",
        help: "how long what an application left behind may take to be delivered, in milliseconds",
        allowed: "a number from 0 to 60000",
        set: |config, text| put(&mut config.linger_ms, number(text, 0..=60_000)),
        show: |config| config.linger_ms.to_string(),
    },
    Key {
        name: "max_channels",
        help: "most applications attached at a time",
        allowed: "a number from 1 to 4096",
        set: |config, text| put(&mut config.max_channels, number(text, 1..=4_096)),
        show: |config| config.max_channels.to_string(),
    },
    Key {
        name: "max_flows",
        help: "most flows at a time",
        allowed: "a number from 1 to 1000000",
        set: |config, text| put(&mut config.max_flows, number(text, 1..=1_000_000)),
        show: |config| config.max_flows.to_string(),
    },
    Key {
        name: "mtu",
        help: "bytes of the largest IP packet; auto: what the interface says",
        allowed: "\"auto\" or a number from 1280 to 65535",
        set: |config, text| {
            config.mtu = number(text, 1_280..=65_535);
            config.mtu.is_some() || text == AUTO
        },
        show: |config| config.mtu.map_or_else(|| quoted(AUTO), |mtu| mtu.to_string()),
    },
    Key {
        name: "ping_port",
        help: "the Machnet port that answers `machnet ping`; 0: nothing answers",
        allowed: "a number from 0 to 65535",
        set: |config, text| {
            let port = number(text, 0..=65_535);
            config.ping_port = port.filter(|&port| port != 0);
            port.is_some()
        },
        show: |config| config.ping_port.unwrap_or(0).to_string(),
    },
    Key {
        name: "log_level",
        help: "how much is logged to standard error",
        allowed: "one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        set: |config, text| put(&mut config.log_level, LogLevel::ALL.into_iter().find(|l| l.name() == text)),
        show: |config| quoted(config.log_level.name()),
    },
    Key {
        name: "log_format",
        help: "how a line of the log looks; plain has no time, for journals that add it",
        allowed: "one of \"text\", \"plain\"",
        set: |config, text| {
            put(&mut config.log_format, LogFormat::ALL.into_iter().find(|f| f.name() == text))
        },
        show: |config| quoted(config.log_format.name()),
    },
];

fn put<T>(field: &mut T, value: Option<T>) -> bool {
    value.map(|value| *field = value).is_some()
}

/// Every integer of a setting passes here, decimal or, as TOML has it, octal behind `0o`.
fn number<T: TryFrom<u32>>(text: &str, allowed: RangeInclusive<u32>) -> Option<T> {
    let value = match text.strip_prefix("0o") {
        Some(digits) => u32::from_str_radix(digits, 8).ok()?,
        None => text.parse().ok()?,
    };
    allowed.contains(&value).then(|| T::try_from(value).ok()).flatten()
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let port = |text: &str| number::<u16>(text.trim(), 1_024..=65_535);
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

/// The largest number of a processor that Linux can have (`CPU_SETSIZE` of the C library, less one).
const LAST_CPU: u32 = 1_023;

fn cpus(text: &str) -> Option<Cpus> {
    match text {
        "" => Some(Cpus::Any),
        AUTO => Some(Cpus::Auto),
        list => {
            let list = list.split(',').map(|cpu| number(cpu.trim(), 0..=LAST_CPU));
            Some(Cpus::These(list.collect::<Option<_>>()?))
        }
    }
}

/// Permission bits are octal with or without the prefix, as for `chmod`.
fn octal(text: &str) -> Option<u32> {
    let value = u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok()?;
    (value <= 0o777).then_some(value)
}

fn list<T: ToString>(entries: impl Iterator<Item = T>) -> String {
    let entries: Vec<toml::Value> = entries.map(|entry| toml::Value::from(entry.to_string())).collect();
    toml::Value::from(entries).to_string()
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

//! The settings of a sidecar: file, environment and flags become one [`Config`], every field checked once.
//!
//! The order is flags, then environment (`MACHNET_*`), then the TOML file, then defaults. One table, [`KEYS`], knows every
//! setting: the file's keys, the names in the environment, the flags and `machnet config show` all follow from it.

mod keys;
mod network;
mod ports;
mod sources;

pub use crate::proto::Spread;
pub use keys::{KEYS, Key};
pub use network::{Choice, DriverKind, XdpMode};
pub use ports::{MAX_ENGINES, PORTS_PER_ENGINE, pairs_needed, share, source_ports};
pub use sources::{ConfigError, Effective, Origin, Sources, default_files};

use crate::driver::{MacAddress, Route};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// The UDP port of sidecars where none is chosen. One fixed port, so that a firewall needs one rule; above 1023, so that no
/// rights are needed; below 32768, where Linux begins to give ports to outgoing connections, so that none takes it by chance.
pub const DEFAULT_UDP_PORT: u16 = 31_580;

/// The Machnet port on which a sidecar answers `machnet ping`.
pub const DEFAULT_PING_PORT: u16 = 1;

/// What an engine does when it finds nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IdlePolicy {
    /// Looks on for as long as that helps, then sleeps; never spins where others need the processor.
    #[default]
    Auto,
    /// Never sleeps: lowest latency, a whole core.
    Spin,
    /// Never sleeps, but lets others run first.
    Yield,
    /// Sleeps at once: least processor time.
    Block,
}

impl IdlePolicy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Spin, Self::Yield, Self::Block];

    /// The word that names it in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Spin => "spin",
            Self::Yield => "yield",
            Self::Block => "block",
        }
    }
}

/// Which processors the engines run on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cpus {
    /// Wherever the system puts them.
    #[default]
    Any,
    /// Each on one of its own, the first of those that the process may run on.
    Auto,
    /// Engine 0 on the first of these, and so on.
    These(Vec<u32>),
}

/// How much is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// Every level, the quietest first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word that names it in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// Time, level and text.
    #[default]
    Text,
    /// Level and text, for journals that add the time themselves.
    Plain,
}

impl LogFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Text, Self::Plain];

    /// The word that names it in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Plain => "plain",
        }
    }
}

/// Everything that can be chosen about a sidecar. Values that come from outside pass the checks of [`KEYS`] first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The Unix socket that applications attach to.
    pub socket: PathBuf,
    /// Permission bits of that socket.
    pub socket_mode: u32,
    /// The group that owns the socket; none: the group of the process.
    pub socket_group: Option<String>,
    /// The address that peers reach this sidecar at.
    pub address: IpAddr,
    /// Leading bits of the address that the whole link shares; none: as the kernel has it.
    pub prefix: Option<u8>,
    /// The UDP port, the same on all hosts that talk to each other.
    pub udp_port: u16,
    /// The UDP ports to send from, of which `udp_port` is the first; none: as many as the engines need.
    pub udp_ports: Option<RangeInclusive<u16>>,
    /// How packets reach the network.
    pub driver: DriverKind,
    /// The network interface of the drivers packet and xdp; none: the one that has `address`.
    pub interface: Option<String>,
    /// The router for addresses that are not on the link; none: as the kernel's table says.
    pub gateway: Option<Ipv4Addr>,
    /// Networks that other routers lead to.
    pub routes: Vec<Route>,
    /// Hardware addresses that are not asked for.
    pub neighbours: Vec<(Ipv4Addr, MacAddress)>,
    /// The VLAN tag of all frames.
    pub vlan: Option<u16>,
    /// Where driver xdp hooks into the interface.
    pub xdp_mode: XdpMode,
    /// Whether driver xdp gives its memory to the network card.
    pub zero_copy: Choice,
    /// The PCI address of the network card of driver dpdk.
    pub pci: Option<String>,
    /// The virtual device of driver dpdk, with its arguments.
    pub vdev: Option<String>,
    /// Whether driver dpdk takes huge pages.
    pub hugepages: Choice,
    /// The plugin library of driver dpdk; none: beside the program, then in the system's library folders.
    pub dpdk_plugin: Option<PathBuf>,
    /// Whether a driver may take the whole interface that the default route leads through.
    pub force: bool,
    /// Engine threads.
    pub engines: u32,
    /// Which processors they run on.
    pub cpus: Cpus,
    /// How flows find the engines that own them, where peers have several.
    pub spread: Spread,
    /// With the paper's handshake: a batch of first packets without an answer is followed by the next after so many
    /// milliseconds.
    pub spray_interval_ms: u32,
    /// What engines do when idle.
    pub idle: IdlePolicy,
    /// A connect without an answer fails after this many milliseconds.
    pub connect_timeout_ms: u32,
    /// A silent flow shows its peer that it lives this often, in milliseconds.
    pub keepalive_ms: u32,
    /// A peer that is silent for so many milliseconds is given up.
    pub dead_after_ms: u32,
    /// So many milliseconds at most pass between an application's end and its flows' end.
    pub linger_ms: u32,
    /// Most applications that are attached at a time.
    pub max_channels: u32,
    /// Most flows of one engine.
    pub max_flows: u32,
    /// Bytes of the largest IP packet; none: ask the interface.
    pub mtu: Option<u32>,
    /// The Machnet port that answers `machnet ping`; none: nothing answers.
    pub ping_port: Option<u16>,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How a line of the log looks.
    pub log_format: LogFormat,
}

impl Default for Config {
    /// A sidecar on 127.0.0.1, with everything else as `machnet up` has it.
    fn default() -> Self {
        Self {
            socket: machnet_client::default_socket_path(),
            socket_mode: if is_root() { 0o660 } else { 0o600 },
            socket_group: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            prefix: None,
            udp_port: DEFAULT_UDP_PORT,
            udp_ports: None,
            driver: DriverKind::Udp,
            interface: None,
            gateway: None,
            routes: Vec::new(),
            neighbours: Vec::new(),
            vlan: None,
            xdp_mode: XdpMode::Auto,
            zero_copy: Choice::Auto,
            pci: None,
            vdev: None,
            hugepages: Choice::Auto,
            dpdk_plugin: None,
            force: false,
            engines: 1,
            cpus: Cpus::Any,
            spread: Spread::Learned,
            spray_interval_ms: 300,
            idle: IdlePolicy::Auto,
            connect_timeout_ms: 3_000,
            keepalive_ms: 10_000,
            dead_after_ms: 30_000,
            linger_ms: 1_000,
            max_channels: 256,
            max_flows: 65_536,
            mtu: None,
            ping_port: Some(DEFAULT_PING_PORT),
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
        }
    }
}

/// Whether this process is the system's (root) rather than a user's.
fn is_root() -> bool {
    machnet_client::socket::effective_user() == 0
}

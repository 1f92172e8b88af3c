//! The flags that choose settings, shared by `up` and `config show`.

use super::{Outcome, sys};
use clap::Args;
use machnet_engine::config::{Config, ConfigError, Effective, Sources};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The settings as flags. Their values are checked with those of file and environment, so the messages are the same.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigFlags {
    /// Read this configuration file [env: MACHNET_CONFIG] [default: the user's or the system's, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long, conflicts_with = "config")]
    no_config: bool,
    /// The Unix socket that applications attach to
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    socket: Option<String>,
    /// Permission bits of that socket, in octal
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    socket_mode: Option<String>,
    /// The group that owns the socket
    #[arg(long, value_name = "GROUP", allow_hyphen_values = true)]
    socket_group: Option<String>,
    /// The address of this host that peers reach it at [default: the only one there is]
    #[arg(long, value_name = "IP[/BITS]", allow_hyphen_values = true)]
    address: Option<String>,
    /// The UDP port that everything is sent to; the same on every host [default: 31580]
    #[arg(long, value_name = "PORT", allow_hyphen_values = true)]
    udp_port: Option<String>,
    /// The UDP ports to send from, beginning with that port [default: 64 for each engine]
    #[arg(long, value_name = "FIRST-LAST", allow_hyphen_values = true)]
    udp_ports: Option<String>,
    /// How packets reach the network: udp, packet, xdp or dpdk; see --list-drivers [default: udp]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    driver: Option<String>,
    /// The network interface of the drivers packet and xdp [default: the one that has the address]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    interface: Option<String>,
    /// The router for what is not on the link [default: the kernel's]
    #[arg(long, value_name = "IP", allow_hyphen_values = true)]
    gateway: Option<String>,
    /// Networks that other routers lead to, such as "10.9.0.0/16 via 10.0.0.1", with commas between them
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    routes: Option<String>,
    /// Hardware addresses that are not asked for, such as "10.0.0.7 02:00:00:00:00:01", with commas between them
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    neighbours: Option<String>,
    /// The VLAN tag of all frames [default: none]
    #[arg(long, value_name = "TAG", allow_hyphen_values = true)]
    vlan: Option<String>,
    /// Where driver xdp hooks in: auto, native or generic [default: auto]
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    xdp_mode: Option<String>,
    /// Whether driver xdp gives its memory to the network card: auto, on or off [default: auto]
    #[arg(long, value_name = "CHOICE", allow_hyphen_values = true)]
    zero_copy: Option<String>,
    /// Driver dpdk: the network card, such as 0000:00:05.0
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true)]
    pci: Option<String>,
    /// Driver dpdk: a virtual device instead of a card, such as net_memif0,role=server,socket=/run/memif.sock
    #[arg(long, value_name = "DEVICE", allow_hyphen_values = true)]
    vdev: Option<String>,
    /// Whether driver dpdk takes huge pages: auto, on or off [default: auto]
    #[arg(long, value_name = "CHOICE", allow_hyphen_values = true)]
    hugepages: Option<String>,
    /// The plugin library of driver dpdk [default: beside the program, then the system's library folders]
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    dpdk_plugin: Option<String>,
    /// Take the interface of the default route even if the kernel then loses it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    force: Option<String>,
    /// Engine threads [default: 1]
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    engines: Option<String>,
    /// The processor of each engine, such as 2,3, or auto [default: the system decides]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpus: Option<String>,
    /// Keep each engine on a processor of its own; the same as --cpus auto
    #[arg(long, conflicts_with = "cpus")]
    pin: bool,
    /// How flows find the engines of hosts that have several: learned or paper [default: learned]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    spread: Option<String>,
    /// With --spread paper: first packets without an answer are sprayed again after so long [default: 300]
    #[arg(long, value_name = "MS", allow_hyphen_values = true)]
    spray_interval_ms: Option<String>,
    /// What an engine does when there is nothing to do: auto, spin, yield or block [default: auto]
    #[arg(long, value_name = "POLICY", allow_hyphen_values = true)]
    idle: Option<String>,
    /// A connect without an answer fails after so long [default: 3000]
    #[arg(long, value_name = "MS", allow_hyphen_values = true)]
    connect_timeout_ms: Option<String>,
    /// A silent flow shows its peer that it lives this often [default: 10000]
    #[arg(long, value_name = "MS", allow_hyphen_values = true)]
    keepalive_ms: Option<String>,
    /// A peer that is silent for so long is given up [default: 30000]
    #[arg(long, value_name = "MS", allow_hyphen_values = true)]
    dead_after_ms: Option<String>,
    /// How long what an application left behind may take to be delivered [default: 1000]
    #[arg(long, value_name = "MS", allow_hyphen_values = true)]
    linger_ms: Option<String>,
    /// Most applications attached at a time [default: 256]
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    max_channels: Option<String>,
    /// Most flows at a time [default: 65536]
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    max_flows: Option<String>,
    /// Bytes of the largest IP packet [default: what the interface says]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    mtu: Option<String>,
    /// The Machnet port that answers `machnet ping`; 0: nothing answers [default: 1]
    #[arg(long, value_name = "PORT", allow_hyphen_values = true)]
    ping_port: Option<String>,
    /// How much is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", allow_hyphen_values = true)]
    log_level: Option<String>,
    /// How a line of the log looks: text, or plain without the time [default: text]
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    log_format: Option<String>,
}

impl ConfigFlags {
    fn given(&self) -> Vec<(&'static str, String)> {
        let cpus = if self.pin { Some("auto".to_owned()) } else { self.cpus.clone() };
        let all = [
            ("socket", &self.socket),
            ("socket_mode", &self.socket_mode),
            ("socket_group", &self.socket_group),
            ("address", &self.address),
            ("udp_port", &self.udp_port),
            ("udp_ports", &self.udp_ports),
            ("driver", &self.driver),
            ("interface", &self.interface),
            ("gateway", &self.gateway),
            ("routes", &self.routes),
            ("neighbours", &self.neighbours),
            ("vlan", &self.vlan),
            ("xdp_mode", &self.xdp_mode),
            ("zero_copy", &self.zero_copy),
            ("pci", &self.pci),
            ("vdev", &self.vdev),
            ("hugepages", &self.hugepages),
            ("dpdk_plugin", &self.dpdk_plugin),
            ("force", &self.force),
            ("engines", &self.engines),
            ("cpus", &cpus),
            ("spread", &self.spread),
            ("spray_interval_ms", &self.spray_interval_ms),
            ("idle", &self.idle),
            ("connect_timeout_ms", &self.connect_timeout_ms),
            ("keepalive_ms", &self.keepalive_ms),
            ("dead_after_ms", &self.dead_after_ms),
            ("linger_ms", &self.linger_ms),
            ("max_channels", &self.max_channels),
            ("max_flows", &self.max_flows),
            ("mtu", &self.mtu),
            ("ping_port", &self.ping_port),
            ("log_level", &self.log_level),
            ("log_format", &self.log_format),
        ];
        all.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value))).collect()
    }

    /// The plugin library that was named as a flag.
    pub(crate) fn dpdk_plugin(&self) -> Option<&Path> {
        self.dpdk_plugin.as_deref().map(Path::new)
    }

    /// The settings in effect: these flags, the environment, the file, the defaults.
    pub(crate) fn resolve(&self) -> Outcome<Effective> {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut sources = Sources::new().environment(variables).flags(self.given());
        let named = self.config.clone().or_else(|| std::env::var_os("MACHNET_CONFIG").map(PathBuf::from));
        if !self.no_config {
            sources = match named {
                Some(path) => sources.file(&path)?,
                None => sources.default_file()?,
            };
        }
        Ok(sources.resolve(only_address)?)
    }
}

/// The address of this host if it has exactly one besides loopback, at the interface that was chosen if one was; otherwise
/// what to do about it.
pub(crate) fn only_address(config: &Config) -> Result<IpAddr, ConfigError> {
    let found = sys::interface_addresses().unwrap_or_default();
    match &config.interface {
        None => choose_address(&found),
        Some(interface) => choose_address_of(interface, &found),
    }
}

fn choose_address_of(interface: &str, found: &[(String, IpAddr)]) -> Result<IpAddr, ConfigError> {
    let own: Vec<_> = found.iter().filter(|(name, _)| name == interface).cloned().collect();
    if own.is_empty() {
        let others: Vec<String> = found.iter().map(|(name, ip)| format!("{name} ({ip})")).collect();
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        return Err(ConfigError::NoAddress(format!(
            "no interface called {interface} is up and has an IPv4 address; those that are: {others}. Say the address that the \
             other hosts reach this one at, with the length of its network's prefix, if only the sidecar is to have it: \
             --address 10.0.0.5/24"
        )));
    }
    choose_address(&own)
}

fn choose_address(found: &[(String, IpAddr)]) -> Result<IpAddr, ConfigError> {
    match found {
        [(_, address)] => Ok(*address),
        [] => Err(ConfigError::NoAddress(
            "this host has no network address besides 127.0.0.1: \
             say --address 127.0.0.1 to try Machnet within this host (or run `machnet demo`)"
                .to_owned(),
        )),
        several => {
            let list: Vec<String> = several.iter().map(|(name, ip)| format!("{ip} ({name})")).collect();
            Err(ConfigError::NoAddress(format!(
                "this host has several addresses: {}; say which one the other hosts reach it at, such as --address {}",
                list.join(", "),
                several[0].1
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machnet_engine::config::KEYS;

    #[test]
    fn the_address_is_that_of_the_interface_if_one_is_named() {
        let found = [("eth0", [10, 0, 0, 5]), ("eth1", [10, 1, 0, 5])];
        let found = found.map(|(name, ip)| (name.to_owned(), IpAddr::from(ip)));
        assert_eq!(choose_address_of("eth1", &found).ok(), Some(IpAddr::from([10, 1, 0, 5])));
        let missing = choose_address_of("eth9", &found).unwrap_err().to_string();
        assert!(missing.contains("eth9") && missing.contains("eth0 (10.0.0.5), eth1"), "{missing}");
    }

    #[test]
    fn every_setting_has_its_flag() {
        use clap::CommandFactory;
        #[derive(Debug, clap::Parser)]
        struct Probe {
            #[command(flatten)]
            flags: ConfigFlags,
        }
        let command = Probe::command();
        for key in KEYS {
            let flag = key.flag();
            assert!(
                command.get_arguments().any(|a| a.get_long().map(|l| format!("--{l}")) == Some(flag.clone())),
                "{flag}"
            );
            let parsed = <Probe as clap::Parser>::try_parse_from(["p", flag.as_str(), "7"]).unwrap();
            assert_eq!(parsed.flags.given(), [(key.name, "7".to_owned())]);
        }
    }

    #[test]
    fn no_address_is_guessed_among_several() {
        let eth = ("eth0".to_owned(), "10.0.0.5".parse().unwrap());
        let wlan = ("wlan0".to_owned(), "192.168.1.5".parse().unwrap());
        assert_eq!(choose_address(std::slice::from_ref(&eth)).unwrap(), eth.1);
        assert!(choose_address(&[]).unwrap_err().to_string().contains("--address 127.0.0.1"));
        let text = choose_address(&[eth, wlan]).unwrap_err().to_string();
        assert!(text.contains("10.0.0.5 (eth0), 192.168.1.5 (wlan0)") && text.contains("--address 10.0.0.5"));
    }
}

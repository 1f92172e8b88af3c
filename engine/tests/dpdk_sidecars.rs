//! Sidecars with driver `dpdk`, each a process: the whole way from application to application, between two of them over shared memory
//! (memif), and over a virtual pair of interfaces to hosts with every other driver.
//!
//! ci/dpdk.sh builds the plugin and runs these one after the other.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod cli_support;
mod common;
#[path = "dpdk/mod.rs"]
mod dpdk;
#[path = "common/meeting.rs"]
mod meeting;
mod netns;

use cli_support::{Running, machnet, run};
use common::{PATIENCE, TestSidecar, eventually, scratch_directory};
use machnet_client::{AttachOptions, Attachment, Flow};
use machnet_engine::config::{Config, DriverKind};
use meeting::echo;
use netns::{End, Link, Shape};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A host on the link: a sidecar, and where applications attach.
struct Host {
    sidecar: Running,
    socket: PathBuf,
    address: IpAddr,
}

const UDP_PORT: u16 = 18_000;

impl Host {
    /// `role`: server or client of memif at `folder`.
    fn start(folder: &Path, role: &str, engines: u32) -> Self {
        let address = Ipv4Addr::new(10, 79, 0, if role == "server" { 1 } else { 2 });
        let file = folder.join("memif.sock");
        let device = format!("net_memif0,role={role},socket={},socket-abstract=no", file.display());
        Self::with(&device, address, engines, folder.join(format!("{role}.sock")))
    }

    /// In the namespace of the calling thread.
    fn with(device: &str, address: Ipv4Addr, engines: u32, socket: PathBuf) -> Self {
        let (engines, network, port) = (engines.to_string(), format!("{address}/24"), UDP_PORT.to_string());
        let mut command =
            machnet(&["up", "--no-config", "--driver", "dpdk", "--vdev", device, "--address", &network]);
        command.args(["--udp-port", &port, "--engines", &engines, "--socket"]).arg(&socket);
        command.arg("--dpdk-plugin").arg(dpdk::plugin());
        let mut sidecar = Running::spawn(command);
        let line = sidecar.line();
        assert!(line.contains("driver dpdk"), "{line}");
        Self { sidecar, socket, address: address.into() }
    }

    fn attach(&self, engine: u32) -> Attachment {
        AttachOptions::new().socket(&self.socket).engine(engine).attach().unwrap()
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// As if by `kill -9`.
    fn kill(mut self) {
        self.sidecar.child.kill().unwrap();
        self.sidecar.child.wait().unwrap();
    }
}

/// A flow, once the link is up and the other host is known.
fn connect(client: &Attachment, to: SocketAddr) -> Flow {
    let mut flow = None;
    eventually("the other host answers", || {
        flow = client.connect(to).ok();
        flow.is_some()
    });
    flow.unwrap()
}

/// Every engine of one host talks with every engine of the other.
fn all_engines(engines: u32) {
    let folder = scratch_directory();
    std::fs::create_dir_all(&folder).unwrap();
    let (left, right) = (Host::start(&folder, "server", engines), Host::start(&folder, "client", engines));
    let clients: Vec<_> = (0..engines).map(|engine| left.attach(engine)).collect();
    let servers: Vec<_> = (0..engines).map(|engine| right.attach(engine)).collect();
    for (index, server) in servers.iter().enumerate() {
        let port = 100 + u16::try_from(index).unwrap();
        let listener = server.listen(right.at(port), 16).unwrap();
        for client in &clients {
            let flow = connect(client, right.at(port));
            flow.send(b"hello").unwrap();
            let accepted = listener.accept_timeout(PATIENCE).unwrap();
            assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"hello");
            for (number, len) in [1, 100, 1_400, 3_000, 200_000].into_iter().enumerate() {
                echo(&flow, &accepted, number, len);
            }
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn messages_go_round_with_one_engine() {
    all_engines(1);
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn messages_go_round_with_two_engines() {
    all_engines(2);
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn messages_go_round_with_four_engines() {
    all_engines(4);
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn a_sidecar_that_is_killed_and_started_again_works_again() {
    let folder = scratch_directory();
    std::fs::create_dir_all(&folder).unwrap();
    // Each side once: the one that made the memif socket leaves its file behind.
    let mut left = Host::start(&folder, "server", 1);
    let mut right = Host::start(&folder, "client", 1);
    for killed in ["", "client", "server"] {
        match killed {
            "client" => {
                right.kill();
                right = Host::start(&folder, "client", 1);
            }
            "server" => {
                left.kill();
                left = Host::start(&folder, "server", 1);
            }
            _ => {}
        }
        let (client, server) = (left.attach(0), right.attach(0));
        let listener = server.listen(right.at(7), 16).unwrap();
        let flow = connect(&client, right.at(7));
        flow.send(b"hello").unwrap();
        let accepted = listener.accept_timeout(PATIENCE).unwrap();
        assert_eq!(&*accepted.recv_timeout(PATIENCE).unwrap(), b"hello");
        echo(&flow, &accepted, 1, 5_000);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[ignore = "run by ci/dpdk.sh, which builds the plugin"]
fn what_keeps_the_sidecar_from_starting_is_said_in_one_sentence() {
    let plugin = dpdk::plugin();
    let plugin = plugin.to_str().unwrap();
    let folder = scratch_directory();
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("machnet.sock");
    let port = UDP_PORT.to_string();
    let usual = [
        "up",
        "--no-config",
        "--driver",
        "dpdk",
        "--address",
        "10.79.0.1/24",
        "--udp-port",
        &port,
        "--socket",
    ];
    let said = |more: &[&str]| {
        let (code, out, text) = run(&[&usual[..], &[socket.to_str().unwrap()], more].concat());
        assert_eq!((code, out.as_str()), (1, ""), "{text}");
        text.lines().last().unwrap().to_owned()
    };
    let text = said(&["--vdev", "net_null0", "--dpdk-plugin", "/nonexistent/plugin.so"]);
    assert!(text.contains("cannot use the plugin") && text.contains("/nonexistent/plugin.so"), "{text}");
    let text = said(&["--pci", "ffff:ff:1f.7", "--dpdk-plugin", plugin]);
    assert!(text.contains("no PCI device ffff:ff:1f.7") && text.contains("lspci"), "{text}");
    // A machine that has huge pages starts with them; then there is nothing to say.
    let pages = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    if pages.trim() == "0" {
        let text = said(&["--vdev", "net_null0", "--hugepages", "on", "--dpdk-plugin", plugin]);
        assert!(text.contains("sysctl -w vm.nr_hugepages="), "{text}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A host on a virtual pair of interfaces, with any driver.
enum Station {
    Dpdk(Host),
    Other(TestSidecar),
}

/// What the other host runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Peer {
    Udp,
    Packet,
    Xdp,
    Dpdk,
}

impl Peer {
    /// What it lacks here, if anything.
    fn lacks(self) -> Option<String> {
        let is_missing = |command| Command::new(command).arg("--version").output().is_err();
        match self {
            Self::Udp if is_missing("ethtool") => Some(
                "the command `ethtool` is not installed (package ethtool; ci/setup.sh installs it)"
                    .to_owned(),
            ),
            Self::Xdp => lacks_bpf(),
            _ => None,
        }
    }

    /// Starts it at that end of a link whose kernels have no addresses.
    fn start(self, link: &Link, end: End, folder: &Path) -> Station {
        let address = link.address(end);
        let kind = match self {
            Self::Dpdk => {
                let device = format!("net_af_packet0,iface={}", link.interface());
                let socket = folder.join(format!("{end:?}.sock"));
                return Station::Dpdk(link.run_in(end, || Host::with(&device, address, 1, socket)));
            }
            Self::Udp => DriverKind::Udp,
            Self::Packet => DriverKind::Packet,
            Self::Xdp => DriverKind::Xdp,
        };
        link.ip(end, &format!("address add {address}/24 dev {}", link.interface()));
        if self == Self::Udp {
            // As docs/drivers/dpdk.md tells whoever has such a peer.
            let mut command = Command::new("ethtool");
            command.args(["-K", link.interface(), "tx", "off"]);
            let output = link.command(end, &mut command);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let configure = |config: &mut Config| (config.driver, config.udp_port) = (kind, UDP_PORT);
        Station::Other(link.run_in(end, || TestSidecar::start(&address.to_string(), configure)))
    }
}

/// Programs for the kernel need a right that the root of a user namespace of one's own does not have.
fn lacks_bpf() -> Option<String> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_root =
        map.split_whitespace().eq(["0", "0", "4294967295"]) && machnet_client::socket::effective_user() == 0;
    (!is_root).then(|| "driver xdp needs CAP_BPF outside of a user namespace".to_owned())
}

impl Station {
    fn attach(&self) -> Attachment {
        match self {
            Self::Dpdk(host) => host.attach(0),
            Self::Other(sidecar) => sidecar.attach(),
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        match self {
            Self::Dpdk(host) => host.at(port),
            Self::Other(sidecar) => sidecar.at(port),
        }
    }
}

fn reaches(peer: Peer) {
    if let Some(reason) = peer.lacks() {
        println!("SKIPPED: {reason}");
        return;
    }
    let shape = Shape { kernel_has_addresses: false, ..Shape::default() };
    let Some(link) = Link::with(shape) else { return };
    let folder = scratch_directory();
    std::fs::create_dir_all(&folder).unwrap();
    let left = Peer::Dpdk.start(&link, End::Left, &folder);
    let right = peer.start(&link, End::Right, &folder);
    for (client, server) in [(&left, &right), (&right, &left)] {
        let (of_client, of_server) = (client.attach(), server.attach());
        let listener = of_server.listen(server.at(7), 8).unwrap();
        let flow = connect(&of_client, server.at(7));
        let accepted = listener.accept_timeout(PATIENCE).unwrap();
        let lengths = [1, 112, 113, 1_400, 1_500, 9_000, 40_000, 100_000, 1 << 20, 8 << 20];
        for (number, len) in lengths.into_iter().enumerate() {
            echo(&flow, &accepted, number, len);
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    println!("dpdk and {peer:?}: messages of every size, both ways");
}

/// The rows of the matrix of engine/tests/drivers.rs that need the plugin.
macro_rules! matrix {
    ($($name:ident: $peer:ident;)+) => {
        mod messages_of_every_size_go_both_ways_between {
            $(
                #[test]
                #[ignore = "run by ci/dpdk.sh, which builds the plugin"]
                fn $name() { super::reaches(super::Peer::$peer); }
            )+
        }
    };
}

matrix! {
    dpdk_and_udp: Udp;
    dpdk_and_packet: Packet;
    dpdk_and_xdp: Xdp;
    dpdk_and_dpdk: Dpdk;
}

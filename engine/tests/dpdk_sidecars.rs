//! Two sidecars with driver `dpdk`, each a process, over shared memory (memif): the whole way from application to application.
//!
//! ci/dpdk.sh builds the plugin and runs these one after the other.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

mod cli_support;
mod common;
#[path = "dpdk/mod.rs"]
mod dpdk;

use cli_support::{Running, machnet, run};
use common::{PATIENCE, eventually, pattern, scratch_directory};
use machnet_client::{AttachOptions, Attachment, Flow};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A host on the link: a sidecar, and where applications attach.
struct Host {
    sidecar: Running,
    socket: PathBuf,
    address: &'static str,
}

const PORT: &str = "18000";

impl Host {
    /// `role`: server or client of memif at `folder`.
    fn start(folder: &Path, role: &str, engines: u32) -> Self {
        let address = if role == "server" { "10.79.0.1" } else { "10.79.0.2" };
        let socket = folder.join(format!("{role}.sock"));
        let device = format!(
            "net_memif0,role={role},socket={},socket-abstract=no",
            folder.join("memif.sock").display()
        );
        let engines = engines.to_string();
        let network = format!("{address}/24");
        let mut command =
            machnet(&["up", "--no-config", "--driver", "dpdk", "--vdev", &device, "--address", &network]);
        command.args(["--udp-port", PORT, "--engines", &engines, "--socket"]).arg(&socket);
        command.arg("--dpdk-plugin").arg(dpdk::plugin());
        let mut sidecar = Running::spawn(command);
        let line = sidecar.line();
        assert!(line.contains("driver dpdk"), "{line}");
        Self { sidecar, socket, address }
    }

    fn attach(&self, engine: u32) -> Attachment {
        AttachOptions::new().socket(&self.socket).engine(engine).attach().unwrap()
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.parse().unwrap(), port)
    }

    /// As if by `kill -9`.
    fn kill(mut self) {
        self.sidecar.child.kill().unwrap();
        self.sidecar.child.wait().unwrap();
    }
}

fn echo(one: &Flow, other: &Flow, number: usize, len: usize) {
    let message = pattern(number, len);
    one.send_timeout(&message, PATIENCE).unwrap();
    let got = other.recv_timeout(PATIENCE).unwrap();
    assert!(*got == *message, "message {number} of {len} bytes arrives intact");
    other.send_timeout(&got, PATIENCE).unwrap();
    drop(got);
    assert!(*one.recv_timeout(PATIENCE).unwrap() == *message, "message {number} comes back intact");
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
    let usual = [
        "up",
        "--no-config",
        "--driver",
        "dpdk",
        "--address",
        "10.79.0.1/24",
        "--udp-port",
        PORT,
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

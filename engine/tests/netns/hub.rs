//! Several hosts in one process, each in a network namespace of its own, joined by a bridge in one more.
//!
//! The bridge is a network that knows nothing of us: with several queues, the kernel there picks the receive queue of a host by a
//! hash of the datagram's addresses and ports that nobody can read (opaque RSS). It would keep the queue by which a sender sent, so
//! each host has a small bridge of its own, and between that and the common one a pair with one queue, which forgets it.

use super::{Shape, new_network, sys};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

/// A bridge that forwards at once, and everything.
const PLAIN: &str = "forward_delay 0 stp_state 0 mcast_snooping 0";

/// Hosts with the addresses 10.78.N.1/24 and so on, at the interface `mn0` of each.
#[derive(Debug)]
pub struct Hub {
    bridge: File,
    hosts: Vec<File>,
    subnet: u8,
    shape: Shape,
}

impl Hub {
    /// So many hosts. Ask [`super::are_possible`] before.
    pub fn new(hosts: usize, shape: Shape) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let hosts = (0..hosts).map(|_| new_network().unwrap()).collect();
        let subnet = NEXT.fetch_add(1, Ordering::Relaxed);
        let hub = Self { bridge: new_network().unwrap(), hosts, subnet, shape };
        hub.ip_of_bridge(&format!("link add hub type bridge {PLAIN}"));
        hub.ip_of_bridge(&format!("link set hub mtu {} addrgenmode none up", shape.mtu));
        for host in 0..hub.hosts.len() {
            hub.ip(host, "link set lo up");
            hub.ip_of_bridge(&format!("link add b{host} type bridge {PLAIN}"));
            hub.ip_of_bridge(&format!("link set b{host} mtu {} addrgenmode none up", shape.mtu));
            let one = format!("numrxqueues 1 numtxqueues 1 mtu {}", shape.mtu);
            hub.ip_of_bridge(&format!("link add u{host} {one} type veth peer name d{host} {one}"));
            hub.ip_of_bridge(&format!("link set u{host} master b{host} addrgenmode none up"));
            hub.ip_of_bridge(&format!("link set d{host} master hub addrgenmode none up"));
            hub.create(host);
        }
        hub
    }

    pub fn interface(&self) -> &'static str {
        "mn0"
    }

    pub fn address(&self, host: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, self.subnet, 1 + u8::try_from(host).unwrap())
    }

    /// The hardware address of a host, as it is now.
    pub fn mac(&self, host: usize) -> String {
        let text = self.ip(host, "-oneline link show mn0");
        let (_, rest) = text.split_once("link/ether ").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// Plugs a host in. Also after [`Self::delete`].
    pub fn create(&self, host: usize) {
        let Shape { queues, mtu, kernel_has_addresses } = self.shape;
        let one = format!("numrxqueues {queues} numtxqueues {queues} mtu {mtu}");
        let there = format!("/proc/{}/fd/{}", std::process::id(), self.hosts[host].as_raw_fd());
        self.ip_of_bridge(&format!("link add p{host} {one} type veth peer name mn0 {one} netns {there}"));
        self.ip_of_bridge(&format!("link set p{host} master b{host} addrgenmode none up"));
        self.ip(host, "link set mn0 addrgenmode none");
        if kernel_has_addresses {
            self.ip(host, &format!("address add {}/24 dev mn0", self.address(host)));
        }
        self.ip(host, "link set mn0 up");
    }

    /// Removes a host's interface.
    pub fn delete(&self, host: usize) {
        self.ip(host, "link delete mn0");
    }

    /// Runs `what` in a thread in the namespace of that host, and waits for it. Threads and processes that it starts are there, too.
    pub fn run_in<T: Send>(&self, host: usize, what: impl FnOnce() -> T + Send) -> T {
        run_in(&self.hosts[host], what)
    }

    /// Runs a command in the namespace of that host.
    pub fn command(&self, host: usize, command: &mut Command) -> Output {
        self.run_in(host, || command.output().unwrap())
    }

    /// Runs `ip` with these words in the namespace of that host; it must succeed.
    pub fn ip(&self, host: usize, words: &str) -> String {
        ip(&self.hosts[host], words)
    }

    fn ip_of_bridge(&self, words: &str) -> String {
        ip(&self.bridge, words)
    }
}

fn run_in<T: Send>(network: &File, what: impl FnOnce() -> T + Send) -> T {
    let in_network = || {
        sys::enter_network(network).unwrap();
        what()
    };
    let result = thread::scope(|scope| scope.spawn(in_network).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ip(network: &File, words: &str) -> String {
    let output = run_in(network, || Command::new("ip").args(words.split_whitespace()).output().unwrap());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

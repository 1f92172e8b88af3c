//! Two hosts in one process: network namespaces of our own, joined by a veth pair.
//!
//! A namespace belongs to threads and to the sockets that were opened in it, so what [`Link::run_in`] opens works from any
//! thread afterwards. Nothing outside is touched, and nothing is left when a [`Link`] and the sockets are gone. Needs the right to
//! make namespaces (root, or `unshare -Urn`) and the `ip` command.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "shared by several test binaries, each of which uses a part"
)]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod hub;
pub mod sys;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

/// One end of a link, and the host that has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Left,
    Right,
}

impl End {
    pub const BOTH: [Self; 2] = [Self::Left, Self::Right];

    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// How a link is made.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Receive and transmit queues of each end.
    pub queues: u32,
    pub mtu: u32,
    /// Whether the kernel has the addresses; a driver that owns the interface alone brings its own.
    pub kernel_has_addresses: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { queues: 1, mtu: 1_500, kernel_has_addresses: true }
    }
}

/// Two fresh network namespaces, joined by a veth pair with the addresses 10.77.N.1/24 and 10.77.N.2/24.
#[derive(Debug)]
pub struct Link {
    networks: [File; 2],
    subnet: u8,
    shape: Shape,
}

impl Link {
    /// A link as [`Shape::default`] has it. If this machine or user cannot have one: says `SKIPPED: reason`, and nothing.
    pub fn new() -> Option<Self> {
        Self::with(Shape::default())
    }

    /// As [`Self::new`], in this shape.
    pub fn with(shape: Shape) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        if !are_possible() {
            return None;
        }
        let networks = [new_network().unwrap(), new_network().unwrap()];
        let link = Self { networks, subnet: NEXT.fetch_add(1, Ordering::Relaxed), shape };
        for end in End::BOTH {
            link.ip(end, "link set lo up");
        }
        link.create();
        Some(link)
    }

    /// The interface's name, the same at both ends.
    pub fn interface(&self) -> &'static str {
        "mn0"
    }

    pub fn address(&self, end: End) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet, if end == End::Left { 1 } else { 2 })
    }

    /// The hardware address of an end, as it is now.
    pub fn mac(&self, end: End) -> String {
        let text = self.ip(end, "-oneline link show mn0");
        let (_, rest) = text.split_once("link/ether ").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// Runs `what` in a thread in the namespace of that end, and waits for it. Threads and processes that it starts are there, too.
    pub fn run_in<T: Send>(&self, end: End, what: impl FnOnce() -> T + Send) -> T {
        let network = &self.networks[end.index()];
        let in_network = || {
            sys::enter_network(network).unwrap();
            what()
        };
        let result = thread::scope(|scope| scope.spawn(in_network).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command in the namespace of that end.
    pub fn command(&self, end: End, command: &mut Command) -> Output {
        self.run_in(end, || command.output().unwrap())
    }

    /// Runs `ip` with these words in the namespace of that end; it must succeed.
    pub fn ip(&self, end: End, words: &str) -> String {
        let output = self.command(end, Command::new("ip").args(words.split_whitespace()));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {words}: {text}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn set_up(&self, end: End) {
        self.ip(end, "link set mn0 up");
    }

    pub fn set_down(&self, end: End) {
        self.ip(end, "link set mn0 down");
    }

    /// Makes the pair, with addresses, up. Also after [`Self::delete`]: hardware addresses and indexes are others then.
    pub fn create(&self) {
        let Shape { queues, mtu, kernel_has_addresses } = self.shape;
        let one = format!("numrxqueues {queues} numtxqueues {queues} mtu {mtu}");
        let there = format!("/proc/{}/fd/{}", std::process::id(), self.networks[1].as_raw_fd());
        self.ip(End::Left, &format!("link add mn0 {one} type veth peer name mn0 {one} netns {there}"));
        for end in End::BOTH {
            // No IPv6: what the kernel says of its own accord would be in every capture.
            self.ip(end, "link set mn0 addrgenmode none");
            if kernel_has_addresses {
                self.ip(end, &format!("address add {}/24 dev mn0", self.address(end)));
            }
            self.set_up(end);
        }
    }

    /// Removes the pair.
    pub fn delete(&self) {
        self.ip(End::Left, "link delete mn0");
    }
}

/// Whether this process may make namespaces and has what it takes; if not, says `SKIPPED: reason`.
pub fn are_possible() -> bool {
    possible().inspect_err(|reason| println!("SKIPPED: {reason}")).is_ok()
}

fn possible() -> Result<(), String> {
    let version = Command::new("ip").arg("-V").output();
    version.map_err(|error| format!("the command `ip` (package iproute2) does not run: {error}"))?;
    let tried = thread::spawn(sys::leave_for_new_network).join().unwrap();
    tried.map_err(|error| {
        format!("this user may not make network namespaces ({error}); run the tests as root or under `unshare -Urn`")
    })
}

fn new_network() -> std::io::Result<File> {
    let make = || {
        sys::leave_for_new_network()?;
        File::open("/proc/thread-self/ns/net")
    };
    thread::spawn(make).join().unwrap()
}

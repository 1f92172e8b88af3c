//! Two hosts on one machine: network namespaces of the bench's own, joined by a pair of virtual Ethernet interfaces.

use crate::place::{Place, said};
use crate::roles::Role;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The interface of either side. Each is alone in its namespace, so they have one name.
pub const INTERFACE: &str = "machnet0";
/// The addresses of the two sides.
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// Their hardware addresses.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// The role of a process in which a namespace lives.
pub const ROLE: &str = "network";

/// Two namespaces and what joins them. They go with it.
#[derive(Debug)]
pub struct Pair {
    _holders: [Role; 2],
    networks: [PathBuf; 2],
}

impl Pair {
    /// Makes both, or says why this machine or user cannot.
    pub fn new() -> Result<Self, String> {
        let [first, second] = [holder()?, holder()?];
        let networks =
            [&first, &second].map(|holder| PathBuf::from(format!("/proc/{}/ns/net", holder.pid())));
        let other = second.pid().to_string();
        let [mac, other_mac] = MACS.map(text);
        let add = ["link", "add", INTERFACE, "address", &mac, "type", "veth"];
        let peer = ["peer", "name", INTERFACE, "address", &other_mac, "netns", &other];
        ip(&networks[0], &[&add[..], &peer].concat())?;
        for (network, address) in networks.iter().zip(ADDRESSES) {
            // What IPv6 says of its own accord would disturb.
            ip(network, &["link", "set", INTERFACE, "addrgenmode", "none"])?;
            ip(network, &["address", "add", &format!("{address}/24"), "dev", INTERFACE])?;
            ip(network, &["link", "set", "lo", "up"])?;
            ip(network, &["link", "set", INTERFACE, "up"])?;
        }
        Ok(Self { _holders: [first, second], networks })
    }

    /// A place on one side (0 or 1).
    pub fn place(&self, side: usize) -> Place {
        Place::in_network(&self.networks[side])
    }
}

/// The child's part: to be there. `main` of a bench calls it in the role [`ROLE`], and it ends with the bench.
pub fn hold() -> io::Result<()> {
    println!("here");
    loop {
        std::thread::park();
    }
}

fn holder() -> Result<Role, String> {
    let output = Command::new("unshare").args(["--net", "true"]).stdin(Stdio::null()).output();
    match output {
        Err(error) => {
            return Err(format!("the command `unshare` (package util-linux) does not run: {error}"));
        }
        Ok(output) if !output.status.success() => {
            let said = said(&output.stderr);
            return Err(format!(
                "this user may not make network namespaces ({said}); root may, or `unshare -Ur`"
            ));
        }
        Ok(_) => {}
    }
    let mut holder = Role::start_in_new_network(ROLE).map_err(|error| error.to_string())?;
    holder.line().map_err(|error| error.to_string())?;
    Ok(holder)
}

/// Runs iproute2's `ip` in a namespace.
fn ip(network: &Path, words: &[&str]) -> Result<(), String> {
    let mut command = Place::in_network(network).command(Path::new("ip"));
    let output = command.args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("`ip` (package iproute2) does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("no pair of virtual interfaces can be made here: {}", said(&output.stderr)))
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

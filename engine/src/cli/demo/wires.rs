//! What joins the two sidecars of a path over a frame driver: two network namespaces with a pair of interfaces between them,
//! or a socket of DPDK's memif.

use super::place::Place;
use super::plan::Path;
use crate::cli::sys;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

/// The interface of either side. Each is alone in its namespace, so they have one name.
const INTERFACE: &str = "machnet0";
/// The addresses of the two sides: of a network that exists in the two namespaces only.
const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// What the rights that are missing are called by, in a command that has them.
const WITH_RIGHTS: &str = "sudo machnet demo";

/// A wire between two sidecars. It goes with the namespaces, when the processes in them have ended.
#[derive(Debug)]
pub(crate) struct Wire {
    kind: Kind,
    engines: u32,
}

#[derive(Debug)]
enum Kind {
    /// A pair of virtual Ethernet interfaces, one in each namespace.
    Veth { driver: &'static str, namespaces: [OwnedFd; 2] },
    /// A Unix socket through which two DPDK ports share their rings.
    Memif { socket: String },
}

impl Wire {
    /// The wire of a path, or why there is none and what helps.
    pub(crate) fn of(path: Path, place: &Place, engines: u32) -> Result<Self, String> {
        let kind = match path {
            Path::Packet => Kind::Veth { driver: "packet", namespaces: veth_pair(engines)? },
            Path::Xdp => Kind::Veth { driver: "xdp", namespaces: veth_pair(engines)? },
            Path::Memif => Kind::Memif { socket: place.memif() },
            _ => return Err(format!("{} needs no wire", path.name())),
        };
        Ok(Self { kind, engines })
    }

    /// The arguments of `machnet up` for the first (0) or second (1) sidecar.
    pub(crate) fn arguments(&self, side: usize) -> Vec<String> {
        let words: Vec<String> = match &self.kind {
            Kind::Veth { driver, .. } => {
                let words = ["--driver", driver, "--interface", INTERFACE, "--address", ADDRESSES[side]];
                words.map(str::to_owned).to_vec()
            }
            Kind::Memif { socket } => {
                let role = ["server", "client"][side];
                let device = format!("net_memif0,role={role},socket-abstract=no,socket={socket}");
                let address = format!("{}/24", ADDRESSES[side]);
                let words = ["--driver", "dpdk", "--vdev", &device, "--address", &address];
                words.map(str::to_owned).to_vec()
            }
        };
        words.into_iter().chain(["--engines".to_owned(), self.engines.to_string()]).collect()
    }

    /// The namespace that the sidecar of a side belongs to, if it is not this one.
    pub(crate) fn namespace(&self, side: usize) -> Option<&OwnedFd> {
        match &self.kind {
            Kind::Veth { namespaces, .. } => Some(&namespaces[side]),
            Kind::Memif { .. } => None,
        }
    }
}

/// The command that measures a path which this user may not have, or that this build has not.
pub(crate) fn remedy(path: Path) -> &'static str {
    match path {
        Path::Packet => "`unshare -Ur machnet demo` or `sudo machnet demo`",
        Path::Memif => {
            "the plugin library, which `make demo` builds by itself where DPDK's development files are (apt-get install libdpdk-dev)"
        }
        _ => "`sudo machnet demo`",
    }
}

/// Two new namespaces, joined by interfaces that are up and have their addresses.
fn veth_pair(queues: u32) -> Result<[OwnedFd; 2], String> {
    let new = || {
        sys::new_network_namespace().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("this user may not make network namespaces ({WITH_RIGHTS} may)")
            }
            _ => format!("the system gives no network namespace: {error}"),
        })
    };
    let both = [new()?, new()?];
    let queues = queues.to_string();
    let pair = [
        "link",
        "add",
        INTERFACE,
        "numtxqueues",
        &queues,
        "numrxqueues",
        &queues,
        "type",
        "veth",
        "peer",
        "name",
    ];
    // The other end's namespace by the descriptor that this process has of it.
    let other_side = OsString::from(format!("/proc/{}/fd/{}", std::process::id(), both[1].as_raw_fd()));
    let queues = [INTERFACE, "numtxqueues", &*queues, "numrxqueues", &*queues, "netns"].map(OsString::from);
    let words = pair.map(OsString::from).into_iter().chain(queues).chain([other_side]);
    ip(&both[0], words)?;
    for (namespace, address) in both.iter().zip(ADDRESSES) {
        let address = format!("{address}/24");
        for words in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", &address, "dev", INTERFACE],
            &["link", "set", INTERFACE, "up"],
        ] {
            ip(namespace, words.iter().map(OsString::from))?;
        }
    }
    Ok(both)
}

/// Runs iproute2's `ip` in a namespace.
fn ip(namespace: &OwnedFd, words: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(words).stdin(Stdio::null());
    sys::enter_namespace(&mut command, namespace);
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the command `ip` is missing (apt-get install iproute2)".to_owned(),
        _ => format!("`ip` cannot be run: {error}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "no pair of virtual interfaces can be made here: {}",
        said.lines().last().unwrap_or("").trim()
    ))
}

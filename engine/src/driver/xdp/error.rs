//! Why an interface's queues were not opened. The texts say what to do.

use super::attach::Mode;
use super::channel::ChannelError;
use crate::driver::interface::InterfaceError;
use crate::driver::lock::LockError;
use std::io;
use std::net::SocketAddr;

/// Why the driver was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The settings do not fit this driver.
    #[error("{0}")]
    Settings(String),
    /// The interface was not found.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// Another sidecar serves the address.
    #[error("cannot serve {address}: {source}{}", holder(source))]
    Address {
        /// Address and UDP port.
        address: SocketAddr,
        /// Why not.
        source: LockError,
    },
    /// The interface is gone.
    #[error("there is no interface {interface}; `ip link` shows those that there are")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The kernel was built without.
    #[error("this kernel has no {what}: {source}; driver packet needs less")]
    Missing {
        /// What it lacks.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A right is missing.
    #[error(
        "no permission {doing} ({source}): driver xdp needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF, so run machnet as root, or once \
         `setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+ep PATH-OF-MACHNET`; driver packet needs CAP_NET_RAW only"
    )]
    Permission {
        /// What for.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The process may not lock the memory for frames.
    #[error(
        "no permission to lock {kilobytes} KiB for the frames of a queue ({source}); allow it with `ulimit -l unlimited` \
         (LimitMEMLOCK=infinity in a systemd unit) or the capability CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// How much a queue needs.
        kilobytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else's program is there.
    #[error(
        "{interface} runs an XDP program already{}; stop who put it there, or remove it with `ip link set dev {interface} xdp off \
         && ip link set dev {interface} xdpgeneric off`",
        program.map(|id| format!(" (number {id}: `bpftool prog show id {id}`)")).unwrap_or_default()
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The number of the program, where it is known.
        program: Option<u32>,
    },
    /// The program cannot be tied to the interface.
    #[error("{interface} does not take the XDP program in {} mode: {source}; {}", mode.name(), attach_hint(*mode, interface))]
    Attach {
        /// The interface.
        interface: String,
        /// In which mode it was tried last.
        mode: Mode,
        /// What the system said.
        source: io::Error,
    },
    /// Some queues would be left without an engine, or some engines without a queue.
    #[error(
        "{interface} spreads packets over {queues} receive queues and there are {engines} engines; it takes one for each: {}",
        queue_hint(interface, *queues, *engines, *combined)
    )]
    Queues {
        /// The interface.
        interface: String,
        /// How many it has.
        queues: u32,
        /// How many engines there are.
        engines: u32,
        /// Whether its queues both send and receive.
        combined: bool,
    },
    /// Another socket has the queue.
    #[error(
        "queue {queue} of {interface} is taken by another program's XDP socket; `ss --xdp --processes` shows whose, stop it or take \
         another interface"
    )]
    QueueBusy {
        /// The interface.
        interface: String,
        /// Which queue.
        queue: u32,
    },
    /// Zero-copy was demanded and is not there.
    #[error(
        "{interface} has no zero-copy XDP sockets ({source}); leave out zero_copy = \"on\", the kernel then copies each frame once"
    )]
    NoZeroCopy {
        /// The interface.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something else that the system refused.
    #[error("{doing}: {source}")]
    Io {
        /// The step that failed.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(error: &LockError) -> String {
    match error {
        LockError::Held { process: Some(process) } => {
            format!(" (process {process}); stop it, attach to it, or choose another port with --udp-port")
        }
        LockError::Held { process: None } => "; stop it, or choose another port with --udp-port".to_owned(),
        LockError::System(_) => String::new(),
    }
}

fn attach_hint(mode: Mode, interface: &str) -> String {
    match mode {
        Mode::Native => format!(
            "xdp_mode = \"generic\" (--xdp-mode generic) works with every interface; where the driver has native mode, the \
             usual reasons are an MTU above what it takes (`ip link set dev {interface} mtu 1500`) and too many queues \
             (`ethtool -l {interface}`)"
        ),
        Mode::Generic => "driver packet needs no XDP program".to_owned(),
    }
}

fn queue_hint(interface: &str, queues: u32, engines: u32, combined: bool) -> String {
    let set = if combined {
        format!("ethtool -L {interface} combined {engines}")
    } else {
        format!("ethtool -L {interface} rx {engines} tx {engines}")
    };
    format!("`{set}`, or --engines {queues}")
}

/// A failed step, as `doing` names it; missing rights have their own text.
pub(super) fn io_error(doing: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => OpenError::Permission { doing, source },
        _ => OpenError::Io { doing, source },
    }
}

impl OpenError {
    pub(super) fn of_channel(error: ChannelError, interface: &str, queue: u32, frame_bytes: usize) -> Self {
        let doing = "to open an XDP socket";
        match error {
            ChannelError::Socket(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::Permission { doing, source }
            }
            ChannelError::Socket(source) => {
                Self::Missing { what: "XDP sockets (CONFIG_XDP_SOCKETS)", source }
            }
            ChannelError::Memory(source)
                if matches!(source.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) =>
            {
                let kilobytes = 2 * super::channel::DESCRIPTORS as usize * frame_bytes / 1024;
                Self::LockedMemory { kilobytes, source }
            }
            ChannelError::Memory(source) => io_error("giving the kernel the frames of an XDP socket")(source),
            ChannelError::Bind(source) => match source.raw_os_error() {
                Some(libc::EBUSY) => Self::QueueBusy { interface: interface.to_owned(), queue },
                Some(libc::EOPNOTSUPP | libc::EINVAL) => {
                    Self::NoZeroCopy { interface: interface.to_owned(), source }
                }
                _ => io_error("binding an XDP socket to its queue")(source),
            },
            ChannelError::Setup(doing, source) => io_error(doing)(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_names_the_command_that_helps() {
        let refused = || io::Error::from_raw_os_error(libc::EPERM);
        let interface = || "eth0".to_owned();
        let texts = [
            (OpenError::NoInterface { interface: interface() }.to_string(), "`ip link`"),
            (
                io_error("to load the program")(refused()).to_string(),
                "setcap cap_net_raw,cap_net_admin,cap_bpf",
            ),
            (OpenError::LockedMemory { kilobytes: 1024, source: refused() }.to_string(), "ulimit -l"),
            (
                OpenError::Occupied { interface: interface(), program: Some(7) }.to_string(),
                "ip link set dev eth0 xdp off",
            ),
            (
                OpenError::Queues { interface: interface(), queues: 8, engines: 2, combined: true }
                    .to_string(),
                "`ethtool -L eth0 combined 2`, or --engines 8",
            ),
            (
                OpenError::Queues { interface: interface(), queues: 8, engines: 2, combined: false }
                    .to_string(),
                "`ethtool -L eth0 rx 2 tx 2`, or --engines 8",
            ),
            (
                OpenError::Attach { interface: interface(), mode: Mode::Native, source: refused() }
                    .to_string(),
                "--xdp-mode generic",
            ),
            (OpenError::QueueBusy { interface: interface(), queue: 3 }.to_string(), "ss --xdp --processes"),
            (OpenError::NoZeroCopy { interface: interface(), source: refused() }.to_string(), "zero_copy"),
        ];
        for (text, wanted) in texts {
            assert!(text.contains(wanted), "{text}");
        }
    }
}

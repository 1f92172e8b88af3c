//! What the queues of one interface have in common: the program, its map of sockets, and what ties it to the interface.

use super::attach::{self, AttachBy, Attachment, Mode};
use super::bpf::{Program, SocketMap};
use super::channel::{self, Channel, ChannelError};
use super::checksum::Half;
use super::error::{OpenError, io_error};
use super::netlink::{Link, Netlink};
use super::program::Match;
use super::sys;
use crate::config::{Choice, XdpMode};
use crate::driver::lock::AddressLock;
use socket2::{Domain, Socket, Type};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Something that the last holder of the interface gives free a little after it closed it is asked for so often...
const TRIES: u32 = 200;
/// ... with so long between: for a second in all.
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// In native mode, veth has its peer's kernel cut runs of datagrams; their checksums stay half done.
const KIND_CUT: &str = "veth";
/// A TAP gives what a virtual machine sends to native programs as to generic ones, uncut.
const KIND_UNCUT: &str = "tun";

/// What is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The interface's name.
    pub interface: String,
    /// Which frames are ours.
    pub frames: Match,
    /// Where the program runs.
    pub mode: XdpMode,
    /// Whether the network card reads and writes the frames itself.
    pub zero_copy: Choice,
    /// How many engines there are: one queue for each.
    pub queues: u32,
    /// What holds the program at the interface.
    pub attach_by: AttachBy,
}

/// Shared by the queues; none of them needs it for a frame.
#[derive(Debug)]
pub(super) struct Group {
    settings: Settings,
    map: SocketMap,
    program: Program,
    netlink: Netlink,
    /// Keeps other sidecars off the address.
    _lock: Option<AddressLock>,
    /// The interface's number, and the program at work on it.
    attached: Option<(u32, Attachment)>,
}

/// An interface, and what follows from what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    pub(super) link: Link,
    /// Bytes of a frame of the rings.
    pub(super) frame_bytes: usize,
    /// What a half checksum says.
    pub(super) half: Half,
}

impl Group {
    /// Loads the program; nothing is tied to the interface yet.
    pub(super) fn new(settings: Settings, lock: Option<AddressLock>) -> Result<Self, OpenError> {
        let map = SocketMap::new(settings.queues).map_err(|source| match source.raw_os_error() {
            Some(libc::ENOSYS) => OpenError::Missing { what: "bpf(2) (CONFIG_BPF_SYSCALL)", source },
            Some(libc::EINVAL) => {
                OpenError::Missing { what: "map of XDP sockets (CONFIG_XDP_SOCKETS)", source }
            }
            _ => io_error("to make a BPF map")(source),
        })?;
        let program = Program::load(&settings.frames, &map).map_err(io_error("to load an XDP program"))?;
        let netlink = Netlink::open().map_err(io_error("opening a netlink socket"))?;
        Ok(Self { settings, map, program, netlink, _lock: lock, attached: None })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where the program runs now.
    pub(super) fn mode(&self) -> Option<Mode> {
        self.attached.as_ref().map(|(_, attachment)| attachment.mode())
    }

    /// Asks for the interface as it is now and ties the program to it, if it is not yet. With `patience`, waits up to a second
    /// for what a predecessor gives free late.
    pub(super) fn attach(&mut self, patience: bool) -> Result<Facts, OpenError> {
        let name = &self.settings.interface;
        let link = self.netlink.link_by_name(name).map_err(io_error("asking for the interface"))?;
        let link = link.ok_or_else(|| OpenError::NoInterface { interface: name.clone() })?;
        let any = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(io_error("opening a socket"))?;
        check_queues(&self.settings, &link, sys::channels(&any, name).ok())?;
        if self.attached.as_ref().is_none_or(|(index, _)| *index != link.index) {
            // What was tied to the interface of that name before is gone with it.
            self.attached = None;
            self.attached = Some((link.index, self.tie(link.index, patience)?));
        }
        let half = match (self.mode(), link.kind.as_str()) {
            (Some(Mode::Generic), _) | (_, KIND_UNCUT) => Half::Refused,
            (_, KIND_CUT) => Half::Vouches,
            _ => Half::ByChance,
        };
        Ok(Facts { frame_bytes: channel::frame_bytes(link.mtu), half, link })
    }

    fn tie(&mut self, index: u32, patience: bool) -> Result<Attachment, OpenError> {
        let result = tries(patience, attach::is_occupied, || {
            Attachment::new(&self.program, index, self.settings.mode, self.settings.attach_by)
        });
        result.map_err(|source| {
            let interface = self.settings.interface.clone();
            if attach::is_occupied(&source) {
                let link = self.netlink.link_by_index(index).ok().flatten();
                return OpenError::Occupied { interface, program: link.and_then(|link| link.xdp_program) };
            }
            if source.kind() == io::ErrorKind::PermissionDenied {
                return OpenError::Permission { doing: "to tie an XDP program to the interface", source };
            }
            let mode = if self.settings.mode == XdpMode::Native { Mode::Native } else { Mode::Generic };
            OpenError::Attach { interface, mode, source }
        })
    }

    /// Opens the socket of a queue of the interface that [`Self::attach`] found.
    pub(super) fn open_channel(
        &self,
        facts: &Facts,
        queue: u32,
        patience: bool,
    ) -> Result<Channel, OpenError> {
        // The driver would be set up for sockets that a program behind it feeds.
        let zero_copy = match (self.mode(), self.settings.zero_copy) {
            (Some(Mode::Generic), Choice::Auto) => Choice::Off,
            (_, chosen) => chosen,
        };
        let is_busy = |error: &ChannelError| matches!(error, ChannelError::Bind(source) if source.raw_os_error() == Some(libc::EBUSY));
        let channel =
            tries(patience, is_busy, || Channel::open(facts.link.index, queue, facts.frame_bytes, zero_copy));
        let interface = &self.settings.interface;
        channel.map_err(|error| OpenError::of_channel(error, interface, queue, facts.frame_bytes))
    }

    /// From now on, frames of that queue that are ours go to the socket.
    pub(super) fn direct(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), OpenError> {
        self.map.set(queue, socket).map_err(io_error("putting an XDP socket into the program's map"))
    }
}

/// Does it, and again for a second while it fails for a reason that may pass.
pub(super) fn tries<T, E>(
    patience: bool,
    may_pass: impl Fn(&E) -> bool,
    mut what: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    for _ in 1..if patience { TRIES } else { 1 } {
        match what() {
            Err(error) if may_pass(&error) => std::thread::sleep(BETWEEN_TRIES),
            done => return done,
        }
    }
    what()
}

/// Each receive queue needs an engine: what comes by one without would never reach us. And each engine needs a queue.
fn check_queues(settings: &Settings, link: &Link, channels: Option<sys::Channels>) -> Result<(), OpenError> {
    let (rx, tx, combined) = match channels {
        Some(channels) => {
            (channels.rx + channels.combined, channels.tx + channels.combined, channels.combined > 0)
        }
        // A driver that does not say has what it was made with.
        None => (link.rx_queues, link.tx_queues, true),
    };
    let engines = settings.queues;
    if rx == engines && tx >= engines {
        return Ok(());
    }
    Err(OpenError::Queues { interface: settings.interface.clone(), queues: rx, engines, combined })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::PortRange;

    #[test]
    fn every_receive_queue_needs_an_engine_and_every_engine_a_queue() {
        let settings = |queues| Settings {
            interface: "eth0".to_owned(),
            frames: Match { address: None, ports: PortRange::only(1), vlan: None },
            mode: XdpMode::Auto,
            zero_copy: Choice::Auto,
            queues,
            attach_by: AttachBy::default(),
        };
        let link = Link { rx_queues: 64, tx_queues: 64, ..Link::default() };
        let check = |engines, rx, tx, combined| {
            check_queues(&settings(engines), &link, Some(sys::Channels { rx, tx, combined })).is_ok()
        };
        assert!(check(4, 0, 0, 4) && check(4, 4, 4, 0) && check(1, 1, 8, 0) && check(3, 1, 1, 2));
        assert!(!check(4, 0, 0, 8) && !check(4, 0, 0, 2) && !check(4, 4, 1, 0));
        assert!(
            check_queues(&settings(64), &link, None).is_ok()
                && check_queues(&settings(1), &link, None).is_err()
        );
    }

    #[test]
    fn what_may_pass_is_tried_for_a_while_and_what_may_not_once() {
        let mut calls = 0;
        let mut fails = |until: u32| {
            calls = 0;
            let result = tries(
                true,
                |code: &u32| *code == 16,
                || {
                    calls += 1;
                    if calls < until { Err(if until == 99 { 1 } else { 16 }) } else { Ok(()) }
                },
            );
            (result, calls)
        };
        assert_eq!(fails(3), (Ok(()), 3));
        assert_eq!(fails(99), (Err(1), 1));
        let mut calls = 0;
        let result = tries(
            false,
            |_: &u32| true,
            || {
                calls += 1;
                Err::<(), _>(16)
            },
        );
        assert_eq!((result, calls), (Err(16), 1));
    }
}

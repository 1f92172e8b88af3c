//! Ties the program to an interface: by a link that goes with the process, or by netlink on kernels before 5.9.

use super::bpf::Program;
use super::netlink::Netlink;
use crate::config::XdpMode;
use std::io;
use std::os::fd::OwnedFd;

/// Fail if a program is there already.
const IF_NONE: u32 = 1 << 0;
/// Behind the kernel's socket buffer: works everywhere, is slower.
const GENERIC: u32 = 1 << 1;
/// In the driver, before a socket buffer is made.
const NATIVE: u32 = 1 << 2;

/// Where the program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In the network card's driver.
    Native,
    /// In the kernel's common receive path.
    Generic,
}

impl Mode {
    /// The word for it in settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flag(self) -> u32 {
        match self {
            Self::Native => NATIVE,
            Self::Generic => GENERIC,
        }
    }
}

/// How a program is tied to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachBy {
    /// By a link, which goes with the process however that ends; by netlink where the kernel has none.
    #[default]
    LinkIfPossible,
    /// By netlink, as before Linux 5.9: a process that is killed leaves its program there.
    Netlink,
}

/// A program at work on an interface. Dropping it takes the program away.
#[derive(Debug)]
pub(super) struct Attachment {
    mode: Mode,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// Only held: the kernel ends the link with its last descriptor.
    Link { _descriptor: OwnedFd },
    /// Has to be taken away by who put it there; `kill -9` leaves it.
    Netlink { netlink: Netlink, index: u32 },
}

impl Attachment {
    /// Ties `program` to the interface with that number, in the first mode of what was chosen that works.
    pub(super) fn new(program: &Program, index: u32, wanted: XdpMode, by: AttachBy) -> io::Result<Self> {
        match wanted {
            XdpMode::Native => Self::in_mode(program, index, Mode::Native, by),
            XdpMode::Generic => Self::in_mode(program, index, Mode::Generic, by),
            XdpMode::Auto => Self::in_mode(program, index, Mode::Native, by).or_else(|native| {
                if is_occupied(&native) || native.kind() == io::ErrorKind::PermissionDenied {
                    return Err(native);
                }
                let attachment = Self::in_mode(program, index, Mode::Generic, by)?;
                tracing::warn!("the interface's driver does not run XDP programs ({native}): generic mode, which is slower");
                Ok(attachment)
            }),
        }
    }

    fn in_mode(program: &Program, index: u32, mode: Mode, by: AttachBy) -> io::Result<Self> {
        if by == AttachBy::LinkIfPossible {
            match program.link(index, mode.flag()) {
                Ok(descriptor) => return Ok(Self { mode, held: Held::Link { _descriptor: descriptor } }),
                // An older kernel does not know the command, or not for XDP. A driver that refuses says the same: then
                // netlink is refused as well.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        let mut netlink = Netlink::open()?;
        netlink.set_xdp(index, program.descriptor(), mode.flag() | IF_NONE)?;
        Ok(Self { mode, held: Held::Netlink { netlink, index } })
    }

    /// Where the program runs.
    pub(super) fn mode(&self) -> Mode {
        self.mode
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let flag = self.mode.flag();
        if let Held::Netlink { netlink, index } = &mut self.held {
            // An interface that is gone took the program with it.
            let _: io::Result<()> = netlink.set_xdp(*index, -1, flag);
        }
    }
}

/// Whether the interface has an XDP program of somebody else's: in the same mode, or in another one.
pub(super) fn is_occupied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

//! AF_XDP: frames by rings that the kernel shares, taken from the interface before the kernel's network stack sees them.
//!
//! A small program (`program`) runs for each frame that the interface receives. UDP datagrams for our address and ports go to
//! the socket of the queue that they came by; everything else goes on to the kernel. So SSH and ARP live on on the same
//! interface. Each queue has a socket of its own with four rings and its frames (`ring`, `channel`). Where the card's driver
//! can, it reads and writes the frames itself (zero-copy); else the kernel copies each once.
//!
//! The system calls are made here rather than by libbpf or a crate: what is needed is one map, one program of forty
//! instructions, one link and seven socket options. The loaders (libbpf, aya) bring a compiler's object format and its relocations for
//! what takes a page here; the crates for the sockets alone bind libxdp, which needs a C tool chain, or leave the checks of what the kernel
//! writes into the rings to their users.

mod arp;
mod attach;
mod bpf;
mod channel;
mod checksum;
mod error;
mod group;
mod netlink;
mod open;
mod program;
mod queue;
mod ring;
mod sys;

pub use self::attach::{AttachBy, Mode};
pub use self::error::OpenError;
pub use self::group::Settings;
pub use self::open::open;
pub use self::program::Match;
pub use self::queue::XdpQueue;

use self::group::Group;
use super::lock::AddressLock;

/// Opens the queues 0 to `settings.queues` - 1 of an interface of this thread's network namespace, which must be all that it has.
/// Waits up to a second for what a predecessor that just ended still holds.
pub fn open_queues(settings: Settings) -> Result<Vec<XdpQueue>, OpenError> {
    open_locked(settings, None)
}

/// As [`open_queues`], with the lock of the address that the queues hold.
fn open_locked(settings: Settings, lock: Option<AddressLock>) -> Result<Vec<XdpQueue>, OpenError> {
    queue::open(Group::new(settings, lock)?)
}

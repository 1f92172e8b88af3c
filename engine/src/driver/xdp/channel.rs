//! One XDP socket with its four rings and its frames.
//!
//! Half of the frames circulate between the fill ring and the RX ring, half between us and the TX ring, so neither direction can
//! take the other's.

use super::ring::{Broken, Consumer, Descriptor, Frames, Producer};
use super::sys;
use crate::config::Choice;
use crate::driver::sys::set_option;
use socket2::{Domain, Socket, Type};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Entries of each ring, and frames for each direction: what the LCD NIC has (paper, section 3.1).
pub(super) const DESCRIPTORS: u32 = 256;

/// Entries of the fill ring. The kernel shows a frame in the RX ring before it shows that its entry of the fill ring is free again
/// (`xsk_flush`), so whoever looks in between gives back a frame for which a ring of as many entries as frames has no room.
const FILL_ENTRIES: u32 = 2 * DESCRIPTORS;

/// Bytes that the kernel keeps free before each received frame, for XDP programs that put something there.
const HEADROOM: usize = 256;
/// Bytes that some drivers keep free behind it.
const TAILROOM: usize = 320;
/// An Ethernet header with a VLAN tag.
pub(super) const ETHERNET_BYTES: usize = 18;
/// The largest MTU of which a frame fits into one page, as the kernel wants it: what drivers in native mode take, too.
pub(super) const LARGEST_MTU: usize = 4096 - HEADROOM - TAILROOM - ETHERNET_BYTES;

/// Bytes that may wait in the socket in copy mode: all descriptors with the kernel's bookkeeping, so that none is refused for that.
const SEND_BUFFER_BYTES: libc::c_int = 2 << 20;
/// `XDP_MAX_TX_SKB_BUDGET` (Linux 6.17): frames that one system call sends in copy mode; 32 where it cannot be set.
const MAX_SEND_BUDGET: libc::c_int = 9;
/// A frame goes on in the next descriptor.
const CONTINUES: u32 = libc::XDP_PKT_CONTD;

/// Bytes that a frame of the rings needs for packets of `mtu` bytes.
pub(super) fn frame_bytes(mtu: usize) -> usize {
    if mtu + ETHERNET_BYTES + HEADROOM <= 2048 { 2048 } else { 4096 }
}

/// Why a queue has no socket.
#[derive(Debug)]
pub(super) enum ChannelError {
    /// XDP sockets need a right, or the kernel has none.
    Socket(io::Error),
    /// The frames' memory was refused: too much is locked.
    Memory(io::Error),
    /// The queue was refused: busy, or there is no such queue, or it cannot do without copies.
    Bind(io::Error),
    /// A step that should not fail.
    Setup(&'static str, io::Error),
}

/// What a flush brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Flushed {
    /// Frames that the kernel took and has sent or will send.
    pub(super) sent: u64,
    /// Frames that it took and dropped because the interface's queue was full.
    pub(super) dropped: u64,
    /// System calls.
    pub(super) calls: u64,
    /// The interface is set down: nothing leaves.
    pub(super) is_down: bool,
}

/// A bound XDP socket.
#[derive(Debug)]
pub(super) struct Channel {
    rx: Consumer<Descriptor>,
    tx: Producer<Descriptor>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    frames: Frames,
    /// Frames for sending that are ours.
    free: Vec<u32>,
    /// Frames in the TX ring that the kernel had not taken at the last flush.
    unsent: u32,
    /// Whether the frame in the RX ring is a piece of one that is dropped.
    in_pieces: bool,
    socket: Socket,
    is_zero_copy: bool,
}

/// What became of the frames that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Received {
    /// Frames handed over.
    pub(super) handed: usize,
    /// Frames that came in pieces and were dropped.
    pub(super) in_pieces: u64,
    /// System calls.
    pub(super) calls: u64,
}

impl Channel {
    /// A socket with all its frames for receiving in the fill ring, bound to one queue of an interface.
    pub(super) fn open(
        interface: u32,
        queue: u32,
        frame_bytes: usize,
        zero_copy: Choice,
    ) -> Result<Self, ChannelError> {
        let setup = |what| move |error| ChannelError::Setup(what, error);
        let socket =
            Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).map_err(ChannelError::Socket)?;
        let mut frames =
            Frames::new(2 * DESCRIPTORS, frame_bytes).map_err(setup("making room for frames"))?;
        let bytes = u32::try_from(frame_bytes).expect("a page at most");
        sys::register_frames(&socket, frames.region(), bytes).map_err(ChannelError::Memory)?;
        let size = DESCRIPTORS.cast_signed();
        for (ring, entries) in [
            (libc::XDP_RX_RING, size),
            (libc::XDP_TX_RING, size),
            (libc::XDP_UMEM_FILL_RING, FILL_ENTRIES.cast_signed()),
            (libc::XDP_UMEM_COMPLETION_RING, size),
        ] {
            set_option(socket.as_fd(), sys::SOL_XDP, ring, entries).map_err(setup("sizing a ring"))?;
        }
        let [rx, tx, fill, completion] =
            sys::ring_offsets(&socket).map_err(setup("asking for the rings' layout"))?;
        let map = setup("mapping a ring");
        let page = |offset: u64| libc::off_t::try_from(offset).expect("a page offset of 33 bits");
        let fd = socket.as_fd();
        let rx = Consumer::map(fd, libc::XDP_PGOFF_RX_RING, &rx, DESCRIPTORS).map_err(map)?;
        let tx = Producer::map(fd, libc::XDP_PGOFF_TX_RING, &tx, DESCRIPTORS).map_err(map)?;
        let offset = page(libc::XDP_UMEM_PGOFF_FILL_RING);
        let mut fill = Producer::map(fd, offset, &fill, FILL_ENTRIES).map_err(map)?;
        let offset = page(libc::XDP_UMEM_PGOFF_COMPLETION_RING);
        let completion = Consumer::map(fd, offset, &completion, DESCRIPTORS).map_err(map)?;

        for frame in 0..DESCRIPTORS {
            let pushed = fill.push(frames.lend(frame));
            assert_eq!(pushed, Ok(true), "a fresh ring has room for all frames");
        }
        fill.publish();
        // Refused without CAP_NET_ADMIN and by older kernels: then some frames leave a call later.
        let _: io::Result<()> = set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES);
        let _: io::Result<()> = set_option(fd, sys::SOL_XDP, MAX_SEND_BUDGET, size);
        let copies = match zero_copy {
            Choice::Auto => 0,
            Choice::On => libc::XDP_ZEROCOPY,
            Choice::Off => libc::XDP_COPY,
        };
        sys::bind_to_queue(&socket, interface, queue, copies | libc::XDP_USE_NEED_WAKEUP)
            .map_err(ChannelError::Bind)?;
        let is_zero_copy = sys::is_zero_copy(&socket).map_err(setup("asking how the socket works"))?;
        let free = (DESCRIPTORS..2 * DESCRIPTORS).rev().collect();
        Ok(Self { rx, tx, fill, completion, frames, free, unsent: 0, in_pieces: false, socket, is_zero_copy })
    }

    /// The socket: readable while frames wait.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the network card reads and writes the frames itself.
    pub(super) fn is_zero_copy(&self) -> bool {
        self.is_zero_copy
    }

    /// What the kernel counted.
    pub(super) fn statistics(&self) -> io::Result<sys::SocketStatistics> {
        sys::statistics(&self.socket)
    }

    /// Hands up to `most` waiting frames to `each`.
    #[inline]
    pub(super) fn receive(&mut self, most: usize, mut each: impl FnMut(&[u8])) -> Result<Received, Broken> {
        let mut received = Received::default();
        let mut taken = 0;
        while received.handed < most && taken < DESCRIPTORS {
            let Some(descriptor) = self.rx.pop()? else { break };
            taken += 1;
            let (frame, offset) = self.frames.take_back(descriptor.address)?;
            let continues = descriptor.options & CONTINUES != 0;
            if continues || self.in_pieces {
                received.in_pieces += u64::from(!continues);
                self.in_pieces = continues;
            } else {
                let bytes = self.frames.bytes(frame, offset, descriptor.bytes as usize);
                each(bytes.ok_or(Broken::BEYOND_ITS_FRAME)?);
                received.handed += 1;
            }
            if frame >= DESCRIPTORS || !self.fill.push(self.frames.lend(frame))? {
                return Err(Broken::NOT_ITS_RING);
            }
        }
        if taken > 0 {
            self.rx.release();
            self.fill.publish();
        }
        if self.fill.needs_wakeup() {
            received.calls += 1;
            // Nothing is read: the call makes the driver look at the fill ring.
            let _: io::Result<usize> = self.socket.recv_with_flags(&mut [], libc::MSG_DONTWAIT);
        }
        Ok(received)
    }

    /// A frame to be filled; none if the kernel has them all.
    #[inline]
    pub(super) fn take_free(&mut self) -> Result<Option<u32>, Broken> {
        if self.free.is_empty() {
            self.reap()?;
        }
        Ok(self.free.pop())
    }

    /// Gives back a frame that is not sent after all.
    pub(super) fn put_back(&mut self, frame: u32) {
        self.free.push(frame);
    }

    /// The first `len` bytes of a frame that was taken.
    #[inline]
    pub(super) fn room(&mut self, frame: u32, len: usize) -> &mut [u8] {
        self.frames.bytes_mut(frame, len).expect("a frame has room for the MTU")
    }

    /// Queues the first `len` bytes of a frame that was taken.
    #[inline]
    pub(super) fn queue(&mut self, frame: u32, len: usize) -> Result<(), Broken> {
        let address = self.frames.lend(frame);
        let bytes = u32::try_from(len).expect("a frame has a page at most");
        // There are as many frames as entries.
        if self.tx.push(Descriptor { address, bytes, options: 0 })? {
            self.unsent += 1;
            Ok(())
        } else {
            Err(Broken::NOT_ITS_RING)
        }
    }

    /// Gives the kernel all that is queued. An error means that the socket leads nowhere any more.
    pub(super) fn flush(&mut self) -> io::Result<Flushed> {
        let mut flushed = Flushed::default();
        if self.unsent > 0 {
            self.tx.publish();
            self.call_while_it_helps(&mut flushed)?;
            self.reap()?;
        }
        Ok(flushed)
    }

    /// In copy mode the kernel sends while it is called, up to its budget; without copies the call only wakes the driver.
    fn call_while_it_helps(&mut self, flushed: &mut Flushed) -> io::Result<()> {
        // Each call but the last takes at least one frame off the ring.
        while self.unsent > 0 && self.tx.needs_wakeup() {
            flushed.calls += 1;
            let result = self.socket.send_with_flags(&[], libc::MSG_DONTWAIT);
            let left = self.tx.waiting()?;
            let taken = u64::from(self.unsent - left);
            self.unsent = left;
            flushed.sent += taken;
            match result.as_ref().map_err(io::Error::raw_os_error) {
                Ok(_) | Err(Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR)) => {}
                Err(Some(libc::EBUSY)) => {
                    // The last one that was taken was dropped.
                    let dropped = taken.min(1);
                    flushed.sent -= dropped;
                    flushed.dropped += dropped;
                }
                Err(Some(libc::ENETDOWN)) => flushed.is_down = true,
                Err(_) => return result.map(drop),
            }
            if taken == 0 {
                return Ok(());
            }
        }
        let left = self.tx.waiting()?;
        flushed.sent += u64::from(self.unsent - left);
        self.unsent = left;
        Ok(())
    }

    /// Takes back the frames that were sent.
    fn reap(&mut self) -> Result<(), Broken> {
        let mut any = false;
        while let Some(address) = self.completion.pop()? {
            any = true;
            let (frame, _) = self.frames.take_back(address)?;
            if frame < DESCRIPTORS {
                return Err(Broken::NOT_ITS_RING);
            }
            self.free.push(frame);
        }
        if any {
            self.completion.release();
        }
        Ok(())
    }

    /// Whether frames wait that only another flush sends.
    pub(super) fn is_pending(&self) -> bool {
        self.unsent > 0 && self.tx.needs_wakeup()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_room_for_the_headroom_the_ethernet_header_and_the_packet() {
        assert_eq!([1_280, 1_500, 1_774].map(frame_bytes), [2048; 3]);
        assert_eq!([1_775, LARGEST_MTU].map(frame_bytes), [4096; 2]);
        assert_eq!(LARGEST_MTU, 3_502);
    }
}

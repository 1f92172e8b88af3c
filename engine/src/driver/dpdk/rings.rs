//! The rings of one queue pair: bursts of frames in DPDK's buffers.
//!
//! Buffers to be sent are taken in dozens and lie in one list: first those that are filled, then those that are still empty. One burst
//! receives and one sends per cycle of the engine.
#![expect(unsafe_code, reason = "frames lie in DPDK's buffers, which only pointers name")]

use super::plugin::{OpaqueQueue, RawFrame, RawPort, Table};
use crate::driver::RECEIVE_BURST;
use std::cell::Cell;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Most frames that are staged to be sent.
const STAGE: usize = 256;
/// Empty buffers that are taken at a time.
const TAKEN_AT_A_TIME: usize = 32;
/// Ethernet's shortest frame without its check sequence; most cards pad shorter ones, some refuse them.
const SHORTEST_FRAME: usize = 60;

/// What a received frame is said to be.
pub(super) mod received {
    pub(in super::super) const CHECKSUM_GOOD: u32 = 1 << 0;
    pub(in super::super) const CHECKSUM_WRONG: u32 = 1 << 1;
    pub(in super::super) const IN_PIECES: u32 = 1 << 2;
}
const COMPLETE_UDP: u32 = 1 << 3;
const UDP_AT_SHIFT: u32 = 16;

/// A number of frames or bytes, which is small, for C.
fn number(small: usize) -> u32 {
    u32::try_from(small).expect("bursts and frames are small")
}

/// What became of a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sent {
    pub(super) taken: usize,
    pub(super) refused: usize,
}

/// One receive and one transmit ring.
#[derive(Debug)]
pub(super) struct Rings {
    table: &'static Table,
    queue: NonNull<OpaqueQueue>,
    /// Frames that arrived and were not handed over yet.
    arrived: [RawFrame; RECEIVE_BURST],
    arrived_count: usize,
    /// Filled ones, then empty ones.
    staged: [RawFrame; STAGE],
    filled: usize,
    taken: usize,
    /// Whether the first empty one is lent.
    is_lent: bool,
    /// Bytes that a buffer has room for.
    buffer_bytes: usize,
    /// Keeps the queue alive; last, so that it goes last.
    port: Arc<RawPort>,
}

// SAFETY: a queue belongs to whoever has its `Rings`; DPDK does not bind it to a thread.
unsafe impl Send for Rings {}

/// The calling thread is one of DPDK's while this lives.
struct Registered {
    table: &'static Table,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: this thread registered itself.
        unsafe { (self.table.thread_ends)() };
    }
}

thread_local! {
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
    static REGISTERED: Cell<Option<Registered>> = const { Cell::new(None) };
}

/// Tells DPDK of this thread, until it ends: threads that DPDK does not know have no buffers at hand, and pay a lock for each.
#[cold]
fn register(table: &'static Table) {
    // SAFETY: DPDK runs, since there is a queue.
    let code = unsafe { (table.thread_begins)() };
    if code < 0 {
        let error = io::Error::from_raw_os_error(-code);
        tracing::warn!("DPDK does not take an engine's thread ({error}): every buffer costs it a lock");
    } else {
        REGISTERED.set(Some(Registered { table }));
    }
    IS_REGISTERED.set(true);
}

impl Rings {
    /// The rings of queue `number`; `None` if there is none. Buffers have room for frames of `buffer_bytes`.
    pub(super) fn of(port: &Arc<RawPort>, number: u16, buffer_bytes: u32) -> Option<Self> {
        Some(Self {
            table: port.table,
            queue: port.queue(number)?,
            arrived: [RawFrame::NONE; RECEIVE_BURST],
            arrived_count: 0,
            staged: [RawFrame::NONE; STAGE],
            filled: 0,
            taken: 0,
            is_lent: false,
            buffer_bytes: buffer_bytes as usize,
            port: Arc::clone(port),
        })
    }

    pub(super) fn port(&self) -> &RawPort {
        &self.port
    }

    fn be_known(&self) {
        if !IS_REGISTERED.get() {
            register(self.table);
        }
    }

    /// Looks whether something arrived, and keeps it for [`Self::receive`].
    pub(super) fn look(&mut self) -> usize {
        if self.arrived_count == 0 {
            self.be_known();
            // SAFETY: our queue, and room for so many frames.
            let count = unsafe {
                (self.table.receive)(self.queue.as_ptr(), self.arrived.as_mut_ptr(), number(RECEIVE_BURST))
            };
            self.arrived_count = (count as usize).min(RECEIVE_BURST);
        }
        self.arrived_count
    }

    /// Hands what arrived to `each`, with its flags, and returns how many.
    pub(super) fn receive(&mut self, mut each: impl FnMut(&[u8], u32)) -> usize {
        /// Buffers go back even if `each` panics.
        struct GiveBack<'a>(&'a mut Rings);
        impl Drop for GiveBack<'_> {
            fn drop(&mut self) {
                let Rings { table, queue, arrived, arrived_count, .. } = self.0;
                // SAFETY: so many frames that this queue received and that nobody looks at any more.
                unsafe { (table.give_back)(queue.as_ptr(), arrived.as_ptr(), number(*arrived_count)) };
                *arrived_count = 0;
            }
        }
        let count = self.look();
        if count > 0 {
            let all = GiveBack(self);
            for frame in &all.0.arrived[..count] {
                // SAFETY: the plugin gave a frame of so many bytes, which is ours until it is given back.
                let bytes = unsafe { std::slice::from_raw_parts(frame.bytes, frame.length as usize) };
                each(bytes, frame.flags);
            }
        }
        count
    }

    /// Room for a frame of `len` bytes; `None`: no buffer is left, or enough are staged.
    pub(super) fn lend(&mut self, len: usize) -> Option<&mut [u8]> {
        assert!(len <= self.buffer_bytes, "{len} bytes are more than the interface takes");
        if self.filled == self.taken && !self.take_buffers() {
            return None;
        }
        self.is_lent = true;
        let frame = &self.staged[self.filled];
        // SAFETY: an empty buffer of ours, of `buffer_bytes` at least: `take_buffers` looked. Its bytes were written by somebody once;
        // as plain bytes they are arbitrary, and valid.
        Some(unsafe { std::slice::from_raw_parts_mut(frame.bytes, len) })
    }

    /// The first bytes of the frame that is lent, as they were written.
    pub(super) fn lent(&mut self, len: usize) -> &mut [u8] {
        assert!(self.is_lent && len <= self.buffer_bytes, "a frame is lent, and is so long");
        let frame = &self.staged[self.filled];
        // SAFETY: as in `lend`.
        unsafe { std::slice::from_raw_parts_mut(frame.bytes, len) }
    }

    /// Whether there is one buffer at least.
    fn take_buffers(&mut self) -> bool {
        let wanted = TAKEN_AT_A_TIME.min(STAGE - self.taken);
        if wanted == 0 {
            return false;
        }
        self.be_known();
        let room = &mut self.staged[self.taken..self.taken + wanted];
        // SAFETY: our queue, and room for so many frames.
        let count = unsafe { (self.table.lend)(self.queue.as_ptr(), room.as_mut_ptr(), number(wanted)) };
        for frame in &room[..count as usize] {
            assert!(
                frame.length as usize >= self.buffer_bytes,
                "the plugin's buffers are as large as planned"
            );
        }
        self.taken += count as usize;
        count > 0
    }

    /// Stages the frame that was lent; `udp_at`: the card completes the checksum of the UDP header there.
    pub(super) fn commit(&mut self, len: usize, udp_at: Option<u16>) {
        assert!(std::mem::take(&mut self.is_lent), "commit follows lend");
        assert!(len <= self.buffer_bytes, "a frame fits its buffer");
        let frame = &mut self.staged[self.filled];
        if len < SHORTEST_FRAME {
            // SAFETY: a buffer of ours that has room for more than the shortest frame.
            unsafe { frame.bytes.add(len).write_bytes(0, SHORTEST_FRAME - len) };
        }
        frame.length = number(len.max(SHORTEST_FRAME));
        frame.flags = udp_at.map_or(0, |at| COMPLETE_UDP | u32::from(at) << UDP_AT_SHIFT);
        self.filled += 1;
    }

    /// Staged frames.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Sends what is staged, as far as the ring has room.
    pub(super) fn send(&mut self) -> Sent {
        if self.filled == 0 {
            return Sent::default();
        }
        self.is_lent = false;
        self.be_known();
        let mut refused = 0;
        // SAFETY: so many filled frames of ours; those that it answers are the card's from then on.
        let taken = unsafe {
            (self.table.send)(
                self.queue.as_ptr(),
                self.staged.as_ptr(),
                number(self.filled),
                &raw mut refused,
            )
        };
        let taken = (taken as usize).min(self.filled);
        self.forget_first(taken);
        Sent { taken: taken - refused as usize, refused: refused as usize }
    }

    /// The first frames of the list belong to somebody else now. Empty buffers look all alike, so the last ones fill the gap.
    fn forget_first(&mut self, count: usize) {
        let left = self.filled - count;
        if left > 0 {
            self.staged.copy_within(count..self.taken, 0);
        } else {
            let moved = (self.taken - self.filled).min(count);
            self.staged.copy_within(self.taken - moved..self.taken, 0);
        }
        self.filled = left;
        self.taken -= count;
    }

    /// Drops what is staged; answers how many frames.
    pub(super) fn drop_staged(&mut self) -> usize {
        let dropped = self.filled;
        // SAFETY: so many frames of ours, which nobody looks at any more.
        unsafe { (self.table.give_back)(self.queue.as_ptr(), self.staged.as_ptr(), number(dropped)) };
        self.forget_first(dropped);
        self.is_lent = false;
        dropped
    }

    /// The descriptor that the receive interrupt makes readable.
    pub(super) fn receive_fd(&self) -> Option<RawFd> {
        // SAFETY: our queue.
        let fd = unsafe { (self.table.receive_fd)(self.queue.as_ptr()) };
        (fd >= 0).then_some(fd)
    }

    /// `fd` is that of [`Self::receive_fd`].
    pub(super) fn borrow(&self, fd: RawFd) -> BorrowedFd<'_> {
        // SAFETY: DPDK keeps the descriptor open as long as the port, which `self` keeps alive.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Takes away that the descriptor is readable.
    pub(super) fn drain(&self, fd: RawFd) {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut count = 0_u64;
        // SAFETY: one pollfd that outlives the call.
        if unsafe { libc::poll(&raw mut poll, 1, 0) } == 1 && poll.revents & libc::POLLIN != 0 {
            // SAFETY: eight bytes of room, which is what an eventfd writes. Whatever is answered, the descriptor was asked.
            let _: isize = unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) };
        }
    }

    /// From now on, what arrives makes the descriptor readable; or no more.
    pub(super) fn wake_on_receive(&mut self, on: bool) -> io::Result<()> {
        // SAFETY: our queue.
        let code = unsafe { (self.table.wake_on_receive)(self.queue.as_ptr(), i32::from(on)) };
        if code < 0 { Err(io::Error::from_raw_os_error(-code)) } else { Ok(()) }
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        for (frames, count) in [(&self.arrived[..], self.arrived_count), (&self.staged[..], self.taken)] {
            // SAFETY: so many frames that are ours.
            unsafe { (self.table.give_back)(self.queue.as_ptr(), frames.as_ptr(), number(count)) };
        }
    }
}

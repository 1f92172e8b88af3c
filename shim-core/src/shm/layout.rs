//! THE layout of a channel: what lies where in its two memory regions. Nothing else in the repository knows an offset.
//!
//! A channel is two memfds, one per writer. Each side maps its own region read-write and the other's read-only.
//!
//! ```text
//!  application's region (the engine reads)        engine's region (the application reads)
//!  +0     header: magic, version                  +0     header: magic, version
//!  +128   ARMED   wake me for these reasons       +128   ARMED   wake me when you published
//!  +256   RUNG    I rang the engine for epoch     +256   RUNG    I rang you for epoch
//!  +384   HEAD of the receive ring                +384   HEAD of the send ring
//!  +512   HEAD of the send-done ring              +512   HEAD of the receive-done ring
//!  +4096  send ring         (message slots)       +4096  receive ring    (message slots)
//!  ...    receive-done ring (done slots)          ...    send-done ring  (done slots)
//!  ...    TX buffers, page aligned                ...    RX buffers, page aligned
//! ```
//!
//! Every control word has 128 bytes to itself, because the processor fetches cache lines in pairs.
//!
//! ```text
//!  message slot, 128 bytes, aligned: 16 words of 64 bits, little endian
//!  word 0   | sequence u32 | kind u8 | count u8 | inline length u16 |   stored last, with Release
//!  word 1   | flow u32     | argument u32 |                             the message's length in bytes
//!  word 2.. | 112 bytes: the message itself, or up to 27 extents of buffers, | first u16 | count u16 | each,
//!           and in the last 32 bits the token by which a received message's buffers are given back
//!
//!  done slot, 16 bytes: 2 words
//!  word 0   | sequence u32 | kind u8 | 0 u8 | count u16 |
//!  word 1   | flow u32     | argument u32 |
//! ```
//!
//! The sequence number of position `p` (counted from 0, wrapping at 2^32) is `p + 1`; the memory starts as zeros.

/// First word of each region: "MACHNET1".
pub const MAGIC: u64 = u64::from_le_bytes(*b"MACHNET1");

/// Version of this layout. A sidecar speaks its own and the previous one.
pub const VERSION: u32 = 1;

/// Bytes between two control words.
pub const LINE_BYTES: usize = 128;
/// 64-bit words of a message slot.
pub const SLOT_WORDS: usize = 16;
/// 64-bit words of a done slot.
pub const DONE_WORDS: usize = 2;
/// Bytes of a message that fit into the slot itself.
pub const INLINE_BYTES: usize = (SLOT_WORDS - 2) * 8;
/// Runs of adjacent buffers that one slot can name; the last place of the slot is the token's.
pub const MAX_EXTENTS: usize = INLINE_BYTES / 4 - 1;
/// Largest message in bytes.
pub const MAX_MESSAGE: u32 = 8 * 1024 * 1024;

/// Most messages of one channel that may be sent and not yet acknowledged: at most 130 MiB of the engine's own memory.
pub const MAX_UNACKNOWLEDGED: u64 = 1 << 20;

/// Byte offset of the word by which the owner of a region asks to be woken.
pub const ARMED_OFFSET: usize = LINE_BYTES;
/// Byte offset of the word in which the owner of a region says which arming of the other side it answered.
pub const RUNG_OFFSET: usize = 2 * LINE_BYTES;
/// Byte offset of the position up to which the owner has consumed the other side's message ring.
pub const MESSAGE_HEAD_OFFSET: usize = 3 * LINE_BYTES;
/// Byte offset of the position up to which the owner has consumed the other side's done ring.
pub const DONE_HEAD_OFFSET: usize = 4 * LINE_BYTES;
/// Byte offset of the message ring.
pub const RING_OFFSET: usize = PAGE;

const PAGE: usize = 4096;
const SLOT_BYTES: usize = SLOT_WORDS * 8;
const DONE_BYTES: usize = DONE_WORDS * 8;

const _: () = assert!(SLOT_BYTES == LINE_BYTES && INLINE_BYTES == 112 && MAX_EXTENTS == 27);
const _: () = assert!(DONE_HEAD_OFFSET + LINE_BYTES <= RING_OFFSET);

/// Kinds of message slots in the send ring, application to engine.
pub mod send_kind {
    /// A message in the slot itself.
    pub const INLINE: u8 = 1;
    /// A message in TX buffers; `count` extents.
    pub const BUFFERS: u8 = 2;
    /// Open a connection: argument is the request number, the words are a [`super::ConnectRequest`].
    pub const CONNECT: u8 = 3;
    /// Close the flow in order, behind its last message.
    pub const CLOSE: u8 = 4;
    /// Abort the flow now.
    pub const RESET: u8 = 5;
}

/// Kinds of message slots in the receive ring, engine to application.
pub mod receive_kind {
    /// A message in the slot itself.
    pub const INLINE: u8 = 1;
    /// A message in RX buffers; `count` extents. The last 32 bits are its token.
    pub const BUFFERS: u8 = 2;
    /// A connect succeeded: argument is the request number, the words are a [`super::FlowInfo`].
    pub const CONNECTED: u8 = 3;
    /// A connect failed: argument is the request number, `inline length` the reason's code.
    pub const CONNECT_FAILED: u8 = 4;
    /// A flow arrived: argument is the listener, the words are a [`super::FlowInfo`].
    pub const ACCEPTED: u8 = 5;
    /// The peer closed in order; nothing more comes. Argument: messages sent and not acknowledged.
    pub const CLOSED: u8 = 6;
    /// The flow ended badly: `inline length` is the reason's code, argument as for CLOSED.
    pub const RESET: u8 = 7;
    /// Our close is complete: the peer has everything.
    pub const FINISHED: u8 = 8;
    /// A listener has ended and takes no more flows: argument is the listener, `inline length` the reason's code. Only where both
    /// sides speak version 3 of the control messages.
    pub const LISTENER_ENDED: u8 = 9;
}

/// Kinds of done slots in the receive-done ring, application to engine.
pub mod receive_done_kind {
    /// The application took `count` in-slot messages of the flow, with as many bytes in all as the argument says.
    pub const INLINE_TAKEN: u8 = 1;
    /// The application gives back the buffers of the message with the token in the argument.
    pub const BUFFERS_TAKEN: u8 = 2;
    /// The application accepted the flow: it counts against its listener's backlog no longer.
    pub const ACCEPTED: u8 = 3;
    /// The application saw the end of the flow and will not name it again: its number may be used anew.
    pub const RELEASED: u8 = 4;
}

/// Kinds of done slots in the send-done ring, engine to application.
pub mod send_done_kind {
    /// Argument: messages of this flow that were acknowledged since it opened, modulo 2^32.
    pub const CREDIT: u8 = 1;
}

/// The sizes of a channel, agreed at attach. Each side keeps its own copy in private memory and believes no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Slots of the send ring: a power of two.
    pub send_slots: u32,
    /// Slots of the receive ring: a power of two. So many messages at most wait in the application's queues.
    pub receive_slots: u32,
    /// TX buffers.
    pub tx_buffers: u32,
    /// RX buffers.
    pub rx_buffers: u32,
    /// Bytes of a buffer: a power of two.
    pub buffer_bytes: u32,
    /// Most flows at a time, accepted and connected together.
    pub max_flows: u32,
    /// Messages of one flow that may be sent and not yet acknowledged.
    pub flow_credit: u32,
}

impl Geometry {
    /// Takes 8 MiB messages both ways, several at a time: 32 MiB of buffers a direction, touched only when used.
    pub const DEFAULT: Self = Self {
        send_slots: 1024,
        receive_slots: 1024,
        tx_buffers: 8192,
        rx_buffers: 8192,
        buffer_bytes: 4096,
        max_flows: 1024,
        flow_credit: 256,
    };

    /// For a process among thousands: both regions together take less than 256 KiB.
    pub const SMALL: Self = Self {
        send_slots: 128,
        receive_slots: 128,
        tx_buffers: 40,
        rx_buffers: 40,
        buffer_bytes: 2048,
        max_flows: 32,
        flow_credit: 64,
    };

    /// For bulk: 128 MiB of buffers a direction.
    pub const LARGE: Self = Self { tx_buffers: 32768, rx_buffers: 32768, ..Self::DEFAULT };

    /// The first rule that these sizes break, in words, or nothing.
    pub const fn fault(&self) -> Option<&'static str> {
        if !in_power_of_two_range(self.send_slots, 16, 65_536) {
            return Some("send_slots must be a power of two from 16 to 65536");
        }
        if !in_power_of_two_range(self.receive_slots, 16, 65_536) {
            return Some("receive_slots must be a power of two from 16 to 65536");
        }
        if self.tx_buffers < 1 || self.tx_buffers > 65_535 || self.rx_buffers < 1 || self.rx_buffers > 65_535
        {
            return Some("tx_buffers and rx_buffers must be from 1 to 65535");
        }
        if !in_power_of_two_range(self.buffer_bytes, 1024, 65_536) {
            return Some("buffer_bytes must be a power of two from 1024 to 65536");
        }
        if self.max_flows < 1 || self.max_flows > 65_535 {
            return Some("max_flows must be from 1 to 65535");
        }
        if self.flow_credit < 2 || self.flow_credit > 32_768 {
            return Some("flow_credit must be from 2 to 32768");
        }
        // The engine keeps a record, with the message if it is small, of everything that is not acknowledged.
        if self.max_flows as u64 * self.flow_credit as u64 > MAX_UNACKNOWLEDGED {
            return Some("max_flows times flow_credit must be at most 1048576");
        }
        None
    }

    /// Slots of the receive-done ring: every message in the application's hands and every flow can be answered at once.
    pub const fn receive_done_slots(&self) -> u32 {
        (self.receive_slots + self.max_flows).next_power_of_two()
    }

    /// Slots of the send-done ring: one entry per flow is enough, because entries are cumulative. A ring has two at least.
    pub const fn send_done_slots(&self) -> u32 {
        let slots = self.max_flows.next_power_of_two();
        if slots < 2 { 2 } else { slots }
    }

    /// Largest message in bytes that the application can send.
    pub const fn max_send(&self) -> u32 {
        largest(self.tx_buffers, self.buffer_bytes)
    }

    /// Largest message in bytes that the application can receive.
    pub const fn max_receive(&self) -> u32 {
        largest(self.rx_buffers, self.buffer_bytes)
    }

    /// Buffers that a message of `len` bytes takes.
    pub const fn buffers_for(&self, len: u32) -> u32 {
        len.div_ceil(self.buffer_bytes)
    }

    /// Byte offset of the receive-done ring in the application's region.
    pub const fn receive_done_offset(&self) -> usize {
        RING_OFFSET + self.send_slots as usize * SLOT_BYTES
    }

    /// Byte offset of the TX buffers in the application's region.
    pub const fn tx_offset(&self) -> usize {
        (self.receive_done_offset() + self.receive_done_slots() as usize * DONE_BYTES).next_multiple_of(PAGE)
    }

    /// Bytes of the application's region.
    pub const fn application_bytes(&self) -> usize {
        self.tx_offset() + (self.tx_buffers as usize * self.buffer_bytes as usize).next_multiple_of(PAGE)
    }

    /// Byte offset of the send-done ring in the engine's region.
    pub const fn send_done_offset(&self) -> usize {
        RING_OFFSET + self.receive_slots as usize * SLOT_BYTES
    }

    /// Byte offset of the RX buffers in the engine's region.
    pub const fn rx_offset(&self) -> usize {
        (self.send_done_offset() + self.send_done_slots() as usize * DONE_BYTES).next_multiple_of(PAGE)
    }

    /// Bytes of the engine's region.
    pub const fn engine_bytes(&self) -> usize {
        self.rx_offset() + (self.rx_buffers as usize * self.buffer_bytes as usize).next_multiple_of(PAGE)
    }
}

impl Default for Geometry {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const _: () = assert!(
    Geometry::DEFAULT.fault().is_none()
        && Geometry::SMALL.fault().is_none()
        && Geometry::LARGE.fault().is_none()
);
const _: () = assert!(Geometry::SMALL.application_bytes() + Geometry::SMALL.engine_bytes() <= 256 * 1024);
const _: () =
    assert!(Geometry::DEFAULT.max_send() == MAX_MESSAGE && Geometry::DEFAULT.max_receive() == MAX_MESSAGE);

const fn in_power_of_two_range(value: u32, least: u32, most: u32) -> bool {
    value.is_power_of_two() && value >= least && value <= most
}

const fn largest(buffers: u32, buffer_bytes: u32) -> u32 {
    // An eighth stays free for others, so that one largest message never fills the pool.
    let usable = (buffers as u64 * 7 / 8) * buffer_bytes as u64;
    let floor = INLINE_BYTES as u64;
    let most = if usable > floor { usable } else { floor };
    #[expect(clippy::cast_possible_truncation, reason = "bounded by MAX_MESSAGE")]
    if most > MAX_MESSAGE as u64 { MAX_MESSAGE } else { most as u32 }
}

/// What a CONNECT slot carries in its words from word 2 on.
///
/// ```text
/// word 2,3  remote IPv6 address, or IPv4 mapped (::ffff:a.b.c.d), network order in 16 bytes
/// word 4,5  local address, likewise; all zeros: the sidecar chooses
/// word 6    | remote port u16 | 0 u16 | timeout in milliseconds u32, 0: the sidecar's default |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectRequest {
    /// Whom to connect to: address and listener port.
    pub remote: std::net::SocketAddr,
    /// Our address, if the application insists on one.
    pub local: Option<std::net::IpAddr>,
    /// Fail after so many milliseconds; 0 is the sidecar's default.
    pub timeout_ms: u32,
}

/// What CONNECTED and ACCEPTED slots carry in their words from word 2 on.
///
/// ```text
/// word 2,3  peer's address as in a ConnectRequest      word 4,5  our address
/// word 6    | peer's port u16 | our port u16 | largest message the peer takes u32 |
/// word 7    | send credit in messages u32 | 0 u32 |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowInfo {
    /// The peer: for a connected flow the listener it reached, for an accepted one where it came from.
    pub peer: std::net::SocketAddr,
    /// Our end.
    pub local: std::net::SocketAddr,
    /// Largest message in bytes that the peer takes.
    pub max_message: u32,
    /// Messages that may be sent and not yet acknowledged.
    pub credit: u32,
}

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

fn ip_words(ip: IpAddr) -> [u64; 2] {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let value = u128::from_le_bytes(octets);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    [value as u64, (value >> 64) as u64]
}

fn words_ip(low: u64, high: u64) -> IpAddr {
    let v6 = Ipv6Addr::from((u128::from(low) | u128::from(high) << 64).to_le_bytes());
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

#[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
const fn low16(word: u64) -> u16 {
    word as u16
}

#[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
const fn low32(word: u64) -> u32 {
    word as u32
}

impl ConnectRequest {
    /// The five words of the request.
    pub fn to_words(self) -> [u64; 5] {
        let [r0, r1] = ip_words(self.remote.ip());
        let [l0, l1] = self.local.map_or([0, 0], ip_words);
        [r0, r1, l0, l1, u64::from(self.remote.port()) | u64::from(self.timeout_ms) << 32]
    }

    /// The request in these words. Any words are one; whether it makes sense is for the engine to say.
    pub fn from_words(words: [u64; 5]) -> Self {
        let local = (words[2] | words[3] != 0).then(|| words_ip(words[2], words[3]));
        Self {
            remote: SocketAddr::new(words_ip(words[0], words[1]), low16(words[4])),
            local,
            timeout_ms: low32(words[4] >> 32),
        }
    }
}

impl FlowInfo {
    /// The six words of the description.
    pub fn to_words(self) -> [u64; 6] {
        let [p0, p1] = ip_words(self.peer.ip());
        let [l0, l1] = ip_words(self.local.ip());
        let ports = u64::from(self.peer.port()) | u64::from(self.local.port()) << 16;
        [p0, p1, l0, l1, ports | u64::from(self.max_message) << 32, u64::from(self.credit)]
    }

    /// The description in these words.
    pub fn from_words(words: [u64; 6]) -> Self {
        Self {
            peer: SocketAddr::new(words_ip(words[0], words[1]), low16(words[4])),
            local: SocketAddr::new(words_ip(words[2], words[3]), low16(words[4] >> 16)),
            max_message: low32(words[4] >> 32),
            credit: low32(words[5]),
        }
    }
}

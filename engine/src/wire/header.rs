//! THE header of a Machnet datagram, byte by byte as docs/protocol.md specifies it. Network byte order throughout.
//!
//! ```text
//! DATA   0        1        2..6           6..10           10..
//!      | 1 | type | flags | connection id | packet number | blocks in the order of their flags, then the body |
//! ```
//!
//! A 64-byte request that carries an acknowledgement spends 22 bytes on its header: 10, 8 for ACK, 4 for the message number.

mod extended;
mod opening;

pub use extended::{Extended, Path, Search};
pub use opening::{Confirm, Cookie, Refusal, Syn, SynAck, WireLimits};

use core::fmt;
use extended::{MAX_EXTENDED_LEN, parse_extended};
use opening::{parse_confirm, parse_refusal, parse_syn, parse_syn_ack};

/// Version in the high half of the first byte.
pub const VERSION: u8 = 1;
/// Bytes of the fixed part of every packet.
pub const FIXED_LEN: usize = 10;
/// Bytes of a SYN: padded so that no answer to it is larger than itself.
pub const SYN_LEN: usize = 80;
/// Bytes of a SYN_ACK.
pub const SYN_ACK_LEN: usize = 62;
/// Bytes of a RESET or a REJECT.
pub const RESET_LEN: usize = 12;
/// Most gaps that an acknowledgement lists.
pub const MAX_RANGES: usize = 16;
/// Most bytes of a header, every block present.
pub const MAX_HEADER: usize = FIXED_LEN
    + ACK_LEN
    + 1
    + MAX_RANGES * 4
    + WINDOW_LEN
    + CONFIRM_LEN
    + FIN_LEN
    + MAX_EXTENDED_LEN
    + SEGMENT_LEN;
/// Bytes in front of each message of a bundle: its length.
pub const BUNDLE_ITEM_LEN: usize = 2;
/// Unit of the byte limit of a WINDOW block.
pub const WINDOW_UNIT: u64 = 1024;

const ACK_LEN: usize = 8;
const WINDOW_LEN: usize = 8;
const CONFIRM_LEN: usize = 60;
const FIN_LEN: usize = 4;
const SEGMENT_LEN: usize = 12;

const TYPE_DATA: u8 = 0;
const TYPE_SYN: u8 = 1;
const TYPE_SYN_ACK: u8 = 2;
const TYPE_REJECT: u8 = 3;
const TYPE_RESET: u8 = 4;

const FLAG_ACK: u8 = 1;
const FLAG_RANGES: u8 = 2;
const FLAG_WINDOW: u8 = 4;
const FLAG_CONFIRM: u8 = 8;
const FLAG_FIN: u8 = 16;
const BODY_SHIFT: u32 = 5;

/// The kind of body that only says that there is more in front of the body proper.
const KIND_EXTENDED: u8 = 6;

/// In the flags of a RESET: it echoes a packet for which the sender knows no flow.
const FLAG_STATELESS: u8 = 1;

/// A connection's name at one of its ends, chosen by that end, unpredictable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cid:{:08x}", self.0)
    }
}

/// Why bytes are no packet. Each reason is a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ParseError {
    /// Shorter than its type or its flags promise.
    Truncated,
    /// A version that we do not speak.
    Version,
    /// A type that does not exist.
    Type,
    /// A kind of body that does not exist, or blocks that exclude each other.
    Flags,
    /// A field with an impossible value.
    Field,
}

/// Packets received, told to their sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack<'a> {
    /// Highest packet number received.
    pub largest: u32,
    /// So many below it were received without a gap.
    pub run: u16,
    /// Microseconds from the receipt of `largest` to this acknowledgement, at most 65535.
    pub delay_us: u16,
    /// Further ranges, downwards.
    pub ranges: Ranges<'a>,
}

/// Gaps and runs below the first run: 4 bytes each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ranges<'a>(&'a [u8]);

impl Ranges<'_> {
    /// Each `(gap, run)`: `gap` + 1 packets missing, then `run` + 1 received.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.0.chunks_exact(4).map(|c| (u16::from_be_bytes([c[0], c[1]]), u16::from_be_bytes([c[2], c[3]])))
    }
}

/// Cumulative limits of flow control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WireWindow {
    /// First message number that may not be sent.
    pub messages: u32,
    /// Bytes of messages since the beginning that may be sent, in units of [`WINDOW_UNIT`].
    pub kibibytes: u32,
}

/// What a DATA packet carries behind its blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// Nothing, and no answer is asked for.
    None,
    /// One whole message.
    Whole {
        /// Its number.
        message: u32,
        /// All of it.
        bytes: &'a [u8],
    },
    /// A part of a message.
    Segment {
        /// Its number.
        message: u32,
        /// Where the part starts.
        offset: u32,
        /// Length of the whole message.
        total: u32,
        /// The part.
        bytes: &'a [u8],
    },
    /// Consecutive whole small messages.
    Bundle {
        /// Number of the first.
        first: u32,
        /// The messages.
        items: BundleItems<'a>,
    },
    /// Asks for an acknowledgement; any number of zero bytes: keepalive, probe of the path.
    Ping {
        /// How many zero bytes.
        padding: usize,
    },
    /// Asks for an acknowledgement and says: room came back, what was not acknowledged may be sent again now.
    Nudge,
}

/// The messages of a bundle, checked when parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BundleItems<'a> {
    bytes: &'a [u8],
    count: u32,
}

impl<'a> BundleItems<'a> {
    /// Each message in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.bytes;
        core::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<BUNDLE_ITEM_LEN>()?;
            let (message, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            rest = after;
            Some(message)
        })
    }

    /// How many they are: at least one.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    fn check(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (mut rest, mut count) = (bytes, 0);
        while !rest.is_empty() {
            count += 1;
            let (length, after) = rest.split_first_chunk::<BUNDLE_ITEM_LEN>().ok_or(ParseError::Truncated)?;
            let length = usize::from(u16::from_be_bytes(*length));
            if length == 0 {
                return Err(ParseError::Field);
            }
            rest = after.get(length..).ok_or(ParseError::Truncated)?;
        }
        if count == 0 { Err(ParseError::Truncated) } else { Ok(Self { bytes, count }) }
    }
}

/// A packet of an established flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data<'a> {
    /// The receiver's name for the connection.
    pub id: ConnectionId,
    /// Low half of the packet number.
    pub number: u32,
    /// What the sender received.
    pub ack: Option<Ack<'a>>,
    /// New limits.
    pub window: Option<WireWindow>,
    /// The client's proof.
    pub confirm: Option<Confirm>,
    /// The sender sends no message with this or a higher number and takes no more.
    pub fin: Option<u32>,
    /// What flows between several engines have to tell.
    pub extended: Option<Extended>,
    /// The rest.
    pub body: Body<'a>,
}

/// A parsed datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// Of an established flow.
    Data(Data<'a>),
    /// Connect.
    Syn(Syn),
    /// Its answer.
    SynAck(SynAck),
    /// Its refusal.
    Reject(Refusal),
    /// The end of a flow; `stateless`: it echoes a packet whose flow its sender does not know.
    Reset {
        /// What and why.
        refusal: Refusal,
        /// Whether it is an echo.
        stateless: bool,
    },
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(ParseError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }
    #[inline]
    fn u8(&mut self) -> Result<u8, ParseError> {
        Ok(self.array::<1>()?[0])
    }
    #[inline]
    fn u16(&mut self) -> Result<u16, ParseError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    #[inline]
    fn u32(&mut self) -> Result<u32, ParseError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, ParseError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    fn id(&mut self) -> Result<ConnectionId, ParseError> {
        Ok(ConnectionId(self.u32()?))
    }
    fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Parses one UDP payload.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, ParseError> {
    let mut r = Reader(bytes);
    let first = r.u8()?;
    let flags = r.u8()?;
    let (version, kind) = (first >> 4, first & 15);
    // Of any version: a SYN lists the versions its sender speaks, a REJECT may say that none is in common.
    if version != VERSION && !matches!(kind, TYPE_SYN | TYPE_REJECT) {
        return Err(ParseError::Version);
    }
    match kind {
        TYPE_DATA => parse_data(r, flags).map(Packet::Data),
        TYPE_SYN => parse_syn(r).map(Packet::Syn),
        TYPE_SYN_ACK => parse_syn_ack(r).map(Packet::SynAck),
        TYPE_REJECT => parse_refusal(r, false).map(Packet::Reject),
        TYPE_RESET => {
            let stateless = flags & FLAG_STATELESS != 0;
            parse_refusal(r, stateless).map(|refusal| Packet::Reset { refusal, stateless })
        }
        _ => Err(ParseError::Type),
    }
}

#[inline]
fn parse_data(mut r: Reader<'_>, flags: u8) -> Result<Data<'_>, ParseError> {
    let (id, number) = (r.id()?, r.u32()?);
    let ack = if flags & FLAG_ACK != 0 {
        let (largest, run, delay_us) = (r.u32()?, r.u16()?, r.u16()?);
        let ranges = if flags & FLAG_RANGES != 0 { parse_ranges(&mut r)? } else { Ranges::default() };
        Some(Ack { largest, run, delay_us, ranges })
    } else if flags & FLAG_RANGES != 0 {
        return Err(ParseError::Flags);
    } else {
        None
    };
    let window = if flags & FLAG_WINDOW != 0 {
        Some(WireWindow { messages: r.u32()?, kibibytes: r.u32()? })
    } else {
        None
    };
    let confirm = if flags & FLAG_CONFIRM != 0 { Some(parse_confirm(&mut r)?) } else { None };
    let fin = if flags & FLAG_FIN != 0 { Some(r.u32()?) } else { None };
    let kind = flags >> BODY_SHIFT;
    let (extended, body) = if kind == KIND_EXTENDED {
        let (extended, body) = parse_extended(r)?;
        (Some(extended), body)
    } else {
        (None, parse_body(r, kind)?)
    };
    Ok(Data { id, number, ack, window, confirm, fin, extended, body })
}

fn parse_ranges<'a>(r: &mut Reader<'a>) -> Result<Ranges<'a>, ParseError> {
    let count = usize::from(r.u8()?);
    if count == 0 || count > MAX_RANGES {
        return Err(ParseError::Field);
    }
    let (ranges, rest) = r.0.split_at_checked(count * 4).ok_or(ParseError::Truncated)?;
    r.0 = rest;
    Ok(Ranges(ranges))
}

#[inline]
fn parse_body(mut r: Reader<'_>, kind: u8) -> Result<Body<'_>, ParseError> {
    Ok(match kind {
        0 if r.0.is_empty() => Body::None,
        1 => Body::Whole { message: r.u32()?, bytes: filled(r.rest())? },
        2 => {
            let (message, offset, total) = (r.u32()?, r.u32()?, r.u32()?);
            let bytes = filled(r.rest())?;
            let end = u64::from(offset) + bytes.len() as u64;
            if end > u64::from(total) {
                return Err(ParseError::Field);
            }
            Body::Segment { message, offset, total, bytes }
        }
        3 => Body::Bundle { first: r.u32()?, items: BundleItems::check(r.rest())? },
        4 => Body::Ping { padding: r.0.len() },
        5 if r.0.is_empty() => Body::Nudge,
        _ => return Err(ParseError::Flags),
    })
}

#[inline]
fn filled(bytes: &[u8]) -> Result<&[u8], ParseError> {
    if bytes.is_empty() { Err(ParseError::Truncated) } else { Ok(bytes) }
}

/// Writes header fields one behind the other. The buffer holds any header, so nothing can overrun it.
#[derive(Debug)]
pub struct Emitter {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl Default for Emitter {
    fn default() -> Self {
        Self { bytes: [0; MAX_HEADER], len: 0 }
    }
}

impl Emitter {
    /// What was written since the last `start_*`.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    #[inline]
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(&field);
        self.len += N;
    }

    #[inline]
    fn start(&mut self, kind: u8, flags: u8, id: ConnectionId, number: u32) {
        self.len = 0;
        self.put([VERSION << 4 | kind, flags]);
        self.put(id.0.to_be_bytes());
        self.put(number.to_be_bytes());
    }

    #[inline]
    fn flag(&mut self, flag: u8) {
        self.bytes[1] |= flag;
    }

    /// Begins a DATA packet. Blocks follow in the order ACK, WINDOW, CONFIRM, FIN, then one body.
    #[inline]
    pub fn start_data(&mut self, id: ConnectionId, number: u32) {
        self.start(TYPE_DATA, 0, id, number);
    }

    /// ACK, with `(gap, run)` pairs of further ranges.
    #[inline]
    pub fn ack(&mut self, largest: u32, run: u16, delay_us: u16, ranges: impl Iterator<Item = (u16, u16)>) {
        self.flag(FLAG_ACK);
        self.put(largest.to_be_bytes());
        self.put(run.to_be_bytes());
        self.put(delay_us.to_be_bytes());
        let count_at = self.len;
        let mut count = 0_u8;
        for (gap, run) in ranges.take(MAX_RANGES) {
            if count == 0 {
                self.put([0]);
            }
            self.put(gap.to_be_bytes());
            self.put(run.to_be_bytes());
            count += 1;
        }
        if count > 0 {
            self.flag(FLAG_RANGES);
            self.bytes[count_at] = count;
        }
    }

    /// WINDOW.
    #[inline]
    pub fn window(&mut self, window: WireWindow) {
        self.flag(FLAG_WINDOW);
        self.put(window.messages.to_be_bytes());
        self.put(window.kibibytes.to_be_bytes());
    }

    /// FIN.
    pub fn fin(&mut self, final_message: u32) {
        self.flag(FLAG_FIN);
        self.put(final_message.to_be_bytes());
    }

    /// Body: one whole message; its bytes follow the header.
    #[inline]
    pub fn whole(&mut self, message: u32) {
        self.flag(1 << BODY_SHIFT);
        self.put(message.to_be_bytes());
    }

    /// Body: a part of a message; its bytes follow the header.
    #[inline]
    pub fn segment(&mut self, message: u32, offset: u32, total: u32) {
        self.flag(2 << BODY_SHIFT);
        self.put(message.to_be_bytes());
        self.put(offset.to_be_bytes());
        self.put(total.to_be_bytes());
    }

    /// Body: whole small messages; each behind its two-byte length follows the header.
    #[inline]
    pub fn bundle(&mut self, first: u32) {
        self.flag(3 << BODY_SHIFT);
        self.put(first.to_be_bytes());
    }

    /// Body: zero bytes that follow the header.
    pub fn ping(&mut self) {
        self.flag(4 << BODY_SHIFT);
    }

    /// Body: room came back.
    pub fn nudge(&mut self) {
        self.flag(5 << BODY_SHIFT);
    }
}

const _: () = assert!(SYN_ACK_LEN <= SYN_LEN && SYN_LEN <= MAX_HEADER && RESET_LEN == FIXED_LEN + 2);

//! Messages of the control socket, both directions: encode, decode, limits, versions.
//!
//! One seqpacket record is one message: a kind byte, then its fields in little endian, strings behind a two-byte length.
//! What cannot be decoded is [`Malformed`]; nothing here allocates more than [`MAX_RECORD`] bytes.
//!
//! Attach, in order: application `Hello`; sidecar `Welcome` with three or four descriptors (application's region, engine's
//! region read-only, doorbell ends); application maps and says `Mapped`; sidecar seals, maps, and says `Attached`. From
//! then on the socket serves `Listen`, `Unlisten`, `FlowStats` and `Detach`, and its end of life is the channel's. A connection may
//! instead ask `Status` and gets one `StatusText` record per 60 KiB of JSON, the last one marked.

use crate::shm::Geometry;
use crate::stats::FlowStats;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Version of these messages. Version 2 added `FlowStats`, version 3 that the engine may end a listener; all use version 1 of the
/// shared layout.
pub const VERSION: u32 = 3;
/// The first version with `FlowStats`. An older sidecar must not be asked: it would end the connection.
pub const FLOW_STATS_VERSION: u32 = 2;
/// The first version in which the engine may end a listener
/// ([`LISTENER_ENDED`](crate::shm::layout::receive_kind::LISTENER_ENDED)). An older application would take the slot for a fault.
pub const LISTENER_END_VERSION: u32 = 3;
/// Oldest version that this code still speaks.
pub const OLDEST_VERSION: u32 = 1;
/// Most bytes of one record.
pub const MAX_RECORD: usize = 64 * 1024;
/// Most bytes of a text in a record.
pub const MAX_TEXT: usize = 60 * 1024;
/// Most descriptors that come with a record.
pub const MAX_DESCRIPTORS: usize = 6;
/// The application does not care which engine serves it.
pub const ANY_ENGINE: u32 = u32::MAX;

/// What the application waits on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum DoorbellKind {
    /// A pipe each way: cheapest.
    #[default]
    Pipe = 0,
    /// A stream socket pair: for runtimes that await sockets only.
    Socket = 1,
}

/// Application to sidecar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Begins an attach.
    Hello {
        /// Oldest and newest version that the application speaks.
        versions: (u32, u32),
        /// Sizes asked for; the sidecar grants these or refuses.
        geometry: Geometry,
        /// Kind of the doorbell.
        doorbell: DoorbellKind,
        /// Engine by number, or [`ANY_ENGINE`].
        engine: u32,
        /// Name of the program, for `machnet status`.
        name: String,
    },
    /// The application mapped both regions.
    Mapped,
    /// Listen on an address of the sidecar. Port 0: any free one.
    Listen {
        /// The application's number for this request.
        request: u32,
        /// Where; an unspecified address means the sidecar's own.
        local: SocketAddr,
        /// Most flows that wait to be accepted.
        backlog: u32,
    },
    /// Stop listening. Flows that were not accepted yet are refused.
    Unlisten {
        /// The listener.
        listener: u32,
    },
    /// Close all flows in order and end the channel; answered by the socket's end.
    Detach,
    /// What the sidecar does, as JSON.
    Status,
    /// What the sidecar knows of a flow of this channel. Since version 2.
    FlowStats {
        /// The application's number for this request.
        request: u32,
        /// The flow's number on the rings.
        flow: u32,
    },
}

/// Sidecar to application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The channel is made; descriptors come with it: application's region, engine's region, then for pipes the read end
    /// of the application's bell and the write end of the engine's bell, for sockets one end that is both.
    Welcome {
        /// Version both sides speak from now on.
        version: u32,
        /// Number of the channel, unique for the sidecar's life.
        channel: u64,
        /// Engine that serves it.
        engine: u32,
        /// The sidecar's process.
        pid: u32,
        /// The address that the sidecar owns.
        local: SocketAddr,
        /// Sizes granted.
        geometry: Geometry,
    },
    /// The channel may be used.
    Attached,
    /// A listener is there.
    Listening {
        /// The request's number.
        request: u32,
        /// Its name from now on.
        listener: u32,
        /// Where it listens, the port filled in.
        local: SocketAddr,
    },
    /// A request failed.
    Failed {
        /// The request's number, 0 for an attach.
        request: u32,
        /// Why.
        code: FailureCode,
        /// The same in words.
        text: String,
    },
    /// A piece of the answer to `Status`.
    StatusText {
        /// No more pieces follow.
        last: bool,
        /// The piece.
        text: String,
    },
    /// The answer to `FlowStats`. The record tells how many numbers it carries, so that later releases may add some.
    FlowStats {
        /// The request's number.
        request: u32,
        /// The answer.
        stats: Box<FlowStats>,
    },
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FailureCode {
    /// The versions do not meet.
    Version = 1,
    /// The sizes asked for are not possible.
    Geometry = 2,
    /// There is no such engine.
    NoEngine = 3,
    /// The sidecar has no room for another channel or listener.
    Full = 4,
    /// The address is not the sidecar's.
    AddressNotLocal = 5,
    /// Somebody listens there already.
    AddressInUse = 6,
    /// There is no such listener on this channel.
    NoListener = 7,
    /// The request makes no sense now.
    Unexpected = 8,
    /// The sidecar shuts down.
    ShuttingDown = 9,
    /// The sidecar failed; the text says how.
    Internal = 10,
    /// There is no such flow on this channel.
    NoFlow = 11,
}

impl FailureCode {
    const ALL: [Self; 11] = [
        Self::Version,
        Self::Geometry,
        Self::NoEngine,
        Self::Full,
        Self::AddressNotLocal,
        Self::AddressInUse,
        Self::NoListener,
        Self::Unexpected,
        Self::ShuttingDown,
        Self::Internal,
        Self::NoFlow,
    ];
}

/// A record that is no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record of the control socket is malformed")]
pub struct Malformed;

struct Writer(Vec<u8>);

impl Writer {
    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }
    fn address(mut self, address: SocketAddr) -> Self {
        let v6 = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        self.0.extend_from_slice(&v6.octets());
        self.u16(address.port())
    }
    fn text(mut self, text: &str) -> Self {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let length = u16::try_from(end).unwrap_or(u16::MAX);
        self = self.u16(length);
        self.0.extend_from_slice(&text.as_bytes()[..end]);
        self
    }
    fn words(self, words: &[u64]) -> Self {
        let count = u16::try_from(words.len()).unwrap_or(u16::MAX);
        words.iter().fold(self.u16(count), |w, &word| w.u64(word))
    }
    fn geometry(self, geometry: &Geometry) -> Self {
        self.u32(geometry.send_slots)
            .u32(geometry.receive_slots)
            .u32(geometry.tx_buffers)
            .u32(geometry.rx_buffers)
            .u32(geometry.buffer_bytes)
            .u32(geometry.max_flows)
            .u32(geometry.flow_credit)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }
    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    fn address(&mut self) -> Result<SocketAddr, Malformed> {
        let v6 = Ipv6Addr::from(self.array::<16>()?);
        let ip = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
        Ok(SocketAddr::new(ip, self.u16()?))
    }
    fn text(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.u16()?);
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| Malformed)
    }
    /// As many numbers as the record carries: those that are missing are 0, those beyond what is known are left out.
    fn words<const N: usize>(&mut self) -> Result<[u64; N], Malformed> {
        let mut words = [0; N];
        for index in 0..usize::from(self.u16()?) {
            let word = self.u64()?;
            if let Some(place) = words.get_mut(index) {
                *place = word;
            }
        }
        Ok(words)
    }
    fn geometry(&mut self) -> Result<Geometry, Malformed> {
        Ok(Geometry {
            send_slots: self.u32()?,
            receive_slots: self.u32()?,
            tx_buffers: self.u32()?,
            rx_buffers: self.u32()?,
            buffer_bytes: self.u32()?,
            max_flows: self.u32()?,
            flow_credit: self.u32()?,
        })
    }
    fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

impl Request {
    /// The record.
    pub fn encode(&self) -> Vec<u8> {
        let w = Writer(Vec::with_capacity(128));
        match self {
            Self::Hello { versions, geometry, doorbell, engine, name } => w
                .u8(1)
                .u32(versions.0)
                .u32(versions.1)
                .geometry(geometry)
                .u8(*doorbell as u8)
                .u32(*engine)
                .text(name),
            Self::Mapped => w.u8(2),
            Self::Listen { request, local, backlog } => w.u8(3).u32(*request).address(*local).u32(*backlog),
            Self::Unlisten { listener } => w.u8(4).u32(*listener),
            Self::Detach => w.u8(5),
            Self::Status => w.u8(6),
            Self::FlowStats { request, flow } => w.u8(7).u32(*request).u32(*flow),
        }
        .0
    }

    /// The message in a record.
    pub fn decode(record: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(record);
        let message = match r.u8()? {
            1 => Self::Hello {
                versions: (r.u32()?, r.u32()?),
                geometry: r.geometry()?,
                doorbell: match r.u8()? {
                    0 => DoorbellKind::Pipe,
                    1 => DoorbellKind::Socket,
                    _ => return Err(Malformed),
                },
                engine: r.u32()?,
                name: r.text()?,
            },
            2 => Self::Mapped,
            3 => Self::Listen { request: r.u32()?, local: r.address()?, backlog: r.u32()? },
            4 => Self::Unlisten { listener: r.u32()? },
            5 => Self::Detach,
            6 => Self::Status,
            7 => Self::FlowStats { request: r.u32()?, flow: r.u32()? },
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(message)
    }
}

impl Reply {
    /// The record.
    pub fn encode(&self) -> Vec<u8> {
        let w = Writer(Vec::with_capacity(128));
        match self {
            Self::Welcome { version, channel, engine, pid, local, geometry } => {
                w.u8(1).u32(*version).u64(*channel).u32(*engine).u32(*pid).address(*local).geometry(geometry)
            }
            Self::Attached => w.u8(2),
            Self::Listening { request, listener, local } => {
                w.u8(3).u32(*request).u32(*listener).address(*local)
            }
            Self::Failed { request, code, text } => w.u8(4).u32(*request).u8(*code as u8).text(text),
            Self::StatusText { last, text } => w.u8(5).u8(u8::from(*last)).text(text),
            Self::FlowStats { request, stats } => w.u8(6).u32(*request).words(&stats.to_words()),
        }
        .0
    }

    /// The message in a record.
    pub fn decode(record: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(record);
        let message = match r.u8()? {
            1 => Self::Welcome {
                version: r.u32()?,
                channel: r.u64()?,
                engine: r.u32()?,
                pid: r.u32()?,
                local: r.address()?,
                geometry: r.geometry()?,
            },
            2 => Self::Attached,
            3 => Self::Listening { request: r.u32()?, listener: r.u32()?, local: r.address()? },
            4 => {
                let request = r.u32()?;
                let code = r.u8()?;
                let code = FailureCode::ALL.into_iter().find(|c| *c as u8 == code).ok_or(Malformed)?;
                Self::Failed { request, code, text: r.text()? }
            }
            5 => Self::StatusText { last: r.u8()? != 0, text: r.text()? },
            6 => {
                let request = r.u32()?;
                let stats = Box::new(FlowStats::from_words(&r.words()?));
                Self::FlowStats { request, stats }
            }
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(message)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn stats() -> FlowStats {
        let mut words = [0; FlowStats::WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            *word = 1 << (index * 3); // The first is a truth value: 1.
        }
        FlowStats::from_words(&words)
    }

    #[test]
    fn flow_statistics_survive_their_record_number_by_number() {
        let request = Request::FlowStats { request: 7, flow: 0x0003_0002 };
        assert_eq!(Request::decode(&request.encode()), Ok(request));
        let reply = Reply::FlowStats { request: 7, stats: Box::new(stats()) };
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        assert_eq!(stats().path_datagram_bytes, 1 << 48, "the last number is the last field");
    }

    #[test]
    fn a_record_of_another_release_may_carry_fewer_or_more_numbers() {
        let whole = Reply::FlowStats { request: 7, stats: Box::new(stats()) }.encode();
        let count_at = 5;
        let mut longer = whole.clone();
        longer[count_at] += 1;
        assert_eq!(Reply::decode(&longer), Err(Malformed), "a number that is promised is there");
        longer.extend([0xff; 8]);
        assert_eq!(Reply::decode(&longer), Reply::decode(&whole));
        let mut shorter = whole.clone();
        shorter[count_at] -= 1;
        assert_eq!(Reply::decode(&shorter), Err(Malformed), "nothing stands behind the last number");
        shorter.truncate(whole.len() - 8);
        let Ok(Reply::FlowStats { stats: read, .. }) = Reply::decode(&shorter) else { panic!("not read") };
        assert_eq!(*read, FlowStats { path_datagram_bytes: 0, ..stats() });
    }
}

//! The packets that open and refuse a connection: SYN, SYN_ACK, REJECT and RESET, and the CONFIRM block.

use super::{
    ConnectionId, Emitter, FLAG_CONFIRM, FLAG_STATELESS, ParseError, Reader, SYN_LEN, TYPE_REJECT,
    TYPE_RESET, TYPE_SYN, TYPE_SYN_ACK,
};
use crate::wire::ports::{Pair, PortRange};

/// What one side can take, as SYN, SYN_ACK and CONFIRM carry it: 12 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WireLimits {
    /// Largest message in bytes.
    pub max_message: u32,
    /// Messages on their way at most.
    pub window_messages: u32,
    /// Bytes on their way at most.
    pub window_bytes: u32,
}

/// First datagram of a connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syn {
    /// The client's name for the connection.
    pub client: ConnectionId,
    /// The client's first packet number; data starts one above.
    pub number: u32,
    /// Oldest and newest version the client speaks.
    pub versions: (u8, u8),
    /// The listener's port.
    pub port: u16,
    /// The client's flow port.
    pub flow_port: u16,
    /// What the client can take.
    pub limits: WireLimits,
    /// Largest UDP payload of the client's interface.
    pub max_datagram: u16,
    /// Number of the client's engines.
    pub engines: u8,
    /// Opaque to the server, echoed: the client's send time.
    pub stamp: u64,
    /// A pair of ports on which answers land at the client's engine, if it knows one.
    pub answer_on: Option<Pair>,
    /// UDP ports at which the client's sidecar hears; `None`: at the one that it sends from.
    pub hears_at: Option<PortRange>,
}

/// Proof that the server offered exactly this connection to this address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie {
    /// When, in seconds of the server's clock.
    pub issued_s: u32,
    /// Keyed hash over everything negotiated and the client's address.
    pub mac: u64,
}

/// Answer to a SYN. The server keeps nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynAck {
    /// The client's name for the connection.
    pub client: ConnectionId,
    /// The SYN's packet number.
    pub echo: u32,
    /// The version both will speak.
    pub version: u8,
    /// Number of the server's engines.
    pub engines: u8,
    /// The server's name for the connection.
    pub server: ConnectionId,
    /// The server's first packet number; data starts one above.
    pub number: u32,
    /// What the server can take.
    pub limits: WireLimits,
    /// Largest UDP payload of the server's interface.
    pub max_datagram: u16,
    /// The SYN's stamp.
    pub stamp: u64,
    /// To be repeated in CONFIRM.
    pub cookie: Cookie,
    /// A pair of ports on which the client's datagrams land at the server's engine, if it knows one.
    pub send_on: Option<Pair>,
    /// UDP ports at which the server's sidecar hears.
    pub hears_at: PortRange,
}

/// Everything the server needs to make the flow; on every packet of the client until it hears the established server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Confirm {
    /// The client's name for the connection.
    pub client: ConnectionId,
    /// The client's first packet number.
    pub client_number: u32,
    /// The server's first packet number.
    pub server_number: u32,
    /// The listener's port.
    pub port: u16,
    /// The client's flow port.
    pub flow_port: u16,
    /// What the client can take.
    pub client_limits: WireLimits,
    /// What the server said it can take.
    pub server_limits: WireLimits,
    /// The smaller of both sides' largest UDP payloads.
    pub max_datagram: u16,
    /// The version chosen.
    pub version: u8,
    /// Number of the client's engines.
    pub engines: u8,
    /// UDP ports at which the client's sidecar hears.
    pub hears_at: PortRange,
    /// The server's cookie.
    pub cookie: Cookie,
}

/// Answer to a SYN that is not welcome, or the end of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// REJECT: the client's name. RESET: the receiver's name, or echoed from the packet that named an unknown flow.
    pub id: ConnectionId,
    /// The packet number of what is answered, or of the RESET itself.
    pub number: u32,
    /// A reason's code.
    pub reason: u8,
    /// Stateless RESET: the engine of the receiver that owns the flow, as far as its sender said so.
    pub engine: Option<u8>,
}

impl Reader<'_> {
    fn limits(&mut self) -> Result<WireLimits, ParseError> {
        Ok(WireLimits { max_message: self.u32()?, window_messages: self.u32()?, window_bytes: self.u32()? })
    }
    fn cookie(&mut self) -> Result<Cookie, ParseError> {
        Ok(Cookie { issued_s: self.u32()?, mac: self.u64()? })
    }
    fn ports(&mut self) -> Result<PortRange, ParseError> {
        let (first, last) = (self.u16()?, self.u16()?);
        PortRange::new(first, last).filter(|_| first > 0).ok_or(ParseError::Field)
    }
}

pub(super) fn parse_syn(mut r: Reader<'_>) -> Result<Syn, ParseError> {
    if r.0.len() + 2 < SYN_LEN {
        return Err(ParseError::Truncated);
    }
    let syn = Syn {
        client: r.id()?,
        number: r.u32()?,
        versions: (r.u8()?, r.u8()?),
        port: r.u16()?,
        flow_port: r.u16()?,
        max_datagram: r.u16()?,
        limits: r.limits()?,
        stamp: r.u64()?,
        engines: r.u8()?,
        // A SYN of a later version must not be refused for these, but answered with the versions that we speak.
        answer_on: Pair::new(r.u16()?, r.u16()?),
        hears_at: PortRange::new(r.u16()?, r.u16()?).filter(|ports| ports.first() > 0),
    };
    if syn.versions.0 > syn.versions.1 { Err(ParseError::Field) } else { Ok(syn) }
}

pub(super) fn parse_syn_ack(mut r: Reader<'_>) -> Result<SynAck, ParseError> {
    Ok(SynAck {
        client: r.id()?,
        echo: r.u32()?,
        version: r.u8()?,
        engines: r.u8()?,
        server: r.id()?,
        number: r.u32()?,
        max_datagram: r.u16()?,
        limits: r.limits()?,
        stamp: r.u64()?,
        cookie: r.cookie()?,
        send_on: r.pair()?,
        hears_at: r.ports()?,
    })
}

pub(super) fn parse_confirm(r: &mut Reader<'_>) -> Result<Confirm, ParseError> {
    Ok(Confirm {
        client: r.id()?,
        client_number: r.u32()?,
        server_number: r.u32()?,
        port: r.u16()?,
        flow_port: r.u16()?,
        client_limits: r.limits()?,
        server_limits: r.limits()?,
        max_datagram: r.u16()?,
        version: r.u8()?,
        engines: r.u8()?,
        hears_at: r.ports()?,
        cookie: r.cookie()?,
    })
}

pub(super) fn parse_refusal(mut r: Reader<'_>, stateless: bool) -> Result<Refusal, ParseError> {
    let (id, number, engine, reason) = (r.id()?, r.u32()?, r.u8()?, r.u8()?);
    // One more than the engine's index, so that zero is "not known".
    let engine = if stateless { engine.checked_sub(1) } else { None };
    Ok(Refusal { id, number, reason, engine })
}

impl Emitter {
    fn limits(&mut self, limits: &WireLimits) {
        self.put(limits.max_message.to_be_bytes());
        self.put(limits.window_messages.to_be_bytes());
        self.put(limits.window_bytes.to_be_bytes());
    }

    fn cookie(&mut self, cookie: Cookie) {
        self.put(cookie.issued_s.to_be_bytes());
        self.put(cookie.mac.to_be_bytes());
    }

    fn ports(&mut self, ports: PortRange) {
        self.put(ports.first().to_be_bytes());
        self.put(ports.last().to_be_bytes());
    }

    /// CONFIRM.
    pub fn confirm(&mut self, confirm: &Confirm) {
        self.flag(FLAG_CONFIRM);
        self.put(confirm.client.0.to_be_bytes());
        self.put(confirm.client_number.to_be_bytes());
        self.put(confirm.server_number.to_be_bytes());
        self.put(confirm.port.to_be_bytes());
        self.put(confirm.flow_port.to_be_bytes());
        self.limits(&confirm.client_limits);
        self.limits(&confirm.server_limits);
        self.put(confirm.max_datagram.to_be_bytes());
        self.put([confirm.version, confirm.engines]);
        self.ports(confirm.hears_at);
        self.cookie(confirm.cookie);
    }

    /// A whole SYN, padded.
    pub fn syn(&mut self, syn: &Syn) {
        self.start(TYPE_SYN, 0, syn.client, syn.number);
        self.put([syn.versions.0, syn.versions.1]);
        self.put(syn.port.to_be_bytes());
        self.put(syn.flow_port.to_be_bytes());
        self.put(syn.max_datagram.to_be_bytes());
        self.limits(&syn.limits);
        self.put(syn.stamp.to_be_bytes());
        self.put([syn.engines]);
        self.pair(syn.answer_on);
        let hears_at = syn.hears_at.map_or((0, 0), |ports| (ports.first(), ports.last()));
        self.put(hears_at.0.to_be_bytes());
        self.put(hears_at.1.to_be_bytes());
        self.bytes[self.len..SYN_LEN].fill(0);
        self.len = SYN_LEN;
    }

    /// A whole SYN_ACK.
    pub fn syn_ack(&mut self, answer: &SynAck) {
        self.start(TYPE_SYN_ACK, 0, answer.client, answer.echo);
        self.put([answer.version, answer.engines]);
        self.put(answer.server.0.to_be_bytes());
        self.put(answer.number.to_be_bytes());
        self.put(answer.max_datagram.to_be_bytes());
        self.limits(&answer.limits);
        self.put(answer.stamp.to_be_bytes());
        self.cookie(answer.cookie);
        self.pair(answer.send_on);
        self.ports(answer.hears_at);
    }

    /// A whole REJECT.
    pub fn reject(&mut self, refusal: Refusal) {
        self.start(TYPE_REJECT, 0, refusal.id, refusal.number);
        self.put([0, refusal.reason]);
    }

    /// A whole RESET.
    pub fn reset(&mut self, refusal: Refusal, stateless: bool) {
        self.start(TYPE_RESET, if stateless { FLAG_STATELESS } else { 0 }, refusal.id, refusal.number);
        let engine = refusal.engine.map_or(0, |engine| engine.saturating_add(1));
        self.put([engine, refusal.reason]);
    }
}

//! The handshake: SYN, a stateless SYN_ACK with a cookie, and the CONFIRM that makes the flow at the server.

use super::time::Instant;
use super::{Limits, MAX_MESSAGE};
use crate::wire::header::{Confirm, ConnectionId, Cookie, Syn, SynAck, VERSION, WireLimits};
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

/// A cookie is good for so many seconds. Closed flows are remembered for longer, so that a late CONFIRM makes no ghost.
pub(super) const COOKIE_LIFETIME_S: u32 = 10;
/// Oldest version of the protocol that we speak.
pub(super) const OLDEST_VERSION: u8 = VERSION;

impl Limits {
    pub(super) fn to_wire(self) -> WireLimits {
        WireLimits {
            max_message: self.max_message.min(MAX_MESSAGE),
            window_messages: self.window_messages,
            window_bytes: self.window_bytes,
        }
    }

    /// Limits that a peer told, with what makes no sense brought into range.
    pub(super) fn from_wire(wire: WireLimits) -> Self {
        Self {
            max_message: wire.max_message.clamp(1, MAX_MESSAGE),
            window_messages: wire.window_messages.clamp(1, 1 << 20),
            window_bytes: wire.window_bytes,
        }
    }
}

/// Makes and checks cookies: a keyed hash over everything negotiated and the client's address.
#[derive(Debug, Clone)]
pub(super) struct CookieJar {
    key: [u64; 2],
}

impl CookieJar {
    pub(super) fn new(key: [u64; 2]) -> Self {
        Self { key }
    }

    /// The cookie of an offer made at `now`.
    pub(super) fn issue(
        &self,
        now: Instant,
        from: SocketAddr,
        server: ConnectionId,
        offer: &Confirm,
    ) -> Cookie {
        let issued_s = seconds(now);
        Cookie { issued_s, mac: self.mac(issued_s, from.ip(), server, offer) }
    }

    /// Whether `confirm` repeats an offer of ours to this address that is not too old.
    pub(super) fn check(
        &self,
        now: Instant,
        from: SocketAddr,
        server: ConnectionId,
        confirm: &Confirm,
    ) -> bool {
        let age = seconds(now).wrapping_sub(confirm.cookie.issued_s);
        age <= COOKIE_LIFETIME_S
            && confirm.cookie.mac == self.mac(confirm.cookie.issued_s, from.ip(), server, confirm)
    }

    fn mac(&self, issued_s: u32, from: IpAddr, server: ConnectionId, offer: &Confirm) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key[0], self.key[1]);
        hasher.write_u32(issued_s);
        match from {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.write_u32(server.0);
        hasher.write_u32(offer.client.0);
        hasher.write_u32(offer.client_number);
        hasher.write_u32(offer.server_number);
        hasher.write_u16(offer.port);
        hasher.write_u16(offer.flow_port);
        for limits in [offer.client_limits, offer.server_limits] {
            hasher.write_u32(limits.max_message);
            hasher.write_u32(limits.window_messages);
            hasher.write_u32(limits.window_bytes);
        }
        hasher.write_u16(offer.max_datagram);
        hasher.write_u8(offer.version);
        hasher.write_u8(offer.engines);
        hasher.finish()
    }
}

fn seconds(now: Instant) -> u32 {
    super::seq::low(now.as_nanos() / 1_000_000_000)
}

/// The offer that the server makes in answer to `syn`, but for its cookie.
pub(super) fn offer(syn: &Syn, server_number: u32, server_limits: Limits, max_datagram: u16) -> Confirm {
    Confirm {
        client: syn.client,
        client_number: syn.number,
        server_number,
        port: syn.port,
        flow_port: syn.flow_port,
        client_limits: syn.limits,
        server_limits: server_limits.to_wire(),
        max_datagram: syn.max_datagram.min(max_datagram),
        version: VERSION,
        engines: syn.engines,
        cookie: Cookie { issued_s: 0, mac: 0 },
    }
}

/// The same offer as the client understands it from its SYN and the answer.
pub(super) fn accept_offer(syn: &Syn, answer: &SynAck) -> Confirm {
    Confirm {
        client: syn.client,
        client_number: syn.number,
        server_number: answer.number,
        port: syn.port,
        flow_port: syn.flow_port,
        client_limits: syn.limits,
        server_limits: answer.limits,
        max_datagram: syn.max_datagram.min(answer.max_datagram),
        version: answer.version,
        engines: syn.engines,
        cookie: answer.cookie,
    }
}

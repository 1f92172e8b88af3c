//! The handshake: SYN, a stateless SYN_ACK with a cookie, and the CONFIRM that makes the flow at the server.

use super::time::Instant;
use super::{Limits, MAX_MESSAGE};
use crate::wire::header::{Confirm, ConnectionId, Cookie, Syn, SynAck, VERSION, WireLimits};
use crate::wire::ports::PortRange;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

/// A cookie is good for so many seconds. Closed flows are remembered for longer, so that a late CONFIRM makes no ghost.
pub(super) const COOKIE_LIFETIME_S: u32 = 10;
/// So long cookies are made with one key.
const KEY_LIFETIME_S: u32 = 60;
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

/// Makes and checks cookies: a keyed hash over everything negotiated and the client's address. The key changes with time; that
/// of a cookie follows from when it was issued, so the one before stays good as long as its cookies are.
#[derive(Debug, Clone)]
pub(super) struct CookieJar {
    secret: [u64; 2],
}

impl CookieJar {
    pub(super) fn new(secret: [u64; 2]) -> Self {
        Self { secret }
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
        let key = self.key(issued_s / KEY_LIFETIME_S);
        let mut hasher = SipHasher24::new_with_keys(key[0], key[1]);
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
        hasher.write_u16(offer.hears_at.first());
        hasher.write_u16(offer.hears_at.last());
        hasher.finish()
    }

    /// The key of one epoch.
    fn key(&self, epoch: u32) -> [u64; 2] {
        [0, 1].map(|half| {
            let mut hasher = SipHasher24::new_with_keys(self.secret[0], self.secret[1]);
            hasher.write_u32(epoch);
            hasher.write_u8(half);
            hasher.finish()
        })
    }
}

fn seconds(now: Instant) -> u32 {
    super::seq::low(now.as_nanos() / 1_000_000_000)
}

/// The offer that the server makes in answer to `syn`, but for its cookie.
pub(super) fn offer(
    syn: &Syn,
    from: SocketAddr,
    server_number: u32,
    server_limits: Limits,
    max_datagram: u16,
) -> Confirm {
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
        hears_at: hears_at(syn, from),
        cookie: Cookie { issued_s: 0, mac: 0 },
    }
}

/// Where a client hears: what its SYN says, or where it came from.
pub(super) fn hears_at(syn: &Syn, from: SocketAddr) -> PortRange {
    syn.hears_at.unwrap_or(PortRange::only(from.port()))
}

/// The same offer as the client understands it from its SYN and the answer. `hears_at`: what the SYN said.
pub(super) fn accept_offer(syn: &Syn, hears_at: PortRange, answer: &SynAck) -> Confirm {
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
        hears_at,
        cookie: answer.cookie,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 1);

    fn at(seconds: u32) -> Instant {
        Instant::from_nanos(u64::from(seconds) * 1_000_000_000)
    }

    fn offered(jar: &CookieJar, seconds: u32) -> Confirm {
        let limits = WireLimits { max_message: 1, window_messages: 1, window_bytes: 1 };
        let mut offer = Confirm {
            client: ConnectionId(1),
            client_number: 2,
            server_number: 3,
            port: 4,
            flow_port: 5,
            client_limits: limits,
            server_limits: limits,
            max_datagram: 1_472,
            version: VERSION,
            engines: 4,
            hears_at: PortRange::only(7),
            cookie: Cookie { issued_s: 0, mac: 0 },
        };
        offer.cookie = jar.issue(at(seconds), FROM, ConnectionId(9), &offer);
        offer
    }

    #[test]
    fn engines_with_one_secret_check_each_others_cookies_and_others_do_not() {
        let offer = offered(&CookieJar::new([1, 2]), 5);
        assert!(CookieJar::new([1, 2]).check(at(5), FROM, ConnectionId(9), &offer));
        assert!(!CookieJar::new([1, 3]).check(at(5), FROM, ConnectionId(9), &offer));
    }

    #[test]
    fn the_key_changes_each_epoch_and_that_of_the_epoch_before_is_still_good() {
        let jar = CookieJar::new([1, 2]);
        assert_ne!(jar.key(0), jar.key(1));
        let last = offered(&jar, KEY_LIFETIME_S - 1);
        assert!(jar.check(at(KEY_LIFETIME_S + 5), FROM, ConnectionId(9), &last));
        let late = KEY_LIFETIME_S - 1 + COOKIE_LIFETIME_S;
        assert!(jar.check(at(late), FROM, ConnectionId(9), &last));
        assert!(!jar.check(at(late + 1), FROM, ConnectionId(9), &last));
    }

    #[test]
    fn a_cookie_is_good_for_exactly_what_was_offered() {
        let jar = CookieJar::new([1, 2]);
        let offer = offered(&jar, 5);
        let forgeries = [
            Confirm { client: ConnectionId(2), ..offer },
            Confirm { client_number: 9, ..offer },
            Confirm { server_number: 9, ..offer },
            Confirm { port: 9, ..offer },
            Confirm { flow_port: 9, ..offer },
            Confirm { max_datagram: 9, ..offer },
            Confirm { engines: 9, ..offer },
            Confirm { hears_at: PortRange::only(9), ..offer },
            Confirm { cookie: Cookie { issued_s: 6, ..offer.cookie }, ..offer },
        ];
        for forged in forgeries {
            assert!(!jar.check(at(5), FROM, ConnectionId(9), &forged), "{forged:?}");
        }
        assert!(!jar.check(at(5), FROM, ConnectionId(8), &offer));
        let other = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 1);
        assert!(!jar.check(at(5), other, ConnectionId(9), &offer));
        assert!(!jar.check(at(4), FROM, ConnectionId(9), &offer), "it is of the future");
    }
}

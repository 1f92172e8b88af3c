//! What was learned of other hosts, so that later flows are direct from their first packet: bounded, and aged.

use super::ports::{Pair, PortRange};
use super::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most hosts that are remembered: the one that was not used for longest goes first.
pub(super) const MAX_HOSTS: usize = 1_024;
/// What was not used for so long is forgotten: nobody knows whether it still holds.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Most engines of one host to which pairs are remembered, and most listeners.
const MAX_OF_ONE_HOST: usize = 64;

/// One other host.
#[derive(Debug)]
pub(super) struct Host {
    /// Engines of its sidecar.
    pub(super) engines: u8,
    /// Where it hears.
    pub(super) ports: PortRange,
    /// The pair on which its datagrams land at our engine.
    pub(super) heard: Option<Pair>,
    /// Pairs on which ours land at its engines.
    pairs: Vec<(u8, Pair)>,
    /// Which of its engines listens on a port.
    listeners: Vec<(u16, u8)>,
    used: Instant,
}

impl Host {
    /// The pair on which our datagrams land at its engine.
    pub(super) fn pair(&self, engine: u8) -> Option<Pair> {
        self.pairs.iter().find(|(known, _)| *known == engine).map(|(_, pair)| *pair)
    }

    /// The engine that listens on the port.
    pub(super) fn listener(&self, port: u16) -> Option<u8> {
        self.listeners.iter().find(|(known, _)| *known == port).map(|(_, engine)| *engine)
    }

    pub(super) fn set_pair(&mut self, engine: u8, pair: Pair) {
        put(&mut self.pairs, engine, pair);
    }

    pub(super) fn set_listener(&mut self, port: u16, engine: u8) {
        put(&mut self.listeners, port, engine);
    }

    /// The pair works for its engine no longer.
    pub(super) fn forget_pair(&mut self, engine: u8, pair: Pair) {
        self.pairs.retain(|known| *known != (engine, pair));
    }

    /// The host's datagrams on this pair do not land here.
    pub(super) fn forget_heard(&mut self, pair: Pair) {
        if self.heard == Some(pair) {
            self.heard = None;
        }
    }

    /// Every engine with the pair that reaches it.
    pub(super) fn pairs(&self) -> &[(u8, Pair)] {
        &self.pairs
    }
}

/// Replaces the value of a key, or adds it; the oldest goes if there are too many.
fn put<K: PartialEq, V>(list: &mut Vec<(K, V)>, key: K, value: V) {
    if let Some(known) = list.iter_mut().find(|(known, _)| *known == key) {
        known.1 = value;
        return;
    }
    if list.len() >= MAX_OF_ONE_HOST {
        list.remove(0);
    }
    list.push((key, value));
}

/// All hosts that are remembered. An ordered map: its order is the same every run.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    by_ip: BTreeMap<IpAddr, Host>,
}

impl Hosts {
    /// What is known of a host, if it is not too old.
    pub(super) fn look(&mut self, now: Instant, ip: IpAddr) -> Option<&mut Host> {
        let is_old = now.since(self.by_ip.get(&ip)?.used) > MAX_AGE;
        if is_old {
            self.by_ip.remove(&ip);
            return None;
        }
        let host = self.by_ip.get_mut(&ip)?;
        host.used = now;
        Some(host)
    }

    /// What a handshake told of a host. Where that changed, nothing that was learned holds any longer.
    pub(super) fn meet(&mut self, now: Instant, ip: IpAddr, engines: u8, ports: PortRange) -> &mut Host {
        if self.by_ip.len() >= MAX_HOSTS && !self.by_ip.contains_key(&ip) {
            self.drop_oldest();
        }
        let fresh =
            || Host { engines, ports, heard: None, pairs: Vec::new(), listeners: Vec::new(), used: now };
        let host = self.by_ip.entry(ip).or_insert_with(fresh);
        if (host.engines, host.ports) != (engines, ports) || now.since(host.used) > MAX_AGE {
            *host = fresh();
        }
        host.used = now;
        host
    }

    fn drop_oldest(&mut self) {
        let oldest = self.by_ip.iter().min_by_key(|(_, host)| host.used).map(|(ip, _)| *ip);
        if let Some(ip) = oldest {
            self.by_ip.remove(&ip);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_ip.len()
    }

    /// Every host.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, &Host)> {
        self.by_ip.iter().map(|(ip, host)| (*ip, host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const PORTS: PortRange = PortRange::only(7);

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn more_hosts_than_there_is_room_for_drop_the_one_that_was_not_used_for_longest() {
        let mut hosts = Hosts::default();
        for number in 0..2_000 {
            hosts.meet(at(u64::from(number) / 10), ip(number), 4, PORTS);
            assert!(hosts.look(at(u64::from(number) / 10), ip(0)).is_some(), "it is in use");
        }
        assert_eq!(hosts.len(), MAX_HOSTS);
        assert!(hosts.look(at(200), ip(1)).is_none());
        assert!(hosts.look(at(200), ip(1_999)).is_some());
    }

    #[test]
    fn what_was_learned_is_forgotten_when_it_is_old_or_the_host_came_back_with_other_engines() {
        let mut hosts = Hosts::default();
        let pair = Pair { from: 1, to: 7 };
        hosts.meet(at(0), ip(1), 4, PORTS).set_pair(3, pair);
        assert_eq!(hosts.look(at(600), ip(1)).and_then(|host| host.pair(3)), Some(pair));
        assert!(hosts.look(at(1_201), ip(1)).is_none());
        hosts.meet(at(1_300), ip(1), 4, PORTS).set_pair(3, pair);
        assert_eq!(hosts.meet(at(1_300), ip(1), 4, PORTS).pair(3), Some(pair));
        assert_eq!(hosts.meet(at(1_300), ip(1), 5, PORTS).pair(3), None);
    }

    #[test]
    fn one_host_with_many_listeners_and_engines_has_its_bound() {
        let mut hosts = Hosts::default();
        let host = hosts.meet(at(0), ip(1), 255, PORTS);
        for number in 0..255 {
            host.set_listener(u16::from(number), number);
            host.set_pair(number, Pair { from: 1, to: u16::from(number) + 1 });
        }
        assert_eq!((host.pairs.len(), host.listeners.len()), (MAX_OF_ONE_HOST, MAX_OF_ONE_HOST));
        assert_eq!((host.listener(0), host.listener(254)), (None, Some(254)));
        host.forget_pair(254, Pair { from: 1, to: 255 });
        assert_eq!(host.pair(254), None);
    }
}

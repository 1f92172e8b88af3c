//! Where a packet goes next: to its destination, if that is on the link, else to a gateway.

use crate::driver::Route;
use crate::driver::route::network_of;
use std::net::Ipv4Addr;

/// All ways of one host.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    /// Longest prefix first.
    routes: Vec<Route>,
    /// What everybody on the link is addressed by, if the link has room for it (RFC 3021: one of 31 bits has not).
    broadcast: Option<Ipv4Addr>,
}

impl Routes {
    /// The ways of a host with this address: the link's own network, and `others`.
    pub(super) fn new(address: Ipv4Addr, prefix_bits: u8, others: &[Route]) -> Self {
        let link = Route { network: network_of(address, prefix_bits), prefix_bits, via: None };
        let mut routes = vec![link];
        routes.extend(others);
        // Stable: of two equal ones the link's own holds.
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix_bits));
        let host_bits = u32::MAX.checked_shr(u32::from(prefix_bits)).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits);
        Self { routes, broadcast: (prefix_bits < 31).then_some(broadcast) }
    }

    /// The address on the link that a packet to `address` is handed to; none if there is no way.
    pub(super) fn next_hop(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        if !self.is_of_one_host(address) {
            return None;
        }
        let route = self.routes.iter().find(|route| route.contains(address))?;
        Some(route.via.unwrap_or(address))
    }

    /// Whether the address can be that of one host: neither a group's, nor everybody's, nor nobody's.
    #[inline]
    pub(super) fn is_of_one_host(&self, address: Ipv4Addr) -> bool {
        // 224.0.0.0 and above: groups, what is reserved, and everybody.
        let [first, ..] = address.octets();
        first != 0 && first != 127 && first < 224 && Some(address) != self.broadcast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_routes() -> Routes {
        let via = |network: [u8; 4], prefix_bits, gateway: u8| Route {
            network: network.into(),
            prefix_bits,
            via: Some([10, 0, 0, gateway].into()),
        };
        let on_link = Route { network: [10, 8, 0, 0].into(), prefix_bits: 16, via: None };
        let others = [via([0; 4], 0, 1), via([10, 9, 0, 0], 16, 2), via([10, 9, 3, 7], 32, 3), on_link];
        Routes::new([10, 0, 0, 5].into(), 24, &others)
    }

    #[test]
    fn the_longest_prefix_holds() {
        for (to, hop) in [
            ([10, 0, 0, 9], [10, 0, 0, 9]),
            ([10, 0, 1, 9], [10, 0, 0, 1]),
            ([8, 8, 8, 8], [10, 0, 0, 1]),
            ([10, 9, 3, 8], [10, 0, 0, 2]),
            ([10, 9, 3, 7], [10, 0, 0, 3]),
            ([10, 8, 200, 1], [10, 8, 200, 1]),
        ] {
            assert_eq!(some_routes().next_hop(to.into()), Some(hop.into()), "{to:?}");
        }
        let alone = Routes::new([10, 0, 0, 5].into(), 24, &[]);
        assert_eq!(alone.next_hop([10, 0, 1, 9].into()), None);
    }

    #[test]
    fn what_is_no_host_has_no_way() {
        for to in [[10, 0, 0, 255], [255; 4], [0; 4], [224, 0, 0, 1], [240, 0, 0, 1], [127, 0, 0, 1]] {
            assert_eq!(some_routes().next_hop(to.into()), None, "{to:?}");
        }
        // A link of two hosts, as clouds and point-to-point links have them.
        let pair = Routes::new([10, 0, 0, 4].into(), 31, &[]);
        assert_eq!(pair.next_hop([10, 0, 0, 5].into()), Some([10, 0, 0, 5].into()));
        let single = Routes::new([10, 0, 0, 4].into(), 32, &[]);
        assert_eq!(single.next_hop([10, 0, 0, 5].into()), None);
    }
}

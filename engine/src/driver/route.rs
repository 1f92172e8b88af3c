//! Where datagrams for a network go.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A network, and the router that leads to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// The first address of the network: the bits behind the prefix are zero.
    pub network: Ipv4Addr,
    /// Leading bits that all its addresses share, 0 to 32.
    pub prefix_bits: u8,
    /// The next hop; none: the addresses are on the link itself.
    pub via: Option<Ipv4Addr>,
}

impl Route {
    /// Whether the address belongs to the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        network_of(address, self.prefix_bits) == self.network
    }
}

/// The address with the bits behind the prefix set to zero.
pub fn network_of(address: Ipv4Addr, prefix_bits: u8) -> Ipv4Addr {
    let host_bits = 32 - u32::from(prefix_bits.min(32));
    let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)?;
        match self.via {
            Some(via) => write!(f, " via {via}"),
            None => Ok(()),
        }
    }
}

/// The text is not a network with or without a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a route looks like 10.9.0.0/16 via 10.0.0.1")]
pub struct RouteError;

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (destination, via) = match text.trim().split_once(" via ") {
            Some((destination, via)) => {
                let via: Ipv4Addr = via.trim().parse().map_err(|_| RouteError)?;
                (destination, Some(via).filter(|via| is_host(*via)).ok_or(RouteError).map(Some)?)
            }
            None => (text.trim(), None),
        };
        let (network, prefix_bits) = address_with_prefix(destination.trim()).ok_or(RouteError)?;
        let prefix_bits = prefix_bits.ok_or(RouteError)?;
        if network_of(network, prefix_bits) != network {
            return Err(RouteError);
        }
        Ok(Self { network, prefix_bits, via })
    }
}

/// Whether the address can be that of one host: no network, group or broadcast to all.
pub fn is_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
}

/// Reads "10.0.0.5" or "10.0.0.5/24".
pub fn address_with_prefix(text: &str) -> Option<(Ipv4Addr, Option<u8>)> {
    let Some((address, bits)) = text.split_once('/') else {
        return Some((text.parse().ok()?, None));
    };
    let is_number = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits: u8 = is_number.then(|| bits.parse().ok())??;
    (bits <= 32).then_some((address.parse().ok()?, Some(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["10.9.0.0/16 via 10.0.0.1", "0.0.0.0/0 via 10.0.0.1", "10.1.2.3/32", "10.0.0.0/8"] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "10.9.0.0",
            "10.9.0.0 via 10.0.0.1",
            "10.9.0.1/16 via 10.0.0.1",
            "10.9.0.0/33",
            "10.9.0.0/+8",
            "10.9.0.0/16 via",
            "10.9.0.0/16 via 0.0.0.0",
            "10.9.0.0/16 via 224.0.0.1",
            "10.9.0.0/16 through 10.0.0.1",
        ] {
            assert_eq!(text.parse::<Route>(), Err(RouteError), "{text}");
        }
    }

    #[test]
    fn a_network_has_the_addresses_that_share_its_prefix() {
        let all: Route = "0.0.0.0/0 via 10.0.0.1".parse().unwrap();
        let some: Route = "10.9.0.0/16".parse().unwrap();
        let one: Route = "10.9.3.4/32".parse().unwrap();
        let is_in = |text: &str| [all, some, one].map(|route| route.contains(text.parse().unwrap()));
        assert_eq!(is_in("10.9.3.4"), [true, true, true]);
        assert_eq!(is_in("10.9.3.5"), [true, true, false]);
        assert_eq!(is_in("10.10.0.0"), [true, false, false]);
    }
}

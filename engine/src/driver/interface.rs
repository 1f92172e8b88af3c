//! What the kernel knows of the network interfaces of this host.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;

use super::netlink::{self, Message, u32_at};
use super::{MacAddress, Route, network_of};

/// Kinds of questions, of their answers, and of attributes (linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h).
mod number {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const GET_LINK: u16 = 18;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const GET_ADDRESS: u16 = 22;
    pub(super) const NEW_ROUTE: u16 = 24;
    pub(super) const GET_ROUTE: u16 = 26;

    pub(super) const LINK_ADDRESS: u16 = 1;
    pub(super) const LINK_NAME: u16 = 3;
    pub(super) const LINK_MTU: u16 = 4;
    pub(super) const LINK_TX_QUEUES: u16 = 31;
    pub(super) const LINK_RX_QUEUES: u16 = 32;

    pub(super) const ADDRESS_ADDRESS: u16 = 1;
    pub(super) const ADDRESS_LOCAL: u16 = 2;

    pub(super) const ROUTE_DESTINATION: u16 = 1;
    pub(super) const ROUTE_INTERFACE: u16 = 4;
    pub(super) const ROUTE_GATEWAY: u16 = 5;
    pub(super) const ROUTE_METRIC: u16 = 6;
}

/// Bytes of `struct ifinfomsg`, `ifaddrmsg` and `rtmsg`.
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;

/// `ARPHRD_ETHER` of linux/if_arp.h.
const KIND_ETHERNET: u16 = 1;

/// `IFF_LOWER_UP` of linux/if.h: there is a carrier.
const FLAG_LOWER_UP: u32 = 1 << 16;

/// `RT_TABLE_MAIN` and `RTN_UNICAST` of linux/rtnetlink.h.
const TABLE_MAIN: u8 = 254;
const ROUTE_UNICAST: u8 = 1;

/// An interface as it was when the kernel was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its number; one that was deleted and made again has another.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; none: it is no Ethernet interface (a tunnel, the loopback).
    pub mac: Option<MacAddress>,
    /// Bytes of the largest IP packet.
    pub mtu: usize,
    /// Whether it was set up.
    pub is_up: bool,
    /// Whether there is somebody at the other end of the cable.
    pub has_carrier: bool,
    /// Whether it leads nowhere but back.
    pub is_loopback: bool,
    /// Receive queues that it has.
    pub receive_queues: u32,
    /// Transmit queues that it has.
    pub transmit_queues: u32,
    /// Its IPv4 addresses, each with the length of its network's prefix.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// The kernel's routes through it, without those of its own networks; of several to one network the best.
    pub routes: Vec<Route>,
    /// Whether the kernel sends through it what has no other route: usually the way by which an operator came here.
    pub is_default: bool,
}

impl Interface {
    /// The prefix of an address that the kernel has here.
    pub fn prefix_of(&self, address: Ipv4Addr) -> Option<u8> {
        self.addresses.iter().find(|(own, _)| *own == address).map(|(_, bits)| *bits)
    }
}

impl fmt::Display for Interface {
    /// "eth0 (10.0.0.5/24)", for lists of what there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> =
            self.addresses.iter().map(|(address, bits)| format!("{address}/{bits}")).collect();
        let what = match (addresses.is_empty(), self.is_up) {
            (false, true) => addresses.join(", "),
            (false, false) => format!("{}; down", addresses.join(", ")),
            (true, true) => "no IPv4 address".to_owned(),
            (true, false) => "down".to_owned(),
        };
        write!(f, "{} ({what})", self.name)
    }
}

/// Why no interface was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// None has that name.
    #[error("there is no interface {name}; this host has: {}; `ip -brief address` lists them", Listed(found))]
    NoSuchName {
        /// What was asked for.
        name: String,
        /// What there is.
        found: Vec<Interface>,
    },
    /// None has that address.
    #[error(
        "no interface of this host has the address {address}; it has: {}; name the interface with --interface and the address with \
         its prefix, such as --address {address}/24, if the kernel is not to have it",
        Listed(found)
    )]
    NoSuchAddress {
        /// What was asked for.
        address: Ipv4Addr,
        /// What there is.
        found: Vec<Interface>,
    },
    /// The kernel did not answer.
    #[error("cannot ask the kernel for its network interfaces: {0}")]
    System(#[from] io::Error),
}

struct Listed<'a>(&'a [Interface]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

/// The interface of that name, or without one the one that has the address.
pub fn find(name: Option<&str>, address: Ipv4Addr) -> Result<Interface, InterfaceError> {
    let mut found = all()?;
    let place = match name {
        Some(name) => found.iter().position(|interface| interface.name == name),
        None => found.iter().position(|interface| interface.prefix_of(address).is_some()),
    };
    match (place, name) {
        (Some(place), _) => Ok(found.swap_remove(place)),
        (None, Some(name)) => Err(InterfaceError::NoSuchName { name: name.to_owned(), found }),
        (None, None) => Err(InterfaceError::NoSuchAddress { address, found }),
    }
}

/// Every interface of the network namespace of the calling thread, in the kernel's order.
pub fn all() -> io::Result<Vec<Interface>> {
    let mut found = Vec::new();
    netlink::dump(number::GET_LINK, &[0; LINK_BYTES], number::NEW_LINK, LINK_BYTES, |message| {
        found.extend(interface(&message));
    })?;
    let ipv4 = u8::try_from(libc::AF_INET).expect("families are small numbers");
    let mut question = [0; ADDRESS_BYTES];
    question[0] = ipv4;
    netlink::dump(number::GET_ADDRESS, &question, number::NEW_ADDRESS, ADDRESS_BYTES, |message| {
        if let Some((index, address)) = address(&message)
            && let Some(interface) = found.iter_mut().find(|interface| interface.index == index)
        {
            interface.addresses.push(address);
        }
    })?;
    let mut question = [0; ROUTE_BYTES];
    question[0] = ipv4;
    let mut routes = Vec::new();
    netlink::dump(number::GET_ROUTE, &question, number::NEW_ROUTE, ROUTE_BYTES, |message| {
        routes.extend(route(&message));
    })?;
    add_routes(&mut found, routes);
    Ok(found)
}

fn interface(message: &Message<'_>) -> Option<Interface> {
    let flags = u32_at(message.fixed, 8)?;
    let has = |flag: i32| flags & flag.cast_unsigned() != 0;
    let is_ethernet = netlink::u16_at(message.fixed, 2)? == KIND_ETHERNET;
    let mac = message.attribute(number::LINK_ADDRESS).and_then(|bytes| bytes.try_into().ok());
    Some(Interface {
        index: u32_at(message.fixed, 4)?,
        name: text(message.attribute(number::LINK_NAME)?),
        mac: mac.map(MacAddress).filter(|_| is_ethernet),
        mtu: usize::try_from(message.number(number::LINK_MTU)?).ok()?,
        is_up: has(libc::IFF_UP),
        has_carrier: flags & FLAG_LOWER_UP != 0,
        is_loopback: has(libc::IFF_LOOPBACK),
        receive_queues: message.number(number::LINK_RX_QUEUES).unwrap_or(1),
        transmit_queues: message.number(number::LINK_TX_QUEUES).unwrap_or(1),
        addresses: Vec::new(),
        routes: Vec::new(),
        is_default: false,
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

fn address(message: &Message<'_>) -> Option<(u32, (Ipv4Addr, u8))> {
    // On a point-to-point link, the other attribute is the peer's address.
    let own =
        message.attribute(number::ADDRESS_LOCAL).or_else(|| message.attribute(number::ADDRESS_ADDRESS))?;
    Some((u32_at(message.fixed, 4)?, (ipv4(own)?, *message.fixed.get(1)?)))
}

/// A route of the kernel: through which interface, how good (0 is best), and what it says.
type Found = (u32, u32, Route);

fn route(message: &Message<'_>) -> Option<Found> {
    let is_ours = message.fixed.get(4) == Some(&TABLE_MAIN) && message.fixed.get(7) == Some(&ROUTE_UNICAST);
    let index = message.number(number::ROUTE_INTERFACE).filter(|_| is_ours)?;
    let prefix_bits = *message.fixed.get(1)?;
    let destination = match message.attribute(number::ROUTE_DESTINATION) {
        Some(bytes) => ipv4(bytes)?,
        None => Ipv4Addr::UNSPECIFIED,
    };
    let via = message.attribute(number::ROUTE_GATEWAY).and_then(ipv4);
    let network = network_of(destination, prefix_bits);
    Some((index, message.number(number::ROUTE_METRIC).unwrap_or(0), Route { network, prefix_bits, via }))
}

fn add_routes(interfaces: &mut [Interface], mut routes: Vec<Found>) {
    // The best come first, and only the first to each network counts.
    routes.sort_by_key(|(_, metric, _)| *metric);
    let default = routes.iter().find(|(_, _, route)| route.prefix_bits == 0).map(|(index, ..)| *index);
    for (index, _, route) in routes {
        let Some(interface) = interfaces.iter_mut().find(|interface| interface.index == index) else {
            continue;
        };
        let is_known =
            |known: &Route| (known.network, known.prefix_bits) == (route.network, route.prefix_bits);
        let is_own_network = route.via.is_none()
            && interface.addresses.iter().any(|(address, bits)| {
                *bits == route.prefix_bits && network_of(*address, *bits) == route.network
            });
        if !is_own_network && !interface.routes.iter().any(is_known) {
            interface.routes.push(route);
        }
        interface.is_default = default == Some(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_of_this_host_is_found_by_name_and_by_address() {
        let found = all().unwrap();
        let loopback = found.iter().find(|interface| interface.is_loopback).expect("every host has one");
        assert_eq!(loopback.mac, None);
        assert_eq!(find(Some(&loopback.name), Ipv4Addr::new(1, 2, 3, 4)).unwrap().index, loopback.index);
        if let Some((address, bits)) = loopback.addresses.first() {
            assert_eq!(find(None, *address).unwrap().prefix_of(*address), Some(*bits));
        }
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_there_is() {
        let text = find(Some("nowhere0"), Ipv4Addr::LOCALHOST).unwrap_err().to_string();
        assert!(text.starts_with("there is no interface nowhere0; this host has: lo"), "{text}");
        let text = find(None, Ipv4Addr::new(192, 0, 2, 1)).unwrap_err().to_string();
        assert!(text.contains("has the address 192.0.2.1") && text.contains("lo ("), "{text}");
    }

    fn named(index: u32, name: &str, addresses: &[(Ipv4Addr, u8)]) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            mac: None,
            mtu: 1_500,
            is_up: true,
            has_carrier: true,
            is_loopback: false,
            receive_queues: 1,
            transmit_queues: 1,
            addresses: addresses.to_vec(),
            routes: Vec::new(),
            is_default: false,
        }
    }

    #[test]
    fn of_several_routes_the_best_counts_and_own_networks_are_none() {
        let parse = |text: &str| text.parse::<Route>().unwrap();
        let mut interfaces = [named(2, "eth0", &[([10, 0, 0, 5].into(), 24)]), named(3, "eth1", &[])];
        let routes = vec![
            (2, 200, parse("0.0.0.0/0 via 10.0.0.1")),
            (3, 100, parse("0.0.0.0/0 via 10.1.0.1")),
            (2, 0, parse("10.0.0.0/24")),
            (2, 20, parse("10.9.0.0/16 via 10.0.0.2")),
            (2, 10, parse("10.9.0.0/16 via 10.0.0.3")),
            (9, 0, parse("10.8.0.0/16 via 10.0.0.3")),
        ];
        add_routes(&mut interfaces, routes);
        assert_eq!(
            interfaces[0].routes,
            [parse("10.9.0.0/16 via 10.0.0.3"), parse("0.0.0.0/0 via 10.0.0.1")]
        );
        assert_eq!(interfaces[1].routes, [parse("0.0.0.0/0 via 10.1.0.1")]);
        assert_eq!((interfaces[0].is_default, interfaces[1].is_default), (false, true));
    }

    #[test]
    fn an_interface_is_shown_with_what_tells_it_from_others() {
        let mut interface = named(2, "eth0", &[([10, 0, 0, 5].into(), 24)]);
        assert_eq!(interface.to_string(), "eth0 (10.0.0.5/24)");
        interface.is_up = false;
        assert_eq!(interface.to_string(), "eth0 (10.0.0.5/24; down)");
        interface.addresses.clear();
        assert_eq!(interface.to_string(), "eth0 (down)");
    }
}

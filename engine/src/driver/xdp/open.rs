//! From the settings of a sidecar to its queues.

use super::group::tries;
use super::{AttachBy, Match, OpenError, Settings, XdpQueue};
use crate::config::{Config, source_ports};
use crate::driver::frame::{Framed, Setup};
use crate::driver::interface::{self, Interface};
use crate::driver::lock::{AddressLock, LockError};
use crate::driver::packet;
use crate::proto::PortRange;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Fewer bytes than every IPv4 path takes are none.
const LEAST_MTU: usize = 1_280;

/// Opens one queue for each engine, on the interface that the settings name or that has their address.
pub fn open(config: &Config) -> Result<Vec<Framed<XdpQueue>>, OpenError> {
    let IpAddr::V4(address) = config.address else {
        return Err(OpenError::Settings(format!(
            "driver xdp needs an IPv4 address, and {} is none (--address)",
            config.address
        )));
    };
    if config.udp_port == 0 {
        return Err(OpenError::Settings("driver xdp needs a UDP port other than 0 (--udp-port)".to_owned()));
    }
    let interface = interface::find(config.interface.as_deref(), address)?;
    check(&interface)?;
    let setup = setup(config, address, &interface)?;
    let settings = Settings {
        interface: interface.name,
        frames: Match { address: Some(address), ports: setup.ports, vlan: setup.vlan },
        mode: config.xdp_mode,
        zero_copy: config.zero_copy,
        queues: config.engines,
        attach_by: AttachBy::default(),
    };
    let own = SocketAddr::from((address, config.udp_port));
    // A sidecar that was just killed may take a moment to be gone.
    let is_held = |error: &LockError| matches!(error, LockError::Held { .. });
    let lock = tries(true, is_held, || AddressLock::acquire(own));
    let lock = lock.map_err(|source| OpenError::Address { address: own, source })?;
    Ok(Framed::group(&setup, super::open_locked(settings, Some(lock))?))
}

fn check(interface: &Interface) -> Result<(), OpenError> {
    if interface.mac.is_none() || interface.is_loopback {
        return Err(OpenError::Settings(format!(
            "{} is no Ethernet interface; driver xdp needs one, and driver udp works on all (--driver udp)",
            interface.name
        )));
    }
    if interface.mtu < LEAST_MTU {
        return Err(OpenError::Settings(format!(
            "{} has an MTU of {}, and {LEAST_MTU} are needed: `ip link set dev {} mtu 1500`",
            interface.name, interface.mtu, interface.name
        )));
    }
    if !interface.is_up {
        tracing::warn!("{0} is down: `ip link set dev {0} up`", interface.name);
    }
    Ok(())
}

fn setup(config: &Config, address: Ipv4Addr, interface: &Interface) -> Result<Setup, OpenError> {
    let known = interface.prefix_of(address);
    // The kernel may have the address on another interface, such as that of the VLAN.
    let elsewhere = || {
        let all = interface::all().unwrap_or_default();
        all.iter().find_map(|other| other.prefix_of(address))
    };
    let anywhere = known.or_else(elsewhere);
    let Some(prefix_bits) = config.prefix.or(anywhere) else {
        return Err(OpenError::Settings(format!(
            "the kernel does not have {address}; name it with the length of its network's prefix, such as --address {address}/24"
        )));
    };
    let ports = source_ports(config.udp_ports.as_ref(), config.udp_port, config.engines);
    let ports = PortRange::new(*ports.start(), *ports.end()).unwrap_or(PortRange::only(config.udp_port));
    Ok(Setup {
        address,
        prefix_bits,
        routes: packet::routes(config, interface),
        neighbours: config.neighbours.clone(),
        vlan: config.vlan,
        udp_port: config.udp_port,
        ports,
        mtu: config.mtu.map(|mtu| mtu as usize),
        kernel_answers: anywhere.is_some(),
    })
}

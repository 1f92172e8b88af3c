//! Addresses between Rust and JavaScript, which looked up names before.

use machnet_client::Error;
use napi_derive::napi;
use std::net::{IpAddr, SocketAddr};

/// An address.
#[napi(object)]
#[derive(Clone, Debug)]
pub struct Address {
    /// In numbers, such as "10.0.0.5".
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// An address in numbers.
pub(crate) fn parse(host: &str, port: u16) -> Result<SocketAddr, Error> {
    Ok(SocketAddr::new(parse_host(host)?, port))
}

/// A host in numbers.
pub(crate) fn parse_host(host: &str) -> Result<IpAddr, Error> {
    host.parse()
        .map_err(|_| Error::InvalidArgument { what: format!("{host:?} is not an address in numbers") })
}

/// An address as JavaScript sees it.
pub(crate) fn show(address: SocketAddr) -> Address {
    Address { host: address.ip().to_string(), port: address.port() }
}

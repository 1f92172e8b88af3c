//! Addresses as Python writes them: `"10.0.0.5:888"` or `("10.0.0.5", 888)`.

use crate::errors::OrRaise;
use machnet_client::Error;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};

/// The address that an argument means; a name is looked up with the interpreter free.
pub(crate) fn parse(py: Python<'_>, address: &Bound<'_, PyAny>) -> PyResult<SocketAddr> {
    if let Ok(text) = address.extract::<String>() {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        return py.detach(|| first(text.as_str())).or_raise(py);
    }
    let Ok((host, port)) = address.extract::<(String, u16)>() else {
        return Err(PyTypeError::new_err("an address is \"host:port\" or (host, port)"));
    };
    py.detach(|| first((host.as_str(), port))).or_raise(py)
}

fn first(name: impl ToSocketAddrs) -> Result<SocketAddr, Error> {
    let mut addresses = name.to_socket_addrs().map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => Error::InvalidArgument { what: error.to_string() },
        _ => Error::Io(error),
    })?;
    addresses.next().ok_or_else(|| Error::InvalidArgument { what: "the name has no address".into() })
}

/// An address as Python's sockets show it.
pub(crate) fn show(address: SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

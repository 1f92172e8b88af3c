//! STUB until the sidecar is merged.

use crate::config::Config;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar;

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Configuration.
    #[error("{0}")]
    Config(String),
    /// Stub.
    #[error("this build has no sidecar yet")]
    Stub,
}

impl Sidecar {
    /// Starts.
    pub fn start(_config: &Config) -> Result<Self, StartError> {
        Err(StartError::Stub)
    }
    /// Socket.
    pub fn socket(&self) -> &Path {
        Path::new("/")
    }
    /// Address.
    pub fn local_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }
    /// Ends.
    pub fn shutdown(self, _linger: Duration) {}
}

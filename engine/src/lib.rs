//! The Machnet sidecar as a library: the protocol core, the drivers, the engine and the controller.

pub mod config;
pub mod driver;
pub mod proto;
pub mod wire;

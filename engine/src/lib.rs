//! The Machnet sidecar as a library: the protocol core, the drivers, the engine and the controller.

pub mod clock;
pub mod counters;
pub mod driver;
pub mod proto;
pub mod tenant;
pub mod wire;

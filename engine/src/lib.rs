//! The Machnet sidecar as a library: the protocol core, the drivers, the engine and the controller.

mod bridge;
pub mod clock;
pub mod config;
pub mod controller;
pub mod counters;
pub mod driver;
mod frames;
pub mod host;
pub mod idle;
pub mod mailbox;
pub mod neighbours;
pub mod proto;
mod relay;
pub mod sidecar;
pub mod status;
pub mod sys;
pub mod tenant;
pub mod wire;
pub mod worker;

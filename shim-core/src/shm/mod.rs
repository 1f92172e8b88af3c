//! The memory contract between an application and its engine: layout, mapping, rings, doorbell and ledgers.
//!
//! Both sides use this module. It is public for the sidecar and the benches; applications use the crate's root.

pub mod atomic;
pub mod bell;
pub mod layout;
pub mod ledger;
pub mod region;
pub mod ring;

pub use layout::Geometry;

#[cfg(all(test, loom))]
mod models;

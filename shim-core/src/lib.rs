//! Attach to a Machnet sidecar over shared memory and exchange whole messages.

pub mod control;
pub mod shm;
pub mod socket;

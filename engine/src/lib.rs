//! The Machnet sidecar as a library: the protocol core, the drivers, the engine and the controller.

<<<<<<< HEAD
pub mod clock;
pub mod counters;
pub mod driver;
pub mod proto;
pub mod tenant;
=======
pub mod driver;
pub mod proto;
>>>>>>> driver
pub mod wire;

//! Bytes of the network: parse to a value or a named reason, and emit. `header` is ours; the frame formats come with the
//! frame drivers.

pub mod header;
pub mod ports;

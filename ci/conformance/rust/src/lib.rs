//! What the two Rust agents of the conformance suite share: contents, commands and answers. ci/conformance/README.md specifies
//! them.

pub mod command;
pub mod content;
pub mod numbers;

//! The C boundary: `machnet.h`, `machnet_common.h` and libmachnet, over [`machnet_client`].
//!
//! The headers in `include/` are written from these sources by `ci/c-header.sh`; a test compares them. What C programs read
//! about a function is the comment above it here.
//!
//! [`compat`] has the functions of the original C library, so that a program written for it only has to be compiled again. The
//! others follow one pattern: they answer an `int32_t` status, hand results out through pointers, and name objects by opaque
//! handles.

pub mod batch;
mod boundary;
pub mod cancel;
pub mod channel;
pub mod common;
pub mod compat;
pub mod flow;
pub mod message;
pub mod news;
pub mod stats;
pub mod status;
pub mod stream;

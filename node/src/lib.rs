//! The native half of the Node.js package `machnet`: calls of `machnet-client` that never wait, with JavaScript's buffers.
//!
//! What happens per message goes through plain functions ([`sys::define`]) that name a flow by a number: a call costs a tenth
//! of one of a class's methods. The rest are classes and promises as napi-rs makes them. Waiting is done by `lib/waiting.js`, on a
//! handle of libuv ([`wait`]); calls that ask the sidecar over its socket run in libuv's pool.

mod address;
mod channel;
mod errors;
mod flow;
mod listener;
mod message;
mod stats;
mod stream;
mod sys;
mod table;
mod wait;

use napi::bindgen_prelude::{Object, Result};
use napi_derive::napi;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The functions that carry messages.
#[napi(module_exports)]
#[allow(dead_code, reason = "called by what the macro makes")]
fn init(mut exports: Object<'_>) -> Result<()> {
    flow::define(&mut exports)?;
    stream::define(&mut exports)?;
    wait::define(&mut exports)
}

/// The version of the package.
#[napi]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Becomes another program. Comes back only with an error, in words.
#[napi]
pub fn become_program(path: String, arguments: Vec<String>) -> String {
    fn attempt(path: String, arguments: Vec<String>) -> io::Result<Infallible> {
        // Node marks its standard descriptors to be closed in other programs; a duplicate put in their place is not.
        let command = &mut Command::new(path);
        command.args(arguments);
        command.stdin(io::stdin().as_fd().try_clone_to_owned()?);
        command.stdout(io::stdout().as_fd().try_clone_to_owned()?);
        command.stderr(io::stderr().as_fd().try_clone_to_owned()?);
        Err(command.exec())
    }
    match attempt(path, arguments) {
        Err(error) => error.to_string(),
    }
}

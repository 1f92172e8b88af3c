//! An application in a process of its own, beside a bench that runs the engine: started, and asked what it measured.

use crate::rig::{self, ELSEWHERE, PATIENCE};
use crate::{cpu, roles::Role};
use machnet_client::{AttachOptions, Channel, FlowId};
use std::io;
use std::path::Path;

/// In place of an address: the bench itself is the engine, and there is one flow, whose peer it is.
pub const BARE: &str = "bare";

/// Starts this program again in a role that begins with [`attach`].
pub fn start(role: &str, socket: &Path, at: &str) -> io::Result<Role> {
    let socket = socket.to_str().ok_or_else(|| io::Error::other("a socket's path in UTF-8"))?;
    Role::start(role, &[socket, at], true)
}

/// Waits for its end. It printed one number.
pub fn outcome(application: Role) -> io::Result<f64> {
    let text = application.output()?;
    text.trim().parse().map_err(|_| io::Error::other(format!("the application said: {text}")))
}

/// The child's part: attaches where its arguments say, goes to the second processor, and opens a flow to send on and one to
/// receive from. The bench as the engine answers on the flow itself; a whole engine connects the application to itself.
pub fn attach(arguments: &[String]) -> io::Result<(Channel, FlowId, FlowId)> {
    let [socket, at] = arguments else {
        return Err(io::Error::other("an application's role takes a socket and an address"));
    };
    let mut channel = AttachOptions::new().socket(socket).attach_channel().map_err(io::Error::other)?;
    cpu::pin(&cpu::available(), 1);
    if at == BARE {
        let somewhere = ELSEWHERE.parse().map_err(io::Error::other)?;
        let flow = channel.connect(somewhere, None, Some(PATIENCE)).map_err(io::Error::other)?;
        return Ok((channel, flow, flow));
    }
    let (out, back) = rig::connect_to_self(&mut channel, at.parse().map_err(io::Error::other)?);
    Ok((channel, out, back))
}

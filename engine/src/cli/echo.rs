//! The sidecar's answer to `machnet ping`: an ordinary application inside the sidecar's process.
//!
//! It attaches to the sidecar's own socket as any other program would, listens on the ping port and returns every message.
//! It sleeps while nobody asks, so it costs nothing.

use super::{Failure, Outcome};
use machnet_client::{AttachOptions, Attachment, Error, Geometry, Listener, WaitPolicy};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread;

/// The name that `machnet status` shows.
pub(crate) const NAME: &str = "machnet ping (built in)";

/// Starts to answer on `port`. The thread ends with the sidecar.
pub(crate) fn start(socket: &Path, port: u16) -> Outcome {
    let options = AttachOptions::new().socket(socket).name(NAME);
    let attachment = options.wait_policy(WaitPolicy::Block).geometry(Geometry::SMALL).attach()?;
    let listener = attachment.listen_channel_mode((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), 0)?;
    thread::Builder::new()
        .name("ping-echo".to_owned())
        .spawn(move || answer(&attachment, &listener))
        .map_err(|error| Failure::from(anyhow::anyhow!("cannot start a thread: {error}")))?;
    Ok(())
}

fn answer(attachment: &Attachment, _listener: &Listener) {
    loop {
        let arrival = match attachment.recv_any(None) {
            Ok(arrival) => arrival,
            Err(Error::EngineLost | Error::Closed) => return,
            Err(Error::Reset { .. } | Error::UnknownFlow) => continue,
            Err(error) => {
                tracing::warn!("`machnet ping` is answered no more: {error}");
                return;
            }
        };
        // No credit means that the asker does not read, and a flow that ended needs no answer: both lose it.
        if let Err(Error::EngineLost) = attachment.try_send_to(arrival.flow, &arrival.message) {
            return;
        }
    }
}

//! The attach handshake.
use crate::channel::Channel;
use crate::error::Result;
use crate::options::AttachOptions;

pub(crate) fn attach(options: AttachOptions) -> Result<Channel> {
    let _ = (options.socket_path(), options.program_name());
    todo!("attach")
}

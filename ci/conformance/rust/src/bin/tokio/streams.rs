//! Byte streams.

use crate::commands::{Agent, SharedStream, lock, within};
use machnet_client::Error;
use machnet_conformance::command::{Answer, Command, after};
use machnet_conformance::content::{content, is_content};
use serde_json::json;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PIECE: usize = 64 * 1024;

/// The error of Machnet that an error of the stream is.
fn inner(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(Error::Io)
}

async fn read_some(stream: &SharedStream, buffer: &mut [u8]) -> Result<usize, Error> {
    let mut buffer = ReadBuf::new(buffer);
    poll_fn(|context| Pin::new(&mut *lock(stream)).poll_read(context, &mut buffer)).await.map_err(inner)?;
    Ok(buffer.filled().len())
}

async fn write_some(stream: &SharedStream, bytes: &[u8]) -> Result<usize, Error> {
    poll_fn(|context| Pin::new(&mut *lock(stream)).poll_write(context, bytes)).await.map_err(inner)
}

async fn shut_down(stream: &SharedStream) -> Result<(), Error> {
    poll_fn(|context| Pin::new(&mut *lock(stream)).poll_shutdown(context)).await.map_err(inner)
}

impl Agent {
    pub(crate) async fn write(&self, command: &Command) -> Answer {
        let (stream, length) = (self.stream(command)?, command.number::<usize>("length")?);
        let bytes = content(command.number("seed")?, length);
        let chunk = command.number_if("chunk")?.unwrap_or(length).max(1);
        let mut written = 0;
        while written < length {
            let rest = &bytes[written..length.min(written + chunk)];
            let count = within(command.timeout()?, write_some(&stream, rest)).await;
            written += count.map_err(after(json!({ "written": written })))?;
        }
        Ok(json!({ "written": written }))
    }

    pub(crate) async fn read(&self, command: &Command) -> Answer {
        let stream = self.stream(command)?;
        let mut buffer = vec![0; command.number("length")?];
        let (mut length, mut is_end) = (0, false);
        while length < buffer.len() && !is_end {
            let count = within(command.timeout()?, read_some(&stream, &mut buffer[length..])).await;
            let count = count.map_err(after(json!({ "length": length })))?;
            length += count;
            is_end = count == 0;
        }
        let offset = command.number_if("offset")?.unwrap_or(0);
        let is_right = is_content(&buffer[..length], command.number("seed")?, offset);
        Ok(json!({ "length": length, "ok": is_right, "end": is_end }))
    }

    pub(crate) async fn end(&self, command: &Command) -> Answer {
        within(command.timeout()?, shut_down(&self.stream(command)?)).await?;
        Ok(json!({}))
    }

    pub(crate) async fn stream_echo(&self, command: &Command) -> Answer {
        let stream = self.stream(command)?;
        let (mut bytes, mut buffer) = (0, vec![0; PIECE]);
        loop {
            let failed = |error| after(json!({ "bytes": bytes }))(error);
            let count = within(command.timeout()?, read_some(&stream, &mut buffer)).await.map_err(failed)?;
            if count == 0 {
                within(command.timeout()?, shut_down(&stream)).await.map_err(failed)?;
                return Ok(json!({ "bytes": bytes }));
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let sent = within(command.timeout()?, write_some(&stream, rest)).await.map_err(failed)?;
                rest = &rest[sent..];
            }
            bytes += count;
        }
    }
}

//! Byte streams.

use crate::Ending;
use crate::commands::Agent;
use machnet_conformance::command::{Answer, Command, after};
use machnet_conformance::content::{content, is_content};
use serde_json::json;

const PIECE: usize = 64 * 1024;

impl Agent {
    pub(crate) fn write(&self, command: &Command, ending: &Ending) -> Answer {
        let (stream, wait) = (self.stream(command)?, ending.wait(command.timeout()?));
        let length: usize = command.number("length")?;
        let bytes = content(command.number("seed")?, length);
        let chunk = command.number_if("chunk")?.unwrap_or(length).max(1);
        let mut written = 0;
        while written < length {
            let rest = &bytes[written..length.min(written + chunk)];
            written += stream.write_with(rest, wait).map_err(after(json!({ "written": written })))?;
        }
        Ok(json!({ "written": written }))
    }

    pub(crate) fn read(&self, command: &Command, ending: &Ending) -> Answer {
        let (stream, wait) = (self.stream(command)?, ending.wait(command.timeout()?));
        let mut buffer = vec![0; command.number("length")?];
        let (mut length, mut is_end) = (0, false);
        while length < buffer.len() && !is_end {
            let count =
                stream.read_with(&mut buffer[length..], wait).map_err(after(json!({ "length": length })))?;
            length += count;
            is_end = count == 0;
        }
        let offset = command.number_if("offset")?.unwrap_or(0);
        let is_right = is_content(&buffer[..length], command.number("seed")?, offset);
        Ok(json!({ "length": length, "ok": is_right, "end": is_end }))
    }

    pub(crate) fn stream_echo(&self, command: &Command, ending: &Ending) -> Answer {
        let (stream, wait) = (self.stream(command)?, ending.wait(command.timeout()?));
        let (mut bytes, mut buffer) = (0, vec![0; PIECE]);
        loop {
            let failed = |error| after(json!({ "bytes": bytes }))(error);
            let count = stream.read_with(&mut buffer, wait).map_err(failed)?;
            if count == 0 {
                stream.end_with(wait).map_err(failed)?;
                return Ok(json!({ "bytes": bytes }));
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                rest = &rest[stream.write_with(rest, wait).map_err(failed)?..];
            }
            bytes += count;
        }
    }
}

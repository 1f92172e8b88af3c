//! Commands and answers.

use crate::content::Series;
use machnet_client::{Error, FlowStats};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// A command: an object with the member `op`.
#[derive(Clone, Debug)]
pub struct Command(pub Map<String, Value>);

/// Why there is no plain answer.
#[derive(Debug)]
pub enum Failure {
    /// The SDK says so; and what had been done before.
    Sdk(Error, Map<String, Value>),
    /// The agent itself cannot go on.
    Fault(String),
    /// The SDK does not have this.
    Unsupported(&'static str),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sdk(error, Map::new())
    }
}

/// The answer to a command.
pub type Answer = Result<Value, Failure>;

/// A fault of the agent.
pub fn fault<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Fault(text.into()))
}

/// An SDK's error, with what had been done before it.
pub fn after(done: Value) -> impl FnOnce(Error) -> Failure {
    move |error| match done {
        Value::Object(done) => Failure::Sdk(error, done),
        _ => error.into(),
    }
}

/// The answer of a `try_` call that found nothing.
pub fn none() -> Value {
    json!({ "none": true })
}

/// The line that an answer becomes.
pub fn to_line(answer: Answer) -> Value {
    match answer {
        Ok(value) => value,
        Err(Failure::Sdk(Error::Cancelled, _)) => json!({ "cancelled": true }),
        Err(Failure::Sdk(error, mut done)) => {
            let error = json!({ "name": error.name(), "code": error.code(), "text": error.to_string() });
            done.insert("error".into(), error);
            Value::Object(done)
        }
        Err(Failure::Fault(text)) => json!({ "fault": text }),
        Err(Failure::Unsupported(reason)) => json!({ "unsupported": reason }),
    }
}

impl Command {
    /// The command of a line.
    pub fn parse(line: &str) -> Result<Self, Failure> {
        match serde_json::from_str(line) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => fault("a command is an object"),
            Err(error) => fault(format!("no JSON: {error}")),
        }
    }

    /// A member that must be there and be text.
    pub fn text(&self, name: &str) -> Result<&str, Failure> {
        match self.0.get(name) {
            Some(Value::String(text)) => Ok(text),
            _ => fault(format!("`{name}` is missing or no text")),
        }
    }

    /// A member that may be left out.
    pub fn text_or(&self, name: &str, default: &'static str) -> Result<&str, Failure> {
        if self.0.contains_key(name) { self.text(name) } else { Ok(default) }
    }

    /// A number that may be left out.
    pub fn number_if<T: TryFrom<u64>>(&self, name: &str) -> Result<Option<T>, Failure> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|number| number.try_into().ok()) {
                Some(number) => Ok(Some(number)),
                None => fault(format!("`{name}` is no number in range")),
            },
        }
    }

    /// A number that must be there.
    pub fn number<T: TryFrom<u64>>(&self, name: &str) -> Result<T, Failure> {
        self.number_if(name)?.ok_or_else(|| Failure::Fault(format!("`{name}` is missing")))
    }

    /// How long each wait may take.
    pub fn timeout(&self) -> Result<Option<Duration>, Failure> {
        Ok(self.number_if("timeout_ms")?.map(Duration::from_millis))
    }

    /// An address and port.
    pub fn address(&self) -> Result<SocketAddr, Failure> {
        let text = self.text("address")?;
        text.parse().map_err(|error| Failure::Fault(format!("`{text}`: {error}")))
    }

    /// The messages that `seed` and `lengths` describe.
    pub fn series(&self) -> Result<Series, Failure> {
        let lengths = self.0.get("lengths").and_then(Value::as_array);
        let lengths: Option<Vec<usize>> = lengths.and_then(|list| {
            list.iter().map(|one| usize::try_from(one.as_u64()?).ok().filter(|&n| n >= 4)).collect()
        });
        match lengths {
            Some(lengths) if !lengths.is_empty() => Ok(Series { seed: self.number("seed")?, lengths }),
            _ => fault("`lengths` is no list of numbers from 4 on"),
        }
    }

    /// The numbers of the messages of a series.
    pub fn numbers(&self) -> Result<std::ops::Range<u32>, Failure> {
        let first: u32 = self.number_if("first")?.unwrap_or(0);
        Ok(first..first + self.number::<u32>("count")?)
    }

    /// The command that `start` carries.
    pub fn inner(&self) -> Result<Self, Failure> {
        match self.0.get("command") {
            Some(Value::Object(members)) => Ok(Self(members.clone())),
            _ => fault("`command` is no command"),
        }
    }
}

/// What `connect` and `accept` answer.
pub fn ends(flow: &machnet_client::Flow) -> Value {
    json!({
        "local": flow.local_addr().to_string(),
        "peer": flow.peer_addr().to_string(),
        "max_message": flow.max_message(),
    })
}

/// What `attach` answers.
pub fn channel_answer(info: machnet_client::ChannelInfo) -> Value {
    json!({ "engine": info.engine, "sidecar_pid": info.sidecar_pid, "local": info.local.ip().to_string() })
}

/// What `stats` answers.
pub fn stats_answer(stats: &FlowStats) -> Value {
    json!({
        "local": stats.local,
        "smoothed_rtt_ns": stats.smoothed_rtt_ns,
        "min_rtt_ns": stats.min_rtt_ns,
        "messages_sent": stats.messages_sent,
        "bytes_sent": stats.bytes_sent,
        "messages_acknowledged": stats.messages_acknowledged,
        "bytes_acknowledged": stats.bytes_acknowledged,
        "messages_received": stats.messages_received,
        "bytes_received": stats.bytes_received,
        "retransmissions": stats.retransmissions,
        "datagrams_sent": stats.datagrams_sent,
        "datagrams_received": stats.datagrams_received,
        "wire_bytes_sent": stats.wire_bytes_sent,
        "wire_bytes_received": stats.wire_bytes_received,
        "congestion_window_bytes": stats.congestion_window_bytes,
        "bytes_in_flight": stats.bytes_in_flight,
        "path_datagram_bytes": stats.path_datagram_bytes,
    })
}

//! Channels, listeners, flows, and single messages.

use crate::Ending;
use machnet_client::{AttachOptions, Attachment, Canceller, Flow, Listener, Message, Stream};
use machnet_conformance::command::{
    Answer, Command, Failure, channel_answer, ends, fault, none, stats_answer,
};
use machnet_conformance::content::{content, fill, is_content};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) const NO_FORK: &str =
    "a Rust program with threads must not fork; shim-core/tests/processes.rs tests what a fork does";

/// What a name stands for.
#[derive(Clone)]
enum Handle {
    Channel(Attachment),
    Listener(Arc<Listener>),
    Flow(Arc<Flow>),
    Stream(Arc<Stream>),
    Message(Arc<Message>),
}

/// All that the commands have made.
#[derive(Default)]
pub(crate) struct Agent {
    handles: Mutex<HashMap<String, Handle>>,
}

impl Agent {
    fn handles(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, command: &Command, member: &str) -> Result<Handle, Failure> {
        let name = command.text(member)?;
        self.handles().get(name).cloned().ok_or_else(|| Failure::Fault(format!("no handle {name}")))
    }

    fn name(&self, command: &Command, handle: Handle) -> Result<(), Failure> {
        self.handles().insert(command.text("as")?.to_owned(), handle);
        Ok(())
    }

    fn channel(&self, command: &Command) -> Result<Attachment, Failure> {
        match self.handle(command, "channel")? {
            Handle::Channel(channel) => Ok(channel),
            _ => fault("`channel` is no channel"),
        }
    }

    fn listener(&self, command: &Command) -> Result<Arc<Listener>, Failure> {
        match self.handle(command, "listener")? {
            Handle::Listener(listener) => Ok(listener),
            _ => fault("`listener` is no listener"),
        }
    }

    pub(crate) fn flow(&self, command: &Command) -> Result<Arc<Flow>, Failure> {
        match self.handle(command, "flow")? {
            Handle::Flow(flow) => Ok(flow),
            _ => fault("`flow` is no flow"),
        }
    }

    pub(crate) fn stream(&self, command: &Command) -> Result<Arc<Stream>, Failure> {
        match self.handle(command, "stream")? {
            Handle::Stream(stream) => Ok(stream),
            _ => fault("`stream` is no stream"),
        }
    }

    /// What ends the waits of a command: a canceller of the channel that it waits on.
    pub(crate) fn canceller_for(&self, command: &Command) -> Option<Canceller> {
        let of = |member| self.handle(command, member).ok();
        let handle = ["flow", "stream", "listener", "channel", "handle"].into_iter().find_map(of)?;
        Some(match handle {
            Handle::Channel(channel) => channel.canceller(),
            Handle::Listener(listener) => listener.attachment().canceller(),
            Handle::Flow(flow) => flow.attachment().canceller(),
            Handle::Stream(stream) => stream.flow().attachment().canceller(),
            Handle::Message(_) => return None,
        })
    }

    /// Ends flows and channels, so that nothing waits on them any more.
    pub(crate) fn end_all(&self) {
        let handles: Vec<Handle> = self.handles().values().cloned().collect();
        for handle in &handles {
            // They are over in any case.
            let _ = match handle {
                Handle::Flow(flow) => flow.reset(),
                Handle::Stream(stream) => stream.flow().reset(),
                Handle::Listener(listener) => listener.shutdown(),
                Handle::Channel(_) | Handle::Message(_) => Ok(()),
            };
        }
        for handle in handles {
            if let Handle::Channel(channel) = handle {
                let _ = channel.close(); // As above.
            }
        }
    }

    pub(crate) fn forget_all(&self) {
        self.handles().clear();
    }

    /// Works on a command until it can be answered.
    pub(crate) fn run(&self, command: &Command, ending: &Ending) -> Answer {
        match command.text("op")? {
            "features" => Ok(json!({
                "agent": "rust", "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "lacks": { "fork": NO_FORK },
            })),
            "attach" => self.attach(command),
            "listen" => self.listen(command),
            "connect" => self.connect(command, ending),
            "accept" => {
                let flow = self.listener(command)?.accept_with(ending.wait(command.timeout()?))?;
                self.name_flow(command, flow)
            }
            "try_accept" => match self.listener(command)?.try_accept()? {
                Some(flow) => self.name_flow(command, flow),
                None => Ok(none()),
            },
            "close" => self.close(command),
            "reset" => {
                match self.handle(command, "handle")? {
                    Handle::Flow(flow) => flow.reset()?,
                    Handle::Stream(stream) => stream.flow().reset()?,
                    _ => return fault("`handle` is no flow or stream"),
                }
                Ok(json!({}))
            }
            "stats" => match self.handle(command, "handle")? {
                Handle::Flow(flow) => Ok(stats_answer(&flow.stats()?)),
                Handle::Stream(stream) => Ok(stats_answer(&stream.flow().stats()?)),
                _ => fault("`handle` is no flow or stream"),
            },
            "send" => self.send(command, ending),
            "try_send" => {
                let message = content(command.number("seed")?, command.number("length")?);
                match self.flow(command)?.try_send(&message) {
                    Err(machnet_client::Error::WouldBlock) => Ok(none()),
                    outcome => Ok(outcome.map(|()| json!({}))?),
                }
            }
            "recv" => self.recv(command, ending),
            "try_recv" => match self.flow(command)?.try_recv()? {
                Some(message) => received(command, &message),
                None => Ok(none()),
            },
            "release" => self.release(command),
            "stream" => self.make_stream(command),
            "send_series" => self.send_series(command, ending),
            "recv_series" => self.recv_series(command, ending),
            "drain" => self.drain(command, ending),
            "ping" => self.ping(command, ending),
            "echo" => self.echo(command, ending),
            "supply" => self.supply(command, ending),
            "cancel_storm" => self.cancel_storm(command),
            "write" => self.write(command, ending),
            "read" => self.read(command, ending),
            "end" => {
                self.stream(command)?.end_with(ending.wait(command.timeout()?))?;
                Ok(json!({}))
            }
            "stream_echo" => self.stream_echo(command, ending),
            other => fault(format!("unknown op {other}")),
        }
    }

    fn attach(&self, command: &Command) -> Answer {
        let mut options = AttachOptions::new().socket(command.text("socket")?);
        if let Some(engine) = command.number_if("engine")? {
            options = options.engine(engine);
        }
        if command.0.contains_key("name") {
            options = options.name(command.text("name")?);
        }
        if let Some(linger) = command.number_if("linger_ms")? {
            options = options.linger(Duration::from_millis(linger));
        }
        let channel = options.attach()?;
        let answer = channel_answer(channel.info());
        self.name(command, Handle::Channel(channel))?;
        Ok(answer)
    }

    fn listen(&self, command: &Command) -> Answer {
        let backlog = command.number_if("backlog")?.unwrap_or(machnet_client::DEFAULT_BACKLOG);
        let listener = self.channel(command)?.listen(command.address()?, backlog)?;
        let address = listener.local_addr().to_string();
        self.name(command, Handle::Listener(Arc::new(listener)))?;
        Ok(json!({ "address": address }))
    }

    fn connect(&self, command: &Command, ending: &Ending) -> Answer {
        let (channel, remote) = (self.channel(command)?, command.address()?);
        let flow = match &ending.canceller {
            Some(_) => channel.start_connect(remote, None, command.timeout()?)?.finish(ending.wait(None))?,
            None => channel.connect_timeout(remote, None, command.timeout()?)?,
        };
        self.name_flow(command, flow)
    }

    fn name_flow(&self, command: &Command, flow: Flow) -> Answer {
        let answer = ends(&flow);
        self.name(command, Handle::Flow(Arc::new(flow)))?;
        Ok(answer)
    }

    fn close(&self, command: &Command) -> Answer {
        let wait = command.number_if("wait_ms")?.map(Duration::from_millis);
        match (self.handle(command, "handle")?, wait) {
            (Handle::Channel(channel), _) => channel.close()?,
            (Handle::Listener(listener), _) => listener.shutdown()?,
            (Handle::Flow(flow), None) => flow.shutdown()?,
            (Handle::Flow(flow), Some(limit)) => flow.shutdown_wait(limit)?,
            (Handle::Stream(stream), _) => {
                let _ = stream.try_end(); // As when it is dropped.
                stream.flow().shutdown()?;
            }
            (Handle::Message(_), _) => return fault("a message is released"),
        }
        Ok(json!({}))
    }

    fn send(&self, command: &Command, ending: &Ending) -> Answer {
        let (flow, wait) = (self.flow(command)?, ending.wait(command.timeout()?));
        let (seed, length) = (command.number("seed")?, command.number("length")?);
        match command.text_or("how", "copy")? {
            "copy" => flow.send_with(&content(seed, length), wait)?,
            how @ ("loan" | "dropped") => {
                let mut loan = flow.lend_with(length, wait)?;
                fill(&mut loan, seed);
                if how == "loan" {
                    loan.send()?;
                }
            }
            how => return fault(format!("send has no how {how}")),
        }
        Ok(json!({}))
    }

    fn recv(&self, command: &Command, ending: &Ending) -> Answer {
        let (flow, wait) = (self.flow(command)?, ending.wait(command.timeout()?));
        match command.text_or("how", "copy")? {
            "copy" => received(command, &flow.recv_with(wait)?),
            "into" => {
                let mut buffer = vec![0; command.number("capacity")?];
                let count = flow.recv_into(&mut buffer, wait)?;
                received(command, &buffer[..count])
            }
            "loan" => {
                let message = flow.recv_with(wait)?;
                let answer = received(command, &message);
                if command.0.contains_key("as") {
                    self.name(command, Handle::Message(Arc::new(message)))?;
                }
                answer
            }
            how => fault(format!("recv has no how {how}")),
        }
    }

    fn release(&self, command: &Command) -> Answer {
        match self.handles().remove(command.text("message")?) {
            Some(Handle::Message(message)) => received(command, &message),
            _ => fault("`message` is no message"),
        }
    }

    fn make_stream(&self, command: &Command) -> Answer {
        let name = command.text("flow")?;
        let Some(Handle::Flow(flow)) = self.handles().remove(name) else {
            return fault(format!("{name} is no flow"));
        };
        let Some(flow) = Arc::into_inner(flow) else { return fault("a task uses the flow") };
        let stream = Stream::new(flow)?;
        self.name(command, Handle::Stream(Arc::new(stream)))?;
        Ok(json!({}))
    }
}

/// What the receiving commands answer.
fn received(command: &Command, message: &[u8]) -> Answer {
    let mut answer = json!({ "length": message.len() });
    if let Some(seed) = command.number_if("seed")? {
        let is_right: Value = is_content(message, seed, 0).into();
        answer["ok"] = is_right;
    }
    Ok(answer)
}

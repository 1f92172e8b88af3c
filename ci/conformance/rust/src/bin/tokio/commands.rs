//! Channels, listeners, flows, and single messages.

use machnet_client::aio::{AsyncAttachment, AsyncFlow, AsyncListener, AsyncStream, attach_with};
use machnet_client::{AttachOptions, Error, Message};
use machnet_conformance::command::{
    Answer, Command, Failure, channel_answer, ends, fault, none, stats_answer,
};
use machnet_conformance::content::{content, is_content};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const NO_WAITING_CALL: &str = "machnet_client::aio has no such call that waits";

/// A stream that is read and written at the same time, as halves of tokio's are.
pub(crate) type SharedStream = Arc<Mutex<AsyncStream>>;

/// What a name stands for.
#[derive(Clone)]
enum Handle {
    Channel(AsyncAttachment),
    Listener(Arc<AsyncListener>),
    Flow(Arc<AsyncFlow>),
    Stream(SharedStream),
    Message(Arc<Message>),
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that the commands have made.
#[derive(Default)]
pub(crate) struct Agent {
    handles: Mutex<HashMap<String, Handle>>,
}

/// What a future answers in the time that a wait may take.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match limit {
        Some(limit) => timeout(limit, call).await.unwrap_or(Err(Error::TimedOut)),
        None => call.await,
    }
}

impl Agent {
    fn handle(&self, command: &Command, member: &str) -> Result<Handle, Failure> {
        let name = command.text(member)?;
        lock(&self.handles).get(name).cloned().ok_or_else(|| Failure::Fault(format!("no handle {name}")))
    }

    fn name(&self, command: &Command, handle: Handle) -> Result<(), Failure> {
        lock(&self.handles).insert(command.text("as")?.to_owned(), handle);
        Ok(())
    }

    fn channel(&self, command: &Command) -> Result<AsyncAttachment, Failure> {
        match self.handle(command, "channel")? {
            Handle::Channel(channel) => Ok(channel),
            _ => fault("`channel` is no channel"),
        }
    }

    fn listener(&self, command: &Command) -> Result<Arc<AsyncListener>, Failure> {
        match self.handle(command, "listener")? {
            Handle::Listener(listener) => Ok(listener),
            _ => fault("`listener` is no listener"),
        }
    }

    pub(crate) fn flow(&self, command: &Command) -> Result<Arc<AsyncFlow>, Failure> {
        match self.handle(command, "flow")? {
            Handle::Flow(flow) => Ok(flow),
            _ => fault("`flow` is no flow"),
        }
    }

    pub(crate) fn stream(&self, command: &Command) -> Result<SharedStream, Failure> {
        match self.handle(command, "stream")? {
            Handle::Stream(stream) => Ok(stream),
            _ => fault("`stream` is no stream"),
        }
    }

    /// Ends and forgets all; no task runs any more.
    pub(crate) async fn end_all(&self) {
        let handles: Vec<Handle> = lock(&self.handles).drain().map(|(_, handle)| handle).collect();
        for handle in &handles {
            // They are over in any case.
            let _ = match handle {
                Handle::Flow(flow) => flow.flow().reset(),
                Handle::Stream(stream) => lock(stream).stream().flow().reset(),
                Handle::Listener(listener) => listener.listener().shutdown(),
                Handle::Channel(_) | Handle::Message(_) => Ok(()),
            };
        }
        for handle in handles {
            if let Handle::Channel(channel) = handle {
                let _ = channel.close().await; // As above.
            }
        }
    }

    /// Works on a command until it can be answered.
    pub(crate) async fn run(&self, command: &Command) -> Answer {
        match command.text("op")? {
            "features" => Ok(json!({
                "agent": "rust-tokio", "version": env!("CARGO_PKG_VERSION"), "protocol": 1,
                "lacks": {
                    "fork": "a Rust program with threads must not fork; shim-core/tests/processes.rs tests what a fork does",
                    "event_fd": "the runtime itself watches the descriptor",
                    "into": NO_WAITING_CALL, "loan_send": NO_WAITING_CALL, "batch_send": NO_WAITING_CALL,
                    "batch_recv": NO_WAITING_CALL, "close_wait": NO_WAITING_CALL,
                },
            })),
            "attach" => self.attach(command).await,
            "listen" => self.listen(command).await,
            "connect" => {
                let channel = self.channel(command)?;
                let flow = channel.connect(command.address()?, command.timeout()?).await?;
                self.name_flow(command, flow)
            }
            "accept" => {
                let flow = within(command.timeout()?, self.listener(command)?.accept()).await?;
                self.name_flow(command, flow)
            }
            // It has no such call, but its first poll is one.
            "try_accept" => match within(Some(Duration::ZERO), self.listener(command)?.accept()).await {
                Err(Error::TimedOut) => Ok(none()),
                outcome => self.name_flow(command, outcome?),
            },
            "close" => self.close(command).await,
            "reset" => {
                match self.handle(command, "handle")? {
                    Handle::Flow(flow) => flow.flow().reset()?,
                    Handle::Stream(stream) => lock(&stream).stream().flow().reset()?,
                    _ => return fault("`handle` is no flow or stream"),
                }
                Ok(json!({}))
            }
            "stats" => self.stats(command).await,
            "send" => self.send(command).await,
            "try_send" => {
                let message = content(command.number("seed")?, command.number("length")?);
                match self.flow(command)?.flow().try_send(&message) {
                    Err(Error::WouldBlock) => Ok(none()),
                    outcome => Ok(outcome.map(|()| json!({}))?),
                }
            }
            "recv" => self.recv(command).await,
            "try_recv" => match self.flow(command)?.flow().try_recv()? {
                Some(message) => received(command, &message),
                None => Ok(none()),
            },
            "release" => self.release(command),
            "stream" => self.make_stream(command),
            "send_series" => self.send_series(command).await,
            "recv_series" => self.recv_series(command).await,
            "drain" => self.drain(command).await,
            "ping" => self.ping(command).await,
            "echo" => self.echo(command).await,
            "supply" => self.supply(command).await,
            "cancel_storm" => self.cancel_storm(command).await,
            "write" => self.write(command).await,
            "read" => self.read(command).await,
            "end" => self.end(command).await,
            "stream_echo" => self.stream_echo(command).await,
            "fork" => Err(Failure::Unsupported("a Rust program with threads must not fork")),
            other => fault(format!("unknown op {other}")),
        }
    }

    async fn attach(&self, command: &Command) -> Answer {
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
        let channel = attach_with(options).await?;
        let answer = channel_answer(channel.attachment().info());
        self.name(command, Handle::Channel(channel))?;
        Ok(answer)
    }

    async fn listen(&self, command: &Command) -> Answer {
        let backlog = command.number_if("backlog")?.unwrap_or(machnet_client::DEFAULT_BACKLOG);
        let listener = self.channel(command)?.listen(command.address()?, backlog).await?;
        let address = listener.local_addr().to_string();
        self.name(command, Handle::Listener(Arc::new(listener)))?;
        Ok(json!({ "address": address }))
    }

    fn name_flow(&self, command: &Command, flow: AsyncFlow) -> Answer {
        let answer = ends(flow.flow());
        self.name(command, Handle::Flow(Arc::new(flow)))?;
        Ok(answer)
    }

    async fn close(&self, command: &Command) -> Answer {
        if command.0.contains_key("wait_ms") {
            return Err(Failure::Unsupported(NO_WAITING_CALL));
        }
        match self.handle(command, "handle")? {
            Handle::Channel(channel) => channel.close().await?,
            Handle::Listener(listener) => listener.listener().shutdown()?,
            Handle::Flow(flow) => flow.flow().shutdown()?,
            Handle::Stream(stream) => {
                let stream = lock(&stream);
                let _ = stream.stream().try_end(); // As when it is dropped.
                stream.stream().flow().shutdown()?;
            }
            Handle::Message(_) => return fault("a message is released"),
        }
        Ok(json!({}))
    }

    async fn stats(&self, command: &Command) -> Answer {
        let stats = match self.handle(command, "handle")? {
            Handle::Flow(flow) => flow.stats().await?,
            // It asks the sidecar over its socket, so it has a thread of its own.
            Handle::Stream(stream) => spawn_blocking(move || lock(&stream).stream().flow().stats())
                .await
                .map_err(|error| Failure::Fault(error.to_string()))??,
            _ => return fault("`handle` is no flow or stream"),
        };
        Ok(stats_answer(&stats))
    }

    async fn send(&self, command: &Command) -> Answer {
        if command.text_or("how", "copy")? != "copy" {
            return Err(Failure::Unsupported(NO_WAITING_CALL));
        }
        let message = content(command.number("seed")?, command.number("length")?);
        within(command.timeout()?, self.flow(command)?.send(&message)).await?;
        Ok(json!({}))
    }

    async fn recv(&self, command: &Command) -> Answer {
        if command.text_or("how", "copy")? == "into" {
            return Err(Failure::Unsupported(NO_WAITING_CALL));
        }
        let message = within(command.timeout()?, self.flow(command)?.recv()).await?;
        let answer = received(command, &message);
        if command.0.contains_key("as") {
            self.name(command, Handle::Message(Arc::new(message)))?;
        }
        answer
    }

    fn release(&self, command: &Command) -> Answer {
        match lock(&self.handles).remove(command.text("message")?) {
            Some(Handle::Message(message)) => received(command, &message),
            _ => fault("`message` is no message"),
        }
    }

    fn make_stream(&self, command: &Command) -> Answer {
        let name = command.text("flow")?;
        let Some(Handle::Flow(flow)) = lock(&self.handles).remove(name) else {
            return fault(format!("{name} is no flow"));
        };
        let Some(flow) = Arc::into_inner(flow) else { return fault("a task uses the flow") };
        let stream = flow.into_stream()?;
        self.name(command, Handle::Stream(Arc::new(Mutex::new(stream))))?;
        Ok(json!({}))
    }
}

/// What the receiving commands answer.
fn received(command: &Command, message: &[u8]) -> Answer {
    let mut answer = json!({ "length": message.len() });
    if let Some(seed) = command.number_if("seed")? {
        answer["ok"] = is_content(message, seed, 0).into();
    }
    Ok(answer)
}

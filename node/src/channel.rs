//! The channel of a program with its sidecar.

use crate::address::{self, Address};
use crate::errors::OrThrow;
use crate::listener::{Listener, PendingConnect};
use crate::message::Lending;
use crate::wait::Watch;
use machnet_client::{AttachOptions, Attachment, Error, Geometry};
use napi::bindgen_prelude::{AsyncTask, Result, Unknown};
use napi::{Env, Task};
use napi_derive::napi;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// How to attach.
#[napi(object)]
#[derive(Debug)]
pub struct Options {
    /// The sidecar's control socket.
    pub socket: Option<String>,
    /// The engine that shall serve the channel.
    pub engine: Option<u32>,
    /// What `machnet status` shows.
    pub name: String,
    /// Milliseconds that `close` waits for what was sent.
    pub linger_ms: Option<f64>,
    /// The channel's sizes.
    pub sizes: Option<Sizes>,
}

/// The sizes of a channel; what is not given is as by default.
#[napi(object)]
#[derive(Debug)]
pub struct Sizes {
    /// "default", "small" or "large": what the others change.
    pub base: Option<String>,
    /// Slots of the send ring.
    pub send_slots: Option<u32>,
    /// Slots of the receive ring.
    pub receive_slots: Option<u32>,
    /// Buffers to send.
    pub tx_buffers: Option<u32>,
    /// Buffers to receive.
    pub rx_buffers: Option<u32>,
    /// Bytes of a buffer.
    pub buffer_bytes: Option<u32>,
    /// Most flows at a time.
    pub max_flows: Option<u32>,
    /// Messages of one flow that may be sent and not yet acknowledged.
    pub flow_credit: Option<u32>,
}

impl Sizes {
    fn geometry(&self) -> std::result::Result<Geometry, Error> {
        let base = match self.base.as_deref() {
            None | Some("default") => Geometry::DEFAULT,
            Some("small") => Geometry::SMALL,
            Some("large") => Geometry::LARGE,
            Some(other) => {
                let what = format!("sizes are \"default\", \"small\" or \"large\", not {other:?}");
                return Err(Error::InvalidArgument { what });
            }
        };
        Ok(Geometry {
            send_slots: self.send_slots.unwrap_or(base.send_slots),
            receive_slots: self.receive_slots.unwrap_or(base.receive_slots),
            tx_buffers: self.tx_buffers.unwrap_or(base.tx_buffers),
            rx_buffers: self.rx_buffers.unwrap_or(base.rx_buffers),
            buffer_bytes: self.buffer_bytes.unwrap_or(base.buffer_bytes),
            max_flows: self.max_flows.unwrap_or(base.max_flows),
            flow_credit: self.flow_credit.unwrap_or(base.flow_credit),
        })
    }
}

/// What a channel is.
#[napi(object)]
#[derive(Debug)]
pub struct ChannelInfo {
    /// Number of the channel, unique for the sidecar's life.
    pub channel: f64,
    /// Engine that serves it.
    pub engine: u32,
    /// The sidecar's process.
    pub sidecar_pid: u32,
    /// The address that the sidecar owns.
    pub local: Address,
    /// Sizes granted.
    pub sizes: Sizes,
}

/// Milliseconds as JavaScript gives them; what is too long for a duration is for ever.
pub(crate) fn duration(milliseconds: Option<f64>) -> Option<Duration> {
    milliseconds.and_then(|given| Duration::try_from_secs_f64(given.max(0.0) / 1000.0).ok())
}

/// Attaches to a sidecar, in libuv's pool.
#[napi]
pub fn attach(env: &Env, options: Options) -> Result<AsyncTask<Attaching>> {
    let mut chosen = AttachOptions::new().name(&options.name);
    if let Some(socket) = options.socket {
        chosen = chosen.socket(socket);
    }
    if let Some(engine) = options.engine {
        chosen = chosen.engine(engine);
    }
    if let Some(linger) = duration(options.linger_ms) {
        chosen = chosen.linger(linger);
    }
    if let Some(sizes) = options.sizes {
        chosen = chosen.geometry(sizes.geometry().or_throw(env)?);
    }
    Ok(AsyncTask::new(Attaching(Some(chosen))))
}

/// An attach in libuv's pool.
pub struct Attaching(Option<AttachOptions>);

impl Task for Attaching {
    type Output = std::result::Result<Attachment, Error>;
    type JsValue = Channel;

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(self.0.take().ok_or(Error::Cancelled).and_then(AttachOptions::attach))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> Result<Channel> {
        let inner = output.or_throw(&env)?;
        // The first call for the doorbell's descriptor switches the channel into event mode, which everything here relies on.
        inner.event_fd().or_throw(&env)?;
        let lending = Arc::new(Lending::new(&inner.info().geometry));
        Ok(Channel { inner, lending })
    }
}

/// A channel with a sidecar, from `attach`.
#[napi]
pub struct Channel {
    inner: Attachment,
    lending: Arc<Lending>,
}

#[napi]
impl Channel {
    /// Listens, in libuv's pool.
    #[napi]
    pub fn listen(&self, env: &Env, host: String, port: u16, backlog: u32) -> Result<AsyncTask<Listening>> {
        let local = address::parse(&host, port).or_throw(env)?;
        let (attachment, lending) = (self.inner.clone(), Arc::clone(&self.lending));
        Ok(AsyncTask::new(Listening { attachment, lending, local, backlog }))
    }

    /// Begins to connect. None: the ring to the sidecar is full just now.
    #[napi]
    pub fn start_connect(
        &self,
        env: &Env,
        host: String,
        port: u16,
        timeout_ms: Option<f64>,
        local: Option<String>,
    ) -> Result<Option<PendingConnect>> {
        let remote = address::parse(&host, port).or_throw(env)?;
        let local = local.map(|local| address::parse_host(&local).or_throw(env)).transpose()?;
        match self.inner.start_connect(remote, local, duration(timeout_ms)) {
            Err(Error::WouldBlock) => Ok(None),
            outcome => outcome.or_throw(env).map(|inner| Some(PendingConnect::new(inner, &self.lending))),
        }
    }

    /// The descriptor to poll for readability, level-triggered.
    #[napi]
    pub fn event_fd(&self, env: &Env) -> Result<i32> {
        Ok(self.inner.event_fd().or_throw(env)?.as_raw_fd())
    }

    /// A watch on the doorbell, with a descriptor of its own. `callback` is held weakly while nobody waits.
    #[napi]
    pub fn open_watch(&self, env: &Env, callback: Unknown<'_>) -> Result<Watch> {
        let descriptor = self.inner.event_fd().or_throw(env)?.try_clone_to_owned();
        Watch::new(env, self.inner.clone(), descriptor.map_err(Error::Io).or_throw(env)?, &callback)
    }

    /// What the channel is.
    #[napi]
    pub fn info(&self) -> ChannelInfo {
        let info = self.inner.info();
        let geometry = info.geometry;
        #[expect(clippy::cast_precision_loss, reason = "a sidecar does not make 2^53 channels")]
        let channel = info.channel as f64;
        ChannelInfo {
            channel,
            engine: info.engine,
            sidecar_pid: info.sidecar_pid,
            local: address::show(info.local),
            sizes: Sizes {
                base: None,
                send_slots: Some(geometry.send_slots),
                receive_slots: Some(geometry.receive_slots),
                tx_buffers: Some(geometry.tx_buffers),
                rx_buffers: Some(geometry.rx_buffers),
                buffer_bytes: Some(geometry.buffer_bytes),
                max_flows: Some(geometry.max_flows),
                flow_credit: Some(geometry.flow_credit),
            },
        }
    }

    /// Closes all flows in order, waits for their ends (`linger` at most), and detaches, in libuv's pool.
    #[napi]
    pub fn close(&self) -> AsyncTask<Closing> {
        AsyncTask::new(Closing(self.inner.clone()))
    }
}

/// A listen in libuv's pool.
pub struct Listening {
    attachment: Attachment,
    lending: Arc<Lending>,
    local: SocketAddr,
    backlog: u32,
}

impl Task for Listening {
    type Output = std::result::Result<machnet_client::Listener, Error>;
    type JsValue = Listener;

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(self.attachment.listen(self.local, self.backlog))
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> Result<Listener> {
        Ok(Listener::new(output.or_throw(&env)?, &self.lending))
    }
}

/// A close in libuv's pool.
pub struct Closing(Attachment);

impl Task for Closing {
    type Output = std::result::Result<(), Error>;
    type JsValue = ();

    fn compute(&mut self) -> Result<Self::Output> {
        Ok(self.0.close())
    }

    fn resolve(&mut self, env: Env, output: Self::Output) -> Result<()> {
        output.or_throw(&env)
    }
}

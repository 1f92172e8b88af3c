//! The calls that wait, as futures for tokio, and streams that are `AsyncRead + AsyncWrite`. Feature `tokio`.
//!
//! A future that is dropped has taken nothing: messages are taken, and sent, only in the poll that returns. Make everything
//! inside a tokio runtime whose I/O driver is enabled. One task of that runtime watches the channel's doorbell for all others,
//! so the runtime's threads must not be blocked by waiting calls of this crate.

use crate::attachment::{Attachment, Flow, Listener, Registration, TaskDriver};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::options::AttachOptions;
use crate::stats::FlowStats;
use crate::stream::Stream;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::task::coop::poll_proceed;
use tokio::task::{AbortHandle, spawn_blocking};

/// One step of a future that also ends the turn of a task which never has to wait, so that others have theirs.
fn in_turn<T>(context: &mut Context<'_>, step: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let turn = ready!(poll_proceed(context));
    let outcome = step(context);
    if outcome.is_ready() {
        turn.made_progress();
    }
    outcome
}

/// A channel for the tasks of a runtime. Clones share it.
#[derive(Clone, Debug)]
pub struct AsyncAttachment {
    attachment: Attachment,
    driver: Arc<Driving>,
}

/// The task that watches the doorbell; it ends with the last handle.
#[derive(Debug)]
struct Driving(AbortHandle);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn drive(driver: TaskDriver, bell: AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = bell.readable().await {
        // The doorbell is read to its end: a byte that comes later is another readiness.
        let goes_on = driver.turn();
        ready.clear_ready();
        if !goes_on {
            return;
        }
    }
}

/// Attaches to the default sidecar.
///
/// # Errors
/// As for [`AttachOptions::attach`].
pub async fn attach() -> Result<AsyncAttachment> {
    attach_with(AttachOptions::new()).await
}

/// Attaches as the options say.
///
/// # Errors
/// As for [`AttachOptions::attach`].
pub async fn attach_with(options: AttachOptions) -> Result<AsyncAttachment> {
    AsyncAttachment::new(off_the_runtime(move || options.attach()).await?)
}

/// Runs what waits for the sidecar's answer on its socket.
async fn off_the_runtime<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(call).await.map_err(|error| Error::Io(io::Error::other(error)))?
}

impl AsyncAttachment {
    /// A channel for the tasks of the runtime that this is called in. No thread may be waiting on it, and its event fd may not be
    /// in use.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if one is, [`Error::Io`], [`Error::EngineLost`], [`Error::Forked`].
    pub fn new(attachment: Attachment) -> Result<Self> {
        let driver = TaskDriver::begin(&attachment)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for descriptors that others may close; nobody else has this one"
        )]
        let bell = AsyncFd::with_interest(driver.descriptor()?, Interest::READABLE)?;
        let task = tokio::spawn(drive(driver, bell));
        Ok(Self { attachment, driver: Arc::new(Driving(task.abort_handle())) })
    }

    /// The channel, for calls that do not wait.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// As [`Attachment::listen`].
    ///
    /// # Errors
    /// As for [`Attachment::listen`].
    pub async fn listen(&self, local: SocketAddr, backlog: u32) -> Result<AsyncListener> {
        let attachment = self.attachment.clone();
        let listener = off_the_runtime(move || attachment.listen(local, backlog)).await?;
        Ok(AsyncListener { listener, driver: Arc::clone(&self.driver) })
    }

    /// As [`Attachment::connect_timeout`] from any local address; waits while the ring to the sidecar is full. Dropped, the connect is
    /// given up.
    ///
    /// # Errors
    /// As for [`Attachment::connect`].
    pub async fn connect(&self, remote: SocketAddr, timeout: Option<Duration>) -> Result<AsyncFlow> {
        let mut task = self.attachment.registration();
        let start = |context: &mut Context<'_>| {
            self.attachment.poll_start_connect(&mut task, context, remote, timeout)
        };
        let pending = poll_fn(start).await?;
        let flow = poll_fn(|context| pending.poll_finish(&mut task, context)).await?;
        Ok(AsyncFlow { flow, driver: Arc::clone(&self.driver) })
    }

    /// As [`Attachment::close`].
    ///
    /// # Errors
    /// As for [`Attachment::close`].
    pub async fn close(&self) -> Result<()> {
        let attachment = self.attachment.clone();
        off_the_runtime(move || attachment.close()).await
    }
}

/// Waits for flows.
#[derive(Debug)]
pub struct AsyncListener {
    listener: Listener,
    driver: Arc<Driving>,
}

impl AsyncListener {
    /// Waits for a flow.
    ///
    /// # Errors
    /// As for [`Listener::accept`].
    pub async fn accept(&self) -> Result<AsyncFlow> {
        let mut task = self.listener.registration();
        let flow =
            poll_fn(|context| in_turn(context, |context| self.listener.poll_accept(&mut task, context)))
                .await?;
        Ok(AsyncFlow { flow, driver: Arc::clone(&self.driver) })
    }

    /// Where it listens, the port filled in.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// The listener, for calls that do not wait: [`Listener::try_accept`], and [`Listener::shutdown`], which ends those that do.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }
}

/// One connection.
#[derive(Debug)]
pub struct AsyncFlow {
    flow: Flow,
    driver: Arc<Driving>,
}

impl AsyncFlow {
    /// Sends; waits for credit and room. Dropped before it is ready, nothing was sent.
    ///
    /// # Errors
    /// As for [`Flow::send`].
    pub async fn send(&self, message: &[u8]) -> Result<()> {
        let mut task = self.flow.registration();
        poll_fn(|context| in_turn(context, |context| self.flow.poll_send(&mut task, context, &[message])))
            .await
    }

    /// Waits for the next message. Dropped before it is ready, nothing was taken.
    ///
    /// # Errors
    /// As for [`Flow::recv`].
    pub async fn recv(&self) -> Result<Message> {
        let mut task = self.flow.registration();
        poll_fn(|context| in_turn(context, |context| self.flow.poll_recv(&mut task, context))).await
    }

    /// As [`Flow::stats`].
    ///
    /// # Errors
    /// As for [`Flow::stats`].
    pub async fn stats(self: &Arc<Self>) -> Result<FlowStats> {
        let flow = Arc::clone(self);
        off_the_runtime(move || flow.flow.stats()).await
    }

    /// The flow, for calls that do not wait: its addresses, loans, many messages, closing.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// A byte stream over the flow; see [`Stream::new`].
    ///
    /// # Errors
    /// As for [`Stream::new`].
    pub fn into_stream(self) -> Result<AsyncStream> {
        let Self { flow, driver } = self;
        let (reading, writing) = (flow.registration(), flow.registration());
        Ok(AsyncStream { stream: Stream::new(flow)?, reading, writing, _driver: driver })
    }
}

/// A byte stream, both ways: `AsyncRead + AsyncWrite`. `shutdown` is the half-close. As [`Stream`] otherwise.
#[derive(Debug)]
pub struct AsyncStream {
    stream: Stream,
    reading: Registration,
    writing: Registration,
    _driver: Arc<Driving>,
}

impl AsyncStream {
    /// The stream, for calls that do not wait.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl AsyncRead for AsyncStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        in_turn(context, |context| {
            loop {
                if let Some(count) = this.stream.try_read(buffer.initialize_unfilled())? {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                ready!(this.stream.flow().poll_ready(&mut this.reading, context, None))?;
            }
        })
    }
}

impl AsyncWrite for AsyncStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        in_turn(context, |context| {
            loop {
                if let Some(count) = this.stream.try_write(bytes)? {
                    return Poll::Ready(Ok(count));
                }
                let length = this.stream.message_len(bytes.len());
                ready!(this.stream.flow().poll_ready(&mut this.writing, context, Some(length)))?;
            }
        })
    }

    /// Nothing is held back.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.stream.try_end()? {
            ready!(this.stream.flow().poll_ready(&mut this.writing, context, Some(1)))?;
        }
        Poll::Ready(Ok(()))
    }
}

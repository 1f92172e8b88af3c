//! Flows to come: listeners and connects under way.

use super::shared::{Interest, Shared};
use super::{Attachment, Flow, Wait};
use crate::channel::Wants;
use crate::error::Result;
use std::net::SocketAddr;
use std::sync::Arc;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::time::Duration;

/// Waits for flows. Dropped, it stops listening; flows it handed out live on.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    number: u32,
    local: SocketAddr,
}

impl Listener {
    pub(super) fn new(
        shared: &Arc<Shared>,
        local: SocketAddr,
        backlog: u32,
        channel_mode: bool,
    ) -> Result<Self> {
        let (number, local) = shared.listen(local, backlog, channel_mode)?;
        Ok(Self { shared: Arc::clone(shared), number, local })
    }

    /// Waits for a flow.
    ///
    /// # Errors
    /// [`crate::Error::Closed`] once the listener was shut down, [`crate::Error::ListenRefused`] once the sidecar ended it because its
    /// network interface is gone, [`crate::Error::WrongMode`] if it is in channel mode, [`crate::Error::EngineLost`], [`crate::Error::SidecarBroken`], [`crate::Error::Forked`].
    pub fn accept(&self) -> Result<Flow> {
        self.accept_with(None)
    }

    /// Waits for a flow, at most `timeout`.
    ///
    /// # Errors
    /// As for [`Self::accept`], and [`crate::Error::TimedOut`].
    pub fn accept_timeout(&self, timeout: Duration) -> Result<Flow> {
        self.accept_with(timeout)
    }

    /// Waits for a flow, as long as `wait` says.
    ///
    /// # Errors
    /// As for [`Self::accept`], [`crate::Error::TimedOut`] and [`crate::Error::Cancelled`].
    pub fn accept_with<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<Flow> {
        let interest = Interest::Accept(self.number);
        let id = self.shared.wait(wait, interest, |core| core.try_accept(self.number))?;
        Flow::new(&self.shared, id)
    }

    /// The next flow, if one is there.
    ///
    /// # Errors
    /// As for [`Self::accept`].
    pub fn try_accept(&self) -> Result<Option<Flow>> {
        let id = self.shared.attempt(Wants::Accept(self.number), |core| core.try_accept(self.number))?;
        id.map(|id| Flow::new(&self.shared, id)).transpose()
    }

    /// As [`Flow::set_token`].
    ///
    /// # Errors
    /// [`crate::Error::Closed`] once the listener was shut down, [`crate::Error::Forked`].
    pub fn set_token(&self, token: u64) -> Result<()> {
        self.shared.with(|core| core.set_listener_token(self.number, token))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn registration(&self) -> super::Registration {
        super::Registration::new(&self.shared)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn poll_accept(
        &self,
        task: &mut super::Registration,
        context: &mut Context<'_>,
    ) -> Poll<Result<Flow>> {
        let interest = Interest::Accept(self.number);
        let id = std::task::ready!(task.poll(context, interest, |core| core.try_accept(self.number)))?;
        Poll::Ready(Flow::new(&self.shared, id))
    }

    /// Where it listens, the port filled in.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The channel it belongs to.
    pub fn attachment(&self) -> Attachment {
        Attachment { shared: Arc::clone(&self.shared) }
    }

    /// Stops listening, for handles that are shared: a thread in `accept` gets `Closed`.
    ///
    /// # Errors
    /// [`crate::Error::Forked`].
    pub fn shutdown(&self) -> Result<()> {
        self.shared.check_process()?;
        let known = self.shared.with(|core| Ok(core.forget_listener(self.number)))?;
        if known {
            self.shared.unlistener.unlisten(self.number);
        }
        Ok(())
    }

    /// Stops listening. Flows not accepted yet are refused.
    ///
    /// # Errors
    /// [`crate::Error::Forked`].
    pub fn close(self) -> Result<()> {
        self.shutdown()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.shutdown(); // In a forked child it is the parent's.
    }
}

/// A connect under way. Dropped, the flow is closed as soon as it is there.
#[derive(Debug)]
pub struct PendingConnect {
    shared: Arc<Shared>,
    request: u32,
}

impl PendingConnect {
    pub(super) fn new(shared: &Arc<Shared>, request: u32) -> Self {
        Self { shared: Arc::clone(shared), request }
    }

    /// The flow, if the connect succeeded meanwhile. It, or the error, comes once.
    ///
    /// # Errors
    /// As for [`Attachment::connect`]; [`crate::Error::UnknownFlow`] after the outcome was told.
    pub fn try_finish(&self) -> Result<Option<Flow>> {
        let id = self
            .shared
            .attempt(Wants::Connect(self.request), |core| core.try_finish_connect(self.request))?;
        id.map(|id| Flow::new(&self.shared, id)).transpose()
    }

    /// As [`Flow::set_token`].
    ///
    /// # Errors
    /// [`crate::Error::UnknownFlow`] after the outcome was told, [`crate::Error::Forked`].
    pub fn set_token(&self, token: u64) -> Result<()> {
        self.shared.with(|core| core.set_connect_token(self.request, token))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn poll_finish(
        &self,
        task: &mut super::Registration,
        context: &mut Context<'_>,
    ) -> Poll<Result<Flow>> {
        let interest = Interest::Connect(self.request);
        let call = |core: &mut crate::channel::Core| core.try_finish_connect(self.request);
        let id = std::task::ready!(task.poll(context, interest, call))?;
        Poll::Ready(Flow::new(&self.shared, id))
    }

    /// Waits for the outcome. It, or the error, comes once; after a timeout or a cancel it may be asked for again.
    ///
    /// # Errors
    /// As for [`Attachment::connect`], [`crate::Error::TimedOut`] and [`crate::Error::Cancelled`].
    pub fn finish<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<Flow> {
        let interest = Interest::Connect(self.request);
        let id = self.shared.wait(wait, interest, |core| core.try_finish_connect(self.request))?;
        Flow::new(&self.shared, id)
    }

    /// The channel it belongs to.
    pub fn attachment(&self) -> Attachment {
        Attachment { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for PendingConnect {
    fn drop(&mut self) {
        // In a forked child it is the parent's.
        let _ = self.shared.with(|core| {
            core.abandon_connect(self.request);
            Ok(())
        });
    }
}

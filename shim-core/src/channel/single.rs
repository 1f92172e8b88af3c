//! The channel of a single thread: no lock, no hidden thread.

use super::{ChannelInfo, ConnectId, Core, FlowId, ListenerId, News, Wants};
use crate::attach::Control;
use crate::error::{Error, Result, would_block};
use crate::message::Message;
use crate::socket;
use crate::stats::FlowStats;
use crate::wait::{Deadline, Idle};
use crate::waiting::Step;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// One channel, for one thread at a time. Dropped, it closes its flows in order.
///
/// `timeout` of `None` waits for ever in every call. A call that fails with `TimedOut` or `WouldBlock` has done nothing and
/// lost nothing.
#[derive(Debug)]
pub struct Channel {
    pub(crate) core: Core,
    pub(crate) control: Control,
    pub(crate) info: ChannelInfo,
    pub(crate) idle: Idle,
    pub(crate) linger: Duration,
}

impl Channel {
    pub(crate) fn new(core: Core, control: Control, info: ChannelInfo, idle: Idle, linger: Duration) -> Self {
        Self { core, control, info, idle, linger }
    }

    /// What the channel is.
    pub fn info(&self) -> ChannelInfo {
        self.info.clone()
    }

    /// Listens on an address of the sidecar (unspecified: its own); port 0: any free one. Says where. A `backlog` of 0 is
    /// [`crate::DEFAULT_BACKLOG`].
    ///
    /// # Errors
    /// [`Error::AddressNotLocal`], [`Error::AddressInUse`], [`Error::ListenRefused`], [`Error::TimedOut`] after 5 s.
    pub fn listen(&mut self, local: SocketAddr, backlog: u32) -> Result<(ListenerId, SocketAddr)> {
        self.core.check_process()?;
        self.core.check_over()?;
        let backlog = if backlog == 0 { crate::DEFAULT_BACKLOG } else { backlog };
        self.core.begin_listen();
        let outcome = self.control.listen(local, backlog);
        self.core.end_listen(outcome.as_ref().ok().map(|&(listener, _)| listener), false);
        outcome.map(|(listener, local)| (ListenerId(listener), local))
    }

    /// Stops listening. Flows that were not accepted yet are refused.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`] if it is none of this channel's listeners.
    pub fn unlisten(&mut self, listener: ListenerId) -> Result<()> {
        self.core.check_process()?;
        self.control.unlisten(listener.0);
        if self.core.forget_listener(listener.0) { Ok(()) } else { Err(Error::UnknownFlow) }
    }

    /// The next flow that arrived, if any.
    ///
    /// # Errors
    /// [`Error::Closed`] if the listener is none, [`Error::EngineLost`], [`Error::SidecarBroken`].
    pub fn try_accept(&mut self, listener: ListenerId) -> Result<Option<FlowId>> {
        self.core.check_process()?;
        self.core.attempt(Wants::Accept(listener.0), |core| core.try_accept(listener.0))
    }

    /// Waits for the next flow.
    ///
    /// # Errors
    /// As for [`Self::try_accept`], and [`Error::TimedOut`].
    pub fn accept(&mut self, listener: ListenerId, timeout: Option<Duration>) -> Result<FlowId> {
        self.wait(timeout, |core| core.try_accept(listener.0))
    }

    /// Connects and waits for the outcome. `timeout` of `None` is the sidecar's default (3 s).
    ///
    /// # Errors
    /// [`Error::ConnectTimedOut`], [`Error::Refused`], [`Error::Busy`], [`Error::ConnectFailed`],
    /// [`Error::AddressNotLocal`], [`Error::TooManyFlows`], [`Error::EngineLost`].
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<FlowId> {
        let request = self.wait(None, |core| would_block(core.start_connect(remote, local, timeout)))?;
        self.wait(None, |core| core.try_finish_connect(request))
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if the send ring is full, [`Error::InvalidArgument`], [`Error::EngineLost`].
    pub fn start_connect(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<ConnectId> {
        self.core.check_process()?;
        let start = |core: &mut Core| would_block(core.start_connect(remote, local, timeout));
        self.core.attempt(Wants::Slot, start)?.map(ConnectId).ok_or(Error::WouldBlock)
    }

    /// The outcome of a connect, once it is there.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn try_finish_connect(&mut self, connect: ConnectId) -> Result<Option<FlowId>> {
        self.core.check_process()?;
        self.core.attempt(Wants::Connect(connect.0), |core| core.try_finish_connect(connect.0))
    }

    /// Sends a message without waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] without credit or room, [`Error::UnknownFlow`], [`Error::Closed`], [`Error::Reset`],
    /// [`Error::EmptyMessage`], [`Error::MessageTooLarge`], [`Error::EngineLost`], [`Error::SidecarBroken`],
    /// [`Error::Forked`].
    #[inline]
    pub fn try_send(&mut self, flow: FlowId, message: &[u8]) -> Result<()> {
        self.core.check_process()?;
        if self.core.send_direct(flow, message) {
            self.core.ring_after_send();
            return Ok(());
        }
        self.try_send_slowly(flow, message)
    }

    #[inline(never)]
    fn try_send_slowly(&mut self, flow: FlowId, message: &[u8]) -> Result<()> {
        let sent = self.core.attempt(Wants::Send(flow), |core| would_block(core.try_send(flow, message)));
        self.core.ring_after_send();
        sent?.ok_or(Error::WouldBlock)
    }

    /// Sends a message; waits for credit and room.
    ///
    /// # Errors
    /// As for [`Self::try_send`], with [`Error::TimedOut`] in place of `WouldBlock`.
    pub fn send(&mut self, flow: FlowId, message: &[u8], timeout: Option<Duration>) -> Result<()> {
        self.wait(timeout, |core| {
            let outcome = core.try_send(flow, message);
            core.ring_after_send();
            would_block(outcome)
        })
    }

    /// The flow's next message, if one is there.
    ///
    /// # Errors
    /// After the queued messages: [`Error::Closed`], [`Error::Reset`]. Else [`Error::UnknownFlow`], [`Error::EngineLost`],
    /// [`Error::SidecarBroken`], [`Error::Forked`].
    #[inline]
    pub fn try_recv(&mut self, flow: FlowId) -> Result<Option<Message>> {
        self.core.check_process()?;
        match self.core.recv_direct(flow) {
            Some(message) => Ok(Some(message)),
            None if self.core.is_quiet(flow) => Ok(None),
            None => self.try_recv_slowly(flow),
        }
    }

    #[inline(never)]
    fn try_recv_slowly(&mut self, flow: FlowId) -> Result<Option<Message>> {
        self.core.attempt(Wants::Receive(flow), |core| core.try_recv(flow))
    }

    /// Waits for the flow's next message.
    ///
    /// # Errors
    /// As for [`Self::try_recv`], and [`Error::TimedOut`].
    pub fn recv(&mut self, flow: FlowId, timeout: Option<Duration>) -> Result<Message> {
        self.wait(timeout, |core| core.try_recv(flow))
    }

    /// Copies the flow's next message into `buffer`; says its length in bytes, or nothing.
    ///
    /// # Errors
    /// As for [`Self::try_recv`], and [`Error::BufferTooSmall`]: the message stays.
    #[inline]
    pub fn try_recv_into(&mut self, flow: FlowId, buffer: &mut [u8]) -> Result<Option<usize>> {
        self.core.check_process()?;
        match self.core.recv_into_direct(flow, buffer) {
            Some(length) => Ok(Some(length)),
            None if self.core.is_quiet(flow) => Ok(None),
            None => self.try_recv_into_slowly(flow, buffer),
        }
    }

    #[inline(never)]
    fn try_recv_into_slowly(&mut self, flow: FlowId, buffer: &mut [u8]) -> Result<Option<usize>> {
        self.core.attempt(Wants::Receive(flow), |core| core.try_recv_into(flow, buffer))
    }

    /// Puts a flow into channel mode: its messages come out of [`Self::try_recv_any`] from now on.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::Forked`].
    pub fn into_channel_mode(&mut self, flow: FlowId) -> Result<()> {
        self.core.check_process()?;
        self.core.is_channel_mode(flow)?;
        self.core.enter_channel_mode(flow.handle);
        Ok(())
    }

    /// The next message of any channel-mode flow, in order of arrival.
    ///
    /// # Errors
    /// [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn try_recv_any(&mut self) -> Result<Option<(FlowId, Message)>> {
        self.core.check_process()?;
        let found = self.core.attempt(Wants::Any, Core::try_recv_any)?;
        Ok(found.map(|(ends, message)| (ends.flow, message)))
    }

    /// The peer's address and our own.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`].
    pub fn flow_addresses(&self, flow: FlowId) -> Result<(SocketAddr, SocketAddr)> {
        self.core.look(flow).map(|look| (look.peer, look.local))
    }

    /// What the sidecar knows of the flow: round-trip time, messages, bytes, repeats. A rare call: the sidecar is asked over
    /// its socket, which takes tens of microseconds.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::Version`] from a sidecar that is too old to know, [`Error::TimedOut`] after 5 s,
    /// [`Error::Closed`] after the channel was closed, [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn flow_stats(&mut self, flow: FlowId) -> Result<FlowStats> {
        self.core.check_process()?;
        self.core.check_over()?;
        self.core.look(flow)?;
        self.control.flow_stats(flow.handle)
    }

    /// Closes the flow in order: what was sent is delivered first. What was received and not taken is dropped.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::Forked`].
    pub fn close_flow(&mut self, flow: FlowId) -> Result<()> {
        self.core.check_process()?;
        self.core.close_flow(flow)?;
        self.core.disown(flow);
        Ok(())
    }

    /// Ends the flow at once.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::Forked`].
    pub fn abort_flow(&mut self, flow: FlowId) -> Result<()> {
        self.core.check_process()?;
        self.core.abort(flow)?;
        self.core.disown(flow);
        Ok(())
    }

    /// The descriptor to poll for readability, level-triggered. The first call switches the channel into event mode: from
    /// then on, when a call found nothing, either the descriptor is readable or nothing has come since.
    ///
    /// # Errors
    /// [`Error::EngineLost`], [`Error::Forked`].
    pub fn event_fd(&mut self) -> Result<BorrowedFd<'_>> {
        self.core.check_process()?;
        self.core.check_over()?;
        self.core.enter_event_mode();
        Ok(self.core.bell().wait_fd())
    }

    /// For an event loop over many flows: appends what came since the last call, at most `most`, to `out`, and says how many. See
    /// [`crate::Attachment::take_news`].
    ///
    /// # Errors
    /// [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn take_news(&mut self, out: &mut Vec<News>, most: usize) -> Result<usize> {
        self.core.check_process()?;
        self.core.take_news(out, most)
    }

    /// What [`Self::take_news`] calls the flow from now on; 0 until it is set.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::Forked`].
    pub fn set_flow_token(&mut self, flow: FlowId, token: u64) -> Result<()> {
        self.core.check_process()?;
        self.core.set_flow_token(flow, token)
    }

    /// As [`Self::set_flow_token`].
    ///
    /// # Errors
    /// [`Error::Closed`] if the listener is none, [`Error::Forked`].
    pub fn set_listener_token(&mut self, listener: ListenerId, token: u64) -> Result<()> {
        self.core.check_process()?;
        self.core.set_listener_token(listener.0, token)
    }

    /// As [`Self::set_flow_token`].
    ///
    /// # Errors
    /// [`Error::UnknownFlow`] after the outcome was told, [`Error::Forked`].
    pub fn set_connect_token(&mut self, connect: ConnectId, token: u64) -> Result<()> {
        self.core.check_process()?;
        self.core.set_connect_token(connect.0, token)
    }

    /// Closes all flows in order, waits for their ends (the linger time of the options at most), and detaches.
    ///
    /// # Errors
    /// [`Error::EngineLost`], [`Error::TimedOut`] if the sidecar does not answer, [`Error::Forked`].
    pub fn close(mut self) -> Result<()> {
        self.core.check_process()?;
        self.core.check_over()?;
        self.core.close_all();
        let ended = self.wait(Some(self.linger), |core| {
            core.poll();
            Ok(core.all_ended().then_some(()))
        });
        match ended {
            Ok(()) | Err(Error::TimedOut) => self.control.detach(),
            Err(error) => Err(error),
        }
    }

    /// Repeats a call until it finds something.
    fn wait<T>(
        &mut self,
        timeout: Option<Duration>,
        mut call: impl FnMut(&mut Core) -> Result<Option<T>>,
    ) -> Result<T> {
        self.core.check_process()?;
        if let Some(found) = call(&mut self.core)? {
            return Ok(found);
        }
        let outcome = self.wait_on(Deadline::after(timeout), call);
        self.idle.ended();
        outcome
    }

    fn wait_on<T>(
        &mut self,
        deadline: Deadline,
        mut call: impl FnMut(&mut Core) -> Result<Option<T>>,
    ) -> Result<T> {
        loop {
            match self.idle.step() {
                Step::Look => std::hint::spin_loop(),
                Step::Yield => self.idle.yield_now(),
                Step::Sleep => {
                    let watch = self.core.before_sleep();
                    self.core.poll();
                    if let Some(found) = call(&mut self.core).transpose() {
                        self.core.after_sleep(socket::Woken::default());
                        return found;
                    }
                    let span = watch.span(deadline.left());
                    let bell = self.core.bell().wait_fd();
                    let woken = socket::wait_bell(bell, watch.listens(), None, span)?;
                    self.core.after_sleep(woken);
                    self.idle.ended();
                }
            }
            if self.idle.must_check() {
                self.core.check_alive();
            }
            self.core.poll();
            if let Some(found) = call(&mut self.core)? {
                return Ok(found);
            }
            if deadline.is_past() {
                return Err(Error::TimedOut);
            }
        }
    }
}

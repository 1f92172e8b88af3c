//! The thread-safe layer: handles that any thread may use.

mod cancel;
mod flow;
mod listener;
mod shared;
#[cfg(feature = "tokio")]
mod wakers;

pub use cancel::{Canceller, Wait};
pub use flow::Flow;
pub(crate) use flow::Lent;
pub use listener::{Listener, PendingConnect};
#[cfg(feature = "tokio")]
pub(crate) use wakers::{Registration, TaskDriver};

use crate::channel::{Channel, ChannelInfo, Core, Ends, FlowId, News, Source, Wants};
use crate::error::{Error, Result, would_block};
use crate::message::Message;
use crate::stats::FlowStats;
use shared::{Interest, Shared};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};
use std::time::Duration;

/// A channel that any thread may use. Clones share it; it is closed in order when the last clone, flow, listener and loan
/// to send is gone.
///
/// Calls that begin with `try_` never wait; `timeout` of `None` waits for ever. A call that fails with `TimedOut` or
/// `WouldBlock` has done nothing and lost nothing.
#[derive(Clone, Debug)]
pub struct Attachment {
    shared: Arc<Shared>,
}

/// A message that came out of [`Attachment::recv_any`], with the flow it came on.
#[derive(Debug)]
pub struct Arrival {
    /// The flow.
    pub flow: FlowId,
    /// The flow's peer.
    pub peer: SocketAddr,
    /// The flow's own end.
    pub local: SocketAddr,
    /// The message.
    pub message: Message,
}

impl Arrival {
    fn new((ends, message): (Ends, Message)) -> Self {
        Self { flow: ends.flow, peer: ends.peer, local: ends.local, message }
    }
}

/// The first address of a name.
fn first_address(address: impl ToSocketAddrs) -> Result<SocketAddr> {
    let mut addresses = address.to_socket_addrs().map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => Error::invalid(error.to_string()),
        _ => Error::Io(error),
    })?;
    addresses.next().ok_or_else(|| Error::invalid("the name has no address"))
}

/// A send, and the doorbell after it.
#[inline]
fn send(core: &mut Core, flow: FlowId, message: &[u8]) -> Result<()> {
    if core.send_direct(flow, message) {
        core.ring_after_send();
        return Ok(());
    }
    let sent = core.attempt(Wants::Send(flow), |core| would_block(core.try_send(flow, message)));
    core.ring_after_send();
    sent?.ok_or(Error::WouldBlock)
}

fn send_parts(core: &mut Core, flow: FlowId, parts: &[&[u8]]) -> Result<()> {
    let sent = core.attempt(Wants::Send(flow), |core| would_block(core.try_send_parts(flow, parts)));
    core.ring_after_send();
    sent?.ok_or(Error::WouldBlock)
}

impl Attachment {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { shared: Shared::new(channel) }
    }

    /// What the channel is.
    pub fn info(&self) -> ChannelInfo {
        self.shared.info.clone()
    }

    /// Listens on an address of the sidecar (unspecified: its own); port 0: any free one. A `backlog` of 0 is
    /// [`crate::DEFAULT_BACKLOG`].
    ///
    /// # Errors
    /// [`Error::AddressNotLocal`], [`Error::AddressInUse`], [`Error::ListenRefused`], [`Error::TimedOut`] after 5 s,
    /// [`Error::EngineLost`], [`Error::Forked`].
    pub fn listen(&self, local: impl ToSocketAddrs, backlog: u32) -> Result<Listener> {
        Listener::new(&self.shared, first_address(local)?, backlog, false)
    }

    /// As [`Self::listen`], but flows are accepted by themselves and their messages come out of [`Self::recv_any`].
    ///
    /// # Errors
    /// As for [`Self::listen`].
    pub fn listen_channel_mode(&self, local: impl ToSocketAddrs, backlog: u32) -> Result<Listener> {
        Listener::new(&self.shared, first_address(local)?, backlog, true)
    }

    /// Connects to a listener and waits for the outcome as long as the sidecar's default (3 s).
    ///
    /// # Errors
    /// [`Error::ConnectTimedOut`], [`Error::Refused`], [`Error::Busy`], [`Error::ConnectFailed`],
    /// [`Error::AddressNotLocal`], [`Error::TooManyFlows`], [`Error::InvalidArgument`], [`Error::EngineLost`],
    /// [`Error::Forked`].
    pub fn connect(&self, remote: impl ToSocketAddrs) -> Result<Flow> {
        self.connect_timeout(first_address(remote)?, None, None)
    }

    /// As [`Self::connect`], from `local`, if given, and with a timeout of its own, if given.
    ///
    /// # Errors
    /// As for [`Self::connect`].
    pub fn connect_timeout(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<Flow> {
        self.connect_with(remote, local, timeout)
    }

    /// Begins to connect and does not wait.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if the send ring is full, [`Error::InvalidArgument`], [`Error::EngineLost`],
    /// [`Error::Forked`].
    pub fn start_connect(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<PendingConnect> {
        let request = self
            .shared
            .attempt(Wants::Slot, |core| would_block(core.start_connect(remote, local, timeout)))?;
        Ok(PendingConnect::new(&self.shared, request.ok_or(Error::WouldBlock)?))
    }

    /// What a task waits with.
    #[cfg(feature = "tokio")]
    pub(crate) fn registration(&self) -> Registration {
        Registration::new(&self.shared)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn poll_start_connect(
        &self,
        task: &mut Registration,
        context: &mut Context<'_>,
        remote: SocketAddr,
        timeout: Option<Duration>,
    ) -> Poll<Result<PendingConnect>> {
        let request = std::task::ready!(task.poll(context, Interest::Slot, |core| {
            would_block(core.start_connect(remote, None, timeout))
        }))?;
        Poll::Ready(Ok(PendingConnect::new(&self.shared, request)))
    }

    /// As [`Self::connect_timeout`]; the wait may also be cancelled. Its timeout is the sidecar's for this connect.
    ///
    /// # Errors
    /// As for [`Self::connect`], and [`Error::Cancelled`].
    pub fn connect_with<'a>(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        wait: impl Into<Wait<'a>>,
    ) -> Result<Flow> {
        let Wait { timeout, canceller } = wait.into();
        let wait = Wait { timeout: None, canceller };
        let request = self
            .shared
            .wait(wait, Interest::Slot, |core| would_block(core.start_connect(remote, local, timeout)))?;
        PendingConnect::new(&self.shared, request).finish(wait)
    }

    /// What ends waits on this channel from another thread.
    pub fn canceller(&self) -> Canceller {
        Canceller::new(&self.shared)
    }

    /// The descriptor to poll for readability, level-triggered. The first call switches the channel into event mode: from
    /// then on, when a `try_` call found nothing, either the descriptor is readable or nothing has come since. Never read
    /// it: the calls do.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a task of a runtime serves the channel ([`crate::aio`]), [`Error::EngineLost`],
    /// [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        self.shared.with_state(|state| {
            state.refuse_beside_task()?;
            state.core.check_over()?;
            state.core.enter_event_mode();
            Ok(())
        })?;
        Ok(self.shared.bell.wait_fd())
    }

    /// For an event loop over many flows: appends what came since the last call, at most `most`, to `out`, and says how many, so
    /// that the loop tries only those. Each of them is named by its token ([`Flow::set_token`] and its like) and is told once, as
    /// often as something comes: try it until it answers `WouldBlock`, or remember it. Who begins to wait registers first and tries
    /// then; who never tried is told of messages, flows and ends all the same.
    ///
    /// From the first call on, only this call empties [`Self::event_fd`]: when it has answered fewer than `most`, either the
    /// descriptor is readable or nothing has come since. What the program does itself (it drops a loan, and a send that found
    /// no room would find it now) rings no bell, and is told at the next call.
    ///
    /// # Errors
    /// When the channel serves no more, everybody who waits has to be told, so that no single one is:
    /// [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Closed`]. Else [`Error::InvalidArgument`] as for
    /// [`Self::event_fd`], and [`Error::Forked`].
    pub fn take_news(&self, out: &mut Vec<News>, most: usize) -> Result<usize> {
        self.shared.with_state(|state| {
            state.refuse_beside_task()?;
            state.core.take_news(out, most)
        })
    }

    /// For an event loop that also makes calls between its rounds: the descriptor was readable, and now it asks for everything
    /// that it waits for. Without this, two calls that find nothing pass for two rounds, and the descriptor may not stay
    /// readable for what they took from the rings for others.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn begin_round(&self) -> Result<()> {
        self.shared.with(|core| {
            core.begin_round();
            Ok(())
        })
    }

    /// The next message of any channel-mode flow, in order of arrival.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Cancelled`], [`Error::Closed`] after [`Self::close`], [`Error::EngineLost`], [`Error::SidecarBroken`],
    /// [`Error::Forked`]. The end of a flow is none: its id is refused from then on.
    pub fn recv_any<'a>(&self, wait: impl Into<Wait<'a>>) -> Result<Arrival> {
        let interest = Interest::Receive(Source::Any);
        self.shared.wait(wait, interest, Core::try_recv_any).map(Arrival::new)
    }

    /// As [`Self::recv_any`], without waiting.
    ///
    /// # Errors
    /// As for [`Self::recv_any`].
    pub fn try_recv_any(&self) -> Result<Option<Arrival>> {
        Ok(self.shared.attempt(Wants::Any, Core::try_recv_any)?.map(Arrival::new))
    }

    /// As [`Self::try_recv_any`], copying into `buffer`: flow, peer, own end, length in bytes.
    ///
    /// # Errors
    /// As for [`Self::recv_any`], and [`Error::BufferTooSmall`]: the message stays; [`Self::drop_any`] drops it.
    pub fn try_recv_any_into(
        &self,
        buffer: &mut [u8],
    ) -> Result<Option<(FlowId, SocketAddr, SocketAddr, usize)>> {
        let found = self.shared.attempt(Wants::Any, |core| core.try_recv_any_into(buffer))?;
        Ok(found.map(|(ends, length)| (ends.flow, ends.peer, ends.local, length)))
    }

    /// Drops the next message of any channel-mode flow. Says whether there was one.
    ///
    /// # Errors
    /// As for [`Self::recv_any`].
    pub fn drop_any(&self) -> Result<bool> {
        let dropped =
            self.shared.attempt(Wants::Any, |core| Ok(core.drop_queued(Source::Any)?.then_some(())))?;
        Ok(dropped.is_some())
    }

    /// The channel-mode flow between these ends.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`]; [`Error::Closed`] if there was one among the 1,024 that ended last; [`Error::EngineLost`],
    /// [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn find_flow(&self, peer: SocketAddr, local: SocketAddr) -> Result<FlowId> {
        self.shared.with(|core| {
            core.check_over()?;
            core.find_by_ends(peer, local)
        })
    }

    /// Sends on a channel-mode flow, without waiting.
    ///
    /// # Errors
    /// As for [`Flow::try_send`]; [`Error::UnknownFlow`] once the flow ended and its messages were taken.
    pub fn try_send_to(&self, flow: FlowId, message: &[u8]) -> Result<()> {
        self.shared.with(|core| {
            channel_mode(core, flow)?;
            send(core, flow, message)
        })
    }

    /// Sends a message made of parts on the channel-mode flow between these ends, without waiting: [`Self::find_flow`] and
    /// [`Self::try_send_parts_to`] in one step.
    ///
    /// # Errors
    /// As for those two.
    pub fn try_send_parts_between(&self, peer: SocketAddr, local: SocketAddr, parts: &[&[u8]]) -> Result<()> {
        self.shared.with(|core| {
            core.check_over()?;
            let flow = core.find_by_ends(peer, local)?;
            channel_mode(core, flow)?;
            match parts {
                [message] => send(core, flow, message),
                parts => send_parts(core, flow, parts),
            }
        })
    }

    /// Sends a message made of parts on a channel-mode flow, without waiting.
    ///
    /// # Errors
    /// As for [`Self::try_send_to`].
    pub fn try_send_parts_to(&self, flow: FlowId, parts: &[&[u8]]) -> Result<()> {
        self.shared.with(|core| {
            channel_mode(core, flow)?;
            send_parts(core, flow, parts)
        })
    }

    /// Sends on a channel-mode flow; waits for credit and room.
    ///
    /// # Errors
    /// As for [`Self::try_send_to`], with [`Error::TimedOut`] and [`Error::Cancelled`] in place of `WouldBlock`.
    pub fn send_to<'a>(&self, flow: FlowId, message: &[u8], wait: impl Into<Wait<'a>>) -> Result<()> {
        self.shared.wait(wait, Interest::Send(flow, message.len()), |core| {
            channel_mode(core, flow)?;
            let outcome = core.try_send(flow, message);
            core.ring_after_send();
            would_block(outcome)
        })
    }

    /// As [`Self::send_to`], on the channel-mode flow between these ends: [`Self::find_flow`] and the send in one step.
    ///
    /// # Errors
    /// As for those two.
    pub fn send_between<'a>(
        &self,
        peer: SocketAddr,
        local: SocketAddr,
        message: &[u8],
        wait: impl Into<Wait<'a>>,
    ) -> Result<()> {
        let full = self.shared.with(|core| {
            core.check_over()?;
            let flow = core.find_by_ends(peer, local)?;
            channel_mode(core, flow)?;
            let sent = would_block(core.try_send(flow, message))?;
            core.ring_after_send();
            Ok(sent.is_none().then_some(flow))
        })?;
        full.map_or(Ok(()), |flow| self.send_to(flow, message, wait))
    }

    /// What the sidecar knows of a channel-mode flow: round-trip time, messages, bytes, repeats. A rare call: the sidecar is
    /// asked over its socket, which takes tens of microseconds.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::Version`] from a sidecar that is too old to know, [`Error::TimedOut`] after 5 s,
    /// [`Error::Closed`] after the channel was closed, [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::Forked`].
    pub fn flow_stats(&self, flow: FlowId) -> Result<FlowStats> {
        self.shared.flow_stats(flow)
    }

    /// Closes a channel-mode flow in order.
    ///
    /// # Errors
    /// [`Error::UnknownFlow`], [`Error::WrongMode`], [`Error::Forked`].
    pub fn close_flow(&self, flow: FlowId) -> Result<()> {
        self.shared.with(|core| {
            channel_mode(core, flow)?;
            core.close_flow(flow)
        })
    }

    /// Closes all flows in order, waits for their ends (the linger time of the options at most), and detaches. Calls on
    /// this attachment, its flows and listeners answer `Closed` from then on.
    ///
    /// # Errors
    /// [`Error::EngineLost`], [`Error::SidecarBroken`], [`Error::TimedOut`] if the sidecar does not answer for 5 s,
    /// [`Error::Forked`].
    pub fn close(&self) -> Result<()> {
        self.shared.check_process()?;
        self.shared.close()
    }
}

fn channel_mode(core: &Core, flow: FlowId) -> Result<()> {
    if core.is_channel_mode(flow)? { Ok(()) } else { Err(Error::WrongMode) }
}

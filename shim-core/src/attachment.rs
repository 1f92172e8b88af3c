//! The thread-safe layer.
#![expect(unused_variables, reason = "filled in next")]
use crate::channel::{Channel, ChannelInfo, FlowId};
use crate::error::{Error, Result};
use crate::message::{Message, TxLoan};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
struct Shared;

/// A channel that any thread may use. Clones share it; it ends when the last clone, flow and listener is gone.
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

/// Waits for flows. Dropped, it stops listening.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
}

/// One connection. Dropped, it closes in order.
#[derive(Debug)]
pub struct Flow {
    shared: Arc<Shared>,
}

/// A connect under way. Dropped, the flow is closed as soon as it is there.
#[derive(Debug)]
pub struct PendingConnect {
    shared: Arc<Shared>,
}

/// The first address of a name.
pub(crate) fn first_address(address: impl ToSocketAddrs) -> Result<SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(|| Error::invalid("the name has no address"))
}

impl Attachment {
    pub(crate) fn new(channel: Channel) -> Result<Self> {
        todo!()
    }
    /// What the channel is.
    pub fn info(&self) -> ChannelInfo {
        todo!()
    }
    /// Listens on an address of the sidecar (unspecified: its own). Port 0: any free one. `backlog` 0: 128.
    pub fn listen(&self, local: impl ToSocketAddrs, backlog: u32) -> Result<Listener> {
        todo!()
    }
    /// As [`Self::listen`], but flows are accepted by themselves and their messages come out of [`Self::recv_any`].
    pub fn listen_channel_mode(&self, local: impl ToSocketAddrs, backlog: u32) -> Result<Listener> {
        todo!()
    }
    /// Connects and waits, as long as the sidecar's default (3 s).
    pub fn connect(&self, remote: impl ToSocketAddrs) -> Result<Flow> {
        todo!()
    }
    /// Connects from `local`, if given, and waits `timeout`, if given.
    pub fn connect_timeout(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<Flow> {
        todo!()
    }
    /// Begins to connect and does not wait.
    pub fn start_connect(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<PendingConnect> {
        todo!()
    }
    /// The descriptor to poll for readability. Switches the channel into event mode.
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>> {
        todo!()
    }
    /// The next message of any channel-mode flow, in order of arrival. `None` waits for ever.
    pub fn recv_any(&self, timeout: Option<Duration>) -> Result<Arrival> {
        todo!()
    }
    /// As [`Self::recv_any`], without waiting.
    pub fn try_recv_any(&self) -> Result<Option<Arrival>> {
        todo!()
    }
    /// As [`Self::try_recv_any`], copying into `buffer`: `(flow, peer, local, length)`.
    ///
    /// # Errors
    /// [`Error::BufferTooSmall`]: the message stays; [`Self::drop_any`] drops it.
    pub fn try_recv_any_into(
        &self,
        buffer: &mut [u8],
    ) -> Result<Option<(FlowId, SocketAddr, SocketAddr, usize)>> {
        todo!()
    }
    /// Drops the next message of any channel-mode flow, if there is one.
    pub fn drop_any(&self) -> Result<bool> {
        todo!()
    }
    /// The channel-mode flow between these ends.
    pub fn find_flow(&self, peer: SocketAddr, local: SocketAddr) -> Option<FlowId> {
        todo!()
    }
    /// Sends on a channel-mode flow, without waiting.
    pub fn try_send_to(&self, flow: FlowId, message: &[u8]) -> Result<()> {
        todo!()
    }
    /// Sends a message made of parts on a channel-mode flow, without waiting.
    pub fn try_send_parts_to(&self, flow: FlowId, parts: &[&[u8]]) -> Result<()> {
        todo!()
    }
    /// Closes a channel-mode flow in order.
    pub fn close_flow(&self, flow: FlowId) -> Result<()> {
        todo!()
    }
    /// Closes all flows in order, waits for the linger time at most, and detaches.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}

impl Listener {
    /// Waits for a flow.
    pub fn accept(&self) -> Result<Flow> {
        todo!()
    }
    /// Waits for a flow, at most `timeout`.
    pub fn accept_timeout(&self, timeout: Duration) -> Result<Flow> {
        todo!()
    }
    /// The next flow, if one is there.
    pub fn try_accept(&self) -> Result<Option<Flow>> {
        todo!()
    }
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }
    /// The channel it belongs to.
    pub fn attachment(&self) -> Attachment {
        todo!()
    }
    /// Stops listening; a thread in `accept` gets `Closed`. For handles that are shared.
    pub fn shutdown(&self) -> Result<()> {
        todo!()
    }
    /// Stops listening. Flows not accepted yet are refused.
    pub fn close(self) -> Result<()> {
        todo!()
    }
}

impl PendingConnect {
    /// The flow, if the connect succeeded meanwhile.
    pub fn try_finish(&self) -> Result<Option<Flow>> {
        todo!()
    }
    /// Waits for the outcome.
    pub fn finish(self, timeout: Option<Duration>) -> Result<Flow> {
        todo!()
    }
}

impl Flow {
    /// Sends without waiting; `WouldBlock` when there is no credit or room.
    pub fn try_send(&self, message: &[u8]) -> Result<()> {
        todo!()
    }
    /// Sends a message made of parts, without waiting.
    pub fn try_send_parts(&self, parts: &[&[u8]]) -> Result<()> {
        todo!()
    }
    /// Sends; waits for credit.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        todo!()
    }
    /// Sends; waits for credit, at most `timeout`.
    pub fn send_timeout(&self, message: &[u8], timeout: Duration) -> Result<()> {
        todo!()
    }
    /// Sends as many as there is credit for, with one doorbell; says how many.
    pub fn try_send_many(&self, messages: &[&[u8]]) -> Result<usize> {
        todo!()
    }
    /// The next message, if one is there.
    pub fn try_recv(&self) -> Result<Option<Message>> {
        todo!()
    }
    /// Waits for the next message.
    pub fn recv(&self) -> Result<Message> {
        todo!()
    }
    /// Waits for the next message, at most `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Message> {
        todo!()
    }
    /// Copies the next message into `buffer` without waiting; says its length, or nothing.
    pub fn try_recv_into(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        todo!()
    }
    /// Copies the next message into `buffer`; says its length.
    pub fn recv_into(&self, buffer: &mut [u8], timeout: Option<Duration>) -> Result<usize> {
        todo!()
    }
    /// Appends what is there, at most `most`, to `out`; says how many.
    pub fn try_recv_many(&self, out: &mut Vec<Message>, most: usize) -> Result<usize> {
        todo!()
    }
    /// Room of `len` bytes to write a message in place.
    pub fn lend(&self, len: usize) -> Result<TxLoan> {
        todo!()
    }
    /// The peer.
    pub fn peer_addr(&self) -> SocketAddr {
        todo!()
    }
    /// Our end.
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }
    /// Largest message in bytes that the flow takes.
    pub fn max_message(&self) -> usize {
        todo!()
    }
    /// Messages sent and not acknowledged by the peer's engine.
    pub fn unacknowledged(&self) -> u32 {
        todo!()
    }
    /// The flow's number on its channel, stable for its life.
    pub fn handle(&self) -> u32 {
        todo!()
    }
    /// The channel it belongs to.
    pub fn attachment(&self) -> Attachment {
        todo!()
    }
    /// From now on the messages come out of [`Attachment::recv_any`], and the flow is named by its id.
    pub fn into_channel_mode(self) -> Result<FlowId> {
        todo!()
    }
    /// Closes in order, for handles that are shared: other calls on the flow answer `Closed` from now on.
    pub fn shutdown(&self) -> Result<()> {
        todo!()
    }
    /// Closes in order and returns at once.
    pub fn close(self) -> Result<()> {
        todo!()
    }
    /// Closes in order and waits until the peer's engine has everything.
    pub fn close_wait(self, timeout: Duration) -> Result<()> {
        todo!()
    }
    /// As [`Self::close_wait`], for handles that are shared.
    pub fn shutdown_wait(&self, timeout: Duration) -> Result<()> {
        todo!()
    }
    /// Ends the flow at once; what was not acknowledged may be lost.
    pub fn abort(self) {
        todo!()
    }
    /// As [`Self::abort`], for handles that are shared.
    pub fn reset(&self) -> Result<()> {
        todo!()
    }
}

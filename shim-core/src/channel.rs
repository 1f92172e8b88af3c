//! The single-threaded core.
#![expect(unused_variables, reason = "filled in next")]
use crate::error::Result;
use crate::message::Message;
use crate::shm::Geometry;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A flow of one channel: valid until the flow was released, then refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct FlowId {
    pub(crate) handle: u32,
}

impl FlowId {
    /// The flow's number on its channel: slot in the lower 16 bits, generation in the upper.
    pub fn handle(self) -> u32 {
        self.handle
    }

    /// The flow of that number; whether there is one, each call says.
    pub fn from_handle(handle: u32) -> Self {
        Self { handle }
    }
}

/// A listener of one channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ListenerId(pub(crate) u32);

/// A connect under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ConnectId(pub(crate) u32);

/// What a channel is.
#[derive(Clone, Debug)]
pub struct ChannelInfo {
    /// Number of the channel, unique for the sidecar's life.
    pub channel: u64,
    /// Engine that serves it.
    pub engine: u32,
    /// The sidecar's process.
    pub sidecar_pid: u32,
    /// The address that the sidecar owns.
    pub local: SocketAddr,
    /// Sizes granted.
    pub geometry: Geometry,
}

/// One channel, for one thread at a time.
#[derive(Debug)]
pub struct Channel {}

impl Channel {
    /// What the channel is.
    pub fn info(&self) -> ChannelInfo {
        todo!()
    }
    /// Listens on an address of the sidecar. Port 0: any.
    pub fn listen(&mut self, local: SocketAddr, backlog: u32) -> Result<(ListenerId, SocketAddr)> {
        todo!()
    }
    /// Stops listening.
    pub fn unlisten(&mut self, listener: ListenerId) -> Result<()> {
        todo!()
    }
    /// The next flow that arrived, if any.
    pub fn try_accept(&mut self, listener: ListenerId) -> Result<Option<FlowId>> {
        todo!()
    }
    /// Waits for the next flow. `None` waits for ever.
    pub fn accept(&mut self, listener: ListenerId, timeout: Option<Duration>) -> Result<FlowId> {
        todo!()
    }
    /// Connects and waits for the outcome.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<FlowId> {
        todo!()
    }
    /// Begins to connect.
    pub fn start_connect(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        timeout: Option<Duration>,
    ) -> Result<ConnectId> {
        todo!()
    }
    /// The outcome of a connect if there is one.
    pub fn try_finish_connect(&mut self, connect: ConnectId) -> Result<Option<FlowId>> {
        todo!()
    }
    /// Sends without waiting.
    pub fn try_send(&mut self, flow: FlowId, message: &[u8]) -> Result<()> {
        todo!()
    }
    /// Sends; waits for credit. `None` waits for ever.
    pub fn send(&mut self, flow: FlowId, message: &[u8], timeout: Option<Duration>) -> Result<()> {
        todo!()
    }
    /// The flow's next message, if any.
    pub fn try_recv(&mut self, flow: FlowId) -> Result<Option<Message>> {
        todo!()
    }
    /// Waits for the flow's next message. `None` waits for ever.
    pub fn recv(&mut self, flow: FlowId, timeout: Option<Duration>) -> Result<Message> {
        todo!()
    }
    /// Copies the flow's next message into `buffer`; says its length, or nothing.
    pub fn try_recv_into(&mut self, flow: FlowId, buffer: &mut [u8]) -> Result<Option<usize>> {
        todo!()
    }
    /// Closes the flow in order.
    pub fn close_flow(&mut self, flow: FlowId) -> Result<()> {
        todo!()
    }
    /// Aborts the flow.
    pub fn abort_flow(&mut self, flow: FlowId) -> Result<()> {
        todo!()
    }
    /// The doorbell; switches the channel to event mode.
    pub fn event_fd(&mut self) -> Result<BorrowedFd<'_>> {
        todo!()
    }
    /// Closes all flows in order and detaches.
    pub fn close(self) -> Result<()> {
        todo!()
    }
}

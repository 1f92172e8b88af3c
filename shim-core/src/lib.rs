//! Attach to a Machnet sidecar over shared memory and exchange whole messages.

#[cfg(feature = "tokio")]
pub mod aio;
mod attach;
mod attachment;
mod channel;
pub mod control;
mod error;
mod message;
mod options;
pub mod shm;
pub mod socket;
mod stats;
mod stream;
mod wait;
pub mod waiting;

pub use attachment::{Arrival, Attachment, Canceller, Flow, Listener, PendingConnect, Wait};
pub use channel::{Channel, ChannelInfo, ConnectId, FlowId, ListenerId, News};
pub use control::DoorbellKind;
pub use error::{Error, ResetReason, Result};
pub use message::{Message, TxLoan};
pub use options::{
    AttachOptions, SOCKET_VARIABLE, SYSTEM_SOCKET, attach, default_socket_path, engine_number,
    socket_candidates,
};
pub use shm::Geometry;
pub use shm::ring::PeerFault;
pub use stats::FlowStats;
pub use stream::Stream;
pub use wait::WaitPolicy;

/// Flows that wait to be accepted at most, unless `listen` is told otherwise.
pub const DEFAULT_BACKLOG: u32 = 128;

//! What the controller and the engines tell each other: a queue without a lock, and a pipe that wakes the one who sleeps.

use crate::status::EngineStatus;
use crate::tenant::Tenant;
use crossbeam_queue::SegQueue;
use machnet_client::FlowStats;
use machnet_client::shm::ring::PeerFault;
use machnet_client::socket;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Controller to engine.
#[derive(Debug)]
pub enum Command {
    /// A channel is ready.
    Attach(Box<Tenant>),
    /// The application's process died or its socket hung up: send what it had published, close its flows, drop it.
    Gone {
        /// Its channel.
        channel: u64,
    },
    /// The application wants to be detached, and waits: likewise.
    Detach {
        /// Its channel.
        channel: u64,
    },
    /// A channel listens on a port that nobody else has.
    Listen {
        /// The channel.
        channel: u64,
        /// The Machnet port.
        port: u16,
        /// Name of the listener.
        listener: u32,
        /// Most flows that wait to be accepted.
        backlog: u32,
    },
    /// A channel of another engine listens. Answered by [`Notice::Listening`], so that the application learns of its listener
    /// when every engine knows it.
    ListenElsewhere {
        /// The channel.
        channel: u64,
        /// The Machnet port.
        port: u16,
        /// The engine.
        engine: u8,
        /// Name of the listener.
        listener: u32,
    },
    /// A listener is given up.
    Unlisten {
        /// Its name.
        listener: u32,
    },
    /// A listener of another engine is given up.
    UnlistenElsewhere {
        /// The Machnet port, which another listener may have by now.
        port: u16,
        /// Its name.
        listener: u32,
    },
    /// What does the engine do? Answered by [`Notice::Status`] with the same token.
    Status {
        /// To be repeated in the answer.
        token: u64,
    },
    /// What does the engine know of a flow? Answered by [`Notice::FlowStats`].
    FlowStats {
        /// The channel.
        channel: u64,
        /// The application's number for its request, to be repeated in the answer.
        request: u32,
        /// What the application calls the flow.
        flow: u32,
    },
    /// Close all flows and end.
    Shutdown {
        /// Flows that are not closed after so long are reset.
        linger_ms: u32,
    },
}

/// Engine, or the sidecar as a whole, to controller.
#[derive(Debug)]
pub enum Notice {
    /// A channel is no more.
    Ended {
        /// Its number.
        channel: u64,
        /// The rule that its application broke, if that was the reason.
        fault: Option<PeerFault>,
    },
    /// A listener takes flows from now on, as far as this engine is concerned.
    Listening {
        /// Its channel.
        channel: u64,
        /// Its name.
        listener: u32,
    },
    /// The sidecar begins to end: no more channels and listeners.
    ShuttingDown,
    /// The controller ends.
    Stop,
    /// What an engine knows of a flow.
    FlowStats {
        /// The channel.
        channel: u64,
        /// From the request.
        request: u32,
        /// The answer; nothing if the channel has no such flow.
        stats: Option<Box<FlowStats>>,
    },
    /// What an engine does.
    Status {
        /// From the request.
        token: u64,
        /// The answer.
        status: Box<EngineStatus>,
    },
}

/// The sending end; as many as wanted.
pub struct Sender<T> {
    queue: Arc<SegQueue<T>>,
    bell: Arc<OwnedFd>,
}

/// The receiving end.
pub struct Receiver<T> {
    queue: Arc<SegQueue<T>>,
    bell: OwnedFd,
}

/// A queue with its bell.
pub fn mailbox<T>() -> io::Result<(Sender<T>, Receiver<T>)> {
    let (receive_bell, send_bell) = socket::pipe()?;
    let queue = Arc::new(SegQueue::new());
    let sender = Sender { queue: Arc::clone(&queue), bell: Arc::new(send_bell) };
    Ok((sender, Receiver { queue, bell: receive_bell }))
}

impl<T> Sender<T> {
    /// Puts something into the queue and rings. Never blocks.
    pub fn send(&self, item: T) {
        self.queue.push(item);
        // A receiver that is gone needs nothing any more.
        let _: socket::Ring = socket::ring(self.bell.as_fd(), false);
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Receiver<T> {
    /// The next item, if there is one.
    #[inline]
    pub fn try_receive(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Reads what the senders rang.
    pub fn drain_bell(&self) {
        let _: socket::Drained = socket::drain(self.bell.as_fd());
    }

    /// Readable after something was sent.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("waiting", &self.queue.len()).finish()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("waiting", &self.queue.len()).finish()
    }
}

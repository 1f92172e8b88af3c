//! Deliberate faults between endpoint and checker, for the tests of the checker itself.

/// One fault that the checker must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A received byte changes.
    SwapByte,
    /// A delivered message does not reach the application.
    DropDelivery,
    /// A message is delivered twice.
    RepeatDelivery,
    /// Two messages change places.
    SwapDeliveries,
    /// A discarded buffer does not come home.
    LoseDiscard,
    /// An acknowledgement is not passed on.
    LoseAcknowledgement,
    /// The wrong message is acknowledged.
    SwapAcknowledgements,
    /// A message counts as acknowledged when it was only sent.
    EarlyAcknowledgement,
    /// The end of a flow is not told.
    LoseEnd,
    /// One message too few is told as unacknowledged.
    MiscountUnacknowledged,
    /// A flow ends with a reason that is not true.
    WrongReason,
    /// From now on no segment of any flow gets through.
    Starve,
    /// The engine forgets its timers.
    NoTimers,
    /// Keepalives come a hundred times as often as agreed.
    Chatter,
    /// Strangers get ten times the bytes.
    LoudReply,
    /// A datagram is larger than the interface takes.
    LargeDatagram,
    /// The network card hashes differently from now on, and nobody planned that.
    SecretRehash,
    /// What is handed over takes a millisecond longer.
    SlowHandOver,
    /// What is handed over is lost.
    LoseHandOvers,
    /// The engine looks at its timers one second late and believes the endpoint told it so.
    LateTimers,
}

/// Strikes once, at the `fuse`-th chance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mutant {
    mutation: Option<Mutation>,
    fuse: u32,
    held: Option<Vec<u8>>,
    done: bool,
}

impl Mutant {
    /// No fault at all.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// A fault at the `fuse`-th chance, counted from zero.
    pub(crate) const fn new(mutation: Mutation, fuse: u32) -> Self {
        Self { mutation: Some(mutation), fuse, held: None, done: false }
    }

    /// Whether this is the chance.
    pub(crate) fn strikes(&mut self, mutation: Mutation) -> bool {
        if self.done || self.mutation != Some(mutation) {
            return false;
        }
        self.done = self.fuse == 0;
        self.fuse = self.fuse.saturating_sub(1);
        self.done
    }

    /// Whether a lasting fault is in force.
    pub(crate) fn lasts(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// For `SwapDeliveries`: what to deliver instead of `bytes`, in order, or `None` for `bytes` itself.
    pub(crate) fn hold_back(&mut self, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        if self.strikes(Mutation::SwapDeliveries) {
            self.held = Some(bytes.to_vec());
            return Some(Vec::new());
        }
        self.held.take().map(|held| vec![bytes.to_vec(), held])
    }
}

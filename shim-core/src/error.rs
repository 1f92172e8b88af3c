//! What can go wrong, with stable codes: the only error table of the repository.
//!
//! Every other language derives its own errors from [`Error::code`] and the text of `Display`.

use crate::shm::ring::PeerFault;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What every fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a flow ended badly or a connect failed, as the engine or the peer said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ResetReason {
    /// Nobody listens there.
    Refused,
    /// The listener's backlog is full.
    Busy,
    /// The peers' protocol versions do not meet.
    Version,
    /// The peer does not know the flow: its sidecar restarted.
    UnknownFlow,
    /// The peer's application aborted the flow.
    Aborted,
    /// The peer's application ended without closing.
    ApplicationGone,
    /// The peer broke the protocol, or says that we did.
    ProtocolError,
    /// A sidecar shuts down.
    ShuttingDown,
    /// The peer was silent for too long.
    Timeout,
    /// An engine has no room for another flow.
    TooManyFlows,
    /// The local address asked for is not the sidecar's.
    AddressNotLocal,
    /// The sidecar knows no way to the peer.
    NoRoute,
    /// The sidecar's network interface is gone; it may come back.
    InterfaceGone,
    /// A number that this version has no name for.
    Other(u16),
}

impl ResetReason {
    /// The reason that a slot carries as a number.
    pub const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Refused,
            2 => Self::Busy,
            3 => Self::Version,
            4 => Self::UnknownFlow,
            5 => Self::Aborted,
            6 => Self::ApplicationGone,
            7 => Self::ProtocolError,
            8 => Self::ShuttingDown,
            9 => Self::Timeout,
            10 => Self::TooManyFlows,
            11 => Self::AddressNotLocal,
            12 => Self::NoRoute,
            13 => Self::InterfaceGone,
            other => Self::Other(other),
        }
    }

    /// The number that a slot carries.
    pub const fn code(self) -> u16 {
        match self {
            Self::Refused => 1,
            Self::Busy => 2,
            Self::Version => 3,
            Self::UnknownFlow => 4,
            Self::Aborted => 5,
            Self::ApplicationGone => 6,
            Self::ProtocolError => 7,
            Self::ShuttingDown => 8,
            Self::Timeout => 9,
            Self::TooManyFlows => 10,
            Self::AddressNotLocal => 11,
            Self::NoRoute => 12,
            Self::InterfaceGone => 13,
            Self::Other(code) => code,
        }
    }
}

impl std::fmt::Display for ResetReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "nobody listens there",
            Self::Busy => "the listener's backlog is full",
            Self::Version => "the protocol versions do not meet",
            Self::UnknownFlow => "the peer does not know the flow: its sidecar restarted",
            Self::Aborted => "the peer aborted the flow",
            Self::ApplicationGone => "the peer's application ended without closing",
            Self::ProtocolError => "a peer broke the protocol",
            Self::ShuttingDown => "a sidecar shuts down",
            Self::Timeout => "the peer was silent for too long",
            Self::TooManyFlows => "an engine has no room for another flow",
            Self::AddressNotLocal => "the local address is not the sidecar's",
            Self::NoRoute => "the sidecar knows no way to the peer",
            Self::InterfaceGone => "the sidecar's network interface is gone",
            Self::Other(code) => return write!(f, "reason {code}"),
        })
    }
}

/// What went wrong, where, and what helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing listens on the control socket.
    #[error("no sidecar at {}; start one with `machnet up`", socket.display())]
    NoSidecar {
        /// Where a sidecar was looked for.
        socket: PathBuf,
    },
    /// The control socket exists, but this user may not use it.
    #[error(
        "no permission to use the sidecar's socket {}; join the group that owns it (`ls -l` shows it), or have the sidecar started with rights for this user",
        socket.display()
    )]
    SocketPermission {
        /// The socket.
        socket: PathBuf,
    },
    /// Application and sidecar speak no common version.
    #[error(
        "the sidecar does not speak version {ours} of the channel ({text}); bring both to releases that follow each other"
    )]
    Version {
        /// The newest version that this library speaks.
        ours: u32,
        /// What the sidecar said.
        text: String,
    },
    /// The sidecar refused the attach.
    #[error("the sidecar refused to attach: {text}")]
    AttachRefused {
        /// Its reason.
        text: String,
    },
    /// There is no engine of that number.
    #[error("the sidecar has no engine{engine}: {text}")]
    NoEngine {
        /// The number asked for.
        engine: u32,
        /// Which engines there are.
        text: String,
    },
    /// The sidecar ended or died.
    #[error("the sidecar is gone; attach again when it is back")]
    EngineLost,
    /// Nothing can be done now without waiting.
    #[error("the call would have to wait")]
    WouldBlock,
    /// The time given to the call ran out.
    #[error("timed out")]
    TimedOut,
    /// The address to listen on or to connect from is not the sidecar's.
    #[error("{address} is not an address of this host's sidecar; `machnet status` shows the one it has")]
    AddressNotLocal {
        /// The address.
        address: SocketAddr,
    },
    /// Another listener has the address.
    #[error("{address} is in use by another listener")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The sidecar refused to listen.
    #[error("the sidecar refused to listen: {text}")]
    ListenRefused {
        /// Its reason.
        text: String,
    },
    /// The peer's host did not answer a connect.
    #[error(
        "no answer from {peer} over UDP port {udp_port}: perhaps no sidecar runs there, or a firewall drops its packets"
    )]
    ConnectTimedOut {
        /// Whom we tried to reach.
        peer: SocketAddr,
        /// The UDP port over which the sidecars talk.
        udp_port: u16,
    },
    /// The peer's sidecar has no listener there.
    #[error("{peer} refused: its sidecar has no listener on port {port}", port = peer.port())]
    Refused {
        /// Whom we tried to reach.
        peer: SocketAddr,
    },
    /// The peer's listener has as many waiting flows as it allows.
    #[error("{peer} is busy: its listener's backlog is full")]
    Busy {
        /// Whom we tried to reach.
        peer: SocketAddr,
    },
    /// A connect failed for another reason.
    #[error("connect to {peer} failed: {reason}")]
    ConnectFailed {
        /// Whom we tried to reach.
        peer: SocketAddr,
        /// Why.
        reason: ResetReason,
    },
    /// The flow or listener is not, or no longer, one of this channel.
    #[error("no such flow or listener on this channel")]
    UnknownFlow,
    /// The peer closed in order, or this side did; nothing more comes.
    #[error("the flow is closed")]
    Closed,
    /// The flow ended badly.
    #[error("the flow was reset: {reason}; {unacknowledged} sent messages were not acknowledged")]
    Reset {
        /// Why.
        reason: ResetReason,
        /// Messages sent that the peer's engine may not have.
        unacknowledged: u32,
    },
    /// The message is longer than the peer or the channel takes.
    #[error("a message of {len} bytes is too large; this flow takes {limit}")]
    MessageTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The largest in bytes.
        limit: usize,
    },
    /// A message has at least one byte.
    #[error("a message has at least one byte")]
    EmptyMessage,
    /// The next message does not fit the buffer. It stays and can be received with a larger one.
    #[error("the next message needs a buffer of {needed} bytes")]
    BufferTooSmall {
        /// The message's length in bytes.
        needed: usize,
    },
    /// The flow or listener is in the other mode: its messages come out of `recv_any`, or do not.
    #[error("flow mode and channel mode were mixed on one flow or listener")]
    WrongMode,
    /// The handle belongs to the process that this one was forked from.
    #[error("the channel belongs to the parent process; attach again in the forked child")]
    Forked,
    /// An argument makes no sense.
    #[error("invalid argument: {what}")]
    InvalidArgument {
        /// Which and why.
        what: String,
    },
    /// The channel has as many flows as were agreed at attach.
    #[error("the channel has as many flows as its geometry allows")]
    TooManyFlows,
    /// The sidecar broke the rules of the shared memory; the channel is unusable.
    #[error("the sidecar broke the channel's rules: {0}")]
    SidecarBroken(PeerFault),
    /// A system call failed.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// Another thread ended the wait. Nothing was done and nothing lost.
    #[error("the call was cancelled")]
    Cancelled,
    /// What came on a flow in stream mode is no part of a byte stream. The flow was reset.
    #[error("the peer does not use stream mode: what came is no part of a byte stream")]
    NotAStream,
}

impl Error {
    /// The error's number: the same in every language and every release.
    pub const fn code(&self) -> i32 {
        match self {
            Self::NoSidecar { .. } => 1,
            Self::SocketPermission { .. } => 2,
            Self::Version { .. } => 3,
            Self::AttachRefused { .. } => 4,
            Self::NoEngine { .. } => 5,
            Self::EngineLost => 6,
            Self::WouldBlock => 7,
            Self::TimedOut => 8,
            Self::AddressNotLocal { .. } => 9,
            Self::AddressInUse { .. } => 10,
            Self::ListenRefused { .. } => 11,
            Self::ConnectTimedOut { .. } => 12,
            Self::Refused { .. } => 13,
            Self::Busy { .. } => 14,
            Self::ConnectFailed { .. } => 15,
            Self::UnknownFlow => 16,
            Self::Closed => 17,
            Self::Reset { .. } => 18,
            Self::MessageTooLarge { .. } => 19,
            Self::EmptyMessage => 20,
            Self::BufferTooSmall { .. } => 21,
            Self::WrongMode => 22,
            Self::Forked => 23,
            Self::InvalidArgument { .. } => 24,
            Self::TooManyFlows => 25,
            Self::SidecarBroken(_) => 26,
            Self::Io(_) => 27,
            Self::Cancelled => 28,
            Self::NotAStream => 29,
        }
    }

    /// Every code with the name of its error, for bindings and manuals.
    pub const CODES: [(i32, &'static str); 29] = [
        (1, "NoSidecar"),
        (2, "SocketPermission"),
        (3, "Version"),
        (4, "AttachRefused"),
        (5, "NoEngine"),
        (6, "EngineLost"),
        (7, "WouldBlock"),
        (8, "TimedOut"),
        (9, "AddressNotLocal"),
        (10, "AddressInUse"),
        (11, "ListenRefused"),
        (12, "ConnectTimedOut"),
        (13, "Refused"),
        (14, "Busy"),
        (15, "ConnectFailed"),
        (16, "UnknownFlow"),
        (17, "Closed"),
        (18, "Reset"),
        (19, "MessageTooLarge"),
        (20, "EmptyMessage"),
        (21, "BufferTooSmall"),
        (22, "WrongMode"),
        (23, "Forked"),
        (24, "InvalidArgument"),
        (25, "TooManyFlows"),
        (26, "SidecarBroken"),
        (27, "Io"),
        (28, "Cancelled"),
        (29, "NotAStream"),
    ];

    /// The name of the error, such as `NoSidecar`: the same in every language and every release.
    pub const fn name(&self) -> &'static str {
        #[expect(clippy::cast_sign_loss, reason = "codes begin at 1")]
        let place = self.code() as usize - 1;
        Self::CODES[place].1
    }

    /// One sentence about the errors of a code, without the addresses and numbers of a particular one: the same in every
    /// language.
    pub const fn general_text(code: i32) -> Option<&'static str> {
        Some(match code {
            1 => "no sidecar answers; start one with `machnet up`",
            2 => "no right to open the sidecar's socket",
            3 => "library and sidecar speak different versions",
            4 => "the sidecar refused the attach",
            5 => "the sidecar has no such engine",
            6 => "the sidecar is gone; attach again when it is back",
            7 => "the call would block",
            8 => "timed out",
            9 => "the local address does not belong to the sidecar",
            10 => "address in use",
            11 => "the sidecar refused the listener",
            12 => "the peer does not answer: wrong address, firewall, or no sidecar there",
            13 => "nobody listens on that port of the peer",
            14 => "the peer's listener is full",
            15 => "the connection could not be made",
            16 => "unknown flow",
            17 => "the flow is closed",
            18 => "the flow was reset",
            19 => "the message is too large for the peer",
            20 => "a message has at least one byte",
            21 => "the message is larger than the buffer",
            22 => "the call does not fit the mode of the flow or channel",
            23 => "the handle belongs to the parent process",
            24 => "invalid argument",
            25 => "too many flows",
            26 => "the sidecar broke the rules of the shared memory",
            27 => "the operating system answered an error",
            28 => "the call was cancelled",
            29 => "the peer does not use stream mode",
            _ => return None,
        })
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::InvalidArgument { what: what.into() }
    }

    /// The outcome of a connect that failed with this code.
    pub(crate) fn of_connect(peer: SocketAddr, local: SocketAddr, udp_port: u16, code: u16) -> Self {
        match ResetReason::from_code(code) {
            ResetReason::Refused => Self::Refused { peer },
            ResetReason::Busy => Self::Busy { peer },
            ResetReason::Timeout => Self::ConnectTimedOut { peer, udp_port },
            ResetReason::TooManyFlows => Self::TooManyFlows,
            ResetReason::AddressNotLocal => Self::AddressNotLocal { address: local },
            reason => Self::ConnectFailed { peer, reason },
        }
    }
}

/// The answer of a call that says `WouldBlock`, as that of one that finds nothing.
#[inline]
pub(crate) fn would_block<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(Error::WouldBlock) => Ok(None),
        outcome => outcome.map(Some),
    }
}

impl From<PeerFault> for Error {
    fn from(fault: PeerFault) -> Self {
        Self::SidecarBroken(fault)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        use io::ErrorKind as Kind;
        let kind = match &error {
            Error::Io(inner) => inner.kind(),
            Error::NoSidecar { .. } => Kind::NotFound,
            Error::SocketPermission { .. } => Kind::PermissionDenied,
            Error::WouldBlock => Kind::WouldBlock,
            Error::TimedOut | Error::ConnectTimedOut { .. } => Kind::TimedOut,
            Error::AddressNotLocal { .. } => Kind::AddrNotAvailable,
            Error::AddressInUse { .. } => Kind::AddrInUse,
            Error::Refused { .. } | Error::Busy { .. } | Error::ConnectFailed { .. } => {
                Kind::ConnectionRefused
            }
            Error::UnknownFlow => Kind::NotConnected,
            Error::Closed | Error::EngineLost => Kind::BrokenPipe,
            Error::Reset { .. } => Kind::ConnectionReset,
            Error::MessageTooLarge { .. }
            | Error::EmptyMessage
            | Error::BufferTooSmall { .. }
            | Error::WrongMode
            | Error::InvalidArgument { .. } => Kind::InvalidInput,
            Error::Version { .. } | Error::SidecarBroken(_) | Error::NotAStream => Kind::InvalidData,
            Error::AttachRefused { .. }
            | Error::NoEngine { .. }
            | Error::ListenRefused { .. }
            | Error::Forked
            | Error::TooManyFlows
            | Error::Cancelled => Kind::Other,
        };
        match error {
            Error::Io(inner) => inner,
            error => Self::new(kind, error),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_the_order_of_the_table_and_every_reason_has_its_number() {
        for (index, (code, _)) in Error::CODES.iter().enumerate() {
            assert_eq!(*code, i32::try_from(index).unwrap() + 1);
        }
        let errors = [Error::EngineLost, Error::WouldBlock, Error::Closed, Error::Forked, Error::Cancelled];
        for error in errors {
            let (code, name) = Error::CODES[usize::try_from(error.code()).unwrap() - 1];
            assert_eq!((code, name), (error.code(), format!("{error:?}").as_str()));
            assert_eq!(error.name(), name);
        }
        assert!(Error::CODES.iter().all(|(code, _)| Error::general_text(*code).is_some()));
        assert_eq!((Error::general_text(0), Error::general_text(30)), (None, None));
        for code in 0..20 {
            assert_eq!(ResetReason::from_code(code).code(), code);
        }
    }

    #[test]
    fn texts_name_what_helps() {
        let error = Error::NoSidecar { socket: "/run/machnet/machnet.sock".into() };
        assert_eq!(error.to_string(), "no sidecar at /run/machnet/machnet.sock; start one with `machnet up`");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
        assert_eq!(io::Error::from(Error::WouldBlock).kind(), io::ErrorKind::WouldBlock);
    }
}

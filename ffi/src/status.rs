//! Status codes of the boundary: the client library's error table, as a C enum, as text and as errno.

use std::ffi::CStr;

use machnet_client::Error;

/// What a function of this header answers as `int32_t`: 0 or the reason of the failure. The numbers are stable.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachnetStatus {
    /// Done.
    Ok = 0,
    /// No sidecar listens on the socket: start one with `machnet up`.
    NoSidecar = 1,
    /// The socket exists, but this user may not open it.
    SocketPermission = 2,
    /// Library and sidecar speak different versions.
    Version = 3,
    /// The sidecar refused the attach.
    AttachRefused = 4,
    /// The sidecar has no engine of that number.
    NoEngine = 5,
    /// The sidecar is gone: every handle of the channel answers this. Attach again when it is back.
    EngineLost = 6,
    /// Nothing to receive, or no credit to send, right now.
    WouldBlock = 7,
    /// The time given to the call has passed.
    TimedOut = 8,
    /// The local address does not belong to the sidecar.
    AddressNotLocal = 9,
    /// Somebody listens there already.
    AddressInUse = 10,
    /// The sidecar refused the listener.
    ListenRefused = 11,
    /// The peer did not answer: a wrong address, a firewall, or no sidecar there.
    ConnectTimedOut = 12,
    /// The peer's sidecar answered that nobody listens on that port.
    Refused = 13,
    /// The peer's listener has too many flows waiting to be accepted.
    Busy = 14,
    /// The connection could not be made; `machnet_last_error` has the reason.
    ConnectFailed = 15,
    /// The channel has no such flow.
    UnknownFlow = 16,
    /// The peer has closed the flow and every message it sent has been received.
    Closed = 17,
    /// The flow was broken off; some of the messages sent may not have arrived.
    Reset = 18,
    /// The message is larger than the peer can take, or than 8 MiB.
    MessageTooLarge = 19,
    /// A message has at least one byte.
    EmptyMessage = 20,
    /// The message is larger than the buffer; it was not taken.
    BufferTooSmall = 21,
    /// The call does not fit the flow's or the channel's mode.
    WrongMode = 22,
    /// The handle was made before a fork and used in the child.
    Forked = 23,
    /// A NULL pointer, a malformed address or a number out of range.
    InvalidArgument = 24,
    /// The channel or the sidecar has as many flows as it can hold.
    TooManyFlows = 25,
    /// The sidecar broke the rules of the shared memory.
    SidecarBroken = 26,
    /// The operating system answered an error; `machnet_last_error` names it.
    Io = 27,
    /// Another thread ended the wait with `machnet_cancel_trigger`.
    Cancelled = 28,
    /// The flow is a stream here, and something else to the peer.
    NotAStream = 29,
    /// A defect of this library, stopped at its boundary. Please report it.
    Internal = 1000,
}

/// The number C sees for an error.
pub(crate) fn code_of(error: &Error) -> i32 {
    error.code()
}

impl MachnetStatus {
    /// The status of a code, if it is one.
    pub fn of_code(code: i32) -> Option<Self> {
        ALL.iter().copied().find(|status| *status as i32 == code)
    }
}

/// Every status, in the order of its number.
const ALL: [MachnetStatus; 31] = {
    use MachnetStatus::*;
    [
        Ok,
        NoSidecar,
        SocketPermission,
        Version,
        AttachRefused,
        NoEngine,
        EngineLost,
        WouldBlock,
        TimedOut,
        AddressNotLocal,
        AddressInUse,
        ListenRefused,
        ConnectTimedOut,
        Refused,
        Busy,
        ConnectFailed,
        UnknownFlow,
        Closed,
        Reset,
        MessageTooLarge,
        EmptyMessage,
        BufferTooSmall,
        WrongMode,
        Forked,
        InvalidArgument,
        TooManyFlows,
        SidecarBroken,
        Io,
        Cancelled,
        NotAStream,
        Internal,
    ]
};

/// One sentence for a code; never fails.
pub fn text_of(code: i32) -> &'static CStr {
    use MachnetStatus as S;
    let Some(status) = MachnetStatus::of_code(code) else { return c"unknown machnet status code" };
    match status {
        S::Ok => c"success",
        S::NoSidecar => c"no sidecar answers; start one with `machnet up`",
        S::SocketPermission => c"no right to open the sidecar's socket",
        S::Version => c"library and sidecar speak different versions",
        S::AttachRefused => c"the sidecar refused the attach",
        S::NoEngine => c"the sidecar has no such engine",
        S::EngineLost => c"the sidecar is gone; attach again when it is back",
        S::WouldBlock => c"the call would block",
        S::TimedOut => c"timed out",
        S::AddressNotLocal => c"the local address does not belong to the sidecar",
        S::AddressInUse => c"address in use",
        S::ListenRefused => c"the sidecar refused the listener",
        S::ConnectTimedOut => c"the peer does not answer: wrong address, firewall, or no sidecar there",
        S::Refused => c"nobody listens on that port of the peer",
        S::Busy => c"the peer's listener is full",
        S::ConnectFailed => c"the connection could not be made",
        S::UnknownFlow => c"unknown flow",
        S::Closed => c"the flow is closed",
        S::Reset => c"the flow was reset",
        S::MessageTooLarge => c"the message is too large for the peer",
        S::EmptyMessage => c"a message has at least one byte",
        S::BufferTooSmall => c"the message is larger than the buffer",
        S::WrongMode => c"the call does not fit the mode of the flow or channel",
        S::Forked => c"the handle belongs to the parent process",
        S::InvalidArgument => c"invalid argument",
        S::TooManyFlows => c"too many flows",
        S::SidecarBroken => c"the sidecar broke the rules of the shared memory",
        S::Io => c"the operating system answered an error",
        S::Cancelled => c"the call was cancelled",
        S::NotAStream => c"the peer does not use stream mode",
        S::Internal => c"internal error of the machnet library",
    }
}

/// The name of a code in every language; never fails.
pub fn name_of(code: i32) -> &'static CStr {
    use MachnetStatus as S;
    let Some(status) = MachnetStatus::of_code(code) else { return c"Unknown" };
    match status {
        S::Ok => c"Ok",
        S::NoSidecar => c"NoSidecar",
        S::SocketPermission => c"SocketPermission",
        S::Version => c"Version",
        S::AttachRefused => c"AttachRefused",
        S::NoEngine => c"NoEngine",
        S::EngineLost => c"EngineLost",
        S::WouldBlock => c"WouldBlock",
        S::TimedOut => c"TimedOut",
        S::AddressNotLocal => c"AddressNotLocal",
        S::AddressInUse => c"AddressInUse",
        S::ListenRefused => c"ListenRefused",
        S::ConnectTimedOut => c"ConnectTimedOut",
        S::Refused => c"Refused",
        S::Busy => c"Busy",
        S::ConnectFailed => c"ConnectFailed",
        S::UnknownFlow => c"UnknownFlow",
        S::Closed => c"Closed",
        S::Reset => c"Reset",
        S::MessageTooLarge => c"MessageTooLarge",
        S::EmptyMessage => c"EmptyMessage",
        S::BufferTooSmall => c"BufferTooSmall",
        S::WrongMode => c"WrongMode",
        S::Forked => c"Forked",
        S::InvalidArgument => c"InvalidArgument",
        S::TooManyFlows => c"TooManyFlows",
        S::SidecarBroken => c"SidecarBroken",
        S::Io => c"Io",
        S::Cancelled => c"Cancelled",
        S::NotAStream => c"NotAStream",
        S::Internal => c"Internal",
    }
}

/// The errno that the compatible functions set for an error.
pub(crate) fn errno_of(error: &Error) -> i32 {
    if let Error::Io(cause) = error {
        return cause.raw_os_error().unwrap_or(libc::EIO);
    }
    errno_of_code(error.code())
}

/// The errno nearest in meaning to a code; 0 for 0.
pub(crate) fn errno_of_code(code: i32) -> i32 {
    use MachnetStatus as S;
    match MachnetStatus::of_code(code).unwrap_or(S::Internal) {
        S::Ok => 0,
        S::NoSidecar => libc::ENOENT,
        S::SocketPermission => libc::EACCES,
        S::Version | S::SidecarBroken | S::NotAStream => libc::EPROTO,
        S::AttachRefused | S::ListenRefused => libc::EPERM,
        S::NoEngine => libc::ENODEV,
        S::EngineLost => libc::ENETDOWN,
        S::WouldBlock => libc::EAGAIN,
        S::TimedOut | S::ConnectTimedOut => libc::ETIMEDOUT,
        S::AddressNotLocal => libc::EADDRNOTAVAIL,
        S::AddressInUse => libc::EADDRINUSE,
        S::Refused => libc::ECONNREFUSED,
        S::Busy => libc::EBUSY,
        S::ConnectFailed => libc::EHOSTUNREACH,
        S::UnknownFlow => libc::ENOTCONN,
        S::Closed | S::Reset => libc::EPIPE,
        S::MessageTooLarge | S::BufferTooSmall => libc::EMSGSIZE,
        S::EmptyMessage | S::InvalidArgument => libc::EINVAL,
        S::WrongMode => libc::EOPNOTSUPP,
        S::Forked => libc::ECHILD,
        S::TooManyFlows => libc::EMFILE,
        S::Io => libc::EIO,
        S::Cancelled => libc::ECANCELED,
        S::Internal => libc::ENOTRECOVERABLE,
    }
}

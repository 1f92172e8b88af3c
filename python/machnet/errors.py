"""What can go wrong. The names, codes and texts are the same in every language of Machnet.

Each class is a ``MachnetError`` and, where Python has one that fits, also the built-in exception that Python's own sockets
raise: ``except TimeoutError`` and ``except ConnectionError`` work as anywhere.
"""

from __future__ import annotations

import errno as _errno
from typing import ClassVar

from ._machnet import ERROR_CODES as _CODES

__all__ = [
    "AddressInUse",
    "AddressNotLocal",
    "AttachRefused",
    "BufferTooSmall",
    "Busy",
    "Cancelled",
    "Closed",
    "ConnectFailed",
    "ConnectTimedOut",
    "EmptyMessage",
    "EngineLost",
    "Forked",
    "InvalidArgument",
    "Io",
    "ListenRefused",
    "MachnetError",
    "MessageTooLarge",
    "NoEngine",
    "NoSidecar",
    "NotAStream",
    "Refused",
    "Reset",
    "SidecarBroken",
    "SocketPermission",
    "TimedOut",
    "TooManyFlows",
    "UnknownFlow",
    "Version",
    "WouldBlock",
    "WrongMode",
]


class MachnetError(OSError):
    """The base of all errors of Machnet. ``str(error)`` says what failed, where, and what helps."""

    code: ClassVar[int] = 0
    """The error's number: the same in every language and every release."""
    _errno: ClassVar[int | None] = None

    def __init__(self, *args: object) -> None:
        """An error with its text."""
        super().__init__(*args)
        if self._errno is not None:
            self.errno = self._errno

    def __init_subclass__(cls) -> None:
        cls.code = _CODES.get(cls.__name__, 0)

    @property
    def name(self) -> str:
        """The name of the error, such as ``NoSidecar``."""
        return type(self).__name__


class NoSidecar(MachnetError, FileNotFoundError):
    """No sidecar answers; start one with ``machnet up``."""

    _errno = _errno.ENOENT


class SocketPermission(MachnetError, PermissionError):
    """No right to open the sidecar's socket."""

    _errno = _errno.EACCES


class Version(MachnetError):
    """Library and sidecar speak different versions."""

    _errno = _errno.EPROTO


class AttachRefused(MachnetError):
    """The sidecar refused the attach."""


class NoEngine(MachnetError):
    """The sidecar has no such engine."""


class EngineLost(MachnetError, BrokenPipeError):
    """The sidecar is gone; attach again when it is back."""

    _errno = _errno.EPIPE


class WouldBlock(MachnetError, BlockingIOError):
    """The call would have to wait."""

    _errno = _errno.EAGAIN


class TimedOut(MachnetError, TimeoutError):
    """The time given to the call ran out. Nothing was done and nothing lost."""

    _errno = _errno.ETIMEDOUT


class AddressNotLocal(MachnetError):
    """The local address does not belong to the sidecar."""

    _errno = _errno.EADDRNOTAVAIL


class AddressInUse(MachnetError):
    """Another listener has the address."""

    _errno = _errno.EADDRINUSE


class ListenRefused(MachnetError):
    """The sidecar refused to listen."""


class ConnectTimedOut(MachnetError, TimeoutError):
    """The peer does not answer: wrong address, firewall, or no sidecar there."""

    _errno = _errno.ETIMEDOUT


class Refused(MachnetError, ConnectionRefusedError):
    """Nobody listens on that port of the peer."""

    _errno = _errno.ECONNREFUSED


class Busy(MachnetError, ConnectionRefusedError):
    """The peer's listener is full."""

    _errno = _errno.ECONNREFUSED


class ConnectFailed(MachnetError, ConnectionRefusedError):
    """The connection could not be made."""

    _errno = _errno.ECONNREFUSED


class UnknownFlow(MachnetError, ConnectionError):
    """The flow or listener is not, or no longer, one of this channel."""

    _errno = _errno.ENOTCONN


class Closed(MachnetError, BrokenPipeError):
    """The flow is closed: the peer closed in order, or this side did."""

    _errno = _errno.EPIPE


class Reset(MachnetError, ConnectionResetError):
    """The flow ended badly."""

    _errno = _errno.ECONNRESET
    reason: str = ""
    """Why, in words."""
    unacknowledged: int = 0
    """Messages sent that the peer's sidecar may not have."""


class MessageTooLarge(MachnetError, ValueError):
    """The message is longer than the peer takes."""

    _errno = _errno.EMSGSIZE
    limit: int = 0
    """The largest in bytes."""


class EmptyMessage(MachnetError, ValueError):
    """A message has at least one byte."""

    _errno = _errno.EINVAL


class BufferTooSmall(MachnetError, ValueError):
    """The next message does not fit the buffer. It stays and can be received with a larger one."""

    _errno = _errno.EMSGSIZE
    needed: int = 0
    """The message's length in bytes."""


class WrongMode(MachnetError, ValueError):
    """The call does not fit the mode of the flow or channel."""

    _errno = _errno.EINVAL


class Forked(MachnetError, RuntimeError):
    """The handle belongs to the process that this one was forked from; attach again in the child."""


class InvalidArgument(MachnetError, ValueError):
    """An argument makes no sense."""

    _errno = _errno.EINVAL


class TooManyFlows(MachnetError):
    """The channel, or an engine, has no room for another flow."""


class SidecarBroken(MachnetError):
    """The sidecar broke the rules of the shared memory; the channel is unusable."""

    _errno = _errno.EPROTO


class Io(MachnetError):
    """A system call failed; ``errno`` says how."""


class Cancelled(MachnetError):
    """Another thread ended the wait. Nothing was done and nothing lost."""

    _errno = _errno.ECANCELED


class NotAStream(MachnetError, ConnectionError):
    """The peer does not use stream mode. The flow was reset."""

    _errno = _errno.EPROTO

"""Stands in for the native half of the package where there is none: everything can be imported, and ``attach`` says why not more.

The wheel for machines without a wheel of their own has this file as ``machnet/_machnet.py``.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, NoReturn

try:
    __version__ = version("machnet")
except PackageNotFoundError:
    __version__ = "unknown"

ERROR_CODES: Final[dict[str, int]] = {
    "NoSidecar": 1,
    "SocketPermission": 2,
    "Version": 3,
    "AttachRefused": 4,
    "NoEngine": 5,
    "EngineLost": 6,
    "WouldBlock": 7,
    "TimedOut": 8,
    "AddressNotLocal": 9,
    "AddressInUse": 10,
    "ListenRefused": 11,
    "ConnectTimedOut": 12,
    "Refused": 13,
    "Busy": 14,
    "ConnectFailed": 15,
    "UnknownFlow": 16,
    "Closed": 17,
    "Reset": 18,
    "MessageTooLarge": 19,
    "EmptyMessage": 20,
    "BufferTooSmall": 21,
    "WrongMode": 22,
    "Forked": 23,
    "InvalidArgument": 24,
    "TooManyFlows": 25,
    "SidecarBroken": 26,
    "Io": 27,
    "Cancelled": 28,
    "NotAStream": 29,
}


def _missing() -> NoReturn:
    from machnet.errors import NoSidecar  # Which imports this file.

    if not sys.platform.startswith("linux"):
        raise NoSidecar(
            f"Machnet runs on Linux, and this is {platform.system()}: the package can be imported here, but there is no sidecar "
            "to attach to; run the program and `machnet up` in a Linux container or virtual machine"
        )
    raise NoSidecar(
        f"this package has no native half for {platform.machine()} with {' '.join(platform.libc_ver()).strip() or 'this C library'}: "
        "the wheels for Linux are for x86_64 and aarch64 with glibc 2.28 or newer; build one from the sources: ci/python.sh"
    )


def attach(*_arguments: Any, **_options: Any) -> NoReturn:
    """Raises ``NoSidecar``: it says what is possible on this machine."""
    _missing()


class _Missing:
    """Whatever only ``attach`` leads to."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raises ``NoSidecar``."""
        _missing()


class Arrival(_Missing):
    """Only ``attach`` leads to one."""


class Canceller(_Missing):
    """Only ``attach`` leads to one."""


class ChannelInfo(_Missing):
    """Only ``attach`` leads to one."""


class Channel(_Missing):
    """Only ``attach`` leads to one."""


class Listener(_Missing):
    """Only ``attach`` leads to one."""


class PendingConnect(_Missing):
    """Only ``attach`` leads to one."""


class Flow(_Missing):
    """Only ``attach`` leads to one."""


class Message(_Missing):
    """Only ``attach`` leads to one."""


class Loan(_Missing):
    """Only ``attach`` leads to one."""


class FlowStats(_Missing):
    """Only ``attach`` leads to one."""


class RawStream(_Missing):
    """Only ``attach`` leads to one."""

"""Whole messages between programs, through the Machnet sidecar of each host.

    with machnet.attach() as channel, channel.connect("10.0.0.6:888") as flow:
        flow.send(b"question")
        answer = flow.recv(timeout=1.0)

Calls that begin with ``try_`` never wait; ``timeout`` is in seconds, and None waits for ever. A call that raises ``TimedOut``
has done nothing and lost nothing. Every wait lets other threads run, and Ctrl-C ends it. ``machnet.aio`` has the same for
asyncio, ``machnet.errors`` the exceptions.
"""

from . import errors
from ._machnet import (
    Arrival,
    Canceller,
    Channel,
    ChannelInfo,
    Flow,
    FlowStats,
    Listener,
    Loan,
    Message,
    PendingConnect,
    __version__,
    attach,
)
from .errors import MachnetError
from .news import News
from .stream import Stream

__all__ = [
    "Arrival",
    "Canceller",
    "Channel",
    "ChannelInfo",
    "Flow",
    "FlowStats",
    "Listener",
    "Loan",
    "MachnetError",
    "Message",
    "News",
    "PendingConnect",
    "Stream",
    "__version__",
    "attach",
    "errors",
]

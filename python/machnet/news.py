"""What came for an event loop."""

from __future__ import annotations

import enum

__all__ = ["News"]


class News(enum.IntFlag):
    """The events of ``Channel.take_news``. Unknown bits may come; ignore them."""

    RECEIVE = 1
    """A receive finds something: a message, or how the flow ended."""
    SEND = 2
    """A send that found no room may find it now, or how the flow ended."""
    ACCEPT = 4
    """The listener has a flow."""
    CONNECT = 8
    """The connect has its outcome."""
    ENDED = 16
    """The flow has ended: what was received before comes first."""
    CHANNEL = 32
    """Of the channel: with ``RECEIVE``, a message for ``recv_any``; with ``SEND``, room for ``send_to`` or for a connect that found none."""

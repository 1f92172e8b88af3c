"""A byte stream over a flow."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ._machnet import Flow, FlowStats

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["Stream"]


class Stream(io.RawIOBase):
    """A byte stream, both ways, over a flow whose other end is a stream too: the framing that all languages of Machnet share.

    It is a raw file: wrap it in ``io.BufferedReader``, ``io.BufferedWriter`` or ``io.BufferedRWPair`` to read lines or to join
    small writes. ``end()`` is the half-close. ``close()``, and the end of a ``with`` block, close the flow in order.
    """

    def __init__(self, flow: Flow, timeout: float | None = None) -> None:
        """A stream over a flow of which nothing was received yet. The flow is the stream's from then on.

        ``timeout``: seconds that a read or a write may wait.
        """
        self._raw = flow.take_raw_stream()
        self.timeout = timeout

    def readable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Reads what is there into ``buffer`` and waits for the first byte; says how many bytes, 0 at the end of the stream."""
        self._check()
        return self._raw.readinto(buffer, self.timeout)

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes as many of the bytes as one message takes; says how many. ``sendall`` writes all."""
        self._check()
        return self._raw.write(data, self.timeout)

    def sendall(self, data: ReadableBuffer, /) -> None:
        """Writes all of the bytes."""
        with memoryview(data) as whole, whole.cast("B") as left:
            written = 0
            while written < len(left):
                with left[written:] as rest:
                    written += self.write(rest)

    def end(self) -> None:
        """Half-closes: the peer reads what was written, then the end of the stream. This side reads on."""
        self._check()
        self._raw.end(self.timeout)

    def reset(self) -> None:
        """Ends the flow at once; what was not acknowledged may be lost."""
        self._raw.reset()

    def close(self) -> None:
        """Closes the flow in order. What the peer still writes is not read."""
        if not self.closed and hasattr(self, "_raw"):
            self._raw.close()
        super().close()

    @property
    def peer(self) -> tuple[str, int]:
        """The peer, as (host, port)."""
        return self._raw.peer

    @property
    def local(self) -> tuple[str, int]:
        """Our end, as (host, port)."""
        return self._raw.local

    def stats(self) -> FlowStats:
        """What the sidecar knows of the flow under it."""
        return self._raw.stats()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed stream")

"""The calls of ``machnet`` for asyncio.

    async with await machnet.aio.attach() as channel:
        async with await channel.connect("10.0.0.6:888") as flow:
            await flow.send(b"question")
            answer = await flow.recv()

No thread takes part in connecting, accepting, sending and receiving: the event loop polls the channel's descriptor. What asks
the sidecar over its socket (attach, listen, statistics, closing a channel) runs in the loop's executor. A cancelled call has
done nothing: what it waited for is there for the next. Use a channel and its flows in the loop that it was attached in.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar, cast

from . import _machnet
from ._machnet import Arrival, ChannelInfo, FlowStats, Loan, Message
from .errors import Closed, WouldBlock
from .news import News

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Channel", "Flow", "Listener", "StreamTransport", "attach"]

_Address: TypeAlias = str | tuple[str, int]
_T = TypeVar("_T")

_TURN = 64
"""Calls of one handle that find something at once before other tasks have their turn."""

_CHUNK = 64 * 1024
"""Bytes that a stream reads at once."""


async def attach(
    socket: str | os.PathLike[str] | None = None,
    *,
    engine: int | str | None = None,
    name: str | None = None,
    wait_policy: str = "auto",
    linger: float = 1.0,
    sizes: str = "default",
    send_slots: int | None = None,
    receive_slots: int | None = None,
    tx_buffers: int | None = None,
    rx_buffers: int | None = None,
    buffer_bytes: int | None = None,
    max_flows: int | None = None,
    flow_credit: int | None = None,
) -> Channel:
    """Attaches to a sidecar. The arguments are those of ``machnet.attach``."""
    channel = await asyncio.to_thread(
        _machnet.attach,
        socket,
        engine=engine,
        name=name,
        wait_policy=wait_policy,
        linger=linger,
        sizes=sizes,
        send_slots=send_slots,
        receive_slots=receive_slots,
        tx_buffers=tx_buffers,
        rx_buffers=rx_buffers,
        buffer_bytes=buffer_bytes,
        max_flows=max_flows,
        flow_credit=flow_credit,
    )
    return Channel(channel)


_Place: TypeAlias = tuple[int, bool]
"""Where one waits: a token of ``take_news``, and whether it is room to send that is waited for."""

_OF_CHANNEL = 0
"""The token of the channel's own news."""

_NEWS = 64
"""News that are taken at once."""


class _Doorbell:
    """Who waits on a channel. The loop watches the descriptor only while somebody does: nobody else would answer it."""

    def __init__(self, channel: _machnet.Channel) -> None:
        self.loop = asyncio.get_running_loop()
        self._channel = channel
        self._descriptor = channel.fileno()
        self._checks: dict[_Place, Callable[[], bool]] = {}
        self._tokens = itertools.count(_OF_CHANNEL + 1)
        self._is_watched = False

    def token(self) -> int:
        """Names one whose news are to be told."""
        return next(self._tokens)

    def watch(self, place: _Place, check: Callable[[], bool]) -> None:
        """``check`` is called as often as there are news of the place, until it says that it found what it looked for. Whoever calls
        this has tried before, or tries behind it.
        """
        self._checks[place] = check
        if not self._is_watched:
            self.loop.add_reader(self._descriptor, self._ring)
            self._is_watched = True

    def forget(self, place: _Place) -> None:
        """Ends what ``watch`` began."""
        self._checks.pop(place, None)

    def stop(self) -> None:
        """The channel is over: all look once more and find that out."""
        self._check_all()
        if self._is_watched:
            self.loop.remove_reader(self._descriptor)
            self._is_watched = False

    def _ring(self) -> None:
        # Not at the end of each wait, because the next one mostly follows. What came stays to be told until then.
        if not self._checks:
            self.loop.remove_reader(self._descriptor)
            self._is_watched = False
            return
        try:
            news = self._channel.take_news(_NEWS)
        except OSError:
            self._check_all()  # The channel is over, and each finds out why.
            return
        for token, events in news:
            if events & News.CHANNEL:
                token = _OF_CHANNEL
            if events & (News.RECEIVE | News.ACCEPT | News.CONNECT):
                self._check((token, False))
            if events & News.SEND:
                self._check((token, True))
        if len(news) == _NEWS:
            self.loop.call_soon(self._ring)

    def ring_soon(self) -> None:
        """What this program did itself may be news, and rings no bell."""
        if self._is_watched:
            self.loop.call_soon(self._ring)

    def _check(self, place: _Place) -> None:
        check = self._checks.get(place)
        if check is not None and check() and self._checks.get(place) == check:
            del self._checks[place]

    def _check_all(self) -> None:
        for place in list(self._checks):
            self._check(place)


class _Inbox(Generic[_T]):
    """What comes out of a ``try_`` call, for the tasks that wait for it, first come first served.

    The doorbell's callback takes for a waiting task at most one, which lies here until the task resumes: if that is cancelled
    meanwhile, the next caller finds it.
    """

    def __init__(self, bell: _Doorbell, token: int, take: Callable[[], _T | None]) -> None:
        self._bell = bell
        self._place = (token, False)
        self._take = take
        self._found: deque[_T] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turns = 0

    def take_now(self) -> _T | None:
        """The next, if it is there and nobody waits for it."""
        if self._found:
            return self._found.popleft()
        return self._take()

    async def take(self) -> _T:
        """Waits for the next."""
        self._turns += 1
        # Who lets others have their turn queues too, and so keeps its place.
        is_others_turn = self._turns % _TURN == 0
        if not self._waiting and not is_others_turn:
            item = self.take_now()
            if item is not None:
                return item
        while True:
            await self._wait(is_others_turn)
            item = self.take_now()
            if item is not None:
                return item

    async def _wait(self, looks_soon: bool) -> None:
        future: asyncio.Future[None] = self._bell.loop.create_future()
        self._waiting.append(future)
        try:
            self._bell.watch(self._place, self._check)
            if looks_soon:
                self._bell.loop.call_soon(self._check_and_forget)
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
            # Woken for something that another will take, or cancelled after it was woken: look again for the next.
            if self._waiting and not self._waiting[0].done():
                self._bell.loop.call_soon(self._check_and_forget)

    def _check_and_forget(self) -> None:
        if self._check():
            self._bell.forget(self._place)

    def _check(self) -> bool:
        while self._waiting and self._waiting[0].cancelled():
            self._waiting.popleft()
        if not self._waiting:
            return True
        if not self._waiting[0].done():
            try:
                if not self._found:
                    item = self._take()
                    if item is None:
                        return False
                    self._found.append(item)
            except Exception:
                pass  # The call that waits asks again and raises it.
            self._waiting[0].set_result(None)
        # Others wait behind it; they are looked after when it has resumed.
        return len(self._waiting) == 1


class _Outbox:
    """The tasks that wait for room to send on a flow."""

    def __init__(self, bell: _Doorbell, token: int) -> None:
        self._bell = bell
        self._place = (token, True)
        self._turns = 0
        self._lock = asyncio.Lock()

    async def until(self, attempt: Callable[[], bool]) -> None:
        """Repeats a ``try_`` call until it says that it is done. Those of other tasks come after it."""
        self._turns += 1
        is_others_turn = self._turns % _TURN == 0
        if not self._lock.locked() and not is_others_turn and attempt():
            return
        async with self._lock:
            if is_others_turn:
                await asyncio.sleep(0)
            while not attempt():
                future: asyncio.Future[None] = self._bell.loop.create_future()

                def check(future: asyncio.Future[None] = future) -> bool:
                    if not future.done():
                        future.set_result(None)
                    return True

                self._bell.watch(self._place, check)
                try:
                    await future
                finally:
                    self._bell.forget(self._place)


class _Crowd:
    """The tasks that wait for room of the channel itself: all of them look whenever there are news of that."""

    def __init__(self, bell: _Doorbell) -> None:
        self._bell = bell
        self._waiting: set[asyncio.Future[None]] = set()

    async def until(self, attempt: Callable[[], bool]) -> None:
        """Repeats a ``try_`` call until it says that it is done."""
        while not attempt():
            future: asyncio.Future[None] = self._bell.loop.create_future()
            self._waiting.add(future)
            self._bell.watch((_OF_CHANNEL, True), self._check)
            try:
                await future
            finally:
                self._waiting.discard(future)

    def _check(self) -> bool:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        return True


class Channel:
    """A channel with a sidecar, from ``attach``. ``async with`` closes it at the end of the block."""

    def __init__(self, channel: _machnet.Channel) -> None:
        """Takes over a channel of ``machnet.attach``, for the running loop. Nothing else may wait on it from then on."""
        self._channel = channel
        self._bell = _Doorbell(channel)
        self._inbox = _Inbox(self._bell, _OF_CHANNEL, channel.try_recv_any)
        self._crowd = _Crowd(self._bell)

    async def listen(self, address: _Address, backlog: int = 0) -> Listener:
        """As ``machnet.Channel.listen``."""
        return Listener(await asyncio.to_thread(self._channel.listen, address, backlog), self._bell)

    async def connect(self, address: _Address, timeout: float | None = None, *, local: str | None = None) -> Flow:
        """As ``machnet.Channel.connect``. Cancelled, the connect is given up."""
        started: list[_machnet.PendingConnect] = []

        def start() -> bool:
            try:
                started.append(self._channel.start_connect(address, timeout, local=local))
            except WouldBlock:
                return False  # The ring to the sidecar is full.
            return True

        await self._crowd.until(start)
        pending = started.pop()
        token = self._bell.token()
        pending.set_token(token)
        outcome: deque[_machnet.Flow | BaseException] = deque()

        def finish() -> bool:
            # The outcome comes once, so it is kept until this task resumes.
            if not outcome:
                try:
                    flow = pending.try_finish()
                except Exception as error:
                    outcome.append(error)
                else:
                    if flow is not None:
                        outcome.append(flow)
            return bool(outcome)

        if not finish():
            future: asyncio.Future[None] = self._bell.loop.create_future()

            def check() -> bool:
                if finish() and not future.done():
                    future.set_result(None)
                return bool(outcome)

            self._bell.watch((token, False), check)
            try:
                await future
            finally:
                self._bell.forget((token, False))
        found = outcome.pop()
        if isinstance(found, BaseException):
            raise found
        return Flow(found, self._bell)

    async def listen_any(self, address: _Address, backlog: int = 0) -> _machnet.Listener:
        """As ``machnet.Channel.listen_any``: the listener is only to be closed."""
        return await asyncio.to_thread(self._channel.listen_any, address, backlog)

    async def recv_any(self) -> Arrival:
        """As ``machnet.Channel.recv_any``. Cancelled, the message stays for the next call."""
        return await self._inbox.take()

    def try_recv_any(self) -> Arrival | None:
        """The next message of any flow in channel mode, if one is there."""
        return self._inbox.take_now()

    async def send_to(self, flow: int, message: ReadableBuffer) -> None:
        """As ``machnet.Channel.send_to``. Cancelled, nothing was sent. Tasks that send to one flow at the same time and find no room
        have no order among them.
        """
        await self._crowd.until(lambda: self._channel.try_send_to(flow, message))

    def try_send_to(self, flow: int, message: ReadableBuffer) -> bool:
        """Sends on a flow in channel mode if there is room now; says whether."""
        return self._channel.try_send_to(flow, message)

    def find_flow(self, peer: _Address, local: _Address) -> int:
        """As ``machnet.Channel.find_flow``."""
        return self._channel.find_flow(peer, local)

    def close_flow(self, flow: int) -> None:
        """Closes a flow in channel mode, in order."""
        self._channel.close_flow(flow)
        self._crowd._check()

    @property
    def info(self) -> ChannelInfo:
        """What the channel is."""
        return self._channel.info

    async def close(self) -> None:
        """Closes all flows in order, waits for their ends (``linger`` at most), and detaches."""
        try:
            await asyncio.to_thread(self._channel.close)
        finally:
            self._bell.stop()

    async def __aenter__(self) -> Self:
        """The channel."""
        return self

    async def __aexit__(self, exception_type: type[BaseException] | None, *_exception: object) -> None:
        """Closes; but an exception of the block matters more than one of the end."""
        try:
            await self.close()
        except OSError:
            if exception_type is None:
                raise


class Listener:
    """Waits for flows. ``async for`` accepts until the listener is closed; ``async with`` closes it."""

    def __init__(self, listener: _machnet.Listener, bell: _Doorbell) -> None:
        """Made by ``Channel.listen``."""
        self._listener = listener
        self._bell = bell
        token = bell.token()
        listener.set_token(token)
        self._inbox = _Inbox(bell, token, listener.try_accept)

    async def accept(self) -> Flow:
        """Waits for a flow."""
        return Flow(await self._inbox.take(), self._bell)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as (host, port)."""
        return self._listener.address

    def close(self) -> None:
        """Stops listening: tasks in ``accept`` get ``Closed``."""
        self._listener.close()
        self._inbox._check_and_forget()

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> Flow:
        """The next flow."""
        try:
            return await self.accept()
        except Closed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        """The listener."""
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """Closes."""
        self.close()


class Flow:
    """One connection: whole messages, in order, both ways. ``async for`` receives until the peer closed; ``async with`` closes.

    Several tasks may send and receive; each message goes to one, and they are served in the order in which they came.
    """

    def __init__(self, flow: _machnet.Flow, bell: _Doorbell) -> None:
        """Made by ``Channel.connect`` and ``Listener.accept``."""
        self._flow = flow
        self._bell = bell
        self._token = bell.token()
        flow.set_token(self._token)
        self._inbox: _Inbox[Message] = _Inbox(bell, self._token, flow.try_recv)
        self._outbox = _Outbox(bell, self._token)

    async def send(self, message: ReadableBuffer) -> None:
        """Sends a message; waits for room. Cancelled, nothing was sent. The buffer must not change meanwhile."""
        await self._outbox.until(lambda: self._flow.try_send(message))

    def try_send(self, message: ReadableBuffer) -> bool:
        """Sends if there is room now; says whether."""
        return self._flow.try_send(message)

    async def recv(self) -> Message:
        """Waits for the next message. Cancelled, the message stays for the next call."""
        return await self._inbox.take()

    def try_recv(self) -> Message | None:
        """The next message, if one is there."""
        return self._inbox.take_now()

    async def recv_many(self, most: int = 64) -> list[Message]:
        """Waits for a message, and takes it and those behind it that are there, at most ``most``."""
        if most < 1:
            return []
        found = [await self._inbox.take()]
        try:
            found += self._flow.try_recv_many(most - 1)
        except OSError:
            pass  # It comes again at the next call.
        return found

    async def lend(self, length: int) -> Loan:
        """Lends room to write a message in place; waits for room."""
        loans: list[Loan] = []

        def attempt() -> bool:
            try:
                loans.append(self._flow.lend(length, 0.0))
            except TimeoutError:
                return False
            return True

        await self._outbox.until(attempt)
        return loans.pop()

    @property
    def peer(self) -> tuple[str, int]:
        """The peer, as (host, port)."""
        return self._flow.peer

    @property
    def local(self) -> tuple[str, int]:
        """Our end, as (host, port)."""
        return self._flow.local

    @property
    def max_message(self) -> int:
        """Largest message in bytes that can be sent."""
        return self._flow.max_message

    async def stats(self) -> FlowStats:
        """What the sidecar knows of the flow."""
        return await asyncio.to_thread(self._flow.stats)

    def close(self) -> None:
        """Closes in order: what was sent is delivered first. Tasks that wait on the flow get ``Closed``."""
        self._flow.close()
        self._inbox._check_and_forget()

    def reset(self) -> None:
        """Ends the flow at once; what was not acknowledged may be lost."""
        self._flow.reset()
        self._inbox._check_and_forget()

    def enter_channel_mode(self) -> int:
        """As ``machnet.Flow.enter_channel_mode``: its messages come out of ``Channel.recv_any``."""
        number = self._flow.enter_channel_mode()
        self._bell.ring_soon()
        return number

    def open_streams(self, limit: int = 2**16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A byte stream over the flow, as asyncio's own reader and writer. Nothing may have been received from the flow yet;
        it is the stream's from then on. Both ends have to agree on it, as they agree on a port.
        """
        reader = asyncio.StreamReader(limit, self._bell.loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._bell.loop)
        transport = StreamTransport(self, protocol)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._bell.loop)

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> Message:
        """The next message."""
        try:
            return await self.recv()
        except Closed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        """The flow."""
        return self

    async def __aexit__(self, exception_type: type[BaseException] | None, *_exception: object) -> None:
        """Closes; but an exception of the block matters more than one of the end."""
        try:
            self.close()
        except OSError:
            if exception_type is None:
                raise


class StreamTransport(asyncio.Transport):
    """A byte stream over a flow as a transport of asyncio, for protocols: ``Flow.open_streams`` is made of it."""

    def __init__(self, flow: Flow, protocol: asyncio.BaseProtocol) -> None:
        """A transport over a flow of which nothing was received yet. It calls ``protocol.connection_made`` soon."""
        super().__init__({"peername": flow.peer, "sockname": flow.local})
        self._raw = flow._flow.take_raw_stream()
        self._bell = flow._bell
        self._protocol = cast(asyncio.Protocol, protocol)
        self._buffer = bytearray()
        self._low, self._high = 16 * 1024, 64 * 1024
        self._is_paused = self._is_protocol_paused = False
        self._is_ending = self._has_ended = self._has_read_all = self._is_closing = self._is_lost = False
        self._reading, self._writing = (flow._token, False), (flow._token, True)
        self._bell.loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._protocol.connection_made(self)
        self._continue_reading()

    # ---- reading

    def _continue_reading(self) -> None:
        if not (self._is_paused or self._has_read_all or self._is_closing) and not self._read():
            self._bell.watch(self._reading, self._read)

    def _read(self) -> bool:
        """One turn; says whether the doorbell need not be watched for it."""
        if self._is_paused or self._has_read_all or self._is_closing:
            return True
        chunk = bytearray(_CHUNK)
        try:
            count = self._raw.try_readinto(chunk)
        except OSError as error:
            self._lose(error)
            return True
        if count is None:
            return False
        if count == 0:
            self._has_read_all = True
            if not self._protocol.eof_received():
                self.close()
            elif self._has_ended:
                self.close()
            return True
        del chunk[count:]
        self._protocol.data_received(bytes(chunk))
        # What is left waits until others had their turn.
        self._bell.loop.call_soon(self._continue_reading)
        return True

    def is_reading(self) -> bool:
        """Whether what comes is given to the protocol."""
        return not (self._is_paused or self._has_read_all or self._is_closing)

    def pause_reading(self) -> None:
        """Leaves what comes where it is."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Ends ``pause_reading``."""
        if self._is_paused:
            self._is_paused = False
            self._bell.loop.call_soon(self._continue_reading)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another protocol."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol."""
        return self._protocol

    # ---- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes what there is room for and keeps the rest until there is."""
        if self._is_lost or not data:
            return  # As asyncio's own transports: ``drain`` tells what ended it.
        if self._is_ending:
            raise RuntimeError("write after the half-close or close")
        self._buffer += data
        self._continue_writing()
        if not self._is_protocol_paused and len(self._buffer) > self._high:
            self._is_protocol_paused = True
            self._protocol.pause_writing()

    def _continue_writing(self) -> None:
        if not self._write():
            self._bell.watch(self._writing, self._write)

    def _write(self) -> bool:
        """Writes what there is room for; says whether nothing is left."""
        if self._is_lost:
            return True
        try:
            while self._buffer:
                with memoryview(self._buffer) as whole, whole[:_CHUNK] as piece:
                    count = self._raw.try_write(piece)
                if count is None:
                    break
                del self._buffer[:count]
            if self._is_protocol_paused and len(self._buffer) <= self._low:
                self._is_protocol_paused = False
                self._protocol.resume_writing()
            if self._buffer:
                return False
            if self._is_ending and not self._has_ended:
                if not self._raw.try_end():
                    return False
                self._has_ended = True
            if self._is_closing or (self._has_ended and self._has_read_all):
                self._lose(None)
        except OSError as error:
            self._lose(error)
        return True

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Half-closes behind what was written."""
        self._is_ending = True
        self._continue_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for room."""
        return len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high water mark in bytes."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Above ``high`` bytes that wait, the protocol is asked to pause, until ``low``."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError("high must not be below low, nor low below 0")
        self._low, self._high = low, high

    # ---- the end

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when all is written."""
        return self._is_closing

    def close(self) -> None:
        """Closes when all is written. What the peer still writes is not read."""
        if not self._is_closing:
            self._is_closing = self._is_ending = True
            self._continue_writing()

    def abort(self) -> None:
        """Ends the flow at once; what was not acknowledged may be lost."""
        if not self._is_lost:
            self._is_closing = self._is_ending = True
            try:
                self._raw.reset()
            except OSError:
                pass  # It is over already.
            self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = self._is_ending = True
        self._buffer.clear()
        self._bell.forget(self._reading)
        self._bell.forget(self._writing)
        try:
            self._raw.close()
        except OSError:
            pass  # What ended it is told below.
        self._bell.loop.call_soon(self._protocol.connection_lost, error)

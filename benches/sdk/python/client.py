"""The Python client of ``ci/bench.sh sdk``; what it has to do is said in ../README.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import machnet
import machnet.aio

NOT_HERE = 3
NUMBER = struct.Struct("<Q")


class NotHere(Exception):
    """The API or the measure does not exist in this language."""


class Numbered:
    """Messages with growing numbers, and whether the answers are theirs."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.rest = bytes([7]) * (length - NUMBER.size)
        self.sent = self.answered = 0

    def next(self) -> bytes:
        message = NUMBER.pack(self.sent) + self.rest
        self.sent += 1
        return message

    def check(self, answer: Any, is_warm_up: bool) -> None:
        if len(answer) != self.length:
            raise ValueError(f"an answer has {len(answer)} bytes and not {self.length}")
        if is_warm_up and NUMBER.unpack_from(answer)[0] != self.answered:
            raise ValueError("an answer is not that of its question")
        self.answered += 1


def quantiles(times: list[int]) -> dict[str, float]:
    times.sort()
    at = lambda share: times[min(int(len(times) * share), len(times) - 1)]  # noqa: E731
    return {"p50_ns": at(0.5), "p99_ns": at(0.99), "mean_ns": sum(times) / len(times)}


class Link(Protocol):
    """One message there, one back; both wait."""

    send: Callable[[bytes], Any]
    recv: Callable[[], Any]


class AsyncLink(Protocol):
    """The same, awaited."""

    send: Callable[[bytes], Awaitable[Any]]
    recv: Callable[[], Awaitable[Any]]


# ---- Latency and rate


def latency(link: Link, chosen: argparse.Namespace) -> dict[str, float]:
    numbered, times = Numbered(chosen.bytes), []
    send, recv, now = link.send, link.recv, time.perf_counter_ns
    for round in range(chosen.warm_up + chosen.count):
        message = numbered.next()
        before = now()
        send(message)
        answer = recv()
        times.append(now() - before)
        numbered.check(answer, round < chosen.warm_up)
    return quantiles(times[chosen.warm_up :])


def window(link: Link, chosen: argparse.Namespace) -> dict[str, float]:
    numbered, began = Numbered(chosen.bytes), 0
    send, recv = link.send, link.recv
    for _ in range(chosen.window):
        send(numbered.next())
    for round in range(chosen.warm_up + chosen.count):
        if round == chosen.warm_up:
            began = time.perf_counter_ns()
        numbered.check(recv(), round < chosen.warm_up)
        send(numbered.next())
    return {"messages_per_second": chosen.count * 1e9 / (time.perf_counter_ns() - began)}


async def latency_async(link: AsyncLink, chosen: argparse.Namespace) -> dict[str, float]:
    numbered, times = Numbered(chosen.bytes), []
    send, recv, now = link.send, link.recv, time.perf_counter_ns
    for round in range(chosen.warm_up + chosen.count):
        message = numbered.next()
        before = now()
        await send(message)
        answer = await recv()
        times.append(now() - before)
        numbered.check(answer, round < chosen.warm_up)
    return quantiles(times[chosen.warm_up :])


async def window_async(link: AsyncLink, chosen: argparse.Namespace) -> dict[str, float]:
    numbered, began = Numbered(chosen.bytes), 0
    send, recv = link.send, link.recv
    for _ in range(chosen.window):
        await send(numbered.next())
    for round in range(chosen.warm_up + chosen.count):
        if round == chosen.warm_up:
            began = time.perf_counter_ns()
        numbered.check(await recv(), round < chosen.warm_up)
        await send(numbered.next())
    return {"messages_per_second": chosen.count * 1e9 / (time.perf_counter_ns() - began)}


# ---- The calls alone


def pause(us: float) -> None:
    until = time.perf_counter_ns() + int(us * 1e3)
    while time.perf_counter_ns() < until:
        pass


def single_round(flow: machnet.Flow, message: bytes, chosen: argparse.Namespace) -> float | None:
    """Nanoseconds a message; None if an answer was late."""
    now, turns, is_late = time.perf_counter_ns, range(chosen.window), False
    began = now()
    for _ in turns:
        if not flow.try_send(message):
            raise ValueError("there is no credit")
    spent = now() - began
    pause(chosen.pause_us)
    length = len(message)
    began = now()
    for _ in turns:
        answer = flow.try_recv()
        while answer is None:
            is_late = True
            answer = flow.try_recv()
        if len(answer) != length:
            raise ValueError("an answer has another length")
    spent += now() - began
    return None if is_late else spent / chosen.window


def batched_round(flow: machnet.Flow, messages: list[bytes], chosen: argparse.Namespace) -> float | None:
    now, is_late, taken = time.perf_counter_ns, False, 0
    began = now()
    if flow.send_many(messages) != chosen.window:
        raise ValueError("not all were sent")
    spent = now() - began
    pause(chosen.pause_us)
    length = len(messages[0])
    began = now()
    while taken < chosen.window:
        answers = flow.try_recv_many(chosen.window - taken)
        is_late = is_late or not answers
        for answer in answers:
            if len(answer) != length:
                raise ValueError("an answer has another length")
        taken += len(answers)
    del answers
    spent += now() - began
    return None if is_late else spent / chosen.window


def calls(flow: machnet.Flow, chosen: argparse.Namespace) -> dict[str, float]:
    message = Numbered(chosen.bytes).next()
    messages = [bytes(bytearray(message)) for _ in range(chosen.window)]
    single, batched, late = [], [], 0
    for round in range(chosen.warm_up + chosen.count):
        for times, took in (
            (single, single_round(flow, message, chosen)),
            (batched, batched_round(flow, messages, chosen)),
        ):
            if took is None:
                late += 1
            elif round >= chosen.warm_up:
                times.append(took)
    return calls_found(single, batched, late, chosen)


def calls_found(
    single: list[float], batched: list[float], late: int, chosen: argparse.Namespace
) -> dict[str, float]:
    middle = lambda times: sorted(times)[len(times) // 2]  # noqa: E731
    return {"single_ns": middle(single), "batched_ns": middle(batched), "late": late, "rounds": chosen.count}


async def calls_async(flow: machnet.aio.Flow, chosen: argparse.Namespace) -> dict[str, float]:
    """Its calls cannot tell that they waited, so nothing is counted as late here; the pause is the same."""
    message = Numbered(chosen.bytes).next()
    single, batched, turns, now = [], [], range(chosen.window), time.perf_counter_ns
    for round in range(chosen.warm_up + chosen.count):
        began = now()
        for _ in turns:
            await flow.send(message)
        spent = now() - began
        pause(chosen.pause_us)
        began = now()
        for _ in turns:
            answer = await flow.recv()
            if len(answer) != len(message):
                raise ValueError("an answer has another length")
        spent += now() - began
        if round >= chosen.warm_up:
            single.append(spent / chosen.window)
        # There is no call that sends many.
        began = now()
        for _ in turns:
            await flow.send(message)
        spent = now() - began
        pause(chosen.pause_us)
        began, taken = now(), 0
        while taken < chosen.window:
            taken += len(await flow.recv_many(chosen.window - taken))
        spent += now() - began
        if round >= chosen.warm_up:
            batched.append(spent / chosen.window)
    return calls_found(single, batched, 0, chosen)


# ---- Wake-ups


def wakeup(flow: machnet.Flow, chosen: argparse.Namespace) -> dict[str, float]:
    flow.send(struct.pack("<QQ", chosen.count, int(chosen.pause_us)))
    times = []
    for _ in range(chosen.count):
        stamp = flow.recv()
        times.append(time.monotonic_ns() - NUMBER.unpack(stamp)[0])
    return quantiles(times[chosen.warm_up :])


async def wakeup_async(flow: machnet.aio.Flow, chosen: argparse.Namespace) -> dict[str, float]:
    await flow.send(struct.pack("<QQ", chosen.count, int(chosen.pause_us)))
    times = []
    for _ in range(chosen.count):
        stamp = await flow.recv()
        times.append(time.monotonic_ns() - NUMBER.unpack(stamp)[0])
    return quantiles(times[chosen.warm_up :])


async def wakeup_of_pipe(chosen: argparse.Namespace) -> dict[str, float]:
    """The least that asyncio can do: the loop calls back that a descriptor is readable, and a task goes on."""
    loop, pipe = asyncio.get_running_loop(), os.open(chosen.pipe, os.O_RDONLY | os.O_NONBLOCK)
    times: list[int] = []
    waiting: asyncio.Future[None] | None = None

    def ring() -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    loop.add_reader(pipe, ring)
    while len(times) < chosen.count:
        try:
            stamp = os.read(pipe, NUMBER.size)
        except BlockingIOError:
            stamp = None
        if stamp:
            times.append(time.monotonic_ns() - NUMBER.unpack(stamp)[0])
        elif stamp == b"":  # Nobody has it open for writing yet.
            await asyncio.sleep(0.001)
        else:
            waiting = loop.create_future()
            await waiting
    loop.remove_reader(pipe)
    os.close(pipe)
    return quantiles(times[chosen.warm_up :])


# ---- The APIs


def sync(measure: str, chosen: argparse.Namespace) -> dict[str, float]:
    measures = {"latency": latency, "window": window, "calls": calls, "wakeup": wakeup}
    if measure not in measures:
        raise NotHere(measure)
    with machnet.attach(chosen.socket) as channel, channel.connect(chosen.at) as flow:
        return measures[measure](flow, chosen)


def asynchronous(measure: str, chosen: argparse.Namespace) -> dict[str, float]:
    measures = {"latency": latency_async, "window": window_async, "calls": calls_async, "wakeup": wakeup_async}
    if measure not in measures:
        raise NotHere(measure)

    async def run() -> dict[str, float]:
        if chosen.pipe:
            return await wakeup_of_pipe(chosen)
        async with await machnet.aio.attach(chosen.socket) as channel:
            async with await channel.connect(chosen.at) as flow:
                return await measures[measure](flow, chosen)

    return asyncio.run(run())


class Streams:
    """asyncio's streams, which most take."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
        self.reader, self.writer, self.length = reader, writer, length

    async def send(self, message: bytes) -> None:
        self.writer.write(message)
        await self.writer.drain()

    async def recv(self) -> bytes:
        return await self.reader.readexactly(self.length)


def net(measure: str, chosen: argparse.Namespace) -> dict[str, float]:
    measures = {"latency": latency_async, "window": window_async}
    if measure not in measures:
        raise NotHere(measure)

    async def run() -> dict[str, float]:
        host, port = chosen.at.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port), limit=4 * 1024 * 1024)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found = await measures[measure](Streams(reader, writer, chosen.bytes), chosen)
        writer.close()
        await writer.wait_closed()
        return found

    return asyncio.run(run())


def zmq(measure: str, chosen: argparse.Namespace) -> dict[str, float]:
    import zmq as pyzmq

    measures = {"latency": latency, "window": window}
    if measure not in measures:
        raise NotHere(measure)
    with pyzmq.Context() as context, context.socket(pyzmq.PAIR) as pair:
        pair.connect(f"tcp://{chosen.at}")
        found = measures[measure](pair, chosen)
        pair.close(0)
        return found


def serve_zmq() -> None:
    """Answers one client until it is killed."""
    import zmq as pyzmq

    with pyzmq.Context() as context, context.socket(pyzmq.PAIR) as pair:
        port = pair.bind_to_random_port("tcp://127.0.0.1")
        print(f"127.0.0.1:{port}", flush=True)
        while True:
            pair.send(pair.recv())


APIS = {"sync": sync, "async": asynchronous, "net": net, "zmq": zmq}


def main() -> int:
    if sys.argv[1:] == ["zmq", "serve"]:
        serve_zmq()
    parser = argparse.ArgumentParser()
    parser.add_argument("api")
    parser.add_argument("measure")
    parser.add_argument("--socket")
    parser.add_argument("--at", required=True)
    parser.add_argument("--pipe")
    for name, default in (("bytes", 64), ("window", 32), ("warm-up", 1000), ("count", 10000)):
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--pause-us", type=float, default=100.0)
    chosen, _others = parser.parse_known_args()
    try:
        if chosen.api not in APIS:
            raise NotHere(chosen.api)
        found = APIS[chosen.api](chosen.measure, chosen)
    except NotHere as what:
        print(f"Python has no {what} for {chosen.api}", file=sys.stderr)
        return NOT_HERE
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

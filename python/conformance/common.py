"""What the two Python agents of the conformance suite share. ci/conformance/README.md specifies them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import machnet
from machnet.errors import Closed, MachnetError

Command = dict[str, Any]
Answer = dict[str, Any]

TABLE_BYTES = 65521
BATCH = 32
PIECE = 64 * 1024


def _table() -> bytes:
    table, x = bytearray(), 2463534242
    for _ in range(TABLE_BYTES):
        x ^= (x << 13) & 0xFFFFFFFF
        x ^= x >> 17
        x ^= (x << 5) & 0xFFFFFFFF
        table.append(x >> 24)
    return bytes(table)


_TWICE = _table() * 2


def content(seed: int, length: int, offset: int = 0) -> bytes:
    """The bytes of a content from an offset on."""
    start = (seed * 7919 + offset) % TABLE_BYTES
    if length <= TABLE_BYTES:
        return _TWICE[start : start + length]
    turn = _TWICE[start : start + TABLE_BYTES]
    return (turn * (length // TABLE_BYTES + 1))[:length]


class Series:
    """Messages that carry their number."""

    def __init__(self, command: Command) -> None:
        self.seed: int = command["seed"]
        self.lengths: list[int] = command["lengths"]

    def length(self, number: int) -> int:
        """Of a message, in bytes."""
        return self.lengths[number % len(self.lengths)]

    def message(self, number: int) -> bytes:
        """One of them."""
        return number.to_bytes(4, "little") + content(self.seed + number, self.length(number) - 4)

    def number_of(self, message: bytes) -> int | None:
        """The number of a message, if it is a right one."""
        number = int.from_bytes(message[:4], "little")
        return number if message == self.message(number) else None


class Expected:
    """Checks that each message is the next."""

    def __init__(self, series: Series, numbers: range) -> None:
        self.series = series
        self.next, self._first, self._end = numbers.start, numbers.start, numbers.stop
        self.is_right = True

    def take(self, message: bytes) -> bool:
        """Says whether there are more to come: all were right so far."""
        self.is_right = message == self.series.message(self.next)
        if self.is_right:
            self.next += 1
        return self.is_right and self.next < self._end

    @property
    def left(self) -> int:
        """Messages to come."""
        return self._end - self.next

    @property
    def received(self) -> int:
        """Messages that came."""
        return self.next - self._first

    def answer(self) -> Answer:
        """What the receiving commands answer."""
        wrong = {} if self.is_right else {"number": self.next}
        return {"received": self.received, "ok": self.is_right, **wrong}


class Sums:
    """By which receivers that share a flow show that they got each message once."""

    def __init__(self) -> None:
        self.answer: Answer = {"count": 0, "sum": 0, "squares": 0, "ok": True}

    def add(self, number: int | None) -> None:
        """Takes in a message."""
        if number is None:
            self.answer["ok"] = False
        else:
            self.answer["count"] += 1
            self.answer["sum"] += number
            self.answer["squares"] += number * number


def numbers(command: Command) -> range:
    """Of the messages of a series."""
    first: int = command.get("first", 0)
    return range(first, first + command["count"])


def seconds(command: Command, member: str = "timeout_ms") -> float | None:
    """How long each wait may take."""
    milliseconds = command.get(member)
    return None if milliseconds is None else milliseconds / 1000


def received(command: Command, message: bytes) -> Answer:
    """What the commands that receive one message answer."""
    answer: Answer = {"length": len(message)}
    if "seed" in command:
        answer["ok"] = message == content(command["seed"], len(message))
    return answer


def address(pair: tuple[str, int]) -> str:
    """As the suite writes it."""
    return f"{pair[0]}:{pair[1]}"


def stats(found: machnet.FlowStats) -> Answer:
    """What ``stats`` answers: the names are those of the suite."""
    names = (name for name in dir(type(found)) if not name.startswith("_"))
    return {name: getattr(found, name) for name in names}


def failed(error: BaseException, done: Answer) -> Answer:
    """The answer for an exception, with what had been done before."""
    match error:
        case machnet.errors.Cancelled():
            return {"cancelled": True}
        case MachnetError():
            return {**done, "error": {"name": error.name, "code": error.code, "text": str(error)}}
        case TimeoutError():  # asyncio's own, around a wait.
            return {**done, "error": {"name": "TimedOut", "code": machnet.errors.TimedOut.code, "text": "timed out"}}
        case ValueError() if str(error) == "I/O operation on closed stream":  # As files do; python/README.md says so.
            return {**done, "error": {"name": "Closed", "code": Closed.code, "text": "the flow is closed"}}
    return {"fault": f"{type(error).__name__}: {error}"}


def parse(line: str) -> Command:
    """The command of a line."""
    command = json.loads(line)
    if not isinstance(command, dict):
        raise TypeError("a command is an object")
    return command


def operation(agent: object, command: Command) -> Callable[..., Any]:
    """The method for a command."""
    method = getattr(agent, f"do_{command['op']}", None)
    if not callable(method):
        raise LookupError(f"unknown op {command['op']}")
    return method  # type: ignore[no-any-return]

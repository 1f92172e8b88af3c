"""Byte streams with blocking calls."""

from __future__ import annotations

import io
import threading

import pytest

import machnet
from machnet import errors

from conftest import LONG, Pair


def test_bytes_pass_both_ways_with_a_half_close_between(pair: Pair) -> None:
    ours, theirs = (machnet.Stream(flow, LONG) for flow in pair)
    data = bytes(range(256)) * 4000

    def serve() -> None:
        received = theirs.readall()
        theirs.sendall(received)
        theirs.end()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ours.sendall(data)
    ours.end()
    assert ours.readall() == data
    thread.join(LONG)
    ours.close()
    assert ours.closed
    with pytest.raises(ValueError):
        ours.read(1)


def test_lines_are_read_through_pythons_own_files(pair: Pair) -> None:
    ours, theirs = (machnet.Stream(flow, LONG) for flow in pair)
    with io.TextIOWrapper(io.BufferedWriter(ours), "utf-8") as text:
        text.write("one\ntwö\n")
    with io.TextIOWrapper(io.BufferedReader(theirs), "utf-8") as text:
        assert list(text) == ["one\n", "twö\n"]


def test_a_flow_that_became_a_stream_is_the_streams(pair: Pair) -> None:
    ours, theirs = pair
    stream = machnet.Stream(ours, 0.01)
    assert stream.peer == theirs.local and stream.local == theirs.peer
    with pytest.raises(errors.InvalidArgument, match="became a stream"):
        ours.send(b"x")
    with pytest.raises(errors.TimedOut):
        stream.read(1)
    theirs.send(b"\x07no stream")
    with pytest.raises(errors.NotAStream):
        stream.read(1)
    with pytest.raises(errors.Reset):
        theirs.recv(LONG)

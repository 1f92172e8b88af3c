"""Messages over real sidecars, with blocking calls."""

from __future__ import annotations

import array
import queue
import threading
from collections.abc import Callable

import pytest

import machnet
from machnet import errors

from conftest import LONG, STORM, Pair, Sidecar

SIZES = [1, 2, 63, 64, 65, 111, 112, 113, 1000, 4096, 32_768, 65_537, 1_000_003, 8 * 1024 * 1024]


def pattern(size: int) -> bytes:
    return bytes((7 * place + size) % 251 for place in range(min(size, 1009))) * (size // 1009 + 1)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_messages_of_every_size_come_back_as_they_were_sent(distant: Callable[[], Pair]) -> None:
    client, server = distant()

    def echo() -> None:
        for message in server:
            server.send(message, LONG)

    thread = in_thread(echo)
    for size in SIZES:
        message = pattern(size)[:size]
        client.send(message, LONG)
        answer = client.recv(LONG)
        assert len(answer) == size and bytes(answer) == message
    client.close()
    thread.join(LONG)
    assert not thread.is_alive()


def test_messages_keep_their_order_whatever_call_carries_them(distant: Callable[[], Pair]) -> None:
    client, server = distant()
    count = 20_000

    def send() -> None:
        number = 0
        while number < count:
            batch = [b"%d" % n for n in range(number, min(number + 100, count))]
            number += client.send_many(batch, LONG)

    thread = in_thread(send)
    expected = 0
    while expected < count:
        for message in server.recv_many(64, LONG):
            assert message == b"%d" % expected
            expected += 1
    thread.join(LONG)
    assert server.try_recv_many() == []


def test_any_contiguous_buffer_can_be_sent_and_a_message_is_one(pair: Pair) -> None:
    ours, theirs = pair
    numbers = array.array("d", range(1000))
    for message in (b"bytes", bytearray(b"bytearray"), memoryview(b"a view")[2:], numbers, memoryview(numbers)):
        ours.send(message)
        assert bytes(theirs.recv(LONG)) == bytes(memoryview(message))
    with pytest.raises(BufferError):
        ours.send(memoryview(b"0123456789")[::2])
    with pytest.raises(TypeError):
        ours.send("text")  # type: ignore[arg-type]
    ours.send(b"again")
    theirs.send(theirs.recv(LONG))
    answer = ours.recv(LONG)
    view = memoryview(answer)
    assert view.readonly and bytes(view) == b"again" and answer[0] == ord("a") and bytes(answer[1:3]) == b"ga"
    assert str(answer, "ascii") == "again" and {answer: 1}[answer] == 1 and answer != b"other"
    assert answer != 5 and "5 bytes" in repr(answer)


def test_large_messages_are_lent_and_outlive_their_names(pair: Pair) -> None:
    ours, theirs = pair
    # More than the pool holds: it only goes on because loans go back.
    for number in range(200):
        ours.send(bytes([number % 256]) * 500_000, LONG)
        message = theirs.recv(LONG)
        view = memoryview(message)
        del message
        assert len(view) == 500_000 and view[0] == view[-1] == number % 256
        view.release()
    ours.send(bytes(20_000))
    assert theirs.recv(LONG).is_lent


def test_a_message_outlives_its_channel(sidecar: Sidecar) -> None:
    with sidecar.attach() as channel, channel.listen("0.0.0.0:0") as listener:
        ours = channel.connect(listener.address)
        theirs = listener.accept(LONG)
        ours.send(b"x" * 100_000)
        message = theirs.recv(LONG)
    del ours, theirs, listener, channel
    assert bytes(message) == b"x" * 100_000


def test_a_loan_is_written_in_place_and_sent_once(pair: Pair) -> None:
    ours, theirs = pair
    for size in (5, 100_000):
        with ours.lend(size, LONG) as room:
            assert len(room) == size
            with memoryview(room) as view:
                view[:] = b"y" * size
                with pytest.raises(BufferError):
                    room.send()
            room.send()
            with pytest.raises(BufferError):
                room.send()
            with pytest.raises(BufferError):
                memoryview(room)
        assert theirs.recv(LONG) == b"y" * size
    with ours.lend(10):
        pass  # Given back unsent.
    assert theirs.try_recv() is None


def test_recv_into_fills_a_buffer_and_leaves_what_does_not_fit(pair: Pair) -> None:
    ours, theirs = pair
    ours.send(b"0123456789")
    with pytest.raises(errors.BufferTooSmall) as caught:
        theirs.recv_into(bytearray(9), LONG)
    assert caught.value.needed == 10
    buffer = bytearray(12)
    assert theirs.recv_into(buffer, LONG) == 10 and buffer == b"0123456789\0\0"
    with pytest.raises(BufferError):
        theirs.recv_into(b"read only", 0)
    numbers = array.array("I", [0] * 4)
    ours.send(bytes(range(16)))
    assert theirs.recv_into(numbers) == 16 and numbers.tobytes() == bytes(range(16))


def test_what_finds_nothing_says_so(pair: Pair) -> None:
    ours, theirs = pair
    assert theirs.try_recv() is None and theirs.try_recv_many() == []
    for call in (
        lambda: theirs.recv(0.01),
        lambda: theirs.recv(timeout=0),
        lambda: theirs.recv(-1),
        lambda: theirs.recv_into(bytearray(1), 0.01),
        lambda: theirs.recv_many(timeout=0.01),
    ):
        with pytest.raises(errors.TimedOut, match="^timed out$"):
            call()
    with pytest.raises(ValueError):
        theirs.recv(float("nan"))
    assert theirs.recv_many(0) == []
    ours.send(b"now")
    assert theirs.recv(float("inf")) == b"now"


def test_a_sender_without_room_waits_for_the_reader(pair: Pair) -> None:
    ours, theirs = pair
    message = bytes(100_000)
    sent = 0
    # The sidecar moves what it has room for; full is what stays full.
    with pytest.raises(errors.TimedOut):
        while True:
            ours.send(message, 0.2)
            sent += 1
    assert sent > 0 and not ours.try_send(message)
    with pytest.raises(errors.TimedOut):
        ours.send_many([message], 0.01)
    with pytest.raises(errors.TimedOut):
        ours.lend(100_000, 0.01)
    thread = in_thread(lambda: ours.send(message, LONG))
    for _ in range(sent + 1):
        assert len(theirs.recv(LONG)) == len(message)
    thread.join(LONG)
    assert theirs.try_recv() is None


def test_bad_messages_are_refused(pair: Pair) -> None:
    ours, _ = pair
    assert ours.max_message == 8 * 1024 * 1024
    with pytest.raises(errors.EmptyMessage):
        ours.send(b"")
    with pytest.raises(errors.MessageTooLarge) as caught:
        ours.send(bytes(ours.max_message + 1))
    assert isinstance(caught.value, ValueError) and caught.value.limit == ours.max_message


def test_a_canceller_ends_waits_of_other_threads(channel: machnet.Channel, pair: Pair) -> None:
    ours, theirs = pair
    canceller = channel.canceller()
    caught: list[str] = []

    def wait() -> None:
        try:
            theirs.recv(cancel=canceller)
        except errors.Cancelled as error:
            caught.append(error.name)

    threads = [in_thread(wait) for _ in range(3)]
    canceller.cancel()
    for thread in threads:
        thread.join(LONG)
    assert caught == ["Cancelled"] * 3 and canceller.is_cancelled
    ours.send(b"still there")
    assert theirs.recv(LONG) == b"still there"


def test_a_storm_of_cancelled_receives_loses_nothing(channel: machnet.Channel, pair: Pair) -> None:
    ours, theirs = pair
    to_cancel: queue.SimpleQueue[machnet.Canceller | None] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def cancel() -> None:
        while (canceller := to_cancel.get()) is not None:
            canceller.cancel()

    def send() -> None:
        try:
            for number in range(STORM):
                ours.send(b"%d" % number, LONG)
        except BaseException as error:
            failures.append(error)

    threads = [in_thread(cancel), in_thread(send)]
    received = cancelled = 0
    while received < STORM or cancelled < STORM:
        canceller = channel.canceller()
        to_cancel.put(canceller)
        try:
            message = theirs.recv(LONG, cancel=canceller)
        except errors.Cancelled:
            cancelled += 1
        else:
            assert int(bytes(message)) == received
            received += 1
    to_cancel.put(None)
    for thread in threads:
        thread.join(LONG)
    assert failures == [] and theirs.try_recv() is None


def test_close_ends_the_peers_iteration_behind_what_was_sent(pair: Pair) -> None:
    ours, theirs = pair
    ours.send_many([b"one", b"two"])
    ours.close(LONG)
    assert [bytes(message) for message in theirs] == [b"one", b"two"]
    with pytest.raises(errors.Closed):
        theirs.recv(LONG)
    with pytest.raises(BrokenPipeError):
        theirs.send(b"late")
    with pytest.raises(errors.Closed):
        ours.send(b"mine")


def test_a_reset_is_an_error_with_its_reason(pair: Pair) -> None:
    ours, theirs = pair
    ours.reset()
    with pytest.raises(errors.Reset) as caught:
        theirs.recv(LONG)
    assert isinstance(caught.value, ConnectionResetError)
    assert caught.value.reason == "the peer aborted the flow" and caught.value.unacknowledged == 0


def test_threads_share_a_flow(pair: Pair) -> None:
    ours, theirs = pair
    count, threads = 500, 4
    seen: list[bytes] = []
    lock = threading.Lock()

    def receive() -> None:
        for _ in range(count):
            message = bytes(theirs.recv(LONG))
            with lock:
                seen.append(message)

    def send(sender: int) -> None:
        for number in range(count):
            ours.send(b"%d %d" % (sender, number), LONG)

    workers = [in_thread(receive) for _ in range(threads)]
    workers += [in_thread(lambda sender=sender: send(sender)) for sender in range(threads)]  # type: ignore[misc]
    for worker in workers:
        worker.join(LONG)
    assert sorted(seen) == sorted(b"%d %d" % (s, n) for s in range(threads) for n in range(count))


def test_a_waiting_thread_lets_others_run(pair: Pair) -> None:
    ours, theirs = pair
    received: list[bytes] = []
    # Would the waiting thread keep the interpreter, this one could not send.
    thread = in_thread(lambda: received.append(bytes(theirs.recv())))
    ours.send(b"through")
    thread.join(LONG)
    assert received == [b"through"]


def test_statistics_count(distant: Callable[[], Pair]) -> None:
    client, server = distant()
    client.send_many([b"12345"] * 10)
    for _ in range(10):
        server.recv(LONG)
    stats = server.stats()
    assert (stats.messages_received, stats.bytes_received) == (10, 50)
    assert stats.local or stats.datagrams_received > 0
    assert "bytes_received: 50" in repr(stats)

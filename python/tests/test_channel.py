"""Attaching, listening, connecting, and the ends of all that."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading

import pytest

import machnet
from machnet import errors

from conftest import LONG, Pair, Sidecar


def test_without_a_sidecar_the_error_names_the_socket_and_the_remedy() -> None:
    with pytest.raises(errors.NoSidecar) as caught:
        machnet.attach("/nonexistent/machnet.sock")
    error = caught.value
    assert str(error) == "no sidecar at /nonexistent/machnet.sock; start one with `machnet up`"
    assert isinstance(error, FileNotFoundError) and error.errno == errno.ENOENT
    assert (error.code, error.name) == (1, "NoSidecar")


def test_every_error_of_the_library_has_its_class() -> None:
    from machnet._machnet import ERROR_CODES

    assert set(errors.__all__) == {"MachnetError", *ERROR_CODES}
    for name, code in ERROR_CODES.items():
        kind = getattr(errors, name)
        assert issubclass(kind, errors.MachnetError) and kind.code == code and kind.__doc__
        assert str(kind("text")) == "text"


def test_a_channel_says_what_it_is_and_arguments_are_checked(sidecar: Sidecar) -> None:
    with machnet.attach(socket=sidecar.socket, engine=0, name="test", linger=0.1) as channel:
        info = channel.info
        assert info.sidecar_pid == sidecar.process.pid and info.engine == 0
        assert info.local[0] == sidecar.host
        with pytest.raises(TypeError):
            channel.connect(5)  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidArgument):
            channel.connect("no port")
    with pytest.raises(errors.NoEngine):
        machnet.attach(sidecar.socket, engine=99)
    with pytest.raises(ValueError):
        machnet.attach(sidecar.socket, doorbell="gong")
    with pytest.raises(ValueError):
        machnet.attach(sidecar.socket, wait_policy="pray")


def test_addresses_are_told_at_both_ends(channel: machnet.Channel, sidecar: Sidecar) -> None:
    with channel.listen((sidecar.host, 0)) as listener:
        host, port = listener.address
        assert host == sidecar.host and port > 0
        pending = channel.start_connect(f"{host}:{port}", local=host)
        theirs = listener.accept(LONG)
        ours = pending.finish(LONG)
        assert ours.peer == theirs.local == (host, port)
        assert ours.local == theirs.peer
        with pytest.raises(errors.AddressInUse):
            channel.listen((host, port))
    with pytest.raises(errors.AddressNotLocal):
        channel.listen("10.99.99.99:0")


def test_nobody_listening_is_a_refused_connection(channel: machnet.Channel, sidecar: Sidecar) -> None:
    with pytest.raises(ConnectionRefusedError) as caught:
        channel.connect(sidecar.address(9))
    assert isinstance(caught.value, errors.Refused)
    assert str(caught.value) == f"{sidecar.host}:9 refused: its sidecar has no listener on port 9"


def test_no_answer_is_a_timeout(channel: machnet.Channel) -> None:
    with pytest.raises(errors.ConnectTimedOut):
        channel.connect("127.99.99.99:9", timeout=0.05)


def test_a_full_backlog_is_busy(channel: machnet.Channel) -> None:
    with channel.listen("0.0.0.0:0", backlog=1) as listener:
        waiting = channel.connect(listener.address)
        with pytest.raises(errors.Busy):
            channel.connect(listener.address)
        waiting.close()


def test_closing_a_listener_ends_accept_and_iteration(channel: machnet.Channel) -> None:
    listener = channel.listen("0.0.0.0:0")
    assert listener.try_accept() is None
    with pytest.raises(errors.TimedOut):
        listener.accept(0.01)

    def close_all() -> None:
        for flow in listener:
            flow.close()

    thread = threading.Thread(target=close_all, daemon=True)
    thread.start()
    with channel.connect(listener.address) as flow:
        with pytest.raises(errors.Closed):
            flow.recv(LONG)
    listener.close()
    thread.join(LONG)
    assert not thread.is_alive()


def test_after_close_everything_is_closed(sidecar: Sidecar) -> None:
    channel = sidecar.attach()
    listener = channel.listen("0.0.0.0:0")
    flow = channel.connect(listener.address)
    listener.accept(LONG).close()
    channel.close()
    channel.close()
    for call in (lambda: flow.send(b"x"), lambda: flow.recv(LONG), lambda: listener.accept(LONG), flow.stats):
        with pytest.raises(errors.Closed):
            call()
    flow.close()


def test_an_exception_of_the_block_is_the_one_that_comes_out(sidecar: Sidecar) -> None:
    with pytest.raises(KeyError):
        with sidecar.attach() as channel, channel.listen("0.0.0.0:0") as listener:
            with channel.connect(listener.address):
                raise KeyError


def test_the_descriptor_is_readable_or_nothing_came(channel: machnet.Channel, pair: Pair) -> None:
    ours, theirs = pair
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    for number in range(200):
        while theirs.try_recv() is not None:
            pass
        ours.send(b"%d" % number)
        while (message := theirs.try_recv()) is None:
            assert poll.poll(LONG * 1000)
        assert message == b"%d" % number


def test_a_killed_sidecar_ends_every_wait(mortal_sidecar: Sidecar) -> None:
    channel = mortal_sidecar.attach()
    listener = channel.listen("0.0.0.0:0")
    flow = channel.connect(listener.address)
    peer = listener.accept(LONG)
    outcomes: list[str] = []

    def wait() -> None:
        try:
            flow.recv()
        except errors.EngineLost as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    mortal_sidecar.process.kill()
    for thread in threads:
        thread.join(LONG)
    assert outcomes == ["the sidecar is gone; attach again when it is back"] * 2
    with pytest.raises(BrokenPipeError):
        flow.send(b"x")
    with pytest.raises(errors.EngineLost):
        listener.accept()
    with pytest.raises(errors.EngineLost):
        peer.stats()
    with pytest.raises(errors.EngineLost):
        channel.close()


def test_after_the_sidecar_came_back_a_program_attaches_again(mortal_sidecar: Sidecar) -> None:
    for generation in range(3):
        channel = mortal_sidecar.attach()
        listener = channel.listen("0.0.0.0:0")
        flow = channel.connect(listener.address)
        peer = listener.accept(LONG)
        flow.send(b"%d" % generation)
        assert peer.recv(LONG) == b"%d" % generation
        mortal_sidecar.process.kill()
        with pytest.raises(errors.EngineLost):
            peer.recv(LONG)
        mortal_sidecar.process.wait()
        with pytest.raises(errors.NoSidecar):
            mortal_sidecar.attach()
        mortal_sidecar.start()
        with pytest.raises(errors.EngineLost):
            flow.send(b"x")  # The old channel stays lost.
        with pytest.raises(errors.EngineLost):
            channel.close()
    mortal_sidecar.attach().close()


def test_the_sizes_of_a_channel_are_chosen_and_told(sidecar: Sidecar) -> None:
    with machnet.attach(sidecar.socket, sizes="small") as small, machnet.attach(sidecar.socket) as default:
        assert small.info.tx_buffers < default.info.tx_buffers
        assert small.info.max_flows == 32 and default.info.flow_credit == 256
    chosen = {
        "send_slots": 64, "receive_slots": 256, "tx_buffers": 100, "rx_buffers": 200, "buffer_bytes": 4096,
        "max_flows": 7, "flow_credit": 32,
    }  # fmt: skip
    channel = machnet.attach(sidecar.socket, **chosen)  # type: ignore[arg-type]
    with channel, channel.listen("0.0.0.0:0") as listener:
        assert {name: getattr(channel.info, name) for name in chosen} == chosen
        flows = []
        with pytest.raises(errors.MachnetError):
            for _ in range(8):
                flows.append(channel.connect(listener.address, LONG))
                flows.append(listener.accept(LONG))
        assert len(flows) == 6
    with pytest.raises(ValueError):
        machnet.attach(sidecar.socket, sizes="huge")
    with pytest.raises(errors.InvalidArgument):
        machnet.attach(sidecar.socket, send_slots=100)


def test_an_engine_is_named_by_name_or_number(sidecar: Sidecar) -> None:
    for engine in ("engine0", "engine 0", "0", 0):
        with machnet.attach(sidecar.socket, engine=engine) as channel:
            assert channel.info.engine == 0
    with pytest.raises(errors.NoEngine, match="the sidecar has no engine7: it has engine0"):
        machnet.attach(sidecar.socket, engine="engine7")
    with pytest.raises(errors.InvalidArgument, match="engine0"):
        machnet.attach(sidecar.socket, engine="first")


def test_channel_mode_has_one_queue(channel: machnet.Channel, pair: Pair) -> None:
    ours, theirs = pair
    ours.send(b"before")
    number = theirs.enter_channel_mode()
    ours.send(b"after")
    arrivals = [channel.recv_any(LONG) for _ in range(2)]
    assert [bytes(arrival.message) for arrival in arrivals] == [b"before", b"after"]
    assert all(arrival.flow == number and arrival.peer == ours.local for arrival in arrivals)
    assert channel.find_flow(arrivals[0].peer, arrivals[0].local) == number
    with pytest.raises(errors.InvalidArgument):
        theirs.recv(0)
    channel.send_to(number, b"answer")
    assert ours.recv(LONG) == b"answer"
    assert channel.try_recv_any() is None
    with pytest.raises(errors.TimedOut):
        channel.recv_any(0)
    while channel.try_send_to(number, b"fill"):
        pass
    with pytest.raises(errors.TimedOut):
        while True:  # Until the receiver's room is full, too.
            channel.send_to(number, b"full", 0.01)
    assert ours.recv(LONG) == b"fill"
    channel.send_to(number, b"last", LONG)
    assert channel.flow_stats(number).messages_sent > 1
    channel.close_flow(number)
    assert [bytes(message) for message in ours][-1] == b"last"
    with pytest.raises(errors.MachnetError):
        channel.send_to(number, b"x")


def test_news_name_the_flows_that_have_something(channel: machnet.Channel) -> None:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)

    def news() -> list[tuple[int, int]]:
        while not (found := channel.take_news()):
            assert poll.poll(LONG * 1000)
        return found

    with channel.listen("0.0.0.0:0") as listener:
        listener.set_token(1)
        pending = channel.start_connect(listener.address)
        pending.set_token(2)
        told: dict[int, int] = {}
        while len(told) < 2:
            told |= dict(news())
        assert told == {1: machnet.News.ACCEPT, 2: machnet.News.CONNECT}
        ours, theirs = pending.try_finish(), listener.try_accept()
        assert ours is not None and theirs is not None
    theirs.set_token(3)
    ours.send(b"x")
    assert news() == [(3, machnet.News.RECEIVE)]
    assert theirs.try_recv() == b"x"
    ours.close()
    told = {}
    while 3 not in told:  # Our own end, without a token, may be told first.
        told |= dict(news())
    assert told[3] == machnet.News.RECEIVE | machnet.News.ENDED
    theirs.close()


FORK = """
import os, sys, machnet
channel = machnet.attach(sys.argv[1])
listener = channel.listen("0.0.0.0:0")
flow = channel.connect(listener.address)
peer = listener.accept()
child = os.fork()
if child == 0:
    outcomes = []
    for call in (lambda: flow.send(b"x"), lambda: flow.recv(1), listener.accept, channel.fileno, channel.close):
        try:
            call()
        except machnet.errors.Forked:
            outcomes.append("forked")
    del flow, peer, listener, channel
    again = machnet.attach(sys.argv[1])
    again.close()
    os._exit(0 if outcomes == ["forked"] * 5 else 1)
assert os.waitpid(child, 0)[1] == 0
flow.send(b"the parent goes on")
assert peer.recv(5) == b"the parent goes on"
"""


def test_a_forked_child_gets_an_error_and_the_parent_goes_on(sidecar: Sidecar) -> None:
    subprocess.run([sys.executable, "-c", FORK, sidecar.socket], check=True, timeout=LONG)


INTERRUPTED = """
import machnet, signal, sys
channel = machnet.attach(sys.argv[1])
listener = channel.listen("0.0.0.0:0")
flow = channel.connect(listener.address)
stream = machnet.Stream(channel.connect(listener.address))
peer = listener.accept()
calls = {
    "recv": flow.recv,
    "recv_into": lambda: flow.recv_into(bytearray(9)),
    "recv_many": flow.recv_many,
    "iteration": lambda: next(flow),
    "accept": lambda: [listener.accept() for _ in range(2)],
    "send": lambda: [flow.send(bytes(1000000)) for _ in range(10000)],
    "read": lambda: stream.read(1),
    "handled": None,
}
if sys.argv[2] == "handled":
    def handler(number, frame):
        peer.send(b"from the handler")
    signal.signal(signal.SIGINT, handler)
    print("waiting", flush=True)
    assert flow.recv() == b"from the handler"
    sys.exit(130)
try:
    print("waiting", flush=True)
    calls[sys.argv[2]]()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    "call", ["recv", "recv_into", "recv_many", "iteration", "accept", "send", "read", "handled"]
)
def test_ctrl_c_ends_a_call_that_waits(sidecar: Sidecar, call: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, sidecar.socket, call]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == 130


def test_the_process_may_end_in_the_middle_of_anything(sidecar: Sidecar) -> None:
    program = """
import machnet, sys, threading
channel = machnet.attach(sys.argv[1])
listener = channel.listen("0.0.0.0:0")
flow = channel.connect(listener.address)
threading.Thread(target=flow.recv, daemon=True).start()
threading.Thread(target=listener.accept, daemon=True).start()
"""
    subprocess.run([sys.executable, "-c", program, sidecar.socket], check=True, timeout=LONG)


def test_the_package_brings_the_command() -> None:
    bundled = os.path.join(os.path.dirname(machnet.__file__), "bin", "machnet")
    if not os.path.exists(bundled):
        pytest.skip("the package was built without the machnet binary")
    command = [sys.executable, "-m", "machnet", "--version"]
    output = subprocess.run(command, check=True, timeout=LONG, capture_output=True, text=True)
    assert output.stdout.startswith("machnet ")

"""A real sidecar for each test run, and one of its own for tests that kill it."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import machnet

LONG = 20.0
"""Seconds against hangs; no test passes because time passed."""

STORM = int(os.environ.get("MACHNET_STORM", "100000"))
"""Messages, and at least as many cancelled receives, of a cancel storm."""

_numbers = itertools.count(1)


def binary() -> str:
    """$MACHNET, else the one of the package, else the one that the repository built."""
    bundled = Path(machnet.__file__).parent / "bin" / "machnet"
    built = Path(__file__).resolve().parents[2] / "target" / "release" / "machnet"
    for candidate in (os.environ.get("MACHNET"), str(bundled), str(built)):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise RuntimeError("set MACHNET to the machnet binary, or build it: make build")


class Sidecar:
    """One host: a sidecar on a loopback address of its own."""

    def __init__(self) -> None:
        number, process = next(_numbers), os.getpid()
        self.host = f"127.{64 + (process >> 8) % 128}.{process & 0xFF}.{number}"
        self.folder = tempfile.mkdtemp(prefix="machnet-python-")
        self.socket = f"{self.folder}/machnet.sock"
        self.log = open(f"{self.folder}/log", "w+")
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers. Again, if it was killed."""
        self.process = subprocess.Popen(
            [binary(), "up", "--no-config", "--log-level", "info", "--address", self.host, "--socket", self.socket],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        while True:
            try:
                self.attach().close()
                return
            except machnet.errors.NoSidecar:
                if self.process.poll() is not None:
                    self.log.seek(0)
                    raise RuntimeError(f"the sidecar ended: {self.log.read()}") from None
                os.sched_yield()

    def attach(self) -> machnet.Channel:
        return machnet.attach(self.socket)

    def address(self, port: int = 0) -> str:
        return f"{self.host}:{port}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def sidecar() -> Iterator[Sidecar]:
    sidecar = Sidecar()
    yield sidecar
    sidecar.stop()


@pytest.fixture(scope="session")
def other_sidecar() -> Iterator[Sidecar]:
    sidecar = Sidecar()
    yield sidecar
    sidecar.stop()


@pytest.fixture
def mortal_sidecar() -> Iterator[Sidecar]:
    sidecar = Sidecar()
    yield sidecar
    sidecar.stop()


Pair = tuple[machnet.Flow, machnet.Flow]


@pytest.fixture
def channel(sidecar: Sidecar) -> Iterator[machnet.Channel]:
    with sidecar.attach() as channel:
        yield channel


@pytest.fixture
def pair(channel: machnet.Channel) -> Iterator[Pair]:
    """Both ends of one flow, on one channel."""
    with channel.listen("0.0.0.0:0") as listener, channel.connect(listener.address) as ours:
        with listener.accept(LONG) as theirs:
            yield ours, theirs


@pytest.fixture(params=["one sidecar", "two sidecars"])
def distant(request: pytest.FixtureRequest, sidecar: Sidecar) -> Iterator[Callable[[], Pair]]:
    """Makes flows between two channels, over shared memory only and over UDP."""
    host = sidecar if request.param == "one sidecar" else request.getfixturevalue("other_sidecar")
    with sidecar.attach() as client, host.attach() as server, server.listen(host.address()) as listener:
        yield lambda: (client.connect(listener.address), listener.accept(LONG))

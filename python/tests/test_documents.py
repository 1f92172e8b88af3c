"""The README's lines and the examples, as they stand there; and that everything public says what it is."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import machnet
import machnet.aio

from conftest import LONG, Sidecar

HERE = Path(__file__).resolve().parents[1]


def environment(sidecar: Sidecar) -> dict[str, str]:
    return {**os.environ, "MACHNET_SOCKET": sidecar.socket}


@pytest.mark.parametrize("folder", [HERE, HERE.parent], ids=["the package's", "the project's"])
def test_the_lines_of_the_readme_run(sidecar: Sidecar, folder: Path) -> None:
    found = re.search(r"```python[^\n]*\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    command = [sys.executable, "-c", found[1]]
    output = subprocess.run(
        command, env=environment(sidecar), check=True, timeout=LONG, capture_output=True, text=True
    )
    assert output.stdout == f"b'question' from {sidecar.host}\nanswer to question\n"


def test_the_examples_talk_to_each_other(sidecar: Sidecar) -> None:
    command = [sys.executable, str(HERE / "examples" / "server.py"), "0.0.0.0:0"]
    with subprocess.Popen(command, env=environment(sidecar), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("listening on ").strip()
        client = [sys.executable, str(HERE / "examples" / "client.py"), address]
        output = subprocess.run(
            client, env=environment(sidecar), check=True, timeout=LONG, capture_output=True, text=True
        )
        assert output.stdout.startswith("1000 messages echoed")
        server.terminate()


def test_the_stream_example_echoes_lines_of_a_blocking_stream(sidecar: Sidecar) -> None:
    command = [sys.executable, str(HERE / "examples" / "aio_server.py"), "0.0.0.0:0"]
    with subprocess.Popen(command, env=environment(sidecar), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("listening on ").strip()
        with sidecar.attach() as channel, machnet.Stream(channel.connect(address), LONG) as stream:
            stream.sendall(b"one\ntwo\n")
            stream.end()
            assert stream.readall() == b"one\ntwo\n"
        server.terminate()


@pytest.mark.parametrize("module", [machnet, machnet.aio, machnet.errors], ids=lambda module: str(module.__name__))
def test_everything_public_has_a_docstring(module: object) -> None:
    names: list[str] = getattr(module, "__all__")
    missing = []
    for name in names:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        if not thing.__doc__:
            missing.append(name)
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                documented = callable(value) or inspect.isdatadescriptor(value)
                if not member.startswith("_") and documented and not value.__doc__:
                    missing.append(f"{name}.{member}")
    assert missing == []

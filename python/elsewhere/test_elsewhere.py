"""The wheel without native code, as macOS and Windows get it. ci/python.sh puts it in front of the one with native code."""

from __future__ import annotations

import ast
import asyncio
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import machnet
import machnet.aio
from machnet import _machnet

PACKAGE = Path(machnet.__file__).parent


def test_it_is_the_package_without_native_code() -> None:
    assert _machnet.__file__ is not None and _machnet.__file__.endswith("_machnet.py")
    assert not (PACKAGE / "bin").exists()
    assert not list(PACKAGE.glob("*.so"))


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_attach_says_what_is_possible_on_other_systems(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system.lower())
    monkeypatch.setattr(platform, "system", lambda: system)
    for attach in (machnet.attach, lambda: asyncio.run(attach_in_a_loop())):
        with pytest.raises(machnet.errors.NoSidecar, match=f"runs on Linux, and this is {system}.*container"):
            attach()


async def attach_in_a_loop() -> None:
    await machnet.aio.attach("/nowhere", name="test")


def test_attach_names_the_processor_that_has_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(machnet.errors.NoSidecar, match="riscv64.*glibc 2.28"):
        machnet.attach()


def test_every_name_that_the_stubs_promise_is_there() -> None:
    stubs = ast.parse((PACKAGE / "_machnet.pyi").read_text())
    for statement in stubs.body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            assert getattr(_machnet, statement.name).__doc__, statement.name
    for name in machnet.__all__:
        assert hasattr(machnet, name), name
    with pytest.raises(machnet.errors.NoSidecar):
        machnet.Channel()


def test_errors_and_version_are_those_of_the_native_half(native: dict[str, object]) -> None:
    assert native["codes"] == _machnet.ERROR_CODES
    assert native["version"] == machnet.__version__


def test_the_command_says_that_there_is_none() -> None:
    command = [sys.executable, "-c", "import sys; sys.platform = 'darwin'; import machnet.__main__ as m; m.main()"]
    answer = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""})
    assert answer.returncode == 1
    assert "runs on Linux only" in answer.stderr


@pytest.fixture
def native() -> dict[str, object]:
    """What the installed package with native code says, in a process that does not see the other."""
    line = "import machnet, machnet._machnet as m; print({'codes': m.ERROR_CODES, 'version': m.__version__})"
    answer = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True, env={"PYTHONSAFEPATH": "1"})
    return dict(ast.literal_eval(answer.stdout))

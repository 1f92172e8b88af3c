"""The processes of a run: sidecars and agents."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = Path(__file__).resolve().parent / "agents"

NOT_BUILT = 77
"""Exit code by which a launcher says that what it needs is not there."""

PATIENCE = 60.0
"""Seconds against hangs: for an answer of an agent, and for a sidecar that starts or stops."""

PATIENCE_EACH = 0.005
"""Seconds more for each message of a command."""


class Trouble(Exception):
    """A process did not do what every process of the suite has to."""


class NotThere(Exception):
    """An agent that cannot run here, with the reason."""


class Lines:
    """The lines that a process writes, read by a thread so that a wait for one can end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def next(self, patience: float = PATIENCE) -> str | None:
        """The next line; nothing at the end of the output. Raises ``queue.Empty`` if none comes."""
        return self._lines.get(timeout=patience)


class Sidecar:
    """One host: a sidecar on a loopback address and a socket of its own."""

    def __init__(self, binary: str, folder: Path, name: str, address: str, udp_port: int, options: list[str]) -> None:
        self.name, self.address, self.udp_port = name, address, udp_port
        self.socket = str(folder / f"{name}.sock")
        self.log = folder / f"{name}.log"
        self._command = [binary, "up", "--no-config", "--socket", self.socket, "--address", address]
        self._command += ["--udp-port", str(udp_port), "--log-level", "warn", *options]
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Starts it; returns when programs can attach."""
        if self.is_running():
            return
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MACHNET_")}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        lines = Lines(self.process)
        try:
            while (line := lines.next()) is not None:
                if line.startswith("machnet is up:"):
                    return
        except queue.Empty:
            pass
        self.kill()
        raise Trouble(f"the sidecar {self.name} did not start: {self.log.read_text().strip()}")

    def is_running(self) -> bool:
        """Whether there is one."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """As a crash ends it."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Asks it to end, in order."""
        if self.process:
            self.process.terminate()
            self.process.wait(PATIENCE)


class Hosts:
    """The sidecars of a run, on addresses that no other run of this machine uses."""

    def __init__(self, binary: str, engines: int) -> None:
        self.binary, self.engines = binary, engines
        self.folder = Path(tempfile.mkdtemp(prefix="machnet-conformance-"))
        self.folder.chmod(0o755)
        process = os.getpid()
        self._network = f"127.{64 + (process >> 8) % 128}.{process & 0xFF}"
        self._made = 0
        self.udp_port = _free_udp_port(self.unused_address(1))
        self.one = self.make("one")
        self.two = self.make("two")

    def unused_address(self, number: int = 250) -> str:
        """An address without a sidecar."""
        return f"{self._network}.{number}"

    def make(self, name: str, options: list[str] | None = None) -> Sidecar:
        """Another host."""
        self._made += 1
        options = ["--engines", str(self.engines), *(options or [])]
        return Sidecar(self.binary, self.folder, name, f"{self._network}.{self._made}", self.udp_port, options)

    def close(self) -> None:
        """Ends all."""
        for sidecar in (self.one, self.two):
            sidecar.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_udp_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class Agent:
    """A program that the suite steers: one language, one role."""

    def __init__(self, name: str, role: str, folder: Path, verbose: bool, prefix: list[str] | None = None) -> None:
        self.name, self.role, self._verbose = name, role, verbose
        launcher = LAUNCHERS / name
        if not launcher.exists():
            raise NotThere(f"there is no {launcher.relative_to(ROOT)}")
        self._errors = tempfile.TemporaryFile("w+", dir=folder, errors="replace")
        self.transcript: list[str] = []
        self.process = subprocess.Popen(
            [*(prefix or []), str(launcher)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            cwd=folder,
            env={key: value for key, value in os.environ.items() if not key.startswith("MACHNET_")},
        )
        self._lines = Lines(self.process)
        try:
            self.features = self.ask({"op": "features"})
        except Trouble:
            if self.process.poll() == NOT_BUILT:
                raise NotThere(self.errors() or "its launcher does not say why") from None
            self.kill()
            raise
        self.lacks: dict[str, str] = self.features.get("lacks", {})
        if self.features.get("protocol") != 1 or "fault" in self.features:
            self.kill()
            raise Trouble(f"{name} answered features with {self.features}")

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Gives it a command; its answer."""
        line = json.dumps(command)
        self._note(">", line)
        patience = PATIENCE + PATIENCE_EACH * command.get("count", 0)
        assert self.process.stdin
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self._lines.next(patience)
        except BrokenPipeError:
            answer = None
        except queue.Empty:
            self.kill()
            raise Trouble(f"{self} did not answer {command['op']} within {patience:.0f} s") from None
        if answer is None:
            code = self.process.wait()
            raise Trouble(f"{self} ended with exit code {code} instead of answering {command['op']}; {self.errors()}")
        self._note("<", answer.rstrip())
        try:
            parsed = json.loads(answer)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise Trouble(f"{self} answered no object: {answer.rstrip()[:200]}")
        return parsed

    def _note(self, direction: str, line: str) -> None:
        self.transcript.append(f"{self} {direction} {line[:300]}")
        if self._verbose:
            print(f"    {self.transcript[-1]}", flush=True)

    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read()[-2000:].strip()

    def is_running(self) -> bool:
        """Whether it lives."""
        return self.process.poll() is None

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> str | None:
        """Asks it to end; what was wrong with how it did."""
        if not self.is_running():
            return None
        try:
            self.ask({"op": "exit"})
            code = self.process.wait(PATIENCE)
        except (Trouble, subprocess.TimeoutExpired) as trouble:
            self.kill()
            return str(trouble)
        return f"{self} ended with exit code {code}; {self.errors()}" if code else None

    def __str__(self) -> str:
        return f"{self.name} ({self.role})"

"""The language of scenarios/*.json: README.md of that folder explains it."""

from __future__ import annotations

import ast
import json
import operator
import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

from processes import ROOT, Agent, Hosts, Sidecar

Answer = dict[str, Any]

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod}
SPECIAL = ("error", "fault", "none", "cancelled", "running", "unsupported")
LIMITS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "!=": operator.ne}


class Mismatch(Exception):
    """An answer that is not the expected one."""


def error_codes() -> dict[str, int]:
    """The errors' names and codes, from the page that all languages are compared with."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    return {name: int(code) for code, name in re.findall(r"^### (\d+) (\w+)$", page, re.MULTILINE)}


class Scenario:
    """One file of scenarios/."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        with path.open() as file:
            data = json.load(file)
        known = {"title", "roles", "needs", "hosts", "begin", "steps", "values", "matrix", "prefix", "fresh"}
        if unknown := set(data) - known:
            raise ValueError(f"{path}: unknown members {sorted(unknown)}")
        self.title: str = data["title"]
        self.roles: list[str] = data.get("roles", ["client", "server"])
        self.needs: dict[str, list[str]] = data.get("needs", {})
        self.hosts: str = data.get("hosts", "two")
        self.begin: str = data.get("begin", "nothing")
        self.values: dict[str, Any] = data.get("values", {})
        self.steps: list[dict[str, Any]] = data["steps"]
        self.matrix: str | None = data.get("matrix")
        self.is_fresh: bool = data.get("fresh", False)
        self.is_without_privilege: bool = data.get("prefix") == "without_privilege"

    def lacking(self, agents: dict[str, Agent]) -> tuple[str, str] | None:
        """What one of the agents cannot do: its name with the feature's, and the reason."""
        for role, features in self.needs.items():
            for feature in features:
                if role in agents and feature in agents[role].lacks:
                    return f"{agents[role].name}: {feature}", agents[role].lacks[feature]
        return None


class Run:
    """One execution of a scenario."""

    def __init__(
        self, scenario: Scenario, agents: dict[str, Agent], hosts: Hosts, is_one_host: bool, values: dict[str, Any]
    ) -> None:
        self._scenario, self._agents, self._hosts = scenario, agents, hosts
        self._extra: dict[str, Sidecar] = {}
        self._codes = error_codes()
        here = hosts.one
        there = hosts.one if is_one_host else hosts.two
        self._values: dict[str, Any] = {
            "client": here, "server": there, "udp_port": hosts.udp_port, "engines": hosts.engines,
            "nowhere": hosts.unused_address(), "folder": str(hosts.folder), "long": 20_000, "short": 50,
        }
        for name, value in {**values, **scenario.values}.items():
            self._values[name] = self._filled(value) if name not in values else value

    def execute(self) -> None:
        """Does all steps, and tidies up. Raises ``Mismatch`` or ``Trouble``."""
        try:
            self._begin()
            self._steps(self._scenario.steps)
            for agent in self._agents.values():
                answer = agent.ask({"op": "clear"})
                if answer != {}:
                    raise Mismatch(f"{agent} answered clear with {answer}")
        finally:
            for sidecar in self._extra.values():
                sidecar.kill()
            for sidecar in (self._hosts.one, self._hosts.two):
                sidecar.start()

    # ---- what most scenarios begin with

    def _begin(self) -> None:
        begin = self._scenario.begin
        if begin not in ("nothing", "attached", "connected", "streams"):
            raise ValueError(f"{self._scenario.name}: no beginning {begin}")
        if begin == "nothing":
            return
        self._steps([{role: "attach", "as": "c", "socket": "${" + role + ".socket}"} for role in self._agents])
        if begin == "attached":
            return
        self._steps([
            {"server": "listen", "channel": "c", "as": "l", "address": "${server.address}:0", "save": {"address": "listening"}},
            {"client": "connect", "channel": "c", "as": "f", "address": "${listening}", "save": {"local": "calling"}},
            {"server": "accept", "listener": "l", "as": "f", "timeout_ms": "${long}"},
        ])
        if begin == "streams":
            self._steps([{role: "stream", "flow": "f", "as": "s"} for role in ("client", "server")])

    # ---- steps

    def _steps(self, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            try:
                self._step(step)
            except Mismatch as mismatch:
                raise Mismatch(f"{mismatch}\n      in step {json.dumps(step)[:400]}") from None

    def _step(self, step: dict[str, Any]) -> None:
        if "for" in step:
            (name, values), = step["for"].items()
            filled = self._filled(values)
            for value in range(filled) if isinstance(filled, int) else filled:
                self._values[name] = value
                self._steps(step["steps"])
            return
        if "if" in step:
            if self._filled(step["if"]):
                self._steps(step["steps"])
            return
        if "runner" in step:
            getattr(self, f"_do_{step['runner']}")(self._filled(step))
            return
        role = next(role for role in self._agents if role in step)
        command = {"op": step[role]}
        for name, value in step.items():
            if name not in (role, "expect", "save", "note", "task_as", "either"):
                command[name] = self._filled(value)
        if "task_as" in step:
            command = {"op": "start", "task": self._filled(step["task_as"]), "command": command}
        answer = self._agents[role].ask(command)
        if "either" in step:
            self._check_either(answer, step["either"])
        else:
            self._check(answer, step.get("expect", {}))
        for member, name in step.get("save", {}).items():
            self._values[name] = answer[member]

    def _check_either(self, answer: Answer, choices: list[Any]) -> None:
        found = []
        for choice in choices:
            try:
                return self._check(answer, choice)
            except Mismatch as mismatch:
                found.append(str(mismatch))
        raise Mismatch("; and ".join(found))

    def _check(self, answer: Answer, expected: dict[str, Any]) -> None:
        expected = self._filled(expected)
        for member in SPECIAL:
            if member in answer and member not in expected:
                raise Mismatch(f"answered {json.dumps(answer)}")
        if answer.get("ok") is False and "ok" not in expected:
            raise Mismatch(f"received something wrong: {json.dumps(answer)}")
        for name, value in expected.items():
            if name == "error":
                self._check_error(answer, value)
            elif name not in answer or not _fits(answer[name], value):
                raise Mismatch(f"answered {json.dumps(answer)}, expected {name}: {json.dumps(value)}")

    def _check_error(self, answer: Answer, expected: Any) -> None:
        error = answer.get("error")
        if not isinstance(error, dict):
            raise Mismatch(f"answered {json.dumps(answer)}, expected the error {json.dumps(expected)}")
        if isinstance(expected, str):
            expected = {"name": expected}
        code = self._codes.get(str(error.get("name")))
        if code is None:
            raise Mismatch(f"answered an error that docs/troubleshooting.md does not name: {json.dumps(error)}")
        for name, value in {**expected, "code": code}.items():
            if not _fits(error.get(name), value):
                raise Mismatch(f"answered the error {json.dumps(error)}, expected {name}: {json.dumps(value)}")

    # ---- what the runner itself does

    def _host(self, name: str) -> Sidecar:
        return self._extra[name] if name in self._extra else self._values[name]

    def _do_kill_sidecar(self, step: dict[str, Any]) -> None:
        self._host(step["host"]).kill()

    def _do_stop_sidecar(self, step: dict[str, Any]) -> None:
        self._host(step["host"]).stop()

    def _do_start_sidecar(self, step: dict[str, Any]) -> None:
        self._host(step["host"]).start()

    def _do_make_sidecar(self, step: dict[str, Any]) -> None:
        name = step["host"]
        self._extra[name] = self._values[name] = self._hosts.make(f"{name}-{self._hosts._made}", step.get("options"))

    def _do_kill_agent(self, step: dict[str, Any]) -> None:
        self._agents.pop(step["role"]).kill()

    def _do_forbidden_socket(self, step: dict[str, Any]) -> None:
        """A socket that an agent without privilege may not open."""
        path = Path(step["path"])
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
        path.chmod(0)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)

    def _do_stale_socket(self, step: dict[str, Any]) -> None:
        """A socket whose owner is gone, as a killed sidecar leaves it."""
        path = Path(step["path"])
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
        assert stat.S_ISSOCK(path.stat().st_mode)

    def _do_compare(self, step: dict[str, Any]) -> None:
        if not _fits(step["value"], step["expect"]):
            raise Mismatch(f"{step.get('note', 'compared')}: {step['value']} is not {json.dumps(step['expect'])}")

    # ---- values in texts

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._filled(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self._filled(one) for one in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        if whole := re.fullmatch(r"\$\{([^{}]*)\}", value):
            return self._evaluate(whole[1])
        return re.sub(r"\$\{([^{}]*)\}", lambda found: str(self._evaluate(found[1])), value)

    def _evaluate(self, text: str) -> Any:
        return self._value(ast.parse(text, mode="eval").body)

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self._values[name]
            case ast.Attribute(value=inner, attr=name):
                return getattr(self._value(inner), name)
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](self._value(left), self._value(right))
            case ast.Call(func=ast.Name(id="port"), args=[inner]):
                return int(str(self._value(inner)).rpartition(":")[2])
        raise ValueError(f"cannot evaluate {ast.unparse(node)}")


def _fits(value: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        if "matches" in expected:
            return isinstance(value, str) and re.fullmatch(expected["matches"], value) is not None
        if limits := [name for name in expected if name in LIMITS]:
            return isinstance(value, int) and all(LIMITS[name](value, expected[name]) for name in limits)
        return isinstance(value, dict) and all(name in value and _fits(value[name], one) for name, one in expected.items())
    return type(value) is type(expected) and bool(value == expected)

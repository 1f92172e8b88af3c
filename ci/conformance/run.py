#!/usr/bin/env python3
"""Runs the conformance suite: the scenarios for each SDK, and the matrix of every SDK with every other.

README.md beside this file specifies the agents; scenarios/README.md, how scenarios are written.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from processes import LAUNCHERS, ROOT, Agent, Hosts, NotThere, Trouble  # noqa: E402
from scenario import Mismatch, Run, Scenario  # noqa: E402

SCENARIOS = Path(__file__).resolve().parent / "scenarios"

LANGUAGES = ["rust", "c", "python", "node", "go", "csharp"]
"""Those of the matrix's 36 pairs."""

VARIANTS = sorted(path.name for path in LAUNCHERS.iterdir() if path.name not in LANGUAGES)
"""Further APIs of those languages, with agents of their own: rust-tokio, python-asyncio."""

FULL_STORM = 100_000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Runs the conformance suite of Machnet's SDKs: scenarios, and the matrix of all languages.",
        epilog="Exit code: 0 if nothing failed, else 1; 2 for arguments that make no sense.",
    )
    parser.add_argument("--agents", metavar="NAMES", help="only these, separated by commas (default: all that are built)")
    parser.add_argument("--only", metavar="TEXT", action="append", help="only scenarios with TEXT in their name; may be repeated")
    parser.add_argument("--no-matrix", action="store_true", help="only the scenarios")
    parser.add_argument("--no-scenarios", action="store_true", help="only the matrix")
    parser.add_argument("--storm", metavar="N", type=int, default=int(os.environ.get("CONFORMANCE_STORM", "1000")),
                        help=f"cancelled receives and messages of a cancel storm; the full number is {FULL_STORM} (default: $CONFORMANCE_STORM, else 1000)")
    parser.add_argument("--seed", metavar="N", type=int, default=int(os.environ.get("CONFORMANCE_SEED", "1")),
                        help="seed of all contents (default: $CONFORMANCE_SEED, else 1)")
    parser.add_argument("--engines", metavar="N", type=int, default=1, help="engines of each sidecar (default: 1)")
    parser.add_argument("--machnet", metavar="FILE", default=os.environ.get("MACHNET"),
                        help="the sidecar's binary (default: $MACHNET, else that of `make build`)")
    parser.add_argument("--list", action="store_true", help="print the scenarios and the agents, and end")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each line that goes to an agent and comes back")
    return parser.parse_args()


class Suite:
    """What a run has started and found."""

    def __init__(self, options: argparse.Namespace, hosts: Hosts) -> None:
        self.options, self.hosts = options, hosts
        self._agents: dict[tuple[str, str], Agent] = {}
        self.missing: dict[str, str] = {}
        self.lacking: dict[tuple[str, str], list[str]] = {}
        self.failures: list[str] = []
        self.passed = 0

    # ---- agents

    def agent(self, name: str, role: str, scenario: Scenario) -> Agent:
        """The agent of a language in a role: the one that runs already, if the scenario allows."""
        if name in self.missing:
            raise NotThere(self.missing[name])
        if scenario.is_fresh or scenario.is_without_privilege:
            return Agent(name, role, self.hosts.folder, self.options.verbose, without_privilege() if scenario.is_without_privilege else None)
        agent = self._agents.get((name, role))
        if agent is None or not agent.is_running():
            agent = self._agents[name, role] = Agent(name, role, self.hosts.folder, self.options.verbose)
        agent.transcript.clear()
        return agent

    def look_for(self, names: list[str]) -> list[str]:
        """Those that can run here."""
        for name in names:
            try:
                self._agents[name, "client"] = Agent(name, "client", self.hosts.folder, self.options.verbose)
            except NotThere as reason:
                self.missing[name] = str(reason)
            except Trouble as trouble:
                self.missing[name] = str(trouble)
                self.failures.append(f"{name}: {trouble}")
        return [name for name in names if name not in self.missing]

    def end_agents(self) -> None:
        """All have to end well."""
        for agent in self._agents.values():
            if trouble := agent.stop():
                self.failures.append(trouble)

    # ---- scenarios

    def execute(self, scenario: Scenario, names: dict[str, str], is_one_host: bool) -> str:
        """Does a scenario with one agent in each role; "ok", "FAILED" or "-" for what cannot be done."""
        players = " to ".join(names.values())
        title = f"{scenario.name}: {players}{' on one host' if is_one_host else ''}"
        if self.options.verbose:
            print(f"--- {title}", flush=True)
        agents: dict[str, Agent] = {}
        try:
            for role, name in names.items():
                agents[role] = self.agent(name, role, scenario)
            if lacking := scenario.lacking(agents):
                if scenario.name not in (those := self.lacking.setdefault(lacking, [])):
                    those.append(scenario.name)
                return "-"
            values = {"storm": self.options.storm, "seed": self.options.seed}
            Run(scenario, dict(agents), self.hosts, is_one_host, values).execute()
        except (Mismatch, Trouble) as reason:
            self._failed(title, str(reason), list(agents.values()))
            return "FAILED"
        finally:
            for agent in agents.values():
                if scenario.is_fresh or scenario.is_without_privilege:
                    agent.kill()
        self.passed += 1
        return "ok"

    def _failed(self, title: str, reason: str, agents: list[Agent]) -> None:
        self.failures.append(f"{title}: {reason.splitlines()[0]}")
        print(f"FAILED {title}\n      {reason}")
        for agent in agents:
            if not self.options.verbose:
                print("".join(f"      {line}\n" for line in agent.transcript[-6:]), end="")
            if errors := agent.errors():
                print(f"      {agent} wrote:\n      " + errors.replace("\n", "\n      "))
            # Who knows what state it is in.
            agent.kill()
        for sidecar in (self.hosts.one, self.hosts.two):
            if log := sidecar.log.read_text().strip():
                print(f"      sidecar {sidecar.name} logged: {log[-500:]}")
        sys.stdout.flush()


def without_privilege() -> list[str]:
    """What makes root respect the permissions of files."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise NotThere("setpriv is not installed, and root may open every socket")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--"]


def casts(scenario: Scenario, name: str) -> list[dict[str, str]]:
    """Who plays with whom, so that the SDK under test has every role, the other end being Rust."""
    if scenario.roles == ["client"]:
        return [{"client": name}]
    if scenario.matrix == "only":
        return []
    both = [{"client": name, "server": "rust"}, {"client": "rust", "server": name}]
    return both if name != "rust" else both[:1]


def run_scenarios(suite: Suite, scenarios: list[Scenario], names: list[str]) -> None:
    """Prints a table: each scenario, each agent."""
    scenarios = [scenario for scenario in scenarios if scenario.matrix != "only"]
    if not scenarios:
        return
    width = max(len(scenario.name) for scenario in scenarios)
    print(f"\nScenarios, each agent as client and as server beside Rust:\n\n{'':{width}} " + " ".join(f"{name:>{max(6, len(name))}}" for name in names))
    for scenario in scenarios:
        row, before = [], time.monotonic()
        for name in names:
            hosts = {"one": [True], "two": [False], "both": [False, True]}[scenario.hosts]
            found = []
            for cast in casts(scenario, name):
                for is_one_host in hosts:
                    try:
                        found.append(suite.execute(scenario, cast, is_one_host))
                    except NotThere as reason:
                        suite.lacking.setdefault((f"{name}: {scenario.name}", str(reason)), []).append(scenario.name)
                        found.append("-")
            worst = "FAILED" if "FAILED" in found else "ok" if "ok" in found else "-"
            row.append(f"{worst:>{max(6, len(name))}}")
        print(f"{scenario.name:{width}} {' '.join(row)} {time.monotonic() - before:6.1f} s", flush=True)


def run_matrix(suite: Suite, scenarios: list[Scenario], names: list[str]) -> None:
    """Prints the table of all pairs."""
    modes = [scenario for scenario in scenarios if scenario.matrix]
    if not modes:
        return
    cells: dict[tuple[str, str], list[str]] = {}
    for client in names:
        for server in names:
            cast = {"client": client, "server": server}
            cells[client, server] = [suite.execute(mode, cast, is_one_host=False) for mode in modes]
    print(f"\nMatrix, through two sidecars: {' / '.join(mode.name.removeprefix('matrix-') for mode in modes)}\n")
    corner = "client \\ server"
    left = max(len(corner), *(len(name) for name in names))
    texts = {pair: " / ".join(cell) for pair, cell in cells.items()}
    widths = {server: max(len(server), *(len(texts[client, server]) for client in names)) for server in names}
    print("| " + " | ".join([f"{corner:{left}}", *(f"{name:{widths[name]}}" for name in names)]) + " |")
    print("|" + "|".join(["-" * (left + 2), *("-" * (widths[name] + 2) for name in names)]) + "|")
    for client in names:
        print("| " + " | ".join([f"{client:{left}}", *(f"{texts[client, server]:{widths[server]}}" for server in names)]) + " |")
    good = sum(set(cell) == {"ok"} for pair, cell in cells.items() if set(pair) <= set(LANGUAGES))
    print(f"\n{good} of the {len(LANGUAGES) ** 2} pairs of {', '.join(LANGUAGES)} passed in all {len(modes)} modes", flush=True)


def binary(options: argparse.Namespace) -> str:
    """The sidecar's."""
    path = Path(options.machnet or Path(os.environ["CARGO_TARGET_DIR"]) / "release" / "machnet")
    if not os.access(path, os.X_OK):
        sys.exit(f"there is no sidecar at {path}: run `make build`, or name one with --machnet")
    return str(path.resolve())


def main() -> int:
    options = arguments()
    # Relative to the repository, as cargo and the scripts of ci/ take it; the launchers run elsewhere.
    os.environ["CARGO_TARGET_DIR"] = str(ROOT / os.environ.get("CARGO_TARGET_DIR", "target"))
    known = [*LANGUAGES, *VARIANTS]
    names = options.agents.split(",") if options.agents else known
    if wrong := [name for name in names if name not in known]:
        print(f"no such agent: {', '.join(wrong)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    scenarios = [Scenario(path) for path in sorted(SCENARIOS.glob("*.json"))]
    if options.only:
        scenarios = [one for one in scenarios if any(text in one.name for text in options.only)]
    if not scenarios:
        print("no scenario has such a name; --list prints them", file=sys.stderr)
        return 2
    if options.list:
        for scenario in scenarios:
            print(f"{scenario.name:28} {scenario.title}")
        print("agents: " + ", ".join(known))
        return 0
    began = time.monotonic()
    try:
        hosts = Hosts(binary(options), options.engines)
    except Trouble as trouble:
        print(f"FAILED {trouble}", file=sys.stderr)
        return 1
    suite = Suite(options, hosts)
    try:
        print(f"seed {options.seed}, {options.engines} engine(s), cancel storms of {options.storm} (the full number is {FULL_STORM})")
        there = suite.look_for(list(dict.fromkeys(["rust", *names])))
        if "rust" not in there:
            print(f"FAILED the agent of Rust, the other end of all others, cannot run: {suite.missing['rust']}")
            return 1
        names = [name for name in names if name in there]
        if not options.no_scenarios:
            run_scenarios(suite, scenarios, names)
        if not options.no_matrix:
            run_matrix(suite, scenarios, names)
        suite.end_agents()
    finally:
        hosts.close()
    report(suite, time.monotonic() - began)
    return 1 if suite.failures else 0


def report(suite: Suite, seconds: float) -> None:
    """What was not done, and the counts."""
    print()
    for (what, reason), scenarios in suite.lacking.items():
        print(f"without {what} ({', '.join(scenarios)}): {reason}")
    for name, reason in suite.missing.items():
        print(f"SKIPPED conformance of {name}: {reason}")
    for failure in suite.failures:
        print(f"failed: {failure}")
    word = "FAILED" if suite.failures else "ok"
    print(f"took {seconds:.0f} s")
    print(f"test result: {word}. {suite.passed} passed; {len(suite.failures)} failed")


if __name__ == "__main__":
    sys.exit(main())

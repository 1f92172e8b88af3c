"""The agent of the conformance suite over the blocking calls of ``machnet``. ci/conformance/README.md specifies it."""

from __future__ import annotations

import json
import os
import queue
import select
import sys
import threading
from typing import Any

import machnet
from common import (
    BATCH, PIECE, Answer, Command, Expected, Series, Sums, address, content, failed, numbers, operation, parse, received, seconds, stats,
)
from machnet.errors import Cancelled, Closed, MachnetError, TimedOut


class Task:
    """A command in a thread of its own."""

    def __init__(self, agent: Agent, command: Command) -> None:
        self._command = command
        self.cancel = agent.canceller(command)
        self.answer: Answer = {}
        self.thread = threading.Thread(target=self._run, args=(agent,), daemon=True)
        self.thread.start()

    def _run(self, agent: Agent) -> None:
        self.answer = agent.run(self._command, self.cancel)


class Agent:
    """All that the commands have made. Each method ``do_X`` is the command X."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._channels: dict[str, machnet.Channel] = {}
        """The channel of each handle, which has the cancellers."""
        self._tasks: dict[str, Task] = {}

    # ---- commands and tasks

    def run(self, command: Command, cancel: machnet.Canceller | None = None) -> Answer:
        """Works on a command until it can be answered."""
        done: Answer = {}
        try:
            answer: Answer = operation(self, command)(command, cancel, done)
            return answer
        except Exception as error:
            return failed(error, done)

    def canceller(self, command: Command) -> machnet.Canceller | None:
        """What ends the waits of a command."""
        for member in ("flow", "stream", "listener", "channel", "handle"):
            if command.get(member) in self._channels:
                return self._channels[command[member]].canceller()
        return None

    def _put(self, command: Command, handle: Any, channel: machnet.Channel) -> None:
        self._handles[command["as"]] = handle
        self._channels[command["as"]] = channel

    def _named(self, command: Command, member: str) -> Any:
        return self._handles[command[member]]

    def do_features(self, *_: Any) -> Answer:
        lacks = {"stream_cancel": "machnet.Stream has timeouts, but no cancel"}
        return {"agent": "python", "version": machnet.__version__, "protocol": 1, "lacks": lacks}

    def do_start(self, command: Command, *_: Any) -> Answer:
        self._tasks[command["task"]] = Task(self, command["command"])
        return {}

    def do_join(self, command: Command, *_: Any) -> Answer:
        task = self._tasks[command["task"]]
        task.thread.join(seconds(command))
        if task.thread.is_alive():
            return {"running": True}
        del self._tasks[command["task"]]
        return task.answer

    def do_cancel(self, command: Command, *_: Any) -> Answer:
        cancel = self._tasks[command["task"]].cancel
        if cancel is None:
            raise LookupError("the task's command has no channel")
        cancel.cancel()
        return {}

    def do_clear(self, *_: Any) -> Answer:
        for task in self._tasks.values():
            if task.cancel:
                task.cancel.cancel()
        # Flows and streams first, then what they belong to.
        for kinds in ((machnet.Flow, machnet.Stream), (machnet.Listener, machnet.Channel)):
            for handle in self._handles.values():
                if isinstance(handle, kinds):
                    try:
                        handle.reset() if hasattr(handle, "reset") else handle.close()
                    except OSError:
                        pass  # It is over in any case.
        for task in self._tasks.values():
            task.thread.join()
        self._tasks.clear()
        self._handles.clear()
        self._channels.clear()
        return {}

    # ---- channels, listeners, flows

    def do_attach(self, command: Command, *_: Any) -> Answer:
        choices: dict[str, Any] = {name: command[name] for name in ("engine", "name") if name in command}
        if "linger_ms" in command:
            choices["linger"] = command["linger_ms"] / 1000
        channel = machnet.attach(command["socket"], **choices)
        self._put(command, channel, channel)
        info = channel.info
        return {"engine": info.engine, "sidecar_pid": info.sidecar_pid, "local": info.local[0]}

    def do_listen(self, command: Command, *_: Any) -> Answer:
        channel = self._named(command, "channel")
        listener = channel.listen(command["address"], command.get("backlog", 0))
        self._put(command, listener, channel)
        return {"address": address(listener.address)}

    def do_connect(self, command: Command, cancel: machnet.Canceller | None, _done: Answer) -> Answer:
        channel = self._named(command, "channel")
        return self._flow(command, channel.connect(command["address"], seconds(command), cancel=cancel), channel)

    def do_accept(self, command: Command, cancel: machnet.Canceller | None, _done: Answer) -> Answer:
        flow = self._named(command, "listener").accept(seconds(command), cancel=cancel)
        return self._flow(command, flow, self._channels[command["listener"]])

    def do_try_accept(self, command: Command, *_: Any) -> Answer:
        flow = self._named(command, "listener").try_accept()
        return {"none": True} if flow is None else self._flow(command, flow, self._channels[command["listener"]])

    def _flow(self, command: Command, flow: machnet.Flow, channel: machnet.Channel) -> Answer:
        self._put(command, flow, channel)
        return {"local": address(flow.local), "peer": address(flow.peer), "max_message": flow.max_message}

    def do_close(self, command: Command, *_: Any) -> Answer:
        handle = self._named(command, "handle")
        handle.close(seconds(command, "wait_ms")) if isinstance(handle, machnet.Flow) else handle.close()
        return {}

    def do_reset(self, command: Command, *_: Any) -> Answer:
        self._named(command, "handle").reset()
        return {}

    def do_stats(self, command: Command, *_: Any) -> Answer:
        return stats(self._named(command, "handle").stats())

    # ---- messages

    def do_send(self, command: Command, cancel: machnet.Canceller | None, _done: Answer) -> Answer:
        flow, message = self._named(command, "flow"), content(command["seed"], command["length"])
        match command.get("how", "copy"):
            case "copy":
                flow.send(message, seconds(command), cancel=cancel)
            case "loan" | "dropped":
                loan = flow.lend(len(message), seconds(command), cancel=cancel)
                with memoryview(loan) as room:
                    room[:] = message
                loan.send() if command["how"] == "loan" else loan.close()
        return {}

    def do_try_send(self, command: Command, *_: Any) -> Answer:
        sent = self._named(command, "flow").try_send(content(command["seed"], command["length"]))
        return {} if sent else {"none": True}

    def do_recv(self, command: Command, cancel: machnet.Canceller | None, _done: Answer) -> Answer:
        flow = self._named(command, "flow")
        if command.get("how") == "into":
            buffer = bytearray(command["capacity"])
            length = flow.recv_into(buffer, seconds(command), cancel=cancel)
            return received(command, bytes(buffer[:length]))
        message = flow.recv(seconds(command), cancel=cancel)
        if "as" in command:
            self._handles[command["as"]] = message
        return received(command, bytes(message))

    def do_try_recv(self, command: Command, *_: Any) -> Answer:
        message = self._named(command, "flow").try_recv()
        return {"none": True} if message is None else received(command, bytes(message))

    def do_release(self, command: Command, *_: Any) -> Answer:
        return received(command, bytes(self._handles.pop(command["message"])))

    def do_send_series(self, command: Command, cancel: machnet.Canceller | None, done: Answer) -> Answer:
        flow, series, timeout = self._named(command, "flow"), Series(command), seconds(command)
        left = numbers(command)
        done["sent"] = 0
        while left:
            count = 1
            match command.get("how", "copy"):
                case "copy":
                    flow.send(series.message(left[0]), timeout, cancel=cancel)
                case "loan":
                    with flow.lend(series.length(left[0]), timeout, cancel=cancel) as loan:
                        memoryview(loan)[:] = series.message(left[0])
                        loan.send()
                case "batch":
                    count = flow.send_many([series.message(number) for number in left[:BATCH]], timeout, cancel=cancel)
                case "try":
                    if not flow.try_send(series.message(left[0])):
                        return done
            done["sent"] += count
            left = left[count:]
        return done

    def do_recv_series(self, command: Command, cancel: machnet.Canceller | None, done: Answer) -> Answer:
        flow, timeout, how = self._named(command, "flow"), seconds(command), command.get("how", "copy")
        expected = Expected(Series(command), numbers(command))
        buffer = bytearray(max(command["lengths"]))
        goes_on = expected.left > 0
        while goes_on:
            done["received"] = expected.received
            match how:
                case "copy" | "loan":
                    goes_on = expected.take(bytes(flow.recv(timeout, cancel=cancel)))
                case "into":
                    length = flow.recv_into(buffer, timeout, cancel=cancel)
                    goes_on = expected.take(bytes(buffer[:length]))
                case "batch":
                    batch = flow.recv_many(min(BATCH, expected.left), timeout, cancel=cancel)
                    goes_on = [expected.take(bytes(message)) for message in batch][-1]
                    if not expected.is_right:
                        break
                case "event_fd":
                    goes_on = self._drain_ready(command, flow, expected)
                case "iterator":
                    for message in flow:
                        goes_on = expected.take(bytes(message))
                        if not goes_on:
                            break
        return expected.answer()

    def _drain_ready(self, command: Command, flow: machnet.Flow, expected: Expected) -> bool:
        """Takes what is there, then waits for the channel's descriptor; says whether more is to come."""
        descriptor = self._channels[command["flow"]].fileno()
        while (message := flow.try_recv()) is not None:
            if not expected.take(bytes(message)):
                return False
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        if not ready.poll(command.get("timeout_ms")):
            raise TimedOut("timed out")
        return True

    def do_drain(self, command: Command, cancel: machnet.Canceller | None, done: Answer) -> Answer:
        flow, series, sums = self._named(command, "flow"), Series(command), Sums()
        while True:
            done["count"] = sums.answer["count"]
            try:
                message = flow.recv(seconds(command), cancel=cancel)
            except Closed:
                return sums.answer
            sums.add(series.number_of(bytes(message)))

    def do_ping(self, command: Command, cancel: machnet.Canceller | None, done: Answer) -> Answer:
        flow, timeout = self._named(command, "flow"), seconds(command)
        expected = Expected(Series(command), numbers(command))
        for number in numbers(command):
            done["received"] = expected.received
            flow.send(expected.series.message(number), timeout, cancel=cancel)
            expected.take(bytes(flow.recv(timeout, cancel=cancel)))
            if not expected.is_right:
                break
        return expected.answer()

    def do_echo(self, command: Command, cancel: machnet.Canceller | None, done: Answer) -> Answer:
        flow, timeout = self._named(command, "flow"), seconds(command)
        done.update(messages=0, bytes=0)
        while True:
            try:
                message = flow.recv(timeout, cancel=cancel)
                flow.send(message, timeout, cancel=cancel)
            except Closed:
                return done
            done["messages"] += 1
            done["bytes"] += len(message)

    def do_supply(self, command: Command, cancel: machnet.Canceller | None, done: Answer) -> Answer:
        flow, series, timeout = self._named(command, "flow"), Series(command), seconds(command)
        done["sent"] = 0
        for number in numbers(command):
            flow.recv(timeout, cancel=cancel)
            flow.send(series.message(number), timeout, cancel=cancel)
            done["sent"] += 1
        return done

    def do_cancel_storm(self, command: Command, _cancel: machnet.Canceller | None, done: Answer) -> Answer:
        flow, channel, timeout = self._named(command, "flow"), self._channels[command["flow"]], seconds(command)
        expected, demand = Expected(Series(command), numbers(command)), content(0, 1)
        requests: queue.SimpleQueue[machnet.Canceller | None] = queue.SimpleQueue()

        def cancel_them() -> None:
            while (canceller := requests.get()) is not None:
                canceller.cancel()

        def recv_cancelled() -> machnet.Message | None:
            canceller = channel.canceller()
            requests.put(canceller)
            try:
                return flow.recv(cancel=canceller)  # type: ignore[no-any-return]
            except Cancelled:
                done["cancelled"] += 1
                return None

        helper = threading.Thread(target=cancel_them)
        helper.start()
        done.update(received=0, cancelled=0, won=0, ok=True)
        try:
            for _ in numbers(command):
                if recv_cancelled() is not None:
                    return {**done, "ok": False}
                flow.send(demand, timeout)
                message = recv_cancelled()
                if message is None:
                    message = flow.recv(timeout)
                else:
                    done["won"] += 1
                expected.take(bytes(message))
                if not expected.is_right:
                    return {**done, "ok": False}
                done["received"] += 1
        finally:
            requests.put(None)
            helper.join()
        return done

    # ---- streams

    def do_stream(self, command: Command, *_: Any) -> Answer:
        flow = self._handles.pop(command["flow"])
        self._put(command, machnet.Stream(flow), self._channels[command["flow"]])
        return {}

    def do_write(self, command: Command, _cancel: machnet.Canceller | None, done: Answer) -> Answer:
        stream, data = self._named(command, "stream"), memoryview(content(command["seed"], command["length"]))
        stream.timeout = seconds(command)
        chunk = command.get("chunk", max(len(data), 1))
        done["written"] = 0
        while data:
            count = stream.write(data[:chunk])
            done["written"] += count
            data = data[count:]
        return done

    def do_read(self, command: Command, _cancel: machnet.Canceller | None, done: Answer) -> Answer:
        stream, length = self._named(command, "stream"), command["length"]
        stream.timeout = seconds(command)
        whole, is_end = bytearray(length), False
        done["length"] = 0
        with memoryview(whole) as room:
            while done["length"] < length and not is_end:
                count = stream.readinto(room[done["length"] :])
                done["length"] += count
                is_end = count == 0
        wanted = content(command["seed"], done["length"], command.get("offset", 0))
        return {**done, "ok": whole[: done["length"]] == wanted, "end": is_end}

    def do_end(self, command: Command, *_: Any) -> Answer:
        stream = self._named(command, "stream")
        stream.timeout = seconds(command)
        stream.end()
        return {}

    def do_stream_echo(self, command: Command, _cancel: machnet.Canceller | None, done: Answer) -> Answer:
        stream = self._named(command, "stream")
        stream.timeout = seconds(command)
        done["bytes"] = 0
        while data := stream.read(PIECE):
            stream.sendall(data)
            done["bytes"] += len(data)
        stream.end()
        return done

    # ---- processes

    def do_fork(self, command: Command, *_: Any) -> Answer:
        flow, listener, channel = (self._named(command, member) for member in ("flow", "listener", "channel"))
        calls = {
            "try_recv": flow.try_recv,
            "try_send": lambda: flow.try_send(b"x"),
            "try_accept": listener.try_accept,
            "listen": lambda: channel.listen("0.0.0.0:0"),
            "attach": lambda: machnet.attach(command["socket"]).close(),
        }
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                found = {}
                for name, call in calls.items():
                    try:
                        call()
                        found[name] = "Ok"
                    except MachnetError as error:
                        found[name] = error.name
                os.write(writing, json.dumps(found).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        return {"child": json.loads(text)}


def main() -> None:
    agent = Agent()
    for line in sys.stdin:
        try:
            command = parse(line)
        except (ValueError, TypeError) as error:
            print(json.dumps({"fault": str(error)}), flush=True)
            continue
        answer = {} if command.get("op") == "exit" else agent.run(command)
        print(json.dumps(answer), flush=True)
        if command.get("op") == "exit":
            break


if __name__ == "__main__":
    main()

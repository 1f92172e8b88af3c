"""The agent of the conformance suite over ``machnet.aio``. ci/conformance/README.md specifies it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Any

import machnet
import machnet.aio
from common import (
    BATCH, PIECE, Answer, Command, Expected, Series, Sums, address, content, failed, numbers, operation, parse, received, seconds, stats,
)
from machnet.errors import Closed

MOST_LINE = 2**20


class ByteStream:
    """A flow as asyncio's streams."""

    def __init__(self, flow: machnet.aio.Flow) -> None:
        self.flow = flow
        self.reader, self.writer = flow.open_streams()

    def close(self) -> None:
        """In order."""
        self.writer.close()

    def reset(self) -> None:
        """At once."""
        self.writer.transport.abort()

    async def stats(self) -> machnet.FlowStats:
        """As the flow's."""
        transport = self.writer.transport
        assert isinstance(transport, machnet.aio.StreamTransport)
        return await asyncio.to_thread(transport._raw.stats)


class Agent:
    """All that the commands have made. Each method ``do_X`` is the command X."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        self._tasks: dict[str, asyncio.Task[Answer]] = {}

    # ---- commands and tasks

    async def run(self, command: Command) -> Answer:
        """Works on a command until it can be answered."""
        done: Answer = {}
        try:
            answer: Answer = await operation(self, command)(command, done)
            return answer
        except asyncio.CancelledError:
            return {"cancelled": True}
        except Exception as error:
            return failed(error, done)

    def _named(self, command: Command, member: str) -> Any:
        return self._handles[command[member]]

    async def do_features(self, *_: Any) -> Answer:
        lacks = {
            "fork": "an asyncio program does not fork while its loop runs; the agent of the blocking calls does",
            "into": "machnet.aio.Flow has no recv_into",
            "batch_send": "machnet.aio.Flow has no send_many",
            "close_wait": "machnet.aio.Flow.close does not wait",
            "event_fd": "the event loop itself watches the descriptor",
            "threads": "tasks take turns in one thread",
        }
        return {"agent": "python-asyncio", "version": machnet.__version__, "protocol": 1, "lacks": lacks}

    async def do_start(self, command: Command, _done: Answer) -> Answer:
        self._tasks[command["task"]] = asyncio.create_task(self.run(command["command"]))
        # Its first turn: a task that is cancelled before it begins tells nothing of the SDK.
        await asyncio.sleep(0)
        return {}

    async def do_join(self, command: Command, _done: Answer) -> Answer:
        task = self._tasks[command["task"]]
        await asyncio.wait([task], timeout=seconds(command))
        if not task.done():
            return {"running": True}
        del self._tasks[command["task"]]
        return task.result()

    async def do_cancel(self, command: Command, _done: Answer) -> Answer:
        self._tasks[command["task"]].cancel()
        return {}

    async def do_clear(self, *_: Any) -> Answer:
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        handles = [handle for handle in self._handles.values() if not isinstance(handle, machnet.Message)]
        for handle in handles:
            try:
                if hasattr(handle, "reset"):
                    handle.reset()
                elif isinstance(handle, machnet.aio.Listener):
                    handle.close()
            except OSError:
                pass  # It is over in any case.
        for handle in handles:
            if isinstance(handle, machnet.aio.Channel):
                try:
                    await handle.close()
                except OSError:
                    pass  # As above.
        self._tasks.clear()
        self._handles.clear()
        return {}

    # ---- channels, listeners, flows

    async def do_attach(self, command: Command, _done: Answer) -> Answer:
        choices: dict[str, Any] = {name: command[name] for name in ("engine", "name") if name in command}
        if "linger_ms" in command:
            choices["linger"] = command["linger_ms"] / 1000
        channel = await machnet.aio.attach(command["socket"], **choices)
        self._handles[command["as"]] = channel
        info = channel.info
        return {"engine": info.engine, "sidecar_pid": info.sidecar_pid, "local": info.local[0]}

    async def do_listen(self, command: Command, _done: Answer) -> Answer:
        listener = await self._named(command, "channel").listen(command["address"], command.get("backlog", 0))
        self._handles[command["as"]] = listener
        return {"address": address(listener.address)}

    async def do_connect(self, command: Command, _done: Answer) -> Answer:
        return self._flow(command, await self._named(command, "channel").connect(command["address"], seconds(command)))

    async def do_accept(self, command: Command, _done: Answer) -> Answer:
        async with asyncio.timeout(seconds(command)):
            flow = await self._named(command, "listener").accept()
        return self._flow(command, flow)

    async def do_try_accept(self, command: Command, _done: Answer) -> Answer:
        # It has no such call; without a turn of the loop nothing is waited for.
        try:
            async with asyncio.timeout(0):
                flow = await self._named(command, "listener").accept()
        except machnet.MachnetError:
            raise
        except TimeoutError:
            return {"none": True}
        return self._flow(command, flow)

    def _flow(self, command: Command, flow: machnet.aio.Flow) -> Answer:
        self._handles[command["as"]] = flow
        return {"local": address(flow.local), "peer": address(flow.peer), "max_message": flow.max_message}

    async def do_close(self, command: Command, _done: Answer) -> Answer:
        handle = self._named(command, "handle")
        if "wait_ms" in command:
            return {"unsupported": "machnet.aio.Flow.close does not wait"}
        if isinstance(handle, machnet.aio.Channel):
            await handle.close()
        else:
            handle.close()
        return {}

    async def do_reset(self, command: Command, _done: Answer) -> Answer:
        self._named(command, "handle").reset()
        return {}

    async def do_stats(self, command: Command, _done: Answer) -> Answer:
        return stats(await self._named(command, "handle").stats())

    # ---- messages

    async def do_send(self, command: Command, _done: Answer) -> Answer:
        flow, message = self._named(command, "flow"), content(command["seed"], command["length"])
        async with asyncio.timeout(seconds(command)):
            if command.get("how", "copy") == "copy":
                await flow.send(message)
                return {}
            loan = await flow.lend(len(message))
        with memoryview(loan) as room:
            room[:] = message
        loan.send() if command["how"] == "loan" else loan.close()
        return {}

    async def do_try_send(self, command: Command, _done: Answer) -> Answer:
        sent = self._named(command, "flow").try_send(content(command["seed"], command["length"]))
        return {} if sent else {"none": True}

    async def do_recv(self, command: Command, _done: Answer) -> Answer:
        async with asyncio.timeout(seconds(command)):
            message = await self._named(command, "flow").recv()
        if "as" in command:
            self._handles[command["as"]] = message
        return received(command, bytes(message))

    async def do_try_recv(self, command: Command, _done: Answer) -> Answer:
        message = self._named(command, "flow").try_recv()
        return {"none": True} if message is None else received(command, bytes(message))

    async def do_release(self, command: Command, _done: Answer) -> Answer:
        return received(command, bytes(self._handles.pop(command["message"])))

    async def do_send_series(self, command: Command, done: Answer) -> Answer:
        flow, series = self._named(command, "flow"), Series(command)
        done["sent"] = 0
        for number in numbers(command):
            async with asyncio.timeout(seconds(command)):
                match command.get("how", "copy"):
                    case "copy":
                        await flow.send(series.message(number))
                    case "loan":
                        with await flow.lend(series.length(number)) as loan:
                            memoryview(loan)[:] = series.message(number)
                            loan.send()
                    case "try":
                        if not flow.try_send(series.message(number)):
                            break
            done["sent"] += 1
        return done

    async def do_recv_series(self, command: Command, done: Answer) -> Answer:
        flow, how = self._named(command, "flow"), command.get("how", "copy")
        expected = Expected(Series(command), numbers(command))
        goes_on = expected.left > 0
        while goes_on:
            done["received"] = expected.received
            async with asyncio.timeout(seconds(command)):
                match how:
                    case "copy" | "loan":
                        goes_on = expected.take(bytes(await flow.recv()))
                    case "batch":
                        batch = await flow.recv_many(min(BATCH, expected.left))
                        for message in batch:
                            goes_on = expected.take(bytes(message))
                            if not expected.is_right:
                                break
                    case "iterator":
                        async for message in flow:
                            goes_on = expected.take(bytes(message))
                            if not goes_on:
                                break
        return expected.answer()

    async def do_drain(self, command: Command, done: Answer) -> Answer:
        flow, series, sums = self._named(command, "flow"), Series(command), Sums()
        while True:
            done["count"] = sums.answer["count"]
            try:
                async with asyncio.timeout(seconds(command)):
                    message = await flow.recv()
            except Closed:
                return sums.answer
            sums.add(series.number_of(bytes(message)))

    async def do_ping(self, command: Command, done: Answer) -> Answer:
        flow = self._named(command, "flow")
        expected = Expected(Series(command), numbers(command))
        for number in numbers(command):
            done["received"] = expected.received
            async with asyncio.timeout(seconds(command)):
                await flow.send(expected.series.message(number))
                expected.take(bytes(await flow.recv()))
            if not expected.is_right:
                break
        return expected.answer()

    async def do_echo(self, command: Command, done: Answer) -> Answer:
        flow = self._named(command, "flow")
        done.update(messages=0, bytes=0)
        while True:
            try:
                async with asyncio.timeout(seconds(command)):
                    message = await flow.recv()
                    await flow.send(message)
            except Closed:
                return done
            done["messages"] += 1
            done["bytes"] += len(message)

    async def do_supply(self, command: Command, done: Answer) -> Answer:
        flow, series = self._named(command, "flow"), Series(command)
        done["sent"] = 0
        for number in numbers(command):
            async with asyncio.timeout(seconds(command)):
                await flow.recv()
                await flow.send(series.message(number))
            done["sent"] += 1
        return done

    async def do_cancel_storm(self, command: Command, done: Answer) -> Answer:
        flow, expected, demand = self._named(command, "flow"), Expected(Series(command), numbers(command)), content(0, 1)

        async def recv_cancelled() -> machnet.Message | None:
            receiving: Coroutine[Any, Any, machnet.Message] = flow.recv()
            task = asyncio.create_task(receiving)
            await asyncio.sleep(0)
            task.cancel()
            try:
                return await task
            except asyncio.CancelledError:
                done["cancelled"] += 1
                return None

        done.update(received=0, cancelled=0, won=0, ok=True)
        for _ in numbers(command):
            if await recv_cancelled() is not None:
                return {**done, "ok": False}
            await flow.send(demand)
            message = await recv_cancelled()
            if message is None:
                async with asyncio.timeout(seconds(command)):
                    message = await flow.recv()
            else:
                done["won"] += 1
            expected.take(bytes(message))
            if not expected.is_right:
                return {**done, "ok": False}
            done["received"] += 1
        return done

    # ---- streams

    async def do_stream(self, command: Command, _done: Answer) -> Answer:
        self._handles[command["as"]] = ByteStream(self._handles.pop(command["flow"]))
        # The transport begins in the loop's next turn.
        await asyncio.sleep(0)
        return {}

    async def do_write(self, command: Command, done: Answer) -> Answer:
        stream, data = self._named(command, "stream"), content(command["seed"], command["length"])
        chunk = command.get("chunk", max(len(data), 1))
        done["written"] = 0
        for at in range(0, len(data), chunk):
            async with asyncio.timeout(seconds(command)):
                stream.writer.write(data[at : at + chunk])
                await stream.writer.drain()
            done["written"] = min(at + chunk, len(data))
        return done

    async def do_read(self, command: Command, done: Answer) -> Answer:
        stream, whole, is_end = self._named(command, "stream"), bytearray(), False
        done["length"] = 0
        while len(whole) < command["length"] and not is_end:
            async with asyncio.timeout(seconds(command)):
                data = await stream.reader.read(command["length"] - len(whole))
            whole += data
            done["length"] = len(whole)
            is_end = not data
        wanted = content(command["seed"], len(whole), command.get("offset", 0))
        return {**done, "ok": whole == wanted, "end": is_end}

    async def do_end(self, command: Command, _done: Answer) -> Answer:
        self._named(command, "stream").writer.write_eof()
        return {}

    async def do_stream_echo(self, command: Command, done: Answer) -> Answer:
        stream = self._named(command, "stream")
        done["bytes"] = 0
        while True:
            async with asyncio.timeout(seconds(command)):
                data = await stream.reader.read(PIECE)
                if not data:
                    break
                stream.writer.write(data)
                await stream.writer.drain()
            done["bytes"] += len(data)
        stream.writer.write_eof()
        return done


async def main() -> None:
    agent = Agent()
    reader = asyncio.StreamReader(MOST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            command = parse(line.decode())
        except (ValueError, TypeError) as error:
            print(json.dumps({"fault": str(error)}), flush=True)
            continue
        answer = {} if command.get("op") == "exit" else await agent.run(command)
        print(json.dumps(answer), flush=True)
        if command.get("op") == "exit":
            break


if __name__ == "__main__":
    asyncio.run(main())

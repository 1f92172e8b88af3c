"""The asyncio half."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

import machnet.aio
from machnet import errors

from conftest import LONG, STORM, Sidecar


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 3 * LONG))


async def echo(listener: machnet.aio.Listener) -> None:
    async def serve(flow: machnet.aio.Flow) -> None:
        async with flow:
            async for message in flow:
                await flow.send(message)

    async with asyncio.TaskGroup() as tasks:
        async for flow in listener:
            tasks.create_task(serve(flow))


def test_many_flows_at_once(sidecar: Sidecar, other_sidecar: Sidecar) -> None:
    async def ask(channel: machnet.aio.Channel, address: tuple[str, int], client: int) -> None:
        async with await channel.connect(address) as flow:
            for number in range(50):
                message = b"%d %d " % (client, number) * (1 + 300 * (number % 7))
                await flow.send(message)
                assert await flow.recv() == message

    async def test() -> None:
        async with await machnet.aio.attach(other_sidecar.socket) as server:
            async with await server.listen(other_sidecar.address()) as listener:
                serving = asyncio.create_task(echo(listener))
                async with await machnet.aio.attach(sidecar.socket) as channel:
                    await asyncio.gather(*(ask(channel, listener.address, client) for client in range(50)))
            await serving

    run(test())


async def local_pair(channel: machnet.aio.Channel) -> tuple[machnet.aio.Flow, machnet.aio.Flow]:
    async with await channel.listen("0.0.0.0:0") as listener:
        ours = await channel.connect(listener.address)
        return ours, await listener.accept()


def test_a_storm_of_cancelled_receives_loses_nothing(sidecar: Sidecar) -> None:
    async def test() -> None:
        channel = await machnet.aio.attach(sidecar.socket)
        ours, theirs = await local_pair(channel)
        seed = random.randrange(2**32)
        dice = random.Random(seed)
        count, cancelled = STORM, 0
        received: list[int] = []
        turns = asyncio.Semaphore(1)

        async def send() -> None:
            for number in range(count):
                await turns.acquire()
                await ours.send(b"%d" % number)

        sending = asyncio.create_task(send())
        # Each receive that was cancelled lets one more message go, so that both are mixed from the first to the last.
        while len(received) < count or cancelled < count:
            tasks = [asyncio.create_task(theirs.recv()) for _ in range(dice.randrange(1, 4))]
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, asyncio.CancelledError):
                    cancelled += 1
                    turns.release()
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    received.append(int(bytes(outcome)))
        await sending
        assert received == list(range(count)), f"seed {seed}"
        assert cancelled > 0 and theirs.try_recv() is None
        await channel.close()

    run(test())


def test_timeouts_are_asyncios(sidecar: Sidecar) -> None:
    async def test() -> None:
        async with await machnet.aio.attach(sidecar.socket) as channel:
            ours, theirs = await local_pair(channel)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await theirs.recv()
            await ours.send(b"kept")
            assert await theirs.recv() == b"kept"
            with pytest.raises(errors.Refused):
                await channel.connect(sidecar.address(9))

    run(test())


def test_senders_wait_for_room_in_their_order(sidecar: Sidecar) -> None:
    async def test() -> None:
        async with await machnet.aio.attach(sidecar.socket) as channel:
            ours, theirs = await local_pair(channel)
            sent = 0
            # The sidecar moves what it has room for; full is what stays full.
            with pytest.raises(TimeoutError):
                while True:
                    async with asyncio.timeout(0.2):
                        await ours.send(bytes(100_000))
                    sent += 1
            senders = [asyncio.create_task(ours.send(bytes([n]) * 100_000)) for n in range(5)]
            await asyncio.sleep(0)
            given_up = senders.pop()
            given_up.cancel()
            for _ in range(sent):
                assert (await theirs.recv())[0] == 0
            assert [(await theirs.recv())[0] for _ in senders] == [0, 1, 2, 3]
            await asyncio.gather(*senders)
            loan = await ours.lend(4)
            with memoryview(loan) as view:
                view[:] = b"last"
            loan.send()
            assert await theirs.recv_many() == [b"last"]
            assert (await theirs.stats()).messages_received == sent + 5

    run(test())


def test_several_receivers_of_one_flow_are_served_in_their_order(sidecar: Sidecar) -> None:
    async def test() -> None:
        async with await machnet.aio.attach(sidecar.socket) as channel:
            ours, theirs = await local_pair(channel)
            receivers = [asyncio.create_task(theirs.recv()) for _ in range(20)]
            await asyncio.sleep(0)
            for number in range(20):
                await ours.send(b"%d" % number)
            assert [int(bytes(m)) for m in await asyncio.gather(*receivers)] == list(range(20))

    run(test())


def test_closing_ends_waits(sidecar: Sidecar) -> None:
    async def test() -> None:
        channel = await machnet.aio.attach(sidecar.socket)
        ours, theirs = await local_pair(channel)
        listener = await channel.listen("0.0.0.0:0")
        accepting = asyncio.create_task(listener.accept())
        waiting = asyncio.create_task(ours.recv())
        await asyncio.sleep(0)
        listener.close()
        with pytest.raises(errors.Closed):
            await accepting
        ours.close()
        with pytest.raises(errors.Closed):
            await waiting
        assert [message async for message in theirs] == []
        await channel.close()

    run(test())


def test_a_killed_sidecar_ends_waits(mortal_sidecar: Sidecar) -> None:
    async def test() -> None:
        channel = await machnet.aio.attach(mortal_sidecar.socket)
        ours, theirs = await local_pair(channel)
        waiting = [asyncio.create_task(flow.recv()) for flow in (ours, theirs)]
        await asyncio.sleep(0)
        mortal_sidecar.process.kill()
        for task in waiting:
            with pytest.raises(errors.EngineLost):
                await task
        with pytest.raises(errors.EngineLost):
            await channel.close()

    run(test())


def test_an_idle_loop_is_not_woken(sidecar: Sidecar) -> None:
    async def test() -> None:
        async with await machnet.aio.attach(sidecar.socket) as channel:
            ours, theirs = await local_pair(channel)
            rings = 0
            ring = channel._bell._ring

            def counted() -> None:
                nonlocal rings
                rings += 1
                ring()

            channel._bell._ring = counted  # type: ignore[method-assign]
            for _ in range(100):
                waiting = asyncio.create_task(theirs.recv())
                await asyncio.sleep(0)
                await ours.send(b"x")
                await waiting
            # Each message rings once, perhaps with an acknowledgement; nothing keeps on ringing.
            assert rings < 1000

    run(test())


def test_streams_are_asyncios_own(sidecar: Sidecar, other_sidecar: Sidecar) -> None:
    data = bytes(range(256)) * 8000

    async def serve(flow: machnet.aio.Flow) -> None:
        reader, writer = flow.open_streams()
        while chunk := await reader.read(10_000):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()

    async def test() -> None:
        async with await machnet.aio.attach(other_sidecar.socket) as server:
            async with await server.listen(other_sidecar.address()) as listener:
                async with await machnet.aio.attach(sidecar.socket) as channel:
                    reader, writer = (await channel.connect(listener.address)).open_streams()
                    serving = asyncio.create_task(serve(await listener.accept()))
                    assert writer.get_extra_info("peername") == listener.address

                    async def write() -> None:
                        writer.write(data)
                        await writer.drain()
                        writer.write_eof()

                    writing = asyncio.create_task(write())
                    assert await reader.read() == data
                    await writing
                    await serving
                    await writer.wait_closed()

    run(test())


def test_a_stream_whose_peer_resets_is_an_error(sidecar: Sidecar) -> None:
    async def test() -> None:
        async with await machnet.aio.attach(sidecar.socket) as channel:
            ours, theirs = await local_pair(channel)
            reader, writer = ours.open_streams()
            theirs.reset()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            with pytest.raises(ConnectionResetError):
                await writer.wait_closed()

    run(test())


def test_a_ring_costs_looks_of_the_flow_with_news_and_of_no_idle_one(sidecar: Sidecar) -> None:
    async def test() -> None:
        idle, rounds = 500, 200
        async with await machnet.aio.attach(sidecar.socket, max_flows=2048) as channel:
            pairs = [await local_pair(channel) for _ in range(idle)]
            waiting = [asyncio.create_task(theirs.recv()) for _, theirs in pairs]
            ours, theirs = await local_pair(channel)
            await asyncio.sleep(0)
            looks = 0
            take = machnet.aio._Inbox._check

            def counted(inbox: Any) -> bool:
                nonlocal looks
                looks += 1
                return take(inbox)

            machnet.aio._Inbox._check = counted  # type: ignore[method-assign,assignment]
            try:
                for number in range(rounds):
                    receiving = asyncio.create_task(theirs.recv())
                    await asyncio.sleep(0)
                    await ours.send(b"%d" % number)
                    assert await receiving == b"%d" % number
            finally:
                machnet.aio._Inbox._check = take  # type: ignore[method-assign]
            assert looks <= 3 * rounds, f"{looks} looks for {rounds} messages beside {idle} idle flows"
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    run(test())


def test_channel_mode_has_one_queue_and_answers_by_number(sidecar: Sidecar, other_sidecar: Sidecar) -> None:
    async def test() -> None:
        count = 600  # More than the credit of a flow, so that both sides wait for room.
        async with (
            await machnet.aio.attach(other_sidecar.socket) as server,
            await machnet.aio.attach(sidecar.socket) as client,
        ):
            listener = await server.listen_any(other_sidecar.address())
            flows = [(await client.connect(listener.address)).enter_channel_mode() for _ in range(3)]

            async def serve() -> None:
                for _ in range(3 * count):
                    arrival = await server.recv_any()
                    await server.send_to(arrival.flow, arrival.message)

            async def ask(flow: int) -> None:
                for number in range(count):
                    await client.send_to(flow, b"%d" % number)

            serving = [asyncio.create_task(serve()), *(asyncio.create_task(ask(flow)) for flow in flows)]
            answers: dict[int, list[int]] = {flow: [] for flow in flows}
            for _ in range(3 * count):
                arrival = await client.recv_any()
                answers[arrival.flow].append(int(bytes(arrival.message)))
            await asyncio.gather(*serving)
            assert all(found == list(range(count)) for found in answers.values())
            client.close_flow(flows[0])
            with pytest.raises(errors.MachnetError):
                await client.send_to(flows[0], b"x")
            listener.close()

    run(test())

"""Answers every line of a byte stream with itself, over asyncio's own streams: python3 aio_server.py [ADDRESS]."""

import asyncio
import sys

import machnet.aio


async def serve(flow: machnet.aio.Flow) -> None:
    """Echoes one stream until its peer half-closes."""
    reader, writer = flow.open_streams()
    async for line in reader:
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    """Accepts flows until Ctrl-C."""
    address = sys.argv[1] if len(sys.argv) > 1 else "0.0.0.0:889"
    async with await machnet.aio.attach() as channel, await channel.listen(address) as listener:
        print("listening on {}:{}".format(*listener.address), flush=True)
        async with asyncio.TaskGroup() as tasks:
            async for flow in listener:
                tasks.create_task(serve(flow))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass

"""A relay of TCP, as a process: `python relay.py HOST:PORT=HOST:PORT ...`, from where it listens to where it leads.

It says `relaying` once it listens, and uses nothing but Python's own modules, so that it runs in a network namespace.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while block := await reader.read(16 << 10):
            writer.write(block)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()


async def main(pairs: list[str]) -> None:
    serving = []
    for pair in pairs:
        here, _, there = pair.partition("=")
        host, _, port = there.rpartition(":")

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str = host, port: str = port
        ) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection(host, int(port), limit=64 << 10)
                await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
                far_writer.close()
            except OSError:
                pass
            writer.close()

        own_host, _, own_port = here.rpartition(":")
        serving.append(await asyncio.start_server(serve, own_host, int(own_port), limit=64 << 10))
    print("relaying", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in serving))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

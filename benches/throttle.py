"""A registry far away: a relay that answers after 20 ms and sends 50 MB/s, over all connections together.

    python -m benches.throttle HOST:PORT

It prints the address that it listens on, and runs until it is ended. Every byte waits 10 ms on each of both ways, and
the first of a connection 20 ms more, which a handshake would have taken; the bytes of all answers share one rate. A
relay needs no root and no module of the kernel; what it does not have is TCP's slow start.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ROUND_TRIP_SECONDS = 0.020
BYTES_A_SECOND = 50_000_000
PIECE = 64 << 10
QUEUED = 64


class Rate:
    """Bytes that may pass, one after another."""

    def __init__(self, bytes_a_second: float) -> None:
        self.bytes_a_second = bytes_a_second
        self.free_at = 0.0

    async def take(self, size: int) -> None:
        """Waits until so many bytes have had their time."""
        now = asyncio.get_running_loop().time()
        self.free_at = max(self.free_at, now) + size / self.bytes_a_second
        # A sleep is no more exact than some milliseconds: what is owed is slept off when it is worth it.
        if self.free_at - now > 0.005:
            await asyncio.sleep(self.free_at - now)


async def relay(source: asyncio.StreamReader, target: asyncio.StreamWriter, rate: Rate | None, first: float) -> None:
    """Passes bytes on, each after its delay; what waits is bounded."""
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue[tuple[float, bytes]](QUEUED)

    async def read() -> None:
        begun, data = loop.time(), b"-"
        while data:
            data = await source.read(PIECE)
            if rate:
                await rate.take(len(data))
            await queue.put((max(loop.time() + ROUND_TRIP_SECONDS / 2, begun + first), data))

    async def write() -> None:
        while True:
            due, data = await queue.get()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not data:
                target.write_eof()
                return
            target.write(data)
            await target.drain()

    with suppress(ConnectionError, OSError):
        await asyncio.gather(read(), write())


async def serve(host: str, port: int) -> None:
    """Listens on a free port of loopback."""
    rate = Rate(BYTES_A_SECOND)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, OSError):
            there, back = await asyncio.open_connection(host, port)
            try:
                await asyncio.gather(relay(reader, back, None, ROUND_TRIP_SECONDS * 1.5), relay(there, writer, rate, 0))
            finally:
                back.close()
                writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def throttled(host: str) -> Iterator[str]:
    """The address of a relay to a host and port, in a process of its own, until the block ends."""
    words = [sys.executable, "-m", "benches.throttle", host]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


if __name__ == "__main__":
    name, _, number = sys.argv[1].rpartition(":")
    asyncio.run(serve(name, int(number)))

"""Binary streams of the caller's, for writers that need a file descriptor."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from ocifast.errors import UsageError

__all__ = ["binary_stdout", "fd_of"]

_CHUNK = 1 << 20


def binary_stdout() -> BinaryIO:
    """Standard output, for bytes. Raises UsageError when it was replaced by a stream that takes text only."""
    stream: BinaryIO | None = getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise UsageError("standard output was replaced by something that takes text only; name a file")
    return stream


@contextlib.contextmanager
def fd_of(stream: BinaryIO) -> Iterator[int]:
    """A file descriptor whose bytes arrive in the stream, all of them when the block ends without an error.

    A stream that has a file descriptor of its own is flushed, and that one is given. For any other (`io.BytesIO`, a
    compressor, an upload) it is a pipe, and a thread calls `stream.write` with at most 1 MiB at a time. So it is for a
    file descriptor that does not block, as some programs give it to those that they start: the thread waits for room.

    Raises:
        What `stream.write` raises, instead of the broken pipe that the block meets then.
    """
    stop = threading.Event()
    write = partial(_write_all, stream)
    try:
        fd = stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        pass
    else:
        stream.flush()
        if os.get_blocking(fd):
            yield fd
            return
        write = partial(_write_waiting, fd, stop)
    reader, writer = os.pipe()
    failures: list[BaseException] = []

    def forward() -> None:
        try:
            with os.fdopen(reader, "rb", buffering=0) as pipe:
                while chunk := pipe.read(_CHUNK):
                    write(chunk)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=forward, name="ocifast-stream", daemon=True)
    thread.start()
    try:
        yield writer
    except BaseException as error:
        stop.set()
        os.close(writer)
        thread.join()
        if failures and isinstance(error, Exception):
            raise failures[0] from None
        raise
    os.close(writer)
    thread.join()
    if failures:
        raise failures[0]


def _write_waiting(fd: int, stop: threading.Event, chunk: bytes) -> None:
    left = memoryview(chunk)
    room = select.poll()
    room.register(fd, select.POLLOUT)
    while left and not stop.is_set():
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            # Looked at now and then: nobody may ever read, and we may be stopped.
            room.poll(100)


def _write_all(stream: BinaryIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        # A raw stream may take less; one that says nothing has taken all.
        count = stream.write(left)
        left = left[len(left) if count is None else count :]

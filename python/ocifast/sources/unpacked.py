"""From what a user names to a plain tar that can be read at any place.

A tar that stands in a regular file is read there. One that comes through a pipe is copied into a temporary file first,
and one that is compressed is unpacked into one: members are looked up by name, in an order that is not theirs.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

from ocifast import _core
from ocifast.errors import CompressionError, DocumentError, FileError, LimitError, UsageError
from ocifast.sources.stdin import STDIN

__all__ = ["Unpacked"]

_CHUNK = 1 << 20
_RATIO = 2000
_RATIO_FROM = 1 << 30
"""As the core has it for layers: more than this many bytes, of less than their 2,000th part, come from an attacker."""
_MEMORY = 1 << 30
"""Most bytes of memory for xz; its own highest preset takes 65 MiB."""
_CORES = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


class _Codec(Protocol):
    """What `LZMADecompressor` and `BZ2Decompressor` share."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


_OTHERS: tuple[tuple[bytes, str, str, Callable[[Any], _Codec]], ...] = (
    (b"\xfd7zXZ\0", "xz", "lzma", lambda library: library.LZMADecompressor(memlimit=_MEMORY)),
    (b"BZh", "bzip2", "bz2", lambda library: library.BZ2Decompressor()),
)
"""First bytes, tool, Python's module and what makes a decompressor of it."""


class Unpacked:
    """A plain tar in a file.

    Args:
        path: a regular file, a named pipe, or `STDIN`; gzip, zstd, xz and bzip2 are unpacked.
        name: how messages call the image.
        inflate: whether gzip and zstd are unpacked as well; the core reads layers that are compressed so.

    Attributes:
        path: of the tar; valid until `close`.

    Raises:
        UsageError: standard input is a terminal.
        DocumentError: a device, a socket or a folder.
        CompressionError, LimitError: damaged in its compression, or an attack by it.
        FileError: it cannot be read, or there is no room to unpack it.
    """

    def __init__(self, path: Path, *, name: str, inflate: bool = True) -> None:
        self._name = name
        self._inflate = inflate
        self._temporary: list[IO[bytes]] = []
        try:
            self.path = self._plain(self._seekable(path))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Removes the temporary files."""
        while self._temporary:
            self._temporary.pop().close()

    def _seekable(self, path: Path) -> Path:
        """The path itself, or that of a copy of what comes through a pipe."""
        with self._reading(path):
            if path == STDIN:
                if sys.stdin is not None and sys.stdin.isatty():
                    raise UsageError(f"{self._name}: standard input is a terminal; pipe an archive into it")
                fd = os.dup(0)
            else:
                mode = path.stat().st_mode
                if stat.S_ISREG(mode):
                    return path
                if not stat.S_ISFIFO(mode):
                    raise DocumentError(f"{self._name}: {path} is neither a file nor a pipe", reference=self._name)
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as pipe:
            copy = self._new_file()
            total = 0
            while True:
                with self._reading(path):
                    chunk = pipe.read(_CHUNK)
                if not chunk:
                    break
                total += len(chunk)
                self._write(copy, chunk)
        if not total:
            what = "standard input" if path == STDIN else str(path)
            raise DocumentError(
                f"{self._name}: nothing comes through {what}; a pipe can be read once only", reference=self._name
            )
        return self._flushed(copy)

    def _plain(self, path: Path) -> Path:
        """The path itself, or that of the tar in it."""
        with self._reading(path), path.open("rb", buffering=0) as file:
            magic = file.read(6)
            file.seek(0)
            if magic.startswith(_CORES):
                if not self._inflate:
                    return path
                tar = self._new_file()
                try:
                    _core.decompress(file.fileno(), tar.fileno())
                except (CompressionError, LimitError) as error:
                    raise type(error)(f"{self._name}: {error.message}", **error.context) from None
                return self._flushed(tar)
            for known, tool, module, make in _OTHERS:
                if magic.startswith(known):
                    return self._unpacked(file, tool, module, make)
        return path

    def _unpacked(self, file: IO[bytes], tool: str, module: str, make: Callable[[Any], _Codec]) -> Path:
        """What Python's own modules unpack, where Python was built with them."""
        try:
            library = import_module(module)
        except ImportError:
            raise DocumentError(
                f"{self._name}: the archive is compressed with {tool}, and this Python has no {module}; unpack it "
                f"first, with {tool} -d",
                reference=self._name,
            ) from None
        tar = self._new_file()
        try:
            self._unpack(file, tar, lambda: make(library))
        except FileError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise
            # bz2 has no error of its own for damaged data.
            raise CompressionError(f"{self._name}: the {tool} stream is damaged: {error}") from None
        except (getattr(library, "LZMAError", ValueError), ValueError, EOFError) as error:
            raise CompressionError(f"{self._name}: the {tool} stream is damaged: {error}") from None
        return self._flushed(tar)

    def _unpack(self, file: IO[bytes], tar: IO[bytes], make: Callable[[], _Codec]) -> None:
        """Any number of streams, one after the other, at most 1 MiB in memory."""
        taken = written = 0
        codec, waiting = make(), b""
        while True:
            if codec.eof:
                # xz(1) pads its streams with zeros, in fours.
                waiting = codec.unused_data.lstrip(b"\0")
                while not waiting and (more := file.read(_CHUNK)):
                    taken += len(more)
                    waiting = more.lstrip(b"\0")
                if not waiting:
                    return
                codec = make()
            elif not waiting and codec.needs_input:
                waiting = file.read(_CHUNK)
                taken += len(waiting)
                if not waiting:
                    raise EOFError("it ends early")
            data = codec.decompress(waiting, max_length=_CHUNK)
            waiting = b""
            written += len(data)
            if written > _RATIO_FROM and written > _RATIO * taken:
                raise LimitError(
                    f"{self._name}: {taken} bytes decompress to {written}, more than {_RATIO} times as many"
                )
            self._write(tar, data)

    def _new_file(self) -> IO[bytes]:
        with self._writing():
            file = tempfile.NamedTemporaryFile(prefix="ocifast-", suffix=".tar")  # noqa: SIM115
        self._temporary.append(file)
        return file

    def _write(self, file: IO[bytes], data: bytes) -> None:
        with self._writing():
            file.write(data)

    def _flushed(self, file: IO[bytes]) -> Path:
        with self._writing():
            file.flush()
        return Path(file.name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileError(
                f"{self._name}: cannot unpack it in {tempfile.gettempdir()}: {error.strerror or error}; TMPDIR names "
                "another folder",
                errno=error.errno,
            ) from error

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except FileError:
            raise
        except OSError as error:
            what = "standard input" if path == STDIN else str(path)
            raise FileError(
                f"{self._name}: cannot read {what}: {error.strerror or error}", errno=error.errno
            ) from error

"""Digests of bytes that come in pieces (image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import IO

from ocifast import _core

__all__ = ["OpenFile", "digest_and_size", "digest_of"]

_CHUNK = 1 << 20


class OpenFile:
    """The bytes of an open file, from the beginning each time. Its position is left alone.

    Args:
        fd: the file, which is open as long as this is used.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __iter__(self) -> Iterator[bytes]:
        """Raises OSError."""
        at = 0
        while chunk := os.pread(self._fd, _CHUNK, at):
            yield chunk
            at += len(chunk)


def digest_of(pieces: Iterable[bytes], algorithm: str = "sha256") -> str:
    """`algorithm:hex` of bytes."""
    hasher = _core.Hasher(algorithm)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def digest_and_size(file: IO[bytes]) -> tuple[str, int]:
    """Digest and size of all that is left to read. Raises OSError."""
    hasher, size = _core.Hasher(), 0
    while chunk := file.read(_CHUNK):
        hasher.update(chunk)
        size += len(chunk)
    return hasher.digest(), size

"""Verification while bytes pass: size and digest against a descriptor (image-spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ocifast import _core
from ocifast.errors import DigestMismatchError, DocumentError, SizeMismatchError
from ocifast.sources import Blob
from ocifast.spec import Descriptor

__all__ = ["check_bytes", "read_small", "verified"]


def verified(
    descriptor: Descriptor, chunks: Iterable[bytes], *, name: str, hasher: _core.Hasher | None = None, done: int = 0
) -> Iterator[bytes]:
    """Hands the chunks on, and raises at their end unless they were what the descriptor says.

    A chunk that passes the descriptor's size is not handed on, and nothing is read after it.

    Args:
        descriptor: of the blob.
        chunks: its bytes, in order.
        name: how messages call the image.
        hasher: holds the first `done` bytes already, when the chunks begin there.
        done: bytes before the first chunk.

    Raises:
        SizeMismatchError, DigestMismatchError: at the end, after all chunks that are in bounds.
    """
    running = hasher if hasher is not None else _core.Hasher(descriptor.digest.partition(":")[0])
    seen = done
    for chunk in chunks:
        seen += len(chunk)
        if seen > descriptor.size:
            raise _wrong_size(descriptor, f"more than {descriptor.size}", name)
        running.update(chunk)
        yield chunk
    if seen != descriptor.size:
        raise _wrong_size(descriptor, str(seen), name)
    _compare(descriptor, running.digest(), name)


def check_bytes(descriptor: Descriptor, data: bytes, *, name: str) -> None:
    """Compares bytes with their descriptor. Raises SizeMismatchError or DigestMismatchError."""
    for _ in verified(descriptor, [data] if data else [], name=name):
        pass


def read_small(blob: Blob, descriptor: Descriptor, limit: int, *, name: str) -> bytes:
    """Reads a config or manifest into memory, verified, and closes the blob.

    Raises:
        DocumentError: the descriptor states more than `limit` bytes; nothing is read then.
        SizeMismatchError, DigestMismatchError: not the bytes that the descriptor means.
    """
    with blob:
        if descriptor.size > limit:
            raise DocumentError(
                f"{name}: {descriptor.digest} is {descriptor.size} bytes long; at most {limit >> 20} MiB are taken",
                reference=name,
            )
        return b"".join(verified(descriptor, blob, name=name))


def _wrong_size(descriptor: Descriptor, seen: str, name: str) -> SizeMismatchError:
    return SizeMismatchError(
        f"{name}: blob {descriptor.digest} should be {descriptor.size} bytes long, but is {seen}",
        reference=name,
        layer=descriptor.digest,
        expected=descriptor.size,
        seen=seen,
    )


def _compare(descriptor: Descriptor, seen: str, name: str) -> None:
    if seen != descriptor.digest:
        raise DigestMismatchError(
            f"{name}: a blob's digest should be {descriptor.digest}, but is {seen}",
            reference=name,
            layer=descriptor.digest,
            expected=descriptor.digest,
            seen=seen,
        )

"""Downloads of blobs: one request where all goes well, as many as it takes where connections break.

A broken download goes on from the byte where it broke (RFC 9110, section 14); a server that ignores Range sends the
beginning again, which is read and dropped. Nothing is verified here but lengths: the reader hashes what it gets.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from types import TracebackType

import httpx

from ocifast.errors import BlobNotFoundError, OcifastError, RegistryError, SizeMismatchError
from ocifast.sources import FileSlice
from ocifast.sources.registry.client import Client
from ocifast.sources.registry.failures import is_final, network_failure
from ocifast.sources.registry.limiter import Slot
from ocifast.spec import Descriptor

__all__ = ["Origin", "RegistryBlob", "open_range"]

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_PROGRESS = 64 << 10
"""Bytes that must come before a break does not count as a failed attempt."""


class Origin:
    """Where a blob is asked for: a client and a repository there."""

    def __init__(self, client: Client, repository: str, name: str) -> None:
        """Args: `name` is the image, for messages."""
        self.client = client
        self.repository = repository
        self.name = name

    @property
    def scopes(self) -> tuple[str, ...]:
        """What a token for pulling must allow."""
        return (f"repository:{self.repository}:pull",)


class RegistryBlob:
    """A blob of a registry; see `ocifast.sources.Blob`. Iterating takes a slot of the host's limiter."""

    local: FileSlice | None = None

    def __init__(self, origin: Origin, descriptor: Descriptor, *, offset: int = 0) -> None:
        """Args: `offset` is the first byte that is wanted, from 0 to the descriptor's size."""
        self._origin = origin
        self._descriptor = descriptor
        self._offset = offset
        self._running: Generator[bytes, None, None] | None = None

    def __iter__(self) -> Iterator[bytes]:
        self._running = _download(self._origin, self._descriptor, self._offset)
        return self._running

    def __enter__(self) -> RegistryBlob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._running is not None:
            self._running.close()


def _download(origin: Origin, descriptor: Descriptor, offset: int) -> Generator[bytes, None, None]:
    if offset >= descriptor.size:
        return
    with origin.client.limiter.slot() as slot:
        yield from stream_blob(origin, descriptor, offset, slot)


def stream_blob(origin: Origin, descriptor: Descriptor, offset: int, slot: Slot) -> Generator[bytes, None, None]:
    """The bytes from `offset` on, in one request at a time; at most one byte past the descriptor's size.

    Raises:
        BlobNotFoundError, SizeMismatchError, NetworkError, RegistryError, AuthenticationError.
    """
    position = offset
    failures = 0
    while True:
        before = position
        broken: Exception | None = None
        response, skip = open_range(origin, descriptor, position, None)
        try:
            with closing(response):
                for chunk in response.iter_raw():
                    if skip:
                        chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                        if not chunk:
                            continue
                    room = descriptor.size + 1 - position
                    if len(chunk) > room:
                        chunk = chunk[:room]
                    position += len(chunk)
                    slot.hand_over()
                    yield chunk
                    slot.take_back()
                    if position > descriptor.size:
                        return
        except httpx.TransportError as error:
            broken = error
        if position >= descriptor.size:
            return
        failures = 0 if position - before >= _PROGRESS else failures + 1
        if failures > origin.client.options.retries or (broken is not None and is_final(broken)):
            raise _gave_up(origin, descriptor, position, broken)
        origin.client.pause(failures)


def open_range(origin: Origin, descriptor: Descriptor, start: int, end: int | None) -> tuple[httpx.Response, int]:
    """Asks for the bytes from `start` up to `end` (exclusive; None is the end of the blob).

    Returns:
        The answer, whose body is not read yet, and how many bytes of it stand before `start`: more than 0 only when
        the server sends the whole blob although it was asked for a part.

    Raises:
        BlobNotFoundError: the registry does not have the blob.
        SizeMismatchError: the registry's blob is longer or shorter than the descriptor says.
    """
    headers = {}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    response = origin.client.send(
        "GET",
        f"/v2/{origin.repository}/blobs/{descriptor.digest}",
        name=origin.name,
        what=f"read the blob {descriptor.digest}",
        scopes=origin.scopes,
        headers=headers,
        expected=(200, 206, 404, 416),
    )
    try:
        return response, _check_answer(origin, descriptor, response, start)
    except OcifastError:
        response.close()
        raise


def _check_answer(origin: Origin, descriptor: Descriptor, response: httpx.Response, start: int) -> int:
    if response.status_code == 404:
        raise BlobNotFoundError(
            f"{origin.name}: the registry does not have the blob {descriptor.digest} that its manifest names",
            reference=origin.name,
            layer=descriptor.digest,
        )
    if response.status_code == 416:
        raise wrong_size(origin, descriptor, f"at most {start}")
    if response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise RegistryError(
                f"{origin.name}: the registry sends another part of {descriptor.digest} than it was asked for",
                reference=origin.name,
                layer=descriptor.digest,
            )
        if found[3] != "*" and int(found[3]) != descriptor.size:
            raise wrong_size(origin, descriptor, found[3])
        return 0
    length = response.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) != descriptor.size:
        raise wrong_size(origin, descriptor, length[:20])
    return start


def wrong_size(origin: Origin, descriptor: Descriptor, seen: str) -> SizeMismatchError:
    """The error for a blob that has not the descriptor's size."""
    return SizeMismatchError(
        f"{origin.name}: blob {descriptor.digest} should be {descriptor.size} bytes long, but is {seen}",
        reference=origin.name,
        layer=descriptor.digest,
        expected=descriptor.size,
        seen=seen,
    )


def _gave_up(origin: Origin, descriptor: Descriptor, position: int, broken: Exception | None) -> OcifastError:
    if broken is None:
        return wrong_size(origin, descriptor, str(position))
    failure = network_failure(origin.name, origin.client.origin.netloc.decode("ascii"), broken)
    return type(failure)(
        f"{failure.message}, again and again, {position} of {descriptor.size} bytes into {descriptor.digest}",
        **{**failure.context, "layer": descriptor.digest, "offset": position},
    )

"""Downloads of blobs: one request where all goes well, as many as it takes where connections break.

A broken download goes on from the byte where it broke (RFC 9110, section 14); a server that ignores Range sends the
beginning again, which is read and dropped. Nothing is verified here but lengths: the reader hashes what it gets.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import closing

import httpx

from ocifast.errors import BlobNotFoundError, OcifastError, RegistryError, SizeMismatchError
from ocifast.patterns import pattern
from ocifast.records import dataclass
from ocifast.sources.registry.client import Client
from ocifast.sources.registry.failures import is_final, network_failure
from ocifast.sources.registry.limiter import Slot
from ocifast.spec import Descriptor

__all__ = ["Opened", "Origin", "open_range", "stream"]

_CONTENT_RANGE = pattern(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
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


@dataclass(frozen=True)
class Opened:
    """An answer whose body is not read yet.

    Attributes:
        response: the answer; whoever has it closes it.
        skip: bytes of its body that stand before what was asked for; more than 0 only when the server sends the whole
            blob although it was asked for a part.
        partial: whether the server sends the part that it was asked for.
    """

    response: httpx.Response
    skip: int
    partial: bool
    anew: bool = False
    """Whether it is the whole because the part was refused: where it ends, the blob ends."""


def stream(
    origin: Origin, descriptor: Descriptor, start: int, end: int, slot: Slot, opened: Opened | None = None
) -> Generator[bytes, None, None]:
    """The bytes from `start` up to `end`, in order, in one request at a time.

    Args:
        origin: where the blob is.
        descriptor: of the blob.
        start: first byte.
        end: the byte after the last one. When it is the descriptor's size, one byte more is handed on if there is one.
        slot: of the host's limiter.
        opened: the answer to the first request, when it was sent already.

    Raises:
        BlobNotFoundError, SizeMismatchError, NetworkError, RegistryError, AuthenticationError.
    """
    whole = end == descriptor.size
    position = start
    failures = 0
    while True:
        before = position
        broken: Exception | None = None
        current = opened or open_range(origin, descriptor, position, None if whole else end)
        opened = None
        skip = current.skip
        try:
            with closing(current.response):
                for chunk in current.response.iter_raw():
                    if skip:
                        chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                        if not chunk:
                            continue
                    room = end - position + whole
                    if len(chunk) > room:
                        chunk = chunk[:room]
                    position += len(chunk)
                    slot.hand_over()
                    yield chunk
                    slot.take_back()
                    if position >= end + whole:
                        return
        except httpx.TransportError as error:
            origin.client.raise_if_closed(origin.name)
            broken = error
        if position >= end:
            return
        if current.anew and broken is None:
            raise _gave_up(origin, descriptor, position, broken)
        failures = 0 if position - before >= _PROGRESS else failures + 1
        if failures > origin.client.options.retries or (broken is not None and is_final(broken)):
            raise _gave_up(origin, descriptor, position, broken)
        what = (
            f"{origin.name}: the download of {descriptor.digest} broke off after {position} of {descriptor.size} bytes"
        )
        origin.client.pause(failures, what)


def open_range(origin: Origin, descriptor: Descriptor, start: int, end: int | None) -> Opened:
    """Asks for the bytes from `start` up to `end` (exclusive; None is the end of the blob).

    Raises:
        BlobNotFoundError: the registry does not have the blob.
        SizeMismatchError: the registry's blob is longer or shorter than the descriptor says.
    """
    headers = {}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    response = _ask(origin, descriptor, headers)
    anew = response.status_code == 416 and bool(headers)
    if anew:
        # Some servers refuse ranges that they could give; the whole shows whether it is as long as it should be.
        response.close()
        response = _ask(origin, descriptor, {})
    try:
        _check_answer(origin, descriptor, response, start)
    except OcifastError:
        response.close()
        raise
    partial = response.status_code == 206
    return Opened(response, 0 if partial else start, partial, anew)


def _ask(origin: Origin, descriptor: Descriptor, headers: dict[str, str]) -> httpx.Response:
    return origin.client.send(
        "GET",
        f"/v2/{origin.repository}/blobs/{descriptor.digest}",
        name=origin.name,
        what=f"read the blob {descriptor.digest}",
        scopes=origin.scopes,
        headers=headers,
        expected=(200, 206, 404, 416),
    )


def _check_answer(origin: Origin, descriptor: Descriptor, response: httpx.Response, start: int) -> None:
    if response.status_code == 404:
        raise BlobNotFoundError(
            f"{origin.name}: the registry does not have the blob {descriptor.digest} that its manifest names",
            reference=origin.name,
            layer=descriptor.digest,
        )
    if response.status_code == 416:
        raise RegistryError(
            f"{origin.name}: the registry gives no part of {descriptor.digest}, and not the whole (status 416)",
            reference=origin.name,
            layer=descriptor.digest,
        )
    if response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise RegistryError(
                f"{origin.name}: the registry sends another part of {descriptor.digest} than it was asked for",
                reference=origin.name,
                layer=descriptor.digest,
            )
        if found[3] != "*" and int(found[3]) != descriptor.size:
            raise _wrong_size(origin, descriptor, found[3])
        return
    length = response.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) != descriptor.size:
        raise _wrong_size(origin, descriptor, length[:20])


def _wrong_size(origin: Origin, descriptor: Descriptor, seen: str) -> SizeMismatchError:
    return SizeMismatchError(
        f"{origin.name}: blob {descriptor.digest} should be {descriptor.size} bytes long, but is {seen}",
        reference=origin.name,
        layer=descriptor.digest,
        expected=descriptor.size,
        seen=seen,
    )


def _gave_up(origin: Origin, descriptor: Descriptor, position: int, broken: Exception | None) -> OcifastError:
    if broken is None:
        return _wrong_size(origin, descriptor, str(position))
    failure = network_failure(origin.name, origin.client.origin.netloc.decode("ascii"), broken)
    return type(failure)(
        f"{failure.message}, again and again, {position} of {descriptor.size} bytes into {descriptor.digest}",
        **{**failure.context, "layer": descriptor.digest, "offset": position},
    )

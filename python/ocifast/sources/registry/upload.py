"""Uploads of blobs (OCI distribution-spec, "Push", "Pushing blobs").

One request after the one that opens the session, where all goes well. After a break the registry is asked how much it
has, and gets the rest; in chunks of at least the size that it asks for with `OCI-Chunk-Min-Length`. The last bytes are
sent only when all before them had the right digest, so that a registry never completes a blob that is wrong.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import httpx

from ocifast.errors import NetworkError, OcifastError, RegistryError
from ocifast.patterns import pattern
from ocifast.records import dataclass
from ocifast.sources.registry.client import Client
from ocifast.sources.registry.hops import check_hop
from ocifast.sources.registry.retries import RETRIED
from ocifast.sources.verify import verified
from ocifast.spec import Descriptor

__all__ = ["Session", "Uploader"]

CHUNK = 64 << 20
"""Bytes of a chunk, when the registry wants chunks and no larger ones."""
CHUNK_LEAST = 1 << 20
"""Bytes of the smallest chunk that is tried where a registry, or a proxy before it, refuses larger bodies."""
_RANGE = pattern(r"(?:bytes=)?0-(\d{1,19})", re.ASCII)
_OCTETS = {"Content-Type": "application/octet-stream"}


@dataclass
class Session:
    """An upload session.

    Attributes:
        location: where the next request goes; changes with every answer, and an older one may be refused.
        offset: bytes that the registry has.
        chunk_minimum: least bytes of a chunk when the registry wants chunks; None when it takes a blob whole.
        chunk_limit: most bytes of a body, when larger ones were refused.
        resumed: whether a request of this session was broken.
    """

    location: httpx.URL
    offset: int = 0
    chunk_minimum: int | None = None
    chunk_limit: int | None = None
    resumed: bool = False


class _BrokenError(Exception):
    """A request of a session failed in a way that the session may survive."""

    def __init__(self, failure: OcifastError) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Uploader:
    """Sends blobs to one repository. Safe to use from several threads."""

    def __init__(self, client: Client, repository: str, name: str) -> None:
        """Args: `name` is the image, for messages."""
        self.client = client
        self.repository = repository
        self.name = name
        self.scopes = (f"repository:{repository}:pull,push",)

    def start(self, *, mount: str | None = None, source: str | None = None) -> Session | None:
        """Opens a session; or mounts the blob `mount` of the repository `source`, and then there is none.

        Raises:
            RegistryError and its kinds.
        """
        query = ""
        scopes: Sequence[str] = self.scopes
        if mount is not None:
            query = f"?mount={mount}&from={source}"
            scopes = (*scopes, f"repository:{source}:pull")
        response = self.client.send(
            "POST",
            f"/v2/{self.repository}/blobs/uploads/{query}",
            name=self.name,
            what="mount a blob" if mount else "start an upload",
            scopes=scopes,
            headers={"Content-Length": "0"},
            expected=(201, 202),
        )
        response.close()
        if response.status_code == 201:
            return None
        minimum = response.headers.get("OCI-Chunk-Min-Length", "")
        wants_chunks = minimum.isascii() and minimum.isdigit()
        return Session(self._location(response, None), chunk_minimum=int(minimum[:18]) if wants_chunks else None)

    def put(self, session: Session, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Sends a blob and completes it; cancels the session when that fails.

        Args:
            session: a new one.
            descriptor: of the blob; compared with the bytes before the last of them are sent.
            chunks: the bytes. Unless it is an iterator it is iterated again after a break.

        Raises:
            SizeMismatchError, DigestMismatchError, RegistryError and its kinds, whatever `chunks` raises.
        """
        attempts = 0
        replayable = iter(chunks) is not chunks
        try:
            while True:
                before = session.offset
                try:
                    self._send(session, descriptor, chunks)
                except _BrokenError as broken:
                    if not replayable:
                        raise broken.failure from broken
                    refused = session.chunk_limit
                    session = self._recover(session, descriptor, broken)
                    if session.chunk_limit != refused:
                        continue
                    attempts = 0 if session.offset > before else attempts + 1
                    if attempts > self.client.options.retries:
                        raise broken.failure from broken
                    self.client.pause(attempts, broken.failure.message)
                else:
                    return
        except BaseException:
            self.cancel(session)
            raise

    def cancel(self, session: Session) -> None:
        """Tells the registry to forget a session; a registry that cannot is left to forget it by itself."""
        with contextlib.suppress(OcifastError, _BrokenError):
            self._request("DELETE", session.location, {"Content-Length": "0"}, None, "cancel an upload").close()

    def _send(self, session: Session, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        checked = _held_back(verified(descriptor, chunks, name=self.name))
        if session.chunk_minimum is None and session.chunk_limit is None and not session.resumed:
            self._complete(session.location, descriptor, checked)
            return
        rest = _Rest(checked)
        rest.skip(session.offset)
        least = CHUNK if session.chunk_minimum is None else max(session.chunk_minimum, CHUNK)
        # After a break the rest goes in one piece, unless the registry wants chunks.
        longest = session.chunk_limit or (descriptor.size if session.chunk_minimum is None else least)
        offset = session.offset
        while offset < descriptor.size:
            length = min(longest, descriptor.size - offset)
            headers = {
                **_OCTETS,
                "Content-Length": str(length),
                "Content-Range": f"{offset}-{offset + length - 1}",
            }
            response = self._request("PATCH", session.location, headers, rest.take(length), "upload a chunk")
            self._check(response, (202,), "upload a chunk")
            offset += length
            # In place: whoever recovers or cancels the session after a failure needs the newest location.
            session.location, session.offset = self._location(response, session.location), offset
        rest.finish()
        self._complete(session.location, descriptor, None)

    def _complete(self, location: httpx.URL, descriptor: Descriptor, body: Iterator[bytes] | None) -> None:
        query = location.query + (b"&" if location.query else b"") + f"digest={descriptor.digest}".encode("ascii")
        length = 0 if body is None else descriptor.size
        headers = {**_OCTETS, "Content-Length": str(length)}
        response = self._request("PUT", location.copy_with(query=query), headers, body, "complete an upload")
        self._check(response, (201, 204), "complete an upload")

    def _request(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], body: Iterator[bytes] | None, what: str
    ) -> httpx.Response:
        once = None if body is None else _Once(body)
        try:
            return self.client.send(
                method,
                url,
                name=self.name,
                what=what,
                scopes=self.scopes,
                headers=headers,
                body=once,
                expected=range(200, 600),
                retries=0,
            )
        except NetworkError as error:
            # What the body itself raised is a failure of where it comes from: another upload would not help.
            if (once is None or error is not once.failure) and isinstance(error.__cause__, httpx.TransportError):
                raise _BrokenError(error) from error
            raise

    def _check(self, response: httpx.Response, expected: tuple[int, ...], what: str) -> None:
        if response.status_code in expected:
            response.close()
            return
        if response.status_code in RETRIED:
            self.client.heed(self.name, what, response, 0)
        failure = self.client.failure(self.name, what, response)
        # 404: the session has gone; 405: no chunks are taken here; 413: the body is too large, be it for a proxy;
        # 416: the registry has more or less than we think.
        if response.status_code in RETRIED or response.status_code in (404, 405, 413, 416):
            raise _BrokenError(failure)
        raise failure

    def _recover(self, session: Session, descriptor: Descriptor, broken: _BrokenError) -> Session:
        """Asks the registry how far the session came; opens another one when it has gone or does not match."""
        status = broken.failure.context.get("status")
        if status == 413:
            limit = _smaller(session, descriptor)
            if limit is None:
                raise broken.failure
            self.cancel(session)
            return replace(self._restart(broken), chunk_limit=limit)
        in_chunks = session.resumed or session.chunk_minimum is not None
        if status == 405 and (session.chunk_limit is not None or not in_chunks):
            raise broken.failure
        if status in (405, 416):
            self.cancel(session)
            return self._restart(broken, whole=status == 405)
        response = self.client.send(
            "GET",
            session.location,
            name=self.name,
            what="ask for the state of an upload",
            scopes=self.scopes,
            expected=range(200, 500),
        )
        response.close()
        if response.status_code not in (200, 202, 204):
            return self._restart(broken)
        if status == 404:
            # The session is there, and what was asked of it is not: this registry takes no chunks.
            self.cancel(session)
            return self._restart(broken, whole=True)
        found = _RANGE.fullmatch(response.headers.get("Range", ""))
        session = replace(session, location=self._location(response, session.location), resumed=True)
        if found is None or not int(found[1]):
            # "0-0" means one byte, but is what registries say of an empty session, too.
            self.cancel(session)
            return self._restart(broken)
        return replace(session, offset=int(found[1]) + 1)

    def _restart(self, broken: _BrokenError, *, whole: bool = False) -> Session:
        """Another session; one that takes the blob in one request where chunks are not taken."""
        fresh = self.start()
        if fresh is None:
            raise broken.failure
        return replace(fresh, chunk_minimum=None) if whole else fresh

    def _location(self, response: httpx.Response, known: httpx.URL | None) -> httpx.URL:
        stated = response.headers.get("Location")
        if not stated:
            if known is not None:
                return known
            raise RegistryError(f"{self.name}: the registry does not say where to upload to", reference=self.name)
        try:
            location = response.request.url.join(stated)
        except httpx.InvalidURL:
            raise RegistryError(f"{self.name}: the registry's upload location is no URL", reference=self.name) from None
        check_hop(self.name, response.request.url, location, self.client.options)
        return location


def _smaller(session: Session, descriptor: Descriptor) -> int | None:
    """Most bytes of the next body, where those of the last one were too many; None when there is no use in less."""
    limit = CHUNK if session.chunk_limit is None else session.chunk_limit // 2
    while limit >= descriptor.size and limit > CHUNK_LEAST:
        limit //= 2
    if limit >= descriptor.size or limit < max(CHUNK_LEAST, session.chunk_minimum or 0):
        return None
    return limit


class _Once:
    """A body that can be sent once; a second attempt means another session state, which only `put` can find out."""

    def __init__(self, body: Iterator[bytes]) -> None:
        self._body: Iterator[bytes] | None = body
        self.failure: OcifastError | None = None

    def __call__(self) -> Iterable[bytes]:
        body, self._body = self._body, None
        if body is None:
            raise _BrokenError(RegistryError("the registry wants the upload's bytes again"))
        return self._noting_failures(body)

    def _noting_failures(self, body: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from body
        except OcifastError as error:
            self.failure = error
            raise


def _held_back(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same chunks, each when the next one is there: the last when `chunks` has ended without an error."""
    held = b""
    for chunk in chunks:
        if held:
            yield held
        held = chunk
    if held:
        yield held


class _Rest:
    """What is left of a stream, in pieces of any length."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def skip(self, length: int) -> None:
        for _ in self.take(length):
            pass

    def take(self, length: int) -> Iterator[bytes]:
        while length > 0:
            chunk = self._left or next(self._chunks, b"")
            if not chunk:
                return
            part, self._left = chunk[:length], chunk[length:]
            length -= len(part)
            yield part

    def finish(self) -> None:
        """Lets the checks at the stream's end happen."""
        for _ in self._chunks:
            pass

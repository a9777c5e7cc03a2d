"""Images that are in a registry (OCI distribution-spec, "Pull")."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

import httpx

from ocifast import _core
from ocifast.digests import digest_of
from ocifast.errors import (
    BlobNotFoundError,
    DigestMismatchError,
    DocumentError,
    ImageNotFoundError,
    RegistryError,
    SizeMismatchError,
    SourceError,
    VerificationError,
)
from ocifast.logs import logger
from ocifast.reference import Reference
from ocifast.sources import FileSlice
from ocifast.sources.registry.client import Client
from ocifast.sources.registry.download import Origin, stream
from ocifast.sources.registry.failures import is_final, network_failure, read_capped
from ocifast.sources.registry.hosts import Endpoint, pull_endpoints
from ocifast.sources.registry.options import RegistryOptions
from ocifast.spec import INDEXES, MANIFEST_LIMIT, MANIFESTS, Descriptor, Document, parse_document

__all__ = ["ACCEPT", "RegistryBlob", "RegistrySource", "content_digest"]

T = TypeVar("T")

_log = logger(__name__)

ACCEPT = ", ".join(sorted(INDEXES | MANIFESTS))
"""What a manifest is asked for as."""


class RegistrySource:
    """One image or index in a registry; see `ocifast.sources.Source`. Safe to use from several threads."""

    def __init__(self, reference: Reference, options: RegistryOptions | None = None) -> None:
        """Connects to nothing yet.

        Args:
            reference: a digest in it wins over the tag.
            options: how to speak to the registry.
        """
        self.reference = reference
        self.options = options if options is not None else RegistryOptions()
        self.name = str(reference)
        self._origins = [self._origin(endpoint) for endpoint in pull_endpoints(reference, self.options)]
        self._root: Document | None = None
        self._lock = threading.Lock()

    def root(self) -> Document:
        """The manifest or index; fetched once. See `ocifast.sources.Source.root`."""
        with self._lock:
            if self._root is None:
                self._root = self._from_first(self._fetch_root)
            return self._root

    def digest(self) -> str:
        """Digest of what the reference names now, by a HEAD request; the manifest itself is not fetched.

        Raises:
            ImageNotFoundError, RegistryError, DigestInvalidError.
        """
        if self.reference.digest is not None:
            return self.reference.digest
        if self._root is not None:
            return self._root.digest
        # Not every registry states it: the spec says SHOULD.
        return self._from_first(self._fetch_digest) or self.root().digest

    def document(self, descriptor: Descriptor) -> Document:
        """A child manifest or index. See `ocifast.sources.Source.document`."""
        if descriptor.size > MANIFEST_LIMIT:
            raise DocumentError(
                f"{self.name}: the manifest {descriptor.digest} is said to be {descriptor.size} bytes long;"
                f" at most {MANIFEST_LIMIT >> 20} MiB are taken",
                reference=self.name,
            )
        return self._from_first(lambda origin: self._fetch_child(origin, descriptor))

    def holds(self, descriptor: Descriptor) -> bool:
        """True: a registry takes an index only with all that it names (see `Source.holds`)."""
        return True

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> RegistryBlob:
        """A config or a layer; requested when it is iterated. See `ocifast.sources.Source.blob`.

        The `urls` of a descriptor are never followed: they are a manifest author's word for where to send requests.
        """
        return RegistryBlob(self._origins, descriptor, offset=offset)

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Manifests in the same repository that have the manifest `digest` as their subject.

        Raises:
            RegistryError, DocumentError.
        """
        from ocifast.sources.registry.referrers import list_referrers

        return list_referrers(self._origins[-1], digest)

    def tagged(self, tag: str) -> Document | None:
        """What another tag of the repository names (see `ocifast.sources.AttachedSource`)."""

        def fetch(origin: Origin) -> Document:
            raw, media_type = self._manifest(origin, tag)
            return parse_document(raw, media_type, name=f"{self.reference.name}:{tag}")

        try:
            return self._from_first(fetch)
        except ImageNotFoundError:
            return None

    def referring(self, digest: str) -> Iterable[Descriptor]:
        """What refers to a manifest, of the first mirror that has any (see `ocifast.sources.AttachedSource`)."""
        from ocifast.sources.registry.referrers import list_referrers

        for origin in self._origins[:-1]:
            try:
                if found := list_referrers(origin, digest):
                    return found
            except (SourceError, VerificationError) as error:
                _log.info("mirror %s: %s", origin.client.host, error)
        return self.referrers(digest)

    def close(self) -> None:
        """Closes all connections."""
        for origin in self._origins:
            origin.client.close()

    def _origin(self, endpoint: Endpoint) -> Origin:
        client = Client(endpoint.host, endpoint.repository, endpoint.options, registry=endpoint.registry)
        return Origin(client, endpoint.repository, self.name)

    def _from_first(self, fetch: Callable[[Origin], T]) -> T:
        """What the first mirror that has it gives, else the registry; a mirror's failure is only logged."""
        for origin in self._origins[:-1]:
            try:
                return fetch(origin)
            except (SourceError, VerificationError) as error:
                _log.info("mirror %s: %s", origin.client.host, error)
        return fetch(self._origins[-1])

    def _fetch_root(self, origin: Origin) -> Document:
        raw, media_type = self._manifest(origin, self.reference.identifier)
        if self.reference.digest is not None:
            _check_digest(self.reference.digest, raw, self.name)
        return parse_document(raw, media_type, name=self.name)

    def _fetch_digest(self, origin: Origin) -> str | None:
        response = self._ask(origin, "HEAD", self.reference.identifier)
        response.close()
        return content_digest(response)

    def _fetch_child(self, origin: Origin, descriptor: Descriptor) -> Document:
        try:
            raw, media_type = self._manifest(origin, descriptor.digest, limit=descriptor.size)
        except ImageNotFoundError as error:
            raise BlobNotFoundError(
                f"{self.name}: the registry does not have the manifest {descriptor.digest} that its index names",
                reference=self.name,
            ) from error
        if len(raw) != descriptor.size:
            seen = f"more than {descriptor.size}" if len(raw) > descriptor.size else str(len(raw))
            raise SizeMismatchError(
                f"{self.name}: manifest {descriptor.digest} should be {descriptor.size} bytes long, but is {seen}",
                reference=self.name,
                expected=descriptor.size,
                seen=len(raw),
            )
        _check_digest(descriptor.digest, raw, self.name)
        if media_type in INDEXES | MANIFESTS and media_type != descriptor.media_type:
            raise DocumentError(
                f"{self.name}: {descriptor.digest} was announced as {descriptor.media_type}, but sent as {media_type}",
                reference=self.name,
            )
        return parse_document(raw, descriptor.media_type, name=f"{self.name}@{descriptor.digest}")

    def _manifest(self, origin: Origin, identifier: str, *, limit: int = MANIFEST_LIMIT) -> tuple[bytes, str | None]:
        """Bytes and Content-Type; at most `limit` bytes and one more are read."""
        for attempt in itertools.count():
            response = self._ask(origin, "GET", identifier)
            try:
                raw = read_capped(response, limit + 1)
                break
            except httpx.TransportError as error:
                origin.client.raise_if_closed(self.name)
                failure = network_failure(self.name, origin.client.origin.netloc.decode("ascii"), error)
                if attempt >= origin.client.options.retries or is_final(error):
                    raise failure from error
                origin.client.pause(attempt, failure.message)
        if len(raw) > MANIFEST_LIMIT:
            raise DocumentError(f"{self.name}: its manifest is longer than {MANIFEST_LIMIT >> 20} MiB")
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower() or None
        if media_type == "text/html":
            raise RegistryError(
                f"{self.name}: {origin.client.host} is no registry: it answers with a page;"
                " check the host's name and port"
            )
        stated = content_digest(response)
        if stated is not None and len(raw) <= limit:
            _check_digest(stated, raw, self.name)
        return raw, media_type

    def _ask(self, origin: Origin, method: str, identifier: str) -> httpx.Response:
        response = origin.client.send(
            method,
            f"/v2/{origin.repository}/manifests/{identifier}",
            name=self.name,
            what="read the manifest",
            scopes=origin.scopes,
            headers={"Accept": ACCEPT},
            expected=(200, 404),
        )
        if response.status_code == 404:
            failure = origin.client.failure(self.name, "read the manifest", response)
            if "is no registry" in failure.message:
                raise failure
            raise ImageNotFoundError(
                f"{self.name}: not found; check the name and the tag (`ocifast tags {self.reference.name}` lists them)",
                reference=self.name,
            )
        return response


class RegistryBlob:
    """A blob of a registry; see `ocifast.sources.Blob`. Iterating takes a slot of the host's limiter."""

    local: FileSlice | None = None

    def __init__(self, origins: Sequence[Origin], descriptor: Descriptor, *, offset: int = 0) -> None:
        """Makes one; nothing is asked for before it is iterated.

        Args:
            origins: where the blob may be: mirrors, and last the registry itself. Each goes on where the one before
                it failed.
            descriptor: of the blob.
            offset: first byte that is wanted, from 0 to the descriptor's size.
        """
        self._origins = origins
        self._descriptor = descriptor
        self._offset = offset
        self._running: Generator[bytes, None, None] | None = None

    def __iter__(self) -> Iterator[bytes]:
        self._running = self._download()
        return self._running

    def __enter__(self) -> RegistryBlob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if self._running is not None:
            self._running.close()

    def _download(self) -> Generator[bytes, None, None]:
        position = self._offset
        for origin in self._origins[:-1]:
            try:
                for chunk in self._from(origin, position):
                    position += len(chunk)
                    yield chunk
            except (SourceError, SizeMismatchError) as error:
                _log.info("mirror %s: %s", origin.client.host, error)
            else:
                return
        yield from self._from(self._origins[-1], position)

    def _from(self, origin: Origin, start: int) -> Generator[bytes, None, None]:
        size = self._descriptor.size
        if start >= size:
            return
        threshold = origin.client.options.range_threshold
        with origin.client.limiter.downloads.slot() as slot:
            if threshold is None or size - start < threshold:
                yield from stream(origin, self._descriptor, start, size, slot)
            else:
                from ocifast.sources.registry.download_ranges import stream_in_ranges

                others = [other for other in self._origins if other is not origin]
                yield from stream_in_ranges(origin, self._descriptor, start, slot, others)


def content_digest(response: httpx.Response) -> str | None:
    """The `Docker-Content-Digest` of an answer, checked; None when there is none. Raises DigestInvalidError."""
    stated = response.headers.get("Docker-Content-Digest")
    if stated is None:
        return None
    digest = str(stated)
    _core.check_digest(digest)
    return digest


def _check_digest(expected: str, raw: bytes, name: str) -> None:
    seen = digest_of([raw], expected.partition(":")[0])
    if seen != expected:
        raise DigestMismatchError(
            f"{name}: the digest of its manifest should be {expected}, but is {seen}",
            reference=name,
            expected=expected,
            seen=seen,
        )

"""A source whose blobs and documents are kept in the cache while they pass."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from ocifast.atomic import reported
from ocifast.cache.blobs import BlobStore, BlobWriter, LentBlobs
from ocifast.cache.kept import open_regular
from ocifast.cache.leases import Lease
from ocifast.cache.references import ReferenceStore
from ocifast.errors import (
    DocumentError,
    FileError,
    ImageNotFoundError,
    NetworkError,
    RateLimitError,
    RegistryError,
    VerificationError,
)
from ocifast.logs import logger
from ocifast.sources import CHUNK, AttachedSource, Blob, FileSlice, NamedSource, Source
from ocifast.sources.blobs import BytesBlob, FileBlob
from ocifast.sources.deferred import DeferredSource
from ocifast.spec import CONFIG_LIMIT, CONFIGS, MANIFEST_LIMIT, Descriptor, Document, decode_manifest, parse_document

__all__ = ["CachedSource"]

_log = logger(__name__)


class CachedSource:
    """A source that asks another one only for what the cache lacks.

    What a tag names is asked for once, and by each source anew, since it may have moved; but only its digest when the
    cache may have the rest. Everything else is named by its digest. A cache that cannot be written to (the disk is
    full) is done without, with a line in the log.

    Args:
        source: the other one; closed by `close`.
        blobs: the cache's blobs.
        digest: of the manifest or index that `source` reads, when its reference has one.
        layers: whether layers are kept while they are read. False leaves them to who reads them, so that they are not
            hashed twice (see `Cache.layers`).
        references: where it is noted what the name means; None does not.
        platform: for which it is noted (see `ReferenceStore`).
        refresh: asks `source` for the root whatever the cache has.
        lease: gets what the image is made of, so that it is not pruned; closed by `close`.
        lent: the same blobs as the run uses them of which this is a part; None when it is all of one.

    Attributes:
        name: of the other source.
    """

    def __init__(
        self,
        source: Source,
        blobs: BlobStore,
        *,
        digest: str | None = None,
        layers: bool = True,
        references: ReferenceStore | None = None,
        platform: str = "",
        refresh: bool = False,
        lease: Lease | None = None,
        lent: LentBlobs | None = None,
    ) -> None:
        self.name = source.name
        self._closed = threading.Event()
        self._source = source
        self._references = references
        self._platform = platform
        self._refresh = refresh
        self._blobs = blobs
        self._lent = lent or blobs.lend()
        self._digest = digest
        self._layers = layers
        self._lease = lease
        self._root: Document | None = None

    @property
    def origin(self) -> Source:
        """The other source, opened."""
        return self._source.origin if isinstance(self._source, DeferredSource) else self._source

    def root(self) -> Document:
        """See `Source.root`; from the cache when that has what the reference names. Asked for once."""
        if self._root is None:
            # Without a lock: a process that is forked meanwhile would wait for it for ever. To ask twice does no harm.
            self._root = self._find_root()
        return self._root

    def document(self, descriptor: Descriptor) -> Document:
        """See `Source.document`."""
        raw = self._blobs.find(descriptor.digest, MANIFEST_LIMIT)
        if raw is not None and len(raw) == descriptor.size:
            document = parse_document(raw, descriptor.media_type, name=f"{self.name}: manifest {descriptor.digest}")
        else:
            document = self._source.document(descriptor)
            self._keep(descriptor, document)
        self._use(document)
        return document

    def holds(self, descriptor: Descriptor) -> bool:
        """See `Source.holds`."""
        return self._source.holds(descriptor)

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """See `Source.blob`; what the cache has not got is kept there while it is read from the beginning."""
        if descriptor.media_type in CONFIGS:
            raw = self._blobs.find(descriptor.digest, CONFIG_LIMIT)
            if raw is not None and len(raw) == descriptor.size:
                return BytesBlob(raw[offset:])
        # A reader of layers cannot ask for one again; so a kept layer is verified before it is handed out.
        found = self._lent.get(descriptor) if not self._layers or self._blobs.verify(descriptor) else None
        if found is not None:
            try:
                return _OpenBlob(found, offset, name=self.name)
            except (OSError, ValueError):
                # It was removed since.
                pass
        if offset or not (self._layers or descriptor.media_type in CONFIGS):
            return self._source.blob(descriptor, offset=offset)
        return _KeptBlob(self._source, descriptor, self._lent, self._closed.is_set)

    def keep(self, descriptor: Descriptor, passed: Callable[[int], None]) -> FileSlice | None:
        """See `KeepingSource.keep`."""
        found = self._lent.get(descriptor)
        if found is not None:
            return found
        with self._source.blob(descriptor) as blob:
            if blob.local is not None:
                return blob.local
        if not self._blobs.is_writable():
            return None
        try:
            self._fetch(descriptor, passed)
        except FileError as error:
            self._blobs.failed(descriptor, error)
            return None
        return self._lent.get(descriptor)

    def _fetch(self, descriptor: Descriptor, passed: Callable[[int], None]) -> None:
        done = 0
        with self._lent.writer(descriptor, stopped=self._closed.is_set) as writer:
            for chunk in writer.beginning():
                done += len(chunk)
                passed(done)
            if done < descriptor.size or not descriptor.size:
                with self._source.blob(descriptor, offset=done) as rest:
                    for chunk in rest:
                        writer.write(chunk)
                        done += len(chunk)
                        passed(done)
            writer.commit()
            writer.settle()

    def mend(self, descriptor: Descriptor) -> bool:
        """See `KeepingSource.mend`."""
        return self._lent.mend([descriptor])

    def tagged(self, tag: str) -> Document | None:
        """See `AttachedSource.tagged`; asked for each time, as what a tag names may change."""
        return self._source.tagged(tag) if isinstance(self._source, AttachedSource) else None

    def referring(self, digest: str) -> Iterable[Descriptor]:
        """See `AttachedSource.referring`."""
        return self._source.referring(digest) if isinstance(self._source, AttachedSource) else ()

    def close(self) -> None:
        """Closes the other source."""
        self._closed.set()
        self._source.close()
        if self._lease is not None:
            self._lease.close()

    def _find_root(self) -> Document:
        document = self._cached_root()
        if document is None:
            document = self._source.root()
            self._keep(document.descriptor(), document)
        self._use(document)
        if self._references is not None:
            self._references.put(self.name, self._platform, document.digest)
        return document

    def _cached_root(self) -> Document | None:
        digest = None if self._refresh else self._digest or self._named_digest()
        raw = self._blobs.find(digest, MANIFEST_LIMIT) if digest is not None else None
        return None if raw is None else parse_document(raw, None, name=self.name)

    def _named_digest(self) -> str | None:
        """What the name means now, where knowing that may be enough."""
        if not isinstance(self._source, NamedSource) or self._blobs.is_empty():
            return None
        try:
            return self._source.digest()
        except (NetworkError, RateLimitError):
            # Tried often enough.
            raise
        except (ImageNotFoundError, RegistryError) as error:
            # Some servers know no HEAD, and none can say in its answer what is wrong: fetching will tell.
            _log.info("%s: %s", self.name, error)
            return None

    def _use(self, document: Document) -> None:
        """Has what a document names stay in the cache; a manifest that is none is told of by who reads it."""
        if self._lease is None:
            return
        used = [document.digest]
        if not document.is_index:
            with contextlib.suppress(DocumentError):
                manifest = decode_manifest(document, name=self.name)
                used += [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
        self._lease.use(used)

    def _keep(self, descriptor: Descriptor, document: Document) -> None:
        try:
            self._blobs.put(descriptor, document.raw)
        except FileError as error:
            _log.warning("%s is not cached: %s", descriptor.digest, error)


class _OpenBlob(FileBlob):
    """A blob of the cache, held open: another run that removes it does not take it away from who reads it."""

    def __init__(self, found: FileSlice, offset: int, *, name: str) -> None:
        """Raises OSError, ValueError: it is not there any more."""
        super().__init__(found.path, offset, found.length - offset, name=name)
        if offset == 0:
            self.local = found
        self._fd = open_regular(found.path)
        self._closed = weakref.finalize(self, os.close, self._fd)

    def __iter__(self) -> Iterator[bytes]:
        at, end = self._slice.offset, self._slice.offset + self._slice.length
        while at < end:
            with reported(self._slice.path):
                chunk = os.pread(self._fd, min(CHUNK, end - at), at)
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._closed()


class _KeptBlob:
    """A blob that is written to the cache while it is read, after the bytes that an earlier run has left."""

    local: FileSlice | None = None

    def __init__(self, source: Source, descriptor: Descriptor, lent: LentBlobs, stopped: Callable[[], bool]) -> None:
        self._source = source
        self.points = lent.points(descriptor)
        self._stopped = stopped
        self._descriptor = descriptor
        self._lent = lent

    def __iter__(self) -> Iterator[bytes]:
        try:
            writer = self._lent.writer(self._descriptor, stopped=self._stopped)
        except FileError as error:
            _log.warning("%s is not cached: %s", self._descriptor.digest, error)
            with self._source.blob(self._descriptor) as blob:
                yield from blob
            return
        with writer:
            try:
                yield from self._kept(writer)
            except VerificationError as error:
                raise type(error)(
                    f"{self._source.name}: {error.message}", **{**error.context, "reference": self._source.name}
                ) from None

    def _kept(self, writer: BlobWriter) -> Iterator[bytes]:
        yield from writer.beginning()
        if writer.resume_offset == self._descriptor.size > 0:
            writer.commit()
            return
        keeping = True
        with self._source.blob(self._descriptor, offset=writer.resume_offset) as rest:
            for chunk in rest:
                if keeping:
                    keeping = self._attempt(writer, chunk)
                yield chunk
        try:
            if keeping:
                writer.commit()
        except FileError as error:
            _log.warning("%s is not cached: %s", self._descriptor.digest, error)

    def _attempt(self, writer: BlobWriter, chunk: bytes) -> bool:
        try:
            writer.write(chunk)
        except FileError as error:
            _log.warning("%s is not cached: %s", self._descriptor.digest, error)
            writer.drop()
            return False
        return True

    def __enter__(self) -> Blob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        pass

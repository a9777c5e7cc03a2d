"""An image of a registry that is not asked: all there is of it is in the cache."""

from __future__ import annotations

from ocifast.cache.blobs import BlobStore
from ocifast.cache.references import ReferenceStore, Resolved
from ocifast.errors import NotCachedError
from ocifast.logs import logger
from ocifast.reference import Reference
from ocifast.sources import Blob
from ocifast.sources.blobs import FileBlob
from ocifast.spec import MANIFEST_LIMIT, Descriptor, Document, parse_document

__all__ = ["OfflineSource"]

_log = logger(__name__)


class OfflineSource:
    """A `Source` that stands where a registry's would, and names what the cache lacks.

    Args:
        reference: the image.
        platform: the platform that is asked for (see `ReferenceStore.get`).
        references: what names meant.
        blobs: the cache's blobs.
    """

    def __init__(self, reference: Reference, platform: str, references: ReferenceStore, blobs: BlobStore) -> None:
        self.name = str(reference)
        self._reference = reference
        self._platform = platform
        self._references = references
        self._blobs = blobs
        self._resolved: Resolved | None = None

    def root(self) -> Document:
        """What the name meant when it was asked for last (see `Source.root`). Raises NotCachedError."""
        digest = self.digest()
        raw = self._blobs.find(digest, MANIFEST_LIMIT)
        if raw is None:
            raise self._missing(f"the manifest {digest}")
        return parse_document(raw, None, name=self.name)

    def digest(self) -> str:
        """See `NamedSource.digest`. Raises NotCachedError."""
        if self._reference.digest is not None:
            return self._reference.digest
        if self._resolved is None:
            self._resolved = self._references.get(self.name, self._platform)
            if self._resolved is None:
                raise self._missing("what this name means")
            _log.info("%s: %s, as of %s", self.name, self._resolved.digest, self._resolved.when)
        return self._resolved.digest

    def document(self, descriptor: Descriptor) -> Document:
        """See `Source.document`. Raises NotCachedError."""
        raw = self._blobs.find(descriptor.digest, MANIFEST_LIMIT)
        if raw is None or len(raw) != descriptor.size:
            raise self._missing(f"the manifest {descriptor.digest}", layer=descriptor.digest)
        return parse_document(raw, descriptor.media_type, name=f"{self.name}: manifest {descriptor.digest}")

    def holds(self, descriptor: Descriptor) -> bool:
        """True: what is missing is named when it is asked for (see `Source.holds`)."""
        return True

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """See `Source.blob`. Raises NotCachedError."""
        found = self._blobs.get(descriptor)
        if found is None:
            raise self._missing(f"the blob {descriptor.digest}", layer=descriptor.digest)
        return FileBlob(found.path, offset, found.length - offset, name=self.name)

    def close(self) -> None:
        """Does nothing."""

    def _missing(self, what: str, **context: str) -> NotCachedError:
        when = f" (as of {self._resolved.when})" if self._resolved is not None else ""
        return NotCachedError(
            f"{self.name}{when}: {what} is not in the cache, and registries are not asked (--offline); fetch it once "
            "with --refresh",
            reference=self.name,
            **context,
        )

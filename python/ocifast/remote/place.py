"""Where a remote cache is: a repository of a registry, or an image layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ocifast.errors import DocumentError, ImageNotFoundError
from ocifast.reference import Location
from ocifast.remote.form import KEY, OUTPUT
from ocifast.remote.writing import Artifact
from ocifast.signatures.making import sign_document
from ocifast.sources import AttachedSource, Blob, Destination
from ocifast.sources.open import open_destination, open_source
from ocifast.spec import MANIFESTS, Descriptor, Document, decode_manifest

if TYPE_CHECKING:
    from ocifast.signatures.keys import PrivateKey
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["RemotePlace"]

_CANDIDATES = 32
"""Most manifests that are looked at for one output; a stranger may have pushed any number under its name."""


class RemotePlace:
    """The place. Opened when something is asked for.

    Args:
        location: without a tag.
        options: how registries are spoken to.

    Attributes:
        location: the place.
    """

    def __init__(self, location: Location, options: RegistryOptions | None) -> None:
        self.location = location
        self._options = options
        self._source: AttachedSource | None = None

    def source(self) -> AttachedSource:
        """The place, to read from.

        Raises:
            ImageNotFoundError: a layout is not there yet.
        """
        if self._source is None:
            opened = open_source(self.location, options=self._options)
            assert isinstance(opened, AttachedSource), "registries and layouts say what is attached"
            self._source = opened
        return self._source

    def outputs(self, digest: str, key: str) -> Iterator[Document]:
        """Manifests of outputs with a key that were made of an image, by the digest of its manifest.

        Raises:
            DocumentError, RegistryError.
        """
        try:
            listed = self.source().referring(digest)
        except ImageNotFoundError:
            return
        seen = 0
        for descriptor in listed:
            stated = (descriptor.annotations or {}).get(KEY, key)
            if (
                descriptor.media_type not in MANIFESTS
                or descriptor.artifact_type not in (OUTPUT, None)
                or stated != key
            ):
                continue
            seen += 1
            if seen > _CANDIDATES:
                raise DocumentError(f"{self.location}: more than {_CANDIDATES} outputs say that they are {key}")
            document = self.source().document(descriptor)
            manifest = decode_manifest(document, name=str(self.location))
            # What the list says is another's word: the manifest itself must say it.
            subject = manifest.subject.digest if manifest.subject is not None else None
            said = (manifest.annotations or {}).get(KEY)
            if (manifest.artifact_type, subject, said) == (OUTPUT, digest, key):
                yield document

    def tagged(self, tag: str) -> Document | None:
        """The manifest of a tag; None when there is none."""
        try:
            return self.source().tagged(tag)
        except ImageNotFoundError:
            return None

    def blob(self, descriptor: Descriptor) -> Blob:
        """Opens a blob."""
        return self.source().blob(descriptor)

    def push(self, artifact: Artifact) -> None:
        """Puts an artifact there, under its tag or as a referrer."""
        self._put(artifact.document, artifact.tag, artifact.blobs())

    def push_signature(self, document: Document, key: PrivateKey) -> None:
        """Signs a manifest that is there, and puts the signature beside it."""
        made = sign_document(document, key)
        self._put(made.document, None, ((descriptor, (data,)) for descriptor, data in made.blobs))

    def close(self) -> None:
        """Closes connections."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _put(self, document: Document, tag: str | None, blobs: Iterable[tuple[Descriptor, Iterable[bytes]]]) -> None:
        destination = self._destination(document, tag)
        try:
            for descriptor, chunks in blobs:
                if not destination.has_blob(descriptor):
                    destination.put_blob(descriptor, chunks)
            destination.put_document(document, root=True)
            destination.commit()
        except BaseException:
            destination.abort()
            raise
        # A layout reads its list again; a registry may have been asked before.
        self.close()

    def _destination(self, document: Document, tag: str | None) -> Destination:
        reference = self.location.remote
        if reference is None:
            return open_destination(replace(self.location, tag=tag), options=self._options)
        named = replace(reference, tag=tag, digest=None if tag else document.digest)
        return open_destination(replace(self.location, reference=named), options=self._options)

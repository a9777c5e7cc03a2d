"""Images that go into a registry (OCI distribution-spec, "Push")."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ocifast.errors import (
    AuthenticationError,
    DigestMismatchError,
    RegistryError,
    UsageError,
)
from ocifast.reference import Reference
from ocifast.sources import Source
from ocifast.sources.registry.client import Client
from ocifast.sources.registry.hosts import push_endpoint
from ocifast.sources.registry.options import RegistryOptions
from ocifast.sources.registry.referrers import add_to_fallback, subject_of
from ocifast.sources.registry.source import RegistrySource, content_digest
from ocifast.sources.registry.upload import Session, Uploader
from ocifast.spec import Descriptor, Document

__all__ = ["RegistryDestination"]


class RegistryDestination:
    """A repository that an image is pushed to; see `ocifast.sources.Destination`. Safe to use from several threads.

    The root manifest is sent by `commit`: until then nothing is visible under the reference's tag.
    """

    is_remote = True
    holds_indexes = True

    def __init__(self, reference: Reference, options: RegistryOptions | None = None) -> None:
        """Connects to nothing yet.

        Args:
            reference: a digest in it must be that of what is pushed; without a tag it is pushed under that digest.
            options: how to speak to the registry.
        """
        self.name = str(reference)
        self.reference = reference
        endpoint = push_endpoint(reference, options if options is not None else RegistryOptions())
        self.client = Client(endpoint.host, endpoint.repository, endpoint.options, registry=endpoint.registry)
        self._uploader = Uploader(self.client, endpoint.repository, self.name)
        self._repository = endpoint.repository
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._root: Document | None = None

    def announce(self, descriptors: Iterable[Descriptor]) -> None:
        """Does nothing: a registry has no order of blobs."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the blob, with its size where the registry states one.

        A registry that answers the question in another way (storage that allows one method only, proxies) says nothing:
        the blob is sent then.
        """
        response = self.client.send(
            "HEAD",
            f"/v2/{self._repository}/blobs/{descriptor.digest}",
            name=self.name,
            what="look for a blob",
            scopes=self._uploader.scopes,
            expected=(200, 400, 403, 404, 405, 501),
        )
        response.close()
        length = response.headers.get("Content-Length")
        return response.status_code == 200 and length in (None, str(descriptor.size))

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        """Asks the registry to take the blob from another of its repositories.

        When it says no it has opened an upload session instead, which `put_blob` then uses.
        """
        if not isinstance(source, RegistrySource) or source.reference.host != self.reference.host:
            return False
        if source.reference.repository == self.reference.repository:
            return False
        return self.mount_from(descriptor, source.reference.repository)

    def mount_from(self, descriptor: Descriptor, repository: str) -> bool:
        """The same from a repository of this registry by its name."""
        try:
            session = self._uploader.start(mount=descriptor.digest, source=repository)
        except RegistryError as error:
            status = error.context.get("status")
            # Registries without mounts answer as they like, and a token server may refuse the second scope; the blob
            # can still be read and sent.
            if isinstance(error, AuthenticationError) or (status != 429 and status in range(400, 500)):
                return False
            raise
        if session is None:
            return True
        with self._lock:
            self._sessions[descriptor.digest] = session
        return False

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        """Sends a blob. Unless `chunks` is an iterator, an upload that breaks goes on from where it broke."""
        with self._lock:
            session = self._sessions.pop(descriptor.digest, None)
        session = session or self._uploader.start()
        if session is not None:
            with self.client.limiter.uploads.slot():
                self._uploader.put(session, descriptor, chunks)

    def put_document(self, document: Document, *, root: bool) -> None:
        """Sends a manifest or index byte for byte; the root waits for `commit`."""
        if not root:
            self._put(document, document.digest)
            return
        expected = self.reference.digest
        if expected is not None and expected != document.digest:
            raise DigestMismatchError(
                f"{self.name}: what is pushed has the digest {document.digest}; leave the digest out or push another",
                reference=self.name,
                expected=expected,
                seen=document.digest,
            )
        self._root = document

    def commit(self) -> None:
        """Sends the root manifest: the image is there."""
        if self._root is None:
            raise UsageError(f"{self.name}: no manifest was written")
        tag = self.reference.tag
        self._put(self._root, tag or self.reference.digest or "latest")
        self._cancel_sessions()
        self.client.close()

    def abort(self) -> None:
        """Cancels upload sessions; blobs that are complete stay, for the registry to collect."""
        self._cancel_sessions()
        self.client.close()

    def _cancel_sessions(self) -> None:
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            self._uploader.cancel(session)

    def _put(self, document: Document, identifier: str) -> None:
        response = self.client.send(
            "PUT",
            f"/v2/{self._repository}/manifests/{identifier}",
            name=self.name,
            what="push the manifest",
            scopes=self._uploader.scopes,
            headers={"Content-Type": document.media_type},
            body=document.raw,
            expected=(200, 201, 202),
        )
        response.close()
        seen = content_digest(response)
        if seen is not None and seen.startswith("sha256:") and seen != document.digest:
            raise DigestMismatchError(
                f"{self.name}: the registry stored the manifest {document.digest} as {seen}",
                reference=self.name,
                expected=document.digest,
                seen=seen,
            )
        subject = subject_of(document)
        # Without this header the registry does not know referrers, and the client keeps the list (distribution-spec,
        # "Pushing Manifests with Subject").
        if subject is not None and "OCI-Subject" not in response.headers:
            add_to_fallback(self._uploader, subject, document)

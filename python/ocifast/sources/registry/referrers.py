"""Referrers: manifests that name another one as their `subject` (signatures, SBOMs).

A registry lists them at `/v2/NAME/referrers/DIGEST`, or, when it does not know them, in an index under a tag made of
the subject's digest that clients keep (distribution-spec, "Listing Referrers", "Referrers Tag Schema").
"""

from __future__ import annotations

import threading
from typing import Any

import httpx
import msgspec

from ocifast import _core
from ocifast.errors import DocumentError, RegistryError, reason
from ocifast.models import readable
from ocifast.sources.registry.download import Origin
from ocifast.sources.registry.hops import next_page
from ocifast.sources.registry.upload import Uploader
from ocifast.spec import MANIFEST_LIMIT, OCI_INDEX, Descriptor, Document, ImageIndex, fallback_tag

__all__ = ["add_to_fallback", "list_referrers", "subject_of"]

_PAGES = 1000
_LIST_LIMIT = 64 << 20
"""Most bytes of all pages of a list of referrers."""
_fallback_lock = threading.Lock()


@readable
class _Subject(msgspec.Struct, rename="camel"):
    """The fields of a manifest or index that its entry in a list of referrers is made of."""

    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    config: Descriptor | None = None


def subject_of(document: Document) -> Descriptor | None:
    """The `subject` of a manifest or index. Raises DocumentError when it is no descriptor."""
    return _decode(document).subject


def list_referrers(origin: Origin, digest: str) -> tuple[Descriptor, ...]:
    """Descriptors of all manifests in the repository that have `digest` as their subject; none is not an error.

    Raises:
        RegistryError, DocumentError.
    """
    _core.check_digest(digest)
    target: str | httpx.URL = f"/v2/{origin.repository}/referrers/{digest}"
    found: dict[str, Descriptor] = {}
    total = 0
    for _ in range(_PAGES):
        page = _get(origin, target)
        if page is None:
            break
        index, following = _decode_index(origin, page[1]), next_page(origin.name, page[0], origin.client.options)
        total += len(page[1])
        if total > _LIST_LIMIT:
            raise RegistryError(
                f"{origin.name}: the list of referrers is longer than {_LIST_LIMIT >> 20} MiB", reference=origin.name
            )
        found.update((each.digest, each) for each in index.manifests)
        if following is None:
            return tuple(found.values())
        target = following
    if found:
        raise RegistryError(f"{origin.name}: the list of referrers does not end", reference=origin.name)
    page = _get(origin, f"/v2/{origin.repository}/manifests/{fallback_tag(digest)}")
    return () if page is None else _decode_index(origin, page[1]).manifests


def add_to_fallback(uploader: Uploader, subject: Descriptor, document: Document) -> None:
    """Enters a manifest in the index under the fallback tag of its subject, unless it is there."""
    fields = _decode(document)
    # image-spec, image-index.md: a manifest without an artifact type is of its config's.
    artifact_type = fields.artifact_type or (fields.config.media_type if fields.config else None)
    entry: dict[str, Any] = {"mediaType": document.media_type, "digest": document.digest, "size": document.size}
    if artifact_type:
        entry["artifactType"] = artifact_type
    if fields.annotations:
        entry["annotations"] = fields.annotations
    target = f"/v2/{uploader.repository}/manifests/{fallback_tag(subject.digest)}"
    origin = Origin(uploader.client, uploader.repository, uploader.name)
    # Several referrers of one subject may be pushed at the same time by this process; others are out of reach.
    with _fallback_lock:
        page = _get(origin, target)
        index: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        if page is not None:
            _decode_index(origin, page[1])
            index = msgspec.json.decode(page[1])
        if any(each.get("digest") == document.digest for each in index["manifests"]):
            return
        index["manifests"].append(entry)
        uploader.client.send(
            "PUT",
            target,
            name=uploader.name,
            what="list a referrer",
            scopes=uploader.scopes,
            headers={"Content-Type": OCI_INDEX},
            body=msgspec.json.encode(index),
            expected=(200, 201, 202),
        ).close()


def _get(origin: Origin, target: str | httpx.URL) -> tuple[httpx.Response, bytes] | None:
    """An answer and its body; None when there is no such list."""
    response, raw = origin.client.get(
        target,
        limit=MANIFEST_LIMIT + 1,
        name=origin.name,
        what="list referrers",
        scopes=origin.scopes,
        headers={"Accept": OCI_INDEX},
        # Registries without the API answer 404, some 400 or 405.
        expected=(200, 400, 404, 405),
    )
    return (response, raw) if response.status_code == 200 else None


def _decode_index(origin: Origin, raw: bytes) -> ImageIndex:
    if len(raw) > MANIFEST_LIMIT:
        raise DocumentError(f"{origin.name}: the list of referrers is longer than {MANIFEST_LIMIT >> 20} MiB")
    try:
        return msgspec.json.decode(raw, type=ImageIndex)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DocumentError(f"{origin.name}: the list of referrers is not an index: {reason(error)}") from None


def _decode(document: Document) -> _Subject:
    try:
        return msgspec.json.decode(document.raw, type=_Subject)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DocumentError(f"the manifest {document.digest} is not valid: {reason(error)}") from None

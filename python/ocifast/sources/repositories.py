"""What `docker save` wrote before Docker 1.10: `repositories`, and no list of images.

Images were chains of layers then (Docker's image specification 1.0). Each layer is a folder of its ID with `layer.tar`
and `json`, which names the parent; the config of an image is the `json` of its topmost layer. `repositories` leads from
names to topmost layers. There are no digests at all: a config of today is made, with diff IDs taken from the layers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ocifast.digests import digest_of
from ocifast.errors import BlobNotFoundError, DocumentError, reason
from ocifast.models import readable
from ocifast.sources.blobs import FileBlob
from ocifast.sources.members import Members
from ocifast.spec import CONFIG_LIMIT, decode_config

__all__ = ["Repositories", "SavedImage"]

_LISTING_LIMIT = 16 << 20
_CHAIN = 1024
"""Most layers of an image."""
_GONE = frozenset({"id", "parent", "parent_id", "layer_id", "Size", "throwaway"})
"""Fields of a layer's `json` that are the layer's own and not the image's."""


@readable
class SavedImage(msgspec.Struct, frozen=True, rename={"repo_tags": "repotags"}):
    """One image in `manifest.json` (Docker's image specification 1.2, "Combined Image JSON + Filesystem Changeset").

    Field names are taken in any case, as Docker takes them: some writers (old versions of jib) have them small.
    """

    config: str
    layers: tuple[str, ...] | None = None
    repo_tags: tuple[str, ...] | None = None


class Repositories:
    """The images of such an archive.

    Args:
        members: of the archive.
        name: how messages call it.

    Attributes:
        images: one for each topmost layer, whose ID stands for the config, with all its names.

    Raises:
        DocumentError: `repositories` is not what it should be.
    """

    def __init__(self, members: Members, *, name: str) -> None:
        self._members = members
        self._name = name
        raw = members.read("repositories", _LISTING_LIMIT) or b""
        try:
            found = msgspec.json.decode(raw, type=dict[str, dict[str, str]])
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"{name}: repositories is not valid: {reason(error)}", reference=name) from None
        tops: dict[str, list[str]] = {}
        for repository, tags in found.items():
            for tag, top in tags.items():
                tops.setdefault(top, []).append(f"{repository}:{tag}")
        self.images = [SavedImage(config=top, repo_tags=tuple(names)) for top, names in tops.items()]

    def image(self, top: str) -> tuple[bytes, list[tuple[str, str]]]:
        """The config that is made for an image, and its layers, bottom first: name of the member, diff ID.

        Raises:
            BlobNotFoundError: a layer of the chain is missing.
            DocumentError: a chain without an end, or a `json` that is none.
        """
        chain: list[str] = []
        fields: dict[str, Any] = {}
        identity: str | None = top
        while identity:
            if len(chain) >= _CHAIN or identity in chain:
                raise DocumentError(f"{self._name}: the chain of layers below {top!r} has no end", reference=self._name)
            own = self._fields(identity)
            fields = fields or own
            chain.append(identity)
            identity = own.get("parent")
            if identity is not None and not isinstance(identity, str):
                raise DocumentError(f"{self._name}: {chain[-1]}/json names no parent but {identity!r}")
        layers = [(f"{each}/layer.tar", self._diff_id(each)) for each in reversed(chain)]
        made = {field: value for field, value in fields.items() if field not in _GONE}
        made["rootfs"] = {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]}
        config = msgspec.json.encode(made)
        decode_config(config, name=f"{self._name}: {top}/json")
        return config, layers

    def _fields(self, identity: str) -> dict[str, Any]:
        raw = self._members.read(f"{identity}/json", CONFIG_LIMIT)
        if raw is None:
            raise BlobNotFoundError(f"{self._name}: the layer {identity!r} has no json", reference=self._name)
        try:
            return msgspec.json.decode(raw, type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            raise DocumentError(
                f"{self._name}: {identity}/json is not valid: {reason(error)}", reference=self._name
            ) from None

    def _diff_id(self, identity: str) -> str:
        found = self._members.find(f"{identity}/layer.tar")
        if found is None:
            raise BlobNotFoundError(f"{self._name}: the layer {identity!r} has no layer.tar", reference=self._name)
        magic = b"".join(FileBlob(found.path, found.offset, min(found.length, 4), name=self._name))
        if magic.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
            raise DocumentError(
                f"{self._name}: {identity}/layer.tar is compressed, and its diff ID stands nowhere; save the image "
                "again with a current Docker",
                reference=self._name,
            )
        return digest_of(FileBlob(found.path, found.offset, found.length, name=self._name))

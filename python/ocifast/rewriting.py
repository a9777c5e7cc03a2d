"""An image whose layers are archives as one whose layers are erofs images, which nodes mount without unpacking them.

(A draft: containerd, "EROFS Layer Types for OCI Images", media type `application/vnd.erofs.layer.v1`, uncompressed and
without dm-verity, so that a layer's diff ID is the digest of its image.) All is a function of the image: the same one
gives the same digests on every machine.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import msgspec

from ocifast import _core
from ocifast.errors import BlobNotFoundError, DocumentError
from ocifast.image import Image
from ocifast.sources import CHUNK, FileSlice
from ocifast.sources.blobs import BytesBlob, FileBlob
from ocifast.spec import OCI_CONFIG, OCI_MANIFEST, Descriptor, Document

__all__ = ["ErofsSource"]

_LAYER = "application/vnd.erofs.layer.v1"
_FEATURE = "erofs"
"""What a platform needs that can run such an image (`os.features`)."""


class ErofsSource:
    """The rewritten image (see `ocifast.sources.Source`).

    Args:
        image: whose layers are rewritten; it stays open.
        layers: the open data file of each diff ID, an erofs image.
        held: closed by `close`.
        has_subject: whether the manifest names the original as its subject, by which registries list it.
        process: folder of the open files of this process.

    Raises:
        DocumentError: the config is no object of JSON.
    """

    def __init__(
        self,
        image: Image,
        layers: dict[str, int],
        held: ExitStack,
        *,
        has_subject: bool,
        process: Path = Path("/proc/self/fd"),
    ) -> None:
        self.name = image.name
        self._held = held
        self._files: dict[str, FileSlice] = {}
        made: dict[str, Descriptor] = {}
        for diff_id in image.diff_ids:
            if diff_id not in made:
                path = process / str(layers[diff_id])
                digest, size = _digest(path)
                made[diff_id] = Descriptor(_LAYER, digest, size)
                self._files[digest] = FileSlice(path, 0, size)
        descriptors = [made[diff_id] for diff_id in image.diff_ids]
        self._config = Document(OCI_CONFIG, _config(image, [layer.digest for layer in descriptors]))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._config.descriptor(),
            "layers": descriptors,
        }
        if has_subject:
            manifest["subject"] = image.document.descriptor()
        if image.manifest.annotations:
            manifest["annotations"] = dict(sorted(image.manifest.annotations.items()))
        self._manifest = Document(OCI_MANIFEST, msgspec.json.encode(manifest))

    def root(self) -> Document:
        """The manifest that was made."""
        return self._manifest

    def document(self, descriptor: Descriptor) -> Document:
        """There are no others."""
        if descriptor.digest != self._manifest.digest:
            raise BlobNotFoundError(f"{self.name}: there is no manifest {descriptor.digest}", reference=self.name)
        return self._manifest

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether it is the manifest."""
        return descriptor.digest == self._manifest.digest

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> FileBlob | BytesBlob:
        """A layer or the config."""
        if descriptor.digest == self._config.digest:
            return BytesBlob(self._config.raw[offset:])
        return FileBlob.of(self._files.get(descriptor.digest), descriptor, offset, name=self.name)

    def close(self) -> None:
        """Lets go of the layers."""
        self._held.close()


def _config(image: Image, diff_ids: list[str]) -> bytes:
    """The config with other layers; all else is as it was, history included."""
    config = msgspec.json.decode(image.config_raw)
    if not isinstance(config, dict):
        raise DocumentError(f"{image.name}: its config is no object of JSON", reference=image.name)
    features = config.get("os.features") or []
    known = features if isinstance(features, list) else []
    config["os.features"] = [*known, *([] if _FEATURE in known else [_FEATURE])]
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    return msgspec.json.encode(config)


def _digest(path: Path) -> tuple[str, int]:
    hasher, size = _core.Hasher(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
            size += len(chunk)
    return hasher.digest(), size

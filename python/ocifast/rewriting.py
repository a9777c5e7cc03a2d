"""An image whose layers are archives as one whose layers are erofs images, which nodes mount without unpacking them.

(A draft: containerd, "EROFS Layer Types for OCI Images", media type `application/vnd.erofs.layer.v1`, uncompressed and
without dm-verity, so that a layer's diff ID is the digest of its image.) All is a function of the image: the same one
gives the same digests on every machine.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import msgspec

from ocifast.digests import digest_and_size
from ocifast.errors import DocumentError
from ocifast.image import Image
from ocifast.sources import FileSlice
from ocifast.sources.made import MadeSource
from ocifast.spec import OCI_CONFIG, OCI_MANIFEST, Descriptor, Document

__all__ = ["ErofsSource"]

_LAYER = "application/vnd.erofs.layer.v1"
_FEATURE = "erofs"
"""What a platform needs that can run such an image (`os.features`)."""


class ErofsSource(MadeSource):
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
        files: dict[str, FileSlice] = {}
        made: dict[str, Descriptor] = {}
        for diff_id in image.diff_ids:
            if diff_id not in made:
                path = process / str(layers[diff_id])
                with path.open("rb", buffering=0) as file:
                    digest, size = digest_and_size(file)
                made[diff_id] = Descriptor(_LAYER, digest, size)
                files[digest] = FileSlice(path, 0, size)
        descriptors = [made[diff_id] for diff_id in image.diff_ids]
        config = Document(OCI_CONFIG, _config(image, [layer.digest for layer in descriptors]))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.descriptor(),
            "layers": descriptors,
        }
        if has_subject:
            manifest["subject"] = image.document.descriptor()
        if image.manifest.annotations:
            manifest["annotations"] = dict(sorted(image.manifest.annotations.items()))
        document = Document(OCI_MANIFEST, msgspec.json.encode(manifest))
        super().__init__(document, config, files, name=image.name, held=held)


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

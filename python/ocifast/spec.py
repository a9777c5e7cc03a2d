"""Documents of the OCI image-spec and of Docker's image manifest version 2, schema 2.

What came over the wire stays raw: a `Document` carries its bytes, digests are of those bytes, and nothing fetched is
serialised again. The models read only the fields that ocifast uses and let all others be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from ocifast import _core
from ocifast.errors import DigestInvalidError, DocumentError, NotAnImageError, reason
from ocifast.lazy import Lazy
from ocifast.models import readable
from ocifast.records import dataclass

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
EROFS_LAYER = "application/vnd.erofs"
"""What the media types of layers that are erofs images begin with: the draft's is this, the older one goes on."""

_READ_LAYERS = (
    OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    DOCKER_LAYER,
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.container.image.rootfs.diff",
    f"{EROFS_LAYER}.layer.v1",
    EROFS_LAYER,
)
"""Media types of layers that can be read, without what says the compression."""
_LAYER_COMPRESSIONS = frozenset({"", "+gzip", "+zstd", ".gzip", ".zstd"})
_OCI_LAYERS = {
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_FOREIGN_LAYER: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
}

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

MANIFEST_LIMIT = 4 << 20
"""Most bytes of a manifest or index that are read (distribution-spec, "Pushing Manifests", asks for at least 4 MiB)."""
CONFIG_LIMIT = 16 << 20
"""Most bytes of a config that are read."""


Model = TypeVar("Model", bound=msgspec.Struct)


@readable
class Platform(
    msgspec.Struct, frozen=True, omit_defaults=True, rename={"os_version": "os.version", "os_features": "os.features"}
):
    """The `platform` of a descriptor in an index (image-spec, image-index.md)."""

    architecture: str
    os: str
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@readable
class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A content descriptor (image-spec, descriptor.md). `digest` is checked when the document is read."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str | None = None
    urls: tuple[str, ...] = ()
    data: str | None = None
    """Embedded content, base64; never trusted without its digest."""

    def __post_init__(self) -> None:
        _core.check_digest(self.digest)
        if self.size < 0:
            raise DocumentError(f"descriptor {self.digest} has the negative size {self.size}")
        if self.size >= 1 << 63:
            raise DocumentError(f"descriptor {self.digest} has the size {self.size}, which is no 64-bit number")


@readable
class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image manifest (image-spec, manifest.md; Docker manifest v2.2 has the same shape)."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str | None = None
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


@readable
class ImageIndex(msgspec.Struct, frozen=True, rename="camel"):
    """An image index or manifest list (image-spec, image-index.md)."""

    manifests: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str | None = None
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


@readable
class RuntimeConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """The `config` of an image config: how a container is started (image-spec, config.md)."""

    user: str | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    exposed_ports: dict[str, dict[str, Any]] | None = None
    volumes: dict[str, dict[str, Any]] | None = None
    stop_signal: str | None = None


@readable
class RootfsConfig(msgspec.Struct, frozen=True):
    """The `rootfs` of an image config: diff IDs, bottom layer first."""

    diff_ids: tuple[str, ...] = ()
    type: str = "layers"


@readable
class ImageConfig(msgspec.Struct, frozen=True, rename={"os_version": "os.version"}):
    """An image config (image-spec, config.md)."""

    architecture: str | None = None
    os: str | None = None
    variant: str | None = None
    os_version: str | None = None
    created: str | None = None
    config: RuntimeConfig | None = None
    rootfs: RootfsConfig = RootfsConfig()


@readable
class HistoryRecord(msgspec.Struct, frozen=True):
    """One step of the `history` of an image config (image-spec, config.md)."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False


@readable
class _WithHistory(msgspec.Struct, frozen=True):
    """A config as far as its history; apart from the rest, which must not fail where a history is odd."""

    history: tuple[HistoryRecord, ...] | None = None


@dataclass(frozen=True)
class Document:
    """A manifest, index or config as it came: its media type and its bytes.

    Attributes:
        media_type: as stated by the descriptor or answer that led here.
        raw: the bytes; every digest is of them.
    """

    media_type: str
    raw: bytes

    @Lazy
    def digest(self) -> str:
        """SHA-256 digest of the bytes."""
        return _core.digest(self.raw)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.raw)

    @property
    def is_index(self) -> bool:
        """Whether the media type is that of an index."""
        return self.media_type in INDEXES

    def descriptor(self, *, platform: Platform | None = None, annotations: dict[str, str] | None = None) -> Descriptor:
        """A descriptor of this document."""
        return Descriptor(self.media_type, self.digest, self.size, annotations, platform)


def parse_document(raw: bytes, media_type: str | None, *, name: str) -> Document:
    """Decides whether the bytes are a manifest or an index.

    Args:
        raw: the bytes of a manifest or an index.
        media_type: what the descriptor or the answer's Content-Type said; None when it said nothing.
        name: how messages call the document.

    Raises:
        DocumentError: no JSON object, manifest and index at once (CVE-2021-41190), or a `mediaType` field of another
            kind than `media_type`.
        NotAnImageError: Docker schema 1, or neither manifest nor index.
    """
    try:
        probe = msgspec.json.decode(raw)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{name} is not JSON: {reason(error)}", reference=name) from None
    if not isinstance(probe, dict):
        raise DocumentError(f"{name} is not a JSON object")
    if probe.get("schemaVersion") == 1 or (media_type or "").startswith(
        "application/vnd.docker.distribution.manifest.v1"
    ):
        raise NotAnImageError(f"{name} is a Docker schema 1 manifest; push the image again with a current tool")
    if "manifests" in probe and ("layers" in probe or "config" in probe):
        raise DocumentError(f"{name} is a manifest and an index at once")
    stated = probe.get("mediaType")
    known = MANIFESTS | INDEXES
    if media_type in known and stated is not None and stated != media_type:
        # Docker's and OCI's manifests have one shape, and so have their indexes: an index may call a child by the other
        # name. What the document bears is what registries compare with.
        if not any({media_type, stated} <= same for same in (MANIFESTS, INDEXES)):
            raise DocumentError(f"{name} says that it is {stated}, but was announced as {media_type}")
        media_type = stated
    shape = OCI_INDEX if "manifests" in probe else OCI_MANIFEST if "layers" in probe or "config" in probe else None
    decided = media_type if media_type in known else stated if stated in known else shape
    if decided is None:
        raise NotAnImageError(f"{name} is neither an image manifest nor an image index ({stated or media_type})")
    if shape is not None and (decided in INDEXES) != (shape == OCI_INDEX):
        raise DocumentError(f"{name} does not have the fields of {decided}")
    return Document(decided, raw)


def decode_manifest(document: Document, *, name: str) -> Manifest:
    """The model of a manifest document.

    Raises:
        DocumentError: a field that the spec requires is missing or of another type.
    """
    return _decode(document.raw, Manifest, name)


def decode_index(document: Document, *, name: str) -> ImageIndex:
    """The model of an index document. Raises DocumentError."""
    return _decode(document.raw, ImageIndex, name)


def decode_config(raw: bytes, *, name: str) -> ImageConfig:
    """The model of an image config. Raises DocumentError."""
    return _decode(raw, ImageConfig, name)


def decode_history(raw: bytes, *, name: str) -> tuple[HistoryRecord, ...]:
    """The history of an image config, empty where it has none. Raises DocumentError."""
    try:
        return msgspec.json.decode(raw, type=_WithHistory).history or ()
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{name} has no valid history: {reason(error)}", reference=name) from None


def _decode(raw: bytes, model: type[Model], name: str) -> Model:
    try:
        if b"null" in raw:
            # Go writes an empty list that was never made as null: a FROM scratch image without layers.
            found = msgspec.json.decode(raw, type=dict[str, Any])
            found.update({field: [] for field in ("layers", "manifests") if found.get(field, ()) is None})
            if isinstance(rootfs := found.get("rootfs"), dict) and rootfs.get("diff_ids", ()) is None:
                rootfs["diff_ids"] = []
            return msgspec.convert(found, type=model)
        return msgspec.json.decode(raw, type=model)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{name} is not a valid {model.__name__}: {reason(error)}", reference=name) from None
    except (DigestInvalidError, DocumentError) as error:
        raise type(error)(f"{name}: {error.message}", reference=name, **error.context) from None


def is_layer(media_type: str) -> bool:
    """Whether it is the media type of a layer that can be read (image-spec, layer.md; Docker's; an erofs image's)."""
    base = next((known for known in _READ_LAYERS if media_type.startswith(known)), None)
    return base is not None and media_type[len(base) :] in _LAYER_COMPRESSIONS


def is_foreign_layer(media_type: str) -> bool:
    """Whether it is the media type of a layer that may be kept elsewhere only.

    See image-spec, layer.md, "Non-Distributable Layers"; Docker calls them foreign.
    """
    return "nondistributable" in media_type or "foreign" in media_type


def oci_layer(media_type: str) -> str:
    """The OCI's media type for a layer of Docker's; any other as it is."""
    return _OCI_LAYERS.get(media_type, media_type)


def fallback_tag(digest: str) -> str:
    """The tag that lists the referrers of a manifest where nothing else does: its digest with `-` for `:`.

    See distribution-spec, "Referrers Tag Schema".
    """
    return digest.replace(":", "-")[:128]


def total_size(descriptors: Iterable[Descriptor]) -> int:
    """Sum of the descriptors' sizes, in bytes."""
    return sum(descriptor.size for descriptor in descriptors)

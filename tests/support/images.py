"""Images made of hand-built layers, right or wrong in every descriptor, as layouts and archives.

Source: OCI image-spec (manifest.md, config.md, image-index.md, image-layout.md); Docker Image Manifest V2, Schema 2;
Docker Image Specification v1.2 (the archive of `docker save`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.support.layers import TarBuilder
from tests.support.run import run

Compression = Literal["gzip", "zstd", "plain"]

OCI = {
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "index": "application/vnd.oci.image.index.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "plain": "application/vnd.oci.image.layer.v1.tar",
}
DOCKER = {
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "index": "application/vnd.docker.distribution.manifest.list.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "zstd": "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "plain": "application/vnd.docker.image.rootfs.diff.tar",
}


def digest_of(data: bytes) -> str:
    """SHA-256 digest of the bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def wrong_digest(data: bytes = b"") -> str:
    """A well-formed digest of other bytes."""
    return digest_of(data + b" but not these bytes")


def as_json(document: Any) -> bytes:
    """A document as bytes, always the same for the same document."""
    return json.dumps(document, separators=(",", ":")).encode()


def compress(data: bytes, compression: Compression) -> bytes:
    """The same bytes for the same data, always."""
    if compression == "gzip":
        return gzip.compress(data, compresslevel=6, mtime=0)
    return run("zstd", "-q", "-c", stdin=data) if compression == "zstd" else data


@dataclass
class Layer:
    """One layer. Everything but `tar` is for layers that lie.

    Attributes:
        tar: the archive, or the builder of one.
        compression: of the blob.
        blob: the bytes that are stored, instead of the compressed archive.
        digest: what the descriptor says.
        size: what the descriptor says.
        diff_id: what the config says.
        media_type: what the descriptor says.
        missing: the blob is not stored.
        urls: where a foreign layer is said to be.
    """

    tar: bytes | TarBuilder
    compression: Compression = "gzip"
    blob: bytes = b""
    digest: str = ""
    size: int | None = None
    diff_id: str = ""
    media_type: str = ""
    missing: bool = False
    urls: Sequence[str] = ()

    def __post_init__(self) -> None:
        tar = self.tar.build() if isinstance(self.tar, TarBuilder) else self.tar
        self.blob = self.blob or compress(tar, self.compression)
        self.digest = self.digest or digest_of(self.blob)
        self.size = len(self.blob) if self.size is None else self.size
        self.diff_id = self.diff_id or digest_of(tar)


@dataclass
class BuiltImage:
    """A manifest or an index with all that it names.

    Attributes:
        raw: the manifest's or index's bytes.
        media_type: of `raw`.
        blobs: config and layers by digest, as they are stored.
        children: an index's manifests and indexes.
        platform: for the index that this image goes into.
        layers: the layers of a manifest.
    """

    raw: bytes
    media_type: str
    blobs: dict[str, bytes] = field(default_factory=dict)
    children: Sequence[BuiltImage] = ()
    platform: dict[str, Any] | None = None
    layers: Sequence[Layer] = ()

    @property
    def digest(self) -> str:
        """Digest of the manifest or index."""
        return digest_of(self.raw)

    @property
    def manifest(self) -> Any:
        """The parsed manifest or index."""
        return json.loads(self.raw)

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """The descriptor of this image; `more` replaces and adds fields."""
        found: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.raw)}
        return {**found, **({"platform": self.platform} if self.platform else {}), **more}

    def documents(self) -> dict[str, BuiltImage]:
        """This image and all below it by digest, children first."""
        found: dict[str, BuiltImage] = {}
        for child in self.children:
            found.update(child.documents())
        return {**found, self.digest: self}

    def all_blobs(self) -> dict[str, bytes]:
        """Configs and layers of this image and all below it."""
        return {digest: data for image in self.documents().values() for digest, data in image.blobs.items()}


def build_image(
    layers: Sequence[Layer | TarBuilder | bytes],
    *,
    config: Mapping[str, Any] | None = None,
    platform: str = "linux/amd64",
    docker: bool = False,
    annotations: Mapping[str, str] | None = None,
    edit_config: Callable[[dict[str, Any]], None] | None = None,
    edit_manifest: Callable[[dict[str, Any]], None] | None = None,
) -> BuiltImage:
    """An image of the layers, bottom layer first.

    Args:
        layers: bare archives become gzip layers.
        config: the `config` object of the image config (`Entrypoint`, `Env`, ...).
        platform: `os/architecture[/variant]`.
        docker: Docker's media types instead of OCI's.
        annotations: of the manifest.
        edit_config: changes the image config before it is stored.
        edit_manifest: changes the manifest before it is stored.
    """
    types = DOCKER if docker else OCI
    built = [layer if isinstance(layer, Layer) else Layer(layer) for layer in layers]
    system, architecture, *variant = platform.split("/")
    where: dict[str, Any] = {"architecture": architecture, "os": system, **({"variant": variant[0]} if variant else {})}
    image_config = {
        **where,
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in built]},
    }
    if edit_config:
        edit_config(image_config)
    config_raw = as_json(image_config)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": types["manifest"],
        "config": {"mediaType": types["config"], "digest": digest_of(config_raw), "size": len(config_raw)},
        "layers": [
            {
                "mediaType": layer.media_type or types[layer.compression],
                "digest": layer.digest,
                "size": layer.size,
                **({"urls": list(layer.urls)} if layer.urls else {}),
            }
            for layer in built
        ],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    if edit_manifest:
        edit_manifest(manifest)
    blobs = {layer.digest: layer.blob for layer in built if not layer.missing}
    blobs[digest_of(config_raw)] = config_raw
    return BuiltImage(as_json(manifest), types["manifest"], blobs, platform=where, layers=built)


def build_index(
    children: Sequence[BuiltImage],
    *,
    docker: bool = False,
    edit: Callable[[dict[str, Any]], None] | None = None,
) -> BuiltImage:
    """An index of images and indexes, each with its platform."""
    types = DOCKER if docker else OCI
    index: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": types["index"],
        "manifests": [child.descriptor() for child in children],
    }
    if edit:
        edit(index)
    return BuiltImage(as_json(index), types["index"], children=list(children))


def layout_files(images: Mapping[str, BuiltImage]) -> dict[str, bytes]:
    """The files of an image layout by path; `images` by tag, "" for an image without a name."""
    files = {"oci-layout": as_json({"imageLayoutVersion": "1.0.0"})}
    manifests = []
    for tag, image in images.items():
        for digest, document in image.documents().items():
            files[f"blobs/{digest.replace(':', '/')}"] = document.raw
        for digest, data in image.all_blobs().items():
            files[f"blobs/{digest.replace(':', '/')}"] = data
        named = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
        manifests.append(image.descriptor(**named))
    files["index.json"] = as_json({"schemaVersion": 2, "mediaType": OCI["index"], "manifests": manifests})
    return files


def write_layout(folder: Path, images: Mapping[str, BuiltImage] | BuiltImage, *, tag: str = "app") -> Path:
    """Writes an image layout and returns its folder."""
    for name, data in layout_files({tag: images} if isinstance(images, BuiltImage) else images).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_oci_archive(file: Path, images: Mapping[str, BuiltImage] | BuiltImage, *, tag: str = "app") -> Path:
    """Writes a layout as a tar and returns the file."""
    archive = TarBuilder()
    for name, data in layout_files({tag: images} if isinstance(images, BuiltImage) else images).items():
        archive.file(name, data)
    file.write_bytes(archive.build())
    return file


def write_docker_archive(file: Path, images: Mapping[str, BuiltImage]) -> Path:
    """Writes what `docker save` writes and returns the file; `images` by `NAME:TAG`.

    Layers are stored as they are in the image: compressed ones stay compressed, as `docker load` takes them.
    """
    archive, manifest = TarBuilder(), []
    for name, image in images.items():
        config = image.manifest["config"]["digest"].removeprefix("sha256:") + ".json"
        archive.file(config, image.blobs[image.manifest["config"]["digest"]])
        paths = []
        for layer in image.layers:
            folder = layer.diff_id.removeprefix("sha256:")
            paths.append(f"{folder}/layer.tar")
            if not layer.missing:
                archive.directory(folder).file(paths[-1], layer.blob)
        manifest.append({"Config": config, "RepoTags": [name] if name else None, "Layers": paths})
    archive.file("manifest.json", as_json(manifest))
    file.write_bytes(archive.build())
    return file

"""Docker archives, as `docker save` writes them, read where they stand.

Such a tar has `manifest.json`, which lists for every image its config and its layers; there is no image manifest. Four
generations exist: `repositories` alone (see the module of that name); layers as `ID/layer.tar`, equal ones as symlinks
to each other; layers as `HEX.tar` (skopeo, podman); and, since Docker 25, an image layout with `manifest.json` beside.
The last one has the true manifest, which is taken when all that it names is there. Otherwise a schema 2 manifest is
made: its layers are the tars as they are, so that their digests are the config's diff IDs.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from ocifast import _core
from ocifast.digests import digest_of
from ocifast.errors import (
    BlobNotFoundError,
    DigestMismatchError,
    DocumentError,
    ImageNotFoundError,
    ImageReferenceError,
    OcifastError,
    reason,
)
from ocifast.patterns import pattern
from ocifast.platforms import listing
from ocifast.reference import DEFAULT_TAG, Reference
from ocifast.sources import FileSlice
from ocifast.sources.blobs import BytesBlob, FileBlob
from ocifast.sources.layout import blob_parts
from ocifast.sources.members import Members
from ocifast.sources.repositories import Repositories, SavedImage
from ocifast.sources.verify import check_bytes, read_small
from ocifast.spec import (
    CONFIG_LIMIT,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFEST_LIMIT,
    MANIFESTS,
    OCI_INDEX,
    OCI_LAYER_ZSTD,
    Descriptor,
    Document,
    decode_config,
    decode_index,
    decode_manifest,
    parse_document,
)

__all__ = ["DockerArchiveSource", "open_docker_archive"]

LISTING_LIMIT = 16 << 20
"""Most bytes of a `manifest.json` that are read."""
_NESTING = 3
_BLOB_NAME = pattern(r"blobs/sha256/(?P<hex>[0-9a-f]{64})")


class DockerArchiveSource:
    """One image of a Docker archive.

    Args:
        members: of the archive; closed by `close`, and by the caller when this raises.
        name: how the user wrote the place.
        reference: one of the image's `RepoTags`; `latest` when it has no tag.
        position: the image's number in `manifest.json`, from 0; with neither, the archive must hold one image.
        held: closed by `close`: what lasts as long as the archive is read.

    Raises:
        ImageNotFoundError: no Docker archive, or no such image in it.
        DocumentError, FileError: see `Members`.
    """

    def __init__(
        self,
        members: Members,
        *,
        name: str,
        reference: Reference | None = None,
        position: int | None = None,
        held: ExitStack | None = None,
    ) -> None:
        self.name = name
        self._held = held
        self._members = members
        self._blobs: dict[str, FileSlice] = {}
        self._made: dict[str, bytes] = {}
        raw = self._members.read("manifest.json", LISTING_LIMIT)
        if raw is not None:
            saved = self._pick(self._images(raw), reference, position)
            self._root = self._true_manifest(saved) or self._made_manifest(saved)
        else:
            old = Repositories(members, name=name)
            saved = self._pick(old.images, reference, position)
            config, layers = old.image(saved.config)
            self._root = self._manifest_of(config, [self._layer(member, diff_id) for member, diff_id in layers])

    def root(self) -> Document:
        """The archive's own manifest, or the one made for it (see `Source.root`)."""
        return self._root

    def document(self, descriptor: Descriptor) -> Document:
        """A manifest of the archive's layout (see `Source.document`)."""
        raw = read_small(self.blob(descriptor), descriptor, MANIFEST_LIMIT, name=self.name)
        return parse_document(raw, descriptor.media_type, name=f"{self.name}: manifest {descriptor.digest}")

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether the archive has it (see `Source.holds`)."""
        return self._members.find("/".join(blob_parts(descriptor.digest))) is not None

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> FileBlob | BytesBlob:
        """The config or a layer, as a slice of the archive (see `Source.blob`)."""
        made = self._made.get(descriptor.digest)
        if made is not None:
            return BytesBlob(made[offset : descriptor.size + 1])
        found = self._blobs.get(descriptor.digest) or self._members.find("/".join(blob_parts(descriptor.digest)))
        return FileBlob.of(found, descriptor, offset, name=self.name)

    def close(self) -> None:
        """Removes what was unpacked, and what the archive waited in."""
        self._members.close()
        if self._held is not None:
            self._held.close()

    def _images(self, raw: bytes) -> list[SavedImage]:
        try:
            found = msgspec.json.decode(raw, type=list[dict[str, Any]])
            lowered = [{field.lower(): value for field, value in image.items()} for image in found]
            return msgspec.convert(lowered, type=list[SavedImage])
        except (ValueError, RecursionError) as error:
            raise DocumentError(
                f"{self.name}: manifest.json is not valid: {reason(error)}", reference=self.name
            ) from None

    def _pick(self, images: list[SavedImage], reference: Reference | None, position: int | None) -> SavedImage:
        if position is not None:
            if position >= len(images):
                raise ImageNotFoundError(f"{self.name}: the archive has {len(images)} images, the first is @0")
            return images[position]
        names = [name for image in images for name in image.repo_tags or ()]
        if reference is not None:
            wanted = str(reference)
            for image in images:
                if any(_normal(name) == wanted for name in image.repo_tags or ()):
                    return image
            bare = reference.repository.removeprefix("library/")
            if reference.name == f"docker.io/library/{bare}" and reference.tag is None and "/" not in bare:
                # What looks like a short name may be a tag.
                tagged = [image for image in images if any(_has_tag(bare, name) for name in image.repo_tags or ())]
                if len(tagged) == 1:
                    return tagged[0]
            raise ImageNotFoundError(
                f"{self.name}: there is no {reference}; the archive has {listing(names) or 'no names, use @0'}",
                reference=self.name,
            )
        if len(images) == 1:
            return images[0]
        if not images:
            raise ImageNotFoundError(f"{self.name}: the archive holds no image", reference=self.name)
        raise ImageReferenceError(
            f"{self.name}: the archive holds {len(images)} images; name one of {listing(names) or '@0, @1, …'}"
        )

    def _config(self, saved: SavedImage) -> tuple[bytes, FileSlice]:
        raw = self._members.read(saved.config, CONFIG_LIMIT)
        found = self._members.find(saved.config)
        if raw is None or found is None:
            raise BlobNotFoundError(f"{self.name}: the config {saved.config!r} is missing", reference=self.name)
        # In a layout a name is a digest. Elsewhere it promises nothing: Docker and all others take any.
        stated = _BLOB_NAME.fullmatch(posixpath.normpath(saved.config))
        seen = _core.digest(raw)
        if stated is not None and seen != f"sha256:{stated['hex']}":
            raise DigestMismatchError(
                f"{self.name}: a config's digest should be sha256:{stated['hex']}, but is {seen}",
                reference=self.name,
                expected=f"sha256:{stated['hex']}",
                seen=seen,
            )
        return raw, found

    def _made_manifest(self, saved: SavedImage) -> Document:
        raw, place = self._config(saved)
        config = Descriptor(DOCKER_CONFIG, _core.digest(raw), len(raw))
        self._blobs[config.digest] = place
        diff_ids = decode_config(raw, name=f"{self.name}: config").rootfs.diff_ids
        layers = saved.layers or ()
        if len(layers) != len(diff_ids):
            raise DocumentError(
                f"{self.name}: manifest.json has {len(layers)} layers, but the config {len(diff_ids)} diff IDs",
                reference=self.name,
            )
        return self._manifest(config, [self._layer(*each) for each in zip(layers, diff_ids, strict=True)])

    def _manifest_of(self, config: bytes, layers: list[Descriptor]) -> Document:
        """The manifest of a config that was made here."""
        descriptor = Descriptor(DOCKER_CONFIG, _core.digest(config), len(config))
        self._made[descriptor.digest] = config
        return self._manifest(descriptor, layers)

    def _manifest(self, config: Descriptor, described: list[Descriptor]) -> Document:
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": config,
            "layers": described,
        }
        return Document(DOCKER_MANIFEST, msgspec.json.encode(manifest))

    def _layer(self, member: str, diff_id: str) -> Descriptor:
        found = self._members.find(member)
        if found is None:
            raise BlobNotFoundError(
                f"{self.name}: the layer {member!r} ({diff_id}) is missing", reference=self.name, layer=diff_id
            )
        magic = b"".join(FileBlob(found.path, found.offset, min(found.length, 4), name=self.name))
        kinds = {b"\x1f\x8b": DOCKER_LAYER_GZIP, b"\x28\xb5\x2f\xfd": OCI_LAYER_ZSTD}
        kind = next((kind for known, kind in kinds.items() if magic.startswith(known)), DOCKER_LAYER)
        digest = diff_id
        if kind != DOCKER_LAYER:
            # Compressed against the custom: its digest stands nowhere, so it is taken from the bytes.
            digest = digest_of(FileBlob(found.path, found.offset, found.length, name=self.name))
        self._blobs[digest] = found
        return Descriptor(kind, digest, found.length)

    def _true_manifest(self, saved: SavedImage) -> Document | None:
        """The manifest of the image in the archive's layout, when there is one and it is complete."""
        raw = self._members.read("index.json", LISTING_LIMIT)
        if raw is None or self._members.find("oci-layout") is None:
            return None
        wanted = _core.digest(self._config(saved)[0])
        try:
            for document in self._manifests(Document(OCI_INDEX, raw), _NESTING):
                manifest = decode_manifest(document, name=self.name)
                if manifest.config.digest == wanted and all(self._holds(layer) for layer in manifest.layers):
                    return document
        except OcifastError:
            # What `manifest.json` says is enough, and is what Docker itself reads.
            return None
        return None

    def _manifests(self, index: Document, depth: int) -> Iterator[Document]:
        for entry in decode_index(index, name=self.name).manifests:
            found = self._members.find("/".join(blob_parts(entry.digest)))
            # `docker save` leaves out the platforms that it has not got.
            if found is None or entry.media_type not in MANIFESTS | INDEXES or entry.size > MANIFEST_LIMIT:
                continue
            raw = b"".join(self.blob(entry))
            check_bytes(entry, raw, name=self.name)
            document = parse_document(raw, entry.media_type, name=self.name)
            if not document.is_index:
                yield document
            elif depth > 0:
                yield from self._manifests(document, depth - 1)

    def _holds(self, descriptor: Descriptor) -> bool:
        found = self._members.find("/".join(blob_parts(descriptor.digest)))
        return found is not None and found.length == descriptor.size


def open_docker_archive(
    path: Path,
    *,
    name: str,
    reference: Reference | None = None,
    position: int | None = None,
    held: ExitStack | None = None,
) -> DockerArchiveSource:
    """An image of a Docker archive; `path` as `Members` takes it, the rest as `DockerArchiveSource`.

    Raises:
        ImageNotFoundError: no Docker archive, or no such image in it.
        DocumentError, FileError: see `Members`.
    """
    members = Members(path, name=name)
    try:
        if members.find("manifest.json") is None and members.find("repositories") is None:
            is_oci = members.find("oci-layout") is not None or members.find("index.json") is not None
            hint = f"an OCI archive, write oci-archive:{path}" if is_oci else "no image archive"
            raise ImageNotFoundError(f"{name}: the file has no manifest.json; it is {hint}", reference=name)
        return DockerArchiveSource(members, name=name, reference=reference, position=position, held=held)
    except BaseException:
        members.close()
        raise


def _has_tag(tag: str, name: str) -> bool:
    try:
        return (Reference.parse(name).tag or DEFAULT_TAG) == tag
    except ImageReferenceError:
        return False


def _normal(name: str) -> str | None:
    try:
        return str(Reference.parse(name))
    except ImageReferenceError:
        return None

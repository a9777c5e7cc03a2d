"""Layers handed to containerd: files in the layout of its erofs snapshotter's `layer_content_caches`.

    ALGORITHM/XX/HEX.erofs              a layer as an erofs image of it alone, by diff ID
    ALGORITHM/XX/HEX.erofs.dmverity     root hash and offset of the hash tree that is appended to it, as JSON

(containerd, internal/erofsutils/mount.go, `CacheBlobPath`; internal/dmverity/dmverity.go, `DmverityMetadata`.)

The cache's own `layers/` is never handed on: containerd knows none of the locks by which its readers and `cache prune`
tell each other of a layer, and root would mount files that a user can write.
"""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ocifast import _core
from ocifast.atomic import NewFile, PrivateFolder, reported, sweep_folder
from ocifast.cache import Cache
from ocifast.cache.layers import DecodedLayer
from ocifast.decoded import Layers
from ocifast.errors import CancelledError, FileError, UsageError
from ocifast.file_data import clone_file
from ocifast.flatten import FlattenOptions
from ocifast.image import Image, open_image
from ocifast.layer_folder import LayerFolder
from ocifast.models import readable
from ocifast.progress import Progress, silent
from ocifast.records import dataclass
from ocifast.refusals import flush, flush_folder, locked_folder, processors
from ocifast.spec import Platform
from ocifast.standalone import refuse_unfit, standalone_layers

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["ExportedLayer", "export_layers"]

_SALT = bytes(32)
"""What containerd's own `DefaultDmverityOptions` has."""
_NAMESPACE = "ocifast, containerd layer, "


@readable
class _Sidecar(msgspec.Struct, frozen=True):
    """What containerd reads beside a layer."""

    roothash: str
    hashoffset: int


@dataclass(frozen=True)
class ExportedLayer:
    """A layer that is in the folder.

    Attributes:
        diff_id: digest of the decompressed layer.
        path: of the image.
        size: of the image in bytes, with its hash tree.
        root_hash: of dm-verity, in hexadecimal; None without a sidecar.
        hash_offset: where the superblock of dm-verity is, in bytes; None without a sidecar.
        existed: it was there already, and was not read.
    """

    diff_id: str
    path: Path
    size: int
    root_hash: str | None
    hash_offset: int | None
    existed: bool


def export_layers(
    images: Sequence[str | Image],
    folder: str | os.PathLike[str],
    *,
    verity: bool = False,
    sync: bool = True,
    platform: Platform | str | None = None,
    options: RegistryOptions | None = None,
    cache: Cache | None = None,
    offline: bool | None = None,
    refresh: bool = False,
    flattening: FlattenOptions | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[ExportedLayer, ...]:
    """Fills a layer content cache of containerd.

    Layers that are kept decoded are copied, with shared blocks where the file system can; others are decoded first, and
    kept. Each file appears whole or not at all; what is there is never changed, and several runs may fill one folder.

    Args:
        images: where they are, as `ocifast.open` takes it, or images, which are left open.
        folder: the layer content cache; made where it is missing. Files are the caller's, mode 0444.
        verity: appends the hash tree of dm-verity, as containerd makes it, and writes the sidecar.
        sync: whether files are brought to the disk before they have their names.
        platform: which image of an index, for images that are named.
        options: how registries are spoken to, for images that are named.
        cache: of blobs and decoded layers; None keeps nothing, and decodes all that the folder has not.
        offline: as of `ocifast.open`, for images that are named; so is the next.
        refresh: the registry is asked again.
        flattening: how many layers at a time, and bounds on what they may ask for.
        threads: that hash side by side; None for what the machine has.
        progress: gets the events of layers.
        cancelled: asked several times a second.

    Returns:
        All layers of the images, each once, the lowest of the first image first.

    Raises:
        ImageReferenceError, SourceError, VerificationError, LayerError.
        OutputUnsupportedError: a layer that overlayfs would show differently than the image has it, or one that is an
            erofs image already; nothing is written then.
        UsageError: a layer is there without dm-verity, and dm-verity is wanted; platform or options for an open image.
        FileError: the folder is not the caller's alone, or a file could not be written.
        CancelledError: `cancelled` said so.
    """
    stopped = cancelled or (lambda: False)
    with ExitStack() as stack:
        opened = []
        for image in images:
            if isinstance(image, str):
                image = stack.enter_context(
                    open_image(image, platform=platform, options=options, cache=cache, offline=offline, refresh=refresh)
                )
            elif platform is not None or options is not None:
                raise UsageError("a platform and options are for images that are named, not for one that is open")
            refuse_unfit(image)
            opened.append(image)
        place = _Place(folder, stack, verity=verity, sync=sync)
        wanted = list(dict.fromkeys(diff_id for image in opened for diff_id in image.diff_ids))
        missing = {diff_id for diff_id in wanted if not place.has(diff_id)}
        # Held until the end, so that nobody removes one in between.
        held: dict[str, DecodedLayer] = {}
        flattening = flattening or FlattenOptions()
        for image in opened:
            layers = [diff_id for diff_id in image.diff_ids if diff_id in missing - held.keys()]
            held |= standalone_layers(
                image,
                layers,
                _store(cache, place, stack),
                stack,
                options=flattening,
                progress=progress,
                cancelled=cancelled,
            )
        return tuple(place.put(diff_id, held.get(diff_id), threads or processors(), stopped) for diff_id in wanted)


def _store(cache: Cache | None, place: _Place, stack: ExitStack) -> Layers:
    """Where layers are decoded to: the cache, or else a folder that goes away."""
    if cache is not None:
        return cache.decoded
    return stack.enter_context(LayerFolder(place.private(stack), sync=False)).use(None, keep=False)


class _Place:
    """The folder that is filled.

    Args:
        folder: where it is; made where it is missing.
        stack: closes what is opened.
        verity: whether layers have sidecars.
        sync: whether files are brought to the disk before they have their names.

    Raises:
        FileError: others could change what is in it, or it cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], stack: ExitStack, *, verity: bool, sync: bool) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._verity = verity
        self._sync = sync
        self._private: Path | None = None
        with reported(self._folder):
            with contextlib.suppress(FileExistsError):
                self._folder.mkdir(mode=0o755)
            self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, self._fd)
            sweep_folder(self._folder)
        self._check(self._folder)

    def has(self, diff_id: str) -> bool:
        """Whether a layer is there, as it is wanted."""
        image, sidecar = self._paths(diff_id)
        if not image.exists():
            return False
        if self._verity and not sidecar.exists():
            raise UsageError(f"{image} is there without dm-verity, and is not changed; name another folder")
        return True

    def private(self, stack: ExitStack) -> Path:
        """A folder in it that goes away with `stack`."""
        if self._private is None:
            with reported(self._folder):
                folder = stack.enter_context(PrivateFolder(self._folder))
                self._private = folder.subfolder("decoded")
        return self._private

    def put(self, diff_id: str, layer: DecodedLayer | None, threads: int, stopped: Callable[[], bool]) -> ExportedLayer:
        """Gives a layer its files, unless it has them.

        Args:
            diff_id: whose it is.
            layer: decoded; None for one that is there.
            threads: that hash.
            stopped: whether to stop.
        """
        image, sidecar = self._paths(diff_id)
        if layer is None:
            return self._found(diff_id)
        if stopped():
            raise CancelledError("the work was called off")
        for folder in (image.parent.parent, image.parent):
            with reported(folder), contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o755)
            self._check(folder)
        with reported(image), NewFile(self._folder, mode=0o600) as file:
            clone_file(layer.data, file.fd)
            # A killed run may have left the sidecar; only an image with that hash tree may be published beside it.
            said = self._seal(diff_id, file, threads, stopped) if self._verity or sidecar.exists() else None
            os.fchmod(file.fd, 0o444)
            if self._sync:
                flush(file.fd)
            # So that an image and its sidecar are of one run.
            with locked_folder(self._folder):
                if image.exists():
                    self.has(diff_id)
                    return self._found(diff_id)
                if sidecar.exists() and (said is None or _read(sidecar) != said):
                    raise FileError(f"{sidecar} is there without its image, and is of another; remove it")
                if said is not None and not sidecar.exists():
                    with NewFile(self._folder, mode=0o600) as told:
                        os.write(told.fd, msgspec.json.encode(said))
                        os.fchmod(told.fd, 0o444)
                        if self._sync:
                            flush(told.fd)
                        told.path.rename(sidecar)
                file.path.rename(image)
            if self._sync:
                flush_folder(image.parent)
        return replace(self._found(diff_id), existed=False)

    def _seal(self, diff_id: str, file: NewFile, threads: int, stopped: Callable[[], bool]) -> _Sidecar:
        def tell(done: int, total: int) -> None:
            if stopped():
                raise CancelledError("the work was called off")

        name = uuid.uuid5(uuid.NAMESPACE_OID, f"{_NAMESPACE}{diff_id}")
        root, offset, _ = _core.seal_verity(file.path, salt=_SALT, uuid=name.bytes, threads=threads, progress=tell)
        return _Sidecar(bytes(root).hex(), offset)

    def _found(self, diff_id: str) -> ExportedLayer:
        image, sidecar = self._paths(diff_id)
        with reported(image):
            said = _read(sidecar) if sidecar.exists() else None
            root, offset = (None, None) if said is None else (said.roothash, said.hashoffset)
            return ExportedLayer(diff_id, image, image.stat().st_size, root, offset, True)

    def _paths(self, diff_id: str) -> tuple[Path, Path]:
        algorithm, _, encoded = diff_id.partition(":")
        image = self._folder / algorithm / encoded[:2] / f"{encoded}.erofs"
        return image, image.with_name(f"{image.name}.dmverity")

    def _check(self, folder: Path) -> None:
        with reported(folder):
            status = folder.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
            raise FileError(
                f"{folder} is not yours alone: who can write to it could change what containerd mounts; name another "
                "folder, or take the right to write from others (chmod go-w)"
            )


def _read(sidecar: Path) -> _Sidecar | None:
    try:
        return msgspec.json.decode(sidecar.read_bytes(), type=_Sidecar)
    except (msgspec.DecodeError, OSError) as error:
        raise FileError(f"{sidecar} says nothing of dm-verity: {error}; remove it, or name another folder") from error

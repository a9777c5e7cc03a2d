"""What is in a cache: found, counted, removed and hashed, one thing at a time."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ocifast.atomic import sweep_folder
from ocifast.cache.blobs import BlobStore
from ocifast.cache.folder import CacheFolder
from ocifast.cache.layers import LayerStore
from ocifast.cache.outputs import OutputStore
from ocifast.cache.points import PointStore
from ocifast.cache.references import ReferenceStore
from ocifast.errors import OcifastError
from ocifast.logs import logger
from ocifast.records import dataclass
from ocifast.spec import Descriptor

__all__ = ["CacheEntry", "Contents"]

_log = logger(__name__)


@dataclass(frozen=True)
class CacheEntry:
    """One thing in a cache.

    Attributes:
        kind: "blob", "partial" (the beginning of a blob), "layer" (a decoded one), "output" or "reference".
        name: digest of the blob, diff ID of the layer, key of the output or the reference.
        size: bytes on disk, of a blob with its restart points; what shares extents with other files counts whole.
        used: when it was used last, in seconds since 1970.
        reference: the image that an output was made of first, as it was asked for, or whose digest is known; None where
            it is not known.
        format: of an output; None of all else.
    """

    kind: str
    name: str
    size: int
    used: float
    reference: str | None = None
    format: str | None = None


class Contents:
    """All that is in a cache.

    Args:
        folder: the cache's folder.
        blobs: its blobs.
        layers: its decoded layers.
        outputs: its outputs.
        references: what names meant.
    """

    def __init__(
        self,
        folder: CacheFolder,
        blobs: BlobStore,
        layers: LayerStore,
        outputs: OutputStore,
        references: ReferenceStore,
    ) -> None:
        self._folder = folder
        self._blobs = blobs
        self._layers = layers
        self._outputs = outputs
        self._references = references
        self.points = PointStore(folder)

    def entries(self, *, described: bool = False) -> Iterator[CacheEntry]:
        """Everything, in no order.

        Args:
            described: whether outputs say what they were made of, for which each must be looked at.
        """
        for path in self._folder.path.glob("blobs/*/*"):
            if path.suffix == ".tmp":
                continue
            with contextlib.suppress(OSError):
                status = path.lstat()
                kind = "partial" if path.suffix == ".part" else "blob"
                name = f"{path.parent.name}:{path.name}".removesuffix(".part")
                beside = self.points.size(name) if kind == "blob" else 0
                yield CacheEntry(kind, name, status.st_blocks * 512 + beside, status.st_mtime)
        for path in self._folder.path.glob("outputs/*"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                size = status.st_blocks * 512
                if stat.S_ISDIR(status.st_mode):
                    size = sum(_size(inner) for inner in path.iterdir())
                facts = self._outputs.facts(path.name) if described else {}
                reference, form = facts.get("reference"), facts.get("format")
                yield CacheEntry("output", path.name, size, status.st_mtime, reference, form)
        for path, size, used in self._layers.items():
            yield CacheEntry("layer", f"{path.parent.parent.name}:{path.stem}", size, used)
        for name, size, used, resolved in self._references.items():
            yield CacheEntry("reference", name, size, used, None if resolved is None else resolved.reference)

    def remove(self, entry: CacheEntry) -> bool:
        """Removes one, unless it is being written, read or waited for, or cannot be removed, which is a warning."""
        try:
            match entry.kind:
                case "partial":
                    return self._blobs.remove_partial(self._path(entry))
                case "layer":
                    return self._layers.remove(self._path(entry))
                case "output":
                    return self._outputs.remove(entry.name)
                case "reference":
                    self._references.remove(entry.name)
                    return True
            self._path(entry).unlink()
            self.points.remove(entry.name)
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.warning("cannot remove %s from the cache: %s", self._path(entry), error.strerror or error)
            return False
        return True

    def is_whole(self, entry: CacheEntry) -> bool:
        """Hashes one; what is damaged is removed, with a line in the log. The beginning of a blob has no digest."""
        match entry.kind:
            case "blob":
                try:
                    descriptor = Descriptor("", entry.name, self._path(entry).lstat().st_size)
                    whole = self._blobs.verify(descriptor)
                    # Points that are damaged are removed; the blob is as whole without.
                    self.points.check(entry.name, descriptor.size)
                except FileNotFoundError:
                    return True
                except (OcifastError, ValueError, OSError) as error:
                    _log.warning("cached blob %s is damaged: %s", self._path(entry), error)
                    whole = False
            case "layer":
                layer = self._layers.get(entry.name, always=True)
                whole = layer is not None
                if layer is not None:
                    layer.close()
            case "output":
                if not os.path.lexists(self._path(entry) / "entry.json"):
                    # A removal that was killed begins with this file: without it there is no output any more.
                    self.remove(entry)
                    return True
                with self._outputs.lock(entry.name):
                    whole = self._outputs.get(entry.name, always=True) is not None
            case "reference":
                whole = entry.reference is not None
            case _:
                return True
        if not whole and os.path.lexists(self._path(entry)):
            self.remove(entry)
        return whole

    def sweep(self) -> None:
        """Removes what dead runs have left."""
        self._layers.sweep()
        self.points.sweep()
        root = self._folder.path
        for folder in (root / "tmp", root / "references", *root.glob("blobs/*"), *root.glob("outputs/*")):
            sweep_folder(folder)

    def _path(self, entry: CacheEntry) -> Path:
        algorithm, _, encoded = entry.name.partition(":")
        folder = self._folder.path
        match entry.kind:
            case "output":
                return folder / "outputs" / entry.name
            case "reference":
                return self._references.path(entry.name)
            case "layer":
                return folder / "layers" / algorithm / encoded[:2] / f"{encoded}.entries"
            case "partial":
                return folder / "blobs" / algorithm / f"{encoded}.part"
        return folder / "blobs" / algorithm / encoded


def _size(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0

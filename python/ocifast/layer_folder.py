"""An output that is a folder of decoded layers, which the images in it share.

    layers/ALGORITHM/XX/HEX.erofs      a layer's data, an erofs image of it alone, by diff ID
    layers/ALGORITHM/XX/HEX.entries    the table of its entries, for the next image that has it
    layers/private/HEX.data            data of a layer without what was left out, by its own digest

The two kinds of files of a layer are those of the cache (`ocifast.cache.layers`), and trusted in the same way.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from ocifast import _core
from ocifast.atomic import PrivateFolder, reported, sweep_folder
from ocifast.cache.folder import CacheFolder
from ocifast.cache.layers import DecodedLayer, LayerStore, LayerWriter
from ocifast.errors import FileError, OcifastError, UsageError
from ocifast.refusals import flush, flush_folder

__all__ = ["LayerFolder", "layer_path"]


def layer_path(diff_id: str) -> str:
    """Where the data of a layer are, below the folder."""
    algorithm, _, encoded = diff_id.partition(":")
    return f"layers/{algorithm}/{encoded[:2]}/{encoded}.erofs"


class LayerFolder:
    """The folder, and a private folder in it, which is removed when the block ends.

    Args:
        destination: a folder of images with layers, an empty one, or nothing.
        sync: whether an image's files are brought to the disk before they have their names; layers always are.

    Attributes:
        destination: where the output goes; a symbolic link is followed.
        path: leads into the private folder.

    Raises:
        UsageError: something else is there.
        FileError: it belongs to another user, others may write to it, or it cannot be made.
    """

    def __init__(self, destination: str | os.PathLike[str], *, sync: bool = True) -> None:
        self.destination = Path(os.path.realpath(destination))
        self._shown = os.fspath(destination)
        self._sync = sync
        self._is_new = False
        with reported(Path(self._shown)):
            self._prepare()
            self._private = PrivateFolder(self.destination)
        self.path = self._private.path
        self._layers: LayerStore | None = None
        self._cached: LayerStore | None = None
        self._keeps = False

    def use(self, cached: LayerStore | None, *, keep: bool) -> LayerFolder:
        """Says which cache layers are taken from.

        Args:
            cached: its layers; None for none.
            keep: whether those that are decoded go into it as well.
        """
        self._layers = LayerStore(_FolderOfLayers(self.destination))
        self._cached, self._keeps = cached, keep
        return self

    def get(self, diff_id: str) -> DecodedLayer | None:
        """A layer of the folder, or of the cache, which then is in the folder as well."""
        assert self._layers is not None
        found = self._layers.get(diff_id)
        if found is None and self._cached is not None and self._layers.take_over(self._cached, diff_id):
            found = self._layers.get(diff_id)
        return found

    def writer(self, diff_id: str) -> LayerWriter:
        """Begins a layer of the folder, which goes into the cache as well where that is wanted."""
        assert self._layers is not None
        return _FolderWriter(
            self._layers, _FolderOfLayers(self.destination), diff_id, self._cached if self._keeps else None
        )

    def claimed(self, diff_ids: Iterable[str], *, stopped: Callable[[], bool]) -> AbstractContextManager[None]:
        """Keeps other runs from decoding the same layers into the folder; see `LayerStore.claimed`."""
        assert self._layers is not None
        return self._layers.claimed(diff_ids, stopped=stopped)

    def subfolder(self, name: str) -> Path:
        """A new empty folder, mode 0700, in the private one."""
        with reported(self.destination):
            return self._private.subfolder(name)

    def publish(self, made: Path, facts: Mapping[str, Any]) -> None:
        """Gives the files of a folder their names here; those of the same name are replaced, each in one step.

        Args:
            made: a folder in the private one: files and `layers/private/`. Its one `NAME.json` gets its name last:
                it says how the rest belongs together.
            facts: what `NAME.json` says besides.

        Raises:
            FileError: the disk is full, or fails; `NAME.json` is what it was before.
        """
        with reported(Path(self._shown)):
            (last,) = made.glob("*.json")
            document = msgspec.json.decode(last.read_bytes())
            last.write_bytes(msgspec.json.format(msgspec.json.encode(document | facts), indent=2) + b"\n")
            private = sorted((made / "layers/private").glob("*"))
            if private:
                (self.destination / "layers/private").mkdir(mode=0o700, parents=True, exist_ok=True)
            names = [path.relative_to(made).as_posix() for path in private]
            names += [path.name for path in sorted(made.iterdir()) if path.is_file() and path != last]
            for name in [*names, last.name]:
                if self._sync:
                    with (made / name).open("rb") as file:
                        flush(file.fileno())
                self._private.publish(f"{made.name}/{name}", name, sync=self._sync)
            if private:
                flush_folder(self.destination / "layers/private")
        self._is_new = False

    def rescue(self, made: Path) -> Path | None:
        """Nothing is kept aside as `Workspace.rescue` does: the layers are there, and the rest is made in a moment."""
        return None

    def _prepare(self) -> None:
        parent = self.destination.parent
        if not parent.is_dir():
            raise FileError(f"{self._shown}: there is no folder {parent}; make it first")
        with contextlib.suppress(FileExistsError):
            self.destination.mkdir(mode=0o755)
            self._is_new = True
        status = self.destination.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{self._shown} is there and is no directory")
        sweep_folder(self.destination)
        names = {path.name for path in self.destination.iterdir() if not path.name.startswith(".ocifast")}
        if names and "layers" not in names:
            raise UsageError(f"{self._shown} is there and holds something else; name another directory, or empty it")
        layers = self.destination / "layers"
        for folder in (self.destination, *([layers] if names else [])):
            status = folder.lstat()
            if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
                raise FileError(
                    f"{folder} is not yours alone: its layers could be anybody's; name another directory, or take the "
                    "right to write from others (chmod go-w)"
                )

    def __enter__(self) -> LayerFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._private.close()
        # What another run has begun to put there stays.
        if self._is_new and not any(self.destination.glob("*.json")) and not any(self.destination.glob(".ocifast*")):
            import shutil

            shutil.rmtree(self.destination, ignore_errors=True)


class _FolderOfLayers(CacheFolder):
    """The folder as a store of layers has it: a layer that cannot be written is an error."""

    def is_readable(self) -> bool:
        return True

    def is_writable(self) -> bool:
        return True

    def beside(self) -> Path:
        beside = self.path / "layers"
        beside.mkdir(mode=0o700, exist_ok=True)
        sweep_folder(beside)
        return beside

    def locks(self) -> Path:
        return self.path / "layers"

    def failed(self, what: str, error: Exception) -> None:
        if isinstance(error, OcifastError):
            raise error
        raise FileError(f"cannot write {what}: {error}", path=str(self.path)) from error


class _FolderWriter(LayerWriter):
    """A layer on its way into the folder, and into a cache."""

    def __init__(self, store: LayerStore, folder: CacheFolder, diff_id: str, cached: LayerStore | None) -> None:
        super().__init__(store, folder, diff_id)
        self._cached = cached

    def publish(self, kept: _core.KeptLayer) -> None:
        super().publish(kept)
        if self._cached is not None:
            self._cached.take_over(self._store, self._diff_id)

"""Single paths of an image, read from the top: no more layers than the answers need."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType

from ocifast import _core
from ocifast.errors import LayerError, OcifastError, UsageError
from ocifast.intake import FlattenOptions, Intake, decoded_layers, erofs_layers
from ocifast.layered import Layered
from ocifast.progress import Progress, silent
from ocifast.rootfs import Rootfs, RootfsEntry
from ocifast.sources import Blob
from ocifast.spec import Descriptor

__all__ = ["Peek"]


class _FromTop:
    """An image with its layers the other way round."""

    def __init__(self, image: Layered) -> None:
        self._image = image
        self.name = image.name
        self.layers = image.layers[::-1]
        self.diff_ids = image.diff_ids[::-1]

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens a layer."""
        return self._image.blob(descriptor, offset=offset)

    def close(self) -> None:
        """Closes the image."""
        self._image.close()


class Peek:
    """The tree of an image, looked into path by path.

    Each question reads layers from the highest on, one after the other, until no lower one can change the answer:
    whiteouts, opaque marks, links at the path and on the way to it, and hard links are considered, and a layer whose
    entries may be led elsewhere by a link below it makes nothing certain. The answers are those of `Image.flatten`, but
    for the numbers of inodes, and for images that it refuses because of a layer that was not read. Every layer that is
    read is verified. What was read stays until `close`. Safe to use from several threads.

    What is in a directory is known only when a layer hides all that lower ones have there; else all layers are read.
    """

    def __init__(
        self,
        image: Layered,
        *,
        options: FlattenOptions | None = None,
        progress: Progress = silent,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Reads the config, and no layer.

        Args:
            image: where to look; after a failure it is closed.
            options: bounds on what layers may ask for, and where blobs are kept.
            progress: gets the LAYER_ACQUIRE events of the layers that are read.
            cancelled: asked several times a second while a layer arrives.
        """
        options = options or FlattenOptions()
        self.name = image.name
        self._image = _FromTop(image)
        self._read = 0
        self._trees: dict[int, Rootfs] = {}
        self._lock = threading.RLock()
        self._closed = False
        layers = [
            (layer.digest, layer.size, diff_id)
            for layer, diff_id in zip(self._image.layers, self._image.diff_ids, strict=True)
        ]
        import tempfile

        with ExitStack() as resources:
            folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-"))
            self._flattener = _core.Flattener(
                layers,
                store="spool",
                folder=folder,
                limits=options.limits,
                decoders=options.decoders,
                from_top=True,
                erofs=erofs_layers(self._image.layers),
            )
            resources.callback(self._flattener.abort)
            decoded = decoded_layers(resources, self._image, self._flattener, options, len(layers), cancelled)
            self._intake = Intake(self._image, self._flattener, options, progress, cancelled, decoded, later=True)
            resources.callback(self._intake.points.drop_wrong)
            self._resources = resources.pop_all()

    @property
    def layers_read(self) -> int:
        """How many layers were read so far."""
        return self._read

    def stat(self, path: str | bytes, *, follow: bool = True) -> RootfsEntry:
        """What is at a path, as `Rootfs.stat`.

        Raises:
            PathNotFoundError: nothing is there.
            SourceError, VerificationError, LayerError: a layer could not be read.
        """
        return self._answer(path, "entry", follow=follow).stat(path, follow=follow)

    def resolve(self, path: str | bytes, *, follow: bool = True) -> str:
        """The absolute path that leads to the same without a link on the way. Raises what `stat` does."""
        return self._answer(path, "path", follow=follow).resolve(path, follow=follow)

    def scandir(self, path: str | bytes = "/") -> list[RootfsEntry]:
        """What is in a directory, as `Rootfs.scandir`. Raises what `stat` does, and for what is no directory."""
        return self._answer(path, "children").scandir(path)

    def walk(self, path: str | bytes = "/") -> Iterator[RootfsEntry]:
        """What is in a directory at any depth, and itself, as `Rootfs.walk`. Raises what `stat` does."""
        return self._answer(path, "all").walk(path)

    def open(self, path: str | bytes) -> io.BufferedReader:
        """A regular file, as `Rootfs.open`. Raises what `stat` does, and for what is no regular file."""
        return self._answer(path, "entry").open(path)

    def read_bytes(self, path: str | bytes) -> bytes:
        """The whole content of a regular file. Raises what `open` does."""
        with self.open(path) as file:
            return file.read()

    def close(self) -> None:
        """Frees what was read. Nothing can be read after."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Peek:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        with self._lock:
            self._closed = True
            for rootfs in self._trees.values():
                rootfs.close()
            self._resources.__exit__(kind, value, traceback)

    def _answer(self, path: str | bytes, question: str, *, follow: bool = True) -> Rootfs:
        """A tree that answers the question as that of all layers would."""
        key = os.fsencode(path).strip(b"/")
        with self._lock:
            if self._closed:
                raise UsageError(f"{self.name}: the image is not looked into any more", reference=self.name)
            if not key:
                # Nothing hides the root: all layers have something in it, and are read side by side.
                self._bring(len(self._image.layers) - self._read)
            while True:
                while not self._flattener.settles(key, question, follow=follow):
                    self._bring(1)
                try:
                    return self._tree()
                except LayerError:
                    # Without what is below them layers may not fit together.
                    if self._read == len(self._image.layers):
                        raise
                    self._bring(1)

    def _bring(self, count: int) -> None:
        """Reads the next layers, side by side."""
        layers = self._image.layers
        done = {layer.digest for layer in layers[: self._read]}
        goal = self._read + count
        if count == 0:
            return
        missing = [layer for layer in layers[self._read : goal] if layer.digest not in done]
        try:
            self._intake.bring_some(missing, lambda: self._flattener.wait_for(goal - 1))
        except OcifastError as error:
            raise error.about(self.name) from error.__cause__
        self._read = goal

    def _tree(self) -> Rootfs:
        if self._read not in self._trees:
            try:
                tree = self._flattener.tree_so_far()
            except OcifastError as error:
                raise error.about(self.name) from error.__cause__
            # A file that is open reads on from the tree that it was found in.
            self._trees[self._read] = Rootfs(tree, name=self.name)
        return self._trees[self._read]

"""All layers of an image downloaded, verified, decoded and merged in one pass, into a `Rootfs`."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from ocifast import _core
from ocifast.cache.following import never
from ocifast.cache.layers import LayerStore
from ocifast.decoded import KEPT_LAYERS_MAX, RunLayers
from ocifast.edits import MadeLayer, PreparedEdits
from ocifast.errors import CancelledError, OcifastError
from ocifast.layered import BlobStore, BlobWriter, Layered
from ocifast.marks import keeps_bytes
from ocifast.progress import Event, LayerState, Phase, Progress, silent
from ocifast.rootfs import Rootfs
from ocifast.sources import Blob, FileSlice
from ocifast.spec import Descriptor

__all__ = ["FlattenOptions", "flatten", "flatten_both", "shared_layers"]

_POLL_SECONDS = 0.1

Made = TypeVar("Made")


@dataclass(frozen=True)
class FlattenOptions:
    """How layers are taken in.

    Attributes:
        jobs: layers fetched at the same time.
        decoders: cores that decode; None for what the machine has.
        limits: bounds on what layers may ask for; None for the defaults.
        blobs: where verified blobs are looked up and kept; None to keep none.
        layers: where decoded layers are looked up and kept; None for neither.
        keep_layers: whether those that are decoded are kept; None keeps what whole blocks do not more than double.
    """

    jobs: int = keeps_bytes(default=4)
    decoders: int | None = keeps_bytes(default=None)
    limits: _core.Limits | None = keeps_bytes(default=None)
    blobs: BlobStore | None = keeps_bytes(default=None)
    layers: LayerStore | None = keeps_bytes(default=None)
    keep_layers: bool | None = keeps_bytes(default=None)


def flatten(
    image: Layered,
    *,
    store: str | _core.SquashfsCompression = "spool",
    folder: str | os.PathLike[str] | None = None,
    options: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
    edits: PreparedEdits | None = None,
    digest: str | None = None,
    created: int = 0,
    keep_removed: bool = False,
) -> Rootfs:
    """Downloads, verifies, decodes and merges all layers, side by side.

    Args:
        image: what to flatten; after a failure it is closed.
        store: where contents wait; see `_core.Flattener`.
        folder: an empty folder for them, which the caller removes; None for one of our own in the temporary folder,
            which `Rootfs.close` removes.
        options: how.
        progress: gets the LAYER_ACQUIRE events.
        cancelled: asked several times a second while layers arrive.
        edits: what is changed; None for nothing.
        digest: what UUIDs of filesystems are derived from when the tree is written; None for one of all diff IDs.
        created: time of such filesystems, in seconds since 1970.
        keep_removed: the tree keeps what layers hide, for `_core.usage`.

    Returns:
        The tree, complete, verified and edited.

    Raises:
        SourceError: a blob could not be fetched.
        VerificationError: a blob or layer is not what its digest, size or diff ID says.
        LayerError: a layer that cannot be applied; the message names image, layer and entry.
        UsageError: an edit that makes no sense for this image.
    """
    options = options or FlattenOptions()
    made = () if edits is None else edits.layers
    pairs = zip(image.layers, image.diff_ids, strict=True)
    layers = [(descriptor.digest, descriptor.size, diff_id) for descriptor, diff_id in pairs]
    added = [len(layers) + index for index, layer in enumerate(made) if layer.added]
    layers += [(layer.descriptor.digest, layer.descriptor.size, layer.diff_id) for layer in made]
    with ExitStack() as resources:
        if folder is None:
            folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-"))
        try:
            flattener = _core.Flattener(
                layers,
                store=store,
                folder=folder,
                limits=options.limits,
                decoders=options.decoders,
                added=added,
                keep_removed=keep_removed,
            )
            decoded = _decoded(resources, image, flattener, options, len(layers), cancelled)
            edit = None if edits is None else edits.edit
            run = _Flattening(
                image, flattener, options, progress, cancelled, decoded, made, lambda: flattener.finish(edit)
            )
            tree = run.run()
        except OcifastError as error:
            names = {layer.descriptor.digest: layer.name for layer in made}
            raise error.about(names.get(error.context.get("layer", ""), image.name)) from error.__cause__
        digest = digest or _core.digest("\n".join(diff_id for _, _, diff_id in layers).encode())
        return Rootfs(tree, name=image.name, resources=resources.pop_all(), digest=digest, created=created)


def shared_layers(first: Layered, second: Layered) -> int:
    """How many of the lowest layers of two images are the same, by their diff IDs."""
    pairs = zip(first.diff_ids, second.diff_ids, strict=False)
    return next(
        (count for count, (one, other) in enumerate(pairs) if one != other),
        min(len(first.diff_ids), len(second.diff_ids)),
    )


def flatten_both(
    first: Layered,
    second: Layered,
    *,
    options: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Rootfs, Rootfs]:
    """Flattens two images in one run. The lowest layers that they share are read once, from the first image.

    Contents of both wait in one folder of the temporary folder. The bounds of `options` are for both together.

    Args:
        first: an image; after a failure both are closed.
        second: another.
        options: how, as for `flatten`.
        progress: gets the LAYER_ACQUIRE events.
        cancelled: asked several times a second while layers arrive.

    Returns:
        The two trees, both to be closed, the second one first.

    Raises:
        SourceError, VerificationError, LayerError: as `flatten` does.
    """
    options = options or FlattenOptions()
    both = _Both(first, second)
    layers = [(layer.digest, layer.size, diff_id) for layer, diff_id in zip(both.layers, both.diff_ids, strict=True)]
    with ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-"))
        try:
            flattener = _core.Flattener(
                layers,
                store="spool",
                folder=folder,
                limits=options.limits,
                decoders=options.decoders,
                branch=(both.shared, len(first.layers)),
            )
            decoded = _decoded(resources, both, flattener, options, len(layers), cancelled)
            run = _Flattening(both, flattener, options, progress, cancelled, decoded, (), flattener.finish_all)
            one, other = run.run()
        except OcifastError as error:
            raise error.about(both.image_of(error.context.get("layer", "")).name) from error.__cause__
        return Rootfs(one, name=first.name, resources=resources.pop_all()), Rootfs(other, name=second.name)


class _Both:
    """Two images as one run has them: the layers of the first, then those that only the second has."""

    def __init__(self, first: Layered, second: Layered) -> None:
        self._first, self._second = first, second
        self.shared = shared_layers(first, second)
        self.name = f"{first.name} and {second.name}"
        self.layers = (*first.layers, *second.layers[self.shared :])
        self.diff_ids = (*first.diff_ids, *second.diff_ids[self.shared :])
        self._of_first = {layer.digest for layer in first.layers}

    def image_of(self, digest: str) -> Layered:
        """The image that a layer is read from."""
        return self._first if digest in self._of_first else self._second

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens a layer of either."""
        return self.image_of(descriptor.digest).blob(descriptor, offset=offset)

    def close(self) -> None:
        """Closes both."""
        self._first.close()
        self._second.close()


def _decoded(
    resources: ExitStack,
    image: Layered,
    flattener: _core.Flattener,
    options: FlattenOptions,
    count: int,
    cancelled: Callable[[], bool] | None,
) -> RunLayers | None:
    """The decoded layers of a run of so many layers, until `resources` are closed."""
    if options.layers is None or count > KEPT_LAYERS_MAX:
        return None
    return resources.enter_context(
        RunLayers(options.layers, flattener, image.diff_ids, keep=options.keep_layers, stopped=cancelled or never)
    )


class _Flattening(Generic[Made]):
    """One run: threads that bring blobs to the flattener, and a watch over what it has done with them."""

    def __init__(
        self,
        image: Layered,
        flattener: _core.Flattener,
        options: FlattenOptions,
        progress: Progress,
        cancelled: Callable[[], bool] | None,
        decoded: RunLayers | None,
        made: Sequence[MadeLayer],
        end: Callable[[], Made],
    ) -> None:
        self.decoded = decoded
        self.cancelled = cancelled
        self.image = image
        self.end = end
        self.made = {layer.descriptor.digest: layer.file for layer in made}
        self.layers = (*image.layers, *(layer.descriptor for layer in made))
        self.flattener = flattener
        self.options = options
        self.progress = progress
        # A blob that stands in the manifest twice is fetched once and handed to both layers.
        self.indexes: dict[str, list[int]] = {}
        for index, descriptor in enumerate(self.layers):
            self.indexes.setdefault(descriptor.digest, []).append(index)
        self.stopped = threading.Event()
        self.fed: set[int] = set()
        self.applied: set[int] = set()
        self.told: dict[int, tuple[LayerState, int]] = {}
        self.inflated: dict[int, int] = {}

    def run(self) -> Made:
        descriptors = {descriptor.digest: descriptor for descriptor in self.layers}
        for digest, descriptor in descriptors.items():
            self.tell(digest, LayerState.WAITING, total=descriptor.size)
        with ThreadPoolExecutor(self.options.jobs, thread_name_prefix="ocifast-layer") as pool:
            try:
                # Handed out in order: a higher layer may wait for a lower one, never the other way round.
                futures = [pool.submit(self.bring, descriptor) for descriptor in descriptors.values()]
                failure = self.watch(futures)
                if failure is not None:
                    raise failure
                made = self.finish()
            except BaseException:
                self.stopped.set()
                self.flattener.abort()
                # A thread that waits for a silent server ends only when its connection does.
                self.image.close()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self.watch_applied()
        return made

    def watch(self, futures: Sequence[Future[None]]) -> BaseException | None:
        """Waits for all; returns the failure that is the cause of the others, if any."""
        pending = set(futures)
        stopped: BaseException | None = None
        while pending:
            timeout = None if self.progress is silent and self.cancelled is None else _POLL_SECONDS
            done, pending = wait(pending, timeout=timeout, return_when=FIRST_EXCEPTION)
            if self.cancelled is not None and self.cancelled():
                raise CancelledError(f"{self.image.name}: the work was stopped")
            self.watch_applied()
            failures = [failure for future in done if (failure := future.exception()) is not None]
            # "Cancelled" only says that another layer failed: that one is read to its end, and tells why.
            if real := [failure for failure in failures if not isinstance(failure, CancelledError)]:
                return real[0]
            stopped = stopped or next(iter(failures), None)
        if stopped is not None:
            # When the core knows why, its `finish` raises that; else somebody closed the source.
            self.finish()
        return stopped

    def finish(self) -> Made:
        if self.progress is silent:
            return self.end()
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(_POLL_SECONDS):
                self.watch_applied()

        # A signal may come while the thread starts: it must not be left running, nor hold up the end of the process.
        poller = threading.Thread(target=poll, name="ocifast-progress", daemon=True)
        try:
            poller.start()
            return self.end()
        finally:
            stop.set()
            if poller.is_alive():
                poller.join()

    def watch_applied(self) -> None:
        if self.progress is silent:
            return
        below = True
        for index, (compressed, decompressed, applied) in enumerate(self.flattener.progress()):
            moved = decompressed != self.inflated.get(index)
            self.inflated[index] = decompressed
            if index not in self.fed or index in self.applied:
                pass
            elif applied:
                self.applied.add(index)
                self.tell_layer(index, LayerState.EXTRACTED, compressed)
            else:
                # What stands still while a lower layer is not applied waits for it.
                self.tell_layer(index, LayerState.EXTRACTING if moved or below else LayerState.BLOCKED, compressed)
            below = below and applied

    def tell_layer(self, index: int, state: LayerState, compressed: int) -> None:
        """Tells where a layer stands, when that is news."""
        if self.told.get(index) != (state, compressed):
            self.told[index] = (state, compressed)
            layer = self.layers[index]
            self.tell(layer.digest, state, compressed, layer.size)

    def tell(self, digest: str, state: LayerState, done: int | None = None, total: int | None = None) -> None:
        self.progress(Event(Phase.LAYER_ACQUIRE, digest, state, done, total))

    def bring(self, descriptor: Descriptor) -> None:
        """Brings one blob to all layers that it is."""
        blobs = self.options.blobs
        indexes = self.to_decode(self.indexes[descriptor.digest])
        if not indexes:
            self.fed.update(self.indexes[descriptor.digest])
            self.tell(descriptor.digest, LayerState.EXISTS, descriptor.size, descriptor.size)
            return
        local = self.made.get(descriptor.digest)
        if local is None and blobs is not None:
            local = blobs.get(descriptor)
        if local is not None:
            self.read_files(descriptor, indexes, local)
        elif (moved := self.fetch(descriptor, indexes)) is not None:
            state = LayerState.DOWNLOADED if moved else LayerState.EXISTS
            self.tell(descriptor.digest, state, descriptor.size, descriptor.size)
        self.fed.update(indexes)

    def to_decode(self, indexes: Sequence[int]) -> Sequence[int]:
        """Those of some layers that are not there as decoded ones; they will be kept, if that is wanted."""
        decoded = self.decoded
        if decoded is None:
            return indexes
        # What a user adds is no layer of an image, and is not kept.
        own = [index for index in indexes if index < len(self.image.layers)]
        missing = [index for index in own if not decoded.adopt(index)]
        for index in missing:
            decoded.keep(index)
        return [*missing, *(index for index in indexes if index not in own)]

    def read_files(self, descriptor: Descriptor, indexes: Sequence[int], local: FileSlice) -> None:
        self.tell(descriptor.digest, LayerState.EXISTS, descriptor.size, descriptor.size)
        self.fed.update(indexes)
        for index in indexes:
            self.flattener.read_file(index, local.path, local.offset, local.length)

    def fetch(self, descriptor: Descriptor, indexes: Sequence[int]) -> bool | None:
        """Brings one blob from the source.

        Returns:
            Whether anything was asked for; None when it stood in a local file, which was told.
        """
        with ExitStack() as stack:
            # Nothing is asked for before it is iterated.
            blob = stack.enter_context(self.image.blob(descriptor))
            if blob.local is not None:
                self.read_files(descriptor, indexes, blob.local)
                return None
            self.tell(descriptor.digest, LayerState.DOWNLOADING, 0, descriptor.size)
            writer = None
            if self.options.blobs is not None:
                writer = stack.enter_context(self.options.blobs.writer(descriptor, stopped=self.stopped.is_set))
                self.take(descriptor, indexes, writer.beginning(), 0)
            offset = 0 if writer is None else writer.resume_offset
            if offset:
                blob = stack.enter_context(self.image.blob(descriptor, offset=offset))
            moved = offset == 0 or offset < descriptor.size
            if moved:
                self.take(descriptor, indexes, blob, offset, writer)
            for index in indexes:
                self.flattener.close_layer(index)
            if writer is not None:
                writer.commit()
        return moved

    def take(
        self,
        descriptor: Descriptor,
        indexes: Sequence[int],
        chunks: Iterable[bytes],
        done: int,
        writer: BlobWriter | None = None,
    ) -> None:
        """Hands the chunks of one blob to all layers that it is, from byte `done` on, and to `writer`."""
        told = time.monotonic()
        for chunk in chunks:
            if writer is not None:
                writer.write(chunk)
            self.write(indexes, chunk)
            done += len(chunk)
            if (now := time.monotonic()) - told >= _POLL_SECONDS:
                told = now
                self.tell(descriptor.digest, LayerState.DOWNLOADING, done, descriptor.size)

    def write(self, indexes: Sequence[int], chunk: bytes) -> None:
        for index in indexes:
            self.flattener.write(index, chunk)

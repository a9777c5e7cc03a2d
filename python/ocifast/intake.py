"""Layers on their way into the core: fetched side by side, or taken from where they are kept, under a watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from ocifast import _core
from ocifast.cache.following import never
from ocifast.decoded import KEPT_LAYERS_MAX, Layers, LayerShelf, RunLayers
from ocifast.edits import MadeLayer
from ocifast.errors import CancelledError, UsageError
from ocifast.layered import Layered
from ocifast.marks import keeps_bytes
from ocifast.metrics import Meter
from ocifast.points import RunPoints
from ocifast.progress import Event, LayerState, Phase, Progress, silent
from ocifast.records import dataclass
from ocifast.sources import Blob, FileSlice
from ocifast.spec import EROFS_LAYER, Descriptor

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ocifast.cache.blobs import BlobStore, BlobWriter, LentBlobs

__all__ = ["FlattenOptions", "Intake", "decoded_layers", "erofs_layers"]

_POLL_SECONDS = 0.1

Made = TypeVar("Made")


@dataclass(frozen=True)
class FlattenOptions:
    """How layers are taken in.

    Attributes:
        downloads: layers fetched at the same time.
        decoders: cores that decode; None for what the machine has.
        limits: bounds on what layers may ask for; None for the defaults.
        blobs: where verified blobs are looked up and kept; None to keep none.
        layers: where decoded layers are looked up and kept; None for neither.
        keep_layers: whether those that are decoded are kept; None keeps what whole blocks do not more than double.
        every_layer: whether all must be kept, those that a user adds as well: the output is made of them.
        meter: counts times and bytes; None counts nothing.
        others: where decoded layers are that nobody has verified, looked at after `layers`; None for nowhere.
    """

    downloads: int = keeps_bytes(default=4)
    decoders: int | None = keeps_bytes(default=None)
    limits: _core.Limits | None = keeps_bytes(default=None)
    blobs: BlobStore | LentBlobs | None = keeps_bytes(default=None)
    layers: Layers | None = keeps_bytes(default=None)
    keep_layers: bool | None = keeps_bytes(default=None)
    every_layer: bool = keeps_bytes(default=False)
    meter: Meter | None = keeps_bytes(default=None)
    others: LayerShelf | None = keeps_bytes(default=None)


def decoded_layers(
    resources: ExitStack,
    image: Layered,
    flattener: _core.Flattener,
    options: FlattenOptions,
    count: int,
    cancelled: Callable[[], bool] | None,
    made: Sequence[MadeLayer] = (),
) -> RunLayers | None:
    """The decoded layers of a run of so many layers, until `resources` are closed; also `made` ones, if all are kept.

    Raises:
        UsageError: all must be kept, and there are too many, or some are erofs images.
    """
    if options.layers is None:
        return None
    if options.every_layer and erofs_layers(image.layers):
        raise UsageError("layers that are erofs images cannot be kept as devices; write one image of all layers")
    if count > KEPT_LAYERS_MAX:
        if options.every_layer:
            raise UsageError(f"an image of {count} layers, of which {KEPT_LAYERS_MAX} at most can be devices")
        return None
    keep, every = options.keep_layers, options.every_layer
    diff_ids = (*image.diff_ids, *(layer.diff_id for layer in made if every))
    layers = RunLayers(
        options.layers,
        flattener,
        diff_ids,
        keep=keep,
        every=every,
        stopped=cancelled or never,
        others=options.others,
    )
    return resources.enter_context(layers)


def erofs_layers(layers: Iterable[Descriptor]) -> list[int]:
    """Indexes of the layers that are erofs images."""
    return [index for index, layer in enumerate(layers) if layer.media_type.startswith(EROFS_LAYER)]


class Intake:
    """One run: threads that bring blobs to the flattener, and a watch over what it has done with them.

    Args:
        image: whose layers come; after a failure it is closed.
        flattener: made for its layers, and after them those of `made`.
        options: how.
        progress: gets the LAYER_ACQUIRE events.
        cancelled: asked several times a second while layers arrive.
        decoded: the decoded layers of this run.
        made: layers that a user adds.
        later: contents may be inflated when they are asked for.
    """

    def __init__(
        self,
        image: Layered,
        flattener: _core.Flattener,
        options: FlattenOptions,
        progress: Progress,
        cancelled: Callable[[], bool] | None,
        decoded: RunLayers | None,
        made: Sequence[MadeLayer] = (),
        *,
        later: bool = False,
    ) -> None:
        self.decoded = decoded
        self.cancelled = cancelled
        self.image = image
        self.made = {layer.descriptor.digest: layer.file for layer in made}
        self.layers = (*image.layers, *(layer.descriptor for layer in made))
        # A decoded layer is found by its diff ID, which does not tell whether it was read as an archive.
        self.never_kept = frozenset(erofs_layers(self.layers))
        self.flattener = flattener
        self.options = options
        self.progress = progress
        # A blob that stands in the manifest twice is fetched once and handed to both layers.
        self.indexes: dict[str, list[int]] = {}
        for index, descriptor in enumerate(self.layers):
            self.indexes.setdefault(descriptor.digest, []).append(index)
        self.stopped = threading.Event()
        self.meter = options.meter or Meter()
        self.inflating: set[int] = set()
        self.fed: set[int] = set()
        self.applied: set[int] = set()
        self.told: dict[int, tuple[LayerState, int]] = {}
        self.inflated: dict[int, int] = {}
        self.points = RunPoints(flattener, image.diff_ids, decoded, later=later)

    def run(self, end: Callable[[], Made]) -> Made:
        """Brings all layers; returns what `end` makes of them. Raises the first failure."""
        return self.bring_some(self.layers, end)

    def bring_some(self, layers: Sequence[Descriptor], end: Callable[[], Made]) -> Made:
        """Brings some layers that were not brought before, and then does `end`. Raises the first failure."""
        descriptors = {descriptor.digest: descriptor for descriptor in layers}
        for digest, descriptor in descriptors.items():
            self.tell(digest, LayerState.WAITING, total=descriptor.size)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.options.downloads, thread_name_prefix="ocifast-layer") as pool:
            try:
                # Handed out in order: a higher layer may wait for a lower one, never the other way round.
                futures = [pool.submit(self.bring, descriptor) for descriptor in descriptors.values()]
                failure = self.watch(futures, end)
                if failure is not None:
                    raise failure
                with self.meter.during("merge"):
                    made = self.finish(end)
                self.points.keep()
            except BaseException:
                self.stopped.set()
                self.flattener.abort()
                # A thread that waits for a silent server ends only when its connection does.
                self.image.close()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                self.points.close()
        self.watch_applied()
        self.meter.took_others = self.decoded is not None and self.decoded.took_others
        self.meter.add("inflate", sum(self.flattener.progress()[index][1] for index in self.inflating))
        return made

    def watch(self, futures: Sequence[Future[None]], end: Callable[[], object]) -> BaseException | None:
        """Waits for all; returns the failure that is the cause of the others, if any."""
        from concurrent.futures import FIRST_EXCEPTION, wait

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
            self.finish(end)
        return stopped

    def finish(self, end: Callable[[], Made]) -> Made:
        """Does `end`, and tells meanwhile how far the layers are."""
        if self.progress is silent:
            return end()
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(_POLL_SECONDS):
                self.watch_applied()

        # A signal may come while the thread starts: it must not be left running, nor hold up the end of the process.
        poller = threading.Thread(target=poll, name="ocifast-progress", daemon=True)
        try:
            poller.start()
            return end()
        finally:
            stop.set()
            if poller.is_alive():
                poller.join()

    def watch_applied(self) -> None:
        """Tells what the flattener has done since."""
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
                # A layer that makes no progress while a lower one is not applied waits for that one.
                self.tell_layer(index, LayerState.EXTRACTING if moved or below else LayerState.BLOCKED, compressed)
            below = below and applied

    def tell_layer(self, index: int, state: LayerState, compressed: int) -> None:
        """Tells where a layer stands, when that is news."""
        if self.told.get(index) != (state, compressed):
            self.told[index] = (state, compressed)
            layer = self.layers[index]
            self.tell(layer.digest, state, compressed, layer.size)

    def tell(self, digest: str, state: LayerState, done: int | None = None, total: int | None = None) -> None:
        """Tells where a blob stands."""
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
        with self.meter.during("inflate"):
            if local is not None:
                self.read_files(descriptor, indexes, local)
            elif (moved := self.fetch(descriptor, indexes)) is not None:
                state = LayerState.DOWNLOADED if moved else LayerState.EXISTS
                self.tell(descriptor.digest, state, descriptor.size, descriptor.size)
        self.note_inflated(indexes)
        self.fed.update(indexes)

    def note_inflated(self, indexes: Sequence[int]) -> None:
        """Counts layers of the image that were decompressed; a blob that is two layers counts as both."""
        own = [index for index in indexes if index < len(self.image.layers)]
        self.inflating.update(own)
        for index in own:
            self.meter.note_decoded(self.image.diff_ids[index])

    def to_decode(self, indexes: Sequence[int]) -> Sequence[int]:
        """Those of some layers that are not there as decoded ones; they will be kept, if that is wanted."""
        decoded = self.decoded
        if decoded is None:
            return indexes
        # What a user adds is no layer of an image, and is not kept but in an output that is made of layers.
        own = [index for index in indexes if index < len(decoded) and index not in self.never_kept]
        missing = [index for index in own if not decoded.adopt(index)]
        self.meter.adopted |= decoded.adopted
        for index in missing:
            decoded.keep(index)
        return [*missing, *(index for index in indexes if index not in own)]

    def read_files(self, descriptor: Descriptor, indexes: Sequence[int], local: FileSlice) -> None:
        """Has some layers read from the file that their blob is in."""
        self.tell(descriptor.digest, LayerState.EXISTS, descriptor.size, descriptor.size)
        self.fed.update(indexes)
        if local.points is not None:
            indexes = self.points.adopt(local, indexes, self.never_kept)
            self.points.use(local.points, indexes)
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
            # A source that keeps blobs while they pass has a place for their points.
            self.points.use(getattr(blob, "points", None), indexes)
            if self.options.blobs is not None:
                writer = stack.enter_context(self.options.blobs.writer(descriptor, stopped=self.stopped.is_set))
                self.points.use(self.options.blobs.points(descriptor), indexes)
                self.take(descriptor, indexes, writer.beginning(), 0)
            offset = 0 if writer is None else writer.resume_offset
            if offset:
                blob = stack.enter_context(self.image.blob(descriptor, offset=offset))
            moved = offset == 0 or offset < descriptor.size
            if moved:
                self.take(descriptor, indexes, self.fetching(blob), offset, writer)
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

    def fetching(self, blob: Blob) -> Iterator[bytes]:
        """The chunks of a blob, counted."""
        with self.meter.during("fetch"):
            for chunk in blob:
                self.meter.add("fetch", len(chunk))
                yield chunk

    def write(self, indexes: Sequence[int], chunk: bytes) -> None:
        """Hands the next bytes of their blob to some layers."""
        for index in indexes:
            self.flattener.write(index, chunk)

"""The flattened tree of an image: all layers downloaded, verified, decoded and merged in one pass."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ocifast import _core
from ocifast.cache.layers import LayerStore
from ocifast.decoded import KEPT_LAYERS_MAX, RunLayers
from ocifast.errors import CancelledError, FileError, OcifastError, PathNotFoundError, UsageError
from ocifast.layered import BlobStore, BlobWriter, Layered
from ocifast.progress import Event, LayerState, Phase, Progress, silent
from ocifast.refusals import flush
from ocifast.sources import FileSlice
from ocifast.spec import Descriptor
from ocifast.streams import fd_of

__all__ = ["BlobStore", "BlobWriter", "FlattenOptions", "Layered", "Rootfs", "RootfsEntry", "flatten"]

_BATCH = 4096
_EVENT_BYTES = 1 << 20
_POLL_SECONDS = 0.1


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

    jobs: int = 4
    decoders: int | None = None
    limits: _core.Limits | None = None
    blobs: BlobStore | None = None
    layers: LayerStore | None = None
    keep_layers: bool | None = None


@dataclass(frozen=True)
class RootfsEntry:
    """One name of the tree.

    Attributes:
        path: absolute path; bytes that are no UTF-8 as surrogate escapes (`os.fsencode` gives them back).
        type: "file", "directory", "symlink", "char", "block" or "fifo".
        mode: permission bits with setuid, setgid, sticky.
        uid: numeric owner.
        gid: numeric group.
        mtime_ns: modification time in nanoseconds since 1970.
        target: where a symbolic link points, else "".
        size: bytes of a file's content, or of a link's target.
        inode: equal for all names of one file.
    """

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: str
    size: int
    inode: int


_Row = tuple[bytes, str, int, int, int, int, int, bytes, int, int]


def _entry(row: _Row) -> RootfsEntry:
    path, kind, mode, uid, gid, seconds, nanoseconds, target, size, inode = row
    mtime = seconds * 1_000_000_000 + nanoseconds
    return RootfsEntry("/" + os.fsdecode(path), kind, mode, uid, gid, mtime, os.fsdecode(target), size, inode)


def _key(path: str | bytes) -> bytes:
    return os.fsencode(path).strip(b"/")


class Rootfs:
    """The root filesystem of an image, merged, in memory; file contents wait in a folder until `close`.

    Iterating gives a `RootfsEntry` for every name, directories before what is in them, siblings by their bytes.
    Safe to use from several threads.
    """

    def __init__(self, tree: _core.Tree, *, name: str, resources: ExitStack | None = None) -> None:
        self.name = name
        self._tree: _core.Tree | None = tree
        self._resources = resources or ExitStack()

    @property
    def tree(self) -> _core.Tree:
        """The core's tree, for the writers. Raises UsageError after `close`, as all that reads the tree does."""
        if self._tree is None:
            raise UsageError(f"{self.name}: the root filesystem is closed", reference=self.name)
        return self._tree

    def __len__(self) -> int:
        return len(self.tree)

    def __contains__(self, item: object) -> bool:
        """Whether a path (text or bytes) is a name of the tree, or an entry one of it.

        Links on the way are followed inside the tree, one at its end is not: a link that leads nowhere is there.
        """
        path = item.path if isinstance(item, RootfsEntry) else item
        if not isinstance(path, (str, bytes)):
            return False
        try:
            found = self.stat(path, follow=False)
        except PathNotFoundError:
            return False
        return not isinstance(item, RootfsEntry) or found == item

    def __iter__(self) -> Iterator[RootfsEntry]:
        return self.walk("/")

    def walk(self, path: str | bytes = "/") -> Iterator[RootfsEntry]:
        """The entries at and below a path. Links on the way are followed inside the tree, one at its end is not.

        Raises:
            PathNotFoundError: nothing is there.
        """
        start = 0
        while rows := self.tree.entries(_key(path), start, _BATCH):
            yield from map(_entry, rows)
            start += len(rows)

    def stat(self, path: str | bytes, *, follow: bool = True) -> RootfsEntry:
        """One entry; a link is followed inside the tree. Raises PathNotFoundError."""
        return _entry(self.tree.stat(_key(path), follow=follow))

    def xattrs(self, path: str | bytes) -> dict[bytes, bytes]:
        """Extended attributes of an entry. Raises PathNotFoundError."""
        return self.tree.xattrs(_key(path))

    def chunks(self, path: str | bytes) -> Iterator[bytes]:
        """The content of a regular file in pieces of at most 1 MiB; links are followed inside the tree.

        Raises:
            PathNotFoundError: nothing is there, or no regular file.
        """
        key, offset = _key(path), 0
        while chunk := self.tree.read(key, offset, 1 << 20):
            yield chunk
            offset += len(chunk)

    def read_bytes(self, path: str | bytes) -> bytes:
        """The whole content of a regular file, as `chunks` gives it."""
        return b"".join(self.chunks(path))

    def dump(self) -> bytes:
        """The canonical text of the tree, one line a name (docs/dump.md)."""
        return self.tree.dump()

    @property
    def digest(self) -> str:
        """The tree digest: SHA-256 of `dump`. Reads all contents each time."""
        return self.tree.digest()

    @property
    def notices(self) -> dict[str, int]:
        """What of the layers was dropped on the way in, by kind, with counts (docs/tar.md)."""
        return dict(self.tree.notices())

    def write_tar(self, out: str | os.PathLike[str] | BinaryIO, *, clamp_mtime: int | None = None) -> int:
        """Writes the tree as a pax tar.

        Args:
            out: a path, which is written beside and renamed when complete, or anything that bytes can be written to.
            clamp_mtime: seconds since 1970; later times become this.

        Returns:
            Number of bytes.

        Raises:
            FileError: writing failed; nothing is left at the path. An object's own errors are raised as they are.
        """
        if not isinstance(out, (str, os.PathLike)):
            with fd_of(out) as fd:
                return self.tree.write_tar(fd, clamp_mtime=clamp_mtime)
        path = Path(out)
        try:
            descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror}") from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                written = self.tree.write_tar(file.fileno(), clamp_mtime=clamp_mtime)
                flush(file.fileno())
            Path(beside).replace(path)
        except BaseException as error:
            Path(beside).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise FileError(f"cannot write {path}: {error.strerror}") from None
            raise
        return written

    def close(self) -> None:
        """Frees the contents. Nothing can be read after."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Rootfs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        # Decoded layers are published now, unless what they were decoded for has failed.
        self._tree = None
        self._resources.__exit__(kind, value, traceback)


def flatten(
    image: Layered,
    *,
    store: str = "spool",
    folder: str | os.PathLike[str] | None = None,
    options: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
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

    Returns:
        The tree, complete and verified.

    Raises:
        SourceError: a blob could not be fetched.
        VerificationError: a blob or layer is not what its digest, size or diff ID says.
        LayerError: a layer that cannot be applied; the message names image, layer and entry.
    """
    options = options or FlattenOptions()
    layers = [
        (descriptor.digest, descriptor.size, diff_id)
        for descriptor, diff_id in zip(image.layers, image.diff_ids, strict=True)
    ]
    with ExitStack() as resources:
        if folder is None:
            folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-"))
        try:
            flattener = _core.Flattener(
                layers, store=store, folder=folder, limits=options.limits, decoders=options.decoders
            )
            decoded = None
            if options.layers is not None and len(layers) <= KEPT_LAYERS_MAX:
                decoded = resources.enter_context(
                    RunLayers(options.layers, flattener, image.diff_ids, keep=options.keep_layers)
                )
            tree = _Flattening(image, flattener, options, progress, cancelled, decoded).run()
        except OcifastError as error:
            raise error.about(image.name) from error.__cause__
        return Rootfs(tree, name=image.name, resources=resources.pop_all())


class _Flattening:
    """One run: threads that bring blobs to the flattener, and a watch over what it has done with them."""

    def __init__(
        self,
        image: Layered,
        flattener: _core.Flattener,
        options: FlattenOptions,
        progress: Progress,
        cancelled: Callable[[], bool] | None,
        decoded: RunLayers | None,
    ) -> None:
        self.decoded = decoded
        self.cancelled = cancelled
        self.image = image
        self.flattener = flattener
        self.options = options
        self.progress = progress
        # A blob that stands in the manifest twice is fetched once and handed to both layers.
        self.indexes: dict[str, list[int]] = {}
        for index, descriptor in enumerate(image.layers):
            self.indexes.setdefault(descriptor.digest, []).append(index)
        self.fed: set[int] = set()
        self.applied: set[int] = set()
        self.told: dict[int, tuple[LayerState, int]] = {}
        self.inflated: dict[int, int] = {}

    def run(self) -> _core.Tree:
        descriptors = {descriptor.digest: descriptor for descriptor in self.image.layers}
        for digest, descriptor in descriptors.items():
            self.tell(digest, LayerState.WAITING, total=descriptor.size)
        with ThreadPoolExecutor(self.options.jobs, thread_name_prefix="ocifast-layer") as pool:
            try:
                # Handed out in order: a higher layer may wait for a lower one, never the other way round.
                futures = [pool.submit(self.bring, descriptor) for descriptor in descriptors.values()]
                failure = self.watch(futures)
                if failure is not None:
                    raise failure
                tree = self.finish()
            except BaseException:
                self.flattener.abort()
                # A thread that waits for a silent server ends only when its connection does.
                self.image.close()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self.watch_applied()
        return tree

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

    def finish(self) -> _core.Tree:
        if self.progress is silent:
            return self.flattener.finish()
        stop = threading.Event()

        def poll() -> None:
            while not stop.wait(_POLL_SECONDS):
                self.watch_applied()

        poller = threading.Thread(target=poll, name="ocifast-progress")
        poller.start()
        try:
            return self.flattener.finish()
        finally:
            stop.set()
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
            layer = self.image.layers[index]
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
        local = None if blobs is None else blobs.get(descriptor)
        if local is not None:
            self.read_files(descriptor, indexes, local)
        elif self.fetch(descriptor, indexes):
            self.tell(descriptor.digest, LayerState.DOWNLOADED, descriptor.size, descriptor.size)
        self.fed.update(indexes)

    def to_decode(self, indexes: Sequence[int]) -> Sequence[int]:
        """Those of some layers that are not there as decoded ones; they will be kept, if that is wanted."""
        decoded = self.decoded
        if decoded is None:
            return indexes
        missing = [index for index in indexes if not decoded.adopt(index)]
        for index in missing:
            decoded.keep(index)
        return missing

    def read_files(self, descriptor: Descriptor, indexes: Sequence[int], local: FileSlice) -> None:
        self.tell(descriptor.digest, LayerState.EXISTS, descriptor.size, descriptor.size)
        self.fed.update(indexes)
        for index in indexes:
            self.flattener.read_file(index, local.path, local.offset, local.length)

    def fetch(self, descriptor: Descriptor, indexes: Sequence[int]) -> bool:
        """Brings one blob from the source; False when it stood in a local file and nothing was moved."""
        with ExitStack() as stack:
            writer = None
            offset = 0
            if self.options.blobs is not None:
                writer = stack.enter_context(self.options.blobs.writer(descriptor))
                offset = writer.resume_offset
            blob = stack.enter_context(self.image.blob(descriptor, offset=offset))
            if blob.local is not None and offset == 0:
                self.read_files(descriptor, indexes, blob.local)
                return False
            done = 0
            told = time.monotonic()
            self.tell(descriptor.digest, LayerState.DOWNLOADING, 0, descriptor.size)
            for chunk in self.kept(writer, offset):
                done += len(chunk)
                self.write(indexes, chunk)
            for chunk in blob:
                if writer is not None:
                    writer.write(chunk)
                self.write(indexes, chunk)
                done += len(chunk)
                if (now := time.monotonic()) - told >= _POLL_SECONDS:
                    told = now
                    self.tell(descriptor.digest, LayerState.DOWNLOADING, done, descriptor.size)
            for index in indexes:
                self.flattener.close_layer(index)
            if writer is not None:
                writer.commit()
        return True

    def kept(self, writer: BlobWriter | None, offset: int) -> Iterator[bytes]:
        """The bytes that an earlier try has fetched."""
        if writer is None or offset == 0:
            return
        with writer.path.open("rb") as file:
            while offset > 0 and (chunk := file.read(min(offset, _EVENT_BYTES))):
                offset -= len(chunk)
                yield chunk

    def write(self, indexes: Sequence[int], chunk: bytes) -> None:
        for index in indexes:
            self.flattener.write(index, chunk)

"""Images from one place to another, byte for byte.

Between any two of registry, image layout, OCI archive and Docker archive. Blobs stream from the source into the
destination, several at a time and each once; documents follow, children before what names them, the root last. Nothing
is decompressed and nothing is written anew, so that digests stay what they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from ocifast import platforms
from ocifast.errors import (
    BlobNotFoundError,
    CancelledError,
    DocumentError,
    FileError,
    NotAnImageError,
    UsageError,
    VerificationError,
)
from ocifast.image import NESTING, resolve
from ocifast.logs import logger
from ocifast.progress import Event, LayerState, Phase, Progress, silent
from ocifast.records import dataclass
from ocifast.sources import Destination, FileDestination, IndirectSource, KeepingSource, ReferredSource, Source
from ocifast.sources.watched import Passed, Watched, stepwise
from ocifast.spec import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    Document,
    Platform,
    decode_index,
    decode_manifest,
    is_foreign_layer,
)

__all__ = ["CopyResult", "copy"]

_log = logger(__name__)

_STEP = 1 << 20
"""Bytes between two progress events of one blob."""
_SHOWN = 8
"""Platforms that a message names."""
_POLL = 0.1
"""Seconds between two questions whether the copy is cancelled."""
_DOCUMENTS = 10_000
"""Most manifests and indexes of one copy; an index of 4 MiB can name more than anybody means."""


Claim = Callable[[Descriptor, Callable[[], bool]], AbstractContextManager[None]]


def _unclaimed(_descriptor: Descriptor, _stopped: Callable[[], bool]) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class CopyResult:
    """What a copy did.

    Attributes:
        digest: of the root document, at both ends.
        media_type: of the root document.
        documents: number of manifests and indexes, referrers included.
        copied: number of blobs whose bytes were read and written.
        existing: number of blobs that the destination had or took from another repository.
        skipped: number of foreign layers that the source does not hold.
        bytes: sum of the sizes of the copied blobs.
        platform: of the image that was taken of an index (`os/architecture/variant`); None where there was no choice,
            or the index was copied.
        platforms: number of platforms that this index names; 0 where `platform` is None.
    """

    digest: str
    media_type: str
    documents: int
    copied: int
    existing: int
    skipped: int
    bytes: int
    platform: str | None = None
    platforms: int = 0


def copy(
    source: Source,
    destination: Destination,
    *,
    platform: Platform | None = None,
    all_platforms: bool | None = None,
    referrers: bool = False,
    parallel: int = 4,
    progress: Progress = silent,
    cancelled: Callable[[], bool] = lambda: False,
    accept: Callable[[Sequence[str]], None] = lambda digests: None,
    claim: Claim = _unclaimed,
) -> CopyResult:
    """Copies an image, or an index with all that it leads to.

    Args:
        source: where it is; the caller closes it (it is closed already when a blob could not be copied).
        destination: a fresh one; it is committed, or aborted when anything fails.
        platform: which image of an index alone.
        all_platforms: copy an index whole, or never (then this machine's image, unless `platform` says another). None
            copies it whole where no platform is named, all of it is there and the destination can hold it.
        referrers: copy the manifests that refer to what is copied, too (signatures, SBOMs); between registries only.
        parallel: blobs at a time.
        progress: gets events; the blobs' states are UPLOADING and UPLOADED towards a registry, else DOWNLOADING and
            DOWNLOADED, or EXISTS.
        cancelled: asked now and then, from any thread; when it says yes, the copy is taken back. Once the destination
            has its name it is not asked any more.

        accept: gets the digests of what is copied, and of the index that it was chosen from, before any blob is read;
            raises for what must not be copied.
        claim: held while a blob is looked for and moved, so that of several copies one moves it; gets its descriptor,
            and what says whether it is not wanted any more.

    Raises:
        CancelledError: `cancelled` said yes.
        UsageError: options that contradict each other or the places.
        SourceError, VerificationError, OutputError: as source and destination raise them.
    """
    try:
        copying = _Copy(source, destination, progress, cancelled, accept, claim)
        return copying.run(platform, all_platforms, referrers, parallel)
    except BaseException:
        destination.abort()
        raise


class _Copy:
    def __init__(
        self,
        source: Source,
        destination: Destination,
        progress: Progress,
        cancelled: Callable[[], bool],
        accept: Callable[[Sequence[str]], None],
        claim: Claim,
    ) -> None:
        self._accept = accept
        self._claim = claim
        self._cancelled = cancelled
        self._source = source
        # What is only read through the cache can still be mounted, or asked for what refers to it.
        self._origin = source.origin if isinstance(source, IndirectSource) else source
        self._destination = destination
        self._progress = progress
        self._stop = threading.Event()
        self._documents: dict[str, Document] = {}
        self._blobs: dict[str, Descriptor] = {}
        self._foreign: set[str] = set()
        remote = destination.is_remote
        self._moving = LayerState.UPLOADING if remote else LayerState.DOWNLOADING
        self._moved = LayerState.UPLOADED if remote else LayerState.DOWNLOADED

    def run(self, platform: Platform | None, all_platforms: bool | None, referrers: bool, parallel: int) -> CopyResult:
        if platform is not None and all_platforms:
            raise UsageError("one platform and all platforms cannot be copied at once")
        self._progress(Event(Phase.RESOLVING))
        root = self._source.root()
        taken, count = None, 0
        digests = [root.digest]
        if root.is_index and not self._takes_whole(root, platform, all_platforms):
            index = root
            root = resolve(self._source, platform).document
            digests.insert(0, root.digest)
            taken, count = self._platform_of(root, index)
        elif not root.is_index and platform is not None:
            root = resolve(self._source, platform).document
        self._accept(digests)
        self._progress(Event(Phase.RESOLVED))
        self._gather(root, NESTING)
        if referrers:
            self._gather_referrers()
        states = self._move_blobs(parallel)
        for document in self._documents.values():
            if document.digest != root.digest:
                self._destination.put_document(document, root=False)
        self._raise_if_cancelled()
        self._destination.put_document(root, root=True)
        self._destination.commit()
        self._progress(Event(Phase.COMPLETE))
        copied = [descriptor for descriptor, state in states if state is self._moved]
        existing = [descriptor for descriptor, state in states if state is LayerState.EXISTS]
        return CopyResult(
            digest=root.digest,
            media_type=root.media_type,
            documents=len(self._documents),
            copied=len(copied),
            existing=len(existing),
            skipped=len(states) - len(copied) - len(existing),
            bytes=sum(descriptor.size for descriptor in copied),
            platform=taken,
            platforms=count,
        )

    def _takes_whole(self, index: Document, platform: Platform | None, all_platforms: bool | None) -> bool:
        """Whether the index itself is copied."""
        if platform is not None or all_platforms is False:
            return False
        children = decode_index(index, name=self._source.name).manifests
        there = [child for child in children if self._source.holds(child)]
        names = ", ".join(platforms.describe(child.platform) for child in there[:_SHOWN]) or "none"
        part = (
            f"{self._source.name}: of the {len(children)} manifests of its index all but those for {names} are missing"
        )
        if len(there) < len(children) and all_platforms:
            raise BlobNotFoundError(f"{part}; leave out --all to copy one of them", reference=self._source.name)
        if len(there) < len(children):
            _log.warning("%s; one image is copied, without the index", part)
            return False
        return all_platforms is True or self._destination.holds_indexes

    def _platform_of(self, chosen: Document, index: Document) -> tuple[str | None, int]:
        """What an index says of one of its images, and how many platforms it names.

        Attestations of BuildKit are for the platform "unknown".
        """
        children = decode_index(index, name=self._source.name).manifests
        found = next((child for child in children if child.digest == chosen.digest), None)
        count = sum(child.platform is not None and child.platform.os != "unknown" for child in children)
        return platforms.describe(found.platform) if found is not None else None, count

    def _gather(self, document: Document, depth: int) -> None:
        """Notes all that a document leads to, children before it."""
        if document.digest in self._documents:
            return
        if len(self._documents) >= _DOCUMENTS:
            raise DocumentError(f"{self._source.name}: more than {_DOCUMENTS} manifests; copy a single platform")
        if not document.is_index:
            manifest = decode_manifest(document, name=self._source.name)
            for descriptor in (manifest.config, *manifest.layers):
                self._note_blob(descriptor)
        else:
            for child in decode_index(document, name=self._source.name).manifests:
                if child.media_type not in INDEXES | MANIFESTS:
                    raise NotAnImageError(
                        f"{self._source.name}: its index names {child.digest}, which is no manifest but"
                        f" {child.media_type}"
                    )
                if child.digest in self._documents:
                    continue
                if not self._source.holds(child):
                    raise BlobNotFoundError(
                        f"{self._source.name}: the manifest {child.digest} ({platforms.describe(child.platform)}) of "
                        "its index is missing here; copy what is there with --platform",
                        reference=self._source.name,
                    )
                if depth == 0:
                    raise DocumentError(f"{self._source.name}: indexes stand more than {NESTING} deep in one another")
                self._gather(self._source.document(child), depth - 1)
        self._documents[document.digest] = document

    def _note_blob(self, descriptor: Descriptor) -> None:
        known = self._blobs.setdefault(descriptor.digest, descriptor)
        if known.size != descriptor.size:
            raise DocumentError(
                f"{self._source.name}: the blob {descriptor.digest} is said to be {known.size} and {descriptor.size}"
                f" bytes long"
            )
        if descriptor.urls and is_foreign_layer(descriptor.media_type):
            self._foreign.add(descriptor.digest)

    def _gather_referrers(self) -> None:
        if not isinstance(self._origin, ReferredSource) or not self._destination.is_remote:
            raise UsageError("referrers can be copied from a registry to a registry only")
        # A referrer may have referrers: what is found is looked at as well.
        seen: set[str] = set()
        while open_ends := [digest for digest in self._documents if digest not in seen]:
            for digest in open_ends:
                seen.add(digest)
                for descriptor in self._origin.referrers(digest):
                    if descriptor.digest not in self._documents:
                        self._gather(self._source.document(descriptor), NESTING)

    def _move_blobs(self, parallel: int) -> list[tuple[Descriptor, LayerState | None]]:
        blobs = list(self._blobs.values())
        self._destination.announce(blobs)
        for descriptor in blobs:
            self._tell(descriptor, LayerState.WAITING, 0)
        from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

        with ThreadPoolExecutor(max_workers=max(1, parallel), thread_name_prefix="copy") as pool:
            running = [pool.submit(self._move, descriptor) for descriptor in blobs]
            try:
                while wait(running, timeout=_POLL, return_when=FIRST_EXCEPTION).not_done:
                    if any(each.done() and each.exception() is not None for each in running):
                        break
                    self._raise_if_cancelled()
            finally:
                # Also on KeyboardInterrupt: those that run notice with their next chunk.
                failed = any(each.done() and each.exception() is not None for each in running)
                if failed or not all(each.done() for each in running):
                    self._stop.set()
                    for each in running:
                        each.cancel()
                    # One that waits for a silent server would notice nothing.
                    self._source.close()
        failures = [each.exception() for each in running if not each.cancelled()]
        for failure in sorted((each for each in failures if each), key=lambda each: isinstance(each, CancelledError)):
            raise failure
        return [(descriptor, each.result()) for descriptor, each in zip(blobs, running, strict=True)]

    def _raise_if_cancelled(self) -> None:
        if self._cancelled():
            raise CancelledError(f"the copy of {self._source.name} was cancelled")

    def _move(self, descriptor: Descriptor) -> LayerState | None:
        with self._claim(descriptor, self._stop.is_set):
            return self._move_claimed(descriptor)

    def _move_claimed(self, descriptor: Descriptor) -> LayerState | None:
        if self._stop.is_set():
            raise CancelledError(f"the copy of {self._source.name} was stopped")
        if self._destination.has_blob(descriptor) or self._destination.mount_blob(descriptor, self._origin):
            self._tell(descriptor, LayerState.EXISTS, descriptor.size)
            return LayerState.EXISTS
        try:
            self._move_mended(descriptor)
        except BlobNotFoundError:
            if descriptor.digest not in self._foreign:
                raise
            # Layers that their maker forbids to spread are named with URLs and kept nowhere else.
            self._tell(descriptor, LayerState.EXISTS, descriptor.size)
            return None
        self._tell(descriptor, self._moved, descriptor.size)
        return self._moved

    def _move_mended(self, descriptor: Descriptor) -> None:
        try:
            self._move_bytes(descriptor)
        except (FileError, VerificationError):
            if self._stop.is_set() or not isinstance(self._source, KeepingSource):
                raise
            # What was kept of it may be damaged, or was removed meanwhile, and is fetched anew.
            if not self._source.mend(descriptor):
                raise
            self._move_bytes(descriptor)

    def _move_bytes(self, descriptor: Descriptor) -> None:
        if not self._move_file(descriptor):
            with self._source.blob(descriptor) as blob:
                self._destination.put_blob(descriptor, Watched(blob, lambda: self._passing(descriptor)))

    def _move_file(self, descriptor: Descriptor) -> bool:
        """Moves a blob between two files of this machine; False when it is not to be had or put as one."""
        source, destination = self._source, self._destination
        if not isinstance(destination, FileDestination):
            return False
        if isinstance(source, KeepingSource):
            found = source.keep(descriptor, self._passing(descriptor))
            if found is not None:
                destination.put_file(descriptor, found)
            return found is not None
        with source.blob(descriptor) as blob:
            if blob.local is not None:
                destination.put_file(descriptor, blob.local)
            return blob.local is not None

    def _tell(self, descriptor: Descriptor, state: LayerState, done: int) -> None:
        self._progress(Event(Phase.LAYER_ACQUIRE, descriptor.digest, state, done, descriptor.size))

    def _passing(self, descriptor: Descriptor) -> Passed:
        """Begins to tell how far a blob is; what it returns raises CancelledError once the copy failed elsewhere."""
        self._tell(descriptor, self._moving, 0)
        tell = stepwise(partial(self._tell, descriptor, self._moving), _STEP)

        def passed(done: int) -> None:
            if self._stop.is_set():
                raise CancelledError(f"the copy of {self._source.name} was stopped")
            tell(done)

        return passed

"""Many images from place to place: blobs that they share are moved once, what is there stays, no failure stops it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

from ocifast import platforms
from ocifast.copying import CopyResult
from ocifast.copying import copy as copy_image
from ocifast.errors import CancelledError, FileError, ImageNotFoundError, OcifastError, RegistryError, UsageError
from ocifast.progress import Progress, silent
from ocifast.records import dataclass
from ocifast.reference import Location
from ocifast.signatures import Verification, check
from ocifast.sources import Destination, NamedSource, Source
from ocifast.sources.open import open_destination, open_source, parse_location
from ocifast.transfers import tags

if TYPE_CHECKING:
    from ocifast.sources.registry import RegistryDestination
    from ocifast.sources.registry.options import RegistryOptions
    from ocifast.spec import Descriptor, Document

__all__ = ["IMAGES", "MirrorEntry", "MirrorResult", "copy_many"]

IMAGES = 4
"""Images at a time, unless somebody says another number."""
_POLL = 0.1
"""Seconds between two questions whether the copy is cancelled."""


@dataclass(frozen=True)
class MirrorEntry:
    """What is copied: one image, or many tags of a repository.

    Attributes:
        source: where it is, as `ocifast.copy` takes it; with `all_tags` a repository (`HOST/NAME`) or a layout
            (`oci:DIR`), without a tag.
        destination: where to; with `all_tags` a repository or a layout, in which the tags are the same.
        platform: which image of each index alone, as `linux/arm64`.
        all_tags: whether all tags are meant.
        include: patterns (`*`, `?`, `[…]`) of the tags that are meant, of all tags.
        exclude: patterns of tags that are not.
    """

    source: str
    destination: str
    platform: str | None = None
    all_tags: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.include or self.exclude) and not self.all_tags:
            raise UsageError(f"{self.source}: patterns choose of all tags, and one image is named")


@dataclass(frozen=True)
class MirrorResult:
    """What came of one image.

    Attributes:
        source: where it was.
        destination: where it is.
        copied: what was copied; None after a failure, and where nothing had to be looked at.
        error: why it was not copied.
        digest: of what is there now; None after a failure.
    """

    source: str
    destination: str
    copied: CopyResult | None = None
    error: OcifastError | None = None
    digest: str | None = None

    @property
    def existing(self) -> bool:
        """Whether nothing was moved, as all of it was there."""
        return self.error is None and (self.copied is None or self.copied.copied == 0)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON-able data."""
        error = self.error
        return {
            "source": self.source,
            "destination": self.destination,
            "status": "failed" if error is not None else "existing" if self.existing else "copied",
            "digest": self.digest,
            "result": None if self.copied is None else asdict(self.copied),
            "error": None if error is None else {"code": error.code, "message": str(error), **error.context},
        }


def copy_many(
    entries: Iterable[MirrorEntry],
    *,
    all_platforms: bool | None = None,
    referrers: bool = False,
    images: int = IMAGES,
    parallel: int | None = None,
    follow_links: bool = False,
    verify: Verification | None = None,
    sync: bool = True,
    options: RegistryOptions | None = None,
    progress: Callable[[str], Progress] = lambda image: silent,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[MirrorResult]:
    """Copies many images, several at a time, each with several blobs at a time.

    What goes to one registry, and comes from one, has one limit (`RegistryOptions.parallel`). A blob that several
    images have is moved by one of them, for which the others wait. One that was put into one repository of a registry
    is mounted into the others there, and moved anew only where the registry does not do that. An image whose digest the
    destination has under the same tag is left alone; of any other, blobs that are there stay. So a copy that was
    interrupted goes on where it was.

    Args:
        entries: what to copy.
        all_platforms: as of `ocifast.copy`, as all that follow.
        referrers: as there.
        images: most that are on their way at a time; with 1 they are copied one after the other.
        parallel: as there.
        follow_links: as there.
        verify: as there, of every image.
        sync: as there.
        options: as there.
        progress: gives for each image what gets its events.
        cancelled: asked now and then.

    Returns:
        An iterator of results as images are done with; with `images=1` in the order of the entries, and of the tags as
        the registry lists them. When it is closed, what is on its way is taken back.

    Raises:
        UsageError: `images` is less than 1.
        CancelledError: `cancelled` said so; the images that were on their way are taken back.
    """
    if images < 1:
        raise UsageError(f"{images} images at a time are none; ask for 1 or more")
    if parallel is not None:
        from ocifast.sources.registry.options import RegistryOptions

        options = replace(options or RegistryOptions(), parallel=parallel)
    run = _Mirroring(all_platforms, referrers, parallel or 4, follow_links, verify, sync, options, progress, cancelled)
    return run.run(entries, images)


@dataclass(frozen=True)
class _Pair:
    """One image: from where to where."""

    source: str
    destination: str
    platform: str | None


class _Claims:
    """Which blob is being copied to which place: one thread holds the pair and copies, others wait for it."""

    def __init__(self) -> None:
        self._held: set[tuple[str, str]] = set()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, place: str, descriptor: Descriptor, stopped: Callable[[], bool]) -> Iterator[None]:
        """Holds a blob of a place. Raises CancelledError when it is not wanted any more."""
        key = place, descriptor.digest
        with self._changed:
            while key in self._held:
                if stopped():
                    raise CancelledError("the copy was stopped")
                self._changed.wait(_POLL)
            self._held.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(key)
                self._changed.notify_all()


@dataclass
class _Mirroring:
    all_platforms: bool | None
    referrers: bool
    parallel: int
    follow_links: bool
    verify: Verification | None
    sync: bool
    options: RegistryOptions | None
    progress: Callable[[str], Progress]
    cancelled: Callable[[], bool]

    def __post_init__(self) -> None:
        # Where each registry has a blob, by host and digest.
        self._places: dict[tuple[str, str], str] = {}
        self._claims = _Claims()
        self._stopped = threading.Event()

    def run(self, entries: Iterable[MirrorEntry], images: int) -> Iterator[MirrorResult]:
        pairs = self._pairs(entries)
        running: dict[Future[MirrorResult], str] = {}
        following: _Pair | MirrorResult | None = None
        with ThreadPoolExecutor(images, thread_name_prefix="ocifast-mirror") as pool:
            try:
                while True:
                    while len(running) < images:
                        following = following or next(pairs, None)
                        if isinstance(following, MirrorResult):
                            yield following
                            following = None
                            continue
                        # Two for one name come in their order: the later one is what the name means in the end.
                        if following is None or following.destination in running.values():
                            break
                        running[pool.submit(self._result, following)] = following.destination
                        following = None
                    if not running:
                        return
                    done, _ = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED)
                    self._raise_if_cancelled()
                    for each in done:
                        del running[each]
                        yield each.result()
                        self._raise_if_cancelled()
            finally:
                # Also when nobody wants the other results: those that run notice with their next chunk.
                self._stopped.set()

    def _raise_if_cancelled(self) -> None:
        if self.cancelled():
            raise CancelledError("the copy was cancelled")

    def _is_stopped(self) -> bool:
        return self._stopped.is_set() or self.cancelled()

    def _pairs(self, entries: Iterable[MirrorEntry]) -> Iterator[_Pair | MirrorResult]:
        """What is to be copied; a result for what cannot be."""
        for entry in entries:
            try:
                pairs = self._expanded(entry)
            except CancelledError:
                raise
            except OcifastError as error:
                yield MirrorResult(entry.source, entry.destination, error=error)
                continue
            for source, destination in pairs:
                yield _Pair(source, destination, entry.platform)

    def _result(self, pair: _Pair) -> MirrorResult:
        try:
            try:
                return self._copied(pair.source, pair.destination, pair.platform)
            except FileError:
                # An image that failed takes its blobs out of a layout, also those that another one has relied on.
                if not pair.destination.startswith("oci:"):
                    raise
                return self._copied(pair.source, pair.destination, pair.platform)
        except CancelledError:
            raise
        except OcifastError as error:
            return MirrorResult(pair.source, pair.destination, error=error)

    def _expanded(self, entry: MirrorEntry) -> list[tuple[str, str]]:
        """Source and destination of every image of an entry."""
        if not entry.all_tags:
            return [(entry.source, entry.destination)]
        origin, target = parse_location(entry.source), parse_location(entry.destination)
        for each in (origin, target):
            named = each.reference.tag or each.reference.digest if each.reference else each.tag or each.digest
            if named:
                raise UsageError(f"{each}: with all tags a repository or a layout is named, without a tag")
            if each.transport not in ("docker", "oci"):
                raise UsageError(f"{each}: all tags are those of a repository or of a layout (oci:DIR)")
        there = self._tags(origin)
        found = [tag for tag in there if _is_wanted(tag, entry.include, entry.exclude)]
        if not found:
            raise ImageNotFoundError(f"{entry.source}: none of its {len(there)} tags is wanted", reference=entry.source)
        return [(f"{entry.source}:{tag}", f"{entry.destination}:{tag}") for tag in found]

    def _tags(self, origin: Location) -> Sequence[str]:
        if origin.remote is not None:
            return tags(origin.remote, options=self.options)
        from ocifast.sources.layout import LayoutSource

        with closing(open_source(origin, follow_links=self.follow_links)) as layout:
            assert isinstance(layout, LayoutSource), "of what is on disk only layouts have tags"
            return layout.names()

    def _copied(self, source: str, destination: str, platform: str | None) -> MirrorResult:
        origin, target = parse_location(source), parse_location(destination)
        place = target.remote.host if target.remote is not None else os.path.realpath(target.path or target.text)
        with closing(open_source(origin, options=self.options, follow_links=self.follow_links)) as opened:
            there = self._digest_there(opened, target, platform)
            if there is not None:
                return MirrorResult(source, destination, digest=there)
            done = copy_image(
                opened,
                self._destination(target),
                platform=None if platform is None else platforms.parse(platform),
                all_platforms=self.all_platforms,
                referrers=self.referrers,
                parallel=self.parallel,
                progress=self.progress(source),
                cancelled=self._is_stopped,
                claim=partial(self._claims.hold, place),
                accept=lambda digests: check(self.verify, origin, opened, digests),
            )
            return MirrorResult(source, destination, done, digest=done.digest)

    def _digest_there(self, source: Source, target: Location, platform: str | None) -> str | None:
        """The digest of an image that the destination has as it is; None where that is not known without copying it."""
        if platform is not None or self.all_platforms is False or self.referrers or self.verify is not None:
            return None
        if target.remote is None or not isinstance(source, NamedSource):
            return None
        with closing(open_source(target, options=self.options)) as there:
            assert isinstance(there, NamedSource), "a registry says what its tags mean"
            try:
                seen = there.digest()
            except (ImageNotFoundError, RegistryError):
                # Pushing will tell what is wrong, if anything is.
                return None
        return seen if seen == source.digest() else None

    def _destination(self, target: Location) -> Destination:
        made = open_destination(target, options=self.options, sync=self.sync)
        if target.remote is None:
            return made
        from ocifast.sources.registry import RegistryDestination

        assert isinstance(made, RegistryDestination), "a registry has a destination of its own"
        return _Mounting(made, target.remote.host, self._places)


class _Mounting:
    """A destination in a registry that knows where else there it has put a blob."""

    is_remote = True
    holds_indexes = True

    def __init__(self, inner: RegistryDestination, host: str, places: dict[tuple[str, str], str]) -> None:
        self.name = inner.name
        self._inner = inner
        self._host = host
        self._places = places

    def announce(self, descriptors: Iterable[Descriptor]) -> None:
        self._inner.announce(descriptors)

    def has_blob(self, descriptor: Descriptor) -> bool:
        found = self._inner.has_blob(descriptor)
        if found:
            self._note(descriptor)
        return found

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        known = self._places.get((self._host, descriptor.digest))
        if known is None or known == self._inner.reference.repository:
            done = self._inner.mount_blob(descriptor, source)
        else:
            done = self._inner.mount_from(descriptor, known)
        if done:
            self._note(descriptor)
        return done

    def put_blob(self, descriptor: Descriptor, chunks: Iterable[bytes]) -> None:
        self._inner.put_blob(descriptor, chunks)
        self._note(descriptor)

    def put_document(self, document: Document, *, root: bool) -> None:
        self._inner.put_document(document, root=root)

    def commit(self) -> None:
        self._inner.commit()

    def abort(self) -> None:
        self._inner.abort()

    def _note(self, descriptor: Descriptor) -> None:
        self._places[self._host, descriptor.digest] = self._inner.reference.repository


def _is_wanted(tag: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    included = not include or any(fnmatchcase(tag, pattern) for pattern in include)
    return included and not any(fnmatchcase(tag, pattern) for pattern in exclude)

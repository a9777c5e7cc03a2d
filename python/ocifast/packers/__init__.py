"""Packers: from a finished tree to a directory, an archive or a filesystem image.

One file per format, one line in `FORMATS`, and inside a format one table of backends in order of preference. The first
backend that is there and able is taken; one that is named is taken or refused, never replaced.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ocifast.errors import PackerMissingError, UsageError

if TYPE_CHECKING:
    from ocifast import _core

__all__ = [
    "ANY_IMAGE",
    "FORMATS",
    "SUFFIXES",
    "Backend",
    "Format",
    "Loss",
    "LossRow",
    "PackOptions",
    "Packing",
    "Row",
    "Totals",
    "check_suffix",
    "choose_backend",
    "format_of",
    "group",
    "load_format",
    "refuse_options",
    "rows",
    "summarize",
    "totals",
]

FORMATS: dict[str, str] = {
    "dir": "ocifast.packers.directory:FORMAT",
    "tar": "ocifast.packers.tar:FORMAT",
    "cpio": "ocifast.packers.cpio:FORMAT",
    "erofs": "ocifast.packers.erofs:FORMAT",
    "squashfs": "ocifast.packers.squashfs:FORMAT",
    "ext4": "ocifast.packers.ext4:FORMAT",
}
"""Name of each format, and where its `Format` is."""

SUFFIXES: dict[str, tuple[str, str | None]] = {
    ".tar": ("tar", None),
    ".tar.gz": ("tar", "gzip"),
    ".tgz": ("tar", "gzip"),
    ".tar.zst": ("tar", "zstd"),
    ".tzst": ("tar", "zstd"),
    ".cpio": ("cpio", None),
    ".cpio.gz": ("cpio", "gzip"),
    ".cpio.zst": ("cpio", "zstd"),
    ".erofs": ("erofs", None),
    ".squashfs": ("squashfs", None),
    ".sqfs": ("squashfs", None),
    ".ext4": ("ext4", None),
    ".img": ("ext4", None),
}
"""File name suffix: format, and the compression that the suffix says."""

ANY_IMAGE = ".img"
"""The suffix that people give to every kind of image; means ext4 where no format is chosen."""


@dataclass(frozen=True)
class PackOptions:
    """What a caller may choose about the output. A value means the same for every backend; None leaves the default.

    All of it is part of the key under which an output is cached.

    Attributes:
        backend: name of the backend.
        compression: "none", "gzip", "zstd", "xz", "lz4", as far as the format has it.
        level: the compression's own level.
        block_size: bytes of a block (squashfs) or physical cluster (erofs).
        free_space: bytes left free in a writable filesystem.
        size: bytes of the whole image of a writable filesystem; excludes `free_space`.
        journal: whether a writable filesystem gets a journal.
        owners: for directories: True sets owners, as far as that is allowed, False leaves all to the caller, None sets
            them exactly when running as root.
        tails: of erofs without compression: "inline" (the default) puts the end of a file that is no whole block behind
            its inode, "block" into a block of its own; all of these can be shared with decoded layers.
    """

    backend: str | None = None
    compression: str | None = None
    level: int | None = None
    block_size: int | None = None
    free_space: int | None = None
    size: int | None = None
    journal: bool | None = None
    owners: bool | None = None
    tails: str | None = None


@dataclass(frozen=True)
class Loss:
    """Something that the output could not hold.

    Attributes:
        kind: "owner", "mode", "mtime", "xattr", "device", "link", ...
        detail: what happened, the same text for all paths of one cause.
        count: how many entries.
        paths: the first few, without leading slash, as bytes.
    """

    kind: str
    detail: str
    count: int = 1
    paths: tuple[bytes, ...] = ()


_BATCH = 4096
LOSS_EXAMPLES = 10
"""Paths that one `Loss` names at most."""


@dataclass(frozen=True)
class Packing:
    """One run of a backend.

    Attributes:
        tree: what to write.
        path: where; does not exist yet, and is on the file system of the destination in a folder of this run alone. The
            caller fsyncs and renames it. None exactly when `descriptor` is set.
        descriptor: a file descriptor to stream to, for formats that can.
        folder: an empty folder for the backend's own files, on the same file system; removed by the caller.
        options: as the caller chose.
        digest: of the image manifest; what UUIDs and hash seeds are derived from.
        clamp_mtime: seconds since 1970 that no time in the output may pass; None keeps all.
        created: when the image says that it was made, in seconds since 1970, already clamped: the time of the
            filesystem itself.
        threads: to use; changes nothing in the output.
        progress: told bytes done, and bytes to do when known.
        cancelled: whether to stop; asked now and then.
    """

    tree: _core.Tree
    path: Path | None
    folder: Path
    digest: str
    options: PackOptions = field(default_factory=PackOptions)
    descriptor: int | None = None
    clamp_mtime: int | None = None
    created: int = 0
    threads: int = 1
    progress: Callable[[int, int | None], None] = lambda done, total: None
    cancelled: Callable[[], bool] = lambda: False


class Backend(ABC):
    """One way to write a format."""

    name: ClassVar[str]
    """As in `--backend`. The format's own name is used by writers of ours."""
    package: ClassVar[str | None] = None
    """Debian package that brings the tool; None when nothing needs to be installed."""

    tells: ClassVar[bool] = False
    """Whether it calls `Packing.progress`; for the others the core counts the bytes of contents that they take."""

    @property
    @abstractmethod
    def store(self) -> str:
        """Where the flattener must leave contents: "spool", "directory" or "erofs" (see `_core.Flattener`)."""

    @abstractmethod
    def version(self) -> str | None:
        """What identifies the writer's behaviour, for the cache's key; None when it is not installed or not able."""

    def exact(self) -> bool:
        """Whether it keeps all that the format can hold; one that does not is taken only when there is no other."""
        return True

    @abstractmethod
    def check(self, options: PackOptions) -> None:
        """Looks at the options before any work is done. Raises UsageError for one that it does not have."""

    def size(self, packing: Packing) -> int | None:
        """Bytes that `pack` is certain to write, where they are known beforehand."""
        return None

    @abstractmethod
    def pack(self, packing: Packing) -> list[Loss]:
        """Writes the tree, and reads back as much of the result as tells a good one from a bad one.

        Returns:
            What could not be held.

        Raises:
            PackerError: the tool failed or left something else than asked for.
            OutputUnsupportedError: the format cannot hold this tree at all.
        """


@dataclass(frozen=True)
class Format:
    """A format and its backends, the best first.

    Attributes:
        name: as in `FORMATS`.
        backends: in order of preference.
        is_directory: the output is a folder, not a file.
        streams: the output can go to a pipe.
    """

    name: str
    backends: tuple[Backend, ...]
    is_directory: bool = False
    streams: bool = False


def load_format(name: str) -> Format:
    """The format of that name. Raises UsageError when there is none."""
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    module, _, attribute = FORMATS[name].partition(":")
    found: Format = getattr(import_module(module), attribute)
    return found


def format_of(output: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Format and compression that an output's name asks for; a name without a suffix is a directory.

    Raises:
        UsageError: a suffix that is of no format; the caller must say which is meant.
    """
    known = _known_suffix(output)
    if known is not None:
        return SUFFIXES[known]
    suffix = Path(output).suffix.lower()
    if suffix and not os.fspath(output).endswith("/"):
        raise UsageError(f"{os.fspath(output)}: the suffix {suffix} is of no known format; choose one with --format")
    return "dir", None


def check_suffix(output: str | os.PathLike[str], name: str, compression: str | None) -> str | None:
    """Compares an output's name with what was chosen, so that no file is called what it is not.

    Args:
        output: a path.
        name: the format that was chosen.
        compression: the compression that was chosen, if any.

    Returns:
        The compression, which the suffix may say where it was not chosen.

    Raises:
        UsageError: the suffix is of another format, or of another compression.
    """
    suffix = _known_suffix(output)
    if suffix is None or (suffix == ANY_IMAGE and name not in ("dir", "tar")):
        return compression
    meant, implied = SUFFIXES[suffix]
    if meant != name:
        own = next((suffix for suffix, (format_, _) in SUFFIXES.items() if format_ == name), None)
        advice = f"call it *{own}" if own is not None else "a directory has no suffix"
        raise UsageError(
            f"{os.fspath(output)}: the suffix {suffix} means {meant}, not {name}; {advice}, or choose {meant}"
        )
    if implied is not None and compression not in (None, implied):
        raise UsageError(
            f"{os.fspath(output)}: the suffix {suffix} means {implied}, and --compression says {compression}"
        )
    return compression or implied


def _known_suffix(output: str | os.PathLike[str]) -> str | None:
    """The longest suffix of the table that the name has, after at least one other character."""
    name = Path(output).name.lower()
    known = (suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix))
    return next((suffix for suffix in known if len(name) > len(suffix)), None)


def choose_backend(chosen: Format, options: PackOptions) -> tuple[Backend, str]:
    """The backend to use, and its version.

    Raises:
        UsageError: no such backend, or it lacks one of the options.
        PackerMissingError: the named one, or all that have the options, are not installed; the message names packages.
    """
    wanted = chosen.backends
    if options.backend is not None:
        wanted = tuple(backend for backend in wanted if backend.name == options.backend)
        if not wanted:
            names = ", ".join(backend.name for backend in chosen.backends)
            raise UsageError(f"{chosen.name} has no backend {options.backend!r}; there are {names}")
    refusal: UsageError | None = None
    missing: list[str] = []
    inexact: tuple[Backend, str] | None = None
    for backend in wanted:
        try:
            backend.check(options)
        except UsageError as error:
            refusal = refusal or error
            continue
        version = backend.version()
        if version is not None and (backend.exact() or len(wanted) == 1):
            return backend, version
        if version is not None:
            inexact = inexact or (backend, version)
        elif backend.package is not None and backend.package not in missing:
            missing.append(backend.package)
    if inexact is not None:
        return inexact
    if not missing and refusal is not None:
        raise refusal
    raise PackerMissingError(
        f"no tool that can write {chosen.name} is installed here; install one of the Debian packages "
        f"{', '.join(missing)}",
        format=chosen.name,
        packages=missing,
    )


OPTION_NAMES = {"free_space": "free"}
"""What an option is called on the command line, where that is not its name with hyphens."""


def refuse_options(name: str, options: PackOptions, *, known: Collection[str] = ()) -> None:
    """Raises UsageError when an option is set that the backend `name` does not have.

    Args:
        name: of the backend, for the message.
        options: as chosen; `backend` is never refused, nor is the compression "none".
        known: names of the options that the backend has.
    """
    for key, value in vars(options).items():
        if key == "backend" or key in known or value is None or (key == "compression" and value == "none"):
            continue
        raise UsageError(f"{name} has no option --{OPTION_NAMES.get(key, key.replace('_', '-'))}")


Row = tuple[bytes, str, int, int, int, int, int, bytes, int, int]
"""An entry as `_core.Tree.entries` gives it."""


def rows(tree: _core.Tree) -> Iterator[Row]:
    """All entries of a tree, in batches so that memory stays small."""
    start = 0
    while batch := tree.entries(b"", start, _BATCH):
        yield from batch
        start += len(batch)


class Totals(NamedTuple):
    """What some entries are together, each inode counted once.

    Attributes:
        inodes: how many there are.
        bytes: sizes of the regular files among them.
    """

    inodes: int
    bytes: int


def totals(entries: Iterable[Row]) -> Totals:
    """Counts the inodes of entries, in a bit of memory for each."""
    seen = bytearray()
    inodes = size = 0
    for _, kind, _, _, _, _, _, _, length, number in entries:
        byte, bit = number >> 3, 1 << (number & 7)
        if byte >= len(seen):
            seen.extend(bytes(byte + 1 - len(seen)))
        if not seen[byte] & bit:
            seen[byte] |= bit
            inodes += 1
            size += length if kind == "file" else 0
    return Totals(inodes, size)


LossRow = tuple[str, str, int, list[bytes]]
"""Kind, detail, count and the first few paths of a loss, as the core reports it."""


def group(losses: Iterable[tuple[str, bytes, str]]) -> list[LossRow]:
    """Groups losses (kind, path, detail), in order of first appearance; memory follows the groups alone."""
    groups: dict[tuple[str, str], tuple[int, list[bytes]]] = {}
    for kind, path, detail in losses:
        count, paths = groups.get((kind, detail), (0, []))
        if count < LOSS_EXAMPLES:
            paths.append(path)
        groups[kind, detail] = (count + 1, paths)
    return [(kind, detail, count, paths) for (kind, detail), (count, paths) in groups.items()]


def summarize(*reports: Iterable[LossRow]) -> list[Loss]:
    """Joins several reports into one, with a loss for each kind and detail."""
    groups: dict[tuple[str, str], tuple[int, list[bytes]]] = {}
    for kind, detail, count, paths in chain(*reports):
        known, named = groups.get((kind, detail), (0, []))
        groups[kind, detail] = (known + count, [*named, *paths][:LOSS_EXAMPLES])
    return [Loss(kind, detail, count, tuple(paths)) for (kind, detail), (count, paths) in groups.items()]

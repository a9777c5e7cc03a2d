"""What every writer takes, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from ocifast.errors import UsageError
from ocifast.packers.losses import Loss
from ocifast.packers.options import FormatOptions
from ocifast.process import STALL
from ocifast.records import dataclass

if TYPE_CHECKING:
    from ocifast import _core

__all__ = ["FileTarget", "Options", "StreamTarget", "WriteRequest", "Written"]

Options = TypeVar("Options", bound=FormatOptions)


@dataclass(frozen=True)
class FileTarget:
    """A file or directory that does not exist yet, on the file system of its destination. The caller publishes it."""

    path: Path


@dataclass(frozen=True)
class StreamTarget:
    """An open file descriptor, for formats that stream."""

    fd: int


@dataclass(frozen=True)
class WriteRequest(Generic[Options]):
    """One run of a writer.

    Attributes:
        tree: what to write.
        target: where.
        folder: an empty folder for the writer's own files, on the same file system; removed by the caller.
        digest: of the image manifest; what UUIDs and hash seeds are derived from.
        options: of the format.
        clamp_mtime: seconds since 1970 that no time in the output may pass; None keeps all.
        created: when the image says that it was made, in seconds since 1970, already clamped: the time of the
            filesystem itself.
        threads: to use; changes nothing in the output.
        layers: diff IDs of the tree's layers, where each has a file of its own; else none.
        platform: that the image is for, as `os/architecture/variant`, if it is known.
        leaves_out: whether edits have left something out, so that layers may hold what the output must not.
        files: digests of files of this machine that options name, by the names of the options, where they are known:
            others than these are not taken.
        kernel_folder: an empty folder for kernel, initrd and command line, where they are wanted beside a disk.
        progress: told bytes done, and bytes to do when known.
        cancelled: whether to stop; asked now and then.
        stall: seconds without a sign of life after which a tool counts as hung.
    """

    tree: _core.Tree
    target: FileTarget | StreamTarget
    folder: Path
    digest: str
    options: Options
    clamp_mtime: int | None = None
    created: int = 0
    threads: int = 1
    layers: tuple[str, ...] = ()
    leaves_out: bool = False
    platform: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    kernel_folder: Path | None = None
    progress: Callable[[int, int | None], None] = lambda done, total: None
    cancelled: Callable[[], bool] = lambda: False
    stall: float = STALL

    @property
    def path(self) -> Path:
        """Path of a file's target. Raises UsageError for a stream."""
        if isinstance(self.target, StreamTarget):
            raise UsageError(f"{self.options.format} cannot be written to a stream; tar and cpio can")
        return self.target.path


@dataclass(frozen=True)
class Written:
    """What a writer wrote.

    Attributes:
        bytes: of the output; None for a directory.
        losses: what it could not hold.
        properties: what names or describes the output besides, as "uuid".
    """

    bytes: int | None
    losses: tuple[Loss, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)

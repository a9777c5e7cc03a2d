"""One way to write a format, and a format with all its ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic

from ocifast.errors import PackerMissingError, UsageError
from ocifast.layered import Store
from ocifast.packers.options import FormatOptions, PackOptions, options_of
from ocifast.packers.request import Options, WriteRequest, Written
from ocifast.records import dataclass

__all__ = ["Backend", "Format", "choose_backend"]


class Backend(ABC, Generic[Options]):
    """One way to write a format."""

    name: ClassVar[str]
    """As in `--backend`. The core's own writers have the name of the format."""
    package: ClassVar[str | None] = None
    """Debian package that brings the tool; None when nothing needs to be installed."""

    def store(self, options: Options, threads: int) -> Store:
        """Where contents should wait for it. It takes them from every other store as well, with a copy where needed.

        Args:
            options: as in `WriteRequest`.
            threads: as in `WriteRequest`.
        """
        return Store.SPOOL

    @abstractmethod
    def version(self) -> str | None:
        """What identifies the writer's behaviour, for the cache's key; None when it is not installed or not able."""

    def exact(self) -> bool:
        """Whether it keeps all that the format can hold; one that does not is taken only when there is no other."""
        return True

    def tells(self, options: Options) -> bool:
        """Whether it calls `WriteRequest.progress`; else the core counts the bytes of contents that are taken."""
        return False

    def copies(self, options: Options) -> bool:
        """Whether contents are only copied: of kept layers an output is then made as quickly as a copy of it."""
        return False

    def check(self, options: Options) -> None:
        """Looks at the options before any work is done. Raises UsageError for one that the backend does not have."""

    def size(self, request: WriteRequest[Options]) -> int | None:
        """Bytes that `write` is certain to write, where they are known beforehand."""
        return None

    @abstractmethod
    def write(self, request: WriteRequest[Options]) -> Written:
        """Writes the tree, and reads back as much of the result as tells a good one from a bad one.

        Raises:
            PackerError: the tool failed or left something else than asked for.
            OutputUnsupportedError: the format cannot hold this tree at all.
        """


@dataclass(frozen=True)
class Format:
    """A format and its backends, the best first.

    Attributes:
        name: as in `ocifast.packers.FORMATS`.
        options: class of its options.
        backends: in order of preference.
        is_directory: the output is a folder, not a file.
        streams: the output can go to a pipe.
        has_layers: the output is a folder of decoded layers (`ocifast.layer_folder`), which others may be in already.
    """

    name: str
    options: type[FormatOptions]
    backends: tuple[Backend[Any], ...]
    is_directory: bool = False
    streams: bool = False
    has_layers: bool = False


def choose_backend(chosen: Format, options: PackOptions | FormatOptions) -> tuple[Backend[Any], str]:
    """The backend to use, and its version.

    Args:
        chosen: the format.
        options: of all formats, which can name a backend, or of this one.

    Raises:
        UsageError: no such backend, or it lacks one of the options.
        PackerMissingError: the named one, or all that have the options, are not installed; the message names packages.
    """
    wanted = chosen.backends
    named = options.backend if isinstance(options, PackOptions) else None
    if named is not None:
        wanted = tuple(backend for backend in wanted if backend.name == named)
        if not wanted:
            names = ", ".join(backend.name for backend in chosen.backends)
            raise UsageError(f"{chosen.name} has no backend {named!r}; there are {names}")
    own = options if isinstance(options, FormatOptions) else options_of(chosen.options, options, name=named)
    refusal: UsageError | None = None
    missing: list[str] = []
    inexact: tuple[Backend[Any], str] | None = None
    for backend in wanted:
        try:
            backend.check(own)
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

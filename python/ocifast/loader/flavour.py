"""The two dynamic loaders of Linux, and what each is built with."""

from __future__ import annotations

import posixpath
import re
from dataclasses import field

from ocifast.elf import Elf
from ocifast.errors import ElfError
from ocifast.loader.cache import parse_cache
from ocifast.loader.sysroot import Sysroot
from ocifast.patterns import pattern
from ocifast.records import dataclass

__all__ = ["Flavour", "flavour_of"]

_LOADER_BYTES = 64 << 20
_CACHE_BYTES = 64 << 20
_PATH_BYTES = 64 << 10
_FOLDER_LIST = pattern(rb"(?:/(?:[\w.+-]+/)+\0)+")
_OWN_OF_MUSL = pattern(r"lib(c|pthread|rt|m|dl|util|xnet)\.")


@dataclass(frozen=True)
class Flavour:
    """How one loader searches.

    Attributes:
        is_musl: musl's, else glibc's.
        default_folders: what it searches without any configuration, in order, without trailing slash.
        searched_folders: what it searches last on the machine that the root is of.
        target_folder: where libraries go that it would not find in an image without configuration.
        library_folder: what `$LIB` stands for, or None when it means nothing.
        cache: paths by name, from ld.so.cache.
    """

    is_musl: bool
    default_folders: tuple[str, ...]
    searched_folders: tuple[str, ...]
    target_folder: str
    library_folder: str | None = None
    cache: dict[str, list[str]] = field(default_factory=dict)

    def cached(self, name: str) -> list[str]:
        """Paths of ld.so.cache for a library."""
        return self.cache.get(name, [])

    def is_own(self, name: str) -> bool:
        """Whether the loader itself is this library: musl's is the C library."""
        return self.is_musl and _OWN_OF_MUSL.match(name) is not None

    def expand(self, path: str) -> str | None:
        """Replaces `$LIB`; None for a path with `$PLATFORM`, which only the machine that runs the image knows."""
        if "$PLATFORM" in path or "${PLATFORM}" in path:
            return None
        for token in ("${LIB}", "$LIB"):
            if token in path:
                if self.library_folder is None:
                    return None
                path = path.replace(token, self.library_folder)
        return path


def flavour_of(interpreter: Elf, path: str, root: Sysroot) -> Flavour:
    """Tells which loader an interpreter is, from its name and the strings in it.

    Args:
        interpreter: the file.
        path: how executables name it.
        root: where its configuration is.

    Raises:
        ElfError: it is neither glibc's nor musl's.
    """
    name = posixpath.basename(path)
    if name.startswith("ld-musl-"):
        defaults = ("/lib", "/usr/local/lib", "/usr/lib")
        listed = root.read(f"/etc/{name.removesuffix('.so.1')}.path", _PATH_BYTES).decode("utf-8", "surrogateescape")
        searched = tuple(folder for folder in re.split(r"[:\n]", listed) if folder.startswith("/"))
        return Flavour(True, defaults, searched or defaults, defaults[0])
    with interpreter.path.open("rb") as file:
        data = file.read(_LOADER_BYTES)
    # glibc's default folders differ from distribution to distribution; they stand in the loader as one run of strings.
    runs = [run.decode("ascii", "replace").split("\0")[:-1] for run in _FOLDER_LIST.findall(data)]
    folders = next((run for run in runs if all("lib" in folder for folder in run)), None)
    if folders is None or b"ld.so.cache" not in data:
        raise ElfError(f"{interpreter.path}: it is neither glibc's loader nor musl's, so its rules are not known")
    defaults = tuple(folder.rstrip("/") for folder in folders)
    cache = parse_cache(root.read("/etc/ld.so.cache", _CACHE_BYTES), byte_order=interpreter.byte_order)
    return Flavour(False, defaults, defaults, defaults[0], defaults[0].lstrip("/"), cache)

"""The walk over an executable's libraries and theirs."""

from __future__ import annotations

import os
import posixpath
from collections import deque
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path

from ocifast.elf import Elf, inspect
from ocifast.errors import ElfError
from ocifast.loader.flavour import Flavour, flavour_of
from ocifast.loader.sysroot import Sysroot
from ocifast.records import dataclass

__all__ = ["Library", "resolve"]

_LIBRARIES = 4096
"""Most libraries of one executable; Linux desktops' largest programs have hundreds."""


@dataclass(frozen=True)
class Library:
    """A file that goes into the image with an executable: its interpreter or a library.

    Attributes:
        elf: its facts; `elf.path` is the file, links followed.
        target: the absolute path in the image at which the loader finds it.
    """

    elf: Elf
    target: str


@dataclass(frozen=True)
class _Folder:
    """A folder to search, and where what is found there goes."""

    host: Path | None
    """Outside of the root (below the executable's own folder), or None."""
    inside: str
    """Its path in the root, when `host` is None."""
    target: str


@dataclass
class _Object:
    """Something that is loaded: the executable or a library."""

    elf: Elf
    folder: _Folder
    parent: _Object | None
    names: set[str] = field(default_factory=set)


def resolve(elf: Elf, *, sysroot: str | os.PathLike[str] = "/", target: str = "/") -> tuple[Library, ...]:
    """The interpreter of an executable and the closure of its libraries.

    Args:
        elf: a dynamically linked executable.
        sysroot: the root folder of the system that it was built for.
        target: the folder of the image that the executable will stand in; what `$ORIGIN` means there.

    Returns:
        Sorted by path in the image; the interpreter at exactly the path that the executable names. A library that was
        found with the help of ld.so.cache in some other folder goes to a default folder: the image has no cache.

    Raises:
        ElfError: no such interpreter or library, or one that is damaged; a loader that is neither glibc's nor musl's.
        FileError: a file could not be read.
    """
    return _Closure(elf, Sysroot(Path(sysroot)), target).run()


class _Closure:
    def __init__(self, elf: Elf, root: Sysroot, target: str) -> None:
        if elf.interpreter is None:
            raise ElfError(f"{elf.path}: it names no interpreter", path=str(elf.path))
        self._elf = elf
        self._root = root
        interpreter = root.find(elf.interpreter)
        if interpreter is None:
            where = "" if root.root == Path("/") else f" below {root.root}"
            raise ElfError(
                f"{elf.path}: its interpreter {elf.interpreter} does not exist{where}; "
                "name the root of the system that it was built for with --sysroot",
                path=str(elf.path),
            )
        self._interpreter = Library(self._same_machine(inspect(interpreter)), elf.interpreter)
        self._flavour: Flavour = flavour_of(self._interpreter.elf, elf.interpreter, root)
        host = Path(os.path.realpath(elf.path)).parent
        self._program = _Object(elf, _Folder(host, "", target), None)
        self._loaded: dict[str, _Object] = {}
        self._targets: dict[str, Library] = {self._interpreter.target: self._interpreter}

    def run(self) -> tuple[Library, ...]:
        interpreter = _Object(self._interpreter.elf, _Folder(None, "", ""), None)
        soname = self._interpreter.elf.soname
        for name in {self._interpreter.target, posixpath.basename(self._interpreter.target), soname}:
            if name:
                self._loaded[name] = interpreter
        # Breadth first, as the loader: the first library of a name is the one for all.
        queue = deque([self._program])
        while queue:
            requester = queue.popleft()
            for name in requester.elf.needed:
                if name in self._loaded or self._flavour.is_own(name):
                    continue
                found = self._load(name, requester)
                self._loaded[name] = found
                if found.elf.soname:
                    self._loaded.setdefault(found.elf.soname, found)
                if len(self._targets) > _LIBRARIES:
                    raise ElfError(f"{self._elf.path}: it needs more than {_LIBRARIES} libraries")
                queue.append(found)
        return tuple(self._targets[target] for target in sorted(self._targets))

    def _load(self, name: str, requester: _Object) -> _Object:
        if "/" in name:
            if not name.startswith("/"):
                raise self._missing(name, requester, "a path that depends on the folder it is started in")
            folders = iter([_Folder(None, posixpath.dirname(name), posixpath.normpath(posixpath.dirname(name)))])
            name = posixpath.basename(name)
        else:
            folders = self._folders(name, requester)
        for folder in folders:
            path = self._find(folder, name)
            if path is None:
                continue
            elf = inspect(path)
            if self._fits(elf):
                self._place(Library(elf, posixpath.join(folder.target, name)), requester)
                return _Object(elf, folder, requester)
        raise self._missing(name, requester, "which is neither in its own paths nor in the loader's")

    def _folders(self, name: str, requester: _Object) -> Iterator[_Folder]:
        """Where a library is looked for, in order."""
        yield from self._own_folders(requester)
        defaults = self._flavour.default_folders
        if not (requester.elf.no_default_folders and not self._flavour.is_musl):
            for path in self._flavour.cached(name):
                folder, found = posixpath.split(path)
                if found == name:
                    yield _Folder(None, folder, folder if folder in defaults else self._flavour.target_folder)
            for folder in self._flavour.searched_folders:
                yield _Folder(None, folder, folder if folder in defaults else self._flavour.target_folder)

    def _own_folders(self, requester: _Object) -> Iterator[_Folder]:
        """DT_RPATH and DT_RUNPATH.

        glibc searches the DT_RPATH of the requester and of all that led to it, each unless it has a DT_RUNPATH; then
        the requester's DT_RUNPATH. To musl both are the same, and those of all that led here count.
        """
        chain: list[_Object] = []
        current: _Object | None = requester
        while current is not None:
            chain.append(current)
            current = current.parent
        if self._flavour.is_musl:
            for link in chain:
                yield from self._expanded(link.elf.runpath or link.elf.rpath, link)
            return
        if requester.elf.runpath is None:
            for link in chain:
                if link.elf.runpath is None:
                    yield from self._expanded(link.elf.rpath, link)
        yield from self._expanded(requester.elf.runpath, requester)

    def _expanded(self, paths: str | None, owner: _Object) -> Iterator[_Folder]:
        for element in (paths or "").split(":"):
            text = self._flavour.expand(element)
            if text is None:
                continue
            for token in ("$ORIGIN", "${ORIGIN}"):
                rest = text.removeprefix(token)
                if rest != text and (not rest or rest.startswith("/")):
                    yield self._below_origin(owner.folder, rest)
                    break
            else:
                # What is relative to the folder it is started in has no meaning in an image.
                if text.startswith("/") and "$" not in text:
                    yield _Folder(None, text, posixpath.normpath(text))

    @staticmethod
    def _below_origin(origin: _Folder, rest: str) -> _Folder:
        target = posixpath.normpath(posixpath.join(origin.target, rest.lstrip("/")))
        if origin.host is not None:
            return _Folder(Path(os.path.realpath(f"{origin.host}{rest}")), "", target)
        return _Folder(None, f"{origin.inside}{rest}", target)

    def _find(self, folder: _Folder, name: str) -> Path | None:
        if folder.host is None:
            return self._root.find(f"{folder.inside}/{name}")
        path = Path(os.path.realpath(folder.host / name))
        return path if path.is_file() else None

    def _place(self, library: Library, requester: _Object) -> None:
        other = self._targets.setdefault(library.target, library)
        if other.elf.path != library.elf.path:
            raise ElfError(
                f"{requester.elf.path}: it needs {library.elf.path}, but {other.elf.path} takes the place "
                f"{library.target} in the image",
                path=str(requester.elf.path),
            )

    def _fits(self, elf: Elf) -> bool:
        mine = self._elf
        return (elf.machine, elf.bits, elf.byte_order) == (mine.machine, mine.bits, mine.byte_order)

    def _same_machine(self, elf: Elf) -> Elf:
        if self._fits(elf):
            return elf
        raise ElfError(
            f"{self._elf.path}: its interpreter {elf.path} is for {elf.platform}; "
            "name the root of the system that it was built for with --sysroot",
            path=str(self._elf.path),
        )

    @staticmethod
    def _missing(name: str, requester: _Object, why: str) -> ElfError:
        return ElfError(f"{requester.elf.path}: it needs {name}, {why}", path=str(requester.elf.path))

"""Files of this machine on the way into a layer, with nothing of this machine but their bytes."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocifast.elf import Elf
from ocifast.errors import FileError, UsageError
from ocifast.loader import Library
from ocifast.runnable.users import user_files

__all__ = [
    "CA_CERTIFICATES",
    "TIME_ZONES",
    "Member",
    "Row",
    "added",
    "bundled",
    "certificates",
    "check_members",
    "executable",
    "time_zones",
    "users",
    "with_parents",
]

CA_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
"""Where certificates are looked for by OpenSSL (as Debian builds it), Go, rustls-native-certs and GnuTLS alike."""
TIME_ZONES = "usr/share/zoneinfo"
_PEM_LIMIT = 64 << 20

Row = tuple[bytes, int, str, bytes, int]
"""A member as `_core.write_layer` takes it."""


@dataclass(frozen=True)
class Member:
    """One path of a layer. Owner 0:0 and time 1970 are the same for all.

    Attributes:
        path: without leading or trailing slash.
        mode: 0755 or 0644; 0777 for a symbolic link.
        kind: "file" (bytes from `source`), "bytes", "directory" or "symlink".
        source: the file on this machine.
        size: of the file.
        data: the bytes, or the link's target.
    """

    path: str
    mode: int
    kind: str
    source: Path | None = None
    size: int = 0
    data: bytes = b""

    def row(self) -> Row:
        """For the core."""
        data = os.fsencode(self.source) if self.source is not None else self.data
        return (os.fsencode(self.path), self.mode, self.kind, data, self.size)

    def content(self) -> tuple[Any, ...]:
        """What tells two members of one path apart."""
        return (self.kind, self.source, self.data)


def executable(elf: Elf, name: str) -> Member:
    """The executable at `/NAME`; executable whatever its mode is here."""
    return Member(name, 0o755, "file", elf.path, elf.size)


def bundled(libraries: Iterable[Library]) -> Iterator[Member]:
    """An interpreter and libraries at the paths where the interpreter looks for them."""
    for library in libraries:
        mode = 0o755 if library.elf.soname is None or library.elf.soname.startswith("ld") else 0o644
        yield Member(library.target.lstrip("/"), mode, "file", library.elf.path, library.elf.size)


def users(user: str | None) -> Iterator[Member]:
    """`/etc/passwd` and `/etc/group` for a user that has a name."""
    for path, data in user_files(user).items() if user else ():
        yield Member(path, 0o644, "bytes", data=data)


def certificates(source: bool | str | os.PathLike[str]) -> Iterator[Member]:
    """The file of CA certificates, when it is asked for.

    Raises:
        UsageError: the file holds none.
        FileError: it cannot be read.
    """
    if source is False:
        return
    path = Path(f"/{CA_CERTIFICATES}") if source is True else Path(source)
    if source is True and not path.exists():
        raise FileError(f"{path}: this machine has no CA certificates; install ca-certificates or name a file")
    member = _file(path, CA_CERTIFICATES)
    with path.open("rb") as file:
        if b"-----BEGIN CERTIFICATE-----" not in file.read(_PEM_LIMIT):
            raise UsageError(f"{path}: no certificate in PEM is in there")
    yield member


def time_zones(source: bool | str | os.PathLike[str]) -> Iterator[Member]:
    """The time zone database, when it is asked for: what stands below `posix/` and `right/` is left out.

    Raises:
        UsageError: the folder holds no time zones.
        FileError: it cannot be read.
    """
    if source is False:
        return
    folder = Path(f"/{TIME_ZONES}") if source is True else Path(source)
    if not (folder / "Etc/UTC").exists() and not (folder / "UTC").exists():
        raise UsageError(f"{folder}: no time zones are in there; install tzdata or name another folder")
    for member in _tree(folder, TIME_ZONES):
        inside = member.path.removeprefix(f"{TIME_ZONES}/")
        if inside.split("/")[0] in ("posix", "right"):
            continue
        # `localtime` of some distributions leads to this machine's own setting.
        if member.kind == "symlink" and _leaves(inside, os.fsdecode(member.data)):
            continue
        yield member


def added(pairs: Iterable[tuple[str | os.PathLike[str], str]]) -> Iterator[Member]:
    """Files and folders that the user adds.

    Raises:
        UsageError: a path in the image that is not absolute or not plain, a device, a socket or a FIFO.
        FileError: no such file.
    """
    for source, target in pairs:
        path = Path(source)
        if not target.startswith("/"):
            raise UsageError(f"{target!r} is no absolute path in the image; write SOURCE:/PATH")
        inside = target.strip("/") if not target.endswith("/") else posixpath.join(target.strip("/"), path.name)
        parts = inside.split("/") if inside else []
        if any(part in ("", ".", "..") or part.startswith(".wh.") or "\0" in part for part in parts):
            raise UsageError(f"{target!r} is no plain path for a file in an image")
        if path.is_dir():
            if not target.endswith("/") and not inside:
                yield from _tree(path, "")
            else:
                yield from _tree(path, inside)
        elif not inside:
            raise UsageError(f"{path} cannot take the place of the root folder")
        else:
            yield _file(path, inside)


def with_parents(members: Iterable[Member], *, parents: bool) -> list[Member]:
    """One member for each path, sorted so that folders come before what is in them.

    Args:
        members: in any order; equal ones may stand twice.
        parents: whether to add the folders that lead to them. Above a base image they are left out: there `/lib` may
            be a link, which a folder would replace.

    Raises:
        UsageError: two different files for one path.
    """
    found: dict[str, Member] = {}
    for member in members:
        other = found.setdefault(member.path, member)
        if other.content() != member.content():
            raise UsageError(f"two files want to be /{member.path} in the image")
        if parents:
            for parent in _parents(member.path):
                found.setdefault(parent, Member(parent, 0o755, "directory"))
    kept = [member for member in found.values() if parents or member.kind != "directory" or _is_empty(member, found)]
    return sorted(kept, key=lambda member: os.fsencode(member.path).split(b"/"))


def check_members(layers: Iterable[Iterable[Member]]) -> None:
    """Raises UsageError for a path that two layers have, or that is a file in one and a folder in another."""
    kinds: Mapping[str, str] = {}
    kinds = {}
    for layer in layers:
        for member in layer:
            is_folder = member.kind == "directory"
            known = kinds.get(member.path)
            if known is not None and (known != "directory" or not is_folder):
                raise UsageError(f"two files want to be /{member.path} in the image")
            kinds[member.path] = member.kind
            for parent in _parents(member.path):
                if kinds.setdefault(parent, "directory") != "directory":
                    raise UsageError(f"/{parent} cannot be a file and a folder in one image")


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _is_empty(member: Member, others: Mapping[str, Member]) -> bool:
    return not any(path.startswith(f"{member.path}/") for path in others)


def _leaves(path: str, target: str) -> bool:
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return target.startswith("/") or joined == ".." or joined.startswith("../")


def _file(path: Path, target: str) -> Member:
    try:
        status = path.stat()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", path=str(path)) from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is neither a regular file nor a folder, so it cannot be added")
    mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    return Member(target, mode, "file", path, status.st_size)


def _tree(folder: Path, target: str) -> Iterator[Member]:
    if target:
        yield Member(target, 0o755, "directory")
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}", path=str(folder)) from None
    for entry in entries:
        inside = posixpath.join(target, entry.name)
        if entry.name.startswith(".wh."):
            raise UsageError(f"{entry.path}: a name that starts with .wh. would delete files in an image")
        if entry.is_symlink():
            yield Member(inside, 0o777, "symlink", data=os.fsencode(os.readlink(entry.path)))  # noqa: PTH115
        elif entry.is_dir():
            yield from _tree(Path(entry.path), inside)
        else:
            yield _file(Path(entry.path), inside)

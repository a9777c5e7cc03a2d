"""Files of this machine on the way into a layer, with nothing of this machine but their bytes."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast.elf import Elf
from ocifast.errors import FileError, UsageError
from ocifast.layers.members import Member, file_member, members_of, tree_members
from ocifast.runnable.users import user_files

if TYPE_CHECKING:
    from ocifast.loader import Library

__all__ = [
    "CA_CERTIFICATES",
    "TIME_ZONES",
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


def _plain(kind: str, status: os.stat_result) -> dict[str, int]:
    """Modes as every machine gives them: what may be executed stays so, all else is the same everywhere."""
    if kind == "symlink":
        return {"mode": 0o777}
    return {"mode": 0o755 if kind == "directory" or status.st_mode & stat.S_IXUSR else 0o644}


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
    member = file_member(path, CA_CERTIFICATES, _plain)
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
    for member in tree_members(folder, TIME_ZONES, _plain):
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
    return members_of(pairs, _plain)


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

"""Reads a squashfs image back: every name with type, mode, owner, size, time and link target, against the tree.

mksquashfs is known to leave files out and exit 0, so an exit status proves nothing. The superblock is read here, names
and inodes by `unsquashfs` or `rdsquashfs`, which come in the same packages as the tools that write.
"""

from __future__ import annotations

import re
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from ocifast.errors import PackerError
from ocifast.file_types import FILE_TYPES
from ocifast.packers.rows import Row, rows, totals
from ocifast.packers.squashfs.settings import TIME_MAX
from ocifast.patterns import pattern
from ocifast.process import find_tool, run_tool

if TYPE_CHECKING:
    from ocifast import _core

__all__ = ["Seconds", "fit", "read_back"]

_SUPERBLOCK = struct.Struct("<5I6H8Q")
"""Linux, fs/squashfs/squashfs_fs.h, struct squashfs_super_block."""
_MAGIC = 0x73717368
Seconds = Callable[[int], int]
"""From a time in the tree (whole seconds) to the time that the image must have."""


def read_back(
    path: Path, tree: _core.Tree, *, tool: str, seconds: Seconds, root: bool = True, reader: str | None = None
) -> None:
    """Compares an image with the tree that it was made of.

    Args:
        path: the image.
        tree: what must be in it.
        tool: who made it, for the message.
        seconds: which time an entry must have.
        root: whether the root's own entry is compared too.
        reader: "unsquashfs" or "rdsquashfs" (which tells neither sizes nor times); None takes the best there is.

    Raises:
        PackerError: something is missing, too much, or different; the message names the first such entry.
    """
    _check_superblock(path, tool, totals(rows(tree)).inodes)
    known: dict[str, tuple[list[str], Callable[[Row, Seconds], bytes], Callable[[bytes], bytes]]] = {
        "unsquashfs": (["-lln", "-UTC", str(path)], unsquashfs_line, _normalize),
        "rdsquashfs": (["--describe", str(path)], rdsquashfs_line, _normalize_described),
    }
    chosen = reader or next((name for name in known if find_tool(name) is not None), None)
    if chosen is None:
        return
    arguments, line, normalize = known[chosen]

    def expected() -> Iterator[bytes]:
        return _kept(map(normalize, entry_lines(tree, line, seconds)), root)

    wanted, seen = _Multiset(), _Multiset()
    wanted.update(expected())
    _list(tool, chosen, arguments, lambda text: seen.update(_kept([normalize(text)], root)))
    if wanted != seen:
        lines: list[bytes] = []
        _list(tool, chosen, arguments, lambda text: lines.extend(_kept([normalize(text)], root)))
        raise _difference(tool, list(expected()), lines)


def _kept(lines: Iterable[bytes], root: bool) -> Iterator[bytes]:
    return (line for line in lines if root or not line.endswith(b" squashfs-root"))


def _list(tool: str, reader: str, arguments: list[str], take: Callable[[bytes], object]) -> None:
    splitter = _LineSplitter(take)
    try:
        run_tool([reader, *arguments], on_output=splitter.feed)
    except PackerError as error:
        raise PackerError(f"{tool} reported success, but left an image that cannot be read: {error}") from error
    splitter.end()


def entry_lines(tree: _core.Tree, line: Callable[[Row, Seconds], bytes], seconds: Seconds) -> Iterator[bytes]:
    """What a listing of the tree must say, in lines; a name with a line feed gives several, as it does in the tool."""
    for row in rows(tree):
        text = line(row, seconds)
        if text:
            yield from text.split(b"\n")


def unsquashfs_line(row: Row, seconds: Seconds) -> bytes:
    """An entry as `unsquashfs -lln -UTC` says it, with single spaces and without what `_normalize` takes away."""
    path, kind, mode, uid, gid, mtime, _, target, size, _ = row
    if kind == "symlink":
        mode = 0o777
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds(mtime)))
    shown = str(size) if kind in ("file", "symlink") else "-"
    head = f"{stat.filemode(FILE_TYPES[kind] | mode)} {uid}/{gid} {shown} {when} squashfs-root"
    return head.encode() + (b"/" + path if path else b"") + (b" -> " + target if kind == "symlink" else b"")


_UNSQUASHFS = pattern(
    rb"([-dlcbps])(\S{9}) (\d+)/(\d+) +(?:(\d+)|-|-?\d+, *-?\d+) (\d+-\d\d-\d\d \d\d:\d\d) (squashfs-root.*)", re.DOTALL
)


def _normalize(line: bytes) -> bytes:
    # Sizes of directories are the writer's own affair, and the numbers of devices come out wrong in some releases.
    match = _UNSQUASHFS.fullmatch(line)
    if match is None:
        return line
    kind, mode, uid, gid, size, when, rest = match.groups()
    return b"%s%s %s/%s %s %s %s" % (kind, mode, uid, gid, size if kind in b"-l" else b"-", when, rest)


_RDSQUASHFS = {"file": "file", "directory": "dir", "symlink": "slink", "char": "nod", "block": "nod", "fifo": "pipe"}


def rdsquashfs_line(row: Row, seconds: Seconds) -> bytes:
    """An entry as `rdsquashfs --describe` says it, without the numbers of devices; nothing for the root."""
    path, kind, mode, uid, gid, _, _, target, _, _ = row
    if not path:
        return b""
    quoted = path
    if b" " in path or b'"' in path:
        quoted = b'"' + path.replace(b'"', b'\\"') + b'"'
    mode = 0o777 if kind == "symlink" else mode
    head = b"%s %s 0%o %d %d" % (_RDSQUASHFS[kind].encode(), quoted, mode, uid, gid)
    if kind in ("char", "block"):
        return head + (b" c" if kind == "char" else b" b")
    return head + (b" " + target if kind == "symlink" else b"")


_NUMBERS = pattern(rb"(nod .* [cb]) \d+ \d+", re.DOTALL)


def _normalize_described(line: bytes) -> bytes:
    match = _NUMBERS.fullmatch(line)
    return match[1] if match else line


def _check_superblock(path: Path, tool: str, inodes: int) -> None:
    with path.open("rb") as file:
        head = file.read(_SUPERBLOCK.size)
        length = file.seek(0, 2)
    if len(head) < _SUPERBLOCK.size:
        raise PackerError(f"{tool} left an image without a superblock", command=tool)
    fields = _SUPERBLOCK.unpack(head)
    magic, found, bytes_used, major = fields[0], fields[1], fields[12], fields[9]
    if magic != _MAGIC or major != 4:
        raise PackerError(f"{tool} left something that is no squashfs 4 image", command=tool)
    if bytes_used > length:
        raise PackerError(f"{tool} left an image of {length} bytes that claims {bytes_used}", command=tool)
    if found != inodes:
        raise PackerError(f"{tool} wrote {found} files of {inodes}, and reported success", command=tool)


class _Multiset:
    """Equal for the same lines in any order, in a few bytes of memory."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0

    def update(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.count += 1
            self.sum = (self.sum + int.from_bytes(blake2b(line, digest_size=16).digest(), "little")) % (1 << 128)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Multiset) and (self.count, self.sum) == (other.count, other.sum)

    __hash__ = None  # type: ignore[assignment]


class _LineSplitter:
    """Cuts a stream into lines."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._take(line)

    def end(self) -> None:
        if self._rest:
            self._take(self._rest)


def _difference(tool: str, expected: list[bytes], seen: list[bytes]) -> PackerError:
    wanted, found = Counter(expected), Counter(seen)
    missing, extra = sorted((wanted - found).elements()), sorted((found - wanted).elements())

    def show(line: bytes) -> str:
        text = repr(line.decode("utf-8", "backslashreplace"))
        return text if len(text) < 300 else f"{text[:200]}…{text[-80:]}"

    what = f"lacks or changed {show(missing[0])}" if missing else f"has {show(extra[0])}, which is not in the tree"
    if missing and extra:
        what += f" (in its place: {show(extra[0])})"
    return PackerError(
        f"{tool} reported success, but its image {what}", command=tool, missing=len(missing), extra=len(extra)
    )


def fit(clamp_mtime: int | None) -> Seconds:
    """The time that an entry of the tree gets in squashfs: clamped to `SOURCE_DATE_EPOCH` and to the field."""
    latest = TIME_MAX if clamp_mtime is None else max(0, min(clamp_mtime, TIME_MAX))
    return lambda seconds: min(max(seconds, 0), latest)

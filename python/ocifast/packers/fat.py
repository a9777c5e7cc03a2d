"""FAT32: the file system of an EFI system partition (Microsoft, "FAT32 File System Specification" 1.03).

Written whole and once, so each file is one run of clusters; what no file needs stays a hole.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from ocifast.errors import OutputUnsupportedError
from ocifast.file_data import copy_part, write_all
from ocifast.patterns import pattern
from ocifast.records import dataclass

__all__ = ["FAT_MAX", "FAT_MIN", "fat_size", "write_fat"]

FAT_MIN = 34 << 20
"""Bytes of the smallest volume here: below 65525 clusters, of 512 bytes at least, it is no FAT32."""
FAT_MAX = 1 << 40
"""Bytes of the largest one: sectors are counted in 32 bits."""

_MIB = 1 << 20
_SECTOR = 512
_FATS = 2
_RESERVED = 32
_END = 0x0FFFFFFF
_DIRECTORY, _ARCHIVE, _VOLUME, _LONG = 0x10, 0x20, 0x08, 0x0F
_FILE_MAX = (1 << 32) - 1
_ENTRY = struct.Struct("<11sBBBHHHHHHHI")
_LONG_ENTRY = struct.Struct("<B10sBBB12sH4s")
_BOOT = struct.Struct("<3s8sHBHBHHBHHHIIIHHIHH12sBBBI11s8s")
_CLUSTERS = ((260 << 20, 1), (8 << 30, 8), (16 << 30, 16), (32 << 30, 32))
"""Up to which size of a volume how many sectors are a cluster; 64 beyond."""
_PLAIN = pattern(rb"([A-Z0-9_-]{1,8})(?:\.([A-Z0-9_-]{1,3}))?")


@dataclass
class _Node:
    """A file or directory, and where it stands.

    Attributes:
        source: of a file its bytes, or a file that has them; None for a directory.
        size: bytes.
        children: of a directory, by name.
        first: its first cluster; 0 for an empty file.
    """

    source: bytes | Path | None = None
    size: int = 0
    children: dict[str, _Node] = field(default_factory=dict)
    first: int = 0


@dataclass(frozen=True)
class _Geometry:
    """Counts of a volume: sectors of all, of a cluster, before the tables and of each table; and bytes of a cluster."""

    sectors: int
    per_cluster: int
    reserved: int
    table: int

    @property
    def cluster(self) -> int:
        return self.per_cluster * _SECTOR

    @property
    def data(self) -> int:
        """The first byte of the first cluster, which has the number 2."""
        return (self.reserved + _FATS * self.table) * _SECTOR

    @property
    def clusters(self) -> int:
        return (self.sectors * _SECTOR - self.data) // self.cluster


def _geometry(size: int) -> _Geometry:
    sectors = size // _SECTOR
    per_cluster = next((count for most, count in _CLUSTERS if size <= most), 64)
    table = -(-((sectors - _RESERVED) // per_cluster + 2) * 4 // _SECTOR)
    # Clusters begin at whole blocks of 4096 bytes: disks have such sectors below those that they show.
    reserved = _RESERVED + -(_RESERVED + _FATS * table) % 8
    return _Geometry(sectors, per_cluster, reserved, table)


def fat_size(files: Mapping[str, bytes | Path], *, spare: float = 1.0) -> int:
    """Bytes of a volume that holds these files, in whole MiB.

    Args:
        files: as of `write_fat`.
        spare: what is left free, as a share of what they take.

    Returns:
        At least `FAT_MIN`.
    """
    size = FAT_MIN
    while True:
        # Larger volumes have larger clusters, and tables.
        geometry = _geometry(size)
        needed = geometry.data + int(_place(_tree(files), geometry) * geometry.cluster * (1 + spare))
        if needed <= size:
            return size
        size = -(-needed // _MIB) * _MIB


def write_fat(
    fd: int,
    start: int,
    size: int,
    files: Mapping[str, bytes | Path],
    *,
    volume_id: int,
    label: str,
    seconds: int,
) -> None:
    """Writes a volume into a part of an open file, which is a hole there.

    Args:
        fd: the file.
        start: first byte of the volume, a multiple of 512.
        size: bytes of it, a multiple of 512 from `FAT_MIN` to `FAT_MAX`.
        files: contents by path, folders with slashes, ASCII; a `Path` is copied from, holes and all.
        volume_id: serial number, 32 bits.
        label: at most 11 characters, upper case.
        seconds: since 1970, the time of all files, taken as UTC; FAT begins in 1980, ends in 2107 and counts by two.

    Raises:
        OutputUnsupportedError: they do not fit, or one is larger than 4 GiB; nothing was written.
        OSError: as the system says it.
    """
    root, geometry = _tree(files), _geometry(size)
    used = _place(root, geometry)
    if used > geometry.clusters:
        raise OutputUnsupportedError(
            f"a FAT32 of {size} bytes has no room for {sum(node.size for node in _walk(root))} bytes of files; "
            f"{fat_size(files, spare=0.0)} bytes are enough"
        )
    stamp = _stamp(seconds)
    table = bytearray(struct.pack("<II", 0x0FFFFFF8, _END))
    for node in _walk(root):
        count = -(-node.size // geometry.cluster)
        if count:
            # In the order of `_place`, each run follows the one before.
            table += struct.pack(f"<{count}I", *range(node.first + 1, node.first + count), _END)
        at = start + geometry.data + (node.first - 2) * geometry.cluster
        if node.source is None:
            write_all(fd, _directory(node, root, label, stamp), at)
        elif isinstance(node.source, Path):
            with node.source.open("rb") as source:
                copy_part(source.fileno(), 0, node.size, fd, at)
        else:
            write_all(fd, node.source, at)
    for number in range(_FATS):
        write_all(fd, bytes(table), start + (geometry.reserved + number * geometry.table) * _SECTOR)
    head = _boot_sector(geometry, start // _SECTOR, volume_id, label) + _information(geometry, used)
    write_all(fd, head, start)
    # The copy is in sector 6 (section "FAT Volume Initialization").
    write_all(fd, head, start + 6 * _SECTOR)


def _tree(files: Mapping[str, bytes | Path]) -> _Node:
    root = _Node()
    for path in sorted(files):
        folder = root
        *above, name = path.split("/")
        for each in above:
            folder = folder.children.setdefault(each, _Node())
        source = files[path]
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        if size > _FILE_MAX:
            raise OutputUnsupportedError(f"{path}: a file of {size} bytes is too large for FAT32")
        folder.children[name] = _Node(source, size)
    return root


def _walk(node: _Node) -> list[_Node]:
    """A directory and all below it, in the order in which they stand on the disk."""
    return [node, *(found for child in node.children.values() for found in _walk(child))]


def _place(root: _Node, geometry: _Geometry) -> int:
    """Gives all their clusters. Returns how many are used."""
    nxt = 2
    for node in _walk(root):
        if node.source is None:
            # Each has two entries besides, but for the root, which has the label.
            count = 2 + sum(1 + _long_count(name) for name in node.children)
            node.size = -(-count * _ENTRY.size // geometry.cluster) * geometry.cluster
        node.first = nxt if node.size else 0
        nxt += -(-node.size // geometry.cluster)
    return nxt - 2


def _directory(folder: _Node, root: _Node, label: str, stamp: tuple[int, int]) -> bytes:
    if folder is root:
        made = _entry(label.encode("ascii").ljust(11), _VOLUME, 0, 0, stamp)
    else:
        parent = next(node for node in _walk(root) if folder in node.children.values())
        made = _entry(b".".ljust(11), _DIRECTORY, folder.first, 0, stamp)
        # The root is written as 0, whatever its cluster.
        made += _entry(b"..".ljust(11), _DIRECTORY, 0 if parent is root else parent.first, 0, stamp)
    taken: set[bytes] = set()
    for name, node in folder.children.items():
        short = _short(name, taken)
        taken.add(short)
        made += _long_entries(name, short)
        is_folder = node.source is None
        made += _entry(short, _DIRECTORY if is_folder else _ARCHIVE, node.first, 0 if is_folder else node.size, stamp)
    return made.ljust(folder.size, b"\0")


def _entry(short: bytes, attributes: int, first: int, size: int, stamp: tuple[int, int]) -> bytes:
    date, clock = stamp
    return _ENTRY.pack(short, attributes, 0, 0, clock, date, date, first >> 16, clock, date, first & 0xFFFF, size)


def _short(name: str, taken: set[bytes]) -> bytes:
    """The name of 8 and 3 characters: itself where it is one, else a beginning of it and a number."""
    if plain := _PLAIN.fullmatch(name.encode("ascii")):
        return plain[1].ljust(8) + (plain[2] or b"").ljust(3)
    stem, _, suffix = name.rpartition(".") if "." in name.lstrip(".") else (name, "", "")
    stem, suffix = (re.sub(r"[^A-Z0-9_-]", "", part.upper()) or "_" * bool(part) for part in (stem, suffix))
    number = 1
    while True:
        tail = f"~{number}"
        found = (stem[: min(6, 8 - len(tail))] + tail).encode().ljust(8) + suffix[:3].encode().ljust(3)
        if found not in taken:
            return found
        number += 1


def _long_count(name: str) -> int:
    return 0 if _PLAIN.fullmatch(name.encode("ascii")) else -(-len(name) // 13)


def _long_entries(name: str, short: bytes) -> bytes:
    """The entries of a name that does not fit 8 and 3 characters, the last part first."""
    count = _long_count(name)
    checksum = 0
    for byte in short:
        checksum = (((checksum & 1) << 7) + (checksum >> 1) + byte) & 0xFF
    text = name.encode("utf-16-le")
    text = (text + b"\0\0" if len(name) % 13 else text).ljust(count * 26, b"\xff")
    made = b""
    for number in range(count, 0, -1):
        part = text[(number - 1) * 26 : number * 26]
        order = number | (0x40 if number == count else 0)
        made += _LONG_ENTRY.pack(order, part[:10], _LONG, 0, checksum, part[10:22], 0, part[22:])
    return made


def _stamp(seconds: int) -> tuple[int, int]:
    """Date and time of day as FAT has them."""
    at = time.gmtime(min(max(seconds, 315532800), 4354819198))
    return (at.tm_year - 1980) << 9 | at.tm_mon << 5 | at.tm_mday, at.tm_hour << 11 | at.tm_min << 5 | at.tm_sec // 2


def _boot_sector(geometry: _Geometry, hidden: int, volume_id: int, label: str) -> bytes:
    fields = (
        *(b"\xeb\x58\x90", b"ocifast ", _SECTOR, geometry.per_cluster, geometry.reserved, _FATS, 0, 0, 0xF8, 0),
        # Sectors of a track and heads are what BIOSes make up; the root begins in cluster 2, behind it in sector 1
        # stands what is free, in sector 6 the copy.
        *(63, 255, hidden, geometry.sectors, geometry.table, 0, 0, 2, 1, 6, b"", 0x80, 0, 0x29),
        *(volume_id, label.encode("ascii").ljust(11), b"FAT32   "),
    )
    return _BOOT.pack(*fields).ljust(510, b"\0") + b"\x55\xaa"


def _information(geometry: _Geometry, used: int) -> bytes:
    """How many clusters are free, and where to look for one."""
    counts = struct.pack("<4sII", b"rrAa", geometry.clusters - used, used + 2)
    return (b"RRaA".ljust(484, b"\0") + counts).ljust(508, b"\0") + b"\0\0\x55\xaa"

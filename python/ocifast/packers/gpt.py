"""A table of partitions: GPT (UEFI specification 2.10, section 5.3).

Types are those of the Discoverable Partitions Specification (uapi-group.org, "DPS").
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence

from ocifast.records import dataclass

__all__ = ["EFI_SYSTEM", "LINUX_DATA", "READ_ONLY", "ROOT_TYPES", "SECTOR", "Partition", "Types", "tables"]

SECTOR = 512
READ_ONLY = 1 << 60
"""Attribute of a partition that is not written to."""
EFI_SYSTEM = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
LINUX_DATA = "0fc63daf-8483-4772-8e79-3d69d8477de4"

_ENTRIES = 128
_ENTRY = struct.Struct("<16s16sQQQ72s")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_TABLE_SECTORS = _ENTRIES * _ENTRY.size // SECTOR


@dataclass(frozen=True)
class Types:
    """The types of a machine's root partitions.

    Attributes:
        name: how the specification calls the machine.
        root: of the root filesystem.
        verity: of its hash tree.
    """

    name: str
    root: str
    verity: str


ROOT_TYPES = {
    "386": Types("x86", "44479540-f297-41b2-9af7-d131d5f0458a", "d13c5d3b-b5d1-422a-b29f-9454fdc89d76"),
    "amd64": Types("x86-64", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    "arm": Types("arm", "69dad710-2ce4-4e3c-b16c-21a1d49abed3", "7386cdf2-203c-47a9-a498-f2ecce45a2d6"),
    "arm64": Types("arm64", "b921b045-1df0-41c3-af44-4c6f280d3fae", "df3300ce-d69f-4c92-978c-9bfb0f38d820"),
    "loong64": Types("loongarch64", "77055800-792c-4f94-b39a-98c91b762bb6", "f3393b22-e9af-4613-a948-9d3bfbd0c535"),
    "mips64le": Types("mips64-le", "700bda43-7a34-4507-b179-eeb93d7a7ca3", "16b417f8-3e06-4f57-8dd2-9b5232f41aa6"),
    "ppc64le": Types("ppc64-le", "c31c45e6-3f39-412e-80fb-4809c4980599", "906bd944-4589-4aae-a4e4-dd983917446a"),
    "riscv64": Types("riscv64", "72ec70a6-cf74-40e6-bd49-4bda08e8f224", "b6ed5582-440b-4209-b8da-5ff7c419ea3d"),
    "s390x": Types("s390x", "5eead9a9-fe09-4a1e-a1d7-520d00531306", "b325bfbe-c7be-4ab8-8357-139e652d2f6b"),
}
"""By architecture, as an image's platform has it."""


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes:
        type: its kind, a UUID.
        identity: its own UUID.
        name: at most 36 characters.
        start: first byte, a multiple of a sector.
        size: in bytes, a multiple of a sector, not 0.
        attributes: as `READ_ONLY`.
    """

    type: str
    identity: uuid.UUID
    name: str
    start: int
    size: int
    attributes: int = 0


def tables(disk: uuid.UUID, size: int, partitions: Sequence[Partition]) -> tuple[bytes, bytes]:
    """The partition tables at the two ends of a disk.

    Args:
        disk: its UUID.
        size: in bytes, a multiple of a sector; the partitions leave 34 sectors free at its beginning, 33 at its end.
        partitions: at most 128.

    Returns:
        The first 34 sectors: what keeps old programs away, the header, the entries. The last 33: the same again.
    """
    entries = b"".join(
        _ENTRY.pack(
            uuid.UUID(each.type).bytes_le,
            each.identity.bytes_le,
            each.start // SECTOR,
            (each.start + each.size) // SECTOR - 1,
            each.attributes,
            each.name.encode("utf-16-le").ljust(72, b"\0"),
        )
        for each in partitions
    ).ljust(_ENTRIES * _ENTRY.size, b"\0")
    last = size // SECTOR - 1

    def header(here: int, other: int, table: int) -> bytes:
        fields = (2 + _TABLE_SECTORS, last - _TABLE_SECTORS - 1, disk.bytes_le, table, _ENTRIES, _ENTRY.size)
        checked = [b"EFI PART", 0x10000, _HEADER.size, 0, 0, here, other, *fields, zlib.crc32(entries)]
        checked[3] = zlib.crc32(_HEADER.pack(*checked))
        return _HEADER.pack(*checked).ljust(SECTOR, b"\0")

    first = _protective(last) + header(1, last, 2) + entries
    return first, entries + header(last, 1, last - _TABLE_SECTORS)


def _protective(last: int) -> bytes:
    """A table of the old kind with one partition over all (5.2.3)."""
    partition = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    return bytes(446) + partition.ljust(64, b"\0") + b"\x55\xaa"

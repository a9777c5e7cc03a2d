"""`/etc/ld.so.cache`: where ldconfig found libraries."""

from __future__ import annotations

import os
import struct

from ocifast.errors import ElfError

__all__ = ["parse_cache"]

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER, _ENTRY = 48, 24


def parse_cache(data: bytes, *, byte_order: str) -> dict[str, list[str]]:
    """Paths by library name, in the order in which ld.so tries them.

    Entries for certain processors only (glibc-hwcaps) are left out: which of them counts is for the machine to say
    that runs the image, and each has a sibling for all machines.

    Args:
        data: the file's bytes; none at all is an empty cache.
        byte_order: of the machine that the root is for.

    Raises:
        ElfError: the file is damaged. A cache of before glibc 2.2 alone is taken as empty, as today's ld.so does.
    """
    # A cache of before glibc 2.32 has one in an older format in front; offsets count from the magic either way.
    start = data.find(_MAGIC)
    if start < 0:
        return {}
    order = "<" if byte_order == "little" else ">"
    found: dict[str, list[str]] = {}
    try:
        (count,) = struct.unpack_from(f"{order}I", data, start + len(_MAGIC))
        if start + _HEADER + count * _ENTRY > len(data):
            raise ElfError("it is shorter than its header says")
        for index in range(count):
            _, key, value, _, hwcap = struct.unpack_from(f"{order}iIIIQ", data, start + _HEADER + index * _ENTRY)
            if hwcap == 0:
                found.setdefault(_text(data, start + key), []).append(_text(data, start + value))
    except (struct.error, ElfError) as error:
        raise ElfError(f"/etc/ld.so.cache is damaged ({error}); run ldconfig") from None
    return found


def _text(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    if end < 0:
        raise ElfError("a name has no end")
    return os.fsdecode(data[offset:end])

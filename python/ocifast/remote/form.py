"""What stands in a remote cache: manifests of two kinds, each with one blob, a tar of known members in zstd.

An output is a referrer of the image that it was made of; a decoded layer has a tag made of its diff ID. The first
member of the tar, `facts.json`, says what the others must be.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import msgspec

from ocifast import _core
from ocifast.errors import DocumentError

__all__ = [
    "DIFF_ID",
    "FORM",
    "KEY",
    "LAYER",
    "OUTPUT",
    "TAR",
    "LayerFacts",
    "Member",
    "OutputFacts",
    "layer_tag",
    "members",
]

OUTPUT = "application/vnd.ocifast.output.v1"
"""Artifact type of a compiled output."""
LAYER = "application/vnd.ocifast.layer.v1"
"""Artifact type of a decoded layer."""
TAR = "application/vnd.oci.image.layer.v1.tar+zstd"
KEY = "vnd.ocifast.key"
"""Annotation of an output: its key."""
DIFF_ID = "vnd.ocifast.diff-id"
"""Annotation of a decoded layer: the layer's diff ID."""
FORM = 1
"""Version of all of this; part of the tags."""
_MEMBERS = 8


class OutputFacts(msgspec.Struct, frozen=True):
    """`facts.json` of an output.

    Attributes:
        size: of the output, in bytes.
        digest: of the output (`ocifast.cache.kept.file_digest`).
        facts: what the cache remembers of it.
    """

    size: int
    digest: str
    facts: dict[str, Any]


class LayerFacts(msgspec.Struct, frozen=True):
    """`facts.json` of a layer.

    Attributes:
        digest: of its data (`_core.layer_digest`).
    """

    digest: str


@dataclass(frozen=True)
class Member:
    """A file of a tar.

    Attributes:
        offset: of its first byte.
        size: in bytes.
    """

    offset: int
    size: int


def layer_tag(diff_id: str) -> str:
    """The tag of a decoded layer."""
    return f"layer-{FORM}-{diff_id.replace(':', '-')}"[:128]


def members(fd: int, *, name: str) -> dict[str, Member]:
    """The files of a tar that `_core.write_layer` has written (POSIX.1-1988 ustar, plain files alone).

    Raises:
        DocumentError: it is something else.
    """
    found: dict[str, Member] = {}
    length = os.fstat(fd).st_size
    at = 0
    while at + 512 <= length and len(found) <= _MEMBERS:
        header = os.pread(fd, 512, at)
        if header == bytes(512):
            return found
        size = _number(header[124:136])
        if header[257:262] != b"ustar" or header[156:157] not in (b"0", b"\0") or size is None:
            break
        if at + 512 + size > length:
            break
        found[header[:100].rstrip(b"\0").decode("ascii", "replace")] = Member(at + 512, size)
        at += 512 + -(-size // 512) * 512
    raise DocumentError(f"{name}: it is no archive as ocifast {_core.__version__} writes it", reference=name)


def _number(field: bytes) -> int | None:
    """A number of a header: octal digits, or binary where the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    return int(text, 8) if text and all(digit in b"01234567" for digit in text) else None

"""listing: the paths of a tree, one a line. A toy format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ocifast.packers.backend import Backend, Format
from ocifast.packers.losses import Loss
from ocifast.packers.options import FormatOptions
from ocifast.packers.request import WriteRequest, Written
from ocifast.packers.rows import rows


@dataclass(frozen=True)
class ListingOptions(FormatOptions):
    """There are none."""

    format: ClassVar[str] = "listing"


class _Backend(Backend[ListingOptions]):
    name = "listing"

    def version(self) -> str | None:
        return "1"

    def write(self, request: WriteRequest[ListingOptions]) -> Written:
        paths = [row.path for row in rows(request.tree)][1:]
        size = request.path.write_bytes(b"".join(path + b"\n" for path in paths))
        return Written(size, (Loss("content", "a listing has no contents", len(paths)),), {"lines": str(len(paths))})


FORMAT = Format("listing", ListingOptions, (_Backend(),))

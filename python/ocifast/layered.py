"""What flattening takes: an image's layers, and where contents wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ocifast.records import dataclass
from ocifast.sources import Blob
from ocifast.spec import Descriptor

if TYPE_CHECKING:
    from ocifast import _core

__all__ = ["EROFS_IMAGE", "WAITING", "Layered", "Store"]

WAITING: Final = "layers"
"""The folder where contents wait, in that of the output beside which they do."""
EROFS_IMAGE: Final = "image.erofs"
"""What the core calls an erofs image there, in which contents wait."""


@dataclass(frozen=True)
class Store:
    """Where contents wait while layers arrive.

    Attributes:
        place: what `_core.Flattener` calls it.
        in_order: whether layers stand in order, so that one that runs ahead is copied once more.
        may_wait_elsewhere: whether contents may wait on another file system than the output's.
    """

    place: str | _core.SquashfsCompression
    in_order: bool = False
    may_wait_elsewhere: bool = False

    SPOOL: ClassVar[Store]
    """In files of their own, for every output."""
    DIRECTORY: ClassVar[Store]
    """In one file for each, which a directory takes as they are."""
    EROFS: ClassVar[Store]
    """In the erofs image that they are for."""
    EROFS_BLOCKS: ClassVar[Store]
    """The same in whole blocks."""

    @classmethod
    def squashfs(cls, compression: _core.SquashfsCompression) -> Store:
        """As the blocks of a squashfs image."""
        return cls(compression, may_wait_elsewhere=True)


Store.SPOOL = Store("spool", may_wait_elsewhere=True)
Store.DIRECTORY = Store("directory")
Store.EROFS = Store("erofs", in_order=True)
Store.EROFS_BLOCKS = Store("erofs-blocks", in_order=True)


class Layered(Protocol):
    """What flattening takes of an image."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """Descriptors of the layers, bottom layer first."""
        ...

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Digests of the decompressed layers, one for each of `layers`."""
        ...

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens a layer from byte `offset` on."""
        ...

    def close(self) -> None:
        """Breaks off what is being read, from any thread; nothing can be read after."""
        ...

"""What may be chosen about an output: one class for each format, and one table of ranges.

`PackOptions` is what the command line takes: the options of all formats together, and the backend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

from ocifast.errors import UsageError
from ocifast.marks import changes_bytes
from ocifast.records import dataclass

__all__ = [
    "RANGES",
    "CompressedOptions",
    "CpioOptions",
    "DirOptions",
    "DiskOptions",
    "ErofsOptions",
    "Ext4Options",
    "FormatOptions",
    "LayersOptions",
    "Levels",
    "PackOptions",
    "Range",
    "Sizes",
    "SquashfsOptions",
    "TarOptions",
    "options_of",
]


class Levels(NamedTuple):
    """The levels of a compression, the one that is taken by default first."""

    default: int
    first: int
    last: int


class Sizes(NamedTuple):
    """What blocks are called, and how many bytes they have: by default, at least and at most."""

    name: str
    default: int
    least: int
    most: int


class Range(NamedTuple):
    """What the options of a format may be.

    Attributes:
        compressions: with their levels; None for those without. The one that is taken by default first.
        blocks: that are compressed together; a power of two.
        tails: where ends of files may stand.
    """

    compressions: Mapping[str, Levels | None] = MappingProxyType({})
    blocks: Sizes = Sizes("blocks", 0, 0, 0)
    tails: tuple[str, ...] = ()


# Beyond 19 the windows of zstd grow past what Linux unpacks, and past what readers of streams take unasked.
_ARCHIVE = Range({"none": None, "gzip": Levels(6, 1, 9), "zstd": Levels(3, 1, 19)})

RANGES: dict[str, Range] = {
    "dir": Range(),
    "tar": _ARCHIVE,
    "cpio": _ARCHIVE,
    "erofs": Range(
        {"none": None, "lz4": None, "zstd": Levels(3, 1, 22)},
        Sizes("physical clusters", 64 << 10, 4 << 10, 1 << 20),
        ("inline", "block"),
    ),
    # mksquashfs' own defaults (zstd 15, gzip 9) take 10 to 20 times the processor time of these for an image that is a
    # few percent smaller.
    "squashfs": Range(
        {"zstd": Levels(3, 1, 22), "gzip": Levels(6, 1, 9), "xz": None, "lz4": None, "lz4hc": None, "none": None},
        Sizes("blocks", 128 << 10, 4 << 10, 1 << 20),
    ),
    "ext4": Range(),
    "layers": Range(),
    "disk": Range(),
}
"""By format."""


@dataclass(frozen=True)
class FormatOptions:
    """Options of one format. None leaves the default. A value means the same for every backend.

    Raises:
        UsageError: a value that the format does not have.
    """

    format: ClassVar[str] = ""
    """Key of `RANGES`."""

    def files(self) -> dict[str, str]:
        """The options that name files of this machine, which are in the output: their paths by their names."""
        return {}


@dataclass(frozen=True)
class CompressedOptions(FormatOptions):
    """Options of a format that can be compressed.

    Attributes:
        compression: one of the format's in `RANGES`, where the first is the default.
        level: the compression's own level.
    """

    compression: str | None = changes_bytes(None)
    level: int | None = changes_bytes(None)

    def __post_init__(self) -> None:
        known, chosen, level = RANGES[self.format].compressions, self.compression, self.level
        if chosen is not None and chosen not in known:
            raise UsageError(f"{self.format} has no compression {chosen!r}; there are {', '.join(known)}")
        if level is None:
            return
        used = next(iter(known)) if chosen is None else chosen
        levels = known[used]
        if levels is None:
            raise UsageError(f"{used} has no levels in {self.format}")
        if not levels.first <= level <= levels.last:
            raise UsageError(f"{used} has levels from {levels.first} to {levels.last}, not {level}")

    @property
    def compressed(self) -> bool:
        """Whether a compression was chosen."""
        return self.compression not in (None, "none")


@dataclass(frozen=True)
class _Archive(CompressedOptions):
    def __post_init__(self) -> None:
        if self.level is not None and not self.compressed:
            raise UsageError(f"{self.format} without compression has no option --level")
        super().__post_init__()

    def complete(self) -> tuple[str, int]:
        """Compression and level, with the defaults."""
        compression = self.compression or "none"
        levels = RANGES[self.format].compressions[compression]
        return compression, 0 if levels is None else self.level or levels.default


@dataclass(frozen=True)
class TarOptions(_Archive):
    """Options of a tar.

    Attributes:
        compression: "none" (the default), "gzip" or "zstd".
        level: the compression's own level.
    """

    format: ClassVar[str] = "tar"


@dataclass(frozen=True)
class CpioOptions(_Archive):
    """Options of a cpio.

    Attributes:
        compression: "none" (the default), "gzip" or "zstd".
        level: the compression's own level.
    """

    format: ClassVar[str] = "cpio"


@dataclass(frozen=True)
class _Blocks(CompressedOptions):
    block_size: int | None = changes_bytes(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        what, _, least, most = RANGES[self.format].blocks
        size = self.block_size
        if size is not None and (not least <= size <= most or size & (size - 1)):
            raise UsageError(f"{what} of {self.format} have {least} to {most} bytes, a power of two, not {size}")

    @property
    def block_bytes(self) -> int:
        """The block size, also where none was chosen."""
        return RANGES[self.format].blocks.default if self.block_size is None else self.block_size


@dataclass(frozen=True)
class SquashfsOptions(_Blocks):
    """Options of a squashfs image.

    Attributes:
        compression: "zstd" (the default), "gzip", "xz", "lz4", "lz4hc" (lz4 that takes its time) or "none".
        level: the compression's own level.
        block_size: bytes of a data block, a power of two from 4 KiB to 1 MiB.
        fragments: whether the ends of files, and small files, are packed together; None leaves it to the backend.
    """

    format: ClassVar[str] = "squashfs"
    fragments: bool | None = changes_bytes(None)


@dataclass(frozen=True)
class ErofsOptions(_Blocks):
    """Options of an erofs image.

    Attributes:
        compression: "none" (the default), "lz4" or "zstd".
        level: the compression's own level.
        block_size: bytes of a physical cluster at most, a power of two from 4 KiB to 1 MiB.
        tails: of an image without compression: "inline" (the default) puts the end of a file that is no whole block
            behind its inode, "block" into a block of its own; all of these can be shared with decoded layers.
        align: bytes of which the size of the image is a multiple, a power of two; for huge pages and pmem.
    """

    format: ClassVar[str] = "erofs"
    tails: str | None = changes_bytes(None)
    align: int | None = changes_bytes(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size is not None and not self.compressed:
            raise UsageError("only a compressed erofs image has physical clusters; choose a compression as well")
        if self.tails is not None and self.tails not in RANGES["erofs"].tails:
            raise UsageError(f"tails of files in erofs are inline or block, not {self.tails!r}")
        if self.tails is not None and self.compressed:
            raise UsageError("a compressed erofs image puts tails where they fit; leave --tails out")
        _check_alignment(self.align)


@dataclass(frozen=True)
class Ext4Options(FormatOptions):
    """Options of an ext4 image.

    Attributes:
        free_space: bytes left free.
        size: bytes of the whole image; excludes `free_space`.
        journal: whether it gets a journal.
    """

    format: ClassVar[str] = "ext4"
    free_space: int | None = changes_bytes(None)
    size: int | None = changes_bytes(None)
    journal: bool | None = changes_bytes(None)

    def __post_init__(self) -> None:
        if self.size is not None and self.free_space is not None:
            raise UsageError("an ext4 image has either a size or an amount of free space, not both")


@dataclass(frozen=True)
class DirOptions(FormatOptions):
    """Options of a directory.

    Attributes:
        owners: True sets owners, as far as that is allowed, False leaves all to the caller, None sets them exactly when
            running as root.
        ownership: what becomes of what cannot be set: "drop" (the default) leaves it, and says so; "record" writes
            owner, mode and kind to the attribute `user.containers.override_stat` of files and folders.
    """

    format: ClassVar[str] = "dir"
    owners: bool | None = changes_bytes(None)
    ownership: str | None = changes_bytes(None)

    def __post_init__(self) -> None:
        if self.ownership not in (None, "drop", "record"):
            raise UsageError(f"ownership in a directory is dropped or recorded: drop or record, not {self.ownership!r}")


@dataclass(frozen=True)
class LayersOptions(FormatOptions):
    """Options of an image of layers.

    Attributes:
        single: whether metadata and all layers stand in one file, which mounts alone.
        name: what the image's files are called in the folder, before their suffixes; None for "image".
    """

    format: ClassVar[str] = "layers"
    single: bool | None = changes_bytes(None)
    name: str | None = changes_bytes(None)

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise UsageError(
                f"{self.name!r} is no name for an image's files; take up to 100 letters, digits, dots, hyphens and "
                "underscores, a letter or digit first"
            )


@dataclass(frozen=True)
class DiskOptions(FormatOptions):
    """Options of a disk image.

    Attributes:
        root_format: "erofs" (the default) or "squashfs", which get a partition for dm-verity, or "ext4", which can be
            written to.
        compression: of the root, as the root's format has it.
        level: of the same.
        block_size: of the same.
        free_space: bytes left free in an ext4 root.
        data_size: bytes of an empty ext4 in a partition of its own; None for no such partition.
        align: bytes of which the beginning of each partition and the size of the disk are multiples, a power of two; at
            least 1 MiB, whatever is chosen.
        esp: whether there is an EFI system partition; None for one exactly when an option of it is chosen.
        esp_size: bytes of it; None for room for twice what it holds, and 64 MiB at least.
        kernel: what boots: a kernel or a UKI. "image" (the default) for the newest of the image, `image:PATH` for a
            path in the image, else a file of this machine.
        initrd: of a kernel; the same, or "none". None for the image's own where the kernel is the image's.
        boot_loader: what starts a kernel with an initrd; the same. None for the image's systemd-boot, if it has one.
        cmdline: words of the kernel's command line; see `ocifast.packers.esp.command_line`.
    """

    format: ClassVar[str] = "disk"
    root_format: str | None = changes_bytes(None)
    compression: str | None = changes_bytes(None)
    level: int | None = changes_bytes(None)
    block_size: int | None = changes_bytes(None)
    free_space: int | None = changes_bytes(None)
    data_size: int | None = changes_bytes(None)
    align: int | None = changes_bytes(None)
    esp: bool | None = changes_bytes(None)
    esp_size: int | None = changes_bytes(None)
    kernel: str | None = changes_bytes(None)
    initrd: str | None = changes_bytes(None)
    boot_loader: str | None = changes_bytes(None)
    cmdline: str | None = changes_bytes(None)

    def __post_init__(self) -> None:
        if self.root not in ("erofs", "squashfs", "ext4"):
            raise UsageError(f"the root of a disk is erofs, squashfs or ext4, not {self.root!r}")
        if self.free_space is not None and self.root != "ext4":
            raise UsageError("only an ext4 root has free space; choose --root-format ext4, or leave --free out")
        if self.root == "ext4" and any(value is not None for value in self.of_root().values()):
            raise UsageError("an ext4 root has no compression")
        if self.data_size is not None and (self.data_size < _DATA_MIN or self.data_size % 4096):
            raise UsageError(
                f"a data partition has {_DATA_MIN} bytes at least, in blocks of 4096, not {self.data_size}"
            )
        _check_alignment(self.align)
        self._check_boot()
        self.make_root()

    def _check_boot(self) -> None:
        size = self.esp_size
        if size is not None and (not _ESP_MIN <= size <= _ESP_MAX or size % 4096):
            raise UsageError(
                f"an EFI system partition has {_ESP_MIN} to {_ESP_MAX} bytes, in blocks of 4096, not {size}"
            )
        if self.cmdline is not None and not self.cmdline.isprintable():
            raise UsageError("a kernel's command line is one line without control characters")
        if "" in (self.kernel, self.initrd, self.boot_loader):
            raise UsageError("a kernel, an initrd or a boot loader is image, image:PATH or a file, not nothing")
        if self.kernel == "none":
            raise UsageError("a disk that boots has a kernel; leave --esp out for one that does not, or name ./none")

    @property
    def has_esp(self) -> bool:
        """Whether there is an EFI system partition."""
        return _names_boot(self) if self.esp is None else self.esp

    def files(self) -> dict[str, str]:
        """Kernel, initrd and boot loader, where they are files of this machine."""
        named = {"kernel": self.kernel, "initrd": self.initrd, "boot_loader": self.boot_loader}
        return {
            name: where
            for name, where in named.items()
            if where not in (None, "image", "none") and not where.startswith("image:")
        }

    @property
    def root(self) -> str:
        """The format of the root filesystem."""
        return self.root_format or "erofs"

    def of_root(self) -> dict[str, Any]:
        """Options of the root that can be compressed."""
        return {"compression": self.compression, "level": self.level, "block_size": self.block_size}

    def make_root(self) -> FormatOptions:
        """The options of the root filesystem."""
        if self.root == "ext4":
            return Ext4Options(free_space=self.free_space)
        return (ErofsOptions if self.root == "erofs" else SquashfsOptions)(**self.of_root())


_ESP_MIN, _ESP_MAX = 34 << 20, 1 << 40
"""Bytes of an EFI system partition: FAT32 has 65525 clusters at least, and 32 bits to count sectors."""
_DATA_MIN = 16 << 20
"""Bytes of a data partition at least: a journal has 4 MiB."""


def _check_alignment(align: int | None) -> None:
    if align is not None and (not 4096 <= align <= 1 << 30 or align & (align - 1)):
        raise UsageError(f"an alignment is a power of two from 4096 bytes to 1 GiB, not {align}")


@dataclass(frozen=True)
class PackOptions:
    """The options of all formats, as the command line has them; see the class of each format.

    Attributes:
        backend: name of the backend.
        compression: of tar, cpio, erofs and squashfs.
        level: of the same.
        block_size: of erofs and squashfs.
        free_space: of ext4.
        size: of ext4.
        journal: of ext4.
        owners: of a directory.
        ownership: of a directory.
        tails: of erofs.
        fragments: of squashfs.
        single: of layers.
        name: of layers.
        root_format: of a disk.
        data_size: of a disk.
        align: of erofs and of a disk.
        esp: of a disk.
        esp_size: of a disk.
        kernel: of a disk.
        initrd: of a disk.
        boot_loader: of a disk.
        cmdline: of a disk.
    """

    backend: str | None = changes_bytes(None, told_by="backend")
    compression: str | None = changes_bytes(None)
    level: int | None = changes_bytes(None)
    block_size: int | None = changes_bytes(None)
    free_space: int | None = changes_bytes(None)
    size: int | None = changes_bytes(None)
    journal: bool | None = changes_bytes(None)
    owners: bool | None = changes_bytes(None)
    ownership: str | None = changes_bytes(None)
    tails: str | None = changes_bytes(None)
    fragments: bool | None = changes_bytes(None)
    single: bool | None = changes_bytes(None)
    name: str | None = changes_bytes(None)
    root_format: str | None = changes_bytes(None)
    data_size: int | None = changes_bytes(None)
    align: int | None = changes_bytes(None)
    esp: bool | None = changes_bytes(None)
    esp_size: int | None = changes_bytes(None)
    kernel: str | None = changes_bytes(None)
    initrd: str | None = changes_bytes(None)
    boot_loader: str | None = changes_bytes(None)
    cmdline: str | None = changes_bytes(None)

    @property
    def names_boot(self) -> bool:
        """Whether an option is chosen that only something that boots has."""
        return _names_boot(self)


def _names_boot(options: DiskOptions | PackOptions) -> bool:
    chosen = (options.esp_size, options.kernel, options.initrd, options.boot_loader)
    return any(each is not None for each in chosen)


_OPTION_NAMES = {"free_space": "free"}
"""What an option is called on the command line, where that is not its name with hyphens."""

_Kind = TypeVar("_Kind", bound=FormatOptions)


def options_of(kind: type[_Kind], chosen: PackOptions, *, name: str | None = None) -> _Kind:
    """The options of one format out of those of all.

    Args:
        kind: class of the options.
        chosen: what was chosen; the compression "none" is never refused.
        name: what refuses, for the message; None for the format.

    Raises:
        UsageError: an option is chosen that the format does not have, or a value that it does not have.
    """
    known = {each.name for each in fields(kind)}
    for key, value in vars(chosen).items():
        if key == "backend" or key in known or value is None or (key == "compression" and value == "none"):
            continue
        raise UsageError(f"{name or kind.format} has no option --{_OPTION_NAMES.get(key, key.replace('_', '-'))}")
    return kind(**{key: value for key, value in vars(chosen).items() if key in known})

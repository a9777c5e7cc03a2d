"""From a path to the facts of an ELF file."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ocifast.elf.image import ElfImage, Segment
from ocifast.elf.machine import MACHINES, arm_variant, x86_64_variant
from ocifast.errors import ElfError, FileError
from ocifast.records import dataclass
from ocifast.spec import Platform

__all__ = ["Elf", "inspect", "require_runnable"]

_NOTES_LIMIT = 1 << 20
"""Most bytes of notes or attributes that are read; real ones have hundreds."""
_STRING_LIMIT = 16 << 20
"""Most bytes of a dynamic string table that are read."""
_DF_1_NODEFLIB, _DF_1_PIE = 0x800, 0x08000000


@dataclass(frozen=True)
class Elf:
    """The facts of one ELF file that can be loaded (System V gABI, chapters 4 and 5).

    Attributes:
        path: as given.
        size: bytes of the file.
        machine: name of `e_machine`, such as "EM_X86_64".
        bits: 32 or 64, the class.
        byte_order: "little" or "big".
        os_abi: "none" or "linux".
        kind: "executable" (ET_EXEC), "pie" (position-independent executable) or "library".
        platform: the OCI platform, with the variant that the file states.
        interpreter: path of the dynamic loader (PT_INTERP), or None.
        needed: names of libraries (DT_NEEDED), in order.
        soname: DT_SONAME, or None.
        rpath: DT_RPATH as it stands, or None.
        runpath: DT_RUNPATH as it stands, or None; when it is there, DT_RPATH counts for nothing.
        no_default_folders: DF_1_NODEFLIB is set.
    """

    path: Path
    size: int
    machine: str
    bits: int
    byte_order: str
    os_abi: str
    kind: str
    platform: Platform
    interpreter: str | None = None
    needed: tuple[str, ...] = ()
    soname: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    no_default_folders: bool = False

    @property
    def is_static(self) -> bool:
        """Whether the kernel alone can start it: neither an interpreter nor libraries."""
        return self.interpreter is None and not self.needed

    @property
    def is_static_pie(self) -> bool:
        """Whether it is a static executable that runs at any address."""
        return self.kind == "pie" and self.is_static


def inspect(path: str | os.PathLike[str]) -> Elf:
    """Reads the headers of an ELF file.

    Args:
        path: a regular file; links are followed.

    Raises:
        ElfError: not ELF, cut off or damaged, a core or object file, another machine or OS ABI than the known ones.
        FileError: no such file, or it cannot be read.
    """
    try:
        return _inspect(Path(path))
    except ElfError as error:
        raise ElfError(f"{os.fspath(path)}: {error.message}", path=os.fspath(path)) from None
    except OSError as error:
        raise FileError(f"{os.fspath(path)}: {error.strerror}", path=os.fspath(path)) from None


def require_runnable(elf: Elf, *, bundle: bool = False) -> None:
    """Returns when an image can be made of the file.

    Args:
        elf: an inspected file.
        bundle: whether its interpreter and libraries come along.

    Raises:
        ElfError: a library, or a dynamically linked executable without `bundle`.
    """
    if elf.kind == "library":
        raise ElfError(f"{elf.path}: it is a shared library, not an executable", path=str(elf.path))
    if elf.is_static:
        return
    if elf.interpreter is None:
        names = ", ".join(elf.needed)
        raise ElfError(f"{elf.path}: it needs {names} but names no interpreter to load them", path=str(elf.path))
    if not bundle:
        raise ElfError(
            f"{elf.path}: it is dynamically linked (interpreter {elf.interpreter}); "
            "link it statically, or use --bundle to take its libraries along",
            path=str(elf.path),
        )


def _inspect(path: Path) -> Elf:
    # Looked at before opening: opening a FIFO would wait, and opening some devices does things.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ElfError("it is not a regular file")
    with path.open("rb") as file:
        _check_magic(file)
        image = ElfImage(file)
        machine = MACHINES[image.machine]
        found = Elf(
            path=path,
            size=image.size,
            machine=image.machine,
            bits=image.bits,
            byte_order=image.byte_order,
            os_abi=image.os_abi,
            kind="executable",
            platform=Platform(machine.architecture, "linux", _variant(image)),
            interpreter=_interpreter(image),
        )
        dynamic = image.first_segment("PT_DYNAMIC")
        if dynamic is not None:
            found = _with_dynamic(found, image, dynamic)
        elif image.type == "ET_DYN":
            # What packers such as UPX leave of a static-pie. It cannot be a library: that has a dynamic section.
            found = replace(found, kind="pie")
        if found.kind != "library":
            image.check_entry()
        return found


def _check_magic(file: BinaryIO) -> None:
    start = file.read(4)
    if start == b"\x7fELF":
        return
    if not start:
        raise ElfError("it is empty")
    if start.startswith(b"#!"):
        raise ElfError("it is a script, not an ELF executable; an image of it needs its interpreter")
    raise ElfError("it is not an ELF file")


def _interpreter(image: ElfImage) -> str | None:
    segment = image.first_segment("PT_INTERP")
    if segment is None:
        return None
    if not 2 <= segment.file_size <= os.pathconf("/", "PC_PATH_MAX"):
        raise ElfError(f"the name of its interpreter has {segment.file_size} bytes; the file is damaged")
    image.check_inside("interpreter's name", segment.offset, segment.file_size)
    text = image.read(segment.offset, segment.file_size)
    name = text.rstrip(b"\0")  # some linkers pad it
    if name == text or b"\0" in name or name[:1] != b"/":
        raise ElfError(f"the name of its interpreter is {text!r}; the file is damaged")
    return os.fsdecode(name)


def _with_dynamic(elf: Elf, image: ElfImage, segment: Segment) -> Elf:
    tags = image.dynamic(segment)
    values: dict[object, int] = dict(tags)
    flags = values.get("DT_FLAGS_1", 0)
    strings = _Strings(image, values, is_needed=elf.interpreter is not None)
    soname = strings.get("DT_SONAME")
    needed = tuple(strings.at(value) for tag, value in tags if tag == "DT_NEEDED")
    kind = "executable"
    if image.type == "ET_DYN":
        # Most linkers mark executables with DF_1_PIE. Where they do not, an executable has no name, and it has an
        # interpreter, or needs nothing and can be started. A library that can be started (libc.so.6) has a name; any
        # other needs libraries or has no entry point.
        starts = elf.interpreter is not None or (not needed and image.entry != 0 and image.can_start())
        is_pie = bool(flags & _DF_1_PIE) or (soname is None and starts)
        kind = "pie" if is_pie else "library"
    return replace(
        elf,
        kind=kind,
        needed=needed,
        soname=soname,
        rpath=strings.get("DT_RPATH"),
        runpath=strings.get("DT_RUNPATH"),
        no_default_folders=bool(flags & _DF_1_NODEFLIB),
    )


class _Strings:
    """The dynamic string table, read when the first string is asked for.

    Args:
        is_needed: whether a loader will read the names, so that damaged ones are errors; else those of `get` are None.
    """

    def __init__(self, image: ElfImage, values: dict[object, int], *, is_needed: bool) -> None:
        self._image = image
        self._values = values
        self._is_needed = is_needed
        self._table: bytes | None = None

    def get(self, tag: str) -> str | None:
        if tag not in self._values:
            return None
        try:
            return self.at(self._values[tag])
        except ElfError:
            if self._is_needed:
                raise
            return None

    def at(self, offset: int) -> str:
        if self._table is None:
            self._table = self._read()
        end = self._table.find(b"\0", offset)
        if end < 0:
            raise ElfError("its dynamic section names a string outside of the string table; the file is damaged")
        text = self._table[offset:end]
        if not text:
            raise ElfError("its dynamic section holds an empty name; the file is damaged")
        return os.fsdecode(text)

    def _read(self) -> bytes:
        try:
            address, size = self._values["DT_STRTAB"], self._values["DT_STRSZ"]
        except KeyError:
            raise ElfError("its dynamic section has no string table; the file is damaged") from None
        if size > _STRING_LIMIT:
            raise ElfError(f"its dynamic string table has {size} bytes; the file is damaged")
        return self._image.read_mapped(address, size)


def _variant(image: ElfImage) -> str | None:
    if image.machine == "EM_X86_64":
        properties = image.segments_of("PT_GNU_PROPERTY") or image.segments_of("PT_NOTE")
        levels = [x86_64_variant(_stated(image, segment.offset, segment.file_size)) for segment in properties]
        return max((level for level in levels if level), default=None)
    if image.machine == "EM_ARM":
        section = image.section("SHT_ARM_ATTRIBUTES")
        return arm_variant(_stated(image, *section)) if section else None
    return None


def _stated(image: ElfImage, offset: int, size: int) -> bytes:
    """Notes or attributes; none where they lie outside of the file or are longer than any real ones."""
    return image.read(offset, size) if size <= _NOTES_LIMIT and offset + size <= image.size else b""

"""The tables of an ELF file, checked: what `facts` reads from."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from ocifast.elf.library import ELFStructs, struct_parse
from ocifast.elf.machine import MACHINES
from ocifast.errors import ElfError
from ocifast.records import dataclass

__all__ = ["ElfImage", "Segment"]

_PAGE = 4096
_SEGMENT_BYTES = 64 << 10
"""Linux refuses a longer table of segments (fs/binfmt_elf.c, load_elf_phdrs)."""
_SECTION_LIMIT = 0xFF00
"""Sections that are looked through; SHN_LORESERVE, where the plain count ends."""
_DYNAMIC_LIMIT = 1 << 20
"""Most bytes of a dynamic section that are read; real ones have hundreds."""
_ALIGNMENT_LIMIT = 1 << 30
"""A segment aligned to more than the largest page there is comes from a damaged header."""


@dataclass(frozen=True)
class Segment:
    """One entry of the program header table; sizes, offsets and addresses in bytes."""

    type: str | int
    offset: int
    address: int
    file_size: int
    memory_size: int
    flags: int
    alignment: int


class ElfImage:
    """An open ELF file whose header and segments are known to hold together.

    What the kernel does not look at may be anything: the padding of the identification, the table of sections (UPX
    leaves none, or one that lies beyond the end), segments that are not loaded, bytes that were appended.

    Args:
        file: positioned anywhere; must stay open.

    Raises:
        ElfError: what the kernel would not load, or a machine, ABI or type that no image can be made of.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.bits, self.byte_order = self._read_identification()
        self._structs: Any = ELFStructs(little_endian=self.byte_order == "little", elfclass=self.bits)
        self._structs.create_basic_structs()
        header = _parsed(struct_parse, self._structs.Elf_Ehdr, file, 0)
        self._structs.create_advanced_structs(header["e_type"], header["e_machine"], header["e_ident"]["EI_OSABI"])
        self.machine = str(header["e_machine"])
        self.type = str(header["e_type"])
        self.entry = int(header["e_entry"])
        self.os_abi = self._check_header(header)
        self.segments = self._read_segments(header)
        self._sections = self._find_sections(header)

    def segments_of(self, kind: str) -> list[Segment]:
        """All segments of a type, in order."""
        return [segment for segment in self.segments if segment.type == kind]

    def first_segment(self, kind: str) -> Segment | None:
        """The segment of a type that counts: Linux, too, takes the first."""
        found = self.segments_of(kind)
        return found[0] if found else None

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file."""
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise ElfError(f"it ends at byte {offset + len(data)}, where {size - len(data)} more should follow")
        return data

    def read_mapped(self, address: int, size: int) -> bytes:
        """Bytes by their address in memory, which must come from one PT_LOAD segment."""
        for segment in self.segments_of("PT_LOAD"):
            start = address - segment.address
            if start >= 0 and start + size <= segment.file_size:
                return self.read(segment.offset + start, size)
        raise ElfError(f"address {address:#x} is not in any segment; the file is damaged")

    def dynamic(self, segment: Segment) -> list[tuple[object, int]]:
        """Tags and values of the dynamic section up to DT_NULL, or to its end when there is none."""
        self.check_inside("dynamic section", segment.offset, segment.file_size)
        layout = self._structs.Elf_Dyn
        found: list[tuple[object, int]] = []
        for index in range(min(segment.file_size, _DYNAMIC_LIMIT) // layout.sizeof()):
            entry = _parsed(struct_parse, layout, self._file, segment.offset + index * layout.sizeof())
            if entry["d_tag"] == "DT_NULL":
                return found
            found.append((entry["d_tag"], int(entry["d_val"])))
        return found

    def section(self, kind: str) -> tuple[int, int] | None:
        """Offset and size of the first section of a type, as far as there is a table that can be read."""
        start, count = self._sections
        layout = self._structs.Elf_Shdr
        for index in range(count):
            header = _parsed(struct_parse, layout, self._file, start + index * layout.sizeof())
            if header["sh_type"] == kind:
                return int(header["sh_offset"]), int(header["sh_size"])
        return None

    def check_entry(self) -> None:
        """The first instruction must come from the file and be executable."""
        if not self.can_start():
            raise ElfError(f"its entry point {self.entry:#x} is not in executable code; the file is damaged")

    def can_start(self) -> bool:
        """Whether the entry point leads to executable code of the file."""
        loads = (segment for segment in self.segments_of("PT_LOAD") if segment.flags & 1)
        return any(0 <= self.entry - segment.address < segment.file_size for segment in loads)

    def check_inside(self, what: str, offset: int, size: int) -> None:
        """Raises ElfError unless the bytes are in the file."""
        if offset + size > self.size:
            raise ElfError(
                f"its {what} reaches to byte {offset + size}, but the file ends at byte {self.size}; "
                "it is cut off or damaged"
            )

    def _read_identification(self) -> tuple[int, str]:
        """Class and byte order. Linux looks at neither these nor the version, but all else depends on them."""
        start = self.read(0, 16)
        bits, order = {1: 32, 2: 64}.get(start[4]), {1: "little", 2: "big"}.get(start[5])
        if bits is None or order is None:
            raise ElfError(f"its header has the unknown class {start[4]} or byte order {start[5]}; the file is damaged")
        return bits, order

    def _check_header(self, header: Any) -> str:
        ident = header["e_ident"]
        reasons = {
            "ET_REL": "it is an object file; link it first",
            "ET_CORE": "it is a core dump, not an executable",
        }
        if self.type not in ("ET_EXEC", "ET_DYN"):
            raise ElfError(reasons.get(self.type, f"it has the unknown type {self.type}"))
        abis = {"ELFOSABI_SYSV": "none", "ELFOSABI_LINUX": "linux"}
        if ident["EI_OSABI"] not in abis:
            raise ElfError(f"its OS ABI is {ident['EI_OSABI']}; images are made for Linux (0 or 3)")
        machine = MACHINES.get(self.machine)
        if machine is None:
            raise ElfError(f"its machine {self.machine} is none that images are made for")
        if (self.bits, self.byte_order) != (machine.bits, machine.byte_order):
            raise ElfError(
                f"no platform stands for {self.machine} with {self.bits} bits, {self.byte_order}-endian "
                f"({machine.architecture} has {machine.bits} bits, {machine.byte_order}-endian)"
            )
        wrong = machine.check_flags(int(header["e_flags"]))
        if wrong:
            raise ElfError(wrong)
        return abis[ident["EI_OSABI"]]

    def _read_segments(self, header: Any) -> list[Segment]:
        layout = self._structs.Elf_Phdr
        start, count, entry_size = int(header["e_phoff"]), int(header["e_phnum"]), int(header["e_phentsize"])
        if entry_size != layout.sizeof() or not 1 <= count <= _SEGMENT_BYTES // entry_size:
            raise ElfError(f"its program header table has {count} entries of {entry_size} bytes; the file is damaged")
        self.check_inside("program header table", start, count * entry_size)
        segments = []
        for index in range(count):
            raw = _parsed(struct_parse, layout, self._file, start + index * entry_size)
            fields = ("p_type", "p_offset", "p_vaddr", "p_filesz", "p_memsz", "p_flags", "p_align")
            segment = Segment(*(raw[field] for field in fields))
            if segment.type == "PT_LOAD":
                self.check_inside(f"segment {index}", segment.offset, segment.file_size)
            segments.append(segment)
        self._check_loads([segment for segment in segments if segment.type == "PT_LOAD"])
        return segments

    def _check_loads(self, loads: list[Segment]) -> None:
        limit = 1 << MACHINES[self.machine].address_bits
        last = 0
        for segment in loads:
            start, alignment = segment.address, segment.alignment
            why = None
            if segment.file_size > segment.memory_size:
                why = "is larger in the file than in memory"
            elif start + segment.memory_size > limit - _PAGE:
                why = f"ends at address {start + segment.memory_size:#x}, beyond user space"
            elif start < last:
                why = "overlaps the one before, or is out of order"
            elif segment.file_size and (segment.offset - start) % _PAGE:
                why = "cannot be mapped: its offset and address differ within a page"
            elif self.type == "ET_DYN" and not alignment & (alignment - 1) and alignment > _ALIGNMENT_LIMIT:
                # Linux passes over an alignment that is no power of two, and heeds none where the address is fixed.
                why = f"has the alignment {alignment:#x}"
            elif self.type == "ET_EXEC" and start < _PAGE:
                why = "lies in the first page of memory, which Linux keeps empty"
            if why:
                raise ElfError(f"its segment at address {start:#x} {why}; the file is damaged")
            last = start + segment.memory_size
        if not any(segment.file_size for segment in loads):
            raise ElfError("it has no segment to load; the file is damaged")

    def _find_sections(self, header: Any) -> tuple[int, int]:
        """Offset and number of section headers; no number where they cannot be read, which hinders nobody."""
        start, count, entry_size = int(header["e_shoff"]), int(header["e_shnum"]), int(header["e_shentsize"])
        layout = self._structs.Elf_Shdr
        if start == 0 or entry_size != layout.sizeof() or start + entry_size > self.size:
            return 0, 0
        if count == 0:  # more than 0xff00 sections: the first header holds the number (gABI, "Section Header")
            count = int(_parsed(struct_parse, layout, self._file, start)["sh_size"])
        if count > _SECTION_LIMIT or start + count * entry_size > self.size:
            return 0, 0
        return start, count


def _parsed(parse: Any, *arguments: Any) -> Any:
    """Calls pyelftools, whose errors on damaged files are of many classes (also struct's, Python's own)."""
    try:
        return parse(*arguments)
    except OSError:
        raise
    except Exception as error:
        raise ElfError(f"its headers cannot be read ({error}); the file is cut off or damaged") from None

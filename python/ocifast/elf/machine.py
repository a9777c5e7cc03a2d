"""Which OCI platform an ELF file's machine is, with the variant that the file states.

Platform names are Go's GOARCH values (image-spec, image-index.md, "platform"); machine numbers and flags are those of
the processor supplements to the System V ABI.
"""

from __future__ import annotations

from collections.abc import Callable

from ocifast.errors import ElfError
from ocifast.records import dataclass

__all__ = ["MACHINES", "Machine", "arm_variant", "x86_64_variant"]


@dataclass(frozen=True)
class Machine:
    """One row of the table.

    Attributes:
        architecture: GOARCH.
        bits: the class that the architecture stands for; the other one is another ABI that no platform names.
        byte_order: "little" or "big", likewise.
        address_bits: user addresses stay below 2**address_bits on every Linux kernel of the architecture.
        check_flags: given `e_flags`, says what is wrong with them, or None.
    """

    architecture: str
    bits: int
    byte_order: str
    address_bits: int
    check_flags: Callable[[int], str | None] = lambda flags: None


def _arm(flags: int) -> str | None:
    # EF_ARM_EABIMASK: 4 and 5 are the EABI; before that came ABIs that today's kernels leave out.
    version = flags >> 24
    return None if version in (4, 5) else f"it has the ABI version {version} of ARM, not the EABI (4 or 5)"


def _ppc64le(flags: int) -> str | None:
    # EF_PPC64_ABI: 0 states nothing, 2 is ELFv2, the only ABI of little-endian Linux.
    return None if flags & 3 in (0, 2) else f"it has the ABI version {flags & 3} of PowerPC, not ELFv2"


def _riscv64(flags: int) -> str | None:
    return "it is for the embedded RISC-V ABI with 16 registers" if flags & 0x8 else None


def _mips64le(flags: int) -> str | None:
    return "it has the n32 ABI of MIPS, not n64" if flags & 0x20 else None


def _loong64(flags: int) -> str | None:
    # EF_LOONGARCH_ABI_MODIFIER: 1 soft, 2 single, 3 double floats; 0 is no ABI.
    return None if flags & 7 in (1, 2, 3) else f"it has no ABI of 64-bit LoongArch (flags {flags:#x})"


MACHINES: dict[str, Machine] = {
    "EM_X86_64": Machine("amd64", 64, "little", 47),
    "EM_386": Machine("386", 32, "little", 32),
    "EM_AARCH64": Machine("arm64", 64, "little", 52),
    "EM_ARM": Machine("arm", 32, "little", 32, _arm),
    "EM_RISCV": Machine("riscv64", 64, "little", 56, _riscv64),
    "EM_PPC64": Machine("ppc64le", 64, "little", 52, _ppc64le),
    "EM_S390": Machine("s390x", 64, "big", 63),
    "EM_LOONGARCH": Machine("loong64", 64, "little", 47, _loong64),
    "EM_MIPS": Machine("mips64le", 64, "little", 48, _mips64le),
}
"""By the name of `e_machine`. A new machine is one line here, one in the table of tests and one in the docs."""


def x86_64_variant(notes: bytes) -> str | None:
    """The micro-architecture level that a program says it needs.

    Args:
        notes: the bytes of a PT_GNU_PROPERTY or PT_NOTE segment. The kernel does not read them: what cannot be read
            states nothing.

    Returns:
        "v2", "v3", "v4", or None for the baseline (x86-64 psABI, "Micro-Architecture Levels" and
        GNU_PROPERTY_X86_ISA_1_NEEDED). A level above the known ones counts as the highest.
    """
    # Own reading, not pyelftools': that believes the sizes in the notes and would read gigabytes for a damaged one.
    levels = 0
    offset = 0
    while len(notes) - offset >= 12:
        name_size, size, kind = (_word(notes, offset + 4 * index) for index in range(3))
        is_property = kind == 5 and notes[offset + 12 : offset + 12 + name_size] == b"GNU\0"  # NT_GNU_PROPERTY_TYPE_0
        # Properties are aligned to 8, all other notes to 4; mold puts both into one segment of the larger alignment.
        alignment = 8 if is_property else 4
        start = offset + _aligned(12 + name_size, alignment)
        if is_property:
            levels |= _isa_needed(notes[start : start + size])
        offset = start + _aligned(size, alignment)
    return f"v{min(levels.bit_length(), 4)}" if levels > 1 else None


def _isa_needed(properties: bytes) -> int:
    levels = 0
    offset = 0
    while len(properties) - offset >= 8:
        kind, size = _word(properties, offset), _word(properties, offset + 4)
        if kind == 0xC0008002 and size == 4 and offset + 12 <= len(properties):  # GNU_PROPERTY_X86_ISA_1_NEEDED
            levels |= _word(properties, offset + 8)
        offset += _aligned(8 + size, 8)
    return levels


_ARM_VARIANTS = {
    **dict.fromkeys((0, 1, 2, 3, 4, 5), "v5"),  # before v4 to v5TEJ: all run on a v5, the oldest that Linux users have
    **dict.fromkeys((6, 7, 8, 9), "v6"),
    10: "v7",
    **dict.fromkeys((14, 22), "v8"),  # v8-A and v9-A in their 32-bit state
}


def arm_variant(attributes: bytes) -> str | None:
    """The architecture version that a program was built for.

    Args:
        attributes: the bytes of the .ARM.attributes section (Arm ABI, Addenda, "Build Attributes").

    Returns:
        "v5", "v6", "v7", "v8", or None when the section has no Tag_CPU_arch (Go's linker writes none), or is damaged:
        the kernel does not read it.

    Raises:
        ElfError: it is for a microcontroller that runs no Linux programs.
    """
    try:
        found = _read_attributes(attributes)
    except _DamagedError:
        return None
    if 6 not in found:  # Tag_CPU_arch
        return None
    if found.get(7) == ord("M") or found[6] not in _ARM_VARIANTS:  # Tag_CPU_arch_profile
        raise ElfError(f"it is built for an ARM that runs no Linux programs (Tag_CPU_arch {found[6]})")
    return _ARM_VARIANTS[found[6]]


class _DamagedError(Exception):
    """Attributes that cannot be read."""


def _read_attributes(attributes: bytes) -> dict[int, int]:
    # Own reading, not pyelftools': a subsection of length 0 keeps that in a loop without end.
    if attributes[:1] != b"A":
        raise _DamagedError
    found: dict[int, int] = {}
    offset = 1
    while offset < len(attributes):
        length = _word(attributes, offset) if offset + 4 <= len(attributes) else 0
        if length < 5 or offset + length > len(attributes):
            raise _DamagedError
        vendor, _, rest = attributes[offset + 4 : offset + length].partition(b"\0")
        if vendor == b"aeabi":
            found |= _file_attributes(rest)
        offset += length
    return found


def _file_attributes(data: bytes) -> dict[int, int]:
    """Integer attributes of the whole file: tag 1 of a subsection of vendor "aeabi"."""
    found: dict[int, int] = {}
    offset = 0
    while offset < len(data):
        tag, length = data[offset], _word(data, offset + 1) if offset + 5 <= len(data) else 0
        if length < 5 or offset + length > len(data):
            raise _DamagedError
        if tag == 1:  # Tag_File
            found |= _attributes(data[offset + 5 : offset + length])
        offset += length
    return found


def _attributes(data: bytes) -> dict[int, int]:
    found: dict[int, int] = {}
    offset = 0
    while offset < len(data):
        tag, offset = _uleb128(data, offset)
        # Tag_CPU_raw_name, Tag_CPU_name and, from 32 on, odd tags hold text; Tag_compatibility an integer and a text.
        text = tag in (4, 5, 32) or (tag > 32 and tag % 2 == 1)
        if not text or tag == 32:
            found[tag], offset = _uleb128(data, offset)
        if text:
            end = data.find(b"\0", offset)
            if end < 0:
                raise _DamagedError
            offset = end + 1
    return found


def _uleb128(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if offset + index >= len(data):
            break
        byte = data[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, offset + index + 1
    raise _DamagedError


def _word(data: bytes, offset: int) -> int:
    # Both readers here are for machines that the table has as little-endian only.
    return int.from_bytes(data[offset : offset + 4], "little")


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment

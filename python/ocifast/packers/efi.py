"""What a kernel, an initrd or a boot loader is, as its first bytes tell.

(PE: Microsoft, "PE Format"; EFI programs: UEFI specification 2.10, section 2.1.1; bzImage: Linux,
Documentation/arch/x86/boot.rst; UKI: uapi-group.org, "Unified Kernel Images".)
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import field

from ocifast.records import dataclass

__all__ = ["EFI_NAMES", "Program", "look", "runs_on"]

EFI_NAMES = {
    "386": "ia32",
    "amd64": "x64",
    "arm": "arm",
    "arm64": "aa64",
    "loong64": "loongarch64",
    "riscv64": "riscv64",
}
"""What a machine is called in names of EFI programs, by architecture (UEFI specification, section 3.5.1.1)."""

_MACHINES = {
    0x14C: "386",
    0x8664: "amd64",
    0x1C0: "arm",
    0x1C2: "arm",
    0x1C4: "arm",
    0xAA64: "arm64",
    0x6264: "loong64",
    0x5064: "riscv64",
}
_ELF_MACHINES = {
    3: "386",
    62: "amd64",
    40: "arm",
    183: "arm64",
    258: "loong64",
    8: "mips64le",
    21: "ppc64le",
    243: "riscv64",
    22: "s390x",
}
_OLDER = {"386": ("386", "amd64"), "arm": ("arm", "arm64")}
"""Root filesystems that kernels of other machines start as well."""
_SECTIONS_MAX = 96
_NAME_MAX = 256

Read = Callable[[int, int], bytes]
"""Reads up to so many bytes at an offset of a file."""


@dataclass(frozen=True)
class Program:
    """What a file is.

    Attributes:
        architecture: as platforms have it; None where nothing tells, as of a compressed kernel.
        is_efi: whether firmware starts it.
        sections: of an EFI program, by name: where their bytes begin, and how many there are.
        release: of a kernel, as `uname -r` says it; "" where nothing tells.
    """

    architecture: str | None = None
    is_efi: bool = False
    sections: dict[str, tuple[int, int]] = field(default_factory=dict)
    release: str = ""

    @property
    def is_uki(self) -> bool:
        """Whether it is a unified kernel image: a kernel, and what belongs to it, in one EFI program."""
        return ".linux" in self.sections


def look(read: Read) -> Program:
    """What a file is. What cannot be read of it is not told.

    Args:
        read: reads the file.
    """
    head = read(0, 4096)
    if head[:4] == b"\x7fELF" and len(head) >= 20:
        machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
        return Program(_ELF_MACHINES.get(machine))
    release = _release(head, read)
    if head[:2] == b"MZ" and len(head) >= 64:
        start = int.from_bytes(head[60:64], "little")
        found = read(start, 24 + 70)
        if found[:4] == b"PE\0\0" and len(found) == 24 + 70:
            return _efi(found, start, read, release)
    if head[0x202:0x206] == b"HdrS":
        # XLF_KERNEL_64 of xloadflags: it has an entry for 64 bits.
        return Program("amd64" if head[0x236] & 1 else "386", release=release)
    if head[56:60] == b"ARM\x64":
        return Program("arm64")
    if head[56:60] == b"RSC\x05":
        return Program("riscv64")
    return Program("arm" if head[0x24:0x28] == b"\x18\x28\x6f\x01" else None)


def runs_on(program: Program, architecture: str) -> bool:
    """Whether a kernel or a boot loader can be for images of an architecture; also where nothing tells."""
    return program.architecture is None or program.architecture in _OLDER.get(architecture, (architecture,))


def _efi(header: bytes, start: int, read: Read, release: str) -> Program:
    machine, count, optional = struct.unpack_from("<HH12xH", header, 4)
    # 10 is the subsystem of EFI applications, such as kernels and boot loaders are.
    is_efi = int.from_bytes(header[24 + 68 : 24 + 70], "little") == 10
    table = read(start + 24 + optional, min(count, _SECTIONS_MAX) * 40)
    sections = {}
    for at in range(0, len(table) - 39, 40):
        name, used, kept, offset = struct.unpack_from("<8sI4xII", table, at)
        # Behind what is used stands padding.
        sections[name.rstrip(b"\0").decode("ascii", "replace")] = (offset, min(used, kept))
    if ".uname" in sections:
        offset, size = sections[".uname"]
        release = _text(read(offset, min(size, _NAME_MAX)))
    return Program(_MACHINES.get(machine), is_efi, sections, release)


def _release(head: bytes, read: Read) -> str:
    """Of a bzImage: the first word of a text that says who built it, too."""
    if head[0x202:0x206] != b"HdrS":
        return ""
    offset = int.from_bytes(head[0x20E:0x210], "little")
    return _text(read(0x200 + offset, _NAME_MAX)) if offset else ""


def _text(data: bytes) -> str:
    words = data.partition(b"\0")[0].split()
    return words[0].decode("ascii", "replace") if words else ""

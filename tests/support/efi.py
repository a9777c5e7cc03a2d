"""Programs that look like kernels, boot loaders and unified kernel images, and start nothing."""

from __future__ import annotations

import struct

MACHINES = {"386": 0x14C, "amd64": 0x8664, "arm": 0x1C2, "arm64": 0xAA64, "riscv64": 0x5064, "loong64": 0x6264}


def efi_program(
    architecture: str = "amd64", *, sections: dict[str, bytes] | None = None, release: str = "", subsystem: int = 10
) -> bytes:
    """An EFI program (PE) with sections, and at its head that of a bzImage if it has a release."""
    named = {".text": b"code", **(sections or {})}
    start, optional = 0x400, 112
    table, bodies, at = b"", b"", 0x1000
    for name, data in named.items():
        kept = data.ljust(-(-len(data) // 512) * 512, b"\0")
        table += struct.pack("<8sIIII16x", name.encode(), len(data), 0x10000 + at, len(kept), at)
        bodies += kept
        at += len(kept)
    header = struct.pack("<4sHH12xHH", b"PE\0\0", MACHINES[architecture], len(named), optional, 0x22)
    header += struct.pack("<H66xH", 0x20B, subsystem).ljust(optional, b"\0") + table
    head = bytearray(b"MZ".ljust(60, b"\0") + struct.pack("<I", start)).ljust(0x1000, b"\0")
    head[start : start + len(header)] = header
    if release:
        text = f"{release} (builder@host) #1".encode() + b"\0"
        head[0x202:0x206] = b"HdrS"
        head[0x20E:0x210] = (0x700).to_bytes(2, "little")
        head[0x900 : 0x900 + len(text)] = text
    return bytes(head) + bodies


def uki(architecture: str = "amd64", release: str = "6.1.0") -> bytes:
    """The same with the sections of a unified kernel image."""
    return efi_program(architecture, sections={".uname": release.encode(), ".linux": b"kernel", ".initrd": b"initrd"})

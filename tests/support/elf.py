"""ELF files for the tests: hand-built ones, field by field, and real ones from the compilers of the machine."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CROSS", "HELLO", "Segment", "build_elf", "compile_c", "dynamic", "gnu_property"]

CROSS = {
    "linux/amd64": "gcc",
    "linux/386": "i686-linux-gnu-gcc",
    "linux/arm64": "aarch64-linux-gnu-gcc",
    "linux/arm/v5": "arm-linux-gnueabi-gcc",
    "linux/arm/v7": "arm-linux-gnueabihf-gcc",
    "linux/riscv64": "riscv64-linux-gnu-gcc",
    "linux/ppc64le": "powerpc64le-linux-gnu-gcc",
    "linux/s390x": "s390x-linux-gnu-gcc",
    "linux/mips64le": "mips64el-linux-gnuabi64-gcc",
}
"""Debian's compiler for each platform that Debian 12 has one for."""

HELLO = """
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char folder[256];
    const char *zone = getenv("TZ");
    printf("hello from %s in %s as %d, TZ=%s", argv[0], getcwd(folder, 256), getuid(), zone ? zone : "");
    for (int i = 1; i < argc; i++) printf(" %s", argv[i]);
    printf("\\n");
    return 0;
}
"""


def compile_c(compiler: str, target: Path, *flags: str, source: str = HELLO) -> Path:
    """Compiles C from a text. The compiler must be there: a missing one fails the test."""
    if shutil.which(compiler) is None:
        raise AssertionError(f"{compiler} is not installed; see tests/apt-packages.txt")
    code = target.parent / f".{target.name}.c"
    code.write_text(source)
    command = [compiler, "-O1", "-o", str(target), str(code), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code.unlink()
    return target


@dataclass(frozen=True)
class Segment:
    """A program header, with the bytes it stands for."""

    type: int
    data: bytes
    flags: int = 4
    alignment: int = 1


PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_GNU_PROPERTY = 2, 3, 4, 0x6474E553
SHT_ARM_ATTRIBUTES = 0x70000003
BASE = 0x400000


def build_elf(
    *segments: Segment,
    machine: int = 62,
    bits: int = 64,
    order: str = "<",
    kind: int = 2,
    flags: int = 0,
    os_abi: int = 0,
    sections: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    """A file of header, program headers, 16 bytes of code, the data of segments and sections, section headers.

    One PT_LOAD segment maps all of it at `BASE` (at 0 when `kind` is 3, ET_DYN); the entry point is the code.
    """
    word = "Q" if bits == 64 else "I"
    header_size, entry_size, section_size = (64, 56, 64) if bits == 64 else (52, 32, 40)
    base = BASE if kind == 2 else 0
    count = 1 + len(segments)
    code_at = header_size + count * entry_size

    def aligned(data: bytes) -> bytes:
        return data + b"\0" * (-len(data) % 8)

    body = aligned(b"\0" * code_at)[code_at:] + b"\x90" * 16
    positions = []
    for data in [segment.data for segment in segments] + [data for _, data in sections]:
        body = aligned(b"\0" * code_at + body)[code_at:]
        positions.append(code_at + len(body))
        body += data
    body = aligned(b"\0" * code_at + body)[code_at:]
    section_at = code_at + len(body) if sections else 0
    if sections:
        body += b"\0" * section_size
        for (type_, data), at in zip(sections, positions[len(segments) :], strict=True):
            body += struct.pack(f"{order}II{word * 4}II{word * 2}", 0, type_, 0, 0, at, len(data), 0, 0, 1, 0)
    total = code_at + len(body)

    def program_header(type_: int, flags: int, at: int, size: int, alignment: int) -> bytes:
        if bits == 64:
            return struct.pack(f"{order}IIQQQQQQ", type_, flags, at, base + at, base + at, size, size, alignment)
        return struct.pack(f"{order}IIIIIIII", type_, at, base + at, base + at, size, size, flags, alignment)

    table = program_header(1, 7, 0, total, 4096)
    for segment, at in zip(segments, positions, strict=False):
        table += program_header(segment.type, segment.flags, at, len(segment.data), segment.alignment)
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1, os_abi]) + b"\0" * 8
    numbers = (header_size, entry_size, count, section_size if sections else 0, len(sections) + 1 if sections else 0, 0)
    entry = code_at + (-code_at % 8)
    header = ident + struct.pack(
        f"{order}HHI{word * 3}IHHHHHH", kind, machine, 1, base + entry, header_size, section_at, flags, *numbers
    )
    return header + table + body


def gnu_property(kind: int, data: bytes) -> Segment:
    """A PT_GNU_PROPERTY segment with one property."""
    one = struct.pack("<II", kind, len(data)) + data
    one += b"\0" * (-len(one) % 8)
    return Segment(PT_GNU_PROPERTY, struct.pack("<III4s", 4, len(one), 5, b"GNU\0") + one, alignment=8)


def dynamic(*tags: tuple[int, int]) -> Segment:
    """A PT_DYNAMIC segment of a 64-bit file; DT_NULL is added."""
    return Segment(PT_DYNAMIC, b"".join(struct.pack("<qQ", *tag) for tag in (*tags, (0, 0))))

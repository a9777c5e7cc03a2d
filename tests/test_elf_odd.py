"""Executables as odd as linkers and packers make them: what the kernel loads is taken."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from ocifast.elf import require_runnable
from ocifast.errors import ElfError

from tests.support.elf import PT_NOTE, Segment, build_elf, compile_c, dynamic, gnu_property
from tests.test_elf import (
    ALIGN,
    EI_PAD,
    EI_VERSION,
    ENTRY,
    ISA_NEEDED,
    SHENTSIZE,
    SHNUM,
    SHOFF,
    VERSION,
    inspected,
    patched,
    refused,
)


def loaded(data: bytes) -> int:
    """The last byte of a 64-bit file that is loaded."""
    start: int
    count: int
    (start,), (count,) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<H", data, 56)
    headers = [struct.unpack_from("<IIQQQQQQ", data, start + 56 * index) for index in range(count)]
    ends: list[int] = [offset + size for kind, _, offset, _, _, size, *_ in headers if kind == 1]
    return max(ends)


@pytest.mark.tools
def test_a_file_cut_anywhere_in_what_is_loaded_is_refused(tmp_path: Path) -> None:
    whole = compile_c("musl-gcc", tmp_path / "hello", "-static").read_bytes()
    end = loaded(whole)
    assert end < len(whole) - 1000, "symbols and sections stand behind"
    for length in {*range(0, 600, 7), *range(600, end, 977), end - 1}:
        with pytest.raises(ElfError):
            inspected(tmp_path, whole[:length])
    # Symbols and section headers are for debuggers: a file without them is whole, and the kernel runs it.
    for length in {end, *range(end + 1, len(whole), 977), len(whole) - 1}:
        require_runnable(inspected(tmp_path, whole[:length]))
    runs(tmp_path, whole[:end])


def runs(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "program"
    path.write_bytes(data)
    path.chmod(0o755)
    done = subprocess.run([path], capture_output=True, check=False)
    assert done.returncode in (0, 7), done


EXIT = bytes.fromhex("bf07000000 b83c000000 0f05")  # mov $7, %edi; mov $60, %eax; syscall


def program(*segments: Segment, **fields: object) -> bytes:
    """A program that ends with status 7."""
    data = bytearray(build_elf(*segments, **fields))  # type: ignore[arg-type]
    at = data.index(b"\x90" * 16)
    data[at : at + len(EXIT)] = EXIT
    return bytes(data)


def note(kind: int, data: bytes, alignment: int) -> bytes:
    one = struct.pack("<III4s", 4, len(data), kind, b"GNU\0") + data
    return one + bytes(-len(one) % alignment)


def level(mask: int) -> bytes:
    return note(5, struct.pack("<IIII", ISA_NEEDED, 4, mask, 0), 8)


MOLD = level(4) + note(3, bytes(range(20)), 4) + note(1, struct.pack("<IIII", 0, 3, 2, 0), 4)
ODD: dict[str, tuple[bytes, str]] = {
    "notes of two alignments in one segment": (
        program(Segment(PT_NOTE, MOLD, alignment=8)),
        "linux/amd64/v3 executable",
    ),
    "the level after other notes": (
        program(Segment(PT_NOTE, note(3, bytes(20), 4) + bytes(4) + level(4), alignment=8)),
        "linux/amd64 executable",
    ),
    "a note without an end": (
        program(Segment(PT_NOTE, struct.pack("<III4s", 4, 0xFFFFFFF0, 5, b"GNU\0"), alignment=8)),
        "linux/amd64 executable",
    ),
    "a property without an end": (
        program(Segment(PT_NOTE, struct.pack("<III4sII", 4, 8, 5, b"GNU\0", ISA_NEEDED, 99), alignment=8)),
        "linux/amd64 executable",
    ),
    "a level of two bytes": (program(gnu_property(ISA_NEEDED, b"\3\0")), "linux/amd64 executable"),
    "section headers past the end": (
        patched(program(), (SHOFF, "Q", 1 << 40), (SHENTSIZE, "H", 64), (SHNUM, "H", 30)),
        "linux/amd64 executable",
    ),
    "section headers of another size": (
        patched(program(sections=((1, b"x"),)), (SHENTSIZE, "H", 40)),
        "linux/amd64 executable",
    ),
    "section headers in the code": (
        patched(program(sections=((1, b"x"),)), (SHOFF, "Q", 65)),
        "linux/amd64 executable",
    ),
    "bytes of AppImage in the padding": (
        patched(program(), (EI_PAD, "I", 0x024941), (EI_PAD + 4, "I", 0xFFFFFFFF)),
        "linux/amd64 executable",
    ),
    "another version": (patched(program(), (EI_VERSION, "B", 2), (VERSION, "I", 0)), "linux/amd64 executable"),
    "appended bytes": (program() + os.urandom(10_000), "linux/amd64 executable"),
    "an alignment that is none": (patched(program(), (ALIGN, "Q", 3)), "linux/amd64 executable"),
    "an alignment beyond memory": (patched(program(), (ALIGN, "Q", 1 << 40)), "linux/amd64 executable"),
    "a segment that is not loaded beyond the end": (
        patched(program(Segment(PT_NOTE, b"")), (64 + 56 + 8, "Q", 1 << 50), (64 + 56 + 32, "Q", 1 << 50)),
        "linux/amd64 executable",
    ),
    "a dynamic section without an end": (
        program(Segment(2, struct.pack("<qQ", 24, 0)), kind=3),
        "linux/amd64 pie",
    ),
    "a static-pie that does not say so": (program(dynamic((24, 0)), kind=3), "linux/amd64 pie"),
    "a static-pie whose name is damaged": (program(dynamic((29, 1 << 40)), kind=3), "linux/amd64 pie"),
    "a static-pie without a dynamic section": (program(kind=3), "linux/amd64 pie"),
    "a dynamic section of a million bytes": (program(dynamic(*[(24, 0)] * (1 << 16)), kind=3), "linux/amd64 pie"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_the_kernel_loads_is_taken(kind: str, tmp_path: Path) -> None:
    data, expected = ODD[kind]
    elf = inspected(tmp_path, data)
    require_runnable(elf)
    assert f"{elf.platform} {elf.kind}" == expected
    runs(tmp_path, data)


def test_a_library_without_a_name_that_cannot_be_started_is_none_the_less_one(tmp_path: Path) -> None:
    data = patched(build_elf(dynamic((24, 0)), kind=3), (ENTRY, "Q", 0))
    assert inspected(tmp_path, data).kind == "library"
    source = "int number(void) { return 7; }"
    library = compile_c("gcc", tmp_path / "lib", "-shared", "-fPIC", "-nostdlib", source=source)
    assert refused(tmp_path, library.read_bytes()) == "it is a shared library, not an executable"

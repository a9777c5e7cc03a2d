"""ELF inspection: the facts of real files, the table of machines, and damaged files by the hundred."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from ocifast.elf import Elf, inspect, require_runnable
from ocifast.elf.machine import MACHINES
from ocifast.errors import ElfError, FileError

from tests.support.elf import (
    CROSS,
    PT_INTERP,
    PT_NOTE,
    SHT_ARM_ATTRIBUTES,
    Segment,
    build_elf,
    compile_c,
    dynamic,
    gnu_property,
)

ISA_NEEDED = 0xC0008002


def summary(elf: Elf) -> str:
    return f"{elf.platform} {elf.kind} {elf.os_abi} {elf.interpreter} {','.join(elf.needed)} {elf.soname}"


def inspected(tmp_path: Path, data: bytes) -> Elf:
    path = tmp_path / "file"
    path.write_bytes(data)
    return inspect(path)


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ElfError) as caught:
        require_runnable(inspected(tmp_path, data))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'file'}: ")
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path / 'file'}: ")


@pytest.mark.tools
@pytest.mark.parametrize("platform", CROSS)
def test_static_executable_of_each_compiler(platform: str, tmp_path: Path) -> None:
    elf = inspect(compile_c(CROSS[platform], tmp_path / "hello", "-static"))
    assert str(elf.platform) == platform
    assert (elf.kind, elf.is_static, elf.is_static_pie) == ("executable", True, False)
    assert elf.size == (tmp_path / "hello").stat().st_size
    require_runnable(elf)


NATIVE = [
    ("gcc", ("-static-pie",), "linux/amd64 pie linux None  None"),
    ("gcc", ("-static", "-Wl,-z,x86-64-v2"), "linux/amd64/v2 executable linux None  None"),
    ("gcc", ("-static", "-Wl,-z,x86-64-v3"), "linux/amd64/v3 executable linux None  None"),
    ("gcc", ("-static", "-Wl,-z,x86-64-v4"), "linux/amd64/v4 executable linux None  None"),
    ("musl-gcc", ("-static",), "linux/amd64 executable none None  None"),
    ("gcc", ("-pie",), "linux/amd64 pie none /lib64/ld-linux-x86-64.so.2 libc.so.6 None"),
    ("gcc", ("-no-pie",), "linux/amd64 executable none /lib64/ld-linux-x86-64.so.2 libc.so.6 None"),
    ("gcc", ("-shared", "-fPIC", "-Wl,-soname,libx.so.1"), "linux/amd64 library none None libc.so.6 libx.so.1"),
    ("gcc", ("-shared", "-fPIC"), "linux/amd64 library none None libc.so.6 None"),
    ("arm-linux-gnueabi-gcc", ("-static", "-march=armv6", "-marm"), "linux/arm/v6 executable none None  None"),
]


@pytest.mark.tools
@pytest.mark.parametrize(("compiler", "flags", "expected"), NATIVE)
def test_facts(compiler: str, flags: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    assert summary(inspect(compile_c(compiler, tmp_path / "hello", *flags))) == expected


def test_paths_of_the_dynamic_section(tmp_path: Path) -> None:
    old = compile_c("gcc", tmp_path / "old", "-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib:/opt", "-Wl,-z,nodefaultlib")
    new = compile_c("gcc", tmp_path / "new", "-Wl,--enable-new-dtags,-rpath,/opt/x")
    assert (inspect(old).rpath, inspect(old).runpath, inspect(old).no_default_folders) == (
        "$ORIGIN/lib:/opt",
        None,
        True,
    )
    assert (inspect(new).rpath, inspect(new).runpath, inspect(new).no_default_folders) == (None, "/opt/x", False)


def test_the_c_library_can_be_started_and_is_a_library_all_the_same() -> None:
    libc = inspect("/lib/x86_64-linux-gnu/libc.so.6")
    assert libc.interpreter is not None
    for path in ("/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"):
        with pytest.raises(ElfError, match=r"it is a shared library, not an executable$"):
            require_runnable(inspect(path), bundle=True)


BUILT: list[tuple[str, dict[str, object], str]] = [
    ("EM_X86_64", {"machine": 62}, "linux/amd64"),
    ("EM_386", {"machine": 3, "bits": 32}, "linux/386"),
    ("EM_AARCH64", {"machine": 183}, "linux/arm64"),
    ("EM_ARM", {"machine": 40, "bits": 32, "flags": 0x05000400}, "linux/arm"),
    ("EM_RISCV", {"machine": 243, "flags": 5}, "linux/riscv64"),
    ("EM_PPC64", {"machine": 21, "flags": 2}, "linux/ppc64le"),
    ("EM_S390", {"machine": 22, "order": ">"}, "linux/s390x"),
    ("EM_LOONGARCH", {"machine": 258, "flags": 0x43}, "linux/loong64"),
    ("EM_MIPS", {"machine": 8, "flags": 0x80000007}, "linux/mips64le"),
]


@pytest.mark.parametrize(("name", "fields", "platform"), BUILT)
def test_table_of_machines(name: str, fields: dict[str, object], platform: str, tmp_path: Path) -> None:
    elf = inspected(tmp_path, build_elf(**fields))  # type: ignore[arg-type]
    assert (elf.machine, str(elf.platform)) == (name, platform)
    wrong_order = ">" if fields.get("order", "<") == "<" else "<"
    for other in ({"order": wrong_order}, {"bits": 32 if fields.get("bits", 64) == 64 else 64}):
        assert refused(tmp_path, build_elf(**{**fields, **other})).startswith(  # type: ignore[arg-type]
            f"no platform stands for {name} with "
        )


def test_every_machine_of_the_table_is_tested() -> None:
    assert {name for name, _, _ in BUILT} == set(MACHINES)


REFUSED: list[tuple[bytes, str]] = [
    (b"", "it is empty"),
    (b"\x7fEL", "it is not an ELF file"),
    (b"MZ" + b"\0" * 200, "it is not an ELF file"),
    (b"#!/bin/sh\necho hello\n", "it is a script, not an ELF executable; an image of it needs its interpreter"),
    (build_elf(kind=1), "it is an object file; link it first"),
    (build_elf(kind=4), "it is a core dump, not an executable"),
    (build_elf(kind=0), "it has the unknown type ET_NONE"),
    (build_elf(kind=0xFE00), "it has the unknown type "),
    (build_elf(machine=43), "its machine EM_SPARCV9 is none that images are made for"),
    (build_elf(machine=0x1234), "its machine 4660 is none that images are made for"),
    (build_elf(os_abi=9), "its OS ABI is ELFOSABI_FREEBSD; images are made for Linux (0 or 3)"),
    (build_elf(os_abi=97), "its OS ABI is "),
    (build_elf(machine=40, bits=32), "it has the ABI version 0 of ARM, not the EABI (4 or 5)"),
    (build_elf(machine=21, flags=1), "it has the ABI version 1 of PowerPC, not ELFv2"),
    (build_elf(machine=243, flags=8), "it is for the embedded RISC-V ABI with 16 registers"),
    (build_elf(machine=8, flags=0x20), "it has the n32 ABI of MIPS, not n64"),
    (build_elf(machine=258), "it has no ABI of 64-bit LoongArch (flags 0x0)"),
    (build_elf(Segment(PT_INTERP, b"/lib/ld.so")), "the name of its interpreter is b'/lib/ld.so'"),
    (build_elf(Segment(PT_INTERP, b"ld.so\0")), "the name of its interpreter is b'ld.so\\x00'"),
    (build_elf(Segment(PT_INTERP, b"/" * 5000 + b"\0")), "the name of its interpreter has 5001 bytes"),
    (
        build_elf(Segment(PT_INTERP, b"/a\0"), Segment(PT_INTERP, b"/b\0")),
        "it is dynamically linked (interpreter /a); ",
    ),
    (build_elf(Segment(PT_INTERP, b"/lib/ld.so.1\0")), "it is dynamically linked (interpreter /lib/ld.so.1); "),
    (build_elf(dynamic((1, 1))), "its dynamic section has no string table"),
    (build_elf(dynamic((1, 1), (5, 0x10), (10, 8))), "address 0x10 is not in any segment"),
    (build_elf(dynamic((1, 9), (5, 0x400000), (10, 3))), "its dynamic section names a string outside of the string"),
    (build_elf(dynamic((1, 8), (5, 0x400000), (10, 12))), "its dynamic section holds an empty name"),
    (build_elf(dynamic((1, 1), (5, 0x400000), (10, 5))), "its dynamic section names a string outside"),
    (build_elf(dynamic((1, 1), (5, 0x400000), (10, 1 << 40))), "its dynamic string table has 1099511627776 bytes"),
    (build_elf(Segment(2, struct.pack("<qQ", 1, 1))), "its dynamic section has no string table"),
    (
        build_elf(dynamic((1, 1), (5, 0x400000), (10, 12))),
        "it needs ELF\x02\x01\x01 but names no interpreter to load them",
    ),
]


@pytest.mark.parametrize(("data", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused(data: bytes, message: str, tmp_path: Path) -> None:
    assert refused(tmp_path, data).startswith(message)


def patched(data: bytes, *changes: tuple[int, str, int]) -> bytes:
    """The file with numbers changed: offset, format of `struct`, value."""
    copy = bytearray(data)
    for offset, form, value in changes:
        struct.pack_into(f"<{form}", copy, offset, value)
    return bytes(copy)


PLAIN, WITH_SECTION = build_elf(), build_elf(sections=((1, b"x"),))
# Offsets of gABI's Elf64_Ehdr, and of the first Elf64_Phdr behind it.
EI_CLASS, EI_DATA, EI_VERSION, EI_PAD, VERSION, ENTRY, SHOFF, PHENTSIZE, PHNUM, SHENTSIZE, SHNUM = (
    *(4, 5, 6, 8, 20, 24, 40),
    *(54, 56, 58, 60),
)
FLAGS, VADDR, FILESZ, MEMSZ, ALIGN = 68, 80, 96, 104, 112
PIE = build_elf(kind=3)

FIELDS: list[tuple[bytes, str]] = [
    (patched(PLAIN, (EI_CLASS, "B", 3)), "its header has the unknown class 3 or byte order 1"),
    (patched(PLAIN, (EI_DATA, "B", 0)), "its header has the unknown class 2 or byte order 0"),
    (patched(PLAIN, (PHNUM, "H", 0)), "its program header table has 0 entries of 56 bytes"),
    (patched(PLAIN + bytes(1 << 22), (PHNUM, "H", 0xFFFF)), "its program header table has 65535 entries of 56 bytes"),
    (patched(PLAIN, (PHENTSIZE, "H", 57)), "its program header table has 1 entries of 57 bytes"),
    (patched(PLAIN, (MEMSZ, "Q", 1)), "its segment at address 0x400000 is larger in the file than in memory"),
    (patched(PLAIN, (VADDR, "Q", 1 << 63)), "its segment at address 0x8000000000000000 ends at address"),
    (patched(PLAIN, (MEMSZ, "Q", 1 << 47)), "its segment at address 0x400000 ends at address 0x800000400000, beyond"),
    (patched(PLAIN, (VADDR, "Q", 0x400001)), "its segment at address 0x400001 cannot be mapped"),
    (patched(PLAIN, (VADDR, "Q", 0)), "its segment at address 0x0 lies in the first page of memory"),
    (patched(PIE, (ALIGN, "Q", 1 << 40)), "its segment at address 0x0 has the alignment 0x10000000000"),
    (build_elf(Segment(1, b"second")), "its segment at address 0x4000c0 overlaps the one before, or is out of order"),
    (patched(PLAIN, (FILESZ, "Q", 0)), "it has no segment to load"),
    (patched(PLAIN, (FLAGS, "I", 6)), "its entry point 0x400078 is not in executable code"),
    (patched(PLAIN, (ENTRY, "Q", 0)), "its entry point 0x0 is not in executable code"),
    (patched(PLAIN, (FILESZ, "Q", 1 << 40), (MEMSZ, "Q", 1 << 40)), "its segment 0 reaches to byte 1099511627776, but"),
]


@pytest.mark.parametrize(("data", "message"), FIELDS, ids=[message[:50] for _, message in FIELDS])
def test_refused_for_a_field(data: bytes, message: str, tmp_path: Path) -> None:
    assert refused(tmp_path, data).startswith(message)


def test_more_sections_than_are_looked_through(tmp_path: Path) -> None:
    # The number of sections stands in the first header when it does not fit into the file's own.
    data = arm(b"A" + aeabi(b"\x06\x0a"))
    (start,) = struct.unpack_from("<I", data, 32)
    for count, variant in [(2, "v7"), (0xFF00, "v7"), (0xFF01, None)]:
        many = patched(data + bytes(40 << 16), (48, "H", 0), (start + 20, "I", count))
        assert inspected(tmp_path, many).platform.variant == variant


def test_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ElfError, match=r"it is not a regular file$"):
            inspect(path)
    with pytest.raises(FileError, match=r"No such file or directory$"):
        inspect(tmp_path / "missing")


def test_a_position_independent_file_without_dynamic_section_is_no_library(tmp_path: Path) -> None:
    assert inspected(tmp_path, build_elf(kind=3)).is_static_pie


def test_level_from_notes_of_either_kind_and_only_the_highest_counts(tmp_path: Path) -> None:
    for mask, variant in [(0, None), (1, None), (3, "v2"), (4, "v3"), (0xF, "v4"), (8, "v4"), (0x10, "v4")]:
        segment = gnu_property(ISA_NEEDED, struct.pack("<I", mask))
        for kind in (segment.type, PT_NOTE):
            data = build_elf(Segment(kind, segment.data, alignment=8))
            assert inspected(tmp_path, data).platform.variant == variant
    used = gnu_property(0xC0010002, struct.pack("<I", 0xF))  # what it uses where it is there, not what it needs
    assert inspected(tmp_path, build_elf(used)).platform.variant is None


def arm(attributes: bytes) -> bytes:
    return build_elf(machine=40, bits=32, flags=0x05000000, sections=((SHT_ARM_ATTRIBUTES, attributes),))


def aeabi(attributes: bytes, vendor: bytes = b"aeabi\0") -> bytes:
    files = b"\1" + struct.pack("<I", 5 + len(attributes)) + attributes
    return struct.pack("<I", 4 + len(vendor) + len(files)) + vendor + files


def test_arm_attributes(tmp_path: Path) -> None:
    table: list[tuple[bytes, str | None]] = [
        (b"A", None),
        (b"A" + aeabi(b"\x1c\x01"), None),  # Tag_ABI_VFP_args alone, as Go's linker writes
        (b"A" + aeabi(b"\x05cortex\0\x06\x0a"), "v7"),  # a text before it
        (b"A" + aeabi(b"\x20\x01gnu\0\x06\x09"), "v6"),  # Tag_compatibility: a number and a text
        (b"A" + aeabi(b"\x43text\0\x06\x0e"), "v8"),  # an unknown tag with a text
        (b"A" + aeabi(b"\x06\x0a", b"gnu\0"), None),  # not the ABI's own
        (b"A" + aeabi(b"\x06\x0a", b"gnu\0") + aeabi(b"\x06\x06"), "v6"),
        *((b"A" + aeabi(bytes([6, arch])), "v5") for arch in range(6)),
        *((b"A" + aeabi(bytes([6, arch])), "v6") for arch in (6, 7, 8, 9)),
    ]
    for attributes, variant in table:
        assert inspected(tmp_path, arm(attributes)).platform.variant == variant, attributes
    for attributes in (
        b"B",
        b"A\0\0\0\0",
        b"A\1",
        b"A" + aeabi(b"\x06\x0a")[:-1],
        b"A" + aeabi(b"\x05abc"),
        b"A" + aeabi(b"\x06" + b"\xff" * 20),
    ):
        # The kernel does not read them: damaged ones state nothing.
        assert inspected(tmp_path, arm(attributes)).platform.variant is None, attributes
    for attributes, message in [
        (b"A" + aeabi(b"\x06\x0b"), "it is built for an ARM that runs no Linux programs (Tag_CPU_arch 11)"),
        (b"A" + aeabi(b"\x06\x0a\x07M"), "it is built for an ARM that runs no Linux programs (Tag_CPU_arch 10)"),
    ]:
        assert refused(tmp_path, arm(attributes)).startswith(message)


def extremes(size: int) -> set[int]:
    top = (1 << 8 * size) - 1
    values = {0, 1, 2, 3, 4, 0x7FFF, 0x8000, 0xFF00, 0x1000, 0x10000, top >> 4, top >> 1, (top >> 1) + 1, top - 1, top}
    return {value for value in values if value <= top}


def damaged(data: bytes) -> list[tuple[str, bytes]]:
    """Each field of the header, of every program header and of some section headers, set to its extremes."""
    header = [("ident", 1)] * 16 + [
        ("type", 2),
        ("machine", 2),
        ("version", 4),
        ("entry", 8),
        ("phoff", 8),
        ("shoff", 8),
    ]
    header += [
        ("flags", 4),
        ("ehsize", 2),
        ("phentsize", 2),
        ("phnum", 2),
        ("shentsize", 2),
        ("shnum", 2),
        ("shstrndx", 2),
    ]
    program = [
        ("type", 4),
        ("flags", 4),
        ("offset", 8),
        ("vaddr", 8),
        ("paddr", 8),
        ("filesz", 8),
        ("memsz", 8),
        ("align", 8),
    ]
    section = [
        ("name", 4),
        ("type", 4),
        ("flags", 8),
        ("addr", 8),
        ("offset", 8),
        ("size", 8),
        ("link", 4),
        ("info", 4),
    ]
    places: list[tuple[str, int, int]] = []

    def add(prefix: str, fields: list[tuple[str, int]], offset: int) -> None:
        for index, (name, size) in enumerate(fields):
            places.append((f"{prefix}.{name}.{index}", offset, size))
            offset += size

    add("header", header, 0)
    phoff, shoff = struct.unpack_from("<QQ", data, 32)
    phnum, _, shnum = struct.unpack_from("<HHH", data, 56)
    for index in range(phnum):
        add(f"segment{index}", program, phoff + 56 * index)
    for index in (0, 1, shnum - 1):
        add(f"section{index}", section, shoff + 64 * index)
    changed = []
    for name, offset, size in places:
        for value in sorted(extremes(size)):
            copy = bytearray(data)
            copy[offset : offset + size] = value.to_bytes(size, "little")
            if copy != data:
                changed.append((f"{name}={value:#x}", bytes(copy)))
    return changed


ASK_THE_KERNEL = """
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        execv(argv[1], argv + 1);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) return 1;
    kill(child, SIGKILL);
    return 0;
}
"""
"""Exits 0 when the kernel loads the file: a traced process stops after exec, before its first instruction."""


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("kind", ["-static", "-static-pie"])
def test_each_header_field_at_its_extremes(kind: str, tmp_path: Path) -> None:
    # The kernel is the judge: what is taken for amd64 must be what it loads.
    source = 'void _start(void) { __asm__ volatile ("mov $60, %eax; mov $7, %edi; syscall"); } int zeros[5000];'
    whole = compile_c("gcc", tmp_path / "whole", kind, "-nostartfiles", "-Wl,-z,x86-64-v2", source=source)
    judge = compile_c("gcc", tmp_path / "judge", source=ASK_THE_KERNEL)
    expected = inspect(whole)
    assert expected.platform.variant == "v2"
    fates: Counter[str] = Counter()
    for name, data in damaged(whole.read_bytes()):
        path = tmp_path / "damaged"
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(0o755)
        try:
            elf = inspect(path)
            require_runnable(elf)
        except ElfError:
            fates["refused"] += 1
            continue
        if elf.platform.architecture == expected.platform.architecture:
            assert subprocess.run([judge, path], check=False).returncode == 0, name
            fates["taken"] += 1
        else:
            assert name.startswith("header.machine"), name
            fates["other machine"] += 1
    assert fates["refused"] > 300
    assert fates["taken"] > 100


def test_random_damage_ends_in_a_result_or_an_elf_error(tmp_path: Path) -> None:
    generator = random.Random(20)
    originals = [
        compile_c("gcc", tmp_path / "dynamic").read_bytes(),
        arm(b"A" + aeabi(b"\x05cortex\0\x06\x0a")),
        build_elf(gnu_property(ISA_NEEDED, b"\3\0\0\0"), dynamic((1, 1), (5, 0x400000), (10, 64)), machine=62),
    ]
    refusals = 0
    for _ in range(1500):
        data = bytearray(generator.choice(originals))
        for _ in range(generator.randint(1, 6)):
            position = generator.randrange(min(len(data), 1200))
            data[position] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        try:
            require_runnable(inspected(tmp_path, bytes(data)), bundle=True)
        except ElfError:
            refusals += 1
    assert 300 < refusals < 1500

"""The libraries of an executable: compared with what the loaders of this machine say, and rule by rule."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from ocifast.elf import inspect
from ocifast.errors import ElfError
from ocifast.loader import resolve
from ocifast.loader.cache import parse_cache
from ocifast.loader.sysroot import Sysroot

from tests.support.elf import PT_INTERP, Segment, build_elf, compile_c

LIBC = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]


def targets(program: Path, root: Path = Path("/"), target: str = "/") -> list[str]:
    return [library.target for library in resolve(inspect(program), sysroot=root, target=target)]


def sources(program: Path) -> set[str]:
    return {os.fspath(library.elf.path) for library in resolve(inspect(program))}


def ldd(program: Path | str) -> set[str]:
    """The files that this machine's loader takes, links followed."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    assert "not found" not in done.stdout, done.stdout
    return {os.path.realpath(path) for path in re.findall(r"(/[^\s:]*) \(0x", done.stdout)}


def library(path: Path, *flags: str, needs: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W", "_", path.name)
    soname = [] if any("-soname" in flag for flag in flags) else [f"-Wl,-soname,{path.name}"]
    source = f"int {name}(void) {{ return 1; }}\n"
    if needs:
        source = f"int {needs}(void); int {name}(void) {{ return {needs}(); }}\n"
    return compile_c("gcc", path, "-shared", "-fPIC", "-Wl,--no-as-needed", *soname, *flags, source=source)


def program(path: Path, *flags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return compile_c("gcc", path, "-Wl,--no-as-needed", *flags, source="int main(void) { return 0; }")


def programs_of_this_machine() -> list[str]:
    names = ["ls", "git", "python3", "skopeo", "umoci", "buildah", "sqfstar", "mkfs.erofs", "ldd", "gcc", "mke2fs"]
    found = [path for name in names if (path := shutil.which(name))]
    return [path for path in found if Path(path).read_bytes()[:4] == b"\x7fELF"]


@pytest.mark.tools
def test_as_ldd_finds_the_libraries_of_real_programs() -> None:
    compared = 0
    for path in programs_of_this_machine():
        elf = inspect(path)
        if elf.interpreter:
            assert sources(Path(path)) == ldd(path), path
            compared += 1
    assert compared >= 5


def test_rpath_serves_the_libraries_of_libraries_and_runpath_does_not(tmp_path: Path) -> None:
    inner = library(tmp_path / "lib/libinner.so")
    library(tmp_path / "lib/libouter.so", str(inner))
    link = [f"-L{tmp_path}/lib", "-louter", f"-Wl,-rpath-link,{tmp_path}/lib"]
    old = program(tmp_path / "old", *link, f"-Wl,--disable-new-dtags,-rpath,{tmp_path}/lib")
    assert sources(old) == ldd(old)
    assert [target for target in targets(old) if target not in LIBC] == [
        f"{tmp_path}/lib/libinner.so",
        f"{tmp_path}/lib/libouter.so",
    ]
    new = program(tmp_path / "new", *link, f"-Wl,--enable-new-dtags,-rpath,{tmp_path}/lib")
    with pytest.raises(ElfError, match=r"libouter\.so: it needs libinner\.so, which is neither in its own paths nor"):
        targets(new)
    assert "libinner.so => not found" in subprocess.run(["ldd", new], capture_output=True, text=True, check=True).stdout


def test_a_runpath_turns_off_the_rpath_of_the_requester_alone(tmp_path: Path) -> None:
    # libouter has a RUNPATH, so neither its own RPATH nor the program's counts for what it needs.
    inner = library(tmp_path / "a/libinner.so")
    library(tmp_path / "b/libinner.so")
    library(tmp_path / "a/libouter.so", str(inner), f"-Wl,--enable-new-dtags,-rpath,{tmp_path}/b")
    built = program(tmp_path / "x", f"-L{tmp_path}/a", "-louter", f"-Wl,--disable-new-dtags,-rpath,{tmp_path}/a")
    assert sources(built) == ldd(built)
    assert f"{tmp_path}/b/libinner.so" in sources(built)


def test_origin_moves_with_the_executable_and_with_each_library(tmp_path: Path) -> None:
    inner = library(tmp_path / "app/lib/deep/libinner.so")
    library(tmp_path / "app/lib/libouter.so", str(inner), "-Wl,--enable-new-dtags,-rpath,${ORIGIN}/deep")
    built = program(
        tmp_path / "app/bin/x", f"-L{tmp_path}/app/lib", "-louter", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib"
    )
    assert sources(built) == ldd(built)
    assert [target for target in targets(built) if target not in LIBC] == ["/lib/deep/libinner.so", "/lib/libouter.so"]
    assert [path for path in targets(built, target="/opt/app/bin") if path not in LIBC] == [
        "/opt/app/lib/deep/libinner.so",
        "/opt/app/lib/libouter.so",
    ]


def test_the_first_library_of_a_name_is_the_one_for_all(tmp_path: Path) -> None:
    # Both libraries find another libinner; the loader walks breadth first and keeps the first one.
    one = library(tmp_path / "one/libinner.so")
    two = library(tmp_path / "two/libinner.so")
    library(tmp_path / "liba.so", str(one), f"-Wl,-rpath,{tmp_path}/one")
    library(tmp_path / "libb.so", str(two), f"-Wl,-rpath,{tmp_path}/two")
    built = program(tmp_path / "x", f"-L{tmp_path}", "-lb", "-la", f"-Wl,-rpath,{tmp_path}")
    assert sources(built) == ldd(built)
    assert str(two) in sources(built)
    assert str(one) not in sources(built)


def test_a_library_that_is_loaded_under_its_soname_is_not_loaded_again(tmp_path: Path) -> None:
    # The program needs one library by two names; the file behind the first says that it is the second.
    real = library(tmp_path / "libreal.so.1")
    alias = library(tmp_path / "libalias.so")
    built = program(tmp_path / "x", str(alias), str(real), f"-Wl,-rpath,{tmp_path}")
    alias.unlink()
    shutil.copy(real, alias)
    assert sources(built) == ldd(built)
    assert targets(built) == sorted([*LIBC, f"{tmp_path}/libalias.so"])


def test_a_needed_path_is_taken_as_it_is(tmp_path: Path) -> None:
    absolute = library(tmp_path / "libabsolute.so", "-nostdlib", f"-Wl,-soname,{tmp_path}/libabsolute.so")
    built = program(tmp_path / "x", str(absolute))
    assert sources(built) == ldd(built)
    assert f"{tmp_path}/libabsolute.so" in targets(built)
    relative = library(tmp_path / "librelative.so", "-Wl,-soname,./librelative.so")
    with pytest.raises(ElfError, match=r"it needs \./librelative\.so, a path that depends on the folder"):
        targets(program(tmp_path / "y", str(relative)))


@pytest.mark.tools
def test_a_library_of_another_machine_is_passed_over(tmp_path: Path) -> None:
    native = library(tmp_path / "native/libx.so")
    foreign = tmp_path / "foreign/libx.so"
    foreign.parent.mkdir()
    compile_c("aarch64-linux-gnu-gcc", foreign, "-shared", "-fPIC", "-nostdlib", source="int x;")
    built = program(tmp_path / "x", str(native), f"-Wl,-rpath,{tmp_path}/foreign:{tmp_path}/native")
    assert sources(built) == ldd(built)


def test_elements_that_mean_nothing_in_an_image_are_passed_over(tmp_path: Path) -> None:
    built = library(tmp_path / "libx.so")
    program_path = program(tmp_path / "x", str(built), f"-Wl,-rpath,:relative:$PLATFORM/x:$UNKNOWN:{tmp_path}")
    assert targets(program_path) == sorted([*LIBC, f"{tmp_path}/libx.so"])


def test_lib_stands_for_the_folder_of_libraries(tmp_path: Path) -> None:
    built = library(tmp_path / "lib/x86_64-linux-gnu/libx.so")
    for token in ("$LIB", "${LIB}"):
        made = program(tmp_path / "x", str(built), f"-Wl,-rpath,{tmp_path}/{token}")
        assert sources(made) == ldd(made)
        assert f"{tmp_path}/lib/x86_64-linux-gnu/libx.so" in targets(made)


def fake_root(folder: Path) -> Path:
    """A system of its own: the loader and the C library of this machine, and nothing else."""
    (folder / "lib64").mkdir(parents=True)
    (folder / "usr/lib/x86_64-linux-gnu").mkdir(parents=True)
    (folder / "lib").symlink_to("/usr/lib")  # absolute: must stay inside of the root
    for name in ("libc.so.6", "ld-linux-x86-64.so.2"):
        shutil.copy(f"/lib/x86_64-linux-gnu/{name}", folder / "usr/lib/x86_64-linux-gnu" / name)
    (folder / "lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    return folder


def cache_file(*entries: tuple[str, str, int], before: bytes = b"") -> bytes:
    strings = b""
    table = b""
    start = 48 + 24 * len(entries)
    for name, path, hwcap in entries:
        key = start + len(strings)
        strings += name.encode() + b"\0"
        value = start + len(strings)
        strings += path.encode() + b"\0"
        table += struct.pack("<iIIIQ", 0x0303, key, value, 0, hwcap)
    header = b"glibc-ld.so.cache1.1" + struct.pack("<IIB3xI12x", len(entries), len(strings), 2, 0)
    return before + header + table + strings


def test_a_root_of_its_own_with_a_cache(tmp_path: Path) -> None:
    root = fake_root(tmp_path / "root")
    built = library(root / "opt/odd/libx.so")
    library(root / "opt/fast/libx.so")
    built_program = program(tmp_path / "x", str(built))
    with pytest.raises(ElfError, match=r"it needs libx\.so"):
        targets(built_program, root)
    (root / "etc").mkdir()
    hwcap = 1 << 62
    cache = cache_file(("libx.so", "/opt/fast/libx.so", hwcap), ("libx.so", "/opt/odd/libx.so", 0))
    (root / "etc/ld.so.cache").write_bytes(cache)
    # The image has no cache: what only the cache knows goes where the loader looks without one.
    expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libx.so", "/lib64/ld-linux-x86-64.so.2"]
    assert targets(built_program, root) == expected
    found = {library.target: library.elf.path for library in resolve(inspect(built_program), sysroot=root)}
    assert found["/lib/x86_64-linux-gnu/libx.so"] == root / "opt/odd/libx.so"
    assert found["/lib64/ld-linux-x86-64.so.2"] == root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    without = program(tmp_path / "y", str(built), "-Wl,-z,nodefaultlib")
    with pytest.raises(ElfError, match="it needs "):
        targets(without, root)


def test_the_cache_of_this_machine_is_read_as_ldconfig_reads_it() -> None:
    printed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    expected = re.findall(r"^\t(\S+) \([^)]*\) => (\S+)$", printed, re.MULTILINE)
    plain = [entry for entry in expected if "/glibc-hwcaps/" not in entry[1]]
    parsed = parse_cache(Path("/etc/ld.so.cache").read_bytes(), byte_order="little")
    assert sorted((name, path) for name, paths in parsed.items() for path in paths) == sorted(plain)
    assert len(plain) > 10


def test_caches_old_and_damaged() -> None:
    whole = cache_file(("libx.so", "/opt/libx.so", 0))
    assert parse_cache(whole, byte_order="little") == {"libx.so": ["/opt/libx.so"]}
    older = b"ld.so-1.7.0\0" + struct.pack("<I", 0)
    assert parse_cache(cache_file(("libx.so", "/opt/libx.so", 0), before=older), byte_order="little") == {
        "libx.so": ["/opt/libx.so"]
    }
    assert parse_cache(b"", byte_order="little") == {}
    assert parse_cache(older, byte_order="little") == {}
    for length in range(20, len(whole) - 1):
        with pytest.raises(ElfError, match="run ldconfig"):
            parse_cache(whole[:length], byte_order="little")
    with pytest.raises(ElfError, match="shorter than its header says"):
        parse_cache(whole, byte_order="big")


@pytest.mark.tools
def test_musl(tmp_path: Path) -> None:
    built = compile_c("musl-gcc", tmp_path / "x")
    assert targets(built) == ["/lib/ld-musl-x86_64.so.1"]
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    shutil.copy("/lib/ld-musl-x86_64.so.1", root / "lib/ld-musl-x86_64.so.1")
    inner = library(root / "odd/libinner.so", "-nostdlib")
    outer = library(root / "odd/libouter.so", "-nostdlib", str(inner))
    flags = ("-Wl,--no-as-needed", str(outer), f"-Wl,-rpath-link,{root}/odd")
    listed = compile_c("musl-gcc", tmp_path / "listed", *flags)
    with pytest.raises(ElfError, match=r"it needs libouter\.so"):
        targets(listed, root)
    (root / "etc").mkdir()
    (root / "etc/ld-musl-x86_64.path").write_text("/none\n/odd")
    assert targets(listed, root) == ["/lib/ld-musl-x86_64.so.1", "/lib/libinner.so", "/lib/libouter.so"]
    # To musl a RUNPATH serves the libraries of libraries as well.
    (root / "etc/ld-musl-x86_64.path").unlink()
    given = compile_c("musl-gcc", tmp_path / "given", *flags, "-Wl,--enable-new-dtags,-rpath,/odd")
    assert targets(given, root) == ["/lib/ld-musl-x86_64.so.1", "/odd/libinner.so", "/odd/libouter.so"]


@pytest.mark.tools
@pytest.mark.parametrize(
    ("compiler", "triplet", "loader"),
    [
        ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu", "/lib/ld-linux-aarch64.so.1"),
        ("arm-linux-gnueabihf-gcc", "arm-linux-gnueabihf", "/lib/ld-linux-armhf.so.3"),
        ("riscv64-linux-gnu-gcc", "riscv64-linux-gnu", "/lib/ld-linux-riscv64-lp64d.so.1"),
        ("s390x-linux-gnu-gcc", "s390x-linux-gnu", "/lib/ld64.so.1"),
        ("powerpc64le-linux-gnu-gcc", "powerpc64le-linux-gnu", "/lib64/ld64.so.2"),
    ],
)
def test_foreign_machines(compiler: str, triplet: str, loader: str, tmp_path: Path) -> None:
    built = compile_c(compiler, tmp_path / "x")
    root = Path("/usr") / triplet
    if not (root / loader.lstrip("/")).exists():  # Debian's cross packages lay everything into lib/
        root = tmp_path / "root"
        (root / "lib").mkdir(parents=True)
        (root / "lib64").symlink_to("lib")
        for path in (Path("/usr") / triplet / "lib").glob("*.so*"):
            shutil.copy(path, root / "lib" / path.name)
    assert targets(built, root) == sorted(["/lib/libc.so.6", loader])


@pytest.mark.tools
def test_a_missing_interpreter_and_an_unknown_one(tmp_path: Path) -> None:
    built = compile_c("aarch64-linux-gnu-gcc", tmp_path / "x")
    root = fake_root(tmp_path / "root")
    with pytest.raises(ElfError, match=f"its interpreter /lib/ld-linux-aarch64.so.1 does not exist below {root}; name"):
        targets(built, root)
    shutil.copy("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", root / "usr/lib/ld-linux-aarch64.so.1")
    with pytest.raises(ElfError, match="is for linux/amd64; name the root of the system"):
        targets(built, root)
    odd = root / "odd"
    odd.write_bytes(build_elf(Segment(PT_INTERP, b"/usr/lib/libodd.so.1\0")))
    library(root / "usr/lib/libodd.so.1")
    with pytest.raises(ElfError, match="it is neither glibc's loader nor musl's"):
        targets(odd, root)


def test_a_damaged_library_is_told(tmp_path: Path) -> None:
    built = library(tmp_path / "libx.so")
    made = program(tmp_path / "x", str(built), f"-Wl,-rpath,{tmp_path}")
    built.write_bytes(b"GROUP ( libx.so.6 )")
    with pytest.raises(ElfError, match=r"libx\.so: it is not an ELF file"):
        targets(made)


def test_paths_stay_inside_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "outside").write_text("outside")
    (root / "inside").write_text("inside")
    (root / "a/up").symlink_to("../../../outside")
    (root / "a/absolute").symlink_to("/inside")
    (root / "loop").symlink_to("loop")
    found = Sysroot(root)
    assert found.find("/a/up") is None
    assert found.find("/../outside") is None
    assert found.find("/loop") is None
    assert found.find("/a") is None
    assert found.find("/a/../inside") == root / "inside"
    assert found.find("/a/absolute") == root / "inside"
    assert found.read("/inside", 3) == b"ins"
    assert found.read("/none", 3) == b""

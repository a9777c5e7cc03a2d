"""Runnables run: unpacked by umoci and started by runc, in a chroot, or by an emulator for another machine."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ocifast.runnable import Runnable

from tests.support.archives import Opened
from tests.support.elf import CROSS, compile_c
from tests.support.oracle import umoci_unpack
from tests.support.run import run

EMULATORS = {
    "linux/386": "qemu-i386-static",
    "linux/arm64": "qemu-aarch64-static",
    "linux/arm/v5": "qemu-arm-static",
    "linux/arm/v7": "qemu-arm-static",
    "linux/riscv64": "qemu-riscv64-static",
    "linux/ppc64le": "qemu-ppc64le-static",
    "linux/s390x": "qemu-s390x-static",
    "linux/mips64le": "qemu-mips64el-static",
}

pytestmark = pytest.mark.root


def unpacked(runnable: Runnable, folder: Path) -> Path:
    """The root filesystem that umoci makes of a runnable, in a bundle for runc."""
    runnable.write(f"oci:{folder}/layout:app")
    return umoci_unpack(folder / "layout", folder / "bundle")


def with_runc(rootfs: Path) -> str:
    """What the image's own entrypoint, arguments, environment, user and working directory print."""
    bundle = rootfs.parent
    config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    config["process"]["terminal"] = False
    (bundle / "config.json").write_text(json.dumps(config))
    state = bundle / "state"
    name = f"ocifast-test-{secrets.token_hex(8)}"
    return run("runc", "--root", state, "run", "--bundle", bundle, name, stdin=b"").decode()


def in_chroot(rootfs: Path, *words: str) -> str:
    return run("chroot", rootfs, *words).decode()


def rust_hello(path: Path) -> Path:
    source = path.parent / "hello.rs"
    source.write_text('fn main() { println!("hello from Rust"); }')
    run("rustc", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o", path, source, env=_home())
    return path


def _home() -> dict[str, str]:
    # rustup keeps its toolchains in the home folder, which tests replace.
    return {"HOME": pwd.getpwuid(os.getuid()).pw_dir}


@pytest.mark.tools
def test_static_c_in_runc_with_all_its_settings(tmp_path: Path) -> None:
    hello = compile_c("gcc", tmp_path / "hello", "-static")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("x")
    runnable = Runnable(
        hello,
        args=["one", "two three"],
        env={"TZ": "UTC"},
        user="app",
        working_dir="/data",
        add=[(tmp_path / "data", "/data")],
    )
    rootfs = unpacked(runnable, tmp_path)
    assert with_runc(rootfs) == "hello from /hello in /data as 65532, TZ=UTC one two three\n"


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["static", "static-pie", "musl", "not executable", "compressed"])
def test_native_executables_in_runc(kind: str, tmp_path: Path) -> None:
    compiler = "musl-gcc" if kind == "musl" else "gcc"
    hello = compile_c(compiler, tmp_path / "hello", "-static-pie" if kind == "static-pie" else "-static")
    if kind == "not executable":
        hello.chmod(0o600)
    compression = "gzip" if kind == "compressed" else "none"
    rootfs = unpacked(Runnable(hello, compression=compression), tmp_path)
    assert sorted(path.name for path in rootfs.iterdir()) == ["hello"]
    assert with_runc(rootfs) == "hello from /hello in / as 0, TZ=\n"


@pytest.mark.tools
def test_rust_in_runc(tmp_path: Path) -> None:
    rootfs = unpacked(Runnable(rust_hello(tmp_path / "hello")), tmp_path)
    assert with_runc(rootfs) == "hello from Rust\n"


@pytest.mark.tools
def test_busybox_of_debian_in_runc(tmp_path: Path) -> None:
    # Without a name of its own busybox takes its first argument for the applet.
    busybox = Path("/bin/busybox")
    rootfs = unpacked(Runnable(busybox, args=["sh", "-c", "echo $((6 * 7)); id -u"], user="7"), tmp_path)
    assert with_runc(rootfs) == "42\n7\n"


@pytest.mark.tools
def test_buildah_runs_what_it_loads_from_an_archive(tmp_path: Path) -> None:
    hello = compile_c("gcc", tmp_path / "hello", "-static")
    Runnable(hello).write(tmp_path / "hello.tar")
    storage = ["--root", str(tmp_path / "storage"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]

    def buildah(*words: str) -> str:
        return run("buildah", *storage, *words, env={"DOCKER_CONFIG": ""}).decode()

    container = buildah("from", f"oci-archive:{tmp_path}/hello.tar").strip()
    said = buildah("run", "--isolation", "chroot", container, "/hello", "again")
    assert said == "hello from /hello in / as 0, TZ= again\n"
    buildah("rm", container)


@pytest.mark.tools
@pytest.mark.parametrize("platform", sorted(EMULATORS))
def test_foreign_executables_in_an_emulator(platform: str, tmp_path: Path) -> None:
    hello = compile_c(CROSS[platform], tmp_path / "hello", "-static")
    rootfs = unpacked(Runnable(hello), tmp_path)
    said = run(EMULATORS[platform], rootfs / "hello", "x", cwd=rootfs)
    assert said.decode() == f"hello from {rootfs}/hello in {rootfs} as 0, TZ= x\n"


@pytest.mark.tools
def test_certificates_and_time_zones_are_found_by_programs(tmp_path: Path) -> None:
    source = """
    #include <stdio.h>
    #include <stdlib.h>
    #include <time.h>
    #include <sys/stat.h>
    int main(void) {
        struct stat s;
        time_t summer = 1720000000;
        setenv("TZ", "Europe/Berlin", 1);
        printf("%d %d\\n", localtime(&summer)->tm_hour, stat("/etc/ssl/certs/ca-certificates.crt", &s));
        return 0;
    }
    """
    clock = compile_c("gcc", tmp_path / "clock", "-static", source=source)
    rootfs = unpacked(Runnable(clock, ca_certs=True, time_zones=True), tmp_path)
    assert in_chroot(rootfs, "/clock") == "11 0\n"


def with_library(folder: Path) -> Path:
    """A program with a library of its own beside it, found by $ORIGIN."""
    (folder / "app/lib").mkdir(parents=True)
    library = folder / "app/lib/libgreet.so.1"
    compile_c(
        "gcc",
        library,
        *("-shared", "-fPIC", "-Wl,-soname,libgreet.so.1"),
        source="#include <math.h>\ndouble greet(double x) { return cbrt(x); }",
    )
    return compile_c(
        "gcc",
        folder / "app/greet",
        *(str(library), "-lm", "-Wl,-rpath,$ORIGIN/lib"),
        source='#include <stdio.h>\ndouble greet(double); int main(int c, char **v) {printf("%g\\n", greet(c * 27)); }',
    )


@pytest.mark.tools
def test_a_bundle_in_runc(tmp_path: Path) -> None:
    rootfs = unpacked(Runnable(with_library(tmp_path), bundle=True), tmp_path)
    files = sorted(str(path.relative_to(rootfs)) for path in rootfs.rglob("*") if path.is_file())
    assert files == [
        "greet",
        "lib/libgreet.so.1",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libm.so.6",
        "lib64/ld-linux-x86-64.so.2",
    ]
    assert with_runc(rootfs) == "3\n"


@pytest.mark.tools
def test_bundles_of_real_programs_in_a_chroot(tmp_path: Path) -> None:
    tar = shutil.which("tar")
    sqfstar = shutil.which("sqfstar")
    assert tar is not None
    assert sqfstar is not None
    rootfs = unpacked(Runnable(tar, bundle=True), tmp_path)
    assert in_chroot(rootfs, "/tar", "--version").startswith("tar (GNU tar)")
    other = tmp_path / "other"
    other.mkdir()
    assert "sqfstar" in in_chroot(unpacked(Runnable(sqfstar, bundle=True), other), "/sqfstar", "-version")


@pytest.mark.tools
def test_a_bundle_of_musl_in_a_chroot(tmp_path: Path) -> None:
    rootfs = unpacked(Runnable(compile_c("musl-gcc", tmp_path / "hello"), bundle=True), tmp_path)
    assert sorted(path.name for path in rootfs.rglob("*") if path.is_file()) == ["hello", "ld-musl-x86_64.so.1"]
    assert in_chroot(rootfs, "/hello") == "hello from /hello in / as 0, TZ=\n"


@pytest.mark.tools
def test_a_bundle_for_another_machine_in_an_emulator(tmp_path: Path) -> None:
    hello = compile_c("aarch64-linux-gnu-gcc", tmp_path / "hello")
    rootfs = unpacked(Runnable(hello, bundle=True, sysroot="/usr/aarch64-linux-gnu"), tmp_path)
    said = run("qemu-aarch64-static", "-L", rootfs, rootfs / "hello", cwd=rootfs)
    assert said.decode() == f"hello from {rootfs}/hello in {rootfs} as 0, TZ=\n"


def test_bundles_share_the_layer_of_their_libraries(tmp_path: Path) -> None:
    layers: list[list[str]] = []
    for name in ("one", "two"):
        program = compile_c("gcc", tmp_path / name, source=f"int main(void) {{ return {len(layers)}; }}")
        Runnable(program, bundle=True).write(tmp_path / f"{name}.tar")
        image = Opened(tmp_path / f"{name}.tar")
        layers.append([layer["digest"] for layer in image.manifest["layers"]])
        assert [line.split()[0] for line in image.layers()[0]] == [
            "lib",
            "lib/x86_64-linux-gnu",
            "lib/x86_64-linux-gnu/libc.so.6",
            "lib64",
            "lib64/ld-linux-x86-64.so.2",
        ]
    assert layers[0][0] == layers[1][0]
    assert layers[0][1] != layers[1][1]


def test_a_static_executable_needs_no_bundle(tmp_path: Path) -> None:
    hello = compile_c("gcc", tmp_path / "hello", "-static")
    plain = Runnable(hello).write(tmp_path / "plain.tar")
    assert Runnable(hello, bundle=True).write(tmp_path / "bundle.tar").digest == plain.digest


def test_a_library_that_needs_a_newer_processor_raises_the_platform(tmp_path: Path) -> None:
    library = compile_c("gcc", tmp_path / "libx.so", "-shared", "-fPIC", "-Wl,-z,x86-64-v3", source="int x;")
    program = compile_c("gcc", tmp_path / "x", "-Wl,--no-as-needed", str(library), f"-Wl,-rpath,{tmp_path}")
    (image,) = Runnable(program, bundle=True).write(tmp_path / "x.tar").images
    assert str(image.platform) == "linux/amd64/v3"


def test_nothing_is_run_to_find_the_libraries(tmp_path: Path) -> None:
    # ldd would run this program's "interpreter".
    mark = tmp_path / "was-run"
    source = f"""
    void _start(void) {{
        long result;
        __asm__ volatile ("syscall" : "=a"(result) : "a"(85), "D"("{mark}"), "S"(0600) : "rcx", "r11", "memory");
        __asm__ volatile ("syscall" : "=a"(result) : "a"(60), "D"(0) : "rcx", "r11", "memory");
    }}
    """
    interpreter = compile_c("gcc", tmp_path / "interpreter", "-static-pie", "-nostartfiles", "-fPIE", source=source)
    program = compile_c("gcc", tmp_path / "x", f"-Wl,--dynamic-linker={interpreter}")
    subprocess.run([program], check=False)
    assert mark.exists(), "the trap works"
    mark.unlink()
    with pytest.raises(Exception, match="neither glibc's loader nor musl's"):
        Runnable(program, bundle=True).write(tmp_path / "x.tar")
    assert not mark.exists()

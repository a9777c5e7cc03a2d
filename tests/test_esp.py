"""EFI system partitions, as other programs read them, and what is extracted beside a disk."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from ocifast.errors import OutputUnsupportedError
from ocifast.packers.fat import FAT_MIN, fat_size, write_fat

from tests.support.efi import efi_program, uki
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import ocifast, run, try_ocifast
from tests.test_disk import part, partitions

MIB = 1 << 20
KERNEL = efi_program(release="6.1.0-9-amd64").ljust(3 * MIB, b"k")
LOADER = efi_program().ljust(100_000, b"l")
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


def layout(tmp_path: Path, *, loader: bool = True, initrd: bytes | None = b"initrd", platform: str = "amd64") -> str:
    tar = TarBuilder().file("boot/vmlinuz-6.1.0-9-amd64", KERNEL).file("etc/os-release", b"NAME=x\n")
    if initrd is not None:
        tar.file("boot/initrd.img-6.1.0-9-amd64", initrd)
    if loader:
        tar.file("usr/lib/systemd/boot/efi/systemd-bootx64.efi", LOADER)
    folder = write_layout(tmp_path / "layout", build_image([tar], platform=f"linux/{platform}"))
    return f"oci:{folder}:app"


def make(location: str, disk: Path, *words: str | Path) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(ocifast("compile", location, disk, *words, "--no-cache", "--json"))
    return done


def copied(image: Path, at: Path) -> dict[str, bytes]:
    """The files of a FAT32 that fsck finds nothing wrong with, as mtools copy them."""
    run("fsck.fat", "-n", "-v", image)
    at.mkdir()
    run("mcopy", "-s", "-i", image, "::", at)
    return {path.relative_to(at).as_posix(): path.read_bytes() for path in at.rglob("*") if path.is_file()}


@pytest.mark.tools
def test_a_kernel_with_an_initrd_has_an_entry(tmp_path: Path) -> None:
    done = make(layout(tmp_path), tmp_path / "a.disk", "--esp", "--cmdline", "quiet")
    found = partitions(tmp_path / "a.disk")
    assert [each["name"] for each in found] == ["esp", "root-x86-64", "root-x86-64-verity"]
    assert (found[0]["type"], found[0]["size"] * 512) == (ESP_TYPE, 64 * MIB)
    assert len({each["uuid"] for each in found}) == 3
    words = done["properties"]["cmdline"]
    root_hash = done["properties"]["root_hash"]
    assert words == f"root=/dev/mapper/root roothash={root_hash} rootfstype=erofs ro quiet"
    entry = (
        "title Linux 6.1.0-9-amd64\nversion 6.1.0-9-amd64\nlinux /linux/6.1.0-9-amd64/vmlinuz\n"
        f"initrd /linux/6.1.0-9-amd64/initrd\noptions {words}\n"
    )
    assert copied(part(tmp_path / "a.disk", found[0], tmp_path / "esp"), tmp_path / "files") == {
        "EFI/BOOT/BOOTX64.EFI": LOADER,
        "linux/6.1.0-9-amd64/vmlinuz": KERNEL,
        "linux/6.1.0-9-amd64/initrd": b"initrd",
        "loader/entries/6.1.0-9-amd64.conf": entry.encode(),
    }
    assert done["properties"]["kernel"] == "image:/boot/vmlinuz-6.1.0-9-amd64"
    assert done["properties"]["kernel_version"] == "6.1.0-9-amd64"
    assert done["boot"]["kernel_command_line"] == words
    # The root is what it is without: only its place has changed.
    plain = make(layout(tmp_path / "again"), tmp_path / "b.disk")
    assert plain["properties"]["root_hash"] == root_hash
    assert "kernel" not in plain["properties"]


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["kernel", "uki", "uki and loader"])
def test_what_firmware_finds_without_an_entry(kind: str, tmp_path: Path) -> None:
    (tmp_path / "app.efi").write_bytes(uki())
    location = layout(tmp_path, loader=kind == "uki and loader", initrd=None)
    words: list[str | Path] = ["--esp"] if kind == "kernel" else ["--kernel", tmp_path / "app.efi"]
    words += ["--boot-loader", "image"] if kind == "uki and loader" else []
    done = make(location, tmp_path / "a.disk", *words, "--root-format", "ext4", "--free", "1M", "--esp-size", "40M")
    found = partitions(tmp_path / "a.disk")
    assert found[0]["size"] * 512 == 40 * MIB
    files = copied(part(tmp_path / "a.disk", found[0], tmp_path / "esp"), tmp_path / "files")
    assert (
        files
        == {
            "kernel": {"EFI/BOOT/BOOTX64.EFI": KERNEL},
            "uki": {"EFI/BOOT/BOOTX64.EFI": uki()},
            "uki and loader": {"EFI/BOOT/BOOTX64.EFI": LOADER, "EFI/Linux/6.1.0.efi": uki()},
        }[kind]
    )
    root = found[1]["uuid"].lower()
    assert done["properties"]["cmdline"] == f"root=PARTUUID={root} rootfstype=ext4 rw"


@pytest.mark.tools
def test_the_same_bytes_always(tmp_path: Path) -> None:
    location = layout(tmp_path)
    made = set()
    for number, words in enumerate((["--jobs", "1"], ["--jobs", "5"], ["--tmp-dir", str(tmp_path)])):
        kernel = tmp_path / f"kernel-{number}"
        kernel.write_bytes(KERNEL)
        make(location, tmp_path / "out.disk", "--kernel", kernel, *words)
        made.add((tmp_path / "out.disk").read_bytes())
        os.utime(kernel, (number, number))
    assert len(made) == 1


@pytest.mark.tools
def test_the_cache_knows_a_kernel_by_its_bytes(tmp_path: Path) -> None:
    location, kernel = layout(tmp_path), tmp_path / "vmlinuz"
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}

    def compiled(*words: str) -> tuple[bool, bytes]:
        done = json.loads(
            ocifast("compile", location, tmp_path / "a.disk", "--kernel", kernel, *words, "--json", env=environment)
        )
        return done["from_cache"], (tmp_path / "a.disk").read_bytes()

    kernel.write_bytes(KERNEL)
    first = compiled()
    kernel.write_bytes(KERNEL + b"new")
    second = compiled()
    assert not first[0]
    assert not second[0]
    assert first[1] != second[1]
    kernel.rename(kernel.with_name("other"))
    kernel = kernel.with_name("other")
    assert compiled() == (True, second[1])
    assert not compiled("--cmdline", "quiet")[0]


def extracted(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.tools
def test_what_is_extracted(tmp_path: Path) -> None:
    location, folder = layout(tmp_path), tmp_path / "kernel"
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    plain = make(location, tmp_path / "plain.disk")
    for _ in range(2):
        # The second time the disk is in the cache, and the kernel is not.
        ocifast("compile", location, tmp_path / "a.disk", "--extract-kernel", folder, env=environment)
        words = plain["properties"]["cmdline"].encode() + b"\n"
        assert extracted(folder) == {"vmlinuz": KERNEL, "initrd": b"initrd", "cmdline": words}
        assert (tmp_path / "a.disk").read_bytes() == (tmp_path / "plain.disk").read_bytes()
        (folder / "vmlinuz").unlink()
    # What is of an earlier run goes; what is of others stays.
    (folder / "mine").touch()
    (tmp_path / "app.efi").write_bytes(uki())
    done = make(location, tmp_path / "a.disk", "--extract-kernel", folder, "--kernel", tmp_path / "app.efi", "--esp")
    assert extracted(folder) == {"uki.efi": uki(), "cmdline": words, "mine": b""}
    assert partitions(tmp_path / "a.disk")[0]["name"] == "esp"
    assert done["properties"]["kernel"].startswith("sha256:")


@pytest.mark.tools
def test_the_command_line_that_is_asked_for(tmp_path: Path) -> None:
    words = "root=PARTUUID={partuuid} verity={root_hash}"
    done = make(layout(tmp_path), tmp_path / "a.disk", "--extract-kernel", tmp_path / "k", "--cmdline", words)
    properties = done["properties"]
    root = properties["partition_1"].split()[1]
    assert properties["cmdline"] == f"root=PARTUUID={root} verity={properties['root_hash']}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--esp", "--boot-loader", "none"], "no boot loader gives image:/boot/vmlinuz-6.1.0-9-amd64 its initrd: "),
        (
            ["--esp", "--boot-loader", "none", "--initrd", "none", "--cmdline", "q"],
            "its command line: the image has no ",
        ),
        (["--kernel", "elf"], "elf is no EFI program, which firmware could start: "),
        (["--kernel", "arm.efi"], "arm.efi is for arm64, and the image for amd64; "),
        (
            ["--kernel", "app.efi", "--cmdline", "quiet"],
            "app.efi is a UKI, which has its own initrd and command line; ",
        ),
        (
            ["--esp-size", "34M", "--initrd", "large"],
            "an EFI system partition of 35651584 bytes is too small for what ",
        ),
        (["--kernel", "nowhere"], "nowhere: No such file or directory"),
        (["--extract-kernel", "elf"], "'elf' is a file"),
        (["--extract-kernel", "no/where"], "no/where: there is no folder "),
        (["--no-esp", "--kernel", "image"], "nothing takes a kernel without an EFI system partition; "),
    ],
)
def test_what_is_refused(words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = layout(tmp_path)
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.chdir(files)
    Path("elf").write_bytes(b"\x7fELF\x02\x01" + bytes(12) + (62).to_bytes(2, "little"))
    Path("arm.efi").write_bytes(efi_program("arm64"))
    Path("app.efi").write_bytes(uki())
    with Path("large").open("wb") as file:
        file.truncate(40 * MIB)
    before = sorted(files.iterdir())
    done = try_ocifast("compile", location, "a.disk", *words, "--no-cache")
    assert done.returncode in (1, 2)
    last = done.stderr.decode().splitlines()[-1]
    assert says in last
    assert sorted(files.iterdir()) == before


def volume(path: Path, size: int, files: dict[str, bytes | Path], seconds: int = 1_700_000_000) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        write_fat(file.fileno(), 0, size, files, volume_id=0x12345678, label="ESP", seconds=seconds)
    return path


@pytest.mark.tools
@pytest.mark.parametrize("size", [FAT_MIN, 64 * MIB, 260 * MIB, (260 << 20) + 4096, 9 << 30, 20 << 30, 40 << 30])
def test_volumes_of_all_sizes(size: int, tmp_path: Path) -> None:
    noise = random.Random(3)
    big = tmp_path / "big"
    big.write_bytes(noise.randbytes(3_000_003))
    files: dict[str, bytes | Path] = {"EFI/BOOT/BOOTX64.EFI": big, "empty": b"", "one": b"1", "block": b"b" * 4096}
    files |= {"a/thirteenchars": b"13", "a/twelve.chars": b"12", "a/b/c/d.efi": b"deep", "UPPER.TXT": b"plain"}
    files |= {f"many/a-long-name-of-a-file-{number}.conf": str(number).encode() for number in range(300)}
    image = volume(tmp_path / "fat", size, files)
    assert image.stat().st_blocks * 512 < 24 * MIB
    assert copied(image, tmp_path / "files") == {
        path: content.read_bytes() if isinstance(content, Path) else content for path, content in files.items()
    }
    assert b"32" in run("minfo", "-i", image, "::").partition(b"disk type=")[2].splitlines()[0]
    assert b"2023-11-14  22:13" in run("mdir", "-i", image, "::/empty")
    assert b"1234-5678" in run("mdir", "-i", image)


@pytest.mark.tools
def test_a_volume_that_is_just_large_enough(tmp_path: Path) -> None:
    files: dict[str, bytes | Path] = {"a": b"a" * (50 << 20), "b": b"b"}
    size = fat_size(files, spare=0.0)
    run("fsck.fat", "-n", volume(tmp_path / "fat", size, files))
    with pytest.raises(OutputUnsupportedError, match=f"; {size} bytes are enough"):
        volume(tmp_path / "small", size - MIB, files)
    assert fat_size(files) > 100 << 20
    assert fat_size({}) == FAT_MIN


@pytest.mark.parametrize(("seconds", "shown"), [(0, b"1980-01-01"), (1 << 40, b"2107-12-31")])
@pytest.mark.tools
def test_times_that_fat_does_not_have(seconds: int, shown: bytes, tmp_path: Path) -> None:
    image = volume(tmp_path / "fat", FAT_MIN, {"a": b"a"}, seconds)
    assert shown in run("mdir", "-i", image, "::/a")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 32)
    with pytest.raises(OutputUnsupportedError, match="a file of 4294967296 bytes is too large for FAT32"):
        fat_size({"large": tmp_path / "large"})

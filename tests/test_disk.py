"""Disk images: the table, what stands in the partitions, and a boot from one."""

from __future__ import annotations

import json
import os
import random
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from ocifast.packers.gpt import ROOT_TYPES

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.machine import Kernel, boot, disk_initramfs, shell_image
from tests.support.oracle import dump_mounted
from tests.support.pack import pack
from tests.support.run import attempt, ocifast, run, try_ocifast

pytestmark = [pytest.mark.root, pytest.mark.tools]

MIB = 1 << 20


@pytest.fixture
def location(tmp_path: Path) -> str:
    noise = random.Random(3)
    tar = (
        TarBuilder().directory("d", mtime=5).file("d/a", noise.randbytes(900_000), mtime=6).symlink("c", "d/a", mtime=7)
    )
    built = build_image([tar.file("e", b"e" * 5000, uid=1000, mtime=8)])
    return f"oci:{write_layout(tmp_path / 'layout', built)}:app"


def partitions(disk: Path) -> list[dict[str, Any]]:
    """The table, as sfdisk reads it, once it finds nothing wrong with it."""
    assert b"No errors detected" in run("sfdisk", "--verify", disk)
    found: list[dict[str, Any]] = json.loads(run("sfdisk", "--json", disk))["partitiontable"]["partitions"]
    return found


def part(disk: Path, partition: dict[str, Any], to: Path) -> Path:
    with disk.open("rb") as file:
        file.seek(partition["start"] * 512)
        to.write_bytes(file.read(partition["size"] * 512))
    return to


@pytest.mark.parametrize("root", ["erofs", "squashfs", "ext4"])
@pytest.mark.parametrize("suffix", ["disk", "raw"])
def test_root_and_its_tree(root: str, suffix: str, location: str, tmp_path: Path) -> None:
    disk, plain = tmp_path / f"out.{suffix}", tmp_path / f"plain.{root}"
    words = [] if root == "erofs" else ["--root-format", root]
    words += ["--free", "8M"] if root == "ext4" else []
    made = json.loads(ocifast("compile", location, disk, *words, "--no-cache", "--json"))
    ocifast("compile", location, plain, *(words[2:] if root == "ext4" else []), "--no-cache")
    found = partitions(disk)
    assert made["size"] == disk.stat().st_size
    assert disk.stat().st_size % MIB == 0
    assert all(each["start"] * 512 % MIB == 0 for each in found)
    image = part(disk, found[0], tmp_path / "root")
    assert image.read_bytes() == plain.read_bytes()
    assert dump_mounted(image, root, tmp_path / "mnt") == dump_mounted(plain, root, tmp_path / "mnt")
    assert found[0]["type"].lower() == ROOT_TYPES["amd64"].root
    assert found[0]["name"] == "root-x86-64"
    if root == "ext4":
        assert len(found) == 1
        assert "attrs" not in found[0]
        run("e2fsck", "-fn", image)
        return
    assert [each["attrs"] for each in found] == ["GUID:60", "GUID:60"]
    assert found[1]["type"].lower() == ROOT_TYPES["amd64"].verity
    tree = part(disk, found[1], tmp_path / "tree")
    root_hash = made["properties"]["root_hash"]
    run("veritysetup", "verify", image, tree, root_hash)
    # The partitions are found by the root hash.
    identities = [uuid.UUID(each["uuid"]).hex for each in found]
    assert "".join(identities) == root_hash
    assert made["properties"]["partition_1"].split() == [
        "root-x86-64",
        str(uuid.UUID(found[0]["uuid"])),
        str(found[0]["start"] * 512),
        str(found[0]["size"] * 512),
    ]
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(data)
    assert attempt("veritysetup", "verify", image, tree, root_hash).returncode != 0


def test_types_are_those_of_the_specification() -> None:
    known = run("systemd-id128", "show").decode()
    for types in ROOT_TYPES.values():
        for name, kind in {types.name: types.root, f"{types.name}-verity": types.verity}.items():
            listed = re.search(rf"^root-{name}\s+([0-9a-f]+)", known, re.MULTILINE)
            assert listed is not None, name
            assert uuid.UUID(listed[1]) == uuid.UUID(kind), name


def test_the_second_table_is_where_the_first_one_was_lost(location: str, tmp_path: Path) -> None:
    disk = tmp_path / "out.disk"
    ocifast("compile", location, disk, "--no-cache")
    before = partitions(disk)
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(bytes(33 * 512))
    done = attempt("sfdisk", "--json", disk)
    assert b"the backup appears OK" in done.stderr
    assert json.loads(done.stdout)["partitiontable"]["partitions"] == before


def test_systemd_finds_what_the_table_says(location: str, tmp_path: Path) -> None:
    disk, definitions = tmp_path / "out.disk", tmp_path / "definitions"
    ocifast("compile", location, disk, "--data-size", "16M", "--no-cache")
    expected = [(each["name"], each["uuid"].lower(), each["start"] * 512) for each in partitions(disk)]
    # The root hash names both partitions.
    dissected = json.loads(run("systemd-dissect", "--json=short", disk))["mounts"]
    assert [(each["designator"], each["fstype"], each["architecture"]) for each in dissected] == [
        ("root", "erofs", "x86-64"),
        ("root-verity", "DM_verity_hash", "x86-64"),
    ]
    assert [(each["partition_label"], each["partition_uuid"]) for each in dissected] == [
        (name, known) for name, known, _ in expected[:2]
    ]
    # What is defined is taken for what is there, and not for something to make.
    definitions.mkdir()
    for number, kind in enumerate(["root-x86-64", "root-x86-64-verity", "linux-generic"]):
        (definitions / f"{number}.conf").write_text(f"[Partition]\nType={kind}\nSizeMinBytes=4096\n")
    words = ["--dry-run=yes", "--empty=refuse", "--json=short", f"--definitions={definitions}"]
    planned = json.loads(run("systemd-repart", *words, disk))
    assert [(each["label"], each["uuid"], each["offset"]) for each in planned] == expected
    assert all(each["activity"] in ("unchanged", "resize") for each in planned)


def test_room_for_data_and_large_alignment(location: str, tmp_path: Path) -> None:
    disk = tmp_path / "out.disk"
    made = ocifast("compile", location, disk, "--data-size", "64M", "--align", "2M", "--no-cache", "--json")
    found = partitions(disk)
    assert all(each["start"] * 512 % (2 * MIB) == 0 for each in found)
    assert disk.stat().st_size % (2 * MIB) == 0
    assert (found[2]["name"], found[2]["size"] * 512) == ("data", 64 * MIB)
    data = part(disk, found[2], tmp_path / "data")
    run("e2fsck", "-fn", data)
    assert b"has_journal" in run("dumpe2fs", "-h", data)
    # Holes of the parts are holes of the disk.
    assert disk.stat().st_blocks * 512 < 12 * MIB
    assert json.loads(made)["data_size"] < 12 * MIB
    ocifast("compile", location, tmp_path / "a.erofs", "--align", "2M", "--no-cache")
    ocifast("compile", location, tmp_path / "b.erofs", "--no-cache")
    assert (tmp_path / "a.erofs").stat().st_size == 2 * MIB
    plain = (tmp_path / "b.erofs").read_bytes()
    assert (tmp_path / "a.erofs").read_bytes() == plain.ljust(2 * MIB, b"\0")


def test_the_same_bytes_always(location: str, tmp_path: Path) -> None:
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    made = set()
    for words in (["--jobs", "1"], ["--jobs", "5", "--no-cache"], [], ["--no-cache", "--tmp-dir", str(tmp_path)]):
        ocifast("compile", location, tmp_path / "out.disk", "--data-size", "16M", *words, env=environment)
        made.add((tmp_path / "out.disk").read_bytes())
    assert len(made) == 1


def test_machines_without_a_type_of_their_own(tmp_path: Path) -> None:
    tar = TarBuilder().file("a", b"a")
    for architecture, name in {"arm64": "root-arm64", "sparc64": "root"}.items():
        built = build_image([tar], platform=f"linux/{architecture}")
        layout = write_layout(tmp_path / architecture, built)
        ocifast(
            "compile", f"oci:{layout}:app", tmp_path / "out.disk", "--no-cache", "--platform", f"linux/{architecture}"
        )
        found = partitions(tmp_path / "out.disk")
        assert [each["name"] for each in found] == [name, f"{name}-verity"]
        assert found[0]["type"].lower() == getattr(
            ROOT_TYPES.get(architecture), "root", "0fc63daf-8483-4772-8e79-3d69d8477de4"
        )


def test_what_is_refused(location: str, tmp_path: Path) -> None:
    for words, says in [
        (["--root-format", "tar"], "the root of a disk is erofs, squashfs or ext4, not 'tar'"),
        (["--align", "3M"], "an alignment is a power of two from 4096 bytes to 1 GiB, not 3145728"),
        (["--data-size", "1M"], "a data partition has 16777216 bytes at least, in blocks of 4096, not 1048576"),
        (["--free", "8M"], "only an ext4 root has free space"),
        (["--compression", "gzip"], "erofs has no compression 'gzip'"),
        (["--root-format", "ext4", "--compression", "zstd"], "an ext4 root has no compression"),
        (["--verity"], "the seal verity is not for disk"),
    ]:
        done = try_ocifast("compile", location, tmp_path / "out.disk", *words, "--no-cache")
        assert done.returncode in (1, 2), words
        assert says in done.stderr.decode(), (words, done.stderr)
        assert done.stderr.count(b"\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_kernel_boots_from_it(damaged: bool, kernel: Kernel, tmp_path: Path) -> None:
    """Debian's kernel opens the verity device of the disk by the root hash of its command line."""
    script = 'read -r line < /motd && echo "motd: $line"\n'
    tar = shell_image(script).file("motd", b"hello, sealed\n" + b"x" * 5000)
    layout = write_layout(tmp_path / "layout", build_image([tar]))
    disk = tmp_path / "out.disk"
    made = json.loads(ocifast("compile", f"oci:{layout}:app", disk, "--no-cache", "--json"))
    if damaged:
        data = disk.read_bytes()
        assert data.count(b"hello, sealed") == 1
        disk.write_bytes(data.replace(b"hello, sealed", b"hello, forged"))
    initramfs = disk_initramfs(kernel, "erofs", "ro", device="/dev/vda1", verity="/dev/vda2")
    initrd = pack([initramfs], tmp_path / "initrd", "cpio").path
    console = boot(kernel, initrd, f"roothash={made['properties']['root_hash']}", disk=disk)
    assert ("motd: hello, sealed\n" in console) is not damaged, console[-3000:]
    if damaged:
        assert "is corrupted" in console
        assert "forged" not in console
    else:
        assert "/dev/dm-0 /root erofs ro" in console


def test_nothing_is_left_where_there_is_no_folder(location: str, tmp_path: Path) -> None:
    """A disk that cannot be written is refused before the work."""
    done = try_ocifast("compile", location, tmp_path / "nowhere/out.disk", "--no-cache")
    assert done.returncode == 1
    assert os.listdir(tmp_path) == ["layout"]  # noqa: PTH208

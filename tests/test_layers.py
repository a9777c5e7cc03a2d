"""Layered images: one image of metadata, whose data stand in the images of its layers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import ocifast as library
import pytest
from ocifast import CompileOptions, Edits
from ocifast.cache import Cache
from ocifast.errors import UsageError

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_mounted, dump_umoci, mounted, mounted_layers
from tests.support.run import COMMAND, ocifast, run, try_ocifast
from tests.support.samples import everything

pytestmark = [pytest.mark.root, pytest.mark.tools]

SECRET = b"the secret that was left out "


def dump_layered(out: Path, folder: Path) -> str:
    with mounted_layers(out, folder) as root:
        return dump_directory(root)


def files(out: Path) -> dict[str, int]:
    """The files of a folder of layers, with their inodes."""
    found = (path for path in out.rglob("*") if path.is_file() and path.name != "layers.lock")
    return {path.relative_to(out).as_posix(): path.stat().st_ino for path in found}


def base() -> TarBuilder:
    """A layer of files of many sizes, links, holes and attributes."""
    noise = random.Random(3)
    tar = TarBuilder().directory("./", mode=0o751, mtime=50).directory("d", mode=0o750, uid=7, gid=8, mtime=60)
    for size in (0, 1, 4095, 4096, 4097, 70_000, 3_000_000):
        tar.file(f"d/{size}", noise.randbytes(size), mtime=70, uid=1000, gid=1001)
    tar.hard_link("d/again", "d/4097").symlink("link", "d/4096", mtime=74).fifo("pipe", mtime=5)
    tar.file("gone", SECRET * 500, mtime=6).file("replaced", b"old" * 5000, mtime=6).device("null", "char", 1, 3)
    tar.pax({"SCHILY.xattr.user.note": "v" * 100}).file("noted", b"n" * 20, mtime=7)
    return tar.file("holes", b"begin" + bytes(5_000_000) + b"end", mtime=8)


def upper(number: int = 0) -> TarBuilder:
    tar = TarBuilder().whiteout("gone").file("replaced", b"new" * 9000, mode=0o4755, mtime=9)
    return tar.file("late", random.Random(number).randbytes(300_000), mtime=11).file("d/4095", b"shorter", mtime=12)


def write(folder: Path, *layers: TarBuilder) -> str:
    return f"oci:{write_layout(folder, build_image(list(layers)))}:app"


@pytest.fixture
def location(tmp_path: Path) -> str:
    return write(tmp_path / "layout", base(), upper())


def test_all_ways_to_mount_show_what_umoci_unpacks(location: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ocifast("compile", location, f"{out}/", "-f", "layers", "--no-cache")
    expected = dump_umoci(tmp_path / "layout", tmp_path / "bundle")
    assert dump_layered(out, tmp_path / "mnt") == expected
    # The disk of image.vmdk, as a virtual machine sees it.
    run("qemu-img", "convert", "-O", "raw", out / "image.vmdk", tmp_path / "disk")
    assert dump_mounted(tmp_path / "disk", "erofs", tmp_path / "mnt") == expected
    # The same disk as device-mapper makes it of image.table.
    with (tmp_path / "linear").open("wb") as disk:
        for line in (out / "image.table").read_text().splitlines():
            begin, length, kind, name, offset = line.split(" ")
            assert (int(begin) * 512, kind, offset) == (disk.tell(), "linear", "0")
            disk.write((out / name).read_bytes()[: int(length) * 512].ljust(int(length) * 512, b"\0"))
    assert (tmp_path / "linear").read_bytes() == (tmp_path / "disk").read_bytes()
    # What image.json says, with loop devices.
    described = json.loads((out / "image.json").read_text())
    (tmp_path / "mnt").mkdir()
    subprocess.run(described["mount"].replace("MOUNTPOINT", f"{tmp_path}/mnt"), shell=True, check=True, cwd=out)
    try:
        assert dump_directory(tmp_path / "mnt") == expected
    finally:
        run("umount", tmp_path / "mnt")
        for device in described["devices"]:
            for loop in run("losetup", "-j", out / device["path"]).decode().splitlines():
                run("losetup", "-d", loop.partition(":")[0])
        (tmp_path / "mnt").rmdir()
    # One file that mounts alone.
    ocifast("compile", location, tmp_path / "single", "-f", "layers", "--single", "--no-cache")
    assert dump_mounted(tmp_path / "single/image.erofs", "erofs", tmp_path / "mnt") == expected
    assert sorted(path.name for path in (tmp_path / "single").iterdir()) == ["image.erofs", "image.json", "layers"]
    run("fsck.erofs", tmp_path / "single/image.erofs")
    words = [f"--device={out}/{device['path']}" for device in described["devices"]]
    run("fsck.erofs", *words, f"--extract={tmp_path}/extracted", out / "image.erofs")
    assert (tmp_path / "extracted/late").read_bytes() == random.Random(0).randbytes(300_000)


def test_everything_that_a_layer_can_hold(tmp_path: Path) -> None:
    location = write(tmp_path / "layout", base(), everything(), upper())
    ocifast("compile", location, tmp_path / "out", "-f", "layers", "--no-cache")
    ocifast("compile", location, tmp_path / "flat.erofs", "--no-cache")
    assert dump_layered(tmp_path / "out", tmp_path / "mnt") == dump_mounted(
        tmp_path / "flat.erofs", "erofs", tmp_path / "mnt"
    )


def test_what_is_said_of_it(location: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = json.loads(ocifast("compile", location, out, "-f", "layers", "--tree-digest", "--no-cache", "--json"))
    described = json.loads((out / "image.json").read_text())
    assert {name: made[name] for name in ("reference", "digest", "platform", "boot", "tree_digest")} == {
        name: described[name] for name in ("reference", "digest", "platform", "boot", "tree_digest")
    }
    assert made["tree_digest"]
    with library.open(location) as image:
        diff_ids = image.diff_ids
    assert [device["diff_id"] for device in described["devices"]] == list(diff_ids)
    assert described["size"] == (out / "image.erofs").stat().st_size == int(made["properties"]["metadata_bytes"])
    block = described["size"] // 4096
    for device in described["devices"]:
        assert (device["first_block"], device["digest"]) == (block, None)
        assert 0 <= (out / device["path"]).stat().st_size - device["size"] < 1 << 20
        block += device["size"] // 4096
        # Each layer is an image of its own as well.
        with mounted(out / device["path"], "erofs", tmp_path / "mnt") as root:
            assert (root / "late").exists() or (root / "holes").exists()


def test_several_images_stand_in_one_folder_by_name(location: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = f"oci:{write_layout(tmp_path / 'other', build_image([base(), upper(5)]))}:app"
    expected = {}
    for name, source in (("app", location), ("other", other), ("app.2", location)):
        ocifast("compile", source, out, "-f", "layers", "--name", name, "--no-cache")
        ocifast("compile", source, tmp_path / f"{name}.erofs", "--no-cache")
        expected[name] = dump_mounted(tmp_path / f"{name}.erofs", "erofs", tmp_path / "mnt")
    assert expected["app"] != expected["other"]
    suffixes = ("erofs", "json", "table", "vmdk")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["layers", *(f"{name}.{suffix}" for name in expected for suffix in suffixes)]
    )
    assert len(list(out.glob("layers/*/*/*.entries"))) == 3
    for name, tree in expected.items():
        described = json.loads((out / f"{name}.json").read_text())
        assert described["image"] == f"{name}.erofs"
        assert described["mount"].endswith(f" {name}.erofs MOUNTPOINT")
        assert (out / f"{name}.table").read_text().splitlines()[0].endswith(f" linear {name}.erofs 0")
        assert f'FLAT "{name}.erofs" 0' in (out / f"{name}.vmdk").read_text()
        with mounted_layers(out, tmp_path / "mnt", name=name) as root:
            assert dump_directory(root) == tree
    refused = try_ocifast("compile", location, out, "-f", "layers", "--name", "../up", "--no-cache")
    assert b"is no name for an image's files" in refused.stderr


def test_images_share_their_layers(location: str, tmp_path: Path) -> None:
    """The second image reads no blob of a layer that is there, and leaves its files alone."""
    out = tmp_path / "out"
    ocifast("compile", location, out, "-f", "layers", "--no-cache")
    before = files(out)
    other = build_image([base(), upper(5)])
    layout = write_layout(tmp_path / "other", other)
    shared = other.layers[0].digest.partition(":")[2]
    (layout / "blobs/sha256" / shared).unlink()
    ocifast("compile", f"oci:{layout}:app", out, "-f", "layers", "--no-cache")
    after = files(out)
    assert {name: inode for name, inode in after.items() if before.get(name) == inode} == {
        name: inode for name, inode in before.items() if name.startswith("layers/")
    }
    assert len([name for name in after if name.endswith(".entries")]) == 3
    with mounted_layers(out, tmp_path / "mnt") as root:
        assert (root / "late").read_bytes() == random.Random(5).randbytes(300_000)


def test_same_bytes_whatever_was_there(location: str, tmp_path: Path) -> None:
    """Any number of threads, layers from blobs, from the folder and from the cache, one layer or all of them."""
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    seen = set()
    for out, threads, words in [
        ("one", "1", ["--no-cache"]),
        ("two", "2", ["--keep-layers"]),
        ("two", "5", []),
        ("three", "5", ["--keep-layers"]),
    ]:
        ocifast("compile", location, tmp_path / out, "-f", "layers", "--jobs", threads, *words, env=environment)
        paths = [*sorted(tmp_path.glob(f"{out}/layers/*/*/*.erofs")), *sorted(tmp_path.glob(f"{out}/image.[etv]*"))]
        assert len(paths) == 5
        seen.add(tuple((path.name, path.read_bytes()) for path in paths))
    assert len(seen) == 1
    single = set()
    for out, words in [("one", ["--no-cache"]), ("four", ["--no-cache"]), ("five", [])]:
        ocifast("compile", location, tmp_path / out, "-f", "layers", "--single", *words, env=environment)
        single.add((tmp_path / out / "image.erofs").read_bytes())
    assert len(single) == 1


def test_layers_come_from_the_cache_and_go_there(location: str, tmp_path: Path) -> None:
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    ocifast("compile", location, tmp_path / "a.tar", "--keep-layers", env=environment)
    for blob in (tmp_path / "layout/blobs/sha256").iterdir():
        if blob.stat().st_size > 10_000:
            blob.unlink()
    ocifast("compile", location, tmp_path / "out", "-f", "layers", env=environment)
    kept = Cache(tmp_path / "cache").folder
    names = sorted(path.relative_to(kept) for path in kept.glob("layers/*/*/*"))
    assert names == sorted(path.relative_to(tmp_path / "out") for path in tmp_path.glob("out/layers/*/*/*"))
    for name in names:
        assert (kept / name).stat().st_ino != (tmp_path / "out" / name).stat().st_ino
        assert (kept / name).stat().st_nlink == 1
    # The other way round: what is decoded for the folder is kept, when that is wanted.
    location = write(tmp_path / "again", base(), upper(7))
    ocifast("compile", location, tmp_path / "out", "-f", "layers", env=environment)
    assert len(list(kept.glob("layers/*/*/*.entries"))) == 2
    location = write(tmp_path / "more", base(), upper(8))
    ocifast("compile", location, tmp_path / "out", "-f", "layers", "--keep-layers", env=environment)
    assert len(list(kept.glob("layers/*/*/*.entries"))) == 3
    (tmp_path / "more/blobs").rename(tmp_path / "nothing")
    (tmp_path / "more/blobs/sha256").mkdir(parents=True)
    for blob in (tmp_path / "nothing/sha256").iterdir():
        if blob.stat().st_size < 10_000:
            blob.rename(tmp_path / "more/blobs/sha256" / blob.name)
    ocifast("compile", location, tmp_path / "b.tar", env=environment)


@pytest.mark.parametrize("words", [["--exclude", "d/3*", "--exclude", "gone"], ["--subtree", "d", "--exclude", "3*"]])
def test_what_was_left_out_is_in_no_file(location: str, tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "out"
    ocifast("compile", location, out, "-f", "layers", "--no-cache")
    whole = files(out)
    second = tmp_path / "second"
    ocifast("compile", location, second, "-f", "layers", "--no-cache", *words)
    described = json.loads((second / "image.json").read_text())
    private = [device for device in described["devices"] if device["digest"] is not None]
    # The upper layer has nothing that was left out, but by --subtree.
    assert [device["diff_id"] for device in private] == [
        device["diff_id"] for device in described["devices"][: 2 if words[0] == "--subtree" else 1]
    ]
    for device in private:
        digest = device["digest"].partition(":")[2]
        assert device["path"] == f"layers/private/{digest}.data"
        assert run("sha256sum", second / device["path"]).split()[0].decode() == digest
    for path in [second / "image.erofs", *(second / device["path"] for device in described["devices"])]:
        data = path.read_bytes()
        assert SECRET not in data
        assert b"3000000" not in data
    ocifast("compile", location, tmp_path / "expected", "--no-cache", *words)
    assert dump_layered(second, tmp_path / "mnt") == dump_directory(tmp_path / "expected")
    # In a folder where the layers are, they stay; who takes the devices of this image has the private one.
    ocifast("compile", location, out, "-f", "layers", "--no-cache", *words)
    assert whole.items() - files(out).items() == {(name, whole[name]) for name in whole if "/" not in name}
    run("qemu-img", "convert", "-O", "raw", second / "image.vmdk", tmp_path / "disk")
    assert SECRET not in (tmp_path / "disk").read_bytes()
    ocifast("compile", location, tmp_path / "single", "-f", "layers", "--single", "--no-cache", *words)
    assert SECRET not in (tmp_path / "single/image.erofs").read_bytes()


def test_what_is_added_is_a_layer_of_its_own(location: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ocifast("compile", location, out, "-f", "layers", "--no-cache")
    before = files(out)
    (tmp_path / "agent").write_bytes(b"agent" * 5000)
    (tmp_path / "layer.tar").write_bytes(TarBuilder().file("brought", b"b" * 6000).whiteout("late").build())
    words = ["--add", f"{tmp_path}/agent:/sbin/agent:mode=0755", "--layer", f"{tmp_path}/layer.tar"]
    ocifast("compile", location, out, "-f", "layers", "--no-cache", *words, env={"SOURCE_DATE_EPOCH": "5"})
    described = json.loads((out / "image.json").read_text())
    assert len(described["devices"]) == 4
    assert {name: inode for name, inode in before.items() if "/" in name}.items() <= files(out).items()
    with mounted_layers(out, tmp_path / "mnt") as root:
        assert (root / "sbin/agent").read_bytes() == b"agent" * 5000
        assert (root / "brought").read_bytes() == b"b" * 6000
        assert not (root / "late").exists()


def test_a_layer_that_is_there_twice_is_one_device(tmp_path: Path) -> None:
    location = write(tmp_path / "layout", base(), upper(), base())
    ocifast("compile", location, tmp_path / "out", "-f", "layers", "--no-cache")
    described = json.loads((tmp_path / "out/image.json").read_text())
    assert len(described["devices"]) == 2
    assert dump_layered(tmp_path / "out", tmp_path / "mnt") == dump_umoci(tmp_path / "layout", tmp_path / "bundle")


def test_many_devices_and_an_image_without_any(tmp_path: Path) -> None:
    layers = [TarBuilder().file(f"f{number}", b"%d" % number * 3000, mtime=5) for number in range(100)]
    location = write(tmp_path / "layout", *layers)
    ocifast("compile", location, tmp_path / "out", "-f", "layers", "--no-cache")
    run("qemu-img", "convert", "-O", "raw", tmp_path / "out/image.vmdk", tmp_path / "disk")
    expected = "".join(f"{number}" * 3000 for number in range(100))
    with mounted(tmp_path / "disk", "erofs", tmp_path / "mnt") as root:
        assert "".join((root / f"f{number}").read_text() for number in range(100)) == expected
    location = write(tmp_path / "empty", TarBuilder().directory("d").symlink("l", "d"))
    ocifast("compile", location, tmp_path / "nothing", "-f", "layers", "--no-cache")
    assert json.loads((tmp_path / "nothing/image.json").read_text())["devices"] == []
    assert dump_layered(tmp_path / "nothing", tmp_path / "mnt") == dump_umoci(tmp_path / "empty", tmp_path / "bundle")
    location = write(tmp_path / "many", *[TarBuilder().file(f"f{number}", b"x") for number in range(129)])
    done = try_ocifast("compile", location, tmp_path / "many-out", "-f", "layers", "--no-cache")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"an image of 129 layers, of which 128 at most can be devices" in done.stderr
    assert not (tmp_path / "many-out").exists()


@pytest.mark.parametrize("damage", ["short", "changed", "gone", "table"])
def test_damaged_layers_are_decoded_again(location: str, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    ocifast("compile", location, out, "-f", "layers", "--no-cache")
    expected = dump_layered(out, tmp_path / "mnt")
    for path in out.glob("layers/*/*/*.entries" if damage == "table" else "layers/*/*/*.erofs"):
        path.chmod(0o600)
        if damage == "gone":
            path.unlink()
        elif damage == "short":
            os.truncate(path, 8192)
        else:
            data = path.read_bytes()
            at = len(data) // 2
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    ocifast("compile", location, out, "-f", "layers", "--no-cache")
    assert dump_layered(out, tmp_path / "mnt") == expected


def test_places_that_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "open/layers").mkdir(parents=True)
    (tmp_path / "open/layers").chmod(0o777)
    (tmp_path / "theirs/layers").mkdir(parents=True)
    os.chown(tmp_path / "theirs/layers", 1, 1)
    (tmp_path / "led").mkdir()
    (tmp_path / "led/layers").symlink_to(tmp_path / "full")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    for place, says in {
        "full": "full is there and holds something else; name another directory, or empty it",
        "file": "file is there and is no directory",
        "open": "open/layers is not yours alone",
        "theirs": "theirs/layers is not yours alone",
        "led": "led/layers is not yours alone",
        "nowhere/out": "nowhere/out: there is no folder",
    }.items():
        done = try_ocifast("compile", location, tmp_path / place, "-f", "layers", "--no-cache")
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), place
        assert says in done.stderr.decode()
    for words, says in [
        (["-"], "layers cannot be written to standard output"),
        ([f"{tmp_path}/a", f"{tmp_path}/b"], "an image of layers is written alone"),
        ([f"{tmp_path}/a", "--compression", "zstd"], "layers has no option --compression"),
        ([f"{tmp_path}/a", "--verity"], "the seal verity is not for layers"),
        ([f"{tmp_path}/a.erofs"], "a.erofs"),
    ]:
        done = try_ocifast("compile", location, *words, "-f", "layers", "--no-cache")
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1), words
        assert says in done.stderr.decode()
    done = try_ocifast("compile", location, tmp_path / "a.erofs", "--single", "--no-cache")
    assert b"erofs has no option --single" in done.stderr
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with (
        library.open(location) as image,
        image.flatten() as rootfs,
        pytest.raises(UsageError, match="while an image is"),
    ):
        rootfs.write(tmp_path / "out", "layers")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    broken = build_image([base(), upper()])
    layout = write_layout(tmp_path / "layout", broken)
    blob = layout / "blobs/sha256" / broken.layers[1].digest.partition(":")[2]
    blob.write_bytes(blob.read_bytes()[:-200] + bytes(200))
    done = try_ocifast("compile", f"oci:{layout}:app", tmp_path / "out", "-f", "layers", "--no-cache")
    assert done.returncode == 1
    assert not (tmp_path / "out").exists()
    good = write(tmp_path / "good", base(), upper(3))
    ocifast("compile", good, tmp_path / "out", "-f", "layers", "--no-cache")
    before = files(tmp_path / "out")
    assert try_ocifast("compile", f"oci:{layout}:app", tmp_path / "out", "-f", "layers").returncode == 1
    assert files(tmp_path / "out") == before


def test_several_at_once_share_one_folder(tmp_path: Path) -> None:
    locations = [write(tmp_path / f"layout-{number}", base(), upper(number % 2)) for number in range(4)]
    out = tmp_path / "out"
    words = [[str(COMMAND), "compile", location, str(out), "-f", "layers", "--no-cache"] for location in locations]
    running = [subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for each in words]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert len(list(out.glob("layers/*/*/*.entries"))) == 3
    described = json.loads((out / "image.json").read_text())
    with mounted_layers(out, tmp_path / "mnt") as root:
        assert (root / "late").read_bytes() in {random.Random(number).randbytes(300_000) for number in range(2)}
    assert described["size"] == (out / "image.erofs").stat().st_size


@pytest.mark.slow
def test_killed_at_any_moment(location: str, tmp_path: Path) -> None:
    """What a killed run has left is whole, or is made anew by the next one; nothing private stays."""
    out = tmp_path / "out"
    moments = random.Random(os.environ.get("OCIFAST_TEST_SEED", "5"))
    command = [str(COMMAND), "compile", location, str(out), "-f", "layers", "--no-cache"]
    begun = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.monotonic() - begun
    expected = dump_layered(out, tmp_path / "mnt")
    for _ in range(12):
        run("rm", "-rf", out)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(seconds / 4, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(command, check=True, capture_output=True)
        assert dump_layered(out, tmp_path / "mnt") == expected
        assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
        assert [path.name for path in (out / "layers").iterdir() if path.name.startswith(".")] == []


def test_the_library_writes_them(location: str, tmp_path: Path) -> None:
    options = CompileOptions(cache=False, pack=library.PackOptions(single=True))
    edits = Edits(exclude=["d"])
    done = library.compile(location, tmp_path / "out", format="layers", options=options, edits=edits)
    assert (done.format, done.backend, done.path, done.size) == ("layers", "layers", tmp_path / "out", None)
    with mounted(tmp_path / "out/image.erofs", "erofs", tmp_path / "mnt") as root:
        assert not (root / "d").exists()
        assert (root / "late").stat().st_size == 300_000

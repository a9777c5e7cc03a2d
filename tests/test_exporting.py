"""Layers for containerd: its layout, its sidecars, whole files or none, and what is there stays as it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ocifast import aio, export_layers
from ocifast.cache import Cache
from ocifast.errors import CancelledError, FileError, OutputUnsupportedError, UsageError

from tests.support.images import BuiltImage, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_umoci, mounted
from tests.support.run import COMMAND, Argument, attempt, ocifast, run, try_ocifast


def noise(seed: int, length: int) -> bytes:
    return b"".join(seed.to_bytes(4, "big") + number.to_bytes(4, "big") for number in range(length // 8))


def layers() -> list[TarBuilder]:
    base = TarBuilder().directory("etc/").file("etc/os-release", b"ID=test\n").directory("usr/")
    base.file("usr/large", noise(1, 900_000)).hard_link("usr/hard", "usr/large").symlink("lib", "usr")
    base.directory("gone/").file("gone/file", noise(2, 5000))
    top = TarBuilder().directory("etc/").opaque("etc/").file("etc/passwd", b"root\n").whiteout("gone")
    return [base, top.directory("usr/").file("usr/more", noise(3, 70_000))]


@pytest.fixture
def image() -> BuiltImage:
    return build_image(layers())


@pytest.fixture
def location(image: BuiltImage, tmp_path: Path) -> str:
    return f"oci:{write_layout(tmp_path / 'layout', image)}:app"


def diff_ids(image: BuiltImage) -> list[str]:
    return [layer.diff_id for layer in image.layers]


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected_names(image: BuiltImage, *, verity: bool) -> list[str]:
    names = [f"sha256/{diff_id[7:9]}/{diff_id[7:]}.erofs" for diff_id in diff_ids(image)]
    return sorted(names + [f"{name}.dmverity" for name in names if verity])


def begin(location: str, folder: Path) -> subprocess.Popen[bytes]:
    """Starts an export to `out` in a folder, with a cache of its own there."""
    words: list[Argument] = [
        COMMAND,
        "cache",
        "export",
        "--containerd",
        folder / "out",
        "--verity",
        location,
        "--quiet",
    ]
    environment = os.environ | {"OCIFAST_CACHE_DIR": str(folder / "cache")}
    return subprocess.Popen([str(word) for word in words], env=environment)


@pytest.mark.parametrize("verity", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_files_are_where_containerd_looks(
    image: BuiltImage, location: str, tmp_path: Path, *, verity: bool, kept: bool
) -> None:
    folder = tmp_path / "out"
    cache = Cache(tmp_path / "cache") if kept else None
    made = export_layers([location, location], folder, verity=verity, cache=cache)
    found = content(folder)
    assert sorted(found) == expected_names(image, verity=verity)
    assert [layer.diff_id for layer in made] == diff_ids(image)
    assert not any(layer.existed for layer in made)
    for layer in made:
        assert (layer.size, layer.path.stat().st_mode & 0o7777) == (layer.path.stat().st_size, 0o444)
        assert layer.path.stat().st_nlink == 1
        if verity:
            said = json.loads(found[f"{layer.path.relative_to(folder)}.dmverity"])
            assert said == {"roothash": layer.root_hash, "hashoffset": layer.hash_offset}
        else:
            assert (layer.root_hash, layer.hash_offset) == (None, None)
    if cache is not None:
        plain = {path.name: path.read_bytes() for path in cache.folder.glob("layers/*/*/*.erofs")}
        assert sorted(plain) == sorted(layer.path.name for layer in made)
        for layer in made:
            assert layer.path.read_bytes()[: layer.hash_offset] == plain[layer.path.name]
    before = {path: path.stat() for path in folder.rglob("*.erofs*")}
    again = export_layers([location], folder, verity=verity, cache=cache)
    assert [layer.existed for layer in again] == [True, True]
    assert [(layer.path, layer.size, layer.root_hash) for layer in again] == [
        (layer.path, layer.size, layer.root_hash) for layer in made
    ]
    assert {path: path.stat() for path in folder.rglob("*.erofs*")} == before


@pytest.mark.tools
def test_veritysetup_accepts_the_layers_and_finds_the_same_root(location: str, tmp_path: Path) -> None:
    made = export_layers([location], tmp_path / "out", verity=True)
    for layer in made:
        assert layer.root_hash is not None
        run("veritysetup", "verify", layer.path, layer.path, layer.root_hash, f"--hash-offset={layer.hash_offset}")
        (tmp_path / "data").write_bytes(layer.path.read_bytes()[: layer.hash_offset])
        said = run("veritysetup", "format", tmp_path / "data", tmp_path / "tree", f"--salt={'0' * 64}")
        assert layer.root_hash.encode() in said
    forged = tmp_path / "forged"
    forged.write_bytes(b"\1" + made[0].path.read_bytes()[1:])
    wrong = attempt(
        "veritysetup", "verify", forged, forged, str(made[0].root_hash), f"--hash-offset={made[0].hash_offset}"
    )
    assert wrong.returncode != 0


@pytest.mark.root
@pytest.mark.tools
def test_overlayfs_over_the_layers_is_the_image(location: str, image: BuiltImage, tmp_path: Path) -> None:
    made = export_layers([location], tmp_path / "out", verity=True)
    with (
        mounted(made[0].path, "erofs", tmp_path / "0") as lower,
        mounted(made[1].path, "erofs", tmp_path / "1") as upper,
    ):
        point = tmp_path / "merged"
        point.mkdir()
        run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={upper}:{lower}", point)
        try:
            found = dump_directory(point)
        finally:
            run("umount", point)
    expected = dump_umoci(tmp_path / "layout", tmp_path / "bundle")
    # The root of an image is that of its highest layer, of which none here has an entry.
    assert found.splitlines()[1:] == expected.splitlines()[1:]


def test_a_layer_that_cannot_stand_alone_is_refused_by_name(location: str, tmp_path: Path) -> None:
    odd = build_image([*layers(), TarBuilder().file("usr/deep/file", b"x")])
    there = f"oci:{write_layout(tmp_path / 'odd', odd)}:app"
    folder = tmp_path / "out"
    with pytest.raises(OutputUnsupportedError, match=rf"{diff_ids(odd)[-1]} cannot stand alone.*usr/deep"):
        export_layers([location, there], folder, cache=Cache(tmp_path / "cache"))
    assert content(folder) == {}
    assert "cannot stand alone" in try_ocifast("cache", "export", "--containerd", folder, there).stderr.decode()


def test_what_is_there_is_never_changed(location: str, image: BuiltImage, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = folder / expected_names(image, verity=False)[0]
    first.parent.mkdir(parents=True)
    first.write_bytes(b"of somebody else")
    (folder / "other").write_bytes(b"file")
    export_layers([location], folder)
    assert first.read_bytes() == b"of somebody else"
    before = content(folder)
    with pytest.raises(UsageError, match="without dm-verity, and is not changed"):
        export_layers([location], folder, verity=True)
    assert content(folder) == before
    assert len(before) == 3


def test_what_another_run_puts_there_meanwhile_stays(location: str, image: BuiltImage, tmp_path: Path) -> None:
    first = tmp_path / "out" / expected_names(image, verity=False)[0]

    def other() -> bool:
        if first.parent.exists():
            first.write_bytes(b"of another run")
        return False

    first.parent.mkdir(parents=True)
    made = export_layers([location], tmp_path / "out", cache=Cache(tmp_path / "cache"), cancelled=other)
    assert first.read_bytes() == b"of another run"
    assert [layer.existed for layer in made if layer.path == first] == [True]


def test_a_sidecar_of_a_killed_run_is_taken_and_another_is_refused(
    location: str, image: BuiltImage, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    made = export_layers([location], folder, verity=True)
    whole = content(folder)
    made[0].path.unlink()
    # Also without dm-verity: what the sidecar says must be true of the image that comes beside it.
    export_layers([location], folder)
    assert content(folder) == whole
    made[0].path.unlink()
    sidecar = made[0].path.with_name(f"{made[0].path.name}.dmverity")
    sidecar.chmod(0o600)
    sidecar.write_bytes(b'{"roothash":"00","hashoffset":4096}')
    with pytest.raises(FileError, match="is of another; remove it"):
        export_layers([location], folder, verity=True)
    assert not made[0].path.exists()


def test_a_folder_of_others_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    with pytest.raises(FileError, match="not yours alone"):
        export_layers([location], tmp_path / "out")
    assert content(tmp_path / "out") == {}


def test_four_at_once_make_what_one_makes(location: str, tmp_path: Path) -> None:
    export_layers([location], tmp_path / "alone", verity=True)
    runs = [begin(location, tmp_path) for _ in range(4)]
    assert [each.wait(60) for each in runs] == [0] * 4
    assert content(tmp_path / "out") == content(tmp_path / "alone")


def test_a_killed_run_leaves_whole_files_and_the_next_completes_them(location: str, tmp_path: Path) -> None:
    export_layers([location], tmp_path / "alone", verity=True)
    whole = content(tmp_path / "alone")
    for delay in (0.15, 0.25, 0.3, 0.35, 0.4):
        killed = begin(location, tmp_path)
        time.sleep(delay)
        killed.send_signal(signal.SIGKILL)
        killed.wait(10)
        if (tmp_path / "out").exists():
            seen = {name: data for name, data in content(tmp_path / "out").items() if ".ocifast" not in name}
            assert all(whole[name] == data for name, data in seen.items())
    assert begin(location, tmp_path).wait(60) == 0
    assert content(tmp_path / "out") == whole
    assert [path for path in (tmp_path / "out").iterdir() if path.name != "sha256"] == []


def test_it_is_called_off(location: str, tmp_path: Path) -> None:
    with pytest.raises(CancelledError):
        export_layers([location], tmp_path / "out", verity=True, cancelled=lambda: True)
    assert content(tmp_path / "out") == {}


def test_the_command_and_asyncio(location: str, image: BuiltImage, tmp_path: Path) -> None:
    said = json.loads(ocifast("cache", "export", "--containerd", tmp_path / "out", location, "--json"))["layers"]
    assert [layer["diff_id"] for layer in said] == diff_ids(image)
    again = asyncio.run(aio.export_layers([location], tmp_path / "out"))
    assert [str(layer.path) for layer in again] == [layer["path"] for layer in said]
    assert [layer.existed for layer in again] == [True, True]

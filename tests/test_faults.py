"""Full disks, limits on files, places that cannot be had: the output is whole, or one line says why there is none."""

from __future__ import annotations

import gc
import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ocifast
import pytest
from ocifast.cache import Cache
from ocifast.errors import OcifastError
from ocifast.packers import FORMATS
from ocifast.workspace import Workspace

from tests.support.images import BuiltImage, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory
from tests.support.registry import Registry
from tests.support.run import COMMAND, attempt, run

MIB = 1 << 20


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    """Some MiB that do not compress, and many small files."""
    noise = random.Random(8).randbytes
    layer = TarBuilder().file("large", noise(3 * MIB))
    for number in range(300):
        layer.file(f"d/{number}", noise(2000))
    return build_image([layer, TarBuilder().file("more", noise(MIB))])


@pytest.fixture(scope="module")
def reference(registry: Registry, image: BuiltImage) -> str:
    return registry.put(image, "faults/image:1")


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes."""
    folder.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=2000", "tmpfs", folder)
    try:
        yield folder
    finally:
        # What a failed run had open goes with its traceback.
        gc.collect()
        run("umount", folder)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(path: Path) -> bytes:
    if (path / "image.erofs").exists():
        return (path / "image.erofs").read_bytes()
    return dump_directory(path).encode() if path.is_dir() else path.read_bytes()


@pytest.mark.root
@pytest.mark.parametrize("form", [*FORMATS, "layout", "archive"])
def test_a_disk_that_is_full_at_any_stage(form: str, image: BuiltImage, tmp_path: Path) -> None:
    location = f"oci:{write_layout(tmp_path / 'layout', image)}:app"

    def make(place: Path) -> None:
        if form in FORMATS:
            pack = ocifast.PackOptions(free_space=MIB) if form == "ext4" else ocifast.PackOptions()
            ocifast.compile(location, place, format=form, options=ocifast.CompileOptions(cache=False, pack=pack))
        else:
            ocifast.copy(location, f"{'oci' if form == 'layout' else 'oci-archive'}:{place}:app")

    make(tmp_path / "whole")
    outcomes = []
    for size in (64 << 10, 512 << 10, 2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB, 7 * MIB, 10 * MIB, 16 * MIB):
        with disk(tmp_path / "disk", size) as folder:
            said = ""
            try:
                make(folder / "out")
            except OcifastError as error:
                said = error.message
            outcomes.append(not said)
            assert left(folder) == ([] if said else ["out"])
            if said:
                assert re.fullmatch(".*(No space left on device|no room for).*", said), said
            elif form != "layout":
                assert content(folder / "out") == content(tmp_path / "whole")
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


@pytest.mark.root
def test_a_cache_on_a_full_disk(reference: str, image: BuiltImage, tmp_path: Path) -> None:
    ocifast.compile(reference, tmp_path / "whole.erofs", options=ocifast.CompileOptions(cache=False))
    for size in (64 << 10, 512 << 10, 2 * MIB, 4 * MIB, 6 * MIB, 9 * MIB, 14 * MIB, 24 * MIB):
        with disk(tmp_path / "disk", size) as folder:
            cache = Cache(folder / "cache", max_bytes=1 << 40)
            options = ocifast.CompileOptions(cache_folder=str(cache.folder), keep_layers=True)
            for number in range(2):
                out = tmp_path / f"{size}-{number}.erofs"
                ocifast.compile(reference, out, options=options)
                assert out.read_bytes() == (tmp_path / "whole.erofs").read_bytes()
            ocifast.pull(reference, f"oci:{tmp_path}/{size}:app", cache=cache)
            assert all(whole for _, whole in cache.verify())
            assert not [path for path in cache.folder.rglob("*") if path.name.startswith(".ocifast-")]


@pytest.mark.root
@pytest.mark.parametrize("form", FORMATS)
def test_files_may_not_become_large(form: str, image: BuiltImage, tmp_path: Path) -> None:
    """RLIMIT_FSIZE: where a file would be larger nothing is left, and one line says why."""
    location = f"oci:{write_layout(tmp_path / 'layout', image)}:app"
    out = tmp_path / "out"
    out.mkdir()
    compile_it = (COMMAND, "compile", location, out / "made", "-f", form, "--no-cache", "-q")
    done = attempt("prlimit", f"--fsize={MIB}", *compile_it)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("ocifast: error: ")
    assert "File too large" in line
    assert left(out) == []


@pytest.mark.root
def test_a_cache_whose_files_may_not_become_large(reference: str, tmp_path: Path) -> None:
    done = attempt("prlimit", f"--fsize={2 * MIB}", COMMAND, "cat", reference, "d/7")
    # The contents wait in one file: that is too large as well.
    assert done.returncode == 1
    assert b"File too large" in done.stderr
    done = attempt("prlimit", f"--fsize={2 * MIB}", COMMAND, "pull", reference, f"oci:{tmp_path}/layout")
    assert done.returncode == 1
    assert not (tmp_path / "layout").exists()
    assert all(whole for _, whole in Cache().verify())
    assert Cache().info().blobs <= 3


def test_what_cannot_be_published_is_kept_by_another_name(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"oci:{write_layout(tmp_path / 'layout', image)}:app"
    out = tmp_path / "out"
    out.mkdir()
    places = [out / "a.tar", out / "b.erofs", out / "tree"]
    publish = Workspace.publish

    def taken(self: Workspace, made: Path) -> None:
        # Somebody puts a folder with something in it there, at the last moment.
        (self.destination / "theirs").mkdir(parents=True)
        publish(self, made)

    monkeypatch.setattr(Workspace, "publish", taken)
    with pytest.raises(OcifastError) as caught:
        ocifast.compile(location, places, options=ocifast.CompileOptions(cache=False))
    monkeypatch.undo()
    kept = re.findall(r"[^ ,]+\.[0-9a-f]{8}\.unpublished", caught.value.message)
    assert "what was made is kept as " in caught.value.message
    assert sorted(kept) == sorted(str(path) for path in out.glob("*.unpublished"))
    for place in places:
        (found,) = out.glob(f"{place.name}.*.unpublished")
        expected = tmp_path / place.name
        ocifast.compile(location, expected, options=ocifast.CompileOptions(cache=False))
        assert content(found) == content(expected)
    assert left(out) == sorted(["a.tar", *map(os.path.basename, kept)])


def test_durable_before_visible(image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, its name, the folder: once each and in this order; with `sync=False` the name alone."""
    location = f"oci:{write_layout(tmp_path / 'layout', image)}:app"
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flushed(fd: int) -> None:
        name = str(Path(f"/proc/self/fd/{fd}").readlink())
        steps.append("folder" if name == str(tmp_path) else "file" if name.endswith("/output") else name)
        fsync(fd)

    def renamed(old: str, new: str, **options: int) -> None:
        steps.append(f"{old} -> {new}")
        rename(old, new, **options)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    for sync in (True, False):
        steps.clear()
        ocifast.compile(location, tmp_path / "made.erofs", options=ocifast.CompileOptions(cache=False, sync=sync))
        assert steps == (["file", "output -> made.erofs", "folder"] if sync else ["output -> made.erofs"])

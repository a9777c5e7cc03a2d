"""Where the file system shares extents, data are shared from the kept layers to the output and from it to the cache."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast import CompileOptions, PackOptions
from ocifast.cache import Cache
from ocifast.cache.kept import copy_with_digest, file_digest
from ocifast.compiler import compile_image
from ocifast.errors import UsageError

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_mounted
from tests.support.run import run

MIB = 1 << 20


@pytest.fixture(params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A new file system on a loop device."""
    image, folder = tmp_path / "disk", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    run(f"mkfs.{request.param}", "-q", image)
    folder.mkdir()
    run("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        run("umount", folder)


def blocks(path: Path) -> set[int]:
    """The blocks of the disk that a file has."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    listed = run("filefrag", "-v", "-b4096", path).decode()
    found: set[int] = set()
    for first, last in re.findall(r"^ *\d+: +\d+\.\. +\d+: +(\d+)\.\. +(\d+):", listed, re.MULTILINE):
        found.update(range(int(first), int(last) + 1))
    return found


GONE = random.Random(5).randbytes(MIB)


def layers(top: int) -> list[TarBuilder]:
    noise = random.Random(7)
    base = TarBuilder().directory("./").directory("usr/")
    for number in range(8):
        base.file(f"usr/file-{number}", noise.randbytes(MIB + number))
    base.file("usr/gone", GONE)
    return [base, TarBuilder().whiteout("usr/gone").file("top", random.Random(top).randbytes(MIB))]


@pytest.mark.tools
def test_a_second_image_takes_the_room_of_its_new_layer(disk: Path, tmp_path: Path) -> None:
    cache = Cache(disk / "cache")
    options = CompileOptions(pack=PackOptions(tails="block"), cache_folder=str(cache.folder), keep_layers=True)
    made: list[Path] = []
    for top in (1, 2):
        layout = write_layout(tmp_path / f"layout-{top}", build_image(layers(top)))
        run("sync", "-f", disk)
        before = os.statvfs(disk)
        output = disk / f"image-{top}.erofs"
        compile_image(f"oci:{layout}:app", output, options=options)
        run("sync", "-f", disk)
        after = os.statvfs(disk)
        taken = before.f_bfree * before.f_frsize - after.f_bfree * after.f_frsize
        made.append(output)
        # The layers, once: not what the output and its copy in the cache have of them as well.
        assert taken < (13 * MIB if top == 1 else 3 * MIB), taken
    kept = set[int]().union(*(blocks(path) for path in cache.folder.glob("layers/*/*/*.erofs")))
    for output in made:
        whole = blocks(output)
        assert len(whole & kept) > 0.95 * len(whole)
    # With tails behind inodes, and in a directory, large files are shared all the same.
    layout = tmp_path / "layout-2"
    inline = CompileOptions(cache_folder=str(cache.folder), keep_layers=True)
    compile_image(f"oci:{layout}:app", disk / "inline.erofs", options=inline)
    compile_image(f"oci:{layout}:app", disk / "directory", options=inline)
    for output in (disk / "inline.erofs", disk / "directory/usr/file-3"):
        whole = blocks(output)
        assert len(whole & kept) > 0.8 * len(whole), output
    # What is copied from kept layers is not kept once more; what is not shares its blocks with the copy.
    assert list(cache.folder.glob("outputs/*/output")) == []
    elsewhere = disk / "elsewhere"
    compile_image(f"oci:{layout}:app", disk / "plain.erofs", options=CompileOptions(cache_folder=str(elsewhere)))
    (copy,) = elsewhere.glob("outputs/*/output")
    assert blocks(copy) == blocks(disk / "plain.erofs")
    # What the upper layer hides is in no block of the image.
    assert GONE[:4096] not in made[1].read_bytes()
    plain = tmp_path / "plain.erofs"
    compile_image(
        f"oci:{tmp_path / 'layout-2'}:app", plain, options=CompileOptions(pack=PackOptions(tails="block"), cache=False)
    )
    assert plain.read_bytes() == made[1].read_bytes()
    run("fsck.erofs", plain)
    small = tmp_path / "inline.erofs"
    compile_image(f"oci:{tmp_path / 'layout-2'}:app", small, options=CompileOptions(cache=False))
    assert small.read_bytes() == (disk / "inline.erofs").read_bytes()
    assert small.stat().st_size < plain.stat().st_size
    one, other = (dump_mounted(path, "erofs", tmp_path / "mount") for path in (plain, small))
    assert one == other


@pytest.mark.tools
@pytest.mark.parametrize("form", ["tar", "erofs", "ext4"])
def test_an_output_and_its_copy_in_the_cache_have_the_same_blocks(disk: Path, tmp_path: Path, form: str) -> None:
    location = f"oci:{write_layout(tmp_path / 'layout', build_image(layers(1)))}:app"
    cache = Cache(disk / "cache")
    options = CompileOptions(cache_folder=str(cache.folder))
    made, again = disk / "made", disk / "again"
    compile_image(location, made, format=form, options=options)
    (kept,) = cache.folder.glob("outputs/*/output")
    assert compile_image(location, again, format=form, options=options).from_cache
    assert cache.info().shares_extents
    assert len(blocks(kept)) > 9 * MIB // 4096
    assert blocks(made) == blocks(kept) == blocks(again)
    # Three files, not one of three names: who writes to an output changes nothing in the cache.
    assert [path.stat().st_nlink for path in (made, kept, again)] == [1, 1, 1]
    before = kept.read_bytes()
    with made.open("r+b") as file:
        file.write(b"EVIL" * 1024)
    assert kept.read_bytes() == again.read_bytes() == before
    assert compile_image(location, disk / "third", format=form, options=options).from_cache
    assert (disk / "third").read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "pack", "message"),
    [
        ("erofs", PackOptions(tails="block", compression="lz4"), "leave --tails out"),
        ("erofs", PackOptions(tails="elsewhere"), "inline or block"),
        ("tar", PackOptions(tails="block"), "no option --tails"),
        ("ext4", PackOptions(tails="inline"), "no option --tails"),
    ],
)
def test_tails_are_an_option_of_plain_erofs(tmp_path: Path, kind: str, pack: PackOptions, message: str) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("f", b"x")]))
    with pytest.raises(UsageError, match=message):
        compile_image(
            f"oci:{layout}:app", tmp_path / "out", format=kind, options=CompileOptions(pack=pack, cache=False)
        )


@pytest.mark.root
@pytest.mark.tools
@pytest.mark.parametrize("shares", [True, False])
def test_a_copy_has_the_digest_of_what_was_written(shares: bool, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where sharing, which the first block allowed, fails in the end."""
    if not shares:
        monkeypatch.setattr("ocifast.cache.kept.share_blocks", lambda source, destination: False)
    for size in (0, 5, 4096, 4097, 3 * MIB + 5):
        data = random.Random(size).randbytes(size)
        (disk / "out").write_bytes(data)
        with (disk / "out").open("rb") as source, (disk / f"copy-{size}").open("x+b") as copy:
            digest = copy_with_digest(source.fileno(), copy.fileno())
            assert digest == file_digest(source.fileno()) == file_digest(copy.fileno())
            assert digest.startswith("blake3:")
        assert (disk / f"copy-{size}").read_bytes() == data
        if size > MIB:
            assert (blocks(disk / "out") == blocks(disk / f"copy-{size}")) == shares


@pytest.mark.parametrize(
    ("name", "options", "copied"),
    [
        ("out.tar", PackOptions(), True),
        ("out.cpio", PackOptions(), True),
        ("out.erofs", PackOptions(), True),
        ("out.ext4", PackOptions(), True),
        ("out.tar.gz", PackOptions(), False),
        ("out.erofs", PackOptions(compression="lz4"), False),
        ("out.squashfs", PackOptions(), False),
    ],
)
def test_what_is_a_copy_of_kept_layers_is_not_copied_again(
    name: str, options: PackOptions, copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocifast.cache.kept.share_blocks", lambda source, destination: False)
    image = f"oci:{write_layout(tmp_path / 'layout', build_image(layers(1)))}:app"
    kept = CompileOptions(pack=options, cache_folder=str(tmp_path / "cache"), keep_layers=True)
    without = CompileOptions(pack=options, cache_folder=str(tmp_path / "other"))
    for each, found in ((kept, not copied), (without, True)):
        compile_image(image, tmp_path / name, options=each)
        first = (tmp_path / name).read_bytes()
        again = compile_image(image, tmp_path / name, options=each)
        assert again.from_cache == found
        assert (tmp_path / name).read_bytes() == first
    stored = list((tmp_path / "cache/outputs").glob("*/output"))
    assert len(stored) == (0 if copied else 1)

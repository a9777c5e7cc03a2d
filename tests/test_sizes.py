"""What an output may become is bounded, a hole costs nothing in a tar, and what has no room is refused beforehand."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import ocifast
import pytest
from ocifast.compiler import CompileOptions
from ocifast.errors import FileError, LimitError
from ocifast.packers import PackOptions

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_tar
from tests.support.pack import flattened, pack
from tests.support.run import COMMAND, run
from tests.support.samples import everything

pytestmark = pytest.mark.root

PIECE = b"data" * 128
HOLES: dict[str, tuple[list[tuple[int, bytes]], int]] = {
    "all-hole": ([], 1 << 20),
    "middle": ([(512 << 10, PIECE)], 1 << 20),
    "ends": ([(0, PIECE), ((1 << 20) - 512, PIECE)], 1 << 20),
    "d/odd-end": ([(4096, PIECE)], (1 << 20) + 17),
    "many": ([(number * 8192, PIECE) for number in range(100)], 1 << 20),
    "n" * 255: ([(8192, PIECE)], 1 << 20),
    "caf\u00e9/" + "\u00e9" * 90: ([(8192, PIECE)], 1 << 20),
    "odd": ([(8192, b"x" * 700), (40_000, b"y"), (60_001, b"z" * 1025), (100_000, b"w")], 1 << 20),
    "odd-begin": ([(0, b"a" * 7), (65_530, PIECE), (66_043, b"b")], 1 << 20),
    "not-worth-it": ([(0, PIECE), (1024, PIECE)], 2048),
}


def with_holes() -> TarBuilder:
    tar = TarBuilder().directory("d").directory("caf\u00e9")
    for name, (pieces, size) in HOLES.items():
        tar.sparse(name, pieces, size)
    return tar


def content(name: str) -> bytes:
    pieces, size = HOLES[name]
    data = bytearray(size)
    for offset, piece in pieces:
        data[offset : offset + len(piece)] = piece
    return bytes(data)


def test_holes_are_kept_and_read_by_others(tmp_path: Path) -> None:
    packed = pack([with_holes()], tmp_path / "a.tar", "tar")
    assert packed.path.stat().st_size < 200_000
    assert dump_tar(packed.path, tmp_path / "gnu") == packed.dump
    with tarfile.open(packed.path) as archive:
        for name in HOLES:
            member = archive.extractfile(name)
            assert member is not None
            assert member.read() == content(name), name
    folder = tmp_path / "bsdtar"
    folder.mkdir()
    run("bsdtar", "-xf", packed.path, "-C", folder)
    for name in HOLES:
        assert (folder / name).read_bytes() == content(name), name
        assert name == "not-worth-it" or (folder / name).stat().st_blocks * 512 < 1 << 20


def test_a_hole_costs_nothing_in_a_tar(tmp_path: Path) -> None:
    tar = TarBuilder().sparse("lastlog", [], 1 << 40)
    packed = pack([tar], tmp_path / "a.tar", "tar", with_dump=False)
    assert packed.path.stat().st_size < 10_000
    assert b" 1099511627776 " in run("tar", "-tvf", packed.path)


@pytest.mark.parametrize("form", ["tar", "cpio"])
def test_sizes_are_known_beforehand(tmp_path: Path, form: str) -> None:
    with flattened([everything(), with_holes()]) as tree:
        expected = tree.tar_size() if form == "tar" else tree.cpio_size()
    packed = pack([everything(), with_holes()], tmp_path / "out", form, with_dump=False)
    assert packed.path.stat().st_size == expected


def test_what_has_no_room_is_refused_before_it_is_written(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    tar = TarBuilder()
    for number in range(free // (3 << 30) + 2):
        tar.sparse(f"hole-{number}", [], 3 << 30)
    layout = write_layout(tmp_path / "layout", build_image([tar]))
    with pytest.raises(FileError, match=r"no room for the cpio of oci:.*: at least [\d.]+ MB are needed"):
        ocifast.compile(f"oci:{layout}:app", tmp_path / "out.cpio", options=CompileOptions(cache=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]
    # A tar of the same image is small.
    ocifast.compile(f"oci:{layout}:app", tmp_path / "out.tar", options=CompileOptions(cache=False))
    assert (tmp_path / "out.tar").stat().st_size < 1 << 20


def test_an_ext4_that_has_no_room_is_refused_before_it_is_written(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("file", os.urandom(6 << 20))]))
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=10m", "none", small)
    try:
        # The layer waits in 6 of the 10 MiB.
        with pytest.raises(FileError, match=r"no room for the ext4 of oci:.*: at least 6\.3 MB are needed"):
            ocifast.compile(f"oci:{layout}:app", small / "out.ext4", options=CompileOptions(cache=False))
        assert not list(small.iterdir())
    finally:
        run("umount", small)


@pytest.mark.parametrize("form", ["tar", "cpio", "dir", "erofs", "ext4"])
def test_all_files_together_are_bounded(tmp_path: Path, form: str) -> None:
    layers = [
        TarBuilder().sparse("hole", [], 600 << 10),
        TarBuilder().file("file", b"x" * (300 << 10)),
        TarBuilder().sparse("other", [(0, PIECE)], 200 << 10),
    ]
    layout = write_layout(tmp_path / "layout", build_image(layers))
    image, out = f"oci:{layout}:app", tmp_path / "out"
    low = CompileOptions(cache=False, max_image_bytes=(1100 << 10) - 1, pack=PackOptions())
    with pytest.raises(LimitError, match=r"larger than 1126399 bytes together; .* --max-image-size"):
        ocifast.compile(image, out, format=form, options=low)
    assert not out.exists()
    exact = CompileOptions(cache=False, max_image_bytes=1100 << 10)
    ocifast.compile(image, out, format=form, options=exact)
    assert out.exists()


def test_the_bound_is_an_option_of_the_command(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().sparse("hole", [], 2 << 20)]))
    image, out = f"oci:{layout}:app", str(tmp_path / "out.tar")
    words = [str(COMMAND), "compile", image, out, "--no-cache", "--max-image-size", "1M"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "are larger than 1048576 bytes together; for an image" in done.stderr
    assert 'entry "hole"' in done.stderr

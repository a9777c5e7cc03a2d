"""Outputs are called what they are: compressed tars by their suffix, and no suffix that means something else."""

from __future__ import annotations

import gzip
from pathlib import Path

import ocifast
import pytest
from ocifast.compiler import CompileOptions
from ocifast.errors import UsageError
from ocifast.packers import PackOptions, check_suffix, choose_backend, load_format

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.pack import pack
from tests.support.run import run
from tests.support.samples import everything


@pytest.mark.tools
def test_compressed_tars_hold_the_same_archive(tmp_path: Path) -> None:
    plain = pack([everything()], tmp_path / "a.tar", "tar")
    archive = plain.path.read_bytes()
    for level in (None, 1, 9):
        options = PackOptions(compression="gzip", level=level)
        zipped = pack([everything()], tmp_path / f"{level}.tar.gz", "tar", options=options).path.read_bytes()
        assert gzip.decompress(zipped) == archive
        assert zipped[3:8] == bytes(5), "gzip's header has a name or a time"
    for level in (None, 1, 19):
        options = PackOptions(compression="zstd", level=level)
        path = pack([everything()], tmp_path / f"{level}.tar.zst", "tar", options=options).path
        assert run("zstd", "-dcq", path) == archive
    first = (tmp_path / "None.tar.gz").read_bytes()
    again = pack([everything()], tmp_path / "again", "tar", options=PackOptions(compression="gzip"))
    assert again.path.read_bytes() == first


@pytest.mark.tools
@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.zst", ".tzst"])
def test_the_suffix_of_a_tar_says_how_it_is_compressed(tmp_path: Path, suffix: str) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("etc/hostname", b"here\n")]))
    done = ocifast.compile(f"oci:{layout}:app", tmp_path / f"out{suffix}", options=CompileOptions(cache=False))
    assert done.format == "tar"
    magic = (tmp_path / f"out{suffix}").read_bytes()[:2]
    assert magic == (b"\x1f\x8b" if "g" in suffix else b"\x28\xb5")
    assert b"etc/hostname" in run("tar", "-tf", tmp_path / f"out{suffix}")


@pytest.mark.parametrize(
    ("output", "name", "compression", "says"),
    [
        ("x.ext4", "erofs", None, r"x\.ext4: the suffix \.ext4 means ext4, not erofs; call it \*\.erofs"),
        ("x.tar", "cpio", None, r"\.tar means tar, not cpio"),
        ("x.tar.gz", "cpio", None, r"\.tar\.gz means tar, not cpio"),
        ("x.tar", "dir", None, "a directory has no suffix"),
        ("x.img", "tar", None, r"\.img means ext4, not tar"),
        ("x.img", "dir", None, r"\.img means ext4, not dir"),
        ("x.tar.gz", "tar", "zstd", r"\.tar\.gz means gzip, and --compression says zstd"),
        ("x.CPIO.ZST", "cpio", "none", r"\.cpio\.zst means zstd, and --compression says none"),
    ],
)
def test_a_name_that_means_something_else_is_refused(
    tmp_path: Path, output: str, name: str, compression: str | None, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        check_suffix(output, name, compression)
    options = CompileOptions(cache=False, pack=PackOptions(compression=compression))
    with pytest.raises(UsageError, match=says):
        ocifast.compile(f"oci:{tmp_path}/nothing", tmp_path / output, format=name, options=options)


@pytest.mark.parametrize(
    ("output", "name", "compression", "expected"),
    [
        ("x.tar.gz", "tar", None, "gzip"),
        ("x.tgz", "tar", "gzip", "gzip"),
        ("x.tar", "tar", "zstd", "zstd"),
        ("root.img", "erofs", None, None),
        ("root.img", "squashfs", "xz", "xz"),
        ("disk.bin", "ext4", None, None),
        ("folder", "tar", "gzip", "gzip"),
        (".tar", "dir", None, None),
    ],
)
def test_names_that_fit(output: str, name: str, compression: str | None, expected: str | None) -> None:
    assert check_suffix(output, name, compression) == expected


def test_a_level_of_a_tar_needs_a_compression() -> None:
    with pytest.raises(UsageError, match="tar without compression has no option --level"):
        choose_backend(load_format("tar"), PackOptions(level=3))
    with pytest.raises(UsageError, match="tar has no compression 'xz'"):
        choose_backend(load_format("tar"), PackOptions(compression="xz"))

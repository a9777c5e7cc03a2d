"""cpio archives: what GNU cpio makes of them, as root, and that compression changes nothing else."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from ocifast.errors import OutputUnsupportedError, UsageError
from ocifast.packers import PackOptions, choose_backend, load_format

from tests.support.layers import TarBuilder
from tests.support.oracle import dump_cpio, dump_directory
from tests.support.pack import pack
from tests.support.run import run
from tests.support.samples import everything

pytestmark = pytest.mark.root


def without_xattrs(dump: str) -> str:
    """The dump with no attributes: the ninth field."""
    lines = [line.split(" ") for line in dump.splitlines()]
    return "".join(" ".join([*fields[:8], "-", *fields[9:]]) + "\n" for fields in lines)


@pytest.mark.tools
def test_libarchive_extracts_the_tree(tmp_path: Path) -> None:
    packed = pack([everything()], tmp_path / "a.cpio", "cpio")
    assert dump_cpio(packed.path, tmp_path / "read") == without_xattrs(packed.dump)
    assert packed.lost == sorted(
        [
            "xattr setuid",
            *["xattr attributes"] * 3,
            "xattr acl",
            *["xattr acl-folder"] * 2,
        ]
    )


@pytest.mark.tools
def test_gnu_cpio_extracts_the_tree(tmp_path: Path) -> None:
    def as_told(dump: str) -> list[str]:
        """All but the times of folders and links, which GNU cpio does not restore, and the folder extracted into."""
        lines = [line.split(" ") for line in dump.splitlines()[1:]]
        return [" ".join([*at[:5], at[5] if at[1] == "file" else "", *at[6:]]) for at in lines]

    packed = pack([everything()], tmp_path / "a.cpio", "cpio")
    folder = tmp_path / "read"
    folder.mkdir()
    options = ["--extract", "--make-directories", "--preserve-modification-time", "--numeric-uid-gid", "--quiet"]
    run("cpio", *options, stdin=packed.path.read_bytes(), cwd=folder)
    assert as_told(dump_directory(folder)) == as_told(without_xattrs(packed.dump))


@pytest.mark.tools
def test_two_compressions_hold_the_same_archive(tmp_path: Path) -> None:
    plain = pack([everything()], tmp_path / "a.cpio", "cpio").path.read_bytes()
    zipped = pack([everything()], tmp_path / "a.cpio.gz", "cpio", options=PackOptions(compression="gzip"))
    assert gzip.decompress(zipped.path.read_bytes()) == plain
    assert zipped.path.read_bytes()[4:8] == bytes(4), "gzip's header has a time"
    for level in (None, 1, 19):
        path = tmp_path / f"{level}.cpio.zst"
        pack([everything()], path, "cpio", options=PackOptions(compression="zstd", level=level))
        assert run("zstd", "-dcq", path) == plain


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    for compression in ("none", "gzip", "zstd"):
        options = PackOptions(compression=compression)
        runs = [pack([everything()], tmp_path / f"{compression}{number}", "cpio", options=options) for number in (1, 2)]
        assert runs[0].path.read_bytes() == runs[1].path.read_bytes()


@pytest.mark.tools
def test_a_member_that_would_end_the_archive_does_not(tmp_path: Path) -> None:
    tar = TarBuilder().file("TRAILER!!!", b"not the end").file("after", b"still there")
    packed = pack([tar], tmp_path / "a.cpio", "cpio")
    assert dump_cpio(packed.path, tmp_path / "read") == packed.dump


def test_a_file_of_four_gibibytes_is_refused(tmp_path: Path) -> None:
    tar = TarBuilder().file("small", b"x").sparse("big/file", [(0, b"x" * 512)], 1 << 32)
    with pytest.raises(OutputUnsupportedError, match="big/file") as caught:
        pack([tar], tmp_path / "a.cpio", "cpio", with_dump=False)
    assert "4,294,967,295" in str(caught.value)
    assert not (tmp_path / "a.cpio").exists() or (tmp_path / "a.cpio").stat().st_size == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (PackOptions(compression="xz"), "xz"),
        (PackOptions(compression="gzip", level=10), "levels from 1 to 9, not 10"),
        (PackOptions(compression="zstd", level=20), "levels from 1 to 19, not 20"),
        (PackOptions(level=3), "--level"),
        (PackOptions(journal=True), "--journal"),
    ],
)
def test_options_that_cpio_lacks_are_refused(options: PackOptions, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose_backend(load_format("cpio"), options)

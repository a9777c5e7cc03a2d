"""docs/formats.md says what each format holds; each cell of its table is tested here as it stands there."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.edge import listed, names_below, opened
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_tar
from tests.support.pack import Packed, pack
from tests.support.run import run
from tests.support.samples import ACL, CAPABILITY
from tests.test_docs import table_rows, text

pytestmark = pytest.mark.root

FORMATS = ["dir", "tar", "cpio", "erofs", "squashfs", "ext4"]
LONG = b"/".join([b"d" * 250] * 17)


def names() -> TarBuilder:
    return TarBuilder().file(b"n" * 255, b"1").file(bytes(range(1, 47)) + bytes(range(48, 256)), b"2")


def long_paths() -> TarBuilder:
    tar = TarBuilder()
    for end in range(250, len(LONG) + 1, 251):
        tar.directory(LONG[:end])
    return tar


def modes() -> TarBuilder:
    return TarBuilder().file("s", b"1", mode=0o6751).directory("d", mode=0o3777).file("none", mode=0)


def owners() -> TarBuilder:
    return TarBuilder().file("f", uid=4_294_967_294, gid=70_000).symlink("l", "t", uid=65_536, gid=4_294_967_294)


def at(*times: int | tuple[int, int]) -> Callable[[], TarBuilder]:
    def build() -> TarBuilder:
        tar = TarBuilder()
        for number, time in enumerate(times):
            tar.file(f"file{number}", b"1", mtime=time).directory(f"folder{number}", mtime=time)
        return tar

    return build


def attributes() -> TarBuilder:
    values = {"user.a": b"\x00\xff", "trusted.b": b"2" * 300, "security.capability": CAPABILITY, "user.empty": b""}
    return TarBuilder().file("file", b"1", xattrs=values).directory("folder", xattrs={"user.c": b"3"})


def access_lists() -> TarBuilder:
    tar = TarBuilder().file("file", b"1", mode=0o650, xattrs={"system.posix_acl_access": ACL})
    return tar.directory("folder", xattrs={"system.posix_acl_default": ACL})


def hard_links() -> TarBuilder:
    tar = TarBuilder().file("file", b"1").hard_link("d/file", "file").hard_link("z", "file")
    tar.device("null", "char", 1, 3).hard_link("d/null", "null")
    return tar.fifo("pipe").hard_link("d/pipe", "pipe")


def devices() -> TarBuilder:
    tar = TarBuilder().device("c", "char", 4095, 1_048_575).device("b", "block", 8, 1)
    return tar.fifo("p")


def holes() -> TarBuilder:
    return TarBuilder().sparse("file", [(0, b"a" * 512), (1 << 20, b"b" * 512)], 48 << 20)


TREES: dict[str, Callable[[], TarBuilder]] = {
    "names of 255 bytes, of any bytes": names,
    "paths over 4095 bytes": long_paths,
    "setuid, setgid and sticky bits": modes,
    "owners up to 4294967294": owners,
    "times in whole seconds, 1970 to 2106": at(0, 1, 1 << 31, (1 << 32) - 1),
    "fractions of seconds": at((5, 1), (1_700_000_000, 999_999_999)),
    "times before 1970": at((-1, 0), (-(1 << 31), 0)),
    "times from 2106 to 2446": at(1 << 32, (1 << 33) + 7),
    "times after 2446": at(1 << 35),
    "`user.`, `trusted.` and `security.` attributes": attributes,
    "POSIX access lists": access_lists,
    "attributes of other classes": lambda: TarBuilder().file("file", b"1", xattrs={"other.class": b"1"}),
    "hard links of files, devices and pipes": hard_links,
    "hard links of symbolic links": lambda: TarBuilder().symlink("a", "t").hard_link("b", "a"),
    "devices and named pipes": devices,
    "symbolic links of 4095 bytes": lambda: TarBuilder().symlink("l", "t" * 4095),
    "holes": holes,
}

ROWS = {row[0]: row[1:] for row in table_rows(text("docs/formats.md"), "of the tree")}


def test_the_table_has_a_tree_for_each_row_and_a_column_for_each_format() -> None:
    assert list(ROWS) == list(TREES)
    (head,) = [line for line in text("docs/formats.md").splitlines() if line.startswith("| of the tree")]
    assert [cell.strip() for cell in head.strip("|").split("|")][1:] == FORMATS
    assert all(len(row) == len(FORMATS) for row in ROWS.values())


def tar_dump(packed: Packed) -> str:
    """What no file system here can take: the dump, with what Python's tarfile reads of times, targets, attributes."""
    lines = packed.dump.splitlines()
    with tarfile.open(packed.path) as archive:
        for member in archive:
            (number,) = [at for at, line in enumerate(lines) if line.startswith(f"/{member.name.strip('./')} ")]
            fields = lines[number].split(" ")
            fields[5] = f"{int(member.mtime)}.000000000"
            fields[7] = member.linkname or "-"
            found = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")}
            fields[8] = ",".join(f"{key[13:]}={os.fsencode(value).hex()}" for key, value in found.items()) or "-"
            lines[number] = " ".join(fields)
    return "".join(line + "\n" for line in lines)


def read_back(packed: Packed, form: str, folder: Path) -> str:
    """The canonical text of what the kernel or a foreign tool sees; names alone where paths are long."""
    if packed.dump.count("/ddd") and len(packed.dump) > 4096:
        if form in ("tar", "cpio"):
            found = listed(packed.path)
        else:
            with opened(packed.path, form, folder) as root:
                found = names_below(root)
        return "\n".join(sorted(os.fsdecode(name) for name in found))
    odd = ("other.class", "folder0 directory 0755 0 0 34359738368.")
    if form == "tar" and any(text in packed.dump for text in odd):
        return tar_dump(packed)
    if form == "tar":
        return dump_tar(packed.path, folder)
    with opened(packed.path, form, folder) as root:
        return dump_directory(root)


def expected(packed: Packed) -> str:
    """What `read_back` returns when nothing is lost."""
    if packed.dump.count("/ddd") and len(packed.dump) > 4096:
        return "\n".join(sorted(line.split(" ")[0][1:] for line in packed.dump.splitlines()[1:]))
    return packed.dump


def below_root(dump: str) -> str:
    """Without the root, whose time archives' readers change in the end."""
    return "\n".join(line for line in dump.splitlines() if not line.startswith("/ "))


@pytest.mark.tools
@pytest.mark.parametrize(
    ("row", "form", "cell"),
    [
        pytest.param(row, form, cell, id=f"{form}-{row}-{cell}")
        for row, cells in ROWS.items()
        for form, cell in zip(FORMATS, cells, strict=True)
    ],
)
def test_a_cell(row: str, form: str, cell: str, tmp_path: Path) -> None:
    packed = pack([TREES[row]()], tmp_path / "out", form)
    kinds = {loss.kind for loss in packed.losses}
    if cell in ("yes", "zeros"):
        assert packed.losses == []
        assert below_root(read_back(packed, form, tmp_path / "read")) == below_root(expected(packed))
    elif cell == "host":
        same = below_root(read_back(packed, form, tmp_path / "read")) == below_root(expected(packed))
        assert same or kinds, "something is lost in silence"
    else:
        assert kinds == {cell}
        assert packed.path.exists()
    if row == "holes":
        path = packed.path / "file" if form == "dir" else packed.path
        assert (path.stat().st_blocks * 512 < 16 << 20) == (cell == "yes")
    if form == "dir":
        run("rm", "-rf", packed.path)

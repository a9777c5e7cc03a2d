"""Set-id bits were given for an owner: where a directory does not keep the owner, they fall away."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import Node, format_dump, read_directory
from tests.support.refusal import IGNORED, refusing
from tests.support.run import COMMAND, ocifast, run, tool

pytestmark = pytest.mark.root

PLAIN = 65534

IMAGE = (
    TarBuilder()
    .directory("./", mode=0o2755, uid=3, gid=4)
    .file("ours", b"1", mode=0o6755)
    .file("group", b"2", mode=0o2755, gid=5)
    .file("user", b"3", mode=0o4711, uid=1000, gid=1000)
    .hard_link("again", "user")
    .file("nobody", b"4", mode=0o6755, uid=PLAIN, gid=PLAIN)
    .directory("d", mode=0o7775, uid=7, gid=8)
    .file("d/plain", b"5", mode=0o640, uid=7, gid=8)
    .directory("tmp", mode=0o1777)
    .fifo("p", mode=0o4600, uid=9)
    .symlink("l", "user", uid=9, gid=9)
)

AS_PLAIN_USER = """
import os, sys
from ocifast.compiler import CompileOptions, compile_image
location, folder = sys.argv[1:]
compile_image(location, folder + "/root", options=CompileOptions(cache=False))  # loads all that is needed
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
compile_image(location, folder + "/out/plain", options=CompileOptions(cache=False))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may reach."""
    with tempfile.TemporaryDirectory(prefix="ocifast-set-id-") as made:
        Path(made).chmod(0o755)
        Path(made, "out").mkdir()
        Path(made, "out").chmod(0o777)
        yield Path(made)


@pytest.fixture
def location(folder: Path) -> str:
    return f"oci:{write_layout(folder / 'layout', build_image([IMAGE]))}:app"


def expected(folder: Path, location: str, uid: int, gid: int) -> str:
    """The dump of the image where everything belongs to one user: set-id bits stay where the image says the same."""
    ocifast("compile", location, folder / "exact", "--no-cache")

    def given(node: Node) -> Node:
        owner = (node.uid, node.gid) == (uid, gid)
        mode = node.mode if owner or node.type == "symlink" else node.mode & ~0o6000
        return replace(node, mode=mode, uid=uid, gid=gid)

    return format_dump([given(node) for node in read_directory(folder / "exact")])


def no_owners(folder: Path, location: str) -> tuple[Path, int, int]:
    ocifast("compile", location, folder / "out/made", "--no-cache", "--no-owners")
    return folder / "out/made", 0, 0


def as_plain_user(folder: Path, location: str) -> tuple[Path, int, int]:
    run(sys.executable, "-c", AS_PLAIN_USER, location, folder)
    return folder / "out/plain", PLAIN, PLAIN


def in_a_user_namespace(folder: Path, location: str) -> tuple[Path, int, int]:
    # Only root is there; every other number is refused as invalid.
    run(tool("unshare"), "-r", COMMAND, "compile", location, folder / "out/made", "--no-cache")
    return folder / "out/made", 0, 0


def in_a_folder_of_another_group(folder: Path, location: str) -> tuple[Path, int, int]:
    # What is made there gets the folder's group, which is not ours.
    os.chown(folder / "out", 0, 5)
    (folder / "out").chmod(0o2755)
    ocifast("compile", location, folder / "out/made", "--no-cache", "--no-owners")
    return folder / "out/made", 0, 5


def chown_answers(answer: str) -> Callable[[Path, str], tuple[Path, int, int]]:
    def compile_there(folder: Path, location: str) -> tuple[Path, int, int]:
        ocifast("compile", location, folder / "out/made", "--no-cache", env=refusing(chown=answer))
        return folder / "out/made", 0, 0

    return compile_there


WAYS = {
    "--no-owners": no_owners,
    "a plain user": as_plain_user,
    "a user namespace": in_a_user_namespace,
    "a folder with a group of its own": in_a_folder_of_another_group,
    **{f"chown: {name}": chown_answers(name) for name in ("EPERM", "EINVAL", "ENOSYS", "EOPNOTSUPP", IGNORED)},
}


@pytest.mark.root
@pytest.mark.parametrize("way", list(WAYS))
def test_set_id_bits_fall_away_with_their_owner(way: str, folder: Path, location: str) -> None:
    made, uid, gid = WAYS[way](folder, location)
    assert format_dump(read_directory(made)) == expected(folder, location, uid, gid)


@pytest.mark.root
def test_they_stay_where_owners_are_kept(folder: Path, location: str) -> None:
    ocifast("compile", location, folder / "made", "--no-cache", "--strict")
    modes = {node.path: node.mode for node in read_directory(folder / "made") if node.mode & 0o6000}
    assert modes == {
        b"": 0o2755,
        b"ours": 0o6755,
        b"group": 0o2755,
        b"user": 0o4711,
        b"again": 0o4711,
        b"nobody": 0o6755,
        b"d": 0o7775,
        b"p": 0o4600,
    }

"""Directories of plain users: what they cannot hold is dropped or recorded, as fuse-overlayfs reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast.compiler import CompileOptions, compile_image
from ocifast.errors import UsageError
from ocifast.packers import PackOptions

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import run, tool

pytestmark = pytest.mark.root

PLAIN = 65534
RECORD = "user.containers.override_stat"

IMAGE = (
    TarBuilder()
    .directory("./", mode=0o555, uid=3, gid=4)
    .file("set-id", b"1", mode=0o6755, uid=0, gid=42)
    .hard_link("again", "set-id")
    .file("closed", b"2", mode=0o000, uid=1000, gid=1000)
    .file("nobody", b"3", mode=0o4755, uid=PLAIN, gid=PLAIN)
    .directory("d", mode=0o3700, uid=7, gid=8)
    .file("d/inner", b"4", mode=0o440, uid=4294967294, gid=9)
    .directory("locked", mode=0o000, uid=5, gid=5)
    .file("locked/file", b"5", mode=0o200, uid=5, gid=5)
    .file("lies", b"6", mode=0o644, uid=1, gid=1, xattrs={RECORD: b"0:0:6777:file", "user.note": b"mine"})
    .device("null", "char", 1, 3, mode=0o666)
    .device("disk", "block", 8, 1, mode=0o660, gid=6)
    .fifo("pipe", mode=0o4600, uid=9)
    .symlink("link", "set-id", uid=9, gid=9)
)

AS_PLAIN_USER = """
import os, sys
from ocifast.compiler import CompileOptions, compile_image
from ocifast.packers import PackOptions
location, folder, ownership = sys.argv[1:]
options = CompileOptions(cache=False, pack=PackOptions(ownership=ownership or None), tree_digest=True)
first = compile_image(location, folder + "/root", options=options)  # loads all that is needed
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
made = compile_image(location, folder + "/out/made", options=options)
assert made.tree_digest == first.tree_digest  # read from files that their modes keep from their owner
for loss in made.losses: print(loss.kind, *sorted(os.fsdecode(path) for path in loss.paths))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may reach, on a file system with attributes of users."""
    with tempfile.TemporaryDirectory(prefix="ocifast-ownership-", dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        Path(made, "out").mkdir()
        Path(made, "out").chmod(0o777)
        yield Path(made)


@pytest.fixture
def location(folder: Path) -> str:
    return f"oci:{write_layout(folder / 'layout', build_image([IMAGE]))}:app"


def made_by_plain_user(folder: Path, location: str, ownership: str) -> tuple[Path, list[str]]:
    said = run(sys.executable, "-c", AS_PLAIN_USER, location, folder, ownership).decode()
    return folder / "out/made", sorted(said.splitlines())


def everything(root: Path) -> list[tuple[str, Path]]:
    paths = [root, *sorted(root.rglob("*"))]
    return [(str(path.relative_to(root)), path) for path in paths]


def record_of(path: Path) -> str | None:
    try:
        return os.getxattr(path, RECORD, follow_symlinks=False).decode()
    except OSError:
        return None


RECORDED = {
    ".": "3:4:0555:dir",
    "again": "0:42:6755:file",
    "closed": "1000:1000:0000:file",
    "d": "7:8:3700:dir",
    "d/inner": "4294967294:9:0440:file",
    "disk": "0:6:0660:block-8-1",
    "lies": "1:1:0644:file",
    "link": None,
    "locked": "5:5:0000:dir",
    "locked/file": "5:5:0200:file",
    "nobody": f"{PLAIN}:{PLAIN}:4755:file",
    "null": "0:0:0666:char-1-3",
    "pipe": None,
    "set-id": "0:42:6755:file",
}


def test_what_is_recorded(folder: Path, location: str) -> None:
    root, losses = made_by_plain_user(folder, location, "record")
    assert {name: record_of(path) for name, path in everything(root)} == RECORDED
    modes = {name: oct(path.lstat().st_mode & 0o7777) for name, path in everything(root) if not path.is_symlink()}
    # Set-id bits are gone but for who keeps the owner; all can be read by who has made it.
    assert modes == {
        ".": "0o755",
        "again": "0o755",
        "closed": "0o600",
        "d": "0o1700",
        "d/inner": "0o640",
        "disk": "0o660",
        "lies": "0o644",
        "locked": "0o700",
        "locked/file": "0o600",
        "nobody": "0o4755",
        "null": "0o666",
        "pipe": "0o600",
        "set-id": "0o755",
    }
    assert os.getxattr(root / "lies", "user.note") == b"mine"
    assert (root / "set-id").stat().st_ino == (root / "again").stat().st_ino
    assert (root / "null").read_bytes() == b""
    assert losses == ["device disk null", "owner link", "owner pipe"]


def test_what_is_dropped(folder: Path, location: str) -> None:
    root, losses = made_by_plain_user(folder, location, "")
    records = {name: record for name, path in everything(root) if (record := record_of(path)) is not None}
    # What the image itself says there is its own affair.
    assert records == {"lies": "0:0:6777:file"}
    assert root.stat().st_mode & 0o7777 == 0o555
    assert [path.name for path in (folder / "out").iterdir()] == ["made"]
    owners = sorted(name for loss in losses for name in loss.split()[1:] if loss.startswith("owner"))
    assert owners == ["again", "closed", "d", "d/inner", "lies", "link", "locked", "locked/file", "pipe"]
    assert [loss for loss in losses if not loss.startswith("owner")] == ["device disk null"]


def test_nothing_stays_of_what_was_refused(folder: Path) -> None:
    """Closed folders, and a root without any right, are removed by the plain user who made them."""
    layer = TarBuilder().directory("./", mode=0o000).directory("a", mode=0o000).directory("a/b", mode=0o000)
    layer.file("a/b/c", b"x", mode=0o000).file("user", b"", mode=0o600)
    location = f"oci:{write_layout(folder / 'layout', build_image([layer]))}:app"
    script = AS_PLAIN_USER.replace(
        "made = compile_image",
        "options = __import__('dataclasses').replace(options, strict=True)\nmade = compile_image",
    )
    for ownership in ("drop", "record"):
        done = subprocess.run(
            [sys.executable, "-c", script, location, folder, ownership], capture_output=True, check=False
        )
        # As root nothing is lost, as a plain user the owners are.
        if ownership == "drop":
            assert b"LossError" in done.stderr, done.stderr
            assert list((folder / "out").iterdir()) == []
        else:
            assert done.returncode == 0, done.stderr
        run("rm", "-rf", folder / "root")


MERGED = """
set -e
mkdir merged
fuse-overlayfs -o lowerdir=made merged 2>/dev/null
trap 'umount merged || fusermount -u merged' EXIT
"""


def test_fuse_overlayfs_shows_what_is_recorded(folder: Path, location: str) -> None:
    made_by_plain_user(folder, location, "record")
    tool("fuse-overlayfs")
    names = [name for name, record in RECORDED.items() if record and name not in ("disk", "null")]
    script = f"{MERGED}\nfor name in {' '.join(names)}; do stat -c '%u:%g:%04a' merged/$name; done"
    said = run("sh", "-c", script, cwd=folder / "out").decode().split()
    assert dict(zip(names, said, strict=True)) == {
        name: record.rpartition(":")[0] for name in names if (record := RECORDED[name])
    }


def test_a_plain_user_reads_files_that_are_closed_to_their_owner(folder: Path, location: str) -> None:
    made_by_plain_user(folder, location, "record")
    plain = ("setpriv", f"--reuid={PLAIN}", f"--regid={PLAIN}", "--clear-groups", "--inh-caps=-all")
    script = f"{MERGED}\nstat -c %a merged merged/set-id merged/locked; cat merged/set-id; stat -c %a merged/closed"
    # Not every machine lets everybody use the device.
    device = 'mknod -m 666 ../fuse c 10 229 && mount --bind ../fuse /dev/fuse && exec "$@"'
    root = (tool("unshare"), "-m", "sh", "-c", device, "sh")
    said = run(*root, *plain, tool("unshare"), "-r", "-m", "sh", "-c", script, cwd=folder / "out").decode().split()
    assert said == ["555", "6755", "0", "10"]


def test_only_what_there_is_can_be_chosen(location: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="drop or record, not 'keep'"):
        compile_image(location, tmp_path / "x", options=CompileOptions(pack=PackOptions(ownership="keep")))
    with pytest.raises(UsageError, match="tar has no option --ownership"):
        compile_image(location, tmp_path / "x.tar", options=CompileOptions(pack=PackOptions(ownership="record")))

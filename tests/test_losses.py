"""What each format cannot hold is said: the table of docs/packers.md, a test for each cell."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from ocifast.compiler import CompileOptions, compile_image
from ocifast.errors import LossError
from ocifast.packers import FORMATS

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import run

pytestmark = pytest.mark.root

FEATURES: dict[str, TarBuilder] = {
    "modes": TarBuilder().file("f", b"x", mode=0o6755).directory("d/", mode=0o1777),
    "a closed root": TarBuilder().directory("./", mode=0o555).file("f", b"x"),
    "owners": TarBuilder().file("f", b"x", uid=1000, gid=2**31).symlink("l", "f", uid=7, gid=8),
    "whole seconds": TarBuilder().file("f", b"x", mtime=1_600_000_000),
    "fractions of seconds": TarBuilder().pax({"mtime": "1600000000.000000001"}).file("f", b"x"),
    "before 1970": TarBuilder().pax({"mtime": "-1"}).file("f", b"x"),
    "before 1901": TarBuilder().pax({"mtime": "-3000000000"}).file("f", b"x"),
    "after 2106": TarBuilder().pax({"mtime": "5000000000"}).file("f", b"x"),
    "user attribute": TarBuilder().pax({"SCHILY.xattr.user.a": "v"}).file("f", b"x"),
    "trusted attribute": TarBuilder().pax({"SCHILY.xattr.trusted.a": "v"}).file("f", b"x"),
    "attribute of no namespace": TarBuilder().pax({"SCHILY.xattr.odd": "v"}).file("f", b"x"),
    "devices": TarBuilder().device("c", "char", 1, 3).device("b", "block", 8, 1),
    "fifo": TarBuilder().fifo("p"),
    "hard links": TarBuilder().file("f", b"x").hard_link("g", "f"),
    "hard links of a symlink": TarBuilder().symlink("f", "x").hard_link("g", "f"),
    "names": TarBuilder().file(b"\xff\n \\", b"x").file("n" * 255, b"x").directory("/".join(["p" * 200] * 20) + "/"),
    "paths beyond 4096 bytes": TarBuilder().directory("/".join(["p" * 200] * 30) + "/"),
}
"""One image for each row of the table, and some for what is next to it."""

LOST: dict[str, dict[str, set[str]]] = {
    "fractions of seconds": {"cpio": {"mtime"}, "squashfs": {"mtime"}},
    "before 1970": {"cpio": {"mtime"}, "squashfs": {"mtime"}},
    "before 1901": {"cpio": {"mtime"}, "squashfs": {"mtime"}, "ext4": {"mtime"}},
    "after 2106": {"cpio": {"mtime"}, "squashfs": {"mtime"}},
    "user attribute": {"cpio": {"xattr"}},
    "trusted attribute": {"cpio": {"xattr"}},
    "attribute of no namespace": {
        "dir": {"xattr"},
        "cpio": {"xattr"},
        "erofs": {"xattr"},
        "squashfs": {"xattr"},
        "ext4": {"xattr"},
        "layers": {"xattr"},
        "disk": {"xattr"},
    },
    "hard links of a symlink": {"cpio": {"hardlink"}},
    "paths beyond 4096 bytes": {"cpio": {"path"}},
}
"""Kinds of losses by feature and format; nothing is lost elsewhere, but for what `file_system_loses` says."""


def file_system_loses(folder: Path, feature: str) -> set[str]:
    """What a directory loses as the file system of the tests does not hold the time: ext4 and XFS begin in 1901."""
    times = {"before 1901": -3_000_000_000, "after 2106": 5_000_000_000, "before 1970": -1}
    if feature not in times:
        return set()
    probe = folder / "probe"
    probe.touch()
    os.utime(probe, (times[feature], times[feature]))
    return set() if probe.stat().st_mtime == times[feature] else {"mtime"}


@pytest.mark.root
@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("feature", list(FEATURES))
def test_exactly_what_is_lost_is_said(tmp_path: Path, feature: str, name: str) -> None:
    location = f"oci:{write_layout(tmp_path / 'layout', build_image([FEATURES[feature]]))}:app"
    lost = LOST.get(feature, {}).get(name, set()) | (file_system_loses(tmp_path, feature) if name == "dir" else set())
    done = compile_image(location, tmp_path / "out", format=name, options=CompileOptions(cache=False))
    assert {loss.kind for loss in done.losses} == lost
    assert all(loss.paths and loss.paths[0][:1] in (b"f", b"g", b"p") for loss in done.losses)
    strict = CompileOptions(cache=False, strict=True)
    if lost:
        with pytest.raises(LossError, match=f"^{name} cannot hold all of "):
            compile_image(location, tmp_path / "strict", format=name, options=strict)
        assert not (tmp_path / "strict").exists()
    else:
        compile_image(location, tmp_path / "strict", format=name, options=strict)


PLAIN_USER = """
import os, sys
from ocifast.compiler import CompileOptions, compile_image
location, folder = sys.argv[1:]
compile_image(location, folder + "/root", options=CompileOptions(cache=False))  # loads all that is needed
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
done = compile_image(location, folder + "/plain", options=CompileOptions(cache=False))
print(*sorted({loss.kind for loss in done.losses}))
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("feature", "lost"),
    [
        ("modes", ""),
        ("a closed root", ""),
        ("devices", "device"),
        ("trusted attribute", "xattr"),
        ("user attribute", ""),
        ("fifo", ""),
    ],
)
def test_a_directory_made_by_a_plain_user(feature: str, lost: str) -> None:
    folder = Path("/tmp") / f"ocifast-losses-{os.getpid()}"
    try:
        location = f"oci:{write_layout(folder / 'layout', build_image([FEATURES[feature]]))}:app"
        folder.chmod(0o777)
        said = run(sys.executable, "-c", PLAIN_USER, location, folder).decode().split()
        # All names of these images belong to root, which no plain user can give them to.
        assert said == sorted(["owner", *lost.split()])
        assert (folder / "plain").stat().st_mode == (folder / "root").stat().st_mode
        assert {path.name for path in folder.iterdir()} == {"layout", "root", "plain"}
    finally:
        shutil.rmtree(folder)

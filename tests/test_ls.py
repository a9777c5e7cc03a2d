"""`ocifast ls`: how entries are shown, and what one layer itself holds."""

from __future__ import annotations

import json
from pathlib import Path

import ocifast
import pytest
from ocifast.errors import UsageError

from tests.support.images import BuiltImage, Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import ocifast as command
from tests.support.run import try_ocifast

LOWER = TarBuilder().directory("etc/", mode=0o755).file("etc/a", b"a" * 2_345_678, mode=0o4755, mtime=1_700_000_000)
UPPER = (
    TarBuilder()
    .directory("etc/", mode=0o750)
    .whiteout("etc/a")
    .opaque("etc")
    .file("etc/b", b"b", uid=7, gid=8)
    .hard_link("etc/c", "etc/b")
    .symlink("etc/d", "b")
    .fifo("etc/e")
    .file("etc/b", b"bb")
    .member("plnk/.wh..wh.plnk/1", b"")
    .file("x\x1b[31m", mtime=1 << 60)
)
LISTED = """\
d /etc
w /etc/a  (whiteout)
o /etc  (opaque)
- /etc/b
h /etc/c link to /etc/b
l /etc/d -> b
p /etc/e
- /etc/b
? /plnk/.wh..wh.plnk/1  (bookkeeping)
- /x\\x1b[31m
"""


@pytest.fixture
def image() -> BuiltImage:
    return build_image([Layer(LOWER), Layer(UPPER)])


@pytest.fixture
def where(tmp_path: Path, image: BuiltImage) -> str:
    return f"oci:{write_layout(tmp_path, image)}:app"


def test_what_a_layer_holds(where: str, image: BuiltImage) -> None:
    for name in ("1", image.layers[1].diff_id, image.layers[1].diff_id[7:19], image.layers[1].digest):
        lines = command("ls", "--layer", name, where).decode().splitlines()
        # The columns between them are another test's.
        assert "".join(f"{line[0]} {line[line.index('/') :]}\n" for line in lines) == LISTED
    lines = command("ls", "--layer", "1", where, "/etc/b").decode().splitlines()
    assert [line.split()[3] for line in lines] == ["1", "2"]
    assert command("ls", "--layer", "0", where, "/none") == b""
    with ocifast.open(where) as found:
        entries = found.layer_entries(1)
        assert (entries[3].uid, entries[3].gid, entries[3].type, entries[4].target) == (7, 8, "file", "etc/b")
        assert [entry.path for entry in found.layer_entries(0)] == ["/etc", "/etc/a"]
    told = json.loads(command("ls", "--json", "--layer", "1", where))
    assert [entry["type"] for entry in told["entries"][:4]] == ["directory", "whiteout", "opaque", "file"]
    assert "inode" not in told["entries"][0]


def test_a_layer_that_is_not_there(where: str) -> None:
    for name in ("2", "sha256:", "abcxyz", ""):
        done = try_ocifast("ls", "--layer", name, where)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    with ocifast.open(where) as found, pytest.raises(UsageError, match="it has 2, from 0"):
        found.layer_entries(-1)


def test_no_other_layer_is_asked_for(registry: Registry, image: BuiltImage, tmp_path: Path) -> None:
    reference = registry.put(image, "ls/app:1")
    before = len(registry.requests())
    command("ls", "--layer", "0", reference, env={"OCIFAST_CACHE_DIR": str(tmp_path / "cache")})
    asked = " ".join(registry.requests()[before:])
    assert image.layers[0].digest in asked
    assert image.layers[1].digest not in asked


def test_sizes_and_times_for_people(tmp_path: Path) -> None:
    layers = [Layer(LOWER), Layer(TarBuilder().file("t", mtime=1 << 60))]
    where = f"oci:{write_layout(tmp_path, build_image(layers))}:app"
    line = "-rwsr-xr-x     0     0      2345678 2023-11-14 22:13:20 /etc/a"
    assert command("ls", where, "/etc").decode().splitlines() == [line]
    assert command("ls", "-l", where, "/etc").decode().splitlines() == [line]
    for options in (["-lh"], ["-h"], ["--human-readable"]):
        assert command("ls", *options, where, "/etc").decode().splitlines() == [
            "-rwsr-xr-x     0     0    2.3 MB 2023-11-14 22:13:20 /etc/a"
        ]
    # No calendar has such a year.
    assert f"@{1 << 60}" in command("ls", where, "/t").decode()
    assert b"Usage:" in command("ls", "--help")

"""Outputs come to the disk while they are written."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ocifast
import pytest
from ocifast import _core, early_writeback
from ocifast.early_writeback import LEAST, EarlyWriteback
from ocifast.workspace import Workspace

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder

FIRST, MORE = b"1" * LEAST, b"2" * LEAST


def until(is_so: Callable[[], bool]) -> None:
    """Waits for what a thread does."""
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Inode and size of what is brought to the disk early, when it is; nothing waits long between two looks."""
    monkeypatch.setattr(early_writeback, "PAUSE", 0.002)
    seen: list[tuple[int, int]] = []
    start = _core.start_writeback

    def noted(fd: int) -> None:
        status = os.fstat(fd)
        seen.append((status.st_ino, status.st_size))
        start(fd)

    monkeypatch.setattr(_core, "start_writeback", noted)
    return seen


def test_a_file_comes_to_the_disk_as_it_grows(begun: list[tuple[int, int]], tmp_path: Path) -> None:
    path, renamed = tmp_path / "growing", tmp_path / "renamed"
    early = EarlyWriteback(tmp_path / "never", path)
    with path.open("wb", buffering=0) as file:
        file.write(FIRST)
        until(lambda: len(begun) == 1)
        path.rename(renamed)
        file.write(MORE)
        until(lambda: len(begun) == 2)
        file.write(b"little")
        time.sleep(0.05)
    early.stop()
    inode = renamed.stat().st_ino
    assert [found for found, _ in begun] == [inode, inode]
    # While it is written; what a file system adds to the blocks of a file counts, too.
    assert LEAST // 2 < begun[0][1] <= LEAST < begun[1][1] <= 2 * LEAST


def test_a_file_that_never_comes_is_no_error(begun: list[tuple[int, int]], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "elsewhere").write_bytes(FIRST)
    early = EarlyWriteback(tmp_path / "link", tmp_path / "missing")
    time.sleep(0.05)
    early.stop()
    assert not begun


def test_it_is_a_help_and_no_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread, no file, a descriptor that is none."""
    _core.start_writeback(-1)
    with Path("/dev/null").open("rb") as null:
        _core.start_writeback(null.fileno())

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with Workspace(tmp_path / "out", is_directory=False) as space:
        space.begin_writeback(space.path / "output")
        (space.path / "output").write_bytes(FIRST)
        space.publish(space.path / "output")
    assert (tmp_path / "out").read_bytes() == FIRST


def test_nothing_of_it_is_left_when_the_folder_goes(begun: list[tuple[int, int]], tmp_path: Path) -> None:
    """Some file systems keep a name of a file that is removed while it is open."""
    opened = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        with Workspace(tmp_path / "out", is_directory=False) as space:
            space.begin_writeback(space.path / "output")
            (space.path / "output").write_bytes(FIRST)
            until(lambda: bool(begun))
            begun.clear()
        assert set(os.listdir("/proc/self/fd")) == opened  # noqa: PTH208
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.erofs", "out.ext4", "out.tar"])
@pytest.mark.parametrize("sync", [True, False])
def test_an_output_comes_to_the_disk_before_it_is_complete(
    name: str, sync: bool, begun: list[tuple[int, int]], tmp_path: Path
) -> None:
    noise = random.Random(1)
    layers = [TarBuilder().file(f"file-{number}", noise.randbytes(24 << 20)) for number in range(2)]
    image = f"oci:{write_layout(tmp_path / 'layout', build_image(layers))}:app"
    out = tmp_path / name
    ocifast.compile(image, out, options=ocifast.CompileOptions(cache=False, sync=sync))
    status = out.stat()
    assert bool(begun) is sync
    assert {inode for inode, _ in begun} <= {status.st_ino}
    if sync and name == "out.erofs":
        # The image in which contents wait is the output: it is written while layers arrive.
        assert begun[0][1] < status.st_size

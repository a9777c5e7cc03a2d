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
from ocifast import early_flush
from ocifast.early_flush import LEAST, EarlyFlush
from ocifast.errors import FileError
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
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Inode and size of what another thread flushes, when it does; nothing waits long between two looks."""
    monkeypatch.setattr(early_flush, "PAUSE", 0.002)
    seen: list[tuple[int, int]] = []
    fsync, ours = os.fsync, threading.get_ident()

    def noted(fd: int) -> None:
        if threading.get_ident() != ours:
            status = os.fstat(fd)
            seen.append((status.st_ino, status.st_size))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    return seen


def test_a_file_is_flushed_as_it_grows(flushed: list[tuple[int, int]], tmp_path: Path) -> None:
    path, renamed = tmp_path / "growing", tmp_path / "renamed"
    early = EarlyFlush(tmp_path / "never", path)
    with path.open("wb", buffering=0) as file:
        file.write(FIRST)
        until(lambda: len(flushed) == 1)
        path.rename(renamed)
        file.write(MORE)
        until(lambda: len(flushed) == 2)
        file.write(b"little")
        time.sleep(0.05)
    early.finish()
    inode = renamed.stat().st_ino
    assert [found for found, _ in flushed] == [inode, inode]
    # While it is written; what a file system adds to the blocks of a file counts, too.
    assert LEAST // 2 < flushed[0][1] <= LEAST < flushed[1][1] <= 2 * LEAST


def test_a_file_that_never_comes_is_no_error(flushed: list[tuple[int, int]], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "elsewhere").write_bytes(FIRST)
    early = EarlyFlush(tmp_path / "link", tmp_path / "missing")
    time.sleep(0.05)
    early.finish()
    assert not flushed


def test_what_the_system_says_once_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails says so to one flush only; the output does not get its name."""
    monkeypatch.setattr(early_flush, "PAUSE", 0.002)
    asked: list[int] = []

    def failing(fd: int) -> None:
        asked.append(fd)
        if len(asked) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    (tmp_path / "out").write_bytes(b"before")
    with Workspace(tmp_path / "out", is_directory=False) as space:
        space.flush_early(space.path / "output")
        (space.path / "output").write_bytes(FIRST)
        until(lambda: bool(asked))
        with pytest.raises(FileError, match=r"cannot write .*out: Input/output error"):
            space.publish(space.path / "output")
    assert (tmp_path / "out").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_who_gives_up_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_flush, "PAUSE", 0.002)
    asked, end = threading.Event(), threading.Event()

    def slow(fd: int) -> None:
        asked.set()
        end.wait(30)

    monkeypatch.setattr(os, "fsync", slow)
    begun = time.monotonic()
    with Workspace(tmp_path / "out", is_directory=False) as space:
        space.flush_early(space.path / "output")
        (space.path / "output").write_bytes(FIRST)
        assert asked.wait(30)
    assert time.monotonic() - begun < 25
    end.set()


@pytest.mark.parametrize("name", ["out.erofs", "out.ext4", "out.tar"])
@pytest.mark.parametrize("sync", [True, False])
def test_an_output_is_flushed_before_it_is_complete(
    name: str, sync: bool, flushed: list[tuple[int, int]], tmp_path: Path
) -> None:
    noise = random.Random(1)
    layers = [TarBuilder().file(f"file-{number}", noise.randbytes(24 << 20)) for number in range(2)]
    image = f"oci:{write_layout(tmp_path / 'layout', build_image(layers))}:app"
    out = tmp_path / name
    ocifast.compile(image, out, options=ocifast.CompileOptions(cache=False, sync=sync))
    status = out.stat()
    assert bool(flushed) is sync
    assert {inode for inode, _ in flushed} <= {status.st_ino}
    if sync and name == "out.erofs":
        # The image in which contents wait is the output: it is flushed while layers arrive.
        assert flushed[0][1] < status.st_size

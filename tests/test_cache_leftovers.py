"""What killed runs and cleared caches leave behind."""

from __future__ import annotations

import os
from pathlib import Path

from ocifast.cache import Cache

from tests.support.caches import HEX

KEY = "ab" * 32


def test_leftovers_of_a_killed_run_go_when_they_are_old(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.prepare()
    folder = cache.folder / "blobs/sha256"
    folder.mkdir(parents=True)
    old, new = folder / f".{HEX}.0123.tmp", folder / f".{HEX}.4567.tmp"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (1, 1))
    assert cache.info().blobs == 0
    cache.clear()
    assert list(folder.iterdir()) == [new]


def test_clearing_removes_lock_files(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    (tmp_path / "out").write_bytes(b"x")
    with cache.outputs.lock(KEY):
        cache.outputs.put(KEY, tmp_path / "out", manifest=b"{}", config=b"{}")
        cache.clear()
        assert [path.name for path in (cache.folder / "locks").iterdir()] == [f"{KEY}.lock"]
    cache.clear()
    assert list((cache.folder / "locks").iterdir()) == []
    with cache.outputs.lock(KEY):
        assert cache.outputs.get(KEY) is None

"""What killed runs and cleared caches leave behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast.cache import Cache
from ocifast.leftovers import is_private, private_name

from tests.support.caches import BLOB

KEY = "ab" * 32


@contextlib.contextmanager
def process_that_writes(cache: Cache) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of keeping a blob that somebody else is keeping, too, a decoded layer and an output."""
    code = (
        "import os, sys, time\n"
        "from ocifast.cache import Cache\n"
        "from ocifast.spec import Descriptor\n"
        "cache = Cache(sys.argv[1])\n"
        "blobs = [cache.blobs.writer(Descriptor('x', sys.argv[2], 1000)) for _ in range(2)]\n"
        "for blob in blobs: blob.write(b'x')\n"
        "layer = cache.decoded.writer('sha256:' + 'a' * 64)\n"
        "os.fchmod = lambda *_: (print('writing', flush=True), time.sleep(600))\n"
        "cache.outputs.put('b' * 64, __import__('pathlib').Path(sys.argv[3]), manifest=b'{}', config=b'{}')\n"
    )
    output = cache.folder.with_name("out")
    output.write_bytes(b"o" * 5000)
    words = [sys.executable, "-c", code, str(cache.folder), BLOB.digest, str(output)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


def unfinished(cache: Cache) -> list[Path]:
    """What is being written, or was."""
    return [path for path in cache.folder.rglob(".ocifast-*") if is_private(path.name)]


@pytest.mark.parametrize("sweep", ["prune", "clear", "next"])
def test_leftovers_of_a_killed_run_go_and_those_of_a_living_one_stay(sweep: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    with process_that_writes(cache) as process:
        assert len(unfinished(cache)) == 4
        for path in unfinished(cache):
            os.utime(path, (1, 1))
        cache.prune()
        assert len(unfinished(cache)) == 4, "whoever lives is left alone, however long he takes"
        process.kill()
        process.wait()
    assert len(unfinished(cache)) == 4
    match sweep:
        case "prune":
            cache.prune()
        case "clear":
            cache.clear()
        case _:
            # Only where something is made as well: another run that keeps an output.
            (tmp_path / "out").write_bytes(b"x")
            cache.outputs.put(KEY, tmp_path / "out", manifest=b"{}", config=b"{}")
    assert [path.parent.name for path in unfinished(cache)] == (["sha256"] if sweep == "next" else [])
    assert list((cache.folder / "tmp").iterdir()) == []


def test_data_of_a_layer_without_its_table_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.prepare()
    orphan = cache.folder / "layers/sha256/ab" / f"{KEY}.erofs"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x")
    with cache.decoded.lock():
        pass
    cache.prune()
    assert not orphan.exists()


def test_what_a_killed_removal_left_is_no_damage(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    (tmp_path / "out").write_bytes(b"x")
    with cache.outputs.lock(KEY):
        cache.outputs.put(KEY, tmp_path / "out", manifest=b"{}", config=b"{}")
    (cache.folder / "outputs" / KEY / "entry.json").unlink()
    assert [whole for _, whole in cache.verify()] == [True]
    assert list((cache.folder / "outputs").iterdir()) == []


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


@pytest.mark.parametrize("place", ["references", "tmp", "blobs/sha256", f"outputs/{KEY}"])
def test_leftovers_go_wherever_they_are(place: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.prepare()
    left = cache.folder / place / private_name(".tmp")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    cache.prune()
    assert not left.exists()

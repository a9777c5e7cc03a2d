"""Compiled outputs in the cache: whole, shared by all who want them, and never those of another key."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ocifast import _core
from ocifast.cache import Cache, output_key
from ocifast.cache.kept import this_boot

from tests.support.caches import BLOB, DATA, IMAGE, KEY, files, keep, logged, rot
from tests.support.documents import listing


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that is not there yet."""
    return Cache(tmp_path / "cache")


def test_keys_differ_in_everything_that_matters() -> None:
    changed: list[dict[str, Any]] = [
        {},
        {"manifest": BLOB.digest},
        {"format": "erofs"},
        {"backend": "sqfstar"},
        {"packer": "mksquashfs 4.7"},
        {"options": {"level": 4, "block": None}},
        {"options": {"level": 3}},
        {"options": {"level": "3", "block": None}},
    ]
    keys = [output_key(**{**KEY, **change}) for change in changed]
    assert len(set(keys)) == len(changed)
    assert all(len(key) == 64 for key in keys)
    assert output_key(**{**KEY, "options": {"block": None, "level": 3}}) == keys[0]
    # Pinned: a key that changes by accident throws everybody's cache away.
    assert keys[0] == "0df1a3de5ed7bb3ae240699bb374037282007fde4e7da1d0535e73212839bb69"


def test_an_output_is_kept_with_its_manifest_and_config(cache: Cache, tmp_path: Path) -> None:
    output = tmp_path / "out.squashfs"
    output.write_bytes(DATA)
    key = keep(cache, output, {"digest": "sha256:1", "losses": []})
    output.write_bytes(b"changed by its user")
    found = cache.outputs.get(key)
    assert found is not None
    assert (found.size, found.manifest, found.facts) == (len(DATA), IMAGE.raw, {"digest": "sha256:1", "losses": []})
    assert found.config == IMAGE.blobs[IMAGE.manifest["config"]["digest"]]
    before = os.umask(0o027)
    try:
        found.place(output)
        found.place(tmp_path / "private", mode=0o600)
    finally:
        os.umask(before)
    assert output.read_bytes() == (tmp_path / "private").read_bytes() == DATA
    assert (output.stat().st_mode & 0o777, (tmp_path / "private").stat().st_mode & 0o777) == (0o640, 0o600)
    output.write_bytes(b"changed again")
    assert found.path.read_bytes() == DATA
    assert [name for name in files(cache) if not name.startswith("locks/")] == [
        f"outputs/{key}/{name}" for name in ("config.json", "entry.json", "manifest.json", "output")
    ]


def test_holes_stay_holes(cache: Cache, tmp_path: Path) -> None:
    output = tmp_path / "out.ext4"
    with output.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(500 << 20)
        file.write(DATA)
    found = cache.outputs.get(keep(cache, output))
    assert found is not None
    found.place(tmp_path / "again")
    with (tmp_path / "again").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == 1 << 30
        assert os.fstat(file.fileno()).st_blocks * 512 < 4 << 20
        file.seek((500 << 20) - 10)
        assert file.read(len(DATA) + 20) == bytes(10) + DATA + bytes(10)


def damage(folder: Path, kind: str) -> None:
    """Makes one thing of an entry wrong."""
    entry = folder / "entry.json"
    match kind:
        case "shorter":
            (folder / "output").write_bytes(DATA[:-1])
        case "a link":
            (folder / "output").rename(folder / "elsewhere")
            (folder / "output").symlink_to("elsewhere")
        case "gone":
            (folder / "output").unlink()
        case "no entry":
            entry.unlink()
        case "entry is cut":
            entry.write_bytes(entry.read_bytes()[:-1])
        case "entry of another time":
            entry.write_text(json.dumps({"size": len(DATA)}))
        case "another manifest":
            (folder / "manifest.json").write_bytes(b"{}")
        case "another config":
            (folder / "config.json").write_bytes(b"{}")
        case _:
            raise AssertionError(kind)


@pytest.mark.root
@pytest.mark.parametrize(
    "kind",
    [
        "shorter",
        "a link",
        "gone",
        "no entry",
        "entry is cut",
        "entry of another time",
        "another manifest",
        "another config",
    ],
)
def test_a_damaged_output_is_a_miss(kind: str, cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "out").write_bytes(DATA)
    key = keep(cache, tmp_path / "out")
    damage(cache.folder / "outputs" / key, kind)
    assert cache.outputs.get(key) is None
    assert [line.split(": ")[0] for line in logged(caplog)] == [
        f"cached output {cache.folder}/outputs/{key} is damaged"
    ]
    assert listing(cache.folder / "outputs") == []
    assert cache.outputs.get(key) is None
    keep(cache, tmp_path / "out")
    assert cache.outputs.get(key) is not None


def test_a_byte_put_into_a_kept_output_is_a_miss(cache: Cache, tmp_path: Path) -> None:
    """The length and the time of the last change are as before."""
    (tmp_path / "out").write_bytes(DATA)
    key = keep(cache, tmp_path / "out")
    output = cache.folder / "outputs" / key / "output"
    before = output.stat()
    assert before.st_mode & 0o777 == 0o400
    output.chmod(0o600)
    with output.open("r+b") as file:
        file.seek(1000)
        file.write(b"EVIL")
    output.chmod(0o400)
    os.utime(output, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.outputs.get(key) is None
    assert listing(cache.folder / "outputs") == []


def test_a_cache_that_was_copied_is_hashed_once(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(DATA)
    key = keep(cache, tmp_path / "out")
    shutil.copytree(cache.folder, tmp_path / "moved")
    (tmp_path / "moved").chmod(0o700)
    moved = Cache(tmp_path / "moved")
    record = tmp_path / "moved/outputs" / key / "entry.json"
    before = record.read_bytes()
    found = moved.outputs.get(key)
    assert found is not None
    assert record.read_bytes() != before
    found.place(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == DATA
    settled = record.read_bytes()
    assert moved.outputs.get(key) is not None
    assert record.read_bytes() == settled


def test_what_was_written_before_the_system_started_is_hashed_once(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_bytes(DATA)
    key = keep(cache, tmp_path / "out")
    record = cache.folder / "outputs" / key / "entry.json"
    assert json.loads(record.read_bytes())["output"]["boot"] == this_boot() != ""
    monkeypatch.setattr("ocifast.cache.kept.this_boot", lambda: "the next one")
    hashed: list[int] = []
    digest = _core.file_digest

    def counted(fd: int, *, threads: int) -> str:
        hashed.append(fd)
        return digest(fd, threads=threads)

    monkeypatch.setattr(_core, "file_digest", counted)
    for _ in range(2):
        assert cache.outputs.get(key) is not None
        assert len(hashed) == 1
    assert json.loads(record.read_bytes())["output"]["boot"] == ""


def test_what_a_power_failure_left_of_an_output_is_a_miss(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names, sizes and times were on the disk, and the bytes were not."""
    (tmp_path / "out").write_bytes(DATA)
    key = keep(cache, tmp_path / "out")
    rot(cache.folder / "outputs" / key)
    assert cache.outputs.get(key) is not None, "nothing tells it from the one that was written"
    monkeypatch.setattr("ocifast.cache.kept.this_boot", lambda: "the next one")
    assert cache.outputs.get(key) is None
    assert listing(cache.folder / "outputs") == []


@pytest.mark.parametrize("name", ["entry.json", "manifest.json", "config.json", "output"])
def test_a_file_whose_bytes_never_came_to_the_disk_is_a_miss(name: str, cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(DATA)
    key = keep(cache, tmp_path / "out")
    file = cache.folder / "outputs" / key / name
    file.chmod(0o600)
    file.write_bytes(b"")
    assert cache.outputs.get(key) is None


def test_a_kept_file_is_waited_for_where_the_system_does_not_say_when_it_started(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocifast.cache.kept.this_boot", lambda: "")
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    (tmp_path / "out").write_bytes(DATA)
    keep(cache, tmp_path / "out")
    assert flushed == ["output"]


def test_damage_below_the_file_system_is_found_by_hashing(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(DATA)
    key = keep(cache, tmp_path / "out")
    rot(cache.folder / "outputs" / key)
    assert cache.outputs.get(key) is not None
    assert cache.outputs.get(key, always=True) is None


def test_a_link_of_the_right_length_is_no_output(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"elsewhere")
    key = keep(cache, tmp_path / "out")
    damage(cache.folder / "outputs" / key, "a link")
    assert cache.outputs.get(key) is None


@pytest.mark.root
def test_a_failed_copy_leaves_nothing(cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(cache, tmp_path / "missing")
    assert [line.split(":")[0] for line in logged(caplog)] == ["output missing is not cached"]
    assert [name for name in files(cache) if not name.startswith("locks/")] == []
    assert listing(cache.folder / "tmp") == []
    (tmp_path / "out").write_bytes(DATA)
    found = cache.outputs.get(keep(cache, tmp_path / "out"))
    assert found is not None
    found.path.write_bytes(DATA[:-1])
    caplog.clear()
    assert not found.place(tmp_path / "place")
    assert [line.split(":")[0] for line in logged(caplog)] == [f"cached output {found.path.parent} is damaged"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


def compile_once(cache: Cache, key: str, runs: list[int], output: Path) -> bytes:
    """What a caller does: looks, waits for the lock, looks again, makes it."""
    with cache.outputs.lock(key):
        found = cache.outputs.get(key)
        if found is None:
            runs.append(1)
            time.sleep(0.05)
            keep_unlocked(cache, key, output)
            found = cache.outputs.get(key)
    assert found is not None
    return found.path.read_bytes()


def keep_unlocked(cache: Cache, key: str, output: Path) -> None:
    """Puts an output while the lock is held."""
    cache.outputs.put(key, output, manifest=IMAGE.raw, config=b"{}")


def test_callers_who_want_the_same_share_one_run(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(DATA)
    runs: list[int] = []
    results: list[bytes] = []
    # Each has a cache of its own, as processes have.
    threads = [
        threading.Thread(
            target=lambda: results.append(compile_once(Cache(cache.folder), "a" * 64, runs, tmp_path / "out"))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (runs, results) == ([1], [DATA] * 6)


def test_a_process_waits_for_another(cache: Cache) -> None:
    code = (
        "import sys; from ocifast.cache import Cache\n"
        "with Cache(sys.argv[1]).outputs.lock('b' * 64):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(cache.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        held = threading.Event()

        def take() -> None:
            with cache.outputs.lock("b" * 64):
                held.set()

        waiter = threading.Thread(target=take)
        waiter.start()
        assert not held.wait(0.3)
        holder.stdin.close()
        waiter.join()
        assert held.is_set()

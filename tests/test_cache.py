"""The cache: blobs that go on where they ended, and nothing that others could have put there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ocifast.cache import Cache, output_key
from ocifast.errors import (
    CompressionError,
    DigestMismatchError,
    FileError,
    NetworkError,
    OcifastError,
    SizeMismatchError,
)
from ocifast.sources import FileSlice
from ocifast.spec import Descriptor

from tests.support.caches import BLOB, DATA, HEX, KEY, files, keep, logged
from tests.support.documents import listing
from tests.support.images import digest_of


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that is not there yet."""
    return Cache(tmp_path / "cache")


def test_nothing_is_made_before_it_is_needed(cache: Cache) -> None:
    assert cache.info().total_bytes == 0
    assert cache.clear() == 0
    assert not cache.folder.exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OCIFAST_CACHE_DIR", str(tmp_path / "named"))
    assert Cache().folder == tmp_path / "named"
    monkeypatch.delenv("OCIFAST_CACHE_DIR")
    assert Cache().folder == Path(os.environ["XDG_CACHE_HOME"]) / "ocifast"
    assert Cache(tmp_path).folder == tmp_path


def test_a_blob_is_kept(cache: Cache) -> None:
    assert cache.blobs.get(BLOB) is None
    cache.blobs.put(BLOB, DATA)
    found = cache.blobs.get(BLOB)
    assert found == FileSlice(cache.folder / "blobs/sha256" / HEX, 0, len(DATA))
    assert found.path.read_bytes() == DATA
    assert files(cache) == [f"blobs/sha256/{HEX}"]
    for folder in ("", "blobs", "blobs/sha256"):
        assert (cache.folder / folder).stat().st_mode & 0o777 == 0o700
    assert found.path.stat().st_mode & 0o777 == 0o600


def test_a_blob_goes_on_where_it_ended(cache: Cache) -> None:
    with cache.blobs.writer(BLOB) as first:
        assert (first.offset, first.resume_offset) == (0, 0)
        first.write(DATA[:300_000])
    assert files(cache) == [f"blobs/sha256/{HEX}.part"]
    with cache.blobs.writer(BLOB) as second:
        assert (second.offset, second.resume_offset) == (300_000, 300_000)
        assert b"".join(second.beginning()) == DATA[:300_000]
        second.write(DATA[300_000:500_000])
    with cache.blobs.writer(BLOB) as third:
        assert third.resume_offset == 500_000
        third.write(DATA[500_000:])
        third.commit()
    assert cache.blobs.get(BLOB) == FileSlice(cache.folder / "blobs/sha256" / HEX, 0, len(DATA))
    assert files(cache) == [f"blobs/sha256/{HEX}"]


def test_a_blob_goes_on_in_another_process(cache: Cache) -> None:
    code = (
        "import sys, os; from ocifast.cache import Cache; from ocifast.spec import Descriptor\n"
        "writer = Cache(sys.argv[1]).blobs.writer(Descriptor('x', sys.argv[2], int(sys.argv[3])))\n"
        "writer.write(bytes(range(256)) * 1000); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(cache.folder), BLOB.digest, str(BLOB.size)], check=False)
    assert done.returncode == -9
    with cache.blobs.writer(BLOB) as writer:
        assert writer.resume_offset == 256_000
        writer.write(DATA[256_000:])
        writer.commit()
    assert cache.blobs.verify(BLOB)


def test_two_writers_of_one_blob(cache: Cache) -> None:
    with cache.blobs.writer(BLOB) as first:
        first.write(DATA[:1000])
        with cache.blobs.writer(BLOB) as second:
            assert second.resume_offset == 0
            second.write(DATA[:10])
        # The second one left nothing, and took nothing from the first.
        assert files(cache) == [f"blobs/sha256/{HEX}.part"]
        with cache.blobs.writer(BLOB) as third:
            third.write(DATA)
            third.commit()
        first.write(DATA[1000:])
        first.commit()
    assert files(cache) == [f"blobs/sha256/{HEX}"]
    assert cache.blobs.verify(BLOB)


def test_a_writer_that_comes_between_the_end_and_the_name(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    with cache.blobs.writer(BLOB) as writer:
        writer.write(DATA[:10])
    part = cache.folder / f"blobs/sha256/{HEX}.part"

    def flock(descriptor: int, operation: int) -> None:
        # As if the other one had finished after we opened the file and before we locked it.
        if part.exists():
            part.rename(part.with_suffix(""))

    monkeypatch.setattr(fcntl, "flock", flock)
    with cache.blobs.writer(BLOB) as writer:
        assert writer.resume_offset == 0
        writer.write(b"?")
    assert part.with_suffix("").read_bytes() == DATA[:10]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([DATA[:-1]], SizeMismatchError),
        ([DATA, b"x"], SizeMismatchError),
        ([DATA[:-1], b"?"], DigestMismatchError),
    ],
)
@pytest.mark.parametrize("resumed", [b"", DATA[:1000]])
def test_nothing_stays_of_a_blob_that_does_not_match(
    chunks: list[bytes], expected: type[OcifastError], resumed: bytes, cache: Cache
) -> None:
    with cache.blobs.writer(BLOB) as writer:
        writer.write(resumed)

    def write() -> None:
        with cache.blobs.writer(BLOB) as writer:
            for chunk in b"".join(chunks)[len(resumed) :], b"":
                writer.write(chunk)
            writer.commit()

    with pytest.raises(expected):
        write()
    assert files(cache) == []


def test_who_hashes_the_bytes_need_not_have_them_hashed_again(cache: Cache) -> None:
    with cache.layers.writer(BLOB) as writer:
        writer.write(DATA[:1000])
    with cache.layers.writer(BLOB) as writer:
        assert (writer.resume_offset, writer.path.read_bytes()) == (1000, DATA[:1000])
        writer.write(b"?" * (len(DATA) - 1000))
        writer.commit()
    assert not cache.blobs.verify(BLOB)

    def find_wrong(error: OcifastError) -> None:
        with cache.layers.writer(BLOB) as writer:
            writer.write(DATA[:1000])
            raise error

    # Only what may be right is gone on from.
    for error, left in (
        (NetworkError("gone"), [f"blobs/sha256/{HEX}.part"]),
        (DigestMismatchError("wrong"), []),
        (CompressionError("damaged"), []),
    ):
        with pytest.raises(type(error)):
            find_wrong(error)
        assert files(cache) == left


def test_work_that_can_do_without_a_cache_goes_on_without(
    cache: Cache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes, offset: int | None = None) -> None:
        if offset:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ocifast.cache.blob_writer.write_all", full)
        with cache.layers.writer(BLOB) as writer:
            for start in range(0, len(DATA), 100_000):
                writer.write(DATA[start : start + 100_000])
            writer.commit()
        with cache.blobs.writer(BLOB) as strict:
            strict.write(DATA[:10])
            with pytest.raises(FileError, match="No space left on device"):
                strict.write(DATA[10:])
            strict.drop()
    assert files(cache) == []
    (full_disk,) = logged(caplog)
    assert re.fullmatch(
        f"nothing more is cached: the cache folder {cache.folder} cannot be written: No space left on device; free "
        r"some room, make it smaller \(ocifast cache prune\), or name another one in OCIFAST_CACHE_DIR, or do .*",
        full_disk,
    )
    # Nothing more is tried.
    with cache.layers.writer(BLOB) as writer:
        writer.write(DATA)
        writer.commit()
    assert files(cache) == []
    caplog.clear()
    cache = Cache(cache.folder)
    path = cache.folder / "blobs/sha256" / HEX
    # A folder stands in the way of the name.
    path.mkdir()
    (path / "x").touch()
    with cache.layers.writer(BLOB) as writer:
        writer.write(DATA)
        writer.commit()
    assert files(cache) == [f"blobs/sha256/{HEX}/x"]
    assert [line.split(": ")[0] for line in logged(caplog)] == [f"{BLOB.digest} is not cached"]


def test_a_damaged_beginning_is_noticed_and_removed(cache: Cache) -> None:
    with cache.blobs.writer(BLOB) as writer:
        writer.write(DATA[:1000])
    part = cache.folder / f"blobs/sha256/{HEX}.part"
    part.write_bytes(b"?" * 1000)
    with cache.blobs.writer(BLOB) as writer:
        writer.write(DATA[1000:])
        with pytest.raises(DigestMismatchError, match="it went on from what an earlier run had left"):
            writer.commit()
    part.write_bytes(DATA + b"too long")
    with cache.blobs.writer(BLOB) as writer:
        assert writer.resume_offset == 0
        writer.write(DATA)
        writer.commit()
    assert cache.blobs.verify(BLOB)


def test_a_damaged_blob_is_a_miss(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    cache.blobs.put(BLOB, DATA)
    path = cache.folder / "blobs/sha256" / HEX
    path.write_bytes(DATA[:-1])
    assert cache.blobs.get(BLOB) is None
    assert files(cache) == []
    cache.blobs.put(BLOB, DATA)
    path.write_bytes(DATA[:-1] + b"?")
    assert not cache.blobs.verify(BLOB)
    assert files(cache) == []
    path.symlink_to("/etc/passwd")
    assert cache.blobs.get(BLOB) is None
    assert cache.blobs.find(BLOB.digest, 1 << 20) is None
    assert logged(caplog) == [
        f"cached blob {path} is damaged: {len(DATA) - 1} bytes of {len(DATA)}",
        f"cached blob {path} is damaged: its digest is {digest_of(DATA[:-1] + b'?')}",
        f"cached blob {path} is damaged: Too many levels of symbolic links",
    ]


def test_folders_that_are_not_to_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    advice = r"name another one in OCIFAST_CACHE_DIR, or do without \(--no-cache\)"

    def refused(folder: Path, why: str) -> None:
        for use in (Cache(folder).prepare, Cache(folder).info, Cache(folder).clear, Cache(folder).prune):
            with pytest.raises(FileError, match=f"the cache folder {folder} {why}; {advice}"):
                use()
        # Work goes on without, and says so once.
        caplog.clear()
        cache = Cache(folder)
        assert cache.blobs.get(BLOB) is None
        assert cache.outputs.get("a" * 64) is None
        assert cache.decoded.get("sha256:" + "a" * 64) is None
        with cache.outputs.lock("a" * 64), cache.layers.writer(BLOB) as writer:
            writer.write(DATA)
            writer.commit()
        (told,) = logged(caplog)
        assert re.fullmatch(f"nothing is cached: the cache folder {folder} {why}; {advice}", told)

    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").touch()
    refused(full, "holds something else")
    assert listing(full) == ["letter.txt"]
    refused(full / "letter.txt", "is not a folder")
    cache = Cache(tmp_path / "cache")
    cache.prepare()
    cache.folder.chmod(0o770)
    with pytest.raises(FileError, match=f"others may write to the cache folder .*; chmod 700 it, or {advice}"):
        cache.prepare()
    cache.folder.chmod(0o755)
    cache.prepare()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    refused(cache.folder, "belongs to another user")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot make the cache folder"):
        Cache(tmp_path / "file/cache").prepare()


def used(path: Path, age: int) -> None:
    """Sets when a file or folder was used last."""
    moment = time.time() - age
    os.utime(path, (moment, moment))


def fill(cache: Cache, output: Path) -> None:
    """Blobs of 1 MiB used 100, 200 and 300 s ago, a beginning used 400 s ago, and an output used 150 s ago."""
    for number, age in enumerate((100, 200, 300, 400)):
        data = bytes([number]) * (1 << 20)
        descriptor = Descriptor("x", digest_of(data), len(data))
        with cache.blobs.writer(descriptor) as writer:
            writer.write(data if age != 400 else data[:-1])
            if age != 400:
                writer.commit()
        name = descriptor.digest.removeprefix("sha256:") + (".part" if age == 400 else "")
        used(cache.folder / "blobs/sha256" / name, age)
    output.write_bytes(b"o" * (1 << 20))
    used(cache.folder / "outputs" / keep(cache, output), 150)


def counts(cache: Cache) -> tuple[int, int, int]:
    """Blobs, beginnings and outputs."""
    info = cache.info()
    return info.blobs, info.partial, info.outputs


def test_what_is_in_the_cache_is_counted(cache: Cache, tmp_path: Path) -> None:
    fill(cache, tmp_path / "out")
    info = cache.info()
    assert (info.folder, info.blobs, info.partial, info.outputs) == (cache.folder, 3, 1, 1)
    assert (info.blob_bytes, info.partial_bytes) == (3 << 20, 1 << 20)
    assert 1 << 20 <= info.output_bytes <= (1 << 20) + 65536
    assert info.total_bytes == info.blob_bytes + info.partial_bytes + info.output_bytes + info.layer_bytes


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, (3, 1, 1)),
        ({"older_than": 350}, (3, 0, 1)),
        ({"older_than": 250}, (2, 0, 1)),
        ({"older_than": 120}, (1, 0, 0)),
        ({"max_bytes": 10 << 20}, (3, 1, 1)),
        ({"max_bytes": 9 << 19}, (3, 0, 1)),
        ({"max_bytes": 5 << 19}, (1, 0, 1)),
        ({"max_bytes": 0}, (0, 0, 0)),
        ({"max_bytes": 9 << 19, "older_than": 120}, (1, 0, 0)),
    ],
)
def test_what_was_used_longest_ago_goes_first(
    options: dict[str, Any], left: tuple[int, int, int], cache: Cache, tmp_path: Path
) -> None:
    fill(cache, tmp_path / "out")
    before = cache.info().total_bytes
    freed = cache.prune(**options)
    assert counts(cache) == left
    assert cache.info().total_bytes == before - freed


def test_a_hit_counts_as_use(cache: Cache, tmp_path: Path) -> None:
    fill(cache, tmp_path / "out")
    data = bytes([2]) * (1 << 20)
    assert cache.blobs.get(Descriptor("x", digest_of(data), len(data))) is not None
    assert cache.outputs.get(output_key(**KEY)) is not None
    cache.prune(older_than=50)
    assert counts(cache) == (1, 0, 1)


def test_what_is_in_use_stays(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(DATA)
    key = keep(cache, tmp_path / "out")
    with cache.blobs.writer(BLOB) as writer, cache.outputs.lock(key):
        writer.write(DATA[:10])
        Cache(cache.folder).clear()
        assert counts(cache) == (0, 1, 1)
        writer.write(DATA[10:])
        writer.commit()
    cache.clear()
    assert counts(cache) == (0, 0, 0)

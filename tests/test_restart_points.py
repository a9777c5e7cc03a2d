"""Restart points of cached blobs: they change nothing of what is made, and nothing in them is believed."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from ocifast import _core
from ocifast.cache import Cache, CachedSource
from ocifast.errors import CompressionError, FileError, OcifastError
from ocifast.flatten import FlattenOptions, flatten
from ocifast.image import open_image, resolve
from ocifast.points import RunPoints
from ocifast.sources import FileSlice, RestartPoints
from ocifast.sources.open import open_source, parse_location
from ocifast.spec import Descriptor

from tests.support.caches import files, logged
from tests.support.images import BuiltImage, Layer, build_image
from tests.support.layers import TarBuilder
from tests.support.registry import Registry


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that is not there yet."""
    return Cache(tmp_path / "cache")


def archive(mebibytes: int = 16) -> bytes:
    """Bytes of which half come again."""
    noise = hashlib.shake_256(b"noise").digest(mebibytes << 19)
    tar = TarBuilder().directory("usr/")
    for index in range(mebibytes):
        part = noise[index << 19 : (index + 1) << 19]
        tar.file(f"usr/{index}", part + part[::-1][:1000] * 500)
    return tar.build()


def image_of(blob: bytes | None = None, tar: bytes | None = None) -> BuiltImage:
    tar = tar or archive()
    return build_image([Layer(tar, blob=blob or gzip.compress(tar, 1, mtime=0))])


def dump(name: str, cache: Cache | None, decoders: int = 2, *, keep: bool = False) -> bytes:
    """The tree of a registry's image, its blobs kept in the cache."""
    store = Cache(Path("/nonexistent")) if cache is None else cache
    source = open_source(parse_location(name))
    source = source if cache is None else CachedSource(source, cache.blobs, layers=False)
    options = FlattenOptions(decoders=decoders)
    if cache is not None:
        layers = store.decoded if keep else None
        options = FlattenOptions(decoders=decoders, blobs=store.layers, layers=layers, keep_layers=keep)
    with resolve(source) as image, flatten(image, options=options) as tree:
        return tree.dump()


def points(cache: Cache) -> Path:
    """The only file of restart points."""
    (found,) = (path for path in cache.folder.glob("points/*/*") if path.suffix != ".entries")
    return found


def test_points_are_kept_beside_the_blob_and_used(cache: Cache, registry: Registry) -> None:
    image = image_of()
    name = registry.put(image, "points/one:1")
    expected = dump(name, None)
    assert dump(name, cache) == expected
    layer = image.layers[0]
    place = points(cache)
    assert place.name == layer.digest.removeprefix("sha256:")
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_size < len(layer.blob) // 50
    before = place.stat().st_mtime_ns, place.stat().st_ino
    for decoders in (1, 2, 4):
        assert dump(name, cache, decoders) == expected
        assert (place.stat().st_mtime_ns, place.stat().st_ino) == before
    info = cache.info()
    both = place, place.with_name(place.name + ".entries")
    assert (info.points, info.point_bytes) == (1, sum(path.stat().st_blocks * 512 for path in both))
    assert all(whole for _, whole in cache.verify())


@pytest.mark.parametrize("what", ["flipped", "cut", "longer", "old", "foreign", "folder"])
def test_what_is_damaged_is_a_miss_and_noted_again(
    what: str, cache: Cache, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    name = registry.put(image_of(), f"points/{what}:1")
    expected = dump(name, cache)
    place = points(cache)
    good = place.read_bytes()
    bad = bytearray(good)
    match what:
        case "flipped":
            bad[len(bad) // 2] ^= 1
        case "cut":
            del bad[-100:]
        case "longer":
            bad += b"x"
        case "old":
            bad[-32 - 40 + 8] += 1
            bad[-32:] = hashlib.sha256(bad[:-32]).digest()
        case "foreign":
            # Of another blob, as it says itself.
            at = bad.rindex(b"sha256:")
            bad[at + 7 : at + 17] = b"0123456789"
            bad[-32:] = hashlib.sha256(bad[:-32]).digest()
    place.unlink()
    if what == "folder":
        place.mkdir()
    else:
        place.write_bytes(bad)
    assert dump(name, cache) == expected
    assert [line for line in logged(caplog) if str(place) in line]
    if what == "folder":
        place.rmdir()
        assert dump(name, cache) == expected
    assert points(cache).read_bytes() == good


def test_those_of_another_stream_give_no_wrong_byte(
    cache: Cache, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    tar = archive()
    name = registry.put(image_of(tar=tar), "points/lie:1")
    expected = dump(name, cache)
    place = points(cache)
    good = place.read_bytes()
    # The windows of the others, with a checksum that is right.
    windows = len(good) // 2
    lie = good[1:windows] + good[:1] + good[windows:-32]
    place.write_bytes(lie + hashlib.sha256(lie).digest())
    assert dump(name, cache, 4) == expected
    if not place.exists():
        assert "another stream" in logged(caplog)[-1]
        assert dump(name, cache) == expected
    assert points(cache).exists()


def test_a_damaged_blob_is_said_as_ever(cache: Cache, registry: Registry) -> None:
    tar = archive()
    blob = bytearray(gzip.compress(tar, 1, mtime=0))
    name = registry.put(image_of(tar=tar), "points/good:1")
    dump(name, cache)
    good = points(cache).read_bytes()
    blob[len(blob) // 2] ^= 1
    damaged = image_of(bytes(blob), tar)
    digest, size = damaged.layers[0].digest, len(blob)
    # Points that say they are of the damaged blob.
    at = good.rindex(b"sha256:")
    lie = good[:at] + digest.encode() + good[at + len(digest) : -40] + size.to_bytes(8, "little")
    bad = registry.put(damaged, "points/bad:1")
    with pytest.raises(OcifastError) as alone:
        dump(bad, None)
    other = Cache(cache.folder.with_name("other"))
    with pytest.raises(OcifastError):
        dump(bad, other)
    other.blobs.put(Descriptor("x", digest, size), bytes(blob))
    place = other.folder / "points/sha256" / digest.removeprefix("sha256:")
    assert not place.exists(), "nothing is noted of what was not verified"
    place.parent.mkdir(parents=True)
    place.write_bytes(lie + hashlib.sha256(lie).digest())
    with pytest.raises(CompressionError) as seen:
        dump(bad, other)
    assert str(seen.value) == str(alone.value)


def test_points_go_with_their_blob(cache: Cache, registry: Registry) -> None:
    image = image_of()
    name = registry.put(image, "points/gone:1")
    dump(name, cache)
    place = points(cache)
    (blob,) = [entry for entry in cache.entries() if entry.kind == "blob" and entry.name == image.layers[0].digest]
    on_disk = (cache.folder / "blobs/sha256" / place.name).stat().st_blocks * 512
    assert blob.size == on_disk + cache.info().point_bytes
    assert cache.clear() > 0
    assert not place.exists()
    dump(name, cache)
    # A blob that was removed by hand takes its points along at the next prune.
    (cache.folder / "blobs/sha256" / place.name).unlink()
    cache.prune()
    assert not list(place.parent.iterdir())


def test_verify_finds_damaged_points(cache: Cache, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    name = registry.put(image_of(), "points/verify:1")
    dump(name, cache)
    place = points(cache)
    data = bytearray(place.read_bytes())
    data[10] ^= 1
    place.write_bytes(data)
    assert all(whole for _, whole in cache.verify())
    assert not place.exists()
    assert str(place) in logged(caplog)[-1]


def test_nothing_is_noted_of_what_is_kept_decoded(cache: Cache, registry: Registry) -> None:
    name = registry.put(image_of(), "points/decoded:1")
    dump(name, cache, keep=True)
    assert not [file for file in files(cache) if file.startswith("points/")]


def test_nothing_is_left_where_nothing_can_be_written(
    cache: Cache, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = registry.put(image_of(), "points/full:1")
    expected = dump(name, cache)
    for path in cache.folder.glob("points/*/*"):
        path.unlink()
    beside = cache._place.beside

    def full() -> Path:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(cache._place, "beside", full)
    assert dump(name, cache) == expected
    assert not list(cache.folder.glob("points/*/*"))
    assert "No space left on device" in logged(caplog)[-1]
    monkeypatch.setattr(cache._place, "beside", beside)


def test_the_file_is_checked_by_itself(cache: Cache, registry: Registry, tmp_path: Path) -> None:
    image = image_of()
    dump(registry.put(image, "points/check:1"), cache)
    layer = image.layers[0]
    with points(cache).open("rb") as file:
        _core.check_points(file.fileno(), layer.digest, len(layer.blob))
        with pytest.raises(FileError, match="of another blob"):
            _core.check_points(file.fileno(), layer.digest, len(layer.blob) + 1)
    with (tmp_path / "empty").open("w+b") as file, pytest.raises(FileError, match="too short"):
        _core.check_points(file.fileno(), layer.digest, len(layer.blob))


def entries(cache: Cache) -> Path:
    """The file with the entries beside the points."""
    return next(path for path in cache.folder.glob("points/*/*") if path.suffix == ".entries")


def contents(name: str, cache: Cache, *paths: str) -> list[bytes]:
    """Files of an image that is looked into."""
    with open_image(name, cache=cache) as image, image.peek() as peek:
        return [peek.read_bytes(path) for path in paths]


def test_a_file_is_read_without_the_rest(
    cache: Cache, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noise = hashlib.shake_256(b"other").digest(1 << 20)
    tar = TarBuilder().raw(archive()[:-1024]).file("usr/late", noise).hard_link("usr/again", "usr/late")
    tar.sparse("usr/sparse", [(8192, noise[:3000]), (400_000, b"end")], 500_000).file("usr/empty", b"")
    tar.file("usr/" + "long" * 60, b"a long name").symlink("usr/link", "late")
    image = build_image([Layer(tar.build()), TarBuilder().file("etc/above", b"above")])
    name = registry.put(image, "points/cat:1")
    paths = ["usr/late", "usr/0", "usr/again", "usr/sparse", "usr/empty", "usr/" + "long" * 60, "usr/link", "usr/15"]
    expected = contents(name, Cache(cache.folder.with_name("other")), *paths)
    assert expected[0] == expected[2] == expected[6] == noise
    assert contents(name, cache, "usr/late") == [noise]
    assert entries(cache).exists()
    asked: list[bool] = []
    adopt = RunPoints._adopt

    def counted(self: RunPoints, index: int, local: FileSlice, points: RestartPoints) -> bool:
        asked.append(adopt(self, index, local, points))
        return asked[-1]

    monkeypatch.setattr(RunPoints, "_adopt", counted)
    for path, data in zip(paths, expected, strict=True):
        assert contents(name, cache, path) == [data]
    assert contents(name, cache, *paths) == expected
    assert asked.count(True) >= len(paths)
    with open_image(name, cache=cache) as found, found.peek() as peek, peek.open("usr/late") as file:
        file.seek(1000)
        assert file.read(500) == noise[1000:1500]
    assert not logged(caplog)


@pytest.mark.parametrize("what", ["points", "entries", "both"])
def test_a_file_is_read_whatever_became_of_the_points(
    what: str, cache: Cache, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    name = registry.put(image_of(), "points/catlies:1")
    expected = contents(name, cache, "usr/3", "usr/12")
    kept, table = entries(cache).with_suffix(""), entries(cache)
    for path in {"points": [kept], "entries": [table], "both": [kept, table]}[what]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert contents(name, cache, "usr/3", "usr/12") == expected
    assert logged(caplog)
    assert contents(name, cache, "usr/3", "usr/12") == expected
    assert entries(cache).exists()


def test_windows_that_lie_give_no_wrong_file(
    cache: Cache, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    name = registry.put(image_of(), "points/catwindows:1")
    paths = [f"usr/{index}" for index in range(16)]
    expected = contents(name, cache, *paths)
    table = entries(cache)
    kept = table.with_suffix("")
    good = kept.read_bytes()
    end = good.rindex(b"sha256:")
    # Some bytes of the windows, and of the row of the last point that has one.
    for at in [*range(0, end, end // 25), *range(end - 80, end - 40, 3)]:
        lie = bytearray(good[:-32])
        lie[at] ^= 4
        kept.write_bytes(lie + hashlib.sha256(lie).digest())
        caplog.clear()
        assert contents(name, cache, *paths) == expected
        # What is found wrong before the blob is read is noted again at once.
        assert not (kept.exists() or table.exists()) or kept.read_bytes() == good, at
        assert [line for line in logged(caplog) if str(kept) in line], at
        assert contents(name, cache, *paths) == expected
        assert (kept.read_bytes(), table.exists()) == (good, True), at


def test_entries_that_lie_are_found_out_once(
    cache: Cache, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    name = registry.put(image_of(), "points/catentries:1")
    expected = contents(name, cache, "usr/3")
    table = entries(cache)
    good = table.read_bytes()
    wrong = 0
    begin = good.index(b"usr/3") + 5
    for at in range(begin, good.index(b"usr/4") - 3):
        lie = bytearray(good)
        lie[at] ^= 1
        lie[64:96] = hashlib.sha256(lie[:64] + lie[96:]).digest()
        table.write_bytes(lie)
        caplog.clear()
        try:
            assert contents(name, cache, "usr/3") == expected
        except FileError:
            wrong += 1
            assert "are not used, and noted again" in logged(caplog)[-1], at
            assert contents(name, cache, "usr/3") == expected
            assert table.read_bytes() == good, at
    assert wrong


def test_entries_of_another_layer_are_not_believed(cache: Cache, registry: Registry) -> None:
    one = registry.put(image_of(), "points/one:2")
    other = registry.put(image_of(tar=archive(17)), "points/other:2")
    expected = contents(one, cache, "usr/3")
    table = entries(cache)
    elsewhere = Cache(cache.folder.with_name("elsewhere"))
    contents(other, elsewhere, "usr/3")
    table.write_bytes(entries(elsewhere).read_bytes())
    assert contents(one, cache, "usr/3") == expected

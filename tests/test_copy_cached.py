"""Images that are copied through the cache, and blobs of layouts that are trusted only after they were hashed."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import tarfile
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.cache import Cache
from ocifast.sources.layout_destination import LayoutDestination

from tests.support.caches import logged
from tests.support.documents import listing
from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import BuiltImage, build_image, digest_of, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import COMMAND
from tests.test_shared_blocks import blocks, disk

__all__ = ["disk"]

NOISE = random.Random(4).randbytes(3_000_000)


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    """A registry in memory."""
    with serve_faulty() as running:
        yield running


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    """Two layers, one of which does not compress."""
    return build_image([TarBuilder().file("a", b"a"), TarBuilder().file("noise", NOISE)])


def fetched(server: FaultyRegistry) -> list[str]:
    """The blobs that were asked for since the last time, in order."""
    lines = [line for line in server.lines if line.startswith("GET") and "/blobs/" in line]
    server.requests.clear()
    return [line.split("/blobs/")[1] for line in lines]


def all_blobs(image: BuiltImage) -> list[str]:
    return sorted([image.manifest["config"]["digest"], *(layer.digest for layer in image.layers)])


def whole(layout: Path, image: BuiltImage) -> bool:
    """Whether all blobs of an image are in a layout, byte for byte."""
    return all(
        (layout / "blobs" / digest.replace(":", "/")).read_bytes() == data for digest, data in image.all_blobs().items()
    )


@pytest.mark.slow
def test_what_one_command_fetched_no_other_fetches_again(
    server: FaultyRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    name = server.put(image, "app:1")
    cache = Cache()
    ocifast.pull(name, f"oci:{tmp_path}/one:app", cache=cache)
    assert sorted(fetched(server)) == all_blobs(image)
    ocifast.pull(name, f"oci:{tmp_path}/two:app", cache=cache)
    ocifast.copy(name, f"oci-archive:{tmp_path}/three.tar", cache=cache)
    ocifast.copy(name, f"docker-archive:{tmp_path}/four.tar", cache=cache)
    ocifast.compile(name, tmp_path / "five.tar")
    for words in (["ls"], ["cat"], ["du"], ["history"], ["inspect"]):
        subprocess.run(
            [COMMAND, *words, name, *(["a"] if words == ["cat"] else [])], check=True, stdout=subprocess.DEVNULL
        )
    assert fetched(server) == []
    assert whole(tmp_path / "one", image)
    assert whole(tmp_path / "two", image)
    ocifast.pull(name, f"oci:{tmp_path}/six:app")
    assert sorted(fetched(server)) == all_blobs(image)
    subprocess.run([COMMAND, "pull", "--no-cache", "-q", name, f"oci:{tmp_path}/7"], check=True, capture_output=True)
    assert sorted(fetched(server)) == all_blobs(image)
    # Never one file under two names.
    for path in (tmp_path / "one/blobs").rglob("*"):
        assert path.is_dir() or path.stat().st_nlink == 1


def test_what_compile_fetched_is_pulled_from_the_cache(
    server: FaultyRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    name = server.put(image, "app:1")
    ocifast.compile(name, tmp_path / "out.erofs")
    fetched(server)
    ocifast.pull(name, f"oci:{tmp_path}/layout:app", cache=Cache())
    assert (fetched(server), whole(tmp_path / "layout", image)) == ([], True)


@pytest.mark.root
def test_extents_are_shared_between_cache_and_layouts(
    disk: Path,
    server: FaultyRegistry,
    image: BuiltImage,
    tmp_path: Path,
) -> None:
    name = server.put(image, "app:1")
    cache = Cache(disk / "cache")
    ocifast.pull(name, f"oci:{disk}/one:app", cache=cache)
    ocifast.copy(f"oci:{disk}/one:app", f"oci:{disk}/two:app")
    large = max(image.layers, key=lambda layer: len(layer.blob)).digest.replace(":", "/")
    files = [cache.folder / "blobs" / large, disk / "one/blobs" / large, disk / "two/blobs" / large]
    assert len(blocks(files[0])) > 700
    assert blocks(files[0]) == blocks(files[1]) == blocks(files[2])
    assert {path.stat().st_nlink for path in files} == {1}
    # Whoever writes to one of them changes no other.
    with files[1].open("r+b") as file:
        file.write(b"EVIL")
    assert files[0].read_bytes() == files[2].read_bytes() != files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["oci:{}/layout:app", "oci-archive:{}/app.tar"])
def test_a_killed_pull_goes_on_where_it_stopped(
    where: str, server: FaultyRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    name = server.put(image, "app:1")
    large = max(image.layers, key=lambda layer: len(layer.blob))
    half = len(large.blob) // 2

    def script(request: Request) -> Answer | None:
        stalls = request.path.endswith(large.digest) and "range" not in request.headers
        return replace(server.obey(request), cut=half, stall=60) if stalls else None

    server.script = script
    words = [str(COMMAND), "pull", "-q", name, where.format(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    part = Cache().folder / "blobs" / (large.digest.replace(":", "/") + ".part")
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == half):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    fetched(server)
    done = subprocess.run([*words, "--json"], check=True, capture_output=True)
    assert json.loads(done.stdout)["digest"] == image.digest
    assert fetched(server)[-1] == f"{large.digest} bytes={half}-"
    if where.startswith("oci:"):
        assert whole(tmp_path / "layout", image)
        assert not [path for path in listing(tmp_path / "layout") if ".ocifast-" in path]


def test_a_blob_in_a_layout_is_hashed_before_it_is_relied_on(
    server: FaultyRegistry, image: BuiltImage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = server.put(image, "app:1")
    location = f"oci:{tmp_path}/layout:app"
    ocifast.pull(name, location)
    large = max(image.layers, key=lambda layer: len(layer.blob))
    path = tmp_path / "layout/blobs" / large.digest.replace(":", "/")
    path.write_bytes(large.blob[:-1] + b"?")
    fetched(server)
    result = ocifast.pull(name, location)
    assert fetched(server) == [large.digest]
    assert (result.copied, result.existing) == (1, 2)
    assert whole(tmp_path / "layout", image)
    (told,) = logged(caplog)
    assert told.startswith(f"{location}: blob {large.digest} is damaged, and replaced: ")


@pytest.mark.parametrize("damage", ["changed", "shorter", "removed"])
def test_a_damaged_blob_of_the_cache_is_fetched_anew(
    damage: str, server: FaultyRegistry, image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = server.put(image, "app:1")
    cache = Cache()
    ocifast.pull(name, f"oci:{tmp_path}/one:app", cache=cache)
    fetched(server)
    large = max(image.layers, key=lambda layer: len(layer.blob))
    path = cache.folder / "blobs" / large.digest.replace(":", "/")
    if damage == "removed":
        # At the worst moment: after it was found.
        get = cache.blobs.get

        def vanishing(descriptor: ocifast.Descriptor) -> object:
            found = get(descriptor)
            if descriptor.digest == large.digest:
                path.unlink(missing_ok=True)
                monkeypatch.setattr(cache.blobs, "get", get)
            return found

        monkeypatch.setattr(cache.blobs, "get", vanishing)
    else:
        path.write_bytes(large.blob[:-1] + (b"?" if damage == "changed" else b""))
    ocifast.pull(name, f"oci:{tmp_path}/two:app", cache=cache)
    assert fetched(server) == [large.digest]
    assert whole(tmp_path / "two", image)
    assert path.read_bytes() == large.blob


@pytest.mark.parametrize("form", ["oci", "docker-archive", "tar"])
@pytest.mark.parametrize("alive", [True, False])
def test_what_another_run_wrote_of_a_blob_may_be_damaged(
    form: str, alive: bool, server: FaultyRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    """Whoever follows it or goes on from it fetches the blob anew, once, though the other run still writes."""
    name = server.put(image, "app:1")
    large = max(image.layers, key=lambda layer: len(layer.blob))
    descriptor = ocifast.Descriptor(large.media_type, large.digest, len(large.blob))
    with Cache().blobs.writer(descriptor) as other:
        other.write(large.blob[: None if alive else -1000])
        with other.path.open("r+b") as file:
            file.seek(len(large.blob) // 2)
            file.write(b"damage")
        if not alive:
            other.close()
        if form == "tar":
            ocifast.compile(name, tmp_path / "out", format="tar", platform="linux/amd64")
        else:
            ocifast.copy(name, f"{form}:{tmp_path}/out:app", cache=Cache(), platform="linux/amd64")
    # The rest of what was left, and then all of it.
    asked = [request.headers.get("range") for request in server.requests if large.digest in request.line]
    assert asked == ([None] if alive else [f"bytes={len(large.blob) - 1000}-", None])
    if form == "oci":
        assert whole(tmp_path / "out", image)
        return
    with tarfile.open(tmp_path / "out") as archive:
        files = [archive.extractfile(member) for member in archive if member.isfile()]
        held = {digest_of(file.read()) for file in files if file is not None}
    assert (digest_of(NOISE) if form == "tar" else large.diff_id) in held


@pytest.mark.parametrize(
    "target", ["oci:{}/out:app", "oci-archive:-", "docker-archive:-", "registry", "erofs", "out.tar"]
)
def test_what_is_damaged_of_many_blobs_is_fetched_anew(
    target: str, server: FaultyRegistry, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Each by itself, however many they are; what a killed run left of a blob, and whole ones."""
    noise = random.Random(5)
    # What DEFLATE compresses, so that a reader of it stumbles over the damage long before the end of the blob.
    contents = [noise.randbytes(150_000).hex().encode() for _ in range(8)]
    image = build_image([TarBuilder().file(f"{number}", content) for number, content in enumerate(contents)])
    name, cache = server.put(image, "app:1"), Cache()
    ocifast.pull(name, f"oci:{tmp_path}/one:app", cache=cache)
    for number, layer in enumerate(image.layers):
        path = cache.folder / "blobs" / layer.digest.replace(":", "/")
        if number % 2:
            path.write_bytes(layer.blob[:1000] + b"damage" + layer.blob[1006:])
        else:
            path.unlink()
            path.with_name(f"{path.name}.part").write_bytes(layer.blob[:1000] + b"damage")
    fetched(server)
    rewritten: dict[str, Any] = {"layers": "erofs", "draft": True} if target == "erofs" else {}
    with serve_faulty() as other:
        place = {"registry": f"{other.host}/app:1", "erofs": f"oci:{tmp_path}/erofs:app"}.get(target, target)
        if target == "out.tar":
            ocifast.compile(name, tmp_path / target, platform="linux/amd64")
        else:
            ocifast.copy(name, place.format(tmp_path), cache=cache, platform="linux/amd64", **rewritten)
    asked = [blob for blob in fetched(server) if "bytes=" not in blob]
    assert set(asked) == {layer.digest for layer in image.layers}
    # Those that are decoded come together, and are broken off together.
    assert target in ("erofs", "out.tar") or len(asked) == len(image.layers)
    assert all(whole for _, whole in cache.verify())
    if target.endswith(":-"):
        (tmp_path / "out.tar").write_bytes(capfdbinary.readouterr().out)
        ocifast.copy(f"{target.removesuffix('-')}{tmp_path}/out.tar", f"oci:{tmp_path}/out:app")


def test_a_config_that_a_killed_run_left_damaged_is_fetched_anew(server: FaultyRegistry, tmp_path: Path) -> None:
    """It is read before anything is moved, where a platform is chosen."""
    image, cache = build_image([TarBuilder().file("a", NOISE)]), Cache()
    name = server.put(image, "app:1")
    place = cache.folder / "blobs" / image.manifest["config"]["digest"].replace(":", "/")
    ocifast.pull(name, f"oci:{tmp_path}/one:app", cache=cache)
    raw = place.read_bytes()
    place.unlink()
    place.with_name(f"{place.name}.part").write_bytes(raw[:100] + b"damage")
    for path in cache.folder.glob("references/**/*"):
        if path.is_file():
            path.unlink()
    ocifast.copy(name, f"oci:{tmp_path}/two:app", cache=cache, platform="linux/amd64")
    assert place.read_bytes() == raw


def reachable(root: object) -> list[object]:
    """All that an object holds, however deep; not what all objects of its class share."""
    found, new = {id(root): root}, [root]
    while new:
        for each in gc.get_referents(new.pop()):
            if id(each) not in found and not isinstance(each, type | types.ModuleType | types.FunctionType):
                found[id(each)] = each
                new.append(each)
    return list(found.values())


def test_a_run_that_has_ended_is_forgotten(server: FaultyRegistry, tmp_path: Path) -> None:
    cache = Cache()
    for number in range(3):
        image = build_image([TarBuilder().file("a", bytes([number])), TarBuilder().file("b", b"b")])
        name = server.put(image, f"app:{number}")
        for _ in range(2):
            ocifast.pull(name, f"oci:{tmp_path}/{number}:app", cache=cache)
            ocifast.copy(name, f"docker-archive:{tmp_path}/{number}.tar", cache=cache, platform="linux/amd64")
            with ocifast.open(name, cache=cache) as opened, opened.flatten() as rootfs:
                assert len(rootfs) == 3
        copied = f"oci:{tmp_path}/{number}-erofs:app"
        ocifast.copy(name, copied, cache=cache, layers="erofs", draft=True, platform="linux/amd64")
        digests = {*all_blobs(image), image.digest, *(layer.diff_id for layer in image.layers)}
        assert [each for each in reachable(cache) if isinstance(each, str) and each in digests] == []


def test_a_cache_that_is_full_is_done_without(
    server: FaultyRegistry,
    image: BuiltImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(descriptor: int, data: bytes, offset: int | None = None) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("ocifast.cache.blob_writer.write_all", full)
    name = server.put(image, "app:1")
    ocifast.pull(name, f"oci:{tmp_path}/one:app", cache=Cache())
    assert whole(tmp_path / "one", image)
    assert len([line for line in logged(caplog) if "nothing more is cached" in line]) == 1


def test_a_layout_to_a_layout_and_a_wrong_blob(image: BuiltImage, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "one", image)
    ocifast.copy(f"oci:{layout}:app", f"oci:{tmp_path}/two:app")
    assert whole(tmp_path / "two", image)
    large = max(image.layers, key=lambda layer: len(layer.blob))
    path = layout / "blobs" / large.digest.replace(":", "/")
    path.write_bytes(large.blob[:-1] + b"?")
    with pytest.raises(ocifast.OcifastError, match=f"{large.digest}, but is"):
        ocifast.copy(f"oci:{layout}:app", f"oci:{tmp_path}/three:app")
    assert not (tmp_path / "three").exists()


def test_a_stop_after_the_image_was_entered_takes_nothing_back(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = write_layout(tmp_path / "one", image)
    replace_file = LayoutDestination._replace

    def stopped(self: LayoutDestination, part: str, data: bytes) -> None:
        replace_file(self, part, data)
        if part == "index.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(LayoutDestination, "_replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        ocifast.copy(f"oci:{layout}:app", f"oci:{tmp_path}/two:app")
    assert whole(tmp_path / "two", image)
    with ocifast.open(f"oci:{tmp_path}/two:app") as opened:
        assert opened.digest == image.digest

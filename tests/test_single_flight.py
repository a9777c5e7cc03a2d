"""Nothing is fetched or made twice: others follow the first one, and go on in its place when it dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.cache import Cache
from ocifast.cache.flight import Teller
from ocifast.errors import CancelledError
from ocifast.progress import Event, LayerState, Phase
from ocifast.spec import Descriptor

from tests.support.caches import BLOB, DATA, HEX, files
from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import BuiltImage, build_image
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory
from tests.support.run import COMMAND


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that is not there yet."""
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    """Three layers, of which two do not compress."""
    noise = random.Random(3).randbytes
    large = TarBuilder().file("large", noise(3_000_000))
    for number in range(200):
        large.file(f"d/{number}", noise(3000), mode=0o640)
    return build_image([TarBuilder().file("a", b"a" * 100_000), large, TarBuilder().file("b", noise(1_000_000))])


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    """A registry in memory."""
    with serve_faulty() as running:
        yield running


def start(*words: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a run that must succeed says with `--json`."""
    said, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    told: dict[str, Any] = json.loads(said)
    return told


def until(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slowly(server: FaultyRegistry, seconds: float) -> Callable[[Request], Answer | None]:
    """Blobs come after so many seconds of silence: all runs are there by then."""

    def script(request: Request) -> Answer | None:
        return replace(server.obey(request), stall=seconds) if "/blobs/" in request.path else None

    return script


def fetched(server: FaultyRegistry) -> dict[str, int]:
    """How often each blob was asked for."""
    lines = [line for line in server.lines if line.startswith("GET") and "/blobs/" in line]
    return {line.split("/blobs/")[1].split()[0]: lines.count(line) for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dir", "mixed"])
def test_eight_compiles_at_once_fetch_each_blob_once(
    form: str, server: FaultyRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    name = server.put(image, "app:1")
    server.script = slowly(server, 1.0)
    forms = ["dir", "tar", "cpio", "erofs"] * 2 if form == "mixed" else [form] * 8
    outs = [tmp_path / f"out-{number}" for number in range(8)]
    runs = [
        start("compile", name, out, "-f", each, "--tree-digest", "--json", "-q")
        for out, each in zip(outs, forms, strict=True)
    ]
    made = [ended(run) for run in runs]
    assert len({each["tree_digest"] for each in made}) == 1
    blobs = [*(layer.digest for layer in image.layers), image.manifest["config"]["digest"]]
    assert fetched(server) == dict.fromkeys(blobs, 1)
    # What others fetched counts as the cache's, and each file is made once.
    assert sum(each["fetched_bytes"] for each in made) == sum(len(layer.blob) for layer in image.layers)
    assert sum(each["from_cache"] for each in made) == {"dir": 0, "mixed": 3}[form]
    if form == "dir":
        assert len({dump_directory(out) for out in outs}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_follows_takes_over_from_who_dies(
    number: signal.Signals, server: FaultyRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    name = server.put(image, "app:1")
    large = max(image.layers, key=lambda layer: len(layer.blob))
    half = len(large.blob) // 2
    asked: list[Request] = []

    def script(request: Request) -> Answer | None:
        if not request.path.endswith(large.digest):
            return None
        asked.append(request)
        return replace(server.obey(request), cut=half, stall=60) if len(asked) == 1 else None

    server.script = script
    first = start("compile", name, tmp_path / "first", "-f", "dir", "--json", "-q")
    part = Cache().folder / "blobs" / (large.digest.replace(":", "/") + ".part")
    until(lambda: part.exists() and part.stat().st_size == half)
    others = [start("compile", name, tmp_path / f"out-{n}", "-f", "dir", "--json", "-q") for n in range(3)]
    # All have opened the file that they follow.
    until(lambda: all(opened(other.pid, part) for other in others))
    assert len(asked) == 1
    first.send_signal(number)
    first.communicate(timeout=60)
    assert first.returncode != 0
    for other in others:
        ended(other)
    assert len({dump_directory(tmp_path / f"out-{n}") for n in range(3)}) == 1
    # The rest alone was asked for, by one of them.
    assert [request.headers.get("range") for request in asked] == [None, f"bytes={half}-"]
    assert not part.exists()


def opened(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.append(os.path.samestat(link.stat(), path.stat()))
        except OSError:
            continue
    return any(found)


@pytest.mark.parametrize("hashes", [True, False])
def test_a_follower_gets_bytes_while_they_come(hashes: bool, cache: Cache) -> None:
    store = cache.blobs if hashes else cache.layers
    with store.writer(BLOB) as first, store.writer(BLOB) as second:
        first.write(DATA[:1000])
        assert (first.follows, second.follows) == (False, True)
        coming = second.beginning()
        assert next(coming) == DATA[:1000]
        first.write(DATA[1000:5000])
        assert next(coming) == DATA[1000:5000]
        first.write(DATA[5000:])
        assert b"".join(coming) == DATA[5000:]
        assert second.resume_offset == len(DATA)
        # It need not wait for the name, and it gives none.
        second.commit()
        assert files(cache) == [f"blobs/sha256/{HEX}.part"]
        first.commit()
        second.settle()
    assert files(cache) == [f"blobs/sha256/{HEX}"]
    assert cache.blobs.verify(BLOB)


@pytest.mark.parametrize("hashes", [True, False])
def test_a_follower_goes_on_after_a_writer_that_stops(hashes: bool, cache: Cache) -> None:
    store = cache.blobs if hashes else cache.layers
    with store.writer(BLOB) as second_opened_first:
        second_opened_first.write(DATA[:10])
        with store.writer(BLOB) as second:
            coming = second.beginning()
            assert next(coming) == DATA[:10]
            second_opened_first.write(DATA[10:300_000])
            second_opened_first.close()
            assert b"".join(coming) == DATA[10:300_000]
            assert second.resume_offset == 300_000
            second.write(DATA[300_000:])
            second.commit()
    assert files(cache) == [f"blobs/sha256/{HEX}"]
    assert cache.blobs.verify(BLOB)


def test_a_follower_of_what_was_given_up_goes_on_without_it(cache: Cache) -> None:
    with cache.layers.writer(BLOB) as first, cache.layers.writer(BLOB) as second, cache.layers.writer(BLOB) as third:
        first.write(b"?" * 10)
        coming = second.beginning()
        assert next(coming) == b"?" * 10
        first.drop()
        assert list(coming) == []
        assert second.resume_offset == 10
        second.write(b"!" * (len(DATA) - 10))
        second.commit()
        # One that had read nothing begins anew, in a file of its own.
        assert list(third.beginning()) == []
        third.write(DATA)
        third.commit()
    assert files(cache) == [f"blobs/sha256/{HEX}"]
    assert cache.blobs.verify(BLOB)


def test_a_writer_that_stands_still_is_not_waited_for_for_ever(cache: Cache) -> None:
    cache.layers.patience = 0.3
    with cache.layers.writer(BLOB) as first, cache.layers.writer(BLOB) as second:
        first.write(DATA[:10])
        assert b"".join(second.beginning()) == DATA[:10]
        assert second.resume_offset == 10


def test_who_is_not_wanted_any_more_does_not_wait(cache: Cache) -> None:
    stop = threading.Event()
    with cache.layers.writer(BLOB) as first, cache.layers.writer(BLOB, stopped=stop.is_set) as second:
        first.write(DATA[:10])
        coming = second.beginning()
        next(coming)
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(CancelledError):
            next(coming)


def test_a_cancelled_run_does_not_wait_for_another(server: FaultyRegistry, image: BuiltImage, tmp_path: Path) -> None:
    name = server.put(image, "app:1")
    ocifast.compile(name, tmp_path / "warm.erofs")
    cache = Cache()
    (key,) = [entry.name for entry in cache.entries() if entry.kind == "output"]
    stop = threading.Event()
    events: list[Event] = []
    digest = image.layers[0].digest
    with cache.outputs.lock(key) as held:
        assert held is not None
        teller = Teller([held])
        teller.tell(Event(Phase.LAYER_ACQUIRE, digest, LayerState.DOWNLOADING, 5, 10))

        def progress(event: Event) -> None:
            # Told of what the other run does.
            if event.done == 5:
                events.append(event)
                threading.Timer(0.2, stop.set).start()

        with pytest.raises(CancelledError):
            ocifast.compile(name, tmp_path / "x.erofs", progress=progress, cancelled=stop.is_set)
    assert events == [Event(Phase.LAYER_ACQUIRE, digest, LayerState.DOWNLOADING, 5, 10)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["warm.erofs"]


@pytest.mark.slow
def test_a_layer_is_decoded_once(server: FaultyRegistry, image: BuiltImage, tmp_path: Path) -> None:
    name = server.put(image, "app:1")
    server.script = slowly(server, 1.0)
    runs = [
        start("compile", name, tmp_path / f"out-{form}", "-f", form, "--keep-layers", "--json", "-q")
        for form in ("dir", "tar", "cpio", "erofs")
    ]
    made = [ended(run) for run in runs]
    sizes = sum(len(layer.blob) for layer in image.layers)
    # All but one took the layers that it had kept, and read no blob.
    assert sorted(each["fetched_bytes"] for each in made) == [0, 0, 0, sizes]
    assert sorted(each["cached_bytes"] for each in made) == [0, sizes, sizes, sizes]
    cache = Cache()
    assert cache.info().layers == 3
    assert not [path.name for path in (cache.folder / "locks").iterdir() if path.name.startswith("layer-")]


def test_layers_are_claimed_by_one_and_waited_for_once(cache: Cache) -> None:
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    order: list[str] = []

    def other() -> None:
        with cache.decoded.claimed([two, one]):
            order.append("other")

    with cache.decoded.claimed([one]):
        waiting = threading.Thread(target=other)
        waiting.start()
        # Who waits holds nothing that we might wait for.
        time.sleep(0.2)
        with Cache(cache.folder).decoded.claimed([two]):
            order.append("us")
    waiting.join(20)
    assert order == ["us", "other"]
    assert cache.decoded.get(one) is None


@pytest.mark.slow
def test_blobs_in_another_order_do_not_lock_each_other_out(server: FaultyRegistry, tmp_path: Path) -> None:
    """Two images of the same layers in opposite order, both fetched at once, each layer by another one first."""
    noise = random.Random(9).randbytes
    layers = [TarBuilder().file(f"f{number}", noise(2_000_000)) for number in range(6)]
    names = [server.put(build_image(layers), "app:1"), server.put(build_image(layers[::-1]), "app:2")]
    server.script = slowly(server, 0.2)
    runs = [
        start("compile", name, tmp_path / f"out-{n}", "-f", "dir", "--downloads", "1", "--json", "-q")
        for n, name in enumerate(names)
    ]
    for run in runs:
        ended(run)
    assert dump_directory(tmp_path / "out-0") == dump_directory(tmp_path / "out-1")


def test_a_blob_of_another_process_that_dies_unheard(cache: Cache) -> None:
    """The follower hands on what the dead one has written after the last look as well."""
    descriptor = Descriptor("x", BLOB.digest, BLOB.size)
    with cache.layers.writer(descriptor) as first:
        first.write(DATA[:100])
        with cache.layers.writer(descriptor) as second:
            coming = second.beginning()
            next(coming)
            first.write(DATA[100:200])
            first.close()
            assert next(coming) == DATA[100:200]
            assert list(coming) == []
            second.write(DATA[200:])
            second.commit()
    assert cache.blobs.verify(descriptor)

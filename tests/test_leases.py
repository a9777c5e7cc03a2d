"""What a run uses is not pruned meanwhile, by this process or another one; afterwards it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import ocifast
import pytest
from ocifast.cache import Cache
from ocifast.opening import Asking, open_cached
from ocifast.progress import Event, LayerState
from ocifast.sources.open import parse_location
from ocifast.spec import Descriptor

from tests.support.faulty import FaultyRegistry, serve_faulty
from tests.support.images import BuiltImage, Layer, build_image, digest_of
from tests.support.layers import TarBuilder
from tests.support.run import ocifast as command

OTHER = b"a blob of another image"
OTHERS = Descriptor("", digest_of(OTHER), len(OTHER))


def image() -> BuiltImage:
    return build_image([Layer(TarBuilder().file(f"file{number}", os.urandom(50_000))) for number in range(4)])


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def clear_elsewhere(cache: Cache) -> None:
    """Empties the cache, from a process of its own."""
    command("cache", "clear", env={"OCIFAST_CACHE_DIR": str(cache.folder)})


def kinds(cache: Cache) -> dict[str, int]:
    """How much of each kind is there."""
    names = [entry.kind for entry in cache.entries()]
    return {kind: names.count(kind) for kind in sorted(set(names))}


def test_an_image_that_is_read_stays_and_all_else_goes(server: FaultyRegistry, tmp_path: Path) -> None:
    name = server.put(image(), "app:1")
    cache = Cache(tmp_path / "cache")
    ocifast.pull(name, f"oci:{tmp_path / 'layout'}", cache=cache)
    cache.blobs.put(OTHERS, OTHER)
    # A manifest, a config and four layers.
    assert kinds(cache) == {"blob": 7, "reference": 1}
    with closing(open_cached(parse_location(name), cache, how=Asking.OFFLINE)) as source:
        source.root()
        clear_elsewhere(cache)
        assert kinds(cache) == {"blob": 6}
        cache.prune(max_bytes=0)
        assert kinds(cache) == {"blob": 6}
    clear_elsewhere(cache)
    assert kinds(cache) == {}
    assert not list((cache.folder / "locks").glob("*lease*"))


@pytest.mark.parametrize("keep_layers", [False, True])
def test_a_compilation_in_whose_middle_the_cache_is_cleared(
    server: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_layers: bool
) -> None:
    monkeypatch.setenv("OCIFAST_CACHE_DIR", str(tmp_path / "cache"))
    name = server.put(image(), "app:1")
    first = ocifast.compile(name, tmp_path / "first.tar", options=ocifast.CompileOptions(keep_layers=keep_layers))
    asked = len(server.requests)
    cache = Cache()
    before = kinds(cache)
    cleared: list[dict[str, int]] = []

    def clear_once(event: Event) -> None:
        if event.state is LayerState.EXISTS and not cleared:
            clear_elsewhere(cache)
            cleared.append(kinds(cache))

    options = ocifast.CompileOptions(offline=True, downloads=1, keep_layers=keep_layers)
    again = ocifast.compile(name, tmp_path / "again.cpio", options=options, progress=clear_once)
    assert again.digest == first.digest
    assert len(server.requests) == asked
    # Everything of this image is there, and the output that it is not made of has gone.
    assert cleared == [{kind: number for kind, number in before.items() if kind not in ("output", "reference")}]
    assert set(again.decoded) == (set() if keep_layers else set(first.decoded))
    clear_elsewhere(cache)
    assert kinds(cache) == {}


def test_the_lease_of_a_killed_run_counts_no_more(server: FaultyRegistry, tmp_path: Path) -> None:
    name = server.put(image(), "app:1")
    cache = Cache(tmp_path / "cache")
    code = (
        "import sys, time\n"
        "from ocifast.cache import Cache\n"
        "from ocifast.opening import open_cached\n"
        "from ocifast.sources.open import parse_location\n"
        "source = open_cached(parse_location(sys.argv[1]), Cache(sys.argv[2]))\n"
        "source.root()\n"
        "print('reading', flush=True)\n"
        "time.sleep(600)\n"
    )
    words = [sys.executable, "-c", code, name, str(cache.folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
            cache.clear()
            assert kinds(cache) == {"blob": 1}
        finally:
            process.kill()
    leases = list((cache.folder / "locks").glob("*.lease"))
    assert len(leases) == 1
    # The next run removes it, whatever it does.
    with cache.leases.take():
        assert not leases[0].exists()
    cache.clear()
    assert kinds(cache) == {}


def test_a_run_that_begins_while_the_cache_is_pruned_waits(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.blobs.put(OTHERS, OTHER)
    code = "import sys\nfrom ocifast.cache import Cache\nCache(sys.argv[1]).leases.take().use(['x'])\nprint('begun')\n"
    words = [sys.executable, "-c", code, str(cache.folder)]
    with cache.leases.settled() as used:
        assert used == frozenset()
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
    assert process.communicate(timeout=60)[0] == "begun\n"


def test_where_nothing_can_be_written_there_is_no_lease(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.prepare()
    (cache.folder / "locks").write_bytes(b"")
    with cache.leases.take(["x"]) as lease:
        lease.use(["y"])
    assert (cache.folder / "locks").read_bytes() == b""

"""What is shared by all that speak to one host: who waits for whom."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
from ocifast.copying import copy
from ocifast.sources.open import open_destination, open_source, parse_location
from ocifast.sources.registry import RegistryOptions
from ocifast.sources.registry.limiter import limiter_for

from tests.support.faulty import Answer, FaultyRegistry, Request, error, serve_faulty
from tests.support.pulls import opened, quick, random_image


def refuses_to_mount(server: FaultyRegistry, request: Request, status: int) -> Answer | None:
    """Answers a mount as registries do that do not mount: with a session (202), or that they forbid it."""
    if not request.values("mount"):
        return None
    return server.obey(replace(request, query=())) if status == 202 else error(status, "DENIED")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("status", [202, 403])
@pytest.mark.parametrize(("blobs", "parallel"), [(1, 1), (6, 2)])
def test_a_copy_within_a_host_that_does_not_mount(status: int, blobs: int, parallel: int) -> None:
    image = random_image(*[50_000] * blobs)
    options = quick(parallel=parallel)
    with serve_faulty() as server:
        server.script = lambda request: refuses_to_mount(server, request, status)
        source = parse_location(f"docker://{server.put(image, 'a:1')}")
        destination = parse_location(f"docker://{server.host}/b:1")
        with closing(open_source(source, options=options)) as opened:
            copy(opened, open_destination(destination, options=options), parallel=parallel)
        assert server.blobs["b"] == image.all_blobs()


@pytest.mark.timeout(60)
def test_requests_to_one_host_share_its_slots_whoever_sends_them() -> None:
    image = random_image()
    lock, together, counts = threading.Lock(), 0, []

    def count(request: Request) -> None:
        nonlocal together
        with lock:
            together += 1
            counts.append(together)
        # Long enough for all others to come, if nothing holds them back.
        time.sleep(0.2)
        with lock:
            together -= 1

    with serve_faulty() as server, ThreadPoolExecutor(8) as pool:
        references = [server.put(image, f"a{number}:1") for number in range(8)]
        server.script = count
        digests = list(pool.map(lambda reference: _root_digest(reference, quick(parallel=2)), references))
    assert digests == [image.digest] * 8
    assert (len(counts), max(counts)) == (8, 2)


def _root_digest(reference: str, options: RegistryOptions) -> str:
    with opened(reference, options) as source:
        return source.root().digest


def test_one_limiter_for_a_host_whoever_asks() -> None:
    gentle = limiter_for("registry.example", 1)
    assert limiter_for("registry.example", 2) is gentle
    assert limiter_for("registry.example:5000", 2) is not gentle
    # As many as the one that wants most.
    taken = [gentle.downloads.try_slot() for _ in range(3)]
    assert [slot is not None for slot in taken] == [True, True, False]
    assert gentle.uploads.try_slot() is not None

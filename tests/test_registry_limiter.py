"""What is shared by all that speak to one host: who waits for whom."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
from ocifast.copy import copy
from ocifast.reference import parse_location
from ocifast.sources.open import open_destination, open_source
from ocifast.sources.registry.limiter import limiter_for

from tests.support.faulty import Answer, FaultyRegistry, Request, error, serve_faulty
from tests.support.pulls import quick, random_image


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


def test_one_limiter_for_a_host_whoever_asks() -> None:
    gentle = limiter_for("registry.example", 1)
    assert limiter_for("registry.example", 2) is gentle
    assert limiter_for("registry.example:5000", 2) is not gentle
    # As many as the one that wants most.
    taken = [gentle.downloads.try_slot() for _ in range(3)]
    assert [slot is not None for slot in taken] == [True, True, False]
    assert gentle.uploads.try_slot() is not None

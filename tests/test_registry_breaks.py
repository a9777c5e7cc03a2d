"""Small answers that break off, parts and redirects that are refused: what is asked for anew."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from ocifast.errors import NetworkError, RegistryError
from ocifast.reference import Reference
from ocifast.sources.registry import list_tags, network
from ocifast.spec import OCI_INDEX

from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import digest_of
from tests.support.pulls import QUICK, opened, pull, random_image
from tests.test_registry_transfer import blobs_asked, cut, fail_blobs


@pytest.fixture(name="server")
def _server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def broken(status: int) -> Answer:
    """An answer of which one byte of a thousand comes."""
    return Answer(status, {}, b"{", length=1000, cut=1)


def test_the_status_counts_of_an_error_that_breaks_off() -> None:
    image = random_image(1000)
    with serve_faulty() as server:
        answers = [broken(503), broken(429)]
        name = server.put(image, "a:1")
        server.script = lambda request: answers.pop() if answers else None
        assert pull(name) == [image.layers[0].blob]
        server.script = lambda request: broken(503)
        with pytest.raises(RegistryError, match="answered 503"):
            pull(name)


def test_a_list_of_tags_that_breaks_off() -> None:
    answers = [broken(200)]
    with serve_faulty(lambda request: answers.pop() if answers else None) as server:
        server.put(random_image(10), "a:1")
        reference = Reference.parse(f"{server.host}/a")
        assert list_tags(reference, QUICK) == ["1"]
        server.requests.clear()
        server.script = lambda request: broken(200)
        with pytest.raises(NetworkError, match="the connection broke"):
            list_tags(reference, QUICK)
        assert len(server.requests) == 1 + QUICK.retries


def test_a_list_of_referrers_that_breaks_off() -> None:
    digest = digest_of(b"")
    empty = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()

    def script(request: Request) -> Answer:
        return broken(200) if len(server.requests) == 1 else Answer(200, {"Content-Type": OCI_INDEX}, empty)

    with serve_faulty(script) as server, opened(f"{server.host}/a:1") as source:
        assert source.referrers(digest) == ()
        server.script = lambda request: broken(200)
        with pytest.raises(NetworkError, match="the connection broke"):
            source.referrers(digest)


@pytest.mark.parametrize("direct", [False, True])
def test_a_refused_range_is_read_from_the_beginning(
    server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    monkeypatch.setattr(network, "DIRECT", 1 if direct else 1 << 60)
    image = random_image(1_000_000)
    name = server.put(image, "a:1")
    fail_blobs(server, [cut(server, 300_000), Answer(416)])
    assert pull(name) == [image.layers[0].blob]
    assert blobs_asked(server) == ["-", "bytes=300000-", "-"]
    server.requests.clear()
    fail_blobs(server, [cut(server, 300_000), *[Answer(416)] * 2])
    with pytest.raises(RegistryError, match=r"gives no part of .*, and not the whole"):
        pull(name)


def test_a_redirect_that_has_expired_is_asked_for_anew_once(server: FaultyRegistry) -> None:
    image = random_image(100_000)
    name = server.put(image, "a:1")
    with serve_faulty() as storage:
        good = 2

        def stored(request: Request) -> Answer:
            number = int(request.path.rpartition("/")[2])
            return Answer(200, {}, image.layers[0].blob) if number == good else Answer(403, {}, b"Request has expired")

        storage.script = stored
        asked = 0

        def moved(request: Request) -> Answer | None:
            nonlocal asked
            if "/blobs/" not in request.path:
                return None
            asked += 1
            return Answer(307, {"Location": f"{storage.url}/{asked}"})

        server.script = moved
        assert pull(name) == [image.layers[0].blob]
        assert [request.path for request in storage.requests] == ["/1", "/2"]
        good = 0
        with pytest.raises(RegistryError, match="answered 403: Request has expired; "):
            pull(name)
        assert [request.path for request in storage.requests] == ["/1", "/2", "/3", "/4"]

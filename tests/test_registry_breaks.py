"""Small answers that break off: errors, lists and what is kept of them."""

from __future__ import annotations

import json

import pytest
from ocifast.errors import NetworkError, RegistryError
from ocifast.reference import Reference
from ocifast.sources.registry import list_tags
from ocifast.spec import OCI_INDEX

from tests.support.faulty import Answer, Request, serve_faulty
from tests.support.images import digest_of
from tests.support.pulls import QUICK, opened, pull, random_image


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

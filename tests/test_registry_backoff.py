"""How long is waited before another attempt: longer each time, never as long as others do. No test waits for it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from ocifast.errors import OcifastError, RateLimitError
from ocifast.reference import Reference
from ocifast.sources.registry import RegistryDestination, RegistryOptions, list_tags
from ocifast.sources.registry.retries import backoff
from ocifast.spec import Descriptor

from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import digest_of
from tests.support.pulls import pull, quick, random_image

FIRST = 100.0
"""Seconds before the second attempt: what the tests themselves wait for is shorter."""
PATIENT = quick(backoff=FIRST)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gets the seconds of all long waits, each the least that it may be; they are over at once."""
    found: list[float] = []
    slept, clock = threading.Event.wait, time.monotonic
    late = 0.0

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        nonlocal late
        if timeout is None or timeout < 5:
            return slept(event, timeout)
        found.append(round(timeout))
        late += timeout
        return False

    monkeypatch.setattr("ocifast.sources.registry.retries.LONGEST", 1000.0)
    monkeypatch.setattr(random, "uniform", lambda least, most: least)
    monkeypatch.setattr("ocifast.sources.registry.limiter.time.monotonic", lambda: clock() + late)
    monkeypatch.setattr(threading.Event, "wait", wait)
    return found


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def test_a_wait_is_twice_the_last_one_up_to_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return most

    monkeypatch.setattr(random, "uniform", uniform)
    first = RegistryOptions().backoff
    assert [backoff(first, attempt) for attempt in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    # What is waited for is drawn: those who failed together do not come back together.
    assert asked == [(each / 2, each) for each in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)]


def upload(host: str) -> None:
    destination = RegistryDestination(Reference.parse(f"{host}/a:1"), PATIENT)
    try:
        destination.put_blob(Descriptor("application/x", digest_of(b"x"), 1), [b"x"])
    finally:
        destination.abort()


def manifest(host: str) -> None:
    pull(f"{host}/a:1", PATIENT)


def tags(host: str) -> None:
    list_tags(Reference.parse(f"{host}/a"), PATIENT)


CUT = Answer(200, {}, b"{", length=9, cut=1)


@pytest.mark.parametrize(
    ("fault", "part", "act", "times"),
    [
        # A host that never answered is tried less often.
        (Answer(raw=b""), "/manifests/", manifest, 2),
        (Answer(raw=b""), "/blobs/", manifest, 3),
        (CUT, "/manifests/", manifest, 3),
        (CUT, "/tags/", tags, 3),
        (Answer(500), "/manifests/", manifest, 3),
        (Answer(429), "/manifests/", manifest, 3),
        (Answer(502), "/blobs/", manifest, 3),
        (Answer(503), "/uploads/", upload, 3),
    ],
)
def test_what_fails_is_waited_for(
    server: FaultyRegistry, waits: list[float], fault: Answer, part: str, act: Callable[[str], object], times: int
) -> None:
    server.put(random_image(1000), "a:1")
    server.script = lambda request: fault if part in request.path else None
    with pytest.raises(OcifastError):
        act(server.host)
    assert waits == [FIRST / 2, FIRST, FIRST * 2][:times]
    assert len([line for line in server.lines if part in line]) == 1 + times


def test_a_download_that_breaks_without_progress_is_waited_for(server: FaultyRegistry, waits: list[float]) -> None:
    name = server.put(random_image(100_000), "a:1")
    blob = max(server.blobs["a"].values(), key=len)
    cuts = iter([0, 10, 20])

    def script(request: Request) -> Answer | None:
        after = next(cuts, None) if "/blobs/" in request.path else None
        return None if after is None else Answer(200, {}, blob, cut=after)

    server.script = script
    pull(name, PATIENT)
    assert waits == [FIRST, FIRST * 2, FIRST * 4]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("chunk_minimum", [None, 1])
def test_an_upload_waits_as_long_as_it_is_told(
    server: FaultyRegistry, waits: list[float], status: int, chunk_minimum: int | None
) -> None:
    limits = iter([Answer(status, {"Retry-After": "33"})])
    server.chunk_minimum = chunk_minimum
    server.script = lambda request: next(limits, None) if request.method in ("PUT", "PATCH") else None
    upload(server.host)
    # Then it asks how far the session came, and goes on.
    assert waits == [33, FIRST]
    assert server.blobs["a"] == {digest_of(b"x"): b"x"}
    assert server.uploads == {}


def test_an_upload_that_should_wait_too_long_is_given_up(server: FaultyRegistry, waits: list[float]) -> None:
    server.script = lambda request: Answer(429, {"Retry-After": "3600"}) if request.method == "PUT" else None
    with pytest.raises(RateLimitError) as caught:
        upload(server.host)
    assert str(caught.value) == (
        f"{server.host}/a:1: cannot complete an upload: the registry answered 429: it limits the rate of requests;"
        " try later or log in (it asks to wait 3600 s)"
    )
    assert waits == []
    assert [line.split()[0] for line in server.lines] == ["POST", "PUT", "DELETE"]
    assert server.uploads == {}


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        ("33", 33),
        (" 33\t", 33),
        ("0", None),
        # What is no number of seconds and no date counts as nothing said.
        ("soon", FIRST / 2),
        ("-33", FIRST / 2),
        ("33.5", FIRST / 2),
        ("\u0663", FIRST / 2),
        ("Thu, 99 Foo 2026 00:00:00 GMT", FIRST / 2),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
    ],
)
def test_what_retry_after_may_say(
    server: FaultyRegistry, waits: list[float], stated: str, seconds: float | None
) -> None:
    name = server.put(random_image(10), "a:1")
    value = stated.encode().decode("latin-1")
    limits = iter([Answer(503, {"Retry-After": value})])
    server.script = lambda request: next(limits, None)
    pull(name, PATIENT)
    assert waits == ([] if seconds is None else [seconds])
    assert server.lines[:2] == ["GET /v2/a/manifests/1"] * 2

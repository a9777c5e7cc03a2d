"""Downloads through every fault: what is asked again, what is given up, and how much is fetched."""

from __future__ import annotations

import email.utils
import math
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from ocifast.errors import (
    DigestMismatchError,
    NetworkError,
    OcifastError,
    RateLimitError,
    RegistryError,
    SizeMismatchError,
)
from ocifast.sources.registry import download_ranges, network
from ocifast.spec import Descriptor

from tests.support.faulty import Answer, FaultyRegistry, Request, error, partial, serve_faulty
from tests.support.pulls import fetch, layers_of, opened, pull, quick, random_image


@pytest.fixture(autouse=True, params=["through the library", "direct"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large bodies are read past the HTTP library. All that holds for one way holds for the other."""
    monkeypatch.setattr(network, "DIRECT", 1 if request.param == "direct" else 1 << 60)


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def blobs_asked(server: FaultyRegistry) -> list[str]:
    """Ranges of the requests for blobs, in order; `-` is the whole."""
    return [request.headers.get("range", "-") for request in server.requests if "/blobs/" in request.path]


def fail_blobs(server: FaultyRegistry, answers: list[Answer | None]) -> None:
    """Answers requests for blobs from the list, as long as it lasts; None does as the spec says."""
    left = iter(answers)
    server.script = lambda request: next(left, None) if "/blobs/" in request.path else None


def cut(server: FaultyRegistry, after: int) -> Answer:
    """An answer that breaks off, without regard to a Range."""
    blob = next(iter(data for data in server.blobs["a"].values() if len(data) > 1000))
    return Answer(200, {}, blob, cut=after)


def test_a_broken_download_goes_on_where_it_broke(server: FaultyRegistry) -> None:
    image = random_image(1_000_000)
    name = server.put(image, "a:1")

    def script(request: Request) -> Answer | None:
        answer = server.obey(request)
        if "/blobs/" not in request.path or len(answer.body) < 400_000:
            return answer
        return Answer(answer.status, answer.headers, answer.body, cut=300_000)

    server.script = script
    assert pull(name) == [image.layers[0].blob]
    assert blobs_asked(server) == ["-", "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert server.sent_at_last(len(image.raw) + 1_000_000) == len(image.raw) + 1_000_000


def test_twenty_cuts_at_random_fetch_hardly_more_than_the_image(server: FaultyRegistry) -> None:
    image = random_image(4_000_000, 2_000_000)
    name = server.put(image, "a:1")
    at = random.Random(20)
    cuts = 20

    def script(request: Request) -> Answer | None:
        nonlocal cuts
        if "/blobs/" not in request.path or not cuts:
            return None
        cuts -= 1
        answer = server.obey(request)
        return Answer(answer.status, answer.headers, answer.body, cut=at.randrange(200_000))

    server.script = script
    assert pull(name) == [layer.blob for layer in image.layers]
    assert cuts == 0
    assert len(blobs_asked(server)) == 22
    assert server.sent < 1.2 * (6_000_000 + len(image.raw))


def test_a_server_that_ignores_range_sends_the_beginning_again(server: FaultyRegistry) -> None:
    image = random_image(1_000_000)
    name = server.put(image, "a:1")
    fail_blobs(server, [cut(server, 400_000), Answer(200, {}, image.layers[0].blob)])
    assert pull(name) == [image.layers[0].blob]
    assert blobs_asked(server) == ["-", "bytes=400000-"]


def test_a_cut_at_every_attempt_without_progress_ends(server: FaultyRegistry) -> None:
    name = server.put(random_image(1_000_000), "a:1")
    server.script = lambda request: cut(server, 0) if "/blobs/" in request.path else None
    with pytest.raises(NetworkError, match=r"the connection broke, again and again, 0 of 1000000 bytes into sha256:"):
        pull(name)
    assert len(blobs_asked(server)) == 1 + 3


@pytest.mark.timeout(60)
def test_a_stalled_download_goes_on(server: FaultyRegistry) -> None:
    image = random_image(1_000_000)
    name = server.put(image, "a:1")
    fail_blobs(server, [Answer(200, {}, image.layers[0].blob, cut=500_000, stall=600)])
    assert pull(name, quick(read_timeout=0.2)) == [image.layers[0].blob]
    assert blobs_asked(server) == ["-", "bytes=500000-"]


def test_a_server_that_never_answers_is_given_up(server: FaultyRegistry) -> None:
    name = server.put(random_image(), "a:1")
    server.script = lambda request: Answer(200, stall=2)
    with pytest.raises(NetworkError, match="cannot reach the registry: it stopped answering"):
        pull(name, quick(read_timeout=0.1, retries=1))
    # The server may be slower to read the last request than we are to give it up.
    while len(server.requests) < 2:
        time.sleep(0.01)
    assert server.lines == ["GET /v2/a/manifests/1"] * 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_statuses_that_are_tried_again(server: FaultyRegistry, status: int) -> None:
    image = random_image()
    name = server.put(image, "a:1")
    failures = iter([Answer(status), Answer(status)])
    server.script = lambda request: next(failures, None)
    assert pull(name) == [image.layers[0].blob]
    assert server.lines[:3] == ["GET /v2/a/manifests/1"] * 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, RateLimitError), (500, RegistryError), (502, RegistryError), (503, RegistryError), (504, RegistryError)],
)
def test_retries_are_bounded(server: FaultyRegistry, status: int, kind: type[OcifastError]) -> None:
    name = server.put(random_image(), "a:1")
    server.script = lambda request: error(status, "SAID", "so it was said")
    with pytest.raises(kind, match="so it was said"):
        pull(name)
    assert server.lines == ["GET /v2/a/manifests/1"] * 4


@pytest.mark.parametrize("status", [400, 402, 405, 410, 418, 451, 501, 505])
def test_statuses_that_are_final(server: FaultyRegistry, status: int) -> None:
    name = server.put(random_image(), "a:1")
    server.script = lambda request: error(status, "NO")
    with pytest.raises(RegistryError, match=f"the registry answered {status}: NO"):
        pull(name)
    assert server.lines == ["GET /v2/a/manifests/1"]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(server: FaultyRegistry, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = server.put(random_image(), "a:1")
    slept = threading.Event.wait
    waits: list[float] = []

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None and timeout > 3:
            waits.append(timeout)
            now[0] += timeout
            return False
        return slept(event, timeout)

    now = [0.0]
    clock = time.monotonic
    monkeypatch.setattr("ocifast.sources.registry.limiter.time.monotonic", lambda: clock() + now[0])
    monkeypatch.setattr(threading.Event, "wait", wait)
    until = "17" if form == "seconds" else email.utils.formatdate(time.time() + 17, usegmt=True)
    failures = iter([error(429, "TOOMANYREQUESTS", Retry_After=until)])
    server.script = lambda request: next(failures, None)
    pull(name)
    assert server.lines[:2] == ["GET /v2/a/manifests/1"] * 2
    assert len(waits) == 1
    assert 15 < waits[0] < 18


def test_a_wait_that_is_too_long_is_told(server: FaultyRegistry) -> None:
    name = server.put(random_image(), "a:1")
    server.script = lambda request: error(429, "TOOMANYREQUESTS", Retry_After="3600")
    with pytest.raises(RateLimitError, match=r"it asks to wait 3600 s") as caught:
        pull(name)
    assert caught.value.context["retry_after"] == 3600
    assert server.lines == ["GET /v2/a/manifests/1"]


def test_a_limit_holds_for_all_requests_to_the_host(server: FaultyRegistry) -> None:
    """One answer 429 stops the other threads too: nothing reaches the server before the time is over."""
    image = random_image(*[50_000] * 8)
    name = server.put(image, "a:1")
    limited: list[float] = []
    early: list[str] = []

    def script(request: Request) -> Answer | None:
        now = time.monotonic()
        if limited and now < limited[0] + 0.9:
            early.append(request.line)
        if "/blobs/" in request.path and not limited:
            limited.append(time.monotonic())
            return error(429, "TOOMANYREQUESTS", Retry_After="1")
        return None

    server.script = script
    with opened(name) as source:
        layers = layers_of(source)
        # The first one is limited; the others are asked for while it waits.
        with ThreadPoolExecutor(8) as pool:
            first = pool.submit(fetch, source, layers[0])
            while not limited:
                time.sleep(0.005)
            time.sleep(0.1)
            rest = [pool.submit(fetch, source, layer) for layer in layers[1:]]
            assert [each.result() for each in [first, *rest]] == [layer.blob for layer in image.layers]
    assert early == []


def test_no_more_blobs_at_a_time_than_are_allowed(server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a machine that is busy a reader may stand still for a second.
    monkeypatch.setattr("ocifast.sources.registry.limiter.STALLED", 60.0)
    image = random_image(*[20_000] * 12)
    name = server.put(image, "a:1")
    lock = threading.Lock()
    under_way = most = 0

    def script(request: Request) -> Answer | None:
        nonlocal under_way, most
        if "/blobs/" not in request.path:
            return None
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        return None

    server.script = script
    # Two sources, one host, one limiter.
    with opened(name, quick(parallel=3)) as one, opened(name, quick(parallel=3)) as other:
        layers = layers_of(one)
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda pair: fetch(*pair), [((one, other)[n % 2], each) for n, each in enumerate(layers)]))
    assert most == 3


def test_readers_that_stop_reading_do_not_block_the_others(server: FaultyRegistry) -> None:
    """All slots are held by blobs whose reader waits for a blob that has no slot yet."""
    image = random_image(*[2_000_000] * 3)
    name = server.put(image, "a:1")
    with opened(name, quick(parallel=2)) as source:
        layers = layers_of(source)
        held = [iter(source.blob(layer)) for layer in layers[:2]]
        firsts = [next(each) for each in held]
        assert fetch(source, layers[2]) == image.layers[2].blob
        assert [first + b"".join(rest) for first, rest in zip(firsts, held, strict=True)] == [
            layer.blob for layer in image.layers[:2]
        ]


class TestRanges:
    """One big blob in parallel download_ranges."""

    RANGES = quick(range_threshold=500_000, range_speed=math.inf)

    @pytest.fixture(autouse=True)
    def _small_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download_ranges, "PIECE", 100_000)

    def test_pieces_are_fetched_side_by_side_and_come_in_order(self, server: FaultyRegistry) -> None:
        image = random_image(1_234_567)
        name = server.put(image, "a:1")
        lock = threading.Lock()
        under_way = most = 0

        def script(request: Request) -> Answer | None:
            nonlocal under_way, most
            if "/blobs/" in request.path:
                with lock:
                    under_way += 1
                    most = max(most, under_way)
                # Later pieces come earlier.
                time.sleep(0.05 if request.headers["range"].startswith("bytes=0-") else 0.02)
                with lock:
                    under_way -= 1
            return None

        server.script = script
        assert pull(name, replace(self.RANGES, range_threshold=1_000_000)) == [image.layers[0].blob]
        pieces = [(start, min(start + 100_000, 1_234_567)) for start in range(0, 1_234_567, 100_000)]
        starts = [int(asked[len("bytes=") :].partition("-")[0]) for asked in blobs_asked(server)]
        assert sorted(starts) == [start for start, _ in pieces]
        assert 2 <= most <= 4
        assert server.sent_at_last(len(image.raw) + 1_234_567) == len(image.raw) + 1_234_567

    def test_a_small_blob_is_fetched_at_once(self, server: FaultyRegistry) -> None:
        image = random_image(999_999)
        pull(server.put(image, "a:1"), replace(self.RANGES, range_threshold=1_000_000))
        assert blobs_asked(server) == ["-"]

    def test_a_fast_connection_needs_no_help(self, server: FaultyRegistry) -> None:
        image = random_image(1_000_000)
        name = server.put(image, "a:1")
        assert pull(name, replace(self.RANGES, range_speed=1.0)) == [image.layers[0].blob]
        assert blobs_asked(server) == ["bytes=0-99999", "bytes=100000-"]

    def test_a_server_that_ignores_range_is_read_as_it_sends(self, server: FaultyRegistry) -> None:
        image = random_image(1_000_000)
        name = server.put(image, "a:1")
        server.script = lambda request: Answer(200, {}, image.layers[0].blob) if "/blobs/" in request.path else None
        assert pull(name, self.RANGES) == [image.layers[0].blob]
        assert blobs_asked(server) == ["bytes=0-99999"]

    def test_pieces_that_break_go_on(self, server: FaultyRegistry) -> None:
        image = random_image(1_000_000)
        name = server.put(image, "a:1")
        broken: set[str] = set()

        def script(request: Request) -> Answer | None:
            asked = request.headers.get("range", "")
            if "/blobs/" not in request.path or asked in broken or len(broken) >= 5:
                return None
            broken.add(asked)
            answer = server.obey(request)
            return Answer(answer.status, answer.headers, answer.body, cut=70_000)

        server.script = script
        assert pull(name, self.RANGES) == [image.layers[0].blob]
        assert len(broken) == 5
        assert server.sent_at_last(len(image.raw) + 1_000_000) == len(image.raw) + 1_000_000

    def test_a_piece_that_fails_is_an_error_and_leaves_no_slot_taken(self, server: FaultyRegistry) -> None:
        image = random_image(1_000_000)
        name = server.put(image, "a:1")
        server.script = lambda request: (
            error(403, "DENIED") if request.headers.get("range", "").startswith("bytes=300000-") else None
        )
        with opened(name, self.RANGES) as source:
            (layer,) = layers_of(source)
            with pytest.raises(RegistryError, match="DENIED"):
                fetch(source, layer)
            # The threads that fetch ahead end with their next chunk.
            limiter = source._origins[0].client.limiter.downloads
            deadline = time.monotonic() + 20
            while limiter._taken and time.monotonic() < deadline:
                time.sleep(0.01)
            assert limiter._taken == set()
            server.script = lambda request: None
            assert fetch(source, layer) == image.layers[0].blob
            assert limiter._taken == set()

    def test_memory_is_bounded_by_the_slots(self, server: FaultyRegistry) -> None:
        """A reader that takes one chunk and waits: no more is fetched than one piece for each slot."""
        image = random_image(3_000_000)
        name = server.put(image, "a:1")
        with opened(name, self.RANGES) as source:
            (layer,) = layers_of(source)
            chunks = iter(source.blob(layer))
            first = next(chunks)
            time.sleep(0.5)
            assert len(blobs_asked(server)) <= 4
            assert first + b"".join(chunks) == image.layers[0].blob


def test_sizes_that_lie_are_refused(server: FaultyRegistry) -> None:
    image = random_image(500_000)
    name = server.put(image, "a:1")
    blob = image.layers[0].blob
    with opened(name) as source:
        (layer,) = layers_of(source)
        for answer, seen in [
            (Answer(200, {}, blob + b"x"), "500001"),
            (Answer(200, {}, blob[:-1]), "499999"),
        ]:
            fail_blobs(server, [answer])
            with pytest.raises(SizeMismatchError, match=f"should be 500000 bytes long, but is {seen}"):
                next(iter(source.blob(layer)))


def test_a_short_body_without_a_length_is_asked_about_once_more(server: FaultyRegistry) -> None:
    image = random_image(500_000)
    name = server.put(image, "a:1")
    short = image.layers[0].blob[:400_000]
    server.script = lambda request: (
        partial(request, Answer(200, {}, short, length=-1)) if "/blobs/" in request.path else None
    )
    with pytest.raises(SizeMismatchError, match="should be 500000 bytes long, but is 400000"):
        pull(name)
    assert blobs_asked(server) == ["-", "bytes=400000-", "-"]


def test_an_answer_for_another_range_is_refused(server: FaultyRegistry) -> None:
    image = random_image(500_000)
    name = server.put(image, "a:1")
    wrong = Answer(206, {"Content-Range": "bytes 100-499999/500000"}, image.layers[0].blob[100:])
    fail_blobs(server, [cut(server, 200_000), wrong])
    with pytest.raises(RegistryError, match="sends another part of sha256:"):
        pull(name)


def test_a_range_of_a_blob_of_another_size_is_refused(server: FaultyRegistry) -> None:
    image = random_image(500_000)
    name = server.put(image, "a:1")
    longer = Answer(206, {"Content-Range": "bytes 200000-499999/500001"}, image.layers[0].blob[200_000:])
    fail_blobs(server, [cut(server, 200_000), longer])
    with pytest.raises(SizeMismatchError, match="should be 500000 bytes long, but is 500001"):
        pull(name)


def test_another_blob_of_the_same_size_is_refused_by_its_digest(server: FaultyRegistry) -> None:
    image = random_image(500_000)
    name = server.put(image, "a:1")
    fail_blobs(server, [Answer(200, {}, random_image(500_000, seed=2).layers[0].blob)])
    with pytest.raises(DigestMismatchError, match=image.layers[0].digest):
        pull(name)


def test_blob_redirects_are_followed(server: FaultyRegistry) -> None:
    image = random_image(300_000)
    name = server.put(image, "a:1")

    with serve_faulty(address="127.0.0.2") as storage:
        storage.script = lambda request: partial(request, Answer(200, {}, image.layers[0].blob))
        fail = iter([Answer(200, {}, image.layers[0].blob, cut=100_000)])
        plain = storage.script
        storage.script = lambda request: next(fail, None) or plain(request)
        server.script = lambda request: (
            Answer(307, {"Location": f"{storage.url}/bucket/x?signature=s"}) if "/blobs/" in request.path else None
        )
        assert pull(name) == [image.layers[0].blob]
        # After the break the registry is asked for another place: signatures end.
        assert blobs_asked(server) == ["-", "bytes=100000-"]
        assert storage.lines == ["GET /bucket/x", "GET /bucket/x bytes=100000-"]


def test_redirects_end(server: FaultyRegistry) -> None:
    name = server.put(random_image(), "a:1")
    server.script = lambda request: Answer(307, {"Location": "/v2/a/manifests/1"})
    with pytest.raises(RegistryError, match="redirects more than 10 times"):
        pull(name)
    assert len(server.requests) == 11


def test_a_redirect_with_a_password_in_it_is_refused(server: FaultyRegistry) -> None:
    name = server.put(random_image(), "a:1")
    with serve_faulty(address="127.0.0.2") as storage:
        server.script = lambda request: (
            Answer(307, {"Location": f"http://user:s3cret@{storage.host}/x"}) if "/blobs/" in request.path else None
        )
        with pytest.raises(RegistryError, match=r"127\.0\.0\.1 sends us to a URL with a password in it") as caught:
            pull(name)
        assert "s3cret" not in str(caught.value)
        assert storage.connections == 0


def test_an_empty_blob_needs_no_request(server: FaultyRegistry) -> None:
    name = server.put(random_image(), "a:1")
    empty = Descriptor("application/x", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0)
    with opened(name) as source:
        assert fetch(source, empty) == b""
    assert server.requests == []


def test_a_reader_that_leaves_early_gives_its_slot_back(server: FaultyRegistry) -> None:
    image = random_image(2_000_000)
    name = server.put(image, "a:1")
    with opened(name, quick(parallel=1)) as source:
        (layer,) = layers_of(source)
        for _ in range(3):
            with source.blob(layer) as blob:
                next(iter(blob))
        assert fetch(source, layer) == image.layers[0].blob

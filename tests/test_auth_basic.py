"""Basic authorization from many threads: a password is tried by one of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ocifast.errors import AuthenticationError
from ocifast.reference import Reference
from ocifast.sources.registry import Credential, RegistryDestination
from ocifast.spec import Descriptor

from tests.support.faulty import Answer, Request, serve_faulty
from tests.support.images import digest_of
from tests.support.pulls import quick

RIGHT = "Basic bWU6cmlnaHQ="  # me:right
THREADS = 6


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("password", "tried"), [("wrong", 1), ("right", THREADS)])
def test_parallel_requests_try_a_password_once(password: str, tried: int) -> None:
    together = threading.Barrier(THREADS)

    def script(request: Request) -> Answer | None:
        stated = request.headers.get("authorization")
        if stated is None:
            # All of them learn at the same time that a password is wanted.
            together.wait(30)
        return None if stated == RIGHT else Answer(401, {"WWW-Authenticate": 'Basic realm="r"'})

    blobs = [Descriptor("application/x", digest_of(bytes([number])), 1) for number in range(THREADS)]
    with serve_faulty(script) as server:
        options = quick(credentials={server.host: Credential("me", password)}, parallel=THREADS)
        destination = RegistryDestination(Reference.parse(f"{server.host}/a:1"), options)
        with ThreadPoolExecutor(THREADS) as pool:
            running = [pool.submit(destination.has_blob, blob) for blob in blobs]
        failures = [each.exception() for each in running]
        destination.abort()
        assert [isinstance(failure, AuthenticationError) for failure in failures] == [password == "wrong"] * THREADS
        assert len([each for each in server.requests if "authorization" in each.headers]) == tried


def test_a_trial_that_breaks_is_followed_by_another() -> None:
    broken = [True]

    def script(request: Request) -> Answer | None:
        if "authorization" not in request.headers:
            return Answer(401, {"WWW-Authenticate": "Basic"})
        return Answer(raw=b"") if broken and broken.pop() else None

    with serve_faulty(script) as server:
        options = quick(credentials={server.host: Credential("me", "right")})
        destination = RegistryDestination(Reference.parse(f"{server.host}/a:1"), options)
        assert not destination.has_blob(Descriptor("application/x", digest_of(b""), 0))
        destination.abort()

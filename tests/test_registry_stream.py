"""Bodies read past the HTTP library: the connection stands exactly at their first byte, or the library reads them."""

from __future__ import annotations

import itertools
import socket
import threading
from pathlib import Path

import httpcore
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocifast.sources.registry import network
from ocifast.sources.registry.connection import CHUNK, Connection, OpenConnections
from ocifast.sources.registry.network import Network

from tests.support.faulty import serve_faulty
from tests.support.pulls import QUICK, Authority, pull, quick, random_image

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


class Pieces:
    """A socket that gives the pieces one by one."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)
        self.sent = b""

    def settimeout(self, timeout: float | None) -> None: ...

    def recv(self, size: int) -> bytes:
        return next(self._pieces, b"")

    def sendall(self, data: bytes) -> None:
        self.sent += data


def stream_of(*pieces: bytes) -> Connection:
    """A stream that has sent a request and is about to read the answer in these pieces."""
    stream = Connection(Pieces(list(pieces)), OpenConnections())  # type: ignore[arg-type]
    stream.write(b"GET / HTTP/1.1\r\n\r\n")
    return stream


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % len(data) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


@given(st.lists(st.integers(0, 1000), max_size=8), st.binary(max_size=50))
def test_the_head_is_read_and_not_a_byte_more(places: list[int], body: bytes) -> None:
    stream = stream_of(*cut(HEAD + body, places))
    read = b""
    while not stream.stands_at_body:
        piece = stream.read(65536)
        assert piece
        read += piece
    assert read == HEAD
    assert b"".join(stream.take_body(len(body), None)) == body


def test_what_the_library_has_begun_stays_with_it() -> None:
    stream = stream_of(HEAD + b"12", b"345")
    assert stream.read(1) == HEAD
    assert stream.stands_at_body
    assert stream.read(1) == b"12"
    assert not stream.stands_at_body
    assert stream.read(1) == b"345"


def test_after_an_interim_answer_the_library_goes_on() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    stream = stream_of(interim + HEAD + b"12345")
    assert stream.read(1) == interim
    assert stream.read(1) == HEAD + b"12345"
    assert not stream.stands_at_body


def test_chunks_are_joined_to_a_useful_size() -> None:
    pieces = [b"x" * 16384] * 20
    stream = stream_of(HEAD, *pieces)
    stream.read(1)
    assert [len(chunk) for chunk in stream.take_body(20 * 16384 - 7, None)] == [CHUNK] * 4 + [CHUNK - 7]


def test_a_body_that_ends_early() -> None:
    stream = stream_of(HEAD, b"x" * CHUNK, b"y")
    stream.read(1)
    chunks = stream.take_body(2 * CHUNK, None)
    assert [next(chunks), next(chunks)] == [b"x" * CHUNK, b"y"]
    with pytest.raises(httpcore.RemoteProtocolError, match="closed connection"):
        next(chunks)


def answered(raw: bytes, method: str = "GET") -> tuple[bytes, bool]:
    """The body that comes of an answer, and whether it was read directly."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(raw)

    thread = threading.Thread(target=serve)
    thread.start()
    taken: list[bool] = []

    class Spy(Network):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            taken.append(response.stream._direct is not None)  # type: ignore[union-attr]
            return response

    with httpx.Client(transport=Spy(QUICK), trust_env=False) as client:
        request = client.build_request(method, f"http://127.0.0.1:{listener.getsockname()[1]}/")
        response = client.send(request, stream=True)
        try:
            body = b"".join(response.iter_raw())
        finally:
            response.close()
    thread.join()
    return body, taken[0]


@pytest.fixture
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "DIRECT", 1)


@pytest.mark.usefixtures("_direct")
@pytest.mark.parametrize(
    ("raw", "direct"),
    [
        (HEAD + b"12345", True),
        (HEAD + b"12345 and more", True),
        (b"HTTP/1.1 206 Partial\r\ncontent-length: 5\r\n\r\n12345", True),
        # Anything else is the library's business.
        (b"HTTP/1.1 200 OK\nContent-Length: 5\n\n12345", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n12345", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n12345", False),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + b"12345", False),
    ],
)
def test_which_bodies_are_read_directly(raw: bytes, direct: bool) -> None:
    assert answered(raw) == (b"12345", direct)


@pytest.mark.usefixtures("_direct")
def test_head_has_no_body() -> None:
    assert answered(HEAD, "HEAD") == (b"", False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.mark.usefixtures("_direct")
def test_under_tls(authority: Authority) -> None:
    image = random_image(1_000_000, 300_000)
    with serve_faulty(tls=authority.server("127.0.0.1")) as server:
        authority.trust(server.host)
        name = server.put(image, "a:1")
        assert pull(name, quick(certificates=(authority.folder,))) == [layer.blob for layer in image.layers]
        # The manifest, too, was read directly: one connection each.
        assert server.connections == 3


def test_closing_waits_for_the_thread_that_reads() -> None:
    """The number of a socket that is closed under a reader would be given to the next connection."""
    ours, theirs = socket.socketpair()
    stream = Connection(ours, OpenConnections())
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(stream.read(1)))
    thread.start()
    while not stream._in_use.locked():
        pass
    stream.close()
    # The reader has let go before the socket was closed, woken by the end of the stream.
    thread.join(10)
    assert read == [b""]
    assert ours.fileno() == -1
    theirs.close()


def test_no_connection_after_the_end() -> None:
    ours, theirs = socket.socketpair()
    streams = OpenConnections()
    streams.close()
    with pytest.raises(httpcore.ConnectError):
        Connection(ours, streams)
    assert ours.fileno() == -1
    theirs.close()

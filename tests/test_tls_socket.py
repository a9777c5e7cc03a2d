"""TLS many records at a time, against Python's own TLS on the other side, without a network."""

from __future__ import annotations

import itertools
import ssl
import time
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ocifast.sources.registry.tls_socket import READ_SIZE, TlsSocket

from tests.support.pulls import Authority

HOST = "registry.example.com"
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class Server:
    """The socket of a server that speaks TLS: what it sends comes in pieces of these sizes, over and over."""

    def __init__(self, context: ssl.SSLContext, sizes: list[int]) -> None:
        self._come, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._come, self._going, server_side=True)
        self._sizes = itertools.cycle(sizes)
        self.got = b""
        self.ended = False
        self._shaken = False
        self.damage = False
        self.told: str | None = None
        self.slow = 0.0
        self.timeout = 60.0

    def sendall(self, data: bytes) -> None:
        self._come.write(data)
        try:
            if not self._shaken:
                self.tls.do_handshake()
                self._shaken = True
            while True:
                self.got += self.tls.read(1 << 20)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.told = error.reason

    def recv(self, size: int) -> bytes:
        time.sleep(self.slow)
        data = self._going.read(min(size, next(self._sizes)))
        if not data and not self.ended:
            raise TimeoutError
        if self.damage and len(data) > 100:
            data = data[:50] + bytes([data[50] ^ 1]) + data[51:]
        return data

    def settimeout(self, seconds: float | None) -> None: ...

    def gettimeout(self) -> float | None:
        return self.timeout


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def contexts(authority: Authority) -> Contexts:
    """The server's, and ours."""
    return authority.server(HOST), ssl.create_default_context(cafile=str(authority.file))


def connected(contexts: Contexts, sizes: list[int]) -> tuple[TlsSocket, Server]:
    server = Server(contexts[0], sizes)
    return TlsSocket(server, contexts[1], HOST), server  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 300_000), min_size=1, max_size=6).filter(lambda sizes: max(sizes) > 500),
    st.lists(st.integers(0, 70_000), max_size=6),
    st.integers(500, READ_SIZE * 2),
)
def test_bytes_come_as_they_were_sent(contexts: Contexts, pieces: list[int], bodies: list[int], asked: int) -> None:
    sock, server = connected(contexts, pieces)
    expected = b""
    for number, size in enumerate(bodies):
        body = Random(number).randbytes(size)
        expected += body
        for at in range(0, size, 16384):
            server.tls.write(body[at : at + 16384])
    got = b""
    while len(got) < len(expected):
        data = sock.recv(asked)
        assert 0 < len(data) <= asked
        got += data
    assert got == expected
    with pytest.raises(TimeoutError):
        sock.recv(asked)
    sock.sendall(expected)
    assert server.got == expected


def test_many_records_come_at_once(contexts: Contexts) -> None:
    sock, server = connected(contexts, [1 << 20])
    for _ in range(10):
        server.tls.write(bytes(16384))
    assert sock.recv(READ_SIZE) == bytes(163840)


@pytest.mark.parametrize("said", [True, False], ids=["said", "cut"])
def test_the_end_comes_after_all_bytes(contexts: Contexts, said: bool) -> None:
    sock, server = connected(contexts, [1000])
    server.tls.write(b"the last words")
    if said:
        with suppress(ssl.SSLWantReadError):
            server.tls.unwrap()
    server.ended = True
    assert sock.recv(100) == b"the last words"
    assert (sock.recv(100), sock.recv(100)) == (b"", b"")


def test_a_damaged_record_is_an_error(contexts: Contexts) -> None:
    sock, server = connected(contexts, [1 << 20])
    server.damage = True
    server.tls.write(bytes(5000))
    with pytest.raises(ssl.SSLError):
        sock.recv(100)


def test_a_server_that_leaves_while_hands_are_shaken(contexts: Contexts) -> None:
    server = Server(contexts[0], [10])
    server.ended = True
    server.sendall = lambda data: None  # type: ignore[method-assign]
    with pytest.raises(ssl.SSLError):
        TlsSocket(server, contexts[1], HOST)  # type: ignore[arg-type]


def test_a_server_is_told_that_its_certificate_is_refused(authority: Authority, contexts: Contexts) -> None:
    server = Server(authority.server("other.example.com"), [1 << 20])
    with pytest.raises(ssl.SSLCertVerificationError, match=HOST.replace(".", r"\.")):
        TlsSocket(server, contexts[1], HOST)  # type: ignore[arg-type]
    assert server.told is not None


def test_a_server_that_sends_byte_by_byte_is_not_waited_for_longer(contexts: Contexts) -> None:
    sock, server = connected(contexts, [1])
    server.tls.write(bytes(1000))
    server.slow = 0.01
    sock.settimeout(0.1)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        sock.recv(1000)
    server = Server(contexts[0], [1])
    server.slow, server.timeout = 0.01, 0.1
    with pytest.raises(TimeoutError):
        TlsSocket(server, contexts[1], HOST)  # type: ignore[arg-type]
    # All bytes would take more than ten seconds each time.
    assert time.monotonic() - began < 8


def test_what_is_right_before_a_fault_counts_and_the_fault_comes_next(contexts: Contexts) -> None:
    sock, server = connected(contexts, [1 << 20])
    server.tls.write(b"right")
    good = server._going.read()
    server.tls.write(bytes(5000))
    bad = bytearray(server._going.read())
    bad[50] ^= 1
    server._going.write(good + bytes(bad))
    assert sock.recv(100) == b"right"
    with pytest.raises(ssl.SSLError):
        sock.recv(100)

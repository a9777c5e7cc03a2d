"""Servers that never end: heads, interim answers and bodies that trickle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from click.testing import CliRunner
from ocifast.cli import cli
from ocifast.cli.registry import make_options
from ocifast.errors import NetworkError
from ocifast.reference import Reference
from ocifast.sources.registry import RegistryOptions, list_tags
from ocifast.sources.registry.client import Client
from ocifast.sources.registry.pace import Pace, TooSlowError

from tests.support.faulty import Answer, Request, serve_faulty
from tests.support.pulls import QUICK, pull, random_image

HASTY = replace(QUICK, read_timeout=0.4, min_rate=1000, rate_window=0.4)
SPEAKERS = {
    "head": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
    "interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@contextmanager
def trickling(first: bytes, again: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says `first` and then `again` for ever; its host, and what it was asked."""
    over = threading.Event()
    asked: list[bytes] = []

    def speak(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            asked.append(connection.recv(65536))
            connection.sendall(first)
            while not over.wait(0.02):
                connection.sendall(again)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=speak, args=(server.accept()[0],), daemon=True).start()

    server = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
    finally:
        over.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.mark.parametrize("kind", SPEAKERS)
def test_a_document_that_trickles_ends_and_is_not_asked_for_again(kind: str) -> None:
    with trickling(*SPEAKERS[kind]) as (host, asked):
        with pytest.raises(NetworkError, match="its answer comes too slowly"):
            list_tags(Reference.parse(f"{host}/a"), HASTY)
        # On loopback a server that does not answer well is also looked at for TLS; that asks for nothing.
        assert len([request for request in asked if request.startswith(b"GET ")]) == 1


def test_a_manifest_that_trickles_ends_and_is_not_asked_for_again() -> None:
    kind = b"Content-Type: application/vnd.oci.image.manifest.v1+json\r\n"
    with trickling(b"HTTP/1.1 200 OK\r\n" + kind + b"Content-Length: 4000000\r\n\r\n", b" ") as (host, asked):
        with pytest.raises(NetworkError, match="its answer comes too slowly"):
            pull(f"{host}/a:1", HASTY)
        assert len(asked) == 1


@pytest.mark.parametrize("size", [1000, 17 << 20])
def test_a_blob_that_trickles_ends(size: int) -> None:
    """Small ones are read by the HTTP library, large ones past it."""
    image = random_image(size)
    with (
        trickling(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"a") as (host, asked),
        serve_faulty() as server,
    ):
        name = server.put(image, "a:1")
        away = Answer(307, {"Location": f"http://{host}/blob"})
        server.script = lambda request: away if request.path.endswith(image.layers[0].digest) else None
        with pytest.raises(NetworkError, match="its answer comes too slowly"):
            pull(name, HASTY)
        assert len(asked) == 1


def test_a_token_that_trickles_ends() -> None:
    with trickling(*SPEAKERS["body"]) as (host, asked), serve_faulty() as server:
        realm = {"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="s"'}
        server.script = lambda request: Answer(401, realm)
        with pytest.raises(NetworkError, match="its answer comes too slowly"):
            list_tags(Reference.parse(f"{server.host}/a"), HASTY)
        assert len(asked) == 1


def test_silence_is_tried_again() -> None:
    with serve_faulty() as server:
        name = server.put(random_image(10), "a:1").rpartition(":")[0]
        silent = [Answer(stall=1.0)]
        server.script = lambda request: silent.pop() if silent else None
        assert list_tags(Reference.parse(name), HASTY) == ["1"]


def test_the_end_of_an_upload_may_take_longer() -> None:
    def script(request: Request) -> Answer:
        return Answer(201, stall=1.0)

    def put(options: RegistryOptions) -> int:
        client = Client(server.host, None, options)
        try:
            sent = client.send(
                "PUT", "/v2/a/blobs/uploads/x", name="a", what="end it", body=b"", expected=(201,), retries=0
            )
            sent.close()
            return sent.status_code
        finally:
            client.close()

    with serve_faulty(script) as server:
        assert put(HASTY) == 201
        with pytest.raises(NetworkError, match="it stopped answering"):
            put(replace(HASTY, upload_timeout=0.3))


def test_the_time_in_which_nobody_waits_does_not_count() -> None:
    pace = Pace(1000, 10)
    for _ in range(1000):
        pace.count(0.0, 1)
    with pytest.raises(TooSlowError):
        pace.count(10, 1)


def test_each_window_counts_for_itself() -> None:
    pace = Pace(1000, 10)
    pace.count(10, 1 << 20)
    with pytest.raises(TooSlowError):
        pace.count(10, 9999)


def test_options_and_variables_set_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (
        *("connect_timeout", "read_timeout", "upload_timeout", "min_rate"),
        *("rate_window", "helper_timeout", "daemon_timeout"),
    )
    made: list[RegistryOptions] = []

    def note(*hosts: str, **stated: object) -> RegistryOptions:
        made.append(make_options(*hosts, **stated))  # type: ignore[arg-type]
        raise NetworkError("enough")

    monkeypatch.setattr("ocifast.cli.tags.make_options", note)

    def run(words: list[str]) -> None:
        CliRunner().invoke(cli, ["tags", *words, "127.0.0.1:1/a"])

    run([])
    assert made.pop() == RegistryOptions()
    run([word for number, name in enumerate(limits, 7) for word in (f"--{name.replace('_', '-')}", str(number))])
    assert [getattr(made[0], name) for name in limits] == [7, 8, 9, 10, 11, 12, 13]
    for number, name in enumerate(limits, 7):
        monkeypatch.setenv(f"OCIFAST_{name.upper()}", str(number))
    run([])
    assert made[0] == made[1]

"""Nothing hangs: daemons, tools and parts of blobs that stand still are given up or replaced, within limits."""

from __future__ import annotations

import math
import os
import random
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import ocifast
import pytest
from ocifast.errors import HelperError, NetworkError, PackerError
from ocifast.process import run_tool
from ocifast.sources.registry import RegistryOptions, download_ranges

from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import build_image, write_docker_archive, write_layout
from tests.support.layers import TarBuilder
from tests.support.pulls import pull, quick, random_image
from tests.support.run import run, try_ocifast

PATIENT = 50.0
"""Seconds that would be too long in every test."""


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """A limit that did not work would take longer than any of them."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < PATIENT


@contextmanager
def daemon(folder: Path, *pieces: bytes | float) -> Iterator[str]:
    """Answers the first request with bytes and pauses (seconds), then closes; gives what DOCKER_HOST shall say."""
    path = folder / "sock"
    stop = threading.Event()
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(os.fspath(path))
        listening.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    wire, _ = listening.accept()
                    with closing(wire), suppress(OSError):
                        wire.recv(65536)
                        for piece in pieces:
                            if isinstance(piece, bytes):
                                wire.sendall(piece)
                            else:
                                stop.wait(piece)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"unix://{path}"
        finally:
            stop.set()
            listening.shutdown(socket.SHUT_RDWR)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def archive(folder: Path) -> bytes:
    return write_docker_archive(
        folder / "image.tar", {"app:1": build_image([TarBuilder().file("f", b"data")])}
    ).read_bytes()


def test_a_daemon_may_take_its_time_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive(tmp_path)
    options = RegistryOptions(daemon_timeout=30, read_timeout=0.3)
    with daemon(tmp_path, 0.8, HEAD, 0.8, chunked(data[:3000]), chunked(data[3000:]), b"0\r\n\r\n") as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with ocifast.open("docker-daemon:app:1", options=options) as image:
            assert len(image.layers) == 1


@pytest.mark.parametrize(
    ("pieces", "seconds"),
    [((), 0.6), ((HEAD,), 0.6), ((HEAD, chunked(b"x" * 100)), 0.3), ((HEAD, b"ffff\r\nx"), 0.3)],
    ids=["silent", "head alone", "a chunk", "half a chunk"],
)
def test_a_daemon_that_hangs(
    pieces: tuple[bytes, ...], seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RegistryOptions(daemon_timeout=0.6, read_timeout=0.3)
    with daemon(tmp_path, *pieces, 60.0) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(HelperError, match=rf"hung: no byte for {seconds:g} s \(--daemon-timeout waits longer"):
            ocifast.open("docker-daemon:app:1", options=options)


def test_a_daemon_that_ends_too_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon(tmp_path, HEAD, chunked(b"x" * 100)) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(HelperError, match="does not answer as one"):
            ocifast.open("docker-daemon:app:1")


@pytest.mark.parametrize("by", ["option", "variable"])
def test_podman_that_hangs(by: str, tmp_path: Path) -> None:
    program(tmp_path / "bin", "podman", "exec sleep 600")
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    words = ["inspect", "containers-storage:app:1"]
    if by == "option":
        words += ["--daemon-timeout", "0.5"]
    else:
        env["OCIFAST_DAEMON_TIMEOUT"] = "0.5"
    done = try_ocifast(*words, env=env)
    assert done.returncode == 1
    assert b"podman hung: no sign of life for 0.5 s" in done.stderr


def program(folder: Path, name: str, script: str) -> Path:
    """A program of the test's own."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.tools
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_packer_that_hangs(by: str, tmp_path: Path) -> None:
    # What it says of itself, and how it packs a small tree, is that of the real one.
    real = run("sh", "-c", "command -v mkfs.erofs").decode().strip()
    program(tmp_path / "bin", "mkfs.erofs", f'case "$*" in *output*) exec sleep 600;; *) exec {real} "$@";; esac')
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("f", b"data")]))
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    words = ["compile", f"oci:{layout}:app", str(tmp_path / "out.erofs"), "--backend", "mkfs.erofs", "-q"]
    if by == "option":
        words += ["--packer-timeout", "0.5"]
    else:
        env["OCIFAST_PACKER_TIMEOUT"] = "0.5"
    done = try_ocifast(*words, env=env)
    assert done.returncode == 1
    assert b"mkfs.erofs hung: no sign of life for 0.5 s; it was killed" in done.stderr
    assert not (tmp_path / "out.erofs").exists()
    assert not list(tmp_path.glob(".ocifast-*"))


def test_what_a_tool_has_started_is_alive_for_it(tmp_path: Path) -> None:
    script = "import time; end = time.time() + 2.5\nwhile time.time() < end: pass"
    run_tool(["sh", "-c", f"{sys.executable} -c '{script}'; true"], stall=1.0)
    with pytest.raises(PackerError, match="hung"):
        run_tool(["sh", "-c", "sleep 600; true"], stall=0.5)


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    """A registry in memory."""
    with serve_faulty() as running:
        yield running


class TestStarvedParts:
    """Parts of a blob of which nothing comes are asked for once more; what is whole first is taken."""

    RANGES = quick(range_threshold=500_000, range_speed=math.inf, read_timeout=PATIENT, parallel=3)

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download_ranges, "PIECE", 100_000)
        monkeypatch.setattr(download_ranges, "PATIENCE", 0.3)

    @pytest.mark.parametrize("starved", [100_000, 300_000, 900_000])
    @pytest.mark.parametrize("after", [0, 40_000])
    def test_a_part_that_stands_still(self, starved: int, after: int, server: FaultyRegistry) -> None:
        image = random_image(1_000_000)
        name = server.put(image, "a:1")
        asked: list[str] = []

        def script(request: Request) -> Answer | None:
            wanted = request.headers.get("range", "")
            if not wanted.startswith(f"bytes={starved}-"):
                return None
            asked.append(wanted)
            first = len(asked) == 1
            return replace(server.obey(request), cut=after, stall=60) if first else None

        server.script = script
        assert pull(name, self.RANGES) == [image.layers[0].blob]
        begun = [request.headers.get("range", "") for request in server.requests]
        end = "-" if starved == 900_000 else f"-{starved + 99_999}"
        # Once more, from the first byte that had not come.
        assert [word for word in begun if word.endswith(end)] == [
            f"bytes={starved}{end}",
            f"bytes={starved + after}{end}",
        ]

    def test_the_other_one_may_be_first_after_all(self, server: FaultyRegistry) -> None:
        image = random_image(400_000)
        name = server.put(image, "a:1")
        count = 0

        def script(request: Request) -> Answer | None:
            nonlocal count
            if not request.headers.get("range", "").startswith("bytes=200000-"):
                return None
            count += 1
            return replace(server.obey(request), stall=0.8 if count == 1 else 60)

        server.script = script
        assert pull(name, replace(self.RANGES, range_threshold=300_000)) == [image.layers[0].blob]
        assert count == 2

    def test_a_mirror_is_elsewhere(self, server: FaultyRegistry) -> None:
        image = random_image(1_000_000)
        name = server.put(image, "a:1")
        with serve_faulty() as mirror:
            mirror.put(image, "cache/a:1")

            def script(request: Request) -> Answer | None:
                stands = "/blobs/" in request.path and not request.headers.get("range", "").startswith("bytes=0-")
                return replace(server.obey(request), stall=60) if stands else None

            mirror.script = script
            options = replace(self.RANGES, mirrors={server.host: (f"{mirror.host}/cache",)})
            assert pull(name, options) == [image.layers[0].blob]
            assert all("/blobs/" in line for line in server.lines)
            assert len(server.lines) == 9

    def test_both_fail(self, server: FaultyRegistry) -> None:
        name = server.put(random_image(1_000_000), "a:1")
        server.script = lambda request: (
            replace(server.obey(request), cut=0, stall=0.4)
            if request.headers.get("range", "").startswith("bytes=300000-")
            else None
        )
        with pytest.raises(NetworkError):
            pull(name, replace(self.RANGES, retries=1))

    def test_large_blobs_have_large_parts(self) -> None:
        assert [download_ranges.piece_size(size) for size in (1, 3_199_999, 3_200_000)] == [100_000, 100_000, 400_000]


def test_random_answers_come_in_order(server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_ranges, "PIECE", 50_000)
    monkeypatch.setattr(download_ranges, "PATIENCE", 0.05)
    image = random_image(1_500_000)
    name = server.put(image, "a:1")
    chance = random.Random(5)

    def script(request: Request) -> Answer | None:
        answer = server.obey(request)
        if "/blobs/" not in request.path or chance.random() < 0.4:
            return None
        cut = chance.randrange(1 + len(answer.body))
        return replace(answer, cut=cut, stall=chance.choice([0.0, 0.1, 0.3]))

    server.script = script
    options = quick(range_threshold=100_000, range_speed=math.inf, retries=30)
    assert pull(name, options) == [image.layers[0].blob]

"""Images from the cache alone, and asked for again: `--offline`, `--refresh`, `OCIFAST_OFFLINE`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.cache import Cache
from ocifast.cli import main
from ocifast.errors import FileError, NotCachedError, UsageError

from tests.support.elf import build_elf
from tests.support.faulty import FaultyRegistry, serve_faulty
from tests.support.images import BuiltImage, build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import ocifast as command


def image(text: bytes, platform: str = "linux/amd64") -> BuiltImage:
    """An image of one small layer."""
    return build_image([TarBuilder().file("etc/text", text)], platform=platform)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyRegistry]:
    """A registry, on a machine that takes images for linux/amd64."""
    monkeypatch.setattr("ocifast.platforms._host.machine", lambda: "x86_64")
    with serve_faulty() as running:
        yield running


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: its exit status, and what it writes to both streams."""
    monkeypatch.setattr(signal, "signal", lambda _number, _handler: None)

    def running(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([*words]), *capsys.readouterr()

    return running


COMMANDS: dict[str, list[str]] = {
    "compile": ["compile", "{name}", "{out}.tar"],
    "pull": ["pull", "{name}", "oci:{out}"],
    "copy": ["copy", "docker://{name}", "oci-archive:{out}.tar"],
    "inspect": ["inspect", "{name}"],
    "inspect --raw": ["inspect", "--raw", "{name}"],
    "history": ["history", "{name}"],
    "ls": ["ls", "{name}"],
    "cat": ["cat", "{name}", "etc/text"],
    "diff": ["diff", "{name}", "{name}"],
    "du": ["du", "{name}"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_every_command_that_reads_images_does_without_a_registry(
    words: list[str],
    server: FaultyRegistry,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = server.put(image(b"one"), "app:1")

    def words_for(out: str) -> list[str]:
        return [word.format(name=name, out=tmp_path / out) for word in words]

    def told(out: str, *options: str) -> list[str]:
        status, said, _ = run(*words_for(out), *options)
        assert status == 0
        return [line for line in said.splitlines() if f"/{out}" not in line and "copied" not in line]

    asked = told("first")
    server.put(image(b"two"), "app:1")
    before = len(server.requests)
    assert told("second", "--offline") == asked
    monkeypatch.setenv("OCIFAST_OFFLINE", "1")
    assert told("third") == asked
    # A name that was never asked for is missing, by name.
    status, _, error = run(*[word.replace(":1", ":2") for word in words_for("fourth")], "--offline")
    assert status == 1
    assert f"{server.host}/app:2: what this name means is not in the cache" in error
    assert len(server.requests) == before
    assert not list(tmp_path.glob("fourth*"))
    told("fifth", "--refresh")
    assert server.lines[before] == "GET /v2/app/manifests/1"
    for contradiction in (["--offline", "--refresh"], ["--offline", "--no-cache"]):
        status, _, error = run(*words_for("sixth"), *contradiction)
        assert (status, "choose one of them" in error) == (1, True)


def test_a_base_image_without_a_registry(
    server: FaultyRegistry, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    name = server.put(image(b"base"), "base:1")
    program = tmp_path / "hello"
    program.write_bytes(build_elf())
    words = ["runnable", str(program), "--base", name, "-o"]
    first = run(*words, str(tmp_path / "first.tar"))
    before = len(server.requests)
    assert run(*words, str(tmp_path / "second.tar"), "--offline") == first
    assert first[0] == 0
    assert len(server.requests) == before


def test_each_platform_has_the_index_that_it_was_taken_of(server: FaultyRegistry, tmp_path: Path) -> None:
    old = [image(b"old amd64"), image(b"old arm64", "linux/arm64")]
    new = [image(b"new amd64"), image(b"new arm64", "linux/arm64")]
    name = server.put(build_index(old), "app:1")
    ocifast.compile(name, tmp_path / "amd64.tar", platform="linux/amd64")
    server.put(build_index(new), "app:1")
    ocifast.compile(name, tmp_path / "arm64.tar", platform="linux/arm64")
    offline = ocifast.CompileOptions(offline=True)
    again = {
        arch: ocifast.compile(name, tmp_path / f"{arch}-again.tar", platform=f"linux/{arch}", options=offline)
        for arch in ("amd64", "arm64")
    }
    assert {arch: made.digest for arch, made in again.items()} == {"amd64": old[0].digest, "arm64": new[1].digest}
    # A third one is missing by its manifest: the newest index knows it, or says what there is.
    with pytest.raises(ocifast.OcifastError, match="linux/riscv64"):
        ocifast.compile(name, tmp_path / "x.tar", platform="linux/riscv64", options=offline)


def test_what_is_missing_is_named(server: FaultyRegistry, tmp_path: Path) -> None:
    made = image(b"one")
    name = server.put(made, "app:1")
    cache = Cache()
    with ocifast.open(name, cache=cache) as opened:
        config = opened.manifest.config.digest
        assert opened.config.os == "linux"
    layer = made.layers[0].digest

    def missing(what: str, call: Callable[[], Any]) -> None:
        with pytest.raises(NotCachedError) as caught:
            call()
        error = caught.value
        assert f"{what} is not in the cache, and registries are not asked (--offline)" in error.message
        assert error.message.startswith(f"{name} (as of 20")
        assert error.context["reference"] == name

    offline = ocifast.CompileOptions(offline=True)
    missing(f"the blob {layer}", lambda: ocifast.compile(name, tmp_path / "x", options=offline))
    missing(f"the blob {layer}", lambda: ocifast.pull(name, f"oci:{tmp_path}/y", offline=True))
    assert list(tmp_path.iterdir()) == []
    for digest, kind in ((config, "blob"), (made.digest, "manifest")):
        (cache.folder / "blobs" / digest.replace(":", "/")).unlink()
        missing(f"the {kind} {digest}", lambda: ocifast.compile(name, tmp_path / "x", options=offline))
    assert not [line for line in server.lines if "GET" in line and layer in line]


def test_a_reference_with_a_digest_needs_no_name(server: FaultyRegistry, tmp_path: Path) -> None:
    made = image(b"one")
    name = server.put(made, "app:1")
    ocifast.compile(name, tmp_path / "first.tar")
    by_digest = f"{server.host}/app@{made.digest}"
    before = len(server.requests)
    done = ocifast.compile(by_digest, tmp_path / "second.tar", options=ocifast.CompileOptions(offline=True))
    assert (done.digest, done.from_cache, len(server.requests)) == (made.digest, True, before)


def test_seeds_are_no_registry(server: FaultyRegistry, tmp_path: Path) -> None:
    made = image(b"one")
    layout = write_layout(tmp_path / "seed", made, tag=f"{server.host}/app:1")
    options = ocifast.CompileOptions(offline=True, seeds=(str(layout),))
    assert ocifast.compile(f"{server.host}/app:1", tmp_path / "out.tar", options=options).digest == made.digest
    assert server.requests == []


def test_nothing_is_written_to_a_registry(
    server: FaultyRegistry, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    layout = write_layout(tmp_path / "layout", image(b"one"))
    for words in (["push", f"oci:{layout}:app", f"{server.host}/app:1"], ["copy", f"oci:{layout}:app", "docker://{}"]):
        status, _, error = run(*[word.replace("{}", f"{server.host}/app:1") for word in words], "--offline")
        assert status == 1
        assert "is in a registry, and none is asked (--offline)" in error
    assert server.requests == []


def test_names_and_their_time_are_in_the_cache(server: FaultyRegistry, tmp_path: Path) -> None:
    name = server.put(image(b"one"), "app:1")
    begun = time.time()
    ocifast.compile(name, tmp_path / "first.tar")
    cache = Cache()
    assert cache.info().references == 1
    entry = next(each for each in cache.entries() if each.kind == "reference")
    assert entry.reference == name
    path = cache.folder / f"references/{entry.name}.json"
    first = json.loads(path.read_bytes())
    assert {key: first[key] for key in ("reference", "platform")} == {"reference": name, "platform": "linux/amd64"}
    assert begun <= first["at"] <= time.time()
    # Asked again, it has a new time; used without a registry, it has not.
    ocifast.compile(name, tmp_path / "second.tar")
    second = json.loads(path.read_bytes())
    assert second["at"] > first["at"]
    os.utime(path, (5, 5))
    ocifast.compile(name, tmp_path / "third.tar", options=ocifast.CompileOptions(offline=True))
    assert json.loads(path.read_bytes()) == second
    assert path.stat().st_mtime > 5
    assert all(whole for _, whole in cache.verify())
    assert "reference" in command("cache", "ls").decode()
    # Damaged, it is one that nobody asked for; `verify` removes it.
    path.write_text("{")
    with pytest.raises(NotCachedError, match="what this name means"):
        ocifast.compile(name, tmp_path / "x", options=ocifast.CompileOptions(offline=True))
    assert [entry.kind for entry, whole in cache.verify() if not whole] == ["reference"]
    assert not path.exists()
    ocifast.compile(name, tmp_path / "fourth.tar")
    cache.clear()
    assert cache.info().references == 0


def test_without_a_cache_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCIFAST_OFFLINE", "perhaps")
    with pytest.raises(UsageError, match="OCIFAST_OFFLINE is 'perhaps'; it must be 1 or 0"):
        ocifast.open("r.example/app")
    monkeypatch.setenv("OCIFAST_OFFLINE", "1")
    (tmp_path / "file").touch()
    monkeypatch.setenv("OCIFAST_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(FileError, match="is not a folder"):
        ocifast.open("r.example/app")
    with pytest.raises(UsageError, match="--no-cache does without one"):
        ocifast.compile("r.example/app", tmp_path / "x", options=ocifast.CompileOptions(cache=False))
    # What is on this machine is read as ever.
    with ocifast.open(f"oci:{write_layout(tmp_path / 'layout', image(b'one'))}:app") as opened:
        assert opened.layers

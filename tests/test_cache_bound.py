"""The cache keeps to its bound by itself, cheaply, and leaves what is in use."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast.cache import Cache, CacheEntry
from ocifast.cache.bound import Use, default_bound
from ocifast.cache.contents import Contents
from ocifast.compiler import CompileOptions, compile_image
from ocifast.errors import UsageError
from ocifast.spec import Descriptor

from tests.support.caches import BLOB, DATA, rot
from tests.support.images import build_image, digest_of, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import ocifast, try_ocifast

MIB = 1 << 20


def image(folder: Path, number: int) -> str:
    """An image of 1 MiB that is like no other."""
    layer = TarBuilder().file("f", bytes([number]) * 16 + os.urandom(MIB))
    return f"oci:{write_layout(folder / f'layout-{number}', build_image([layer]))}:app"


def test_the_bound_is_a_share_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(tmp_path)
    share = found.f_blocks * found.f_frsize // 10
    assert default_bound(tmp_path / "not/there/yet") == min(share, 16 << 30)
    small = os.statvfs_result((4096, 4096, 1000, 1, 1, 1, 1, 1, 0, 255))
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda _: small)
        assert default_bound(tmp_path) == 409_600
    for text, size in (("20G", 20 << 30), ("0", 0), ("none", None)):
        monkeypatch.setenv("OCIFAST_CACHE_SIZE", text)
        assert default_bound(tmp_path) == size
        assert Cache(tmp_path).max_bytes == size
    monkeypatch.setenv("OCIFAST_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match=r"OCIFAST_CACHE_SIZE: 'much' is no size; write bytes, or .*, or none"):
        Cache(tmp_path)


def test_runs_keep_to_the_bound_and_the_oldest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCIFAST_CACHE_SIZE", "5M")
    options = CompileOptions(cache_folder=str(tmp_path / "cache"))
    cache = Cache(tmp_path / "cache")
    for number in range(9):
        compile_image(image(tmp_path, number), tmp_path / "out.tar", options=options)
        info = cache.info()
        assert info.total_bytes <= 5 * MIB
        assert info.outputs >= min(number + 1, 3)
        time.sleep(0.01)
    # The last ones are there, the first is not.
    assert compile_image(f"oci:{tmp_path}/layout-8:app", tmp_path / "out.tar", options=options).from_cache
    assert compile_image(f"oci:{tmp_path}/layout-7:app", tmp_path / "out.tar", options=options).from_cache
    assert not compile_image(f"oci:{tmp_path}/layout-0:app", tmp_path / "out.tar", options=options).from_cache


def test_blobs_count_and_what_does_not_fit_is_not_kept(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = registry.put(build_image([TarBuilder().file("f", os.urandom(MIB))]), "bound/image:1")
    options = CompileOptions(cache_folder=str(tmp_path / "cache"))
    monkeypatch.setenv("OCIFAST_CACHE_SIZE", "100K")
    compile_image(reference, tmp_path / "out.tar", options=options)
    info = Cache(tmp_path / "cache").info()
    assert (info.outputs, info.total_bytes <= 100 << 10) == (0, True)
    monkeypatch.setenv("OCIFAST_CACHE_SIZE", "none")
    compile_image(reference, tmp_path / "out.tar", options=options)
    assert Cache(tmp_path / "cache").info().total_bytes > 2 * MIB


def test_what_is_in_use_stays_when_the_bound_is_passed(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=MIB)
    (tmp_path / "out").write_bytes(os.urandom(MIB))
    with cache.outputs.lock("a" * 64), cache.blobs.writer(BLOB) as writer:
        writer.write(DATA[:-1])
        cache.outputs.put("a" * 64, tmp_path / "out", manifest=b"{}", config=b"{}")
        Cache(cache.folder, max_bytes=MIB).keep_to_bound()
        assert (cache.info().outputs, cache.info().partial) == (1, 1)
    cache.keep_to_bound()
    assert cache.info().total_bytes <= MIB


def test_nothing_is_walked_below_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache", max_bytes=100 * MIB)
    cache.blobs.put(BLOB, DATA)
    cache.keep_to_bound()
    counted = json.loads((cache.folder / "use.json").read_bytes())["size"]
    assert counted == cache.info().total_bytes
    walked: list[int] = []

    def walk(_self: Contents) -> Iterator[CacheEntry]:
        walked.append(1)
        return iter(())

    monkeypatch.setattr(Contents, "entries", walk)
    more = bytes(MIB)
    cache.blobs.put(Descriptor("x", digest_of(more), len(more)), more)
    cache.keep_to_bound()
    assert walked == []
    assert json.loads((cache.folder / "use.json").read_bytes())["size"] == counted + MIB
    # Killed runs add nothing: once a day all is counted.
    old = {"size": counted, "at": time.time() - 25 * 3600}
    (cache.folder / "use.json").write_text(json.dumps(old))
    cache.keep_to_bound()
    assert walked == [1]
    assert Use(cache.folder).add(0) == 0


def test_prune_without_options_keeps_to_the_bound(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    compile_image(image(tmp_path, 1), tmp_path / "out.tar", options=CompileOptions(cache_folder=str(folder)))
    env = {"OCIFAST_CACHE_DIR": str(folder)}
    assert json.loads(ocifast("cache", "prune", "--json", env=env)) == {"freed_bytes": 0}
    freed = json.loads(ocifast("cache", "prune", "--json", env={**env, "OCIFAST_CACHE_SIZE": "4K"}))
    assert freed["freed_bytes"] > MIB
    assert b"bound:    4.1 kB" in ocifast("cache", "info", env={**env, "OCIFAST_CACHE_SIZE": "4K"})
    done = try_ocifast("cache", "info", env={**env, "OCIFAST_CACHE_SIZE": "4X"})
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"ocifast: error: OCIFAST_CACHE_SIZE: '4X' is no size")


def test_what_is_there_is_listed(tmp_path: Path, registry: Registry) -> None:
    reference = registry.put(build_image([TarBuilder().file("f", os.urandom(MIB))]), "bound/listed:1")
    env = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    ocifast("compile", reference, tmp_path / "out.squashfs", "--keep-layers", env=env)
    found = json.loads(ocifast("cache", "ls", "--json", env=env))["entries"]
    assert sorted(entry["kind"] for entry in found) == ["blob", "blob", "blob", "layer", "output", "reference"]
    assert found == sorted(found, key=lambda entry: -entry["used"])
    (output,) = (entry for entry in found if entry["kind"] == "output")
    assert (output["reference"], output["format"]) == (reference, "squashfs")
    assert output["size"] > MIB
    told = ocifast("cache", "ls", env=env).decode().splitlines()
    assert len(told) == 6
    (line,) = (line for line in told if line.startswith("output"))
    assert line.endswith(f"{output['name']}  {reference} squashfs")


@pytest.mark.parametrize("kind", ["blob", "layer", "output"])
def test_verify_finds_a_byte_and_removes_what_has_it(kind: str, tmp_path: Path, registry: Registry) -> None:
    reference = registry.put(build_image([TarBuilder().file("f", os.urandom(MIB))]), "bound/verified:1")
    env = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    ocifast("compile", reference, tmp_path / "out.squashfs", "--keep-layers", env=env)
    whole = json.loads(ocifast("cache", "verify", "--json", env=env))
    assert (whole["checked"], whole["damaged"]) == (6, [])
    pattern = {"blob": "blobs/*/*", "layer": "layers/*/*/*.erofs", "output": "outputs/*/output"}[kind]
    path = max((tmp_path / "cache").glob(pattern), key=lambda path: path.stat().st_size)
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)[0]
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 1]))
    path.chmod(before.st_mode & 0o777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = try_ocifast("cache", "verify", "--json", env=env)
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert [entry["kind"] for entry in told["damaged"]] == [kind]
    assert not path.exists()
    again = json.loads(ocifast("cache", "verify", "--json", env=env))
    assert (again["checked"], again["damaged"]) == (5, [])
    assert b"; 0 damaged" in ocifast("cache", "verify", env=env)


def test_a_compile_that_verifies_trusts_no_record(tmp_path: Path) -> None:
    location = image(tmp_path, 1)
    options = CompileOptions(cache_folder=str(tmp_path / "cache"))
    compile_image(location, tmp_path / "out.tar", options=options)
    (entry,) = (tmp_path / "cache/outputs").iterdir()
    rot(entry)
    assert compile_image(location, tmp_path / "out.tar", options=options).from_cache
    careful = CompileOptions(cache_folder=str(tmp_path / "cache"), verify_cache=True)
    assert not compile_image(location, tmp_path / "out.tar", options=careful).from_cache
    done = try_ocifast(
        "compile", location, tmp_path / "out.tar", "--verify-cache", env={"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    )
    assert done.returncode == 0

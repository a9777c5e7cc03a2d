"""A remote cache: two folders are two machines, and what one says the other takes for nothing but its word."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.cli import main
from ocifast.compiler import CompileOptions
from ocifast.errors import FileError, UsageError
from ocifast.signatures import Verification

from tests.support.faulty import FaultyRegistry, serve_faulty
from tests.support.images import BuiltImage, Layer, as_json, build_image, digest_of, write_layout
from tests.support.layers import TarBuilder
from tests.support.pulls import QUICK
from tests.support.registry import Registry, serve_registry
from tests.support.signing import Signer

BASE = Layer(TarBuilder().file("base", b"base" * 5000, mtime=0).directory("d/", mtime=0))


def app(text: bytes = b"own") -> BuiltImage:
    upper = TarBuilder().file("own", text, mtime=0).file(".wh.gone", b"").symlink("l", "base", mtime=0)
    return build_image([BASE, Layer(upper)], config={"Entrypoint": ["/own"]})


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


class Machine:
    """A cache folder, which is all that tells machines apart here."""

    def __init__(self, folder: Path, remote: str, **options: Any) -> None:
        folder.mkdir()
        self.folder = folder
        self.options = {"remote_cache": remote, "cache_folder": str(folder / "cache"), "registry": QUICK, **options}

    def compile(self, image: str, output: str, **options: Any) -> ocifast.CompiledImage:
        chosen = CompileOptions(**{**self.options, **options})
        return ocifast.compile(image, self.folder / output, options=chosen)

    def kept(self) -> set[str]:
        """What of its own, verified things it has: layers and outputs."""
        cache = self.folder / "cache"
        return {path.parts[len(cache.parts)] for kind in ("layers", "outputs") for path in cache.glob(f"{kind}/*/*")}

    def of_others(self) -> set[str]:
        """The same of what came from the remote cache."""
        cache = self.folder / "cache"
        return {path.parts[len(cache.parts) + 2] for path in cache.glob("remote/*/*/*/*")} - {"tmp"}


Place = Callable[[], str]


@pytest.fixture(params=["api", "fallback", "layout", "debian"])
def remote(request: pytest.FixtureRequest, tmp_path: Path, server: FaultyRegistry) -> Iterator[str]:
    """Every kind of place that a remote cache can be."""
    kind = request.param
    with serve_registry(tmp_path / "debian") if kind == "debian" else nullcontext() as debian:
        server.knows_referrers = kind == "api"
        if kind == "layout":
            yield f"oci:{tmp_path}/remote"
        else:
            yield f"{debian.host if isinstance(debian, Registry) else server.host}/team/cache"


@pytest.fixture
def layout(tmp_path: Path) -> str:
    return f"oci:{write_layout(tmp_path / 'layout', app())}:app"


@pytest.mark.tools
def test_the_second_machine_makes_nothing(remote: str, layout: str, tmp_path: Path) -> None:
    one, two = Machine(tmp_path / "one", remote), Machine(tmp_path / "two", remote)
    first = one.compile(layout, "a.erofs")
    second = two.compile(layout, "a.erofs")
    assert (first.from_cache, first.from_remote, len(first.decoded)) == (False, False, 2)
    assert (second.from_cache, second.from_remote, second.decoded) == (True, True, ())
    assert [phase.name for phase in second.phases] == ["resolve", "fetch", "publish"]
    assert second.phases[1].bytes > 0
    assert (one.folder / "a.erofs").read_bytes() == (two.folder / "a.erofs").read_bytes()
    assert second.boot.entrypoint == ("/own",) == first.boot.entrypoint
    # Kept apart, and taken from there the next time, with the same remote cache named.
    assert (two.kept(), two.of_others()) == (set(), {"outputs"})
    assert two.compile(layout, "b.erofs").from_remote
    assert not two.compile(layout, "c.erofs", remote_cache=None).from_cache


@pytest.mark.parametrize("sync", [True, False])
def test_an_output_of_others_is_on_the_disk_when_it_is_there(
    sync: bool, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = f"oci:{tmp_path}/remote"
    Machine(tmp_path / "one", remote).compile(layout, "a.erofs")
    two = Machine(tmp_path / "two", remote, sync=sync)
    flushed: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert two.compile(layout, "a.erofs").from_remote
    assert ((two.folder / "a.erofs").stat().st_ino in flushed) is sync


@pytest.mark.tools
def test_decoded_layers_are_shared(remote: str, layout: str, tmp_path: Path) -> None:
    """Another format, and another image of the same base: no layer that the other machine has decoded is inflated."""
    one, two = Machine(tmp_path / "one", remote), Machine(tmp_path / "two", remote)
    one.compile(layout, "a.erofs")
    second = two.compile(layout, "a.tar")
    assert (second.from_cache, second.from_remote, second.decoded) == (False, True, ())
    alone = ocifast.compile(layout, tmp_path / "alone.tar", options=CompileOptions(cache=False))
    assert (two.folder / "a.tar").read_bytes() == (tmp_path / "alone.tar").read_bytes()
    assert alone.digest == second.digest
    other = f"oci:{write_layout(tmp_path / 'other', app(b'other'))}:app"
    third = two.compile(other, "b.tar")
    assert third.decoded == (app(b"other").layers[1].diff_id,)
    # What was made of others' layers is kept with them, and is not pushed on; what was verified here is kept here.
    assert two.kept() == {"layers"}
    assert two.of_others() == {"layers", "outputs"}
    three = Machine(tmp_path / "three", remote)
    assert not three.compile(layout, "a.tar").from_cache
    assert not three.compile(other, "b.tar").from_cache


def test_a_failure_is_no_fault_of_layers_of_others(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are none of the machine's own, of which one that has gone is decoded again."""
    remote = f"oci:{tmp_path}/remote"
    Machine(tmp_path / "one", remote).compile(layout, "a.erofs")
    tried = []

    def failing(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise FileError("cannot write the output")

    monkeypatch.setattr("ocifast.compiler.write_output", failing)
    with pytest.raises(FileError, match="cannot write the output"):
        Machine(tmp_path / "two", remote).compile(layout, "a.tar")
    assert tried == [1]


def test_a_run_that_names_no_remote_cache_uses_nothing_of_it(layout: str, tmp_path: Path) -> None:
    remote = f"oci:{tmp_path}/remote"
    Machine(tmp_path / "one", remote).compile(layout, "a.erofs")
    two = Machine(tmp_path / "two", remote)
    two.compile(layout, "a.erofs")
    two.compile(layout, "a.tar")
    alone = two.compile(layout, "b.erofs", remote_cache=None)
    assert (alone.from_cache, alone.from_remote, len(alone.decoded)) == (False, False, 2)
    elsewhere = two.compile(layout, "c.cpio", remote_cache=f"oci:{tmp_path}/elsewhere", keep_layers=False)
    assert (elsewhere.from_remote, len(elsewhere.decoded)) == (False, 2)


def test_read_only_pushes_nothing(server: FaultyRegistry, layout: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "one", f"{server.host}/team/cache", remote_read_only=True)
    machine.compile(layout, "a.erofs")
    assert [line for line in server.lines if not line.startswith(("GET", "HEAD"))] == []


def test_layers_are_pushed_once(server: FaultyRegistry, layout: str, tmp_path: Path) -> None:
    one = Machine(tmp_path / "one", f"{server.host}/team/cache")
    one.compile(layout, "a.erofs")
    server.requests.clear()
    # Kept layers are taken: nothing is decoded, and nothing but the output goes there.
    one.compile(layout, "b.tar")
    put = [request for request in server.requests if request.method == "PUT" and "/manifests/" in request.path]
    assert len(put) == 1


def damaged(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest of every output and layer in a layout, and lists it anew."""
    index = json.loads((folder / "index.json").read_text())
    for entry in index["manifests"]:
        path = folder / "blobs/sha256" / entry["digest"].removeprefix("sha256:")
        manifest = json.loads(path.read_bytes())
        change(manifest)
        raw = as_json(manifest)
        (folder / "blobs/sha256" / digest_of(raw).removeprefix("sha256:")).write_bytes(raw)
        entry |= {"digest": digest_of(raw), "size": len(raw)}
    (folder / "index.json").write_bytes(as_json(index))


def refused(tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture, says: str, **options: Any) -> None:
    """The second machine takes nothing, says why, and makes the right thing itself."""
    two = Machine(tmp_path / "two", f"oci:{tmp_path}/remote", **options)
    with caplog.at_level(logging.WARNING):
        made = two.compile(layout, "a.erofs")
    assert (made.from_cache, made.from_remote, len(made.decoded)) == (False, False, 2)
    assert (two.folder / "a.erofs").read_bytes() == (tmp_path / "one/a.erofs").read_bytes()
    assert says in caplog.text
    assert two.of_others() == set()


def test_blobs_that_are_not_theirs_are_refused(layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Machine(tmp_path / "one", f"oci:{tmp_path}/remote").compile(layout, "a.erofs")
    for path in (tmp_path / "remote/blobs/sha256").iterdir():
        data = bytearray(path.read_bytes())
        if not data.startswith(b"{"):
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    refused(tmp_path, layout, caplog, "a blob's digest should be")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda manifest: manifest["layers"].append(manifest["layers"][0]), "it has not 1 file of type"),
        (lambda manifest: manifest["layers"][0].update(mediaType="text/plain"), "it has not 2 files of type"),
        (lambda manifest: manifest["config"].update(mediaType="text/plain"), "it has not 1 file of type"),
        (lambda manifest: manifest["config"].update(size=1 << 40), "at most 16 MiB are taken"),
        (lambda manifest: manifest["layers"][0].update(size=1 << 50), "more than the cache may become"),
    ],
)
def test_manifests_that_lie_are_refused(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Any], None], says: str
) -> None:
    Machine(tmp_path / "one", f"oci:{tmp_path}/remote").compile(layout, "a.erofs")
    damaged(tmp_path / "remote", change)
    refused(tmp_path, layout, caplog, says)


def replaced(folder: Path, part: str, change: Callable[[bytes], bytes]) -> None:
    """Changes a blob of every manifest in a layout, its config or its last layer, and all digests with it."""

    def put(manifest: dict[str, Any]) -> None:
        blob = manifest["config"] if part == "config" else manifest["layers"][-1]
        data = change((folder / "blobs/sha256" / blob["digest"].removeprefix("sha256:")).read_bytes())
        (folder / "blobs/sha256" / digest_of(data).removeprefix("sha256:")).write_bytes(data)
        blob |= {"digest": digest_of(data), "size": len(data)}

    damaged(folder, put)


def told(**facts: Any) -> Callable[[bytes], bytes]:
    """Says something else of a file."""
    return lambda data: as_json(json.loads(data) | facts)


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("layers", lambda data: data[:-1], "the frames end early"),
        ("layers", lambda data: data + data, "more frames come than the file has"),
        ("layers", lambda data: data[12:], "no zstd frame with its length in front"),
        ("layers", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "frame 0 is damaged"),
        ("config", told(size=4096), "frame 0 is damaged"),
        ("config", told(size=1 << 21), "frame 0 has"),
        ("config", told(size=-1), "is not understood"),
        ("config", told(size=1 << 63), "is not understood"),
        ("config", told(size=1 << 50), "more than the cache may become"),
        ("config", lambda data: b"[" * 100_000, "is not understood"),
    ],
)
def test_files_that_are_not_what_is_said_of_them_are_refused(
    layout: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    part: str,
    change: Callable[[bytes], bytes],
    says: str,
) -> None:
    Machine(tmp_path / "one", f"oci:{tmp_path}/remote").compile(layout, "a.erofs")
    replaced(tmp_path / "remote", part, change)
    refused(tmp_path, layout, caplog, says)
    assert [path.name for path in (tmp_path / "two").iterdir() if path.name != "cache"] == ["a.erofs"]


def test_a_digest_that_is_not_the_files_is_found_by_who_compares_it(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(tmp_path / "one", f"oci:{tmp_path}/remote").compile(layout, "a.erofs")
    replaced(tmp_path / "remote", "config", told(digest=f"sha256:{'0' * 64}"))
    two = Machine(tmp_path / "two", f"oci:{tmp_path}/remote", remote_read_only=True)
    assert two.compile(layout, "a.erofs").from_remote
    with caplog.at_level(logging.WARNING):
        assert not two.compile(layout, "v.erofs", verify_cache=True).from_remote
    assert "is damaged: the digest of output should be" in caplog.text


def test_a_kept_output_of_others_is_a_file_of_its_own_and_seen_when_it_changes(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(tmp_path / "one", f"oci:{tmp_path}/remote").compile(layout, "a.erofs")
    two = Machine(tmp_path / "two", f"oci:{tmp_path}/remote", remote_read_only=True)
    two.compile(layout, "a.erofs")
    [kept] = (tmp_path / "two/cache/remote").glob("*/outputs/*/output")
    assert kept.stat().st_ino != (two.folder / "a.erofs").stat().st_ino
    kept.chmod(0o600)
    kept.write_bytes(kept.read_bytes()[::-1])
    assert two.compile(layout, "b.erofs").from_remote
    assert "is damaged" in caplog.text
    assert (two.folder / "b.erofs").read_bytes() == (tmp_path / "one/a.erofs").read_bytes()


def test_the_output_of_another_image_or_key_is_not_taken(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Machine(tmp_path / "one", f"oci:{tmp_path}/remote").compile(layout, "a.erofs")

    def claim(manifest: dict[str, Any]) -> None:
        manifest["annotations"] = dict.fromkeys(manifest["annotations"], "0" * 64)

    damaged(tmp_path / "remote", claim)
    two = Machine(tmp_path / "two", f"oci:{tmp_path}/remote")
    assert not two.compile(layout, "a.erofs").from_remote


def test_a_signature_is_asked_for_when_a_key_is_given(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signer, other = Signer.make(tmp_path / "keys"), Signer.make(tmp_path / "keys", name="other")
    # The image itself is signed as well: the key is asked for both.
    from tests.support.signing import bundle, fallback

    tag, listing = fallback(app(), bundle(signer, app()), bundle(other, app()))
    image = f"oci:{write_layout(tmp_path / 'signed', {'app': app(), tag: listing})}:app"
    one = Machine(tmp_path / "one", f"oci:{tmp_path}/remote", sign_key=str(signer.private_file))
    one.compile(image, "a.erofs")
    good = Machine(tmp_path / "good", f"oci:{tmp_path}/remote", verify=Verification(signer.file))
    assert good.compile(image, "a.erofs").from_remote
    assert good.compile(image, "a.tar").decoded == ()
    # Kept for that key alone.
    assert not good.compile(image, "b.erofs", verify=Verification(other.file)).from_remote
    refused(tmp_path, image, caplog, "of the remote cache is not used", verify=Verification(other.file))
    assert "is not by the key" in caplog.text


def test_what_is_not_signed_is_not_used_with_a_key(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.support.signing import bundle, fallback

    signer = Signer.make(tmp_path / "keys")
    tag, listing = fallback(app(), bundle(signer, app()))
    image = f"oci:{write_layout(tmp_path / 'signed', {'app': app(), tag: listing})}:app"
    Machine(tmp_path / "one", f"oci:{tmp_path}/remote").compile(image, "a.erofs")
    refused(tmp_path, image, caplog, "there is no signature", verify=Verification(signer.file))


def test_signatures_in_a_registry(server: FaultyRegistry, layout: str, tmp_path: Path) -> None:
    signer = Signer.make(tmp_path / "keys")
    remote = f"{server.host}/team/cache"
    Machine(tmp_path / "one", remote, sign_key=str(signer.private_file)).compile(layout, "a.erofs")
    kinds = [json.loads(raw).get("artifactType") for _, raw in server.manifests["team/cache"].values()]
    assert {"application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.ocifast.output.v1"} <= set(kinds)


def test_a_place_that_does_not_answer_is_done_without(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path / "one", "127.0.0.1:1/team/cache")
    with caplog.at_level(logging.WARNING):
        made = machine.compile(layout, "a.erofs")
    assert not made.from_cache
    assert "the remote cache 127.0.0.1:1/team/cache" in caplog.text


@pytest.mark.parametrize("place", ["host/a:1", f"host/a@sha256:{'0' * 64}", "oci:dir:tag", "docker-archive:x.tar"])
def test_places_that_are_none(layout: str, tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match="is no remote cache; write HOST/REPOSITORY or oci:DIR"):
        Machine(tmp_path / "one", place).compile(layout, "a.erofs")


def test_options_that_contradict_each_other(layout: str, tmp_path: Path) -> None:
    one = Machine(tmp_path / "one", f"oci:{tmp_path}/remote")
    with pytest.raises(UsageError, match="a remote cache needs the cache of this machine"):
        one.compile(layout, "a.erofs", cache=False)
    with pytest.raises(UsageError, match="a key signs what is pushed"):
        one.compile(layout, "a.erofs", remote_cache=None, sign_key="key")
    with pytest.raises(FileError, match="cannot read the key"):
        one.compile(layout, "a.erofs", sign_key=str(tmp_path / "none"))


def test_clearing_the_cache_clears_what_came_from_others(layout: str, tmp_path: Path) -> None:
    remote = f"oci:{tmp_path}/remote"
    Machine(tmp_path / "one", remote).compile(layout, "a.erofs")
    two = Machine(tmp_path / "two", remote)
    two.compile(layout, "a.erofs")
    assert ocifast.Cache(tmp_path / "two/cache").clear() > 0
    assert two.of_others() == set()


def test_what_came_from_others_counts_and_is_bounded(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = f"oci:{tmp_path}/remote"
    Machine(tmp_path / "one", remote).compile(layout, "a.erofs")
    two = Machine(tmp_path / "two", remote)
    two.compile(layout, "a.erofs")
    cache = ocifast.Cache(tmp_path / "two/cache")
    info = cache.info()
    assert info.remotes == 1
    assert 0 < info.remote_bytes <= info.total_bytes
    # One bound is for all of it: what came from others goes as well, and first when it was used longest ago.
    assert cache.prune(max_bytes=info.total_bytes) == 0
    assert cache.prune(max_bytes=info.total_bytes - info.remote_bytes) > 0
    assert cache.info().total_bytes <= info.total_bytes - info.remote_bytes
    # A run that passes the bound makes room itself.
    monkeypatch.setenv("OCIFAST_CACHE_SIZE", "1")
    two.compile(layout, "b.erofs")
    assert ocifast.Cache(tmp_path / "two/cache").info().remote_bytes == 0


def test_the_command_line(layout: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    signer = Signer.make(tmp_path / "keys")
    words = ["--remote-cache", f"oci:{tmp_path}/remote", "--sign-key", str(signer.private_file), "--json"]
    assert main(["compile", layout, str(tmp_path / "a.erofs"), *words]) == 0
    assert json.loads(capfd.readouterr().out)["from_remote"] is False
    assert ocifast.Cache().clear() > 0
    words = ["--remote-cache", f"oci:{tmp_path}/remote", "--remote-read-only", "--json"]
    assert main(["compile", layout, str(tmp_path / "b.erofs"), *words]) == 0
    assert json.loads(capfd.readouterr().out)["from_remote"] is True
    batch = tmp_path / "batch.jsonl"
    batch.write_text(json.dumps({"image": layout, "output": str(tmp_path / "c.erofs")}))
    assert main(["batch", str(batch), *words]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[0])["images"][0]["from_remote"] is True

"""Copies between any two places, with our own client and with skopeo at the other end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ocifast import platforms
from ocifast.cli import main
from ocifast.cli.display import format_size
from ocifast.copying import CopyResult, copy
from ocifast.errors import (
    BlobNotFoundError,
    DigestMismatchError,
    DocumentError,
    NotAnImageError,
    OcifastError,
    PlatformError,
    RegistryError,
    UsageError,
)
from ocifast.progress import Event, LayerState, Phase
from ocifast.sources.open import open_destination, open_source, parse_location
from ocifast.sources.verify import read_small
from ocifast.spec import Document, decode_index, decode_manifest

from tests.support.faulty import Answer, FaultyRegistry, Request, error, serve_faulty
from tests.support.images import BuiltImage, Layer, build_image, build_index, digest_of, write_layout
from tests.support.layers import TarBuilder
from tests.support.pulls import QUICK, random_image
from tests.support.registry import Registry
from tests.support.run import run


def copied(source: str, destination: str, **options: Any) -> CopyResult:
    """Copies from one location to another."""
    with closing(open_source(parse_location(source), options=QUICK)) as opened:
        return copy(opened, open_destination(parse_location(destination), options=QUICK), **options)


def everything(location: str) -> dict[str, bytes]:
    """All that a location leads to, read back with our own sources and verified: documents and blobs by digest."""
    found: dict[str, bytes] = {}

    def visit(document: Document) -> None:
        found[document.digest] = document.raw
        if document.is_index:
            for child in decode_index(document, name=location).manifests:
                visit(source.document(child))
            return
        manifest = decode_manifest(document, name=location)
        for descriptor in (manifest.config, *manifest.layers):
            found[descriptor.digest] = read_small(source.blob(descriptor), descriptor, 1 << 30, name=location)

    with closing(open_source(parse_location(location), options=QUICK)) as source:
        visit(source.root())
    return found


def contents(image: BuiltImage) -> dict[str, bytes]:
    """What `everything` should find of an image or index."""
    return {**{digest: each.raw for digest, each in image.documents().items()}, **image.all_blobs()}


def real_layers(count: int = 3) -> list[Layer]:
    return [Layer(TarBuilder().file(f"file{number}", bytes([number]) * 70_000)) for number in range(count)]


def places(registry: Registry, folder: Path, name: str) -> dict[str, str]:
    """A location of each kind."""
    return {
        "registry": f"docker://{registry.host}/copy/{name}:1",
        "layout": f"oci:{folder}/{name}-layout:app",
        "oci-archive": f"oci-archive:{folder}/{name}.tar:app",
        "docker-archive": f"docker-archive:{folder}/{name}-docker.tar:copy/{name}:1",
    }


KINDS = ["registry", "layout", "oci-archive", "docker-archive"]


@pytest.mark.parametrize("end", KINDS)
@pytest.mark.parametrize("start", KINDS)
def test_between_any_two_places(registry: Registry, tmp_path: Path, start: str, end: str) -> None:
    image = build_image(real_layers())
    layout = write_layout(tmp_path / "origin", image)
    name = f"{start}-to-{end}"
    first, second = places(registry, tmp_path, f"{name}-a")[start], places(registry, tmp_path, f"{name}-b")[end]
    one = copied(f"oci:{layout}:app", first)
    two = copied(first, second)
    kept = everything(second)
    if "docker-archive" not in (start, end):
        # Byte for byte, manifests included.
        assert kept == contents(image)
        assert (one.digest, two.digest) == (image.digest, image.digest)
        # Within one registry blobs are mounted.
        mounted = start == end == "registry"
        assert (two.copied, two.existing, two.documents) == ((0, 4, 1) if mounted else (4, 0, 1))
        assert two.bytes == (0 if mounted else sum(map(len, image.all_blobs().values())))
    else:
        # A Docker archive has no manifest of its own and holds layers uncompressed: config and diff IDs stay.
        config = next(raw for raw in image.all_blobs().values() if b"diff_ids" in raw)
        assert config in kept.values()


def test_every_platform_of_an_index(registry: Registry, tmp_path: Path) -> None:
    children = [
        build_image([b"one", b"both"], platform="linux/amd64"),
        build_image([b"two", b"both"], platform="linux/s390x"),
    ]
    index = build_index([*children, build_index([build_image([b"deep"], platform="linux/riscv64")])])
    layout = write_layout(tmp_path / "origin", index)
    for place in (
        f"oci:{tmp_path}/there:app",
        f"oci-archive:{tmp_path}/there.tar:app",
        f"docker://{registry.host}/copy/all:1",
    ):
        result = copied(f"oci:{layout}:app", place, all_platforms=True)
        assert result.digest == index.digest
        assert result.documents == 5
        assert everything(place) == contents(index)


def test_one_platform_of_an_index(registry: Registry, tmp_path: Path) -> None:
    children = [build_image([b"one"], platform="linux/amd64"), build_image([b"two"], platform="linux/s390x")]
    source = f"docker://{registry.put(build_index(children), 'copy/one:1')}"
    result = copied(source, f"oci:{tmp_path}/there:app", platform=platforms.parse("linux/s390x"))
    assert result.digest == children[1].digest
    assert everything(f"oci:{tmp_path}/there:app") == contents(children[1])
    with pytest.raises(PlatformError, match=r"linux/amd64.*linux/s390x"):
        copied(source, f"oci:{tmp_path}/other:app", platform=platforms.parse("linux/arm64"))
    with pytest.raises(UsageError, match="one platform and all platforms"):
        copied(source, f"oci:{tmp_path}/other:app", platform=platforms.parse("linux/s390x"), all_platforms=True)
    assert not (tmp_path / "other").exists()


def test_each_blob_once(tmp_path: Path) -> None:
    """Two layers, two images, one blob."""
    shared = Layer(b"", blob=b"shared" * 1000)
    images = [
        build_image([shared, Layer(b"", blob=b"own%d" % n), shared], platform=f"linux/{arch}")
        for n, arch in enumerate(("amd64", "arm64"))
    ]
    with serve_faulty() as source, serve_faulty() as target:
        name = source.put(build_index(images), "a:1")
        result = copied(f"docker://{name}", f"docker://{target.host}/b:1", all_platforms=True)
        assert result.copied == 5
        for server, method in ((source, "GET"), (target, "PUT")):
            asked = [request for request in server.requests if request.method == method and "/blobs/" in request.path]
            digests = (
                [request.path.rpartition("/")[2] for request in asked]
                if method == "GET"
                else [request.values("digest")[0] for request in asked]
            )
            assert sorted(digests) == sorted({digest for image in images for digest in image.blobs})
        assert [request.path.rpartition("/")[2] for request in target.requests if "/manifests/" in request.path] == [
            images[0].digest,
            images[1].digest,
            "1",
        ]


def test_what_is_there_is_not_sent_again(registry: Registry, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "origin", build_image(real_layers()))
    target = f"docker://{registry.host}/copy/again:1"
    assert copied(f"oci:{layout}:app", target).copied == 4
    before = len(registry.requests())
    result = copied(f"oci:{layout}:app", target)
    assert (result.copied, result.existing, result.bytes) == (0, 4, 0)
    assert {line.split()[0] for line in registry.requests()[before:]} == {"HEAD", "PUT"}
    # Into a layout, too.
    copied(target, f"oci:{tmp_path}/there:app")
    before = len(registry.requests())
    assert copied(target, f"oci:{tmp_path}/there:other").existing == 4
    assert registry.requests()[before:] == ["GET /v2/copy/again/manifests/1 200"]


def test_blobs_are_mounted_from_another_repository(registry: Registry, tmp_path: Path) -> None:
    image = build_image(real_layers())
    source = f"docker://{registry.put(image, 'copy/mount-from:1')}"
    before = len(registry.requests())
    result = copied(source, f"docker://{registry.host}/copy/mount-to:1")
    assert (result.copied, result.existing) == (0, 4)
    seen = registry.requests()[before:]
    assert len([line for line in seen if "mount=" in line and line.endswith(" 201")]) == 4
    assert not [line for line in seen if line.startswith(("GET /v2/copy/mount-from/blobs", "PATCH"))]
    assert everything(f"docker://{registry.host}/copy/mount-to:1") == contents(image)


def test_referrers_are_copied_too() -> None:
    image = random_image(1000)

    def referrer(to: BuiltImage, name: bytes) -> BuiltImage:
        return build_image(
            [Layer(b"", blob=name)], edit_manifest=lambda manifest: manifest.update(subject=to.descriptor())
        )

    signature = referrer(image, b"signature")
    of_signature = referrer(signature, b"signature of the signature")
    for source_knows in (True, False):
        with serve_faulty() as source, serve_faulty() as target:
            source.knows_referrers = source_knows
            target.knows_referrers = not source_knows
            name = source.put(image, "a:1")
            for each in (signature, of_signature):
                source.put(each, f"a:{each.digest[7:20]}")
                if not source_knows:
                    subject = each.manifest["subject"]["digest"]
                    source.put(build_index([each]), f"a:{subject.replace(':', '-')}")
            result = copied(f"docker://{name}", f"docker://{target.host}/b:1", referrers=True)
            assert result.documents == 3
            for each in (image, signature, of_signature):
                assert target.manifests["b"][each.digest][1] == each.raw
            if not target.knows_referrers:
                tag = image.digest.replace(":", "-")
                assert [entry["digest"] for entry in json.loads(target.manifests["b"][tag][1])["manifests"]] == [
                    signature.digest
                ]


def test_referrers_go_between_registries_only(registry: Registry, tmp_path: Path) -> None:
    source = f"docker://{registry.put(build_image(real_layers(1)), 'copy/only:1')}"
    with pytest.raises(UsageError, match="from a registry to a registry only"):
        copied(source, f"oci:{tmp_path}/there:app", referrers=True)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("form", ["docker", "oci"])
def test_images_of_skopeo_arrive_and_ours_arrive_there(registry: Registry, tmp_path: Path, form: str) -> None:
    layout = write_layout(tmp_path / "origin", build_image(real_layers(), docker=form == "docker"))
    image = build_image(real_layers(), docker=form == "docker")
    name = (
        registry.push(f"oci:{layout}:app", f"copy/skopeo-{form}:1")
        if form == "oci"
        else registry.put(image, f"copy/skopeo-{form}:1")
    )
    # From skopeo's push to our pull and push, to skopeo's pull.
    copied(f"docker://{name}", f"oci:{tmp_path}/pulled:app")
    assert everything(f"oci:{tmp_path}/pulled:app") == everything(f"docker://{name}") == contents(image)
    ours = f"{registry.host}/copy/ours-{form}:1"
    copied(f"oci:{tmp_path}/pulled:app", f"docker://{ours}")
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        "--src-tls-verify=false",
        "--preserve-digests",
        f"docker://{ours}",
        f"dir:{tmp_path}/by-skopeo",
    )
    assert (tmp_path / "by-skopeo/manifest.json").read_bytes() == image.raw
    for digest, data in image.all_blobs().items():
        assert (tmp_path / "by-skopeo" / digest.removeprefix("sha256:")).read_bytes() == data
    # Our archives, too; skopeo takes no Docker manifests from OCI archives.
    archives = [f"docker-archive:{tmp_path}/docker.tar:copy/ours:1"]
    if form == "oci":
        archives.append(f"oci-archive:{tmp_path}/oci.tar:app")
    for place in archives:
        copied(f"oci:{tmp_path}/pulled:app", place)
        inspected = json.loads(run("skopeo", "inspect", "--config", place))
        assert inspected["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.layers]


@pytest.fixture
def faulty_pair() -> Any:
    with serve_faulty() as source, serve_faulty() as target:
        yield source, target


def test_a_failure_leaves_nothing(tmp_path: Path, faulty_pair: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    source, target = faulty_pair
    image = random_image(*[50_000] * 6)
    name = source.put(image, "a:1")
    broken = image.layers[3].digest
    source.script = lambda request: error(403, "DENIED", "not this one") if broken in request.path else None
    for place in (f"oci:{tmp_path}/there:app", f"oci-archive:{tmp_path}/there.tar:app", f"docker://{target.host}/b:1"):
        with pytest.raises(RegistryError, match="not this one"):
            copied(f"docker://{name}", place)
    assert list(tmp_path.iterdir()) == []
    assert target.uploads == {}
    assert target.manifests == {}


def test_wrong_bytes_leave_nothing(tmp_path: Path, faulty_pair: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    source, target = faulty_pair
    image = random_image(50_000, 60_000)
    name = source.put(image, "a:1")
    wrong = Answer(200, {}, bytes(60_000))
    source.script = lambda request: wrong if image.layers[1].digest in request.path else None
    for place in (f"oci:{tmp_path}/there:app", f"oci-archive:{tmp_path}/there.tar:app", f"docker://{target.host}/b:1"):
        with pytest.raises(DigestMismatchError, match=image.layers[1].digest):
            copied(f"docker://{name}", place)
    assert list(tmp_path.iterdir()) == []
    assert target.uploads == {}
    assert image.layers[1].digest not in target.blobs.get("b", {})
    assert target.manifests == {}


@pytest.mark.timeout(60)
def test_a_blob_that_waits_is_woken_when_another_one_fails(faulty_pair: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    """One blob stalls for an hour; the failure of the other ends the copy at once."""
    source, target = faulty_pair
    image = random_image(50_000, 60_000)
    name = source.put(image, "a:1")
    stalling = threading.Event()
    over = threading.Event()

    def script(request: Request) -> Answer | None:
        if image.layers[0].digest in request.path:
            stalling.set()
            over.wait(600)
        elif image.layers[1].digest in request.path:
            stalling.wait(10)
            return error(403, "DENIED")
        return None

    source.script = script
    from ocifast.sources.registry import RegistryOptions

    patient = RegistryOptions(read_timeout=3600, backoff=0.01)
    with closing(open_source(parse_location(f"docker://{name}"), options=patient)) as opened:
        destination = open_destination(parse_location(f"docker://{target.host}/b:1"), options=QUICK)
        try:
            with pytest.raises(RegistryError, match="DENIED"):
                copy(opened, destination)
        finally:
            over.set()


def test_foreign_layers_that_nobody_holds_are_left_out(tmp_path: Path) -> None:
    foreign = Layer(
        b"", blob=b"windows", media_type="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", missing=True
    )
    foreign.urls = ["https://mcr.example/layer"]
    plain = Layer(b"", blob=b"plain", missing=True)
    with serve_faulty() as source, serve_faulty() as target:
        name = source.put(build_image([foreign]), "a:1")
        result = copied(f"docker://{name}", f"docker://{target.host}/b:1")
        assert (result.copied, result.skipped) == (1, 1)
        name = source.put(build_image([plain]), "a:2")
        with pytest.raises(BlobNotFoundError, match=digest_of(b"plain")):
            copied(f"docker://{name}", f"docker://{target.host}/b:2")


def test_artifacts_are_copied_like_images(tmp_path: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["artifactType"] = "application/vnd.example+json"
        manifest["config"]["mediaType"] = "application/vnd.oci.empty.v1+json"
        manifest["layers"][0]["mediaType"] = "text/plain"

    artifact = build_image([Layer(b"", blob=b"chart")], edit_manifest=edit)
    with serve_faulty() as source, serve_faulty() as target:
        copied(f"docker://{source.put(artifact, 'a:1')}", f"docker://{target.host}/b:1")
        assert target.manifests["b"]["1"] == (artifact.media_type, artifact.raw)
        assert target.blobs["b"] == artifact.blobs


def deep(levels: int) -> BuiltImage:
    index = build_image([b"deep"])
    for _ in range(levels):
        index = build_index([index])
    return index


def blob_in_index() -> BuiltImage:
    return build_index(
        [],
        edit=lambda index: index.update(manifests=[{"mediaType": "text/plain", "digest": digest_of(b""), "size": 0}]),
    )


def two_sizes() -> BuiltImage:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["layers"].append({**manifest["layers"][0], "size": 5})

    return build_image([b"x"], edit_manifest=edit)


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (deep(5), DocumentError, "indexes stand more than 3 deep in one another"),
        (blob_in_index(), NotAnImageError, "which is no manifest but text/plain"),
        (two_sizes(), DocumentError, "is said to be .* and 5 bytes long"),
    ],
)
def test_what_cannot_be_copied(image: BuiltImage, kind: type[OcifastError], message: str) -> None:
    with serve_faulty() as source, serve_faulty() as target:
        with pytest.raises(kind, match=message):
            copied(f"docker://{source.put(image, 'a:1')}", f"docker://{target.host}/b:1", all_platforms=True)
        assert target.requests == []


def test_progress(tmp_path: Path) -> None:
    events: list[Event] = []
    with serve_faulty() as source, serve_faulty() as target:
        image = random_image(3_000_000, 10)
        name = source.put(image, "a:1")
        copied(f"docker://{name}", f"oci:{tmp_path}/there:app", progress=events.append)
        assert [event.phase for event in events if event.layer is None] == [
            Phase.RESOLVING,
            Phase.RESOLVED,
            Phase.COMPLETE,
        ]
        big = [event for event in events if event.layer == image.layers[0].digest]
        assert [event.state for event in big[:2]] == [LayerState.WAITING, LayerState.DOWNLOADING]
        assert big[-1] == Event(
            Phase.LAYER_ACQUIRE, image.layers[0].digest, LayerState.DOWNLOADED, 3_000_000, 3_000_000
        )
        done = [event.done for event in big]
        assert done == sorted(done, key=lambda value: value or 0)
        assert len(big) < 8
        events.clear()
        copied(f"oci:{tmp_path}/there:app", f"docker://{target.host}/b:1", progress=events.append)
        assert {event.state for event in events if event.layer} == {
            LayerState.WAITING,
            LayerState.UPLOADING,
            LayerState.UPLOADED,
        }
        events.clear()
        copied(f"oci:{tmp_path}/there:app", f"docker://{target.host}/b:1", progress=events.append)
        assert {event.state for event in events if event.layer} == {LayerState.WAITING, LayerState.EXISTS}


def test_commands(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = build_image(real_layers())
    name = registry.put(image, "copy/commands:1")

    def said(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    size = sum(map(len, image.all_blobs().values()))
    summary = f"4 blobs copied ({format_size(size)})"
    assert said("pull", name, f"oci:{tmp_path}/pulled:app") == f"{image.digest}  {summary}\n"
    assert said("push", f"oci:{tmp_path}/pulled:app", f"{registry.host}/copy/pushed:1", "-q") == f"{image.digest}\n"
    assert json.loads(said("copy", name, f"oci-archive:{tmp_path}/a.tar:app", "--json")) == {
        "source": name,
        "destination": f"oci-archive:{tmp_path}/a.tar:app",
        "digest": image.digest,
        "media_type": image.media_type,
        "documents": 1,
        "copied": 4,
        "existing": 0,
        "skipped": 0,
        "bytes": size,
        "platform": None,
        "platforms": 0,
    }
    assert said("tags", f"{registry.host}/copy/pushed") == "1\n"
    assert json.loads(said("tags", f"{registry.host}/copy/pushed", "--json"))["tags"] == ["1"]
    gone = f"{registry.host}/copy/pushed@{image.digest}"
    assert said("delete", gone) == f"deleted {gone}\n"
    assert main(["delete", gone]) == 1
    assert capsys.readouterr().err == f"ocifast: error: {gone}: not found, nothing was deleted\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "{}/a:1", "out"], "out: pull writes to a place on disk: oci:DIR[:TAG], oci-archive:FILE[:TAG] or"),
        (["pull", "oci:x", "oci:y"], "oci:x: pull fetches from a registry; for other places use `ocifast copy`"),
        (["push", "oci:x", "oci:y"], "oci:y: push sends to a registry; for other places use `ocifast copy`"),
        (["push", "oci:/nonexistent", "{}/a:1"], "/nonexistent"),
        (["delete", "{}/a:1"], "{}/a:1: only a digest can be deleted; write {}/a@sha256:…"),
        (["tags", "{}/a:1"], "'{}/a:1' names one image; write {}/a for the list of its tags"),
        (["copy", "{}/a:1", "other.example/a:1", "-u", "u"], "--username is for one registry, not for {} and other.ex"),
    ],
)
def test_what_commands_refuse(
    registry: Registry, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.replace("{}", registry.host) for argument in arguments]) == 1
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("ocifast: error: ")
    assert message.replace("{}", registry.host) in seen.err
    assert seen.err.count("\n") == 1


def test_memory_does_not_grow_with_the_image(registry: Registry, tmp_path: Path) -> None:
    """Four layers of 48 MB there and back, each command in a process of its own."""
    layout = write_layout(tmp_path / "origin", random_image(*[48_000_000] * 4))
    name = f"{registry.host}/copy/big:1"
    for arguments in (["push", f"oci:{layout}:app", name], ["pull", name, f"oci:{tmp_path}/pulled:app"]):
        # The peak of this process would be that of the tests, too: the system counts from before exec.
        peak = "re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]"
        code = f"import re, sys; from ocifast.cli import main; assert main() == 0; print({peak}, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code, *arguments, "-q"], capture_output=True, check=True)
        assert int(done.stderr) < 100 << 10

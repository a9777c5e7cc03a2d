"""Published failures of registry clients, by their numbers in the list of threats: documents and blobs that lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ocifast.errors import (
    DigestInvalidError,
    DigestMismatchError,
    DocumentError,
    OcifastError,
    RegistryError,
    SizeMismatchError,
)
from ocifast.sources.registry import Credential
from ocifast.sources.verify import read_small
from ocifast.spec import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST, Descriptor, decode_manifest

from tests.support.faulty import Answer, FaultyRegistry, serve_faulty
from tests.support.images import Layer, build_image, build_index, digest_of
from tests.support.pulls import fetch, layers_of, opened, pull, quick, random_image
from tests.support.tokens import serve_tokens


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


# 14: unvalidated digests become paths and requests.

BAD_DIGESTS = [
    "",
    "sha256",
    "sha256:",
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 65,
    "sha256:" + "A" * 64,
    "sha256:" + "g" * 64,
    "sha256:../../../../etc/passwd",
    "sha256:" + "a" * 60 + "/../",
    "sha512:" + "a" * 64,
    "md5:" + "a" * 32,
    "sha256:" + "a" * 63 + "\n",
    "sha256:" + "a" * 63 + "\u0661",
]


@pytest.mark.parametrize("digest", BAD_DIGESTS)
def test_threat_14_digests_are_checked_before_they_are_used(server: FaultyRegistry, digest: str) -> None:
    image = build_image([b"x"], edit_manifest=lambda manifest: manifest["layers"][0].update(digest=digest))
    name = server.put(image, "a:1")
    with opened(name) as source:
        with pytest.raises((DigestInvalidError, DocumentError)):
            decode_manifest(source.root(), name=name)
        with pytest.raises(DigestInvalidError):
            source.referrers(digest)
    assert server.lines == ["GET /v2/a/manifests/1"]


@pytest.mark.parametrize("digest", BAD_DIGESTS[1:-2])
def test_threat_14_a_digest_that_the_registry_states_is_checked(server: FaultyRegistry, digest: str) -> None:
    image = random_image()
    name = server.put(image, "a:1")
    headers = {"Content-Type": image.media_type, "Docker-Content-Digest": digest}
    server.script = lambda request: Answer(200, headers, image.raw)
    with opened(name) as source:
        with pytest.raises(DigestInvalidError):
            source.digest()
        with pytest.raises(DigestInvalidError):
            source.root()


# 19: one document is a manifest and an index.


def test_threat_19_a_manifest_that_is_an_index_as_well(server: FaultyRegistry) -> None:
    image = build_image([b"x"], edit_manifest=lambda manifest: manifest.update(manifests=[]))
    name = server.put(image, "a:1")
    with pytest.raises(DocumentError, match="is a manifest and an index at once"):
        pull(name)
    assert server.lines == ["GET /v2/a/manifests/1"]


@pytest.mark.parametrize(("said", "is_index"), [(OCI_INDEX, False), (DOCKER_INDEX, False), (OCI_MANIFEST, True)])
def test_threat_19_the_content_type_contradicts_the_document(server: FaultyRegistry, said: str, is_index: bool) -> None:
    image = random_image()
    document = build_index([image]) if is_index else image
    name = server.put(document, "a:1")
    server.script = lambda request: Answer(200, {"Content-Type": said}, document.raw)
    with pytest.raises(DocumentError, match=r"announced as|does not have the fields of"):
        pull(name)


def test_threat_19_a_child_is_sent_as_something_else_than_its_index_says(server: FaultyRegistry) -> None:
    image = random_image()
    name = server.put(build_index([image]), "a:1")
    server.script = lambda request: Answer(200, {"Content-Type": OCI_INDEX}, image.raw)
    expected = re.escape(f"was announced as {OCI_MANIFEST}, but sent as {OCI_INDEX}")
    with opened(name) as source, pytest.raises(DocumentError, match=expected):
        source.document(Descriptor(OCI_MANIFEST, image.digest, len(image.raw)))


# 20: bytes that are not what they should be.


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("change", [flipped, lambda data: data[::-1], lambda data: b"\0" * len(data)])
def test_threat_20_blobs_of_the_right_size_and_the_wrong_bytes(server: FaultyRegistry, change: Any) -> None:
    image = random_image(5000)
    name = server.put(image, "a:1")
    wrong = Answer(200, {}, change(image.layers[0].blob))
    server.script = lambda request: wrong if "/blobs/" in request.path else None
    with pytest.raises(DigestMismatchError, match=image.layers[0].digest):
        pull(name)


@pytest.mark.parametrize("change", [flipped, lambda data: data.replace(b"tar+gzip", b"tar+zstd")])
@pytest.mark.parametrize("states_it", [False, True])
def test_threat_20_a_child_of_the_right_size_and_the_wrong_bytes(
    server: FaultyRegistry, change: Any, states_it: bool
) -> None:
    image = random_image()
    name = server.put(build_index([image]), "a:1")
    wrong = change(image.raw)
    stated = {"Docker-Content-Digest": digest_of(wrong)} if states_it else {}
    server.script = lambda request: Answer(200, {"Content-Type": image.media_type, **stated}, wrong)
    with opened(name) as source, pytest.raises(DigestMismatchError) as caught:
        source.document(Descriptor(OCI_MANIFEST, image.digest, len(image.raw)))
    assert (caught.value.context["expected"], caught.value.context["seen"]) == (image.digest, digest_of(wrong))


@pytest.mark.parametrize("length", [None, -1])
@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data + data, lambda data: data[:-1]])
def test_threat_20_blobs_of_another_size(server: FaultyRegistry, change: Any, length: int | None) -> None:
    image = random_image(5000)
    name = server.put(image, "a:1")
    wrong = Answer(200, {}, change(image.layers[0].blob), length=length)
    server.script = lambda request: wrong if "/blobs/" in request.path else None
    with pytest.raises(SizeMismatchError, match="should be 5000 bytes long"):
        pull(name)


@pytest.mark.parametrize("tail", [b" ", b"\n{}", b"\0"])
def test_threat_20_a_manifest_with_bytes_after_it(server: FaultyRegistry, tail: bytes) -> None:
    image = random_image()
    server.put(image, "a:1")
    server.script = lambda request: Answer(200, {"Content-Type": image.media_type}, image.raw + tail)
    with pytest.raises(DigestMismatchError, match=image.digest):
        pull(f"{server.host}/a@{image.digest}")
    child = Descriptor(OCI_MANIFEST, image.digest, len(image.raw))
    with opened(f"{server.host}/a:1") as source, pytest.raises(SizeMismatchError, match=f"more than {len(image.raw)}"):
        source.document(child)


def test_threat_20_the_registry_states_another_digest_than_it_sends(server: FaultyRegistry) -> None:
    image, other = random_image(1), random_image(2)
    name = server.put(image, "a:1")
    stated = {"Content-Type": image.media_type, "Docker-Content-Digest": other.digest}
    server.script = lambda request: Answer(200, stated, image.raw)
    with pytest.raises(DigestMismatchError) as caught:
        pull(name)
    assert caught.value.context["expected"] == other.digest
    assert caught.value.context["seen"] == image.digest


# 21: sizes without bounds.


@pytest.mark.parametrize("size", [-1, None, "5", 1.5, 1 << 63, 1 << 64])
def test_threat_21_sizes_that_are_none(server: FaultyRegistry, size: Any) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["size"] = size
        if size is None:
            del manifest["layers"][0]["size"]

    name = server.put(build_image([b"x"], edit_manifest=edit), "a:1")
    with pytest.raises(DocumentError):
        pull(name)
    assert server.lines == ["GET /v2/a/manifests/1"]


def test_threat_21_the_largest_size_takes_no_memory(server: FaultyRegistry) -> None:
    largest = (1 << 63) - 1
    image = build_image([b"x"], edit_manifest=lambda manifest: manifest["layers"][0].update(size=largest))
    with pytest.raises(SizeMismatchError, match=f"should be {largest} bytes long"):
        pull(server.put(image, "a:1"))


def test_threat_21_an_endless_body_is_left_after_one_byte_too_many(server: FaultyRegistry) -> None:
    image = random_image(5000)
    name = server.put(image, "a:1")
    endless = Answer(200, {}, image.layers[0].blob * 20_000, length=-1)
    server.script = lambda request: endless if "/blobs/" in request.path else None
    with opened(name) as source:
        (layer,) = layers_of(source)
        assert sum(map(len, source.blob(layer))) == 5001
        with pytest.raises(SizeMismatchError, match="but is more than 5000"):
            fetch(source, layer)
    # What nobody reads the server cannot send.
    assert server.sent_at_last(len(image.raw)) == len(image.raw)


# 22: documents without bounds.


@pytest.mark.parametrize("length", [None, -1])
def test_threat_22_a_manifest_that_is_too_long(server: FaultyRegistry, length: int | None) -> None:
    server.script = lambda request: Answer(200, {"Content-Type": OCI_MANIFEST}, b" " * (64 << 20), length=length)
    with pytest.raises(DocumentError, match="its manifest is longer than 4 MiB"):
        pull(f"{server.host}/a:1")
    child = Descriptor(OCI_MANIFEST, digest_of(b""), (4 << 20) + 1)
    with opened(f"{server.host}/a:1") as source, pytest.raises(DocumentError, match="at most 4 MiB are taken"):
        source.document(child)
    assert len(server.requests) == 1
    assert server.sent_at_last(0) == 0


def test_threat_22_a_manifest_of_four_megabytes_is_read(server: FaultyRegistry) -> None:
    image = build_image([b"x"], annotations={"padding": "x" * ((4 << 20) - 1000)})
    assert (4 << 20) - 1000 < len(image.raw) < 4 << 20
    assert len(pull(server.put(image, "a:1"))) == 1


def test_threat_22_a_config_that_is_too_long(server: FaultyRegistry) -> None:
    config = Descriptor("application/vnd.oci.image.config.v1+json", digest_of(b""), (16 << 20) + 1)
    with opened(f"{server.host}/a:1") as source, pytest.raises(DocumentError, match="at most 16 MiB are taken"):
        read_small(source.blob(config), config, 16 << 20, name="image")
    assert server.requests == []


@pytest.mark.parametrize(("padding", "said"), [(60 << 10, ": TOO_LONG"), (64 << 10, ""), (64 << 20, "")])
def test_threat_22_an_error_that_is_too_long(server: FaultyRegistry, padding: int, said: str) -> None:
    """What stands behind 64 KiB is not read, and the beginning of a document is none."""
    server.script = lambda request: Answer(400, {}, b'{"errors":[{"code":"TOO_LONG"}]' + b" " * padding + b"}")
    with pytest.raises(RegistryError) as caught:
        pull(f"{server.host}/a:1")
    assert str(caught.value) == f"{server.host}/a:1: cannot read the manifest: the registry answered 400{said}"


@pytest.mark.parametrize(("padding", "taken"), [(60 << 10, True), (64 << 10, False), (64 << 20, False)])
def test_threat_22_a_token_that_is_too_long(server: FaultyRegistry, tmp_path: Path, padding: int, taken: bool) -> None:
    image = random_image(10)
    name = server.put(image, "a:1")
    with serve_tokens(tmp_path / "roots.pem") as tokens:
        tokens.override = lambda request: Answer(200, {}, b'{"token":"t"' + b" " * padding + b"}")
        asks = Answer(401, {"WWW-Authenticate": tokens.challenge()})
        server.script = lambda request: None if "authorization" in request.headers else asks
        if taken:
            assert pull(name) == [image.layers[0].blob]
        else:
            with pytest.raises(RegistryError, match=r"its token server 127\.0\.0\.1 holds no token"):
                pull(name)
        assert len(tokens.requests) == 1


# 23, bombs in layers, is the core's.

# 24: URLs of foreign layers.


def test_threat_24_urls_of_descriptors_are_not_followed(server: FaultyRegistry) -> None:
    with serve_faulty(address="127.0.0.2") as elsewhere:
        layer = Layer(b"x", media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", missing=True)
        layer.urls = [f"{elsewhere.url}/layer"]
        name = server.put(build_image([layer]), "a:1")
        with pytest.raises(OcifastError, match="does not have the blob"):
            pull(name, quick(credentials={server.host: Credential("someone", "secret")}))
        assert elsewhere.requests == []

"""Pulling from Debian's docker-registry: by tag, by digest, by both, and what is said when there is nothing."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator

import pytest
from ocifast.errors import (
    BlobNotFoundError,
    DigestMismatchError,
    ImageNotFoundError,
    SizeMismatchError,
)
from ocifast.reference import Reference
from ocifast.sources.registry import Credential, RegistryOptions, RegistrySource
from ocifast.sources.verify import read_small, verified
from ocifast.spec import Descriptor, decode_index, decode_manifest

from tests.support.images import BuiltImage, Layer, build_image, build_index, digest_of
from tests.support.layers import TarBuilder
from tests.support.registry import Registry

SourceOf = Callable[[str], RegistrySource]


def an_image(content: bytes = b"hello") -> BuiltImage:
    return build_image([Layer(TarBuilder().file("hello", content))])


@pytest.fixture
def source_of() -> Iterator[SourceOf]:
    """Opens sources and closes them when the test is over."""
    with contextlib.ExitStack() as opened:

        def open_one(text: str) -> RegistrySource:
            return opened.enter_context(contextlib.closing(RegistrySource(Reference.parse(text))))

        yield open_one


@pytest.mark.parametrize("form", ["{0}/source/a:1", "{0}/source/a@{1}", "{0}/source/a:other@{1}"])
def test_pull_by_tag_digest_or_both(registry: Registry, source_of: SourceOf, form: str) -> None:
    image = an_image()
    registry.put(image, "source/a:1")
    source = source_of(form.format(registry.host, image.digest))
    before = len(registry.requests())

    assert source.root().raw == image.raw
    assert source.root().digest == image.digest
    manifest = decode_manifest(source.root(), name="image")
    with source.blob(manifest.layers[0]) as blob:
        assert digest_of(b"".join(verified(manifest.layers[0], blob, name="image"))) == manifest.layers[0].digest
    asked = "1" if form.endswith(":1") else image.digest
    assert registry.requests()[before:] == [
        f"GET /v2/source/a/manifests/{asked} 200",
        f"GET /v2/source/a/blobs/{manifest.layers[0].digest} 200",
    ]


def test_head_where_a_digest_is_enough(registry: Registry, source_of: SourceOf) -> None:
    image = an_image()
    registry.put(image, "source/head:1")
    before = len(registry.requests())

    assert source_of(f"{registry.host}/source/head:1").digest() == image.digest
    assert source_of(f"{registry.host}/source/head@{image.digest}").digest() == image.digest
    assert registry.requests()[before:] == ["HEAD /v2/source/head/manifests/1 200"]


def test_children_of_an_index(registry: Registry, source_of: SourceOf) -> None:
    index = build_index([an_image(b"one"), an_image(b"two")])
    registry.put(index, "source/index:1")
    source = source_of(f"{registry.host}/source/index:1")

    assert source.root().is_index
    for child, image in zip(decode_index(source.root(), name="index").manifests, index.children, strict=True):
        assert source.document(child).raw == image.raw


def test_download_from_an_offset(registry: Registry, source_of: SourceOf) -> None:
    image = an_image(b"x" * 5000)
    registry.put(image, "source/offset:1")
    source = source_of(f"{registry.host}/source/offset:1")
    layer = decode_manifest(source.root(), name="image").layers[0]
    whole = b"".join(source.blob(layer))

    for offset in (0, 1, layer.size - 1, layer.size):
        assert b"".join(source.blob(layer, offset=offset)) == whole[offset:]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{}/source/none:1", "not found"),
        ("{}/source/tags:none", "not found; check the name and the tag (`ocifast tags {}/source/tags` lists them)"),
    ],
)
def test_not_found(registry: Registry, source_of: SourceOf, reference: str, message: str) -> None:
    registry.put(an_image(), "source/tags:1")
    with pytest.raises(ImageNotFoundError) as caught:
        source_of(reference.format(registry.host)).root()
    assert str(caught.value).startswith(reference.format(registry.host))
    assert message.format(registry.host) in str(caught.value)


def test_missing_blob(registry: Registry, source_of: SourceOf) -> None:
    registry.put(an_image(), "source/blob:1")
    gone = Descriptor("application/octet-stream", digest_of(b"gone"), 4)
    source = source_of(f"{registry.host}/source/blob:1")
    with pytest.raises(BlobNotFoundError, match=gone.digest):
        list(source.blob(gone))
    with pytest.raises(BlobNotFoundError, match=gone.digest):
        source.document(gone)


def test_blob_of_another_size_is_refused_before_it_is_read(registry: Registry, source_of: SourceOf) -> None:
    image = an_image()
    registry.put(image, "source/size:1")
    source = source_of(f"{registry.host}/source/size:1")
    layer = decode_manifest(source.root(), name="image").layers[0]
    for size in (layer.size - 1, layer.size + 1):
        wrong = Descriptor(layer.media_type, layer.digest, size)
        blob = source.blob(wrong)
        with pytest.raises(SizeMismatchError, match=f"should be {size} bytes long, but is {layer.size}"):
            next(iter(blob))


def test_damaged_blob_and_manifest(registry: Registry, source_of: SourceOf) -> None:
    image = an_image(b"to be damaged")
    registry.put(image, "source/damaged:1")
    source = source_of(f"{registry.host}/source/damaged:1")
    manifest = decode_manifest(source.root(), name="image")
    file = registry.blob(manifest.config.digest)
    file.write_bytes(file.read_bytes().replace(b"amd64", b"arm64"))
    with pytest.raises(DigestMismatchError, match=manifest.config.digest):
        read_small(source.blob(manifest.config), manifest.config, 1 << 20, name="image")

    file = registry.blob(image.digest)
    file.write_bytes(file.read_bytes().replace(b"gzip", b"gzap"))
    for form in (":1", f"@{image.digest}"):
        with pytest.raises(DigestMismatchError, match=image.digest):
            source_of(f"{registry.host}/source/damaged{form}").root()


def test_options_are_plain_data() -> None:
    options = RegistryOptions(
        insecure=frozenset({"registry.example"}), credentials={"registry.example": Credential("name", "swordfish")}
    )
    assert pickle.loads(pickle.dumps(options)) == options
    assert hash(options) == hash(pickle.loads(pickle.dumps(options)))
    assert "swordfish" not in repr(options)

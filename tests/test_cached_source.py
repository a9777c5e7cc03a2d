"""A source with the cache before it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
from ocifast.cache import Cache, CachedSource
from ocifast.errors import (
    AuthenticationError,
    DigestMismatchError,
    ImageNotFoundError,
    NetworkError,
    RateLimitError,
    SizeMismatchError,
)
from ocifast.flatten import FlattenOptions, flatten
from ocifast.image import resolve
from ocifast.sources import FileSlice
from ocifast.sources.open import open_source, parse_location
from ocifast.sources.registry import Credential
from ocifast.spec import Descriptor, Document

from tests.support.caches import BLOB, DATA, HEX, IMAGE, files, logged
from tests.support.faulty import Answer, serve_faulty
from tests.support.images import build_image
from tests.support.layers import TarBuilder
from tests.support.pulls import opened, quick, random_image
from tests.support.registry import Registry
from tests.support.run import run


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that is not there yet."""
    return Cache(tmp_path / "cache")


class Flaky:
    """A source of one blob and one document that counts what it is asked for, and breaks off where it is told to."""

    name = "r.io/app:1"

    def __init__(self, data: bytes = DATA, *, breaks_at: int | None = None) -> None:
        self.data = data
        self.breaks_at = breaks_at
        self.asked: list[str] = []

    def root(self) -> Document:
        self.asked.append("root")
        return Document(IMAGE.media_type, IMAGE.raw)

    def holds(self, descriptor: Descriptor) -> bool:
        return True

    def document(self, descriptor: Descriptor) -> Document:
        self.asked.append("document")
        return Document(IMAGE.media_type, IMAGE.raw)

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Flaky._Blob:
        self.asked.append(f"blob from {offset}")
        return Flaky._Blob(self, offset)

    def close(self) -> None:
        self.asked.append("close")

    class _Blob:
        local: FileSlice | None = None

        def __init__(self, source: Flaky, offset: int) -> None:
            self._source = source
            self._offset = offset

        def __iter__(self) -> Iterator[bytes]:
            for start in range(self._offset, len(self._source.data), 100_000):
                if self._source.breaks_at is not None and start >= self._source.breaks_at:
                    raise NetworkError("the connection broke")
                yield self._source.data[start : start + 100_000]

        def __enter__(self) -> Flaky._Blob:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
        ) -> None:
            pass


def read(source: CachedSource) -> bytes:
    """All of the blob."""
    with source.blob(BLOB) as blob:
        return b"".join(blob)


def test_a_blob_is_fetched_once(cache: Cache) -> None:
    flaky = Flaky()
    assert read(CachedSource(flaky, cache.blobs)) == DATA
    assert read(CachedSource(flaky, cache.blobs)) == DATA
    assert flaky.asked == ["blob from 0"]
    blob = CachedSource(flaky, cache.blobs).blob(BLOB, offset=5)
    assert blob.local == FileSlice(cache.folder / "blobs/sha256" / HEX, 5, len(DATA) - 5)


def test_a_fetch_that_breaks_off_goes_on(cache: Cache) -> None:
    flaky = Flaky(breaks_at=500_000)
    with pytest.raises(NetworkError):
        read(CachedSource(flaky, cache.blobs))
    # Who stops reading leaves its beginning too.
    flaky.breaks_at = None
    with CachedSource(flaky, cache.blobs).blob(BLOB) as blob:
        chunks = iter(blob)
        assert len(next(chunks)) > 0
        chunks.close()  # type: ignore[attr-defined]
    assert read(CachedSource(flaky, cache.blobs)) == DATA
    assert flaky.asked == ["blob from 0", "blob from 500000"]
    assert files(cache) == [f"blobs/sha256/{HEX}"]


def root_digest(reference: str, cache: Cache) -> str:
    """Of what a reference names, with the cache before the registry."""
    with opened(reference) as source:
        return CachedSource(source, cache.blobs).root().digest


def test_of_a_tag_only_the_digest_is_asked_for_when_the_cache_has_the_rest(cache: Cache) -> None:
    old, new = random_image(100, seed=1), random_image(100, seed=2)
    with serve_faulty() as server:
        reference = server.put(old, "app:1")
        assert [root_digest(reference, cache) for _ in range(3)] == [old.digest] * 3
        server.put(new, "app:1")
        assert [root_digest(reference, cache) for _ in range(2)] == [new.digest] * 2
        head, get = "HEAD /v2/app/manifests/1", "GET /v2/app/manifests/1"
        assert server.lines == [get, head, head, head, get, head]


def test_an_image_is_asked_for_once_however_often_a_command_looks_at_it(cache: Cache, tmp_path: Path) -> None:
    image = build_image([TarBuilder().file("etc/text", b"text")])
    with serve_faulty() as server:
        name = server.put(image, "app:1")
        root_digest(name, cache)
        commands = (
            ("inspect",),
            ("inspect", "--raw"),
            ("history",),
            ("ls",),
            ("pull", f"oci:{tmp_path}/pulled:app"),
            ("copy", f"oci:{tmp_path}/copied:app"),
            ("compile", str(tmp_path / "out.tar")),
        )
        for command, *rest in commands:
            server.requests.clear()
            words = (command, "--platform", "linux/amd64", name, *rest)
            run(sys.executable, "-m", "ocifast", *words, env={"OCIFAST_CACHE_DIR": str(cache.folder)})
            heads = [line for line in server.lines if "/manifests/" in line]
            assert heads == ["HEAD /v2/app/manifests/1"], command


def test_a_server_that_knows_no_head_is_asked_the_long_way(cache: Cache) -> None:
    image = random_image(100)
    with serve_faulty() as server:
        reference = server.put(image, "app:1")
        root_digest(reference, cache)
        server.script = lambda request: Answer(405) if request.method == "HEAD" else None
        assert root_digest(reference, cache) == image.digest
        # What is wrong is told by the answer to GET, which has a body.
        with pytest.raises(ImageNotFoundError, match="not found; check the name and the tag"):
            root_digest(f"{server.host}/app:2", cache)
        get = "GET /v2/app/manifests/"
        assert server.lines == [f"{get}1", "HEAD /v2/app/manifests/1", f"{get}1", "HEAD /v2/app/manifests/2", f"{get}2"]


def test_a_password_that_is_wrong_is_sent_once(cache: Cache) -> None:
    image = random_image(100)
    with serve_faulty() as server:
        reference = server.put(image, "app:1")
        root_digest(reference, cache)
        basic = {"WWW-Authenticate": 'Basic realm="r"'}
        server.script = lambda request: Answer(401, basic)
        options = quick(credentials={server.host: Credential("me", "wrong")})
        server.requests.clear()
        with opened(reference, options) as source, pytest.raises(AuthenticationError):
            CachedSource(source, cache.blobs).root()
        assert [(request.method, "authorization" in request.headers) for request in server.requests] == [
            ("HEAD", False),
            ("HEAD", True),
        ]


def test_a_registry_that_limits_us_is_not_asked_another_way(cache: Cache) -> None:
    image = random_image(100)
    with serve_faulty() as server:
        reference = server.put(image, "app:1")
        root_digest(reference, cache)
        server.script = lambda request: Answer(429)
        server.requests.clear()
        with pytest.raises(RateLimitError):
            root_digest(reference, cache)
        assert server.lines == ["HEAD /v2/app/manifests/1"] * 4


def test_layers_may_be_left_to_who_reads_them(cache: Cache) -> None:
    flaky = Flaky()
    source = CachedSource(flaky, cache.blobs, layers=False)
    assert read(source) == DATA
    assert files(cache) == []
    config = Descriptor("application/vnd.oci.image.config.v1+json", BLOB.digest, BLOB.size)
    with source.blob(config) as blob:
        assert b"".join(blob) == DATA
    assert files(cache) == [f"blobs/sha256/{HEX}"]
    assert source.blob(BLOB).local is not None


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", DATA[:-1] + b"?"])
def test_a_wrong_blob_is_refused_by_name_and_not_kept(data: bytes, cache: Cache) -> None:
    with pytest.raises((SizeMismatchError, DigestMismatchError)) as caught:
        read(CachedSource(Flaky(data), cache.blobs))
    assert caught.value.message.startswith("r.io/app:1: ")
    assert caught.value.context["layer"] == BLOB.digest
    assert files(cache) == []


def test_documents_by_digest(cache: Cache) -> None:
    flaky = Flaky()
    document = Document(IMAGE.media_type, IMAGE.raw)
    source = CachedSource(flaky, cache.blobs)
    for _ in range(2):
        assert source.document(document.descriptor()).raw == IMAGE.raw
        assert source.root().raw == IMAGE.raw
    by_digest = CachedSource(flaky, cache.blobs, digest=IMAGE.digest)
    assert by_digest.root() == document
    by_digest.close()
    assert flaky.asked == ["document", "root", "close"]
    # Damaged on disk: asked for again.
    (cache.folder / "blobs" / IMAGE.digest.replace(":", "/")).write_bytes(IMAGE.raw.replace(b"2", b"3"))
    assert by_digest.root().raw == IMAGE.raw
    assert flaky.asked[-1] == "close"
    assert CachedSource(flaky, cache.blobs, digest=IMAGE.digest).root().raw == IMAGE.raw
    assert flaky.asked[-1] == "root"


def test_a_full_disk_does_not_stop_a_download(
    cache: Cache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes, offset: int | None = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ocifast.cache.blob_writer.write_all", full)
    source = CachedSource(Flaky(), cache.blobs)
    assert read(source) == DATA
    assert source.root().raw == IMAGE.raw
    assert files(cache) == []
    assert len(logged(caplog)) == 2
    assert all("No space left on device" in line for line in logged(caplog))


def flattened(name: str, cache: Cache) -> bytes:
    """The dump of a registry's image, its layers kept while they are flattened."""
    source = CachedSource(open_source(parse_location(name)), cache.blobs, layers=False)
    with resolve(source) as image, flatten(image, options=FlattenOptions(blobs=cache.layers)) as tree:
        return tree.dump()


def test_flattening_keeps_layers_and_goes_on_where_it_ended(cache: Cache, registry: Registry) -> None:
    noise = hashlib.shake_256(b"noise").digest(3 << 20)
    image = build_image([TarBuilder().file("a", noise), TarBuilder().file("b", b"two")])
    name = registry.put(image, "cached/app:1")
    expected = flattened(name, Cache(cache.folder.with_name("other")))
    first = image.layers[0]
    part = cache.folder / "blobs/sha256" / (first.digest.removeprefix("sha256:") + ".part")
    with cache.layers.writer(Descriptor("x", first.digest, len(first.blob))) as writer:
        writer.write(first.blob[: 2 << 20])
    assert part.exists()
    assert flattened(name, cache) == expected
    assert not part.exists()
    before = len(registry.requests())
    assert flattened(name, cache) == expected
    assert [line for line in registry.requests()[before:] if "/blobs/" in line] == []
    for layer in image.layers:
        assert cache.blobs.verify(Descriptor("x", layer.digest, len(layer.blob)))

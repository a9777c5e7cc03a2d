"""Pushing: what is sent, what is not sent again, and how an upload survives a fault."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ocifast.errors import (
    AuthenticationError,
    DigestMismatchError,
    NetworkError,
    OcifastError,
    RegistryError,
    SizeMismatchError,
    UsageError,
)
from ocifast.reference import Reference
from ocifast.sources.registry import RegistryDestination, RegistryOptions, upload
from ocifast.spec import OCI_MANIFEST, Descriptor, Document, fallback_tag

from tests.support.faulty import Answer, FaultyRegistry, Request, error, serve_faulty
from tests.support.images import as_json, build_image, digest_of
from tests.support.pulls import QUICK, opened, quick, random_image
from tests.support.registry import Registry
from tests.support.tokens import serve_tokens

DATA = bytes(range(256)) * 4000
BLOB = Descriptor("application/octet-stream", digest_of(DATA), len(DATA))
SESSION = "/v2/a/blobs/uploads/session"


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def pieces(data: bytes, size: int = 100_000) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def put_blob(
    server: FaultyRegistry,
    chunks: Iterable[bytes] | None = None,
    descriptor: Descriptor = BLOB,
    options: RegistryOptions = QUICK,
) -> None:
    """Uploads one blob to repository `a`."""
    destination = RegistryDestination(Reference.parse(f"{server.host}/a:1"), options)
    try:
        destination.put_blob(descriptor, pieces(DATA) if chunks is None else chunks)
    finally:
        destination.abort()


def push_document(name: str, document: Document) -> None:
    destination = RegistryDestination(Reference.parse(name), QUICK)
    try:
        destination.put_document(document, root=True)
        destination.commit()
    finally:
        destination.abort()


def test_a_blob_goes_in_two_requests(server: FaultyRegistry) -> None:
    put_blob(server)
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"PUT {SESSION}0"]
    put = server.requests[1]
    # The location's own query stays, byte for byte.
    assert put.query == (("state", "a/b"), ("digest", BLOB.digest))
    assert put.headers["content-length"] == str(len(DATA))
    assert put.headers["content-type"] == "application/octet-stream"
    assert server.blobs["a"] == {BLOB.digest: DATA}
    assert server.uploads == {}


@pytest.mark.parametrize("refused", [None, error(404, "BLOB_UNKNOWN", "it is not here")], ids=["taken", "refused"])
def test_one_connection_serves_all_requests(server: FaultyRegistry, refused: Answer | None) -> None:
    """Answers that nobody reads have come when their head has, as a HEAD's; the next request goes the same way."""
    server.script = lambda request: refused if request.method == "HEAD" else None
    destination = RegistryDestination(Reference.parse(f"{server.host}/a:1"), QUICK)
    for data in (DATA, DATA[:1000], b"third"):
        blob = Descriptor("application/octet-stream", digest_of(data), len(data))
        assert not destination.has_blob(blob)
        destination.put_blob(blob, pieces(data))
    destination.abort()
    assert [line.split(" ")[0] for line in server.lines] == ["HEAD", "POST", "PUT"] * 3
    assert server.connections == 1


def test_an_empty_blob(server: FaultyRegistry) -> None:
    put_blob(server, [], Descriptor("application/x", digest_of(b""), 0))
    assert server.blobs["a"] == {digest_of(b""): b""}


@pytest.mark.parametrize("form", ["{url}/upload/1?x=1&y=%2F", "/upload/1?x=1&y=%2F", "../../upload/1?x=1&y=%2F"])
def test_locations_absolute_and_relative(server: FaultyRegistry, form: str) -> None:
    location = form.replace("{url}", server.url).replace("../../upload", "../../../../upload")
    server.script = lambda request: Answer(202, {"Location": location}) if request.method == "POST" else Answer(201)
    put_blob(server)
    assert server.lines == ["POST /v2/a/blobs/uploads/", "PUT /upload/1"]
    assert server.requests[1].query == (("x", "1"), ("y", "/"), ("digest", BLOB.digest))


@pytest.mark.parametrize("headers", [{}, {"Location": ""}, {"Location": "http://[::1"}, {"Location": "ftp://x/y"}])
def test_locations_that_are_none(server: FaultyRegistry, headers: dict[str, str]) -> None:
    server.script = lambda request: Answer(202, headers)
    with pytest.raises(RegistryError):
        put_blob(server)
    assert len(server.requests) == 1


def test_chunks_when_the_registry_wants_them(server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK", 100_000)
    server.chunk_minimum = 300_000
    put_blob(server)
    ranges = [request.headers["content-range"] for request in server.requests if request.method == "PATCH"]
    assert ranges == ["0-299999", "300000-599999", "600000-899999", "900000-1023999"]
    assert server.lines == ["POST /v2/a/blobs/uploads/", *[f"PATCH {SESSION}0"] * 4, f"PUT {SESSION}0"]
    assert server.requests[-1].body == b""
    assert server.blobs["a"] == {BLOB.digest: DATA}


def test_chunks_are_no_smaller_than_they_must_be(server: FaultyRegistry) -> None:
    server.chunk_minimum = 1
    put_blob(server)
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"PATCH {SESSION}0", f"PUT {SESSION}0"]


def test_a_broken_upload_goes_on_where_the_registry_stands(server: FaultyRegistry) -> None:
    server.break_uploads = [400_000, 100_000, 1]
    put_blob(server)
    assert server.lines == [
        "POST /v2/a/blobs/uploads/",
        f"GET {SESSION}0",
        f"GET {SESSION}0",
        f"GET {SESSION}0",
        f"PATCH {SESSION}0",
        f"PUT {SESSION}0",
    ]
    assert server.requests[-2].headers["content-range"] == "500001-1023999"
    assert server.broken == [
        f"PUT {SESSION}0 broken after 400000",
        f"PATCH {SESSION}0 broken after 100000",
        f"PATCH {SESSION}0 broken after 1",
    ]
    assert server.blobs["a"] == {BLOB.digest: DATA}


def test_a_chunked_upload_that_breaks_goes_on(server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK", 100_000)
    server.chunk_minimum = 400_000
    server.break_uploads = [250_000]
    put_blob(server)
    assert [request.headers["content-range"] for request in server.requests if request.method == "PATCH"] == [
        "250000-649999",
        "650000-1023999",
    ]
    assert server.blobs["a"] == {BLOB.digest: DATA}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_statuses_after_which_an_upload_goes_on(server: FaultyRegistry, status: int) -> None:
    failures = iter([Answer(status)])
    server.script = lambda request: next(failures, None) if request.method == "PUT" else None
    put_blob(server)
    assert server.blobs["a"] == {BLOB.digest: DATA}
    assert server.lines == [
        "POST /v2/a/blobs/uploads/",
        f"PUT {SESSION}0",
        f"GET {SESSION}0",
        # It has nothing yet: a new session is surer.
        f"DELETE {SESSION}0",
        "POST /v2/a/blobs/uploads/",
        f"PUT {SESSION}1",
    ]


def test_a_token_that_ends_between_two_requests_of_an_upload(server: FaultyRegistry, tmp_path: Path) -> None:
    with serve_tokens(tmp_path / "roots.pem", anonymous={"a"}) as tokens:
        ended: list[str] = []

        def script(request: Request) -> Answer | None:
            if request.method == "PUT" and not ended:
                ended.append(tokens.issued.pop())
            return tokens.guard(request)

        server.script = script
        put_blob(server)
        assert server.blobs["a"] == {BLOB.digest: DATA}
        assert len(tokens.requests) == 2


def test_a_session_that_has_gone_is_replaced(server: FaultyRegistry) -> None:
    def script(request: Request) -> Answer | None:
        if request.method == "PUT" and "session0" in request.path:
            server.uploads.pop("session0", None)
            return Answer(502)
        return None

    server.script = script
    put_blob(server)
    assert server.lines == [
        "POST /v2/a/blobs/uploads/",
        f"PUT {SESSION}0",
        f"GET {SESSION}0",
        "POST /v2/a/blobs/uploads/",
        f"PUT {SESSION}1",
    ]
    assert server.blobs["a"] == {BLOB.digest: DATA}


def test_a_session_that_stands_elsewhere_than_it_says_is_begun_anew(server: FaultyRegistry) -> None:
    server.break_uploads = [1]
    put_blob(server)
    # "0-0" may be one byte or none; when it was one the rest does not fit, and the registry says so.
    assert server.blobs["a"] == {BLOB.digest: DATA}
    assert server.uploads == {}


@pytest.mark.parametrize("status", [502, 403])
def test_the_newest_location_is_recovered_from_and_cancelled(
    server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(upload, "CHUNK", 100_000)
    server.chunk_minimum = 400_000
    failures = [Answer(status)]

    def script(request: Request) -> Answer | None:
        second = request.headers.get("content-range", "").startswith("400000-")
        return failures.pop() if second and failures else None

    server.script = script
    if status == 502:
        put_blob(server)
        assert server.blobs["a"] == {BLOB.digest: DATA}
        assert server.lines.count("POST /v2/a/blobs/uploads/") == 1
    else:
        with pytest.raises(AuthenticationError):
            put_blob(server)
        assert server.lines[-1] == f"DELETE {SESSION}0"
    assert server.uploads == {}


def test_an_iterator_cannot_be_sent_again_and_the_session_is_cancelled(server: FaultyRegistry) -> None:
    server.break_uploads = [400_000]
    with pytest.raises(RegistryError, match="the connection broke"):
        put_blob(server, iter(pieces(DATA)))
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"DELETE {SESSION}0"]
    assert server.uploads == {}


def test_an_upload_without_progress_is_given_up_and_cancelled(server: FaultyRegistry) -> None:
    server.break_uploads = [0] * 100
    with pytest.raises(RegistryError, match="the connection broke"):
        put_blob(server, options=quick(retries=2))
    assert len(server.broken) == 3
    assert server.lines[-1] == f"DELETE {SESSION}3"
    assert server.uploads == {}


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        (pieces(DATA[:-1]), SizeMismatchError),
        (pieces(DATA + b"x"), SizeMismatchError),
        (pieces(DATA[:-1] + b"x"), DigestMismatchError),
        (pieces(b"x" + DATA[1:]), DigestMismatchError),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_nothing_stays_of_a_blob_that_is_not_what_it_should_be(
    server: FaultyRegistry, chunks: list[bytes], kind: type[OcifastError], chunked: bool
) -> None:
    server.chunk_minimum = 1 if chunked else None
    with pytest.raises(kind):
        put_blob(server, chunks)
    assert server.blobs.get("a", {}) == {}
    assert server.uploads == {}
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"DELETE {SESSION}0"]


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (error(413, "SIZE_INVALID"), RegistryError, "answered 413: SIZE_INVALID; raise the limit"),
        (error(403, "DENIED", "quota exceeded"), AuthenticationError, "answered 403: DENIED: quota exceeded"),
        (error(400, "DIGEST_INVALID"), RegistryError, "answered 400: DIGEST_INVALID"),
    ],
)
def test_an_upload_that_is_refused_is_cancelled(
    server: FaultyRegistry, answer: Answer, kind: type[OcifastError], message: str
) -> None:
    server.script = lambda request: answer if request.method == "PUT" else None
    with pytest.raises(kind, match=message):
        put_blob(server)
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"PUT {SESSION}0", f"DELETE {SESSION}0"]
    assert server.uploads == {}


def test_a_failure_of_the_source_cancels_the_upload(server: FaultyRegistry) -> None:
    def failing() -> Iterator[bytes]:
        yield DATA[:500_000]
        yield DATA[500_000:600_000]
        raise SizeMismatchError("the disk is gone")

    with pytest.raises(SizeMismatchError, match="the disk is gone"):
        put_blob(server, failing())
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"DELETE {SESSION}0"]
    assert server.uploads == {}


def test_a_broken_connection_of_the_source_is_not_the_uploads(server: FaultyRegistry) -> None:
    class Failing:
        asked = 0

        def __iter__(self) -> Iterator[bytes]:
            self.asked += 1
            yield DATA[:500_000]
            yield DATA[500_000:600_000]
            raise NetworkError("the source is gone") from httpx.ReadError("reset")

    chunks = Failing()
    with pytest.raises(NetworkError, match="the source is gone"):
        put_blob(server, chunks)
    assert chunks.asked == 1
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"DELETE {SESSION}0"]
    assert server.uploads == {}


def test_blobs_that_are_there(registry: Registry) -> None:
    image = random_image(5000)
    registry.put(image, "push/there:1")
    layer = Descriptor("application/x", image.layers[0].digest, 5000)
    destination = RegistryDestination(Reference.parse(f"{registry.host}/push/there:2"))
    before = len(registry.requests())
    assert destination.has_blob(layer)
    assert not destination.has_blob(Descriptor("application/x", layer.digest, 4999))
    assert not destination.has_blob(Descriptor("application/x", digest_of(b"other"), 5))
    destination.abort()
    assert {line.split()[0] for line in registry.requests()[before:]} == {"HEAD"}


def test_a_mount_that_is_refused_leaves_a_session_that_is_used(server: FaultyRegistry) -> None:
    server.blobs["b"] = {}
    with opened(f"{server.host}/b:1") as source:
        destination = RegistryDestination(Reference.parse(f"{server.host}/a:1"), QUICK)
        assert not destination.mount_blob(BLOB, source)
        destination.put_blob(BLOB, pieces(DATA))
        destination.abort()
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"PUT {SESSION}0"]
    assert server.requests[0].query == (("mount", BLOB.digest), ("from", "b"))
    assert server.uploads == {}


def test_a_mount_that_is_not_used_is_cancelled(server: FaultyRegistry) -> None:
    with opened(f"{server.host}/b:1") as source:
        destination = RegistryDestination(Reference.parse(f"{server.host}/a:1"), QUICK)
        assert not destination.mount_blob(BLOB, source)
        destination.abort()
    assert server.lines == ["POST /v2/a/blobs/uploads/", f"DELETE {SESSION}0"]


def test_no_mount_between_hosts_or_within_a_repository(server: FaultyRegistry) -> None:
    destination = RegistryDestination(Reference.parse(f"{server.host}/a:1"), QUICK)
    for other in (f"{server.host}/a:2", f"localhost:{server.host.rpartition(':')[2]}/b:1"):
        with opened(other) as source:
            assert not destination.mount_blob(BLOB, source)
    destination.abort()
    assert server.requests == []


def test_manifests_go_byte_for_byte_and_the_root_last(server: FaultyRegistry) -> None:
    odd = b'{ "schemaVersion": 2,\n\t"mediaType": "' + OCI_MANIFEST.encode() + b'", "layers": [] }\n'
    child, root = Document(OCI_MANIFEST, odd), Document(OCI_MANIFEST, odd + b"\n")
    destination = RegistryDestination(Reference.parse(f"{server.host}/a:tag"), QUICK)
    destination.put_document(root, root=True)
    destination.put_document(child, root=False)
    assert server.lines == [f"PUT /v2/a/manifests/{child.digest}"]
    destination.commit()
    assert server.lines[1:] == ["PUT /v2/a/manifests/tag"]
    assert [request.body for request in server.requests] == [child.raw, root.raw]
    assert {request.headers["content-type"] for request in server.requests} == {OCI_MANIFEST}


@pytest.mark.parametrize(
    ("suffix", "asked"), [(":v1", "v1"), ("", "latest"), ("@{digest}", "{digest}"), (":v1@{digest}", "v1")]
)
def test_what_a_manifest_is_called(server: FaultyRegistry, suffix: str, asked: str) -> None:
    image = random_image()
    push_document(f"{server.host}/a{suffix.replace('{digest}', image.digest)}", Document(image.media_type, image.raw))
    assert server.lines == [f"PUT /v2/a/manifests/{asked.replace('{digest}', image.digest)}"]


def test_a_manifest_that_is_not_the_digest_of_the_reference(server: FaultyRegistry) -> None:
    image = random_image()
    with pytest.raises(DigestMismatchError, match="leave the digest out or push another"):
        push_document(f"{server.host}/a@{digest_of(b'other')}", Document(image.media_type, image.raw))
    assert server.requests == []


def test_a_registry_that_stores_something_else(server: FaultyRegistry) -> None:
    image = random_image()
    server.script = lambda request: Answer(201, {"Docker-Content-Digest": digest_of(b"other")})
    with pytest.raises(DigestMismatchError, match="the registry stored the manifest"):
        push_document(f"{server.host}/a:1", Document(image.media_type, image.raw))


def test_nothing_to_commit(server: FaultyRegistry) -> None:
    destination = RegistryDestination(Reference.parse(f"{server.host}/a:1"), QUICK)
    with pytest.raises(UsageError, match="no manifest was written"):
        destination.commit()
    destination.abort()


class TestReferrers:
    def referrer(self, subject: Any, **fields: Any) -> Document:
        def edit(manifest: dict[str, Any]) -> None:
            manifest.update(subject=subject, **fields)

        return Document(OCI_MANIFEST, build_image([b"signature"], edit_manifest=edit).raw)

    def test_a_registry_with_the_api_keeps_the_list(self, server: FaultyRegistry) -> None:
        image = random_image()
        server.put(image, "a:1")
        signature = self.referrer(image.descriptor())
        push_document(f"{server.host}/a@{signature.digest}", signature)
        assert server.lines == [f"PUT /v2/a/manifests/{signature.digest}"]
        with opened(f"{server.host}/a:1") as source:
            assert [each.digest for each in source.referrers(image.digest)] == [signature.digest]

    def test_without_the_api_we_keep_it_under_the_fallback_tag(self, server: FaultyRegistry) -> None:
        server.knows_referrers = False
        image = random_image()
        server.put(image, "a:1")
        tag = fallback_tag(image.digest)
        assert tag == "sha256-" + image.digest.removeprefix("sha256:")
        first = self.referrer(image.descriptor(), artifactType="application/signature", annotations={"a": "b"})
        second = self.referrer(image.descriptor(), annotations={"number": "two"})
        for document in (first, second, first):
            push_document(f"{server.host}/a@{document.digest}", document)
        _, raw = server.manifests["a"][tag]
        index = json.loads(raw)
        assert [entry["digest"] for entry in index["manifests"]] == [first.digest, second.digest]
        assert index["manifests"][0] == {
            "mediaType": OCI_MANIFEST,
            "digest": first.digest,
            "size": first.size,
            "artifactType": "application/signature",
            "annotations": {"a": "b"},
        }
        # Without an artifact type the config's media type stands for it.
        assert index["manifests"][1]["artifactType"] == "application/vnd.oci.image.config.v1+json"
        assert [line for line in server.lines if tag in line] == [
            f"GET /v2/a/manifests/{tag}",
            f"PUT /v2/a/manifests/{tag}",
            f"GET /v2/a/manifests/{tag}",
            f"PUT /v2/a/manifests/{tag}",
            f"GET /v2/a/manifests/{tag}",
        ]
        with opened(f"{server.host}/a:1") as source:
            assert [each.digest for each in source.referrers(image.digest)] == [first.digest, second.digest]

    def test_docker_registry_has_no_api_and_gets_the_fallback(self, registry: Registry) -> None:
        image = random_image()
        registry.put(image, "push/referrers:1")
        signature = self.referrer(image.descriptor())
        other = build_image([b"signature"])
        registry.put(other, "push/referrers:signature")
        push_document(f"{registry.host}/push/referrers@{signature.digest}", signature)
        with opened(f"{registry.host}/push/referrers:1") as source:
            assert [each.digest for each in source.referrers(image.digest)] == [signature.digest]
            assert source.referrers(signature.digest) == ()

    def test_a_list_in_pages(self, server: FaultyRegistry) -> None:
        def page(number: int) -> bytes:
            descriptor = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"%d" % number), "size": number}
            return as_json({"schemaVersion": 2, "manifests": [descriptor]})

        def script(request: Request) -> Answer:
            number = int((request.values("page") or ["0"])[0])
            link = {"Link": f'<?page={number + 1}>; rel="next"'} if number < 2 else {}
            return Answer(200, link, page(number))

        server.script = script
        with opened(f"{server.host}/a:1") as source:
            assert [each.size for each in source.referrers(digest_of(b""))] == [0, 1, 2]
        assert len(server.requests) == 3

"""Upload sessions and lists of referrers in the cases that registries differ in, and in those of two at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ocifast.errors import AuthenticationError, DocumentError, RegistryError
from ocifast.reference import Reference
from ocifast.sources.registry import RegistryDestination, list_tags
from ocifast.spec import OCI_INDEX, OCI_MANIFEST, Descriptor, Document

from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import Layer, as_json, build_image, digest_of
from tests.support.pulls import QUICK, opened, random_image

DATA = bytes(range(256)) * 1000
BLOB = Descriptor("application/octet-stream", digest_of(DATA), len(DATA))
SESSION = "/v2/a/blobs/uploads/session"


@pytest.fixture
def server() -> Iterator[FaultyRegistry]:
    with serve_faulty() as running:
        yield running


def destination_of(server: FaultyRegistry, name: str = "a:1") -> RegistryDestination:
    return RegistryDestination(Reference.parse(f"{server.host}/{name}"), QUICK)


def push_document(server: FaultyRegistry, document: Document) -> None:
    destination = destination_of(server, f"a@{document.digest}")
    destination.put_document(document, root=True)
    destination.commit()


def test_a_registry_that_has_more_or_less_than_it_said_gets_another_session(server: FaultyRegistry) -> None:
    """416: what stands at the registry is not what its Range stated."""
    server.break_uploads = [100_000]
    answers = [Answer(416)]
    server.script = lambda request: answers.pop() if request.method == "PATCH" and answers else None
    destination = destination_of(server)
    destination.put_blob(BLOB, [DATA])
    destination.abort()
    assert server.lines == [
        "POST /v2/a/blobs/uploads/",
        f"GET {SESSION}0",
        f"PATCH {SESSION}0",
        f"DELETE {SESSION}0",
        "POST /v2/a/blobs/uploads/",
        f"PUT {SESSION}1",
    ]
    assert server.blobs["a"] == {BLOB.digest: DATA}
    assert server.uploads == {}


@pytest.mark.parametrize("chunk_minimum", [None, 1])
def test_a_session_that_went_while_it_was_sent_to_is_replaced(
    server: FaultyRegistry, chunk_minimum: int | None
) -> None:
    server.chunk_minimum = chunk_minimum

    def script(request: Request) -> Answer | None:
        if request.method in ("PUT", "PATCH"):
            server.uploads.pop("session0", None)
        return None

    server.script = script
    destination = destination_of(server)
    destination.put_blob(BLOB, [DATA])
    destination.abort()
    sent = "PUT" if chunk_minimum is None else "PATCH"
    assert server.lines[:5] == [
        "POST /v2/a/blobs/uploads/",
        f"{sent} {SESSION}0",
        f"GET {SESSION}0",
        "POST /v2/a/blobs/uploads/",
        f"{sent} {SESSION}1",
    ]
    assert server.blobs["a"] == {BLOB.digest: DATA}
    assert server.uploads == {}


def test_the_location_that_the_state_of_an_upload_names_is_used(server: FaultyRegistry) -> None:
    server.break_uploads = [100_000]

    def script(request: Request) -> Answer | None:
        if request.method != "GET":
            return None
        # Registries with several servers give another location with every answer.
        server.uploads["session0"].state = "other/state"
        return server.obey(Request("GET", request.path, (("state", "other/state"),)))

    server.script = script
    destination = destination_of(server)
    destination.put_blob(BLOB, [DATA])
    destination.abort()
    assert [line.split()[0] for line in server.lines] == ["POST", "GET", "PATCH", "PUT"]
    assert server.requests[2].query == (("state", "other/state"),)
    assert server.requests[2].headers["content-range"] == f"100000-{len(DATA) - 1}"
    assert server.blobs["a"] == {BLOB.digest: DATA}


def test_a_mount_that_is_refused_and_not_used_is_cancelled_with_the_image_there(server: FaultyRegistry) -> None:
    image = random_image(10)
    with opened(f"{server.host}/b:1") as source:
        destination = destination_of(server)
        assert not destination.mount_blob(BLOB, source)
        destination.put_document(Document(image.media_type, image.raw), root=True)
        destination.commit()
    assert server.lines == ["POST /v2/a/blobs/uploads/", "PUT /v2/a/manifests/1", f"DELETE {SESSION}0"]
    assert server.uploads == {}


def test_a_session_that_cannot_be_cancelled_hides_no_error(server: FaultyRegistry) -> None:
    answers = {"PUT": Answer(403), "DELETE": Answer(raw=b"")}
    server.script = lambda request: answers.get(request.method)
    destination = destination_of(server)
    with pytest.raises(AuthenticationError, match="cannot complete an upload: the registry answered 403"):
        destination.put_blob(BLOB, [DATA])
    destination.abort()
    assert [line.split()[0] for line in server.lines] == ["POST", "PUT", "DELETE"]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_an_upload_is_not_sent_to_where_a_read_is_redirected(server: FaultyRegistry, status: int) -> None:
    """RFC 9110, section 15.4: after these a POST would become a GET."""
    server.script = lambda request: Answer(status, {"Location": "/elsewhere"})
    destination = destination_of(server)
    with pytest.raises(RegistryError, match=f"cannot start an upload: .* answered {status}"):
        destination.put_blob(BLOB, [DATA])
    destination.abort()
    assert server.lines == ["POST /v2/a/blobs/uploads/"]


@pytest.mark.parametrize(("length", "there"), [(None, True), (-1, True), (len(DATA) - 1, False)])
def test_a_blob_whose_size_the_registry_does_not_state_counts(
    server: FaultyRegistry, length: int | None, there: bool
) -> None:
    server.script = lambda request: Answer(200, {}, DATA, length=length)
    destination = destination_of(server)
    assert destination.has_blob(BLOB) is there
    destination.abort()
    assert server.lines == [f"HEAD /v2/a/blobs/{BLOB.digest}"]


@pytest.mark.parametrize("link", ["ftp://127.0.0.1/x", "http://user:secret@127.0.0.1/x", "http://[::1"])
def test_a_list_goes_on_at_a_web_address_alone(server: FaultyRegistry, link: str) -> None:
    server.script = lambda request: Answer(200, {"Link": f'<{link}>; rel="next"'}, b'{"tags":["1"]}')
    with pytest.raises(RegistryError, match="sends us to") as caught:
        list_tags(Reference.parse(f"{server.host}/a"), QUICK)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


SUBJECT = build_image([Layer(b"", blob=b"subject")])


def referrer(number: int) -> Document:
    def edit(manifest: dict[str, Any]) -> None:
        manifest.update(subject=SUBJECT.descriptor(), annotations={"number": str(number)})

    return Document(OCI_MANIFEST, build_image([Layer(b"", blob=b"signature")], edit_manifest=edit).raw)


@pytest.mark.parametrize("status", [400, 404, 405])
def test_registries_say_in_many_ways_that_they_know_no_referrers(server: FaultyRegistry, status: int) -> None:
    server.knows_referrers = False
    server.put(SUBJECT, "a:1")
    push_document(server, referrer(1))
    server.script = lambda request: Answer(status) if "/referrers/" in request.path else None
    with opened(f"{server.host}/a:1") as source:
        assert [each.digest for each in source.referrers(SUBJECT.digest)] == [referrer(1).digest]


def test_two_referrers_at_a_time_are_both_listed(server: FaultyRegistry) -> None:
    """The list is read, changed and written: whoever comes in between would be lost."""
    server.knows_referrers = False
    server.put(SUBJECT, "a:1")
    tag = SUBJECT.digest.replace(":", "-")
    both = threading.Barrier(2)

    def script(request: Request) -> Answer | None:
        if request.method != "GET" or tag not in request.path:
            return None
        answer = server.obey(request)
        # Who reads at the same time is waited for; nobody should.
        try:
            both.wait(0.3)
        except threading.BrokenBarrierError:
            both.reset()
        return answer

    server.script = script
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda number: push_document(server, referrer(number)), (1, 2)))
    listed = json.loads(server.manifests["a"][tag][1])["manifests"]
    assert {entry["digest"] for entry in listed} == {referrer(1).digest, referrer(2).digest}


def test_a_list_of_referrers_without_an_end(server: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocifast.sources.registry.referrers._PAGES", 5)
    entry = {"mediaType": OCI_MANIFEST, "digest": digest_of(b""), "size": 1}
    page = as_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    server.script = lambda request: Answer(200, {"Link": '<?page=1>; rel="next"'}, page)
    with (
        opened(f"{server.host}/a:1") as source,
        pytest.raises(RegistryError, match="the list of referrers does not end"),
    ):
        source.referrers(SUBJECT.digest)
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"manifests":[]}' + b" " * (4 << 20), "the list of referrers is longer than 4 MiB"),
        (b'{"manifests":5}', "the list of referrers is not an index"),
    ],
)
def test_a_list_of_referrers_that_is_none(server: FaultyRegistry, body: bytes, message: str) -> None:
    server.script = lambda request: Answer(200, {}, body)
    with opened(f"{server.host}/a:1") as source, pytest.raises(DocumentError, match=message):
        source.referrers(SUBJECT.digest)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 403, 405, 501])
def test_a_head_that_says_nothing_lets_the_blob_be_sent(server: FaultyRegistry, status: int) -> None:
    server.script = lambda request: Answer(status) if request.method == "HEAD" else None
    destination = destination_of(server)
    assert not destination.has_blob(BLOB)
    destination.put_blob(BLOB, [DATA])
    destination.abort()
    assert server.blobs["a"] == {BLOB.digest: DATA}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_a_mount_that_is_refused_in_any_way_lets_the_blob_be_sent(server: FaultyRegistry, status: int) -> None:
    server.script = lambda request: Answer(status) if ("mount", BLOB.digest) in request.query else None
    destination = destination_of(server)
    with opened(f"{server.host}/b:1") as source:
        assert not destination.mount_blob(BLOB, source)
    destination.put_blob(BLOB, [DATA])
    destination.abort()
    assert server.blobs["a"] == {BLOB.digest: DATA}


@pytest.mark.parametrize(("largest", "sizes"), [(3 << 20, [2 << 20, 2 << 20, 1 << 20]), (1 << 20, [1 << 20] * 5)])
def test_bodies_that_are_too_large_become_chunks(server: FaultyRegistry, largest: int, sizes: list[int]) -> None:
    data = bytes(5 << 20)
    taken: list[int] = []

    def script(request: Request) -> Answer | None:
        length = int(request.headers.get("content-length", "0"))
        if request.method in ("PUT", "PATCH") and length > largest:
            return Answer(413)
        if request.method == "PATCH":
            taken.append(length)
        return None

    server.script = script
    blob = Descriptor("application/octet-stream", digest_of(data), len(data))
    destination = destination_of(server)
    destination.put_blob(blob, [data])
    destination.abort()
    assert taken == sizes
    assert server.blobs["a"] == {blob.digest: data}
    assert server.uploads == {}


def test_bodies_that_are_always_too_large_are_given_up(server: FaultyRegistry) -> None:
    data = bytes(5 << 20)
    server.script = lambda request: Answer(413) if request.method in ("PUT", "PATCH") else None
    destination = destination_of(server)
    with pytest.raises(RegistryError, match="cannot upload a chunk: the registry answered 413"):
        destination.put_blob(Descriptor("application/octet-stream", digest_of(data), len(data)), [data])
    destination.abort()
    assert [line.split()[0] for line in server.lines].count("PATCH") == 3
    assert server.uploads == {}


@pytest.mark.parametrize("status", [404, 405])
def test_a_registry_that_knows_no_chunks_gets_the_blob_whole(server: FaultyRegistry, status: int) -> None:
    server.break_uploads = [100_000]
    server.script = lambda request: Answer(status) if request.method == "PATCH" else None
    destination = destination_of(server)
    destination.put_blob(BLOB, [DATA])
    destination.abort()
    assert server.lines[-1].startswith("PUT ")
    assert server.blobs["a"] == {BLOB.digest: DATA}

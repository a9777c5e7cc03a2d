"""What goes over the wire, request by request and compared whole, where no registry here asks for it.

A header that is not expected fails these tests like one that is missing; see `tests.support.wire`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ocifast.copying import copy
from ocifast.errors import AuthenticationError
from ocifast.reference import Reference
from ocifast.sources.registry import (
    Credential,
    RegistryDestination,
    RegistryOptions,
    RegistrySource,
    delete_manifest,
    list_tags,
    upload,
)
from ocifast.spec import OCI_MANIFEST, Descriptor, Document

from tests.support.faulty import Answer, Request, serve_faulty
from tests.support.images import BuiltImage, Layer, as_json, build_image, digest_of
from tests.support.pulls import QUICK, fetch, layers_of, opened, pull, quick
from tests.support.tokens import serve_tokens
from tests.support.wire import Wire, text

MANIFESTS = (
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json,"
    " application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
)
DATA = b"0123456789"
BLOB = Descriptor("application/x", digest_of(DATA), len(DATA))
IMAGE = build_image([Layer(b"", blob=b"a layer")])
NAMES = {
    MANIFESTS: "{manifests}",
    BLOB.digest: "{data}",
    IMAGE.digest: "{manifest}",
    IMAGE.raw.decode(): "{the manifest}",
    IMAGE.layers[0].digest: "{layer}",
    next(digest for digest in IMAGE.blobs if digest != IMAGE.layers[0].digest): "{config}",
}


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with serve_faulty() as registry, serve_tokens(tmp_path / "roots.pem", users={"me": "secret"}) as tokens:
        made = Wire(registry, tokens)
        made.names |= NAMES
        yield made


def as_me(wire: Wire, **credential: Any) -> RegistryOptions:
    known = Credential(**credential) if credential else Credential("me", "secret")
    return quick(credentials={wire.registry.host: known}, parallel=1)


def destination_of(wire: Wire, name: str = "a:1", options: RegistryOptions = QUICK) -> RegistryDestination:
    return RegistryDestination(Reference.parse(f"{wire.registry.host}/{name}"), options)


def send(wire: Wire) -> None:
    """Uploads DATA to the repository `a`, two bytes at a time."""
    destination = destination_of(wire)
    destination.put_blob(BLOB, [DATA[start : start + 2] for start in range(0, len(DATA), 2)])
    destination.abort()
    assert wire.registry.blobs["a"] == {BLOB.digest: DATA}
    assert wire.registry.uploads == {}


# Docker token spec, "Token Authentication Specification" and "OAuth2 Token Authentication".


def test_a_token_for_a_password(wire: Wire) -> None:
    name = wire.registry.put(IMAGE, "a:1")
    wire.lock()
    assert pull(name, as_me(wire)) == [b"a layer"]
    assert wire.text() == text(
        """
        GET registry /v2/a/manifests/1 -> 401
            accept: {manifests}
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        GET registry /v2/a/manifests/1 -> 200
            accept: {manifests}
            authorization: Bearer token-1
        GET registry /v2/a/blobs/{layer} -> 200
            authorization: Bearer token-1
        """
    )


def test_a_token_for_an_identity_token_and_its_renewal(wire: Wire) -> None:
    wire.tokens.identity_tokens["refresh"] = "me"
    name = wire.registry.put(IMAGE, "a:1")
    wire.lock()
    with opened(name, as_me(wire, identity_token="refresh")) as source:
        (layer,) = layers_of(source)
        ended = wire.tokens.issued[0]
        wire.answer(lambda request: wire.tokens.guard(_without(request, ended)))
        assert fetch(source, layer) == b"a layer"
    assert wire.text() == text(
        """
        GET registry /v2/a/manifests/1 -> 401
            accept: {manifests}
        POST tokens /token
            accept: application/json
            content-length: 115
            content-type: application/x-www-form-urlencoded
            | service=registry.tests&grant_type=refresh_token&client_id=ocifast&scope=repository%3Aa%3Apull&refresh_token=refresh
        GET registry /v2/a/manifests/1 -> 200
            accept: {manifests}
            authorization: Bearer token-1
        GET registry /v2/a/blobs/{layer} -> 401
            authorization: Bearer token-1
        POST tokens /token
            accept: application/json
            content-length: 118
            content-type: application/x-www-form-urlencoded
            | service=registry.tests&grant_type=refresh_token&client_id=ocifast&scope=repository%3Aa%3Apull&refresh_token=refresh%2B
        GET registry /v2/a/blobs/{layer} -> 200
            authorization: Bearer token-2
        """  # noqa: E501 - bodies are one line
    )


def _without(request: Request, token: str) -> Request:
    """The request as a registry sees it that does not take this token any more."""
    gone = request.headers.get("authorization", "").endswith(token)
    return Request(request.method, request.path) if gone else request


# Distribution-spec, "Pulling manifests", "Checking if content exists in the registry".


def test_a_digest_and_a_download_that_breaks(wire: Wire) -> None:
    name = wire.registry.put(IMAGE, "a:1")
    breaks = iter([Answer(200, {}, b"a layer", cut=3)])
    wire.answer(lambda request: next(breaks, None) if "/blobs/" in request.path else None)
    with opened(name) as source:
        assert source.digest() == IMAGE.digest
        assert fetch(source, layers_of(source)[0]) == b"a layer"
    assert wire.text() == text(
        """
        HEAD registry /v2/a/manifests/1 -> 200
            accept: {manifests}
        GET registry /v2/a/manifests/1 -> 200
            accept: {manifests}
        GET registry /v2/a/blobs/{layer} -> 200
        GET registry /v2/a/blobs/{layer} -> 206
            range: bytes=3-
        """
    )


# Distribution-spec, "Pushing blobs": "POST then PUT", "Pushing a blob in chunks".


def test_a_blob_in_one_piece(wire: Wire) -> None:
    send(wire)
    assert wire.text() == text(
        """
        POST registry /v2/a/blobs/uploads/ -> 202
            content-length: 0
        PUT registry /v2/a/blobs/uploads/session0?state=a%2Fb&digest={data} -> 201
            content-length: 10
            content-type: application/octet-stream
            | 0123456789
        """
    )


def test_a_blob_in_chunks(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK", 1)
    wire.registry.chunk_minimum = 4
    send(wire)
    assert wire.text() == text(
        """
        POST registry /v2/a/blobs/uploads/ -> 202
            content-length: 0
        PATCH registry /v2/a/blobs/uploads/session0?state=a%2Fb -> 202
            content-length: 4
            content-range: 0-3
            content-type: application/octet-stream
            | 0123
        PATCH registry /v2/a/blobs/uploads/session0?state=a%2Fb4 -> 202
            content-length: 4
            content-range: 4-7
            content-type: application/octet-stream
            | 4567
        PATCH registry /v2/a/blobs/uploads/session0?state=a%2Fb8 -> 202
            content-length: 2
            content-range: 8-9
            content-type: application/octet-stream
            | 89
        PUT registry /v2/a/blobs/uploads/session0?state=a%2Fb10&digest={data} -> 201
            content-length: 0
            content-type: application/octet-stream
        """
    )


def test_an_upload_that_breaks_goes_on(wire: Wire) -> None:
    wire.registry.break_uploads = [6]
    send(wire)
    assert wire.text() == text(
        """
        POST registry /v2/a/blobs/uploads/ -> 202
            content-length: 0
        PUT registry /v2/a/blobs/uploads/session0 -> broken after 6
        GET registry /v2/a/blobs/uploads/session0?state=a%2Fb -> 204
        PATCH registry /v2/a/blobs/uploads/session0?state=a%2Fb -> 202
            content-length: 4
            content-range: 6-9
            content-type: application/octet-stream
            | 6789
        PUT registry /v2/a/blobs/uploads/session0?state=a%2Fb10&digest={data} -> 201
            content-length: 0
            content-type: application/octet-stream
        """
    )


def test_an_upload_that_is_refused_is_cancelled(wire: Wire) -> None:
    wire.answer(lambda request: Answer(403) if request.method == "PUT" else None)
    destination = destination_of(wire)
    with pytest.raises(AuthenticationError, match="cannot complete an upload: the registry answered 403"):
        destination.put_blob(BLOB, [DATA])
    destination.abort()
    assert wire.text() == text(
        """
        POST registry /v2/a/blobs/uploads/ -> 202
            content-length: 0
        PUT registry /v2/a/blobs/uploads/session0?state=a%2Fb&digest={data} -> 403
            content-length: 10
            content-type: application/octet-stream
            | 0123456789
        DELETE registry /v2/a/blobs/uploads/session0?state=a%2Fb -> 204
            content-length: 0
        """
    )


# Distribution-spec, "Mounting a blob from another repository", "Pushing Manifests".


def test_an_image_that_is_mounted_from_another_repository(wire: Wire) -> None:
    name = wire.registry.put(IMAGE, "b/c:1")
    wire.lock()
    options = as_me(wire)
    with closing(RegistrySource(Reference.parse(name), options)) as source:
        copy(source, destination_of(wire, "a:1", options), parallel=1)
    assert wire.registry.manifests["a"]["1"] == (IMAGE.media_type, IMAGE.raw)
    assert wire.text() == text(
        """
        GET registry /v2/b/c/manifests/1 -> 401
            accept: {manifests}
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Ab%2Fc%3Apull
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        GET registry /v2/b/c/manifests/1 -> 200
            accept: {manifests}
            authorization: Bearer token-1
        HEAD registry /v2/a/blobs/{config} -> 401
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull%2Cpush
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        HEAD registry /v2/a/blobs/{config} -> 404
            authorization: Bearer token-2
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%2Fc%3Apull
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        POST registry /v2/a/blobs/uploads/?mount={config}&from=b/c -> 201
            authorization: Bearer token-3
            content-length: 0
        HEAD registry /v2/a/blobs/{layer} -> 404
            authorization: Bearer token-2
        POST registry /v2/a/blobs/uploads/?mount={layer}&from=b/c -> 201
            authorization: Bearer token-3
            content-length: 0
        PUT registry /v2/a/manifests/1 -> 201
            authorization: Bearer token-2
            content-length: {length}
            content-type: application/vnd.oci.image.manifest.v1+json
            | {the manifest}
        """  # noqa: E501 - so are targets
    ).replace("{length}", str(len(IMAGE.raw)))


# Distribution-spec, "Pushing Manifests with Subject", "Listing Referrers", "Referrers Tag Schema".


def signature() -> BuiltImage:
    def edit(manifest: dict[str, Any]) -> None:
        manifest.update(subject={key: IMAGE.descriptor()[key] for key in ("mediaType", "digest", "size")})

    return build_image([Layer(b"", blob=b"a signature")], edit_manifest=edit, annotations={"key": "value"})


def push_the_signature(wire: Wire) -> BuiltImage:
    wire.registry.put(IMAGE, "a:1")
    signed = signature()
    wire.names |= {signed.raw.decode(): "{the signature}", signed.digest: "{signature}"}
    wire.lock()
    destination = destination_of(wire, f"a@{signed.digest}", as_me(wire))
    destination.put_document(Document(OCI_MANIFEST, signed.raw), root=True)
    destination.commit()
    with opened(f"{wire.registry.host}/a:1", as_me(wire)) as source:
        assert [each.digest for each in source.referrers(IMAGE.digest)] == [signed.digest]
    return signed


def test_referrers_with_the_api(wire: Wire) -> None:
    signed = push_the_signature(wire)
    assert wire.text() == text(
        """
        PUT registry /v2/a/manifests/{signature} -> 401
            content-length: {length}
            content-type: application/vnd.oci.image.manifest.v1+json
            | {the signature}
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull%2Cpush
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        PUT registry /v2/a/manifests/{signature} -> 201
            authorization: Bearer token-1
            content-length: {length}
            content-type: application/vnd.oci.image.manifest.v1+json
            | {the signature}
        GET registry /v2/a/referrers/{manifest} -> 401
            accept: application/vnd.oci.image.index.v1+json
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        GET registry /v2/a/referrers/{manifest} -> 200
            accept: application/vnd.oci.image.index.v1+json
            authorization: Bearer token-2
        """
    ).replace("{length}", str(len(signed.raw)))


def test_referrers_without_the_api(wire: Wire) -> None:
    wire.registry.knows_referrers = False
    signed = push_the_signature(wire)
    entry = {
        "mediaType": OCI_MANIFEST,
        "digest": signed.digest,
        "size": len(signed.raw),
        "artifactType": "application/vnd.oci.image.config.v1+json",
        "annotations": {"key": "value"},
    }
    index_type = "application/vnd.oci.image.index.v1+json"
    index = as_json({"schemaVersion": 2, "mediaType": index_type, "manifests": [entry]})
    wire.names |= {index.decode(): "{the list}", IMAGE.digest.replace(":", "-"): "{tag}"}
    assert wire.text() == text(
        """
        PUT registry /v2/a/manifests/{signature} -> 401
            content-length: {length}
            content-type: application/vnd.oci.image.manifest.v1+json
            | {the signature}
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull%2Cpush
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        PUT registry /v2/a/manifests/{signature} -> 201
            authorization: Bearer token-1
            content-length: {length}
            content-type: application/vnd.oci.image.manifest.v1+json
            | {the signature}
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        GET registry /v2/a/manifests/{tag} -> 404
            accept: application/vnd.oci.image.index.v1+json
            authorization: Bearer token-2
        PUT registry /v2/a/manifests/{tag} -> 201
            authorization: Bearer token-1
            content-length: {list length}
            content-type: application/vnd.oci.image.index.v1+json
            | {the list}
        GET registry /v2/a/referrers/{manifest} -> 401
            accept: application/vnd.oci.image.index.v1+json
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        GET registry /v2/a/referrers/{manifest} -> 404
            accept: application/vnd.oci.image.index.v1+json
            authorization: Bearer token-3
        GET registry /v2/a/manifests/{tag} -> 200
            accept: application/vnd.oci.image.index.v1+json
            authorization: Bearer token-3
        """
    ).replace("{length}", str(len(signed.raw))).replace("{list length}", str(len(index)))


# Distribution-spec, "Listing Tags" (RFC 8288), "Deleting manifests".


def test_tags_in_pages(wire: Wire) -> None:
    links = {
        "n=1000": '<?n=1000&last=b%2Fc>; rel="next"',
        "n=1000&last=b%2Fc": f'<{wire.registry.url}/v2/a/tags/list?x=1>; rel=next; title="y"',
    }

    def script(request: Request) -> Answer | None:
        query = request.target.partition("?")[2]
        refused = wire.tokens.guard(request)
        return refused or Answer(200, {"Link": links[query]} if query in links else {}, as_json({"tags": [query]}))

    wire.answer(script)
    tags = list_tags(Reference.parse(f"{wire.registry.host}/a"), as_me(wire))
    assert tags == ["n=1000", "n=1000&last=b%2Fc", "x=1"]
    assert wire.text() == text(
        """
        GET registry /v2/a/tags/list?n=1000 -> 401
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Apull
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        GET registry /v2/a/tags/list?n=1000 -> 200
            authorization: Bearer token-1
        GET registry /v2/a/tags/list?n=1000&last=b%2Fc -> 200
            authorization: Bearer token-1
        GET registry /v2/a/tags/list?x=1 -> 200
            authorization: Bearer token-1
        """
    )


def test_a_deletion(wire: Wire) -> None:
    name = wire.registry.put(IMAGE, "a:1").removesuffix(":1")
    wire.lock()
    delete_manifest(Reference.parse(f"{name}@{IMAGE.digest}"), as_me(wire))
    assert wire.registry.manifests["a"] == {}
    assert wire.text() == text(
        """
        DELETE registry /v2/a/manifests/{manifest} -> 401
        GET tokens /token?service=registry.tests&account=me&scope=repository%3Aa%3Adelete%2Cpull
            accept: application/json
            authorization: Basic bWU6c2VjcmV0
        DELETE registry /v2/a/manifests/{manifest} -> 202
            authorization: Bearer token-1
        """
    )

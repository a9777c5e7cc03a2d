"""What is said when a password or a token is refused, and what goes on in spite of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ocifast.cli.registry import registry_host
from ocifast.copying import copy
from ocifast.errors import AuthenticationError, RateLimitError
from ocifast.reference import Reference
from ocifast.sources.registry import Credential, RegistryDestination, RegistryOptions, RegistrySource

from tests.support.faulty import Answer, FaultyRegistry, error, serve_faulty
from tests.support.pulls import pull, quick, random_image
from tests.support.tokens import TokenServer, serve_tokens

USER = Credential("someone", "secret")


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with serve_tokens(tmp_path / "roots.pem", users={"someone": "secret"}) as running:
        yield running


@pytest.fixture
def server(tokens: TokenServer) -> Iterator[FaultyRegistry]:
    """Wants a token of the token server for everything."""
    with serve_faulty(tokens.guard) as running:
        yield running


def as_user(server: FaultyRegistry) -> RegistryOptions:
    return quick(credentials={server.host: USER})


def test_challenges_on_several_lines() -> None:
    lines = {"WWW-Authenticate": "Negotiate", "www-authenticate": 'Basic realm="r"'}
    with serve_faulty() as server:
        server.script = lambda request: None if "authorization" in request.headers else Answer(401, lines)
        image = random_image(10)
        assert pull(server.put(image, "a:1"), as_user(server)) == [image.layers[0].blob]
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "quoted"), [(Answer(403), ""), (error(403, "DENIED", "not yours"), ": DENIED: not yours")]
)
def test_a_user_who_gets_no_token(server: FaultyRegistry, tokens: TokenServer, answer: Answer, quoted: str) -> None:
    tokens.override = lambda request: answer
    with pytest.raises(AuthenticationError) as caught:
        pull(server.put(random_image(10), "a:1"), as_user(server))
    said = f"{server.host}: its token server answered 403{quoted}; log in as a user who may do this"
    assert str(caught.value) == said
    assert len(tokens.requests) == 1
    assert server.lines == ["GET /v2/a/manifests/1"]


def test_no_token_for_a_mount_is_no_end_of_the_push(server: FaultyRegistry, tokens: TokenServer) -> None:
    """A token server that gives none for two repositories gives one for each of them."""
    tokens.override = lambda request: Answer(403) if len(request.values("scope")) > 1 else None
    image = random_image(1000, 2000)
    source = RegistrySource(Reference.parse(server.put(image, "a:1")), as_user(server))
    with closing(source):
        copy(source, RegistryDestination(Reference.parse(f"{server.host}/b:1"), as_user(server)), parallel=1)
    assert server.blobs["b"] == image.all_blobs()
    assert server.manifests["b"]["1"] == (image.media_type, image.raw)
    asked = [request.values("scope") for request in tokens.requests]
    both = ["repository:b:pull,push", "repository:a:pull"]
    assert asked == [["repository:a:pull"], ["repository:b:pull,push"], both, both, both]
    assert not [request for request in server.requests if request.query and request.values("mount")]


def test_a_token_server_that_wants_a_password_of_a_helper_that_is_missing(
    server: FaultyRegistry, tokens: TokenServer, tmp_path: Path
) -> None:
    tokens.override = lambda request: error(401, "UNAUTHORIZED")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"credHelpers": {server.host: "absent"}}))
    with pytest.raises(AuthenticationError) as caught:
        pull(server.put(random_image(10), "a:1"), quick(auth_file=config))
    assert str(caught.value) == (
        f"{server.host} gives no anonymous access: its token server answered 401: UNAUTHORIZED;"
        " install docker-credential-absent, which is configured"
        " for it"
    )
    assert ["authorization" in request.headers for request in tokens.requests] == [False]


def test_an_identity_token_is_no_password() -> None:
    with serve_faulty(lambda request: Answer(401, {"WWW-Authenticate": "Basic"})) as server:
        options = quick(credentials={server.host: Credential("someone", identity_token="s3cret")})
        with pytest.raises(AuthenticationError) as caught:
            pull(f"{server.host}/a:1", options)
        assert str(caught.value) == f"{server.host} asks for a password, but only an identity token is known"
        assert len(server.requests) == 1


def test_a_token_server_whose_connection_breaks_is_asked_again(server: FaultyRegistry, tokens: TokenServer) -> None:
    answers = [Answer(raw=b""), Answer(200, {}, b"{", length=9, cut=1)]
    tokens.override = lambda request: answers.pop() if answers else None
    image = random_image(10)
    assert pull(server.put(image, "a:1"), as_user(server)) == [image.layers[0].blob]
    assert len(tokens.requests) == 3
    assert server.lines[:2] == ["GET /v2/a/manifests/1"] * 2


def test_a_token_server_that_limits_us(server: FaultyRegistry, tokens: TokenServer) -> None:
    tokens.override = lambda request: Answer(429)
    with pytest.raises(RateLimitError) as caught:
        pull(server.put(random_image(10), "a:1"), as_user(server))
    assert str(caught.value) == (
        f"{server.host}: cannot get a token: {tokens.host} answered 429: it limits the rate of requests; try later or"
        " log in"
    )
    assert len(tokens.requests) == 4


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("R.example:5000", "r.example:5000"),
        ("http://r.example/v2/", "r.example"),
    ],
)
def test_what_people_call_a_registry(written: str, host: str) -> None:
    assert registry_host(written) == host

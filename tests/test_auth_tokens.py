"""Basic and Bearer: against docker-registry, and against scripts where no registry here does it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from ocifast.errors import AuthenticationError, NetworkError, RegistryError
from ocifast.reference import Reference
from ocifast.sources.registry import Credential, RegistryDestination, RegistryOptions
from ocifast.sources.registry.auth import merge_scopes, realm_is_known
from ocifast.spec import Document

from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import BuiltImage
from tests.support.pulls import fetch, layers_of, opened, pull, quick, random_image, write_helper
from tests.support.registry import Registry, TokenAuth, serve_registry
from tests.support.tokens import ISSUER, SERVICE, TokenServer, serve_tokens

PASSWORD = "correct horse, battery: staple"
USER = Credential("someone", PASSWORD)


def as_user(host: str, credential: Credential = USER, **changes: Any) -> RegistryOptions:
    return quick(credentials={host: credential}, **changes)


def push(name: str, image: BuiltImage, options: RegistryOptions, mount_from: str | None = None) -> None:
    """Pushes an image with our own client; with `mount_from` its blobs come from that repository."""
    destination = RegistryDestination(Reference.parse(name), options)
    with opened(mount_from or name, options) as source:
        for digest, data in image.all_blobs().items():
            from ocifast.spec import Descriptor

            descriptor = Descriptor("application/octet-stream", digest, len(data))
            if not destination.has_blob(descriptor) and not destination.mount_blob(descriptor, source):
                destination.put_blob(descriptor, [data])
    destination.put_document(Document(image.media_type, image.raw), root=True)
    destination.commit()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """docker-registry with a password file."""
    with serve_registry(tmp_path_factory.mktemp("locked") / "r", user=("someone", PASSWORD)) as running:
        yield running


@pytest.fixture(scope="module")
def real_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with serve_tokens(tmp_path_factory.mktemp("tokens") / "roots.pem", users={"someone": PASSWORD}) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(real_tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """docker-registry that takes the token server's tokens."""
    auth = TokenAuth(real_tokens.realm, SERVICE, ISSUER, real_tokens.certificates)
    with serve_registry(tmp_path_factory.mktemp("guarded") / "r", token=auth) as running:
        yield running


class TestBasic:
    @pytest.mark.tools
    def test_the_right_password(self, locked: Registry) -> None:
        image = random_image(3000)
        name = locked.put(image, "basic/a:1")
        before = len(locked.requests())
        assert pull(name, as_user(locked.host)) == [image.layers[0].blob]
        # One question, then the answer goes with every request.
        assert locked.requests()[before:] == [
            "GET /v2/basic/a/manifests/1 401",
            "GET /v2/basic/a/manifests/1 200",
            f"GET /v2/basic/a/blobs/{image.layers[0].digest} 200",
        ]

    @pytest.mark.tools
    def test_no_password(self, locked: Registry) -> None:
        name = locked.put(random_image(), "basic/b:1")
        with pytest.raises(AuthenticationError) as caught:
            pull(name)
        assert str(caught.value) == f"{locked.host} asks for a password; use `ocifast login {locked.host}`"

    @pytest.mark.tools
    def test_a_wrong_password_is_tried_once(self, locked: Registry) -> None:
        image = random_image(*[1000] * 6)
        name = locked.put(image, "basic/c:1")
        before = len(locked.requests())
        with opened(name, as_user(locked.host, Credential("someone", "wrong"))) as source:
            for _ in range(3):
                with pytest.raises(AuthenticationError, match="user name and password are refused: it answered 401"):
                    source.root()
        assert locked.requests()[before:] == ["GET /v2/basic/c/manifests/1 401"] * 2

    @pytest.mark.tools
    def test_push(self, locked: Registry) -> None:
        image = random_image(5000)
        name = f"{locked.host}/basic/pushed:1"
        push(name, image, as_user(locked.host))
        assert pull(name, as_user(locked.host)) == [image.layers[0].blob]


@pytest.mark.tools
class TestBearerOfDockerRegistry:
    @pytest.fixture
    def tokens(self, real_tokens: TokenServer) -> TokenServer:
        real_tokens.requests.clear()
        real_tokens.anonymous.clear()
        return real_tokens

    def test_push_and_pull(self, guarded: Registry, tokens: TokenServer) -> None:
        image = random_image(5000)
        name = f"{guarded.host}/bearer/a:1"
        push(name, image, as_user(guarded.host))
        assert [request.values("scope") for request in tokens.requests] == [["repository:bearer/a:pull,push"]]
        assert tokens.requests[0].values("service") == [SERVICE]
        assert tokens.requests[0].values("account") == ["someone"]

        tokens.requests.clear()
        assert pull(name, as_user(guarded.host)) == [image.layers[0].blob]
        assert [request.values("scope") for request in tokens.requests] == [["repository:bearer/a:pull"]]

    def test_anonymous(self, guarded: Registry, tokens: TokenServer) -> None:
        image = random_image(5000)
        name = f"{guarded.host}/bearer/public:1"
        push(name, image, as_user(guarded.host))
        tokens.anonymous.add("bearer/public")
        tokens.requests.clear()
        assert pull(name) == [image.layers[0].blob]
        assert ["authorization" in request.headers for request in tokens.requests] == [False]

    def test_what_the_token_does_not_allow(self, guarded: Registry, tokens: TokenServer) -> None:
        name = f"{guarded.host}/bearer/private:1"
        push(name, random_image(5000), as_user(guarded.host))
        tokens.requests.clear()
        with pytest.raises(AuthenticationError, match=r"private:1: cannot read the manifest: .* answered 401: UNAUTH"):
            pull(name)
        assert len(tokens.requests) == 1

    def test_a_mount_asks_for_both_repositories(self, guarded: Registry, tokens: TokenServer) -> None:
        image = random_image(5000)
        push(f"{guarded.host}/bearer/from:1", image, as_user(guarded.host))
        tokens.requests.clear()
        before = len(guarded.requests())
        push(f"{guarded.host}/bearer/to:1", image, as_user(guarded.host), f"{guarded.host}/bearer/from:1")
        assert ["repository:bearer/to:pull,push", "repository:bearer/from:pull"] in [
            request.values("scope") for request in tokens.requests
        ]
        seen = guarded.requests()[before:]
        assert len([line for line in seen if "mount=" in line and line.endswith("201")]) == len(image.all_blobs())
        assert not [line for line in seen if line.startswith(("PUT /v2/bearer/to/blobs", "PATCH"))]

    def test_a_wrong_password_is_tried_once(self, guarded: Registry, tokens: TokenServer) -> None:
        name = f"{guarded.host}/bearer/a:1"
        with opened(name, as_user(guarded.host, Credential("someone", "wrong"))) as source:
            for _ in range(3):
                with pytest.raises(AuthenticationError, match="user name and password are refused: its token server"):
                    source.root()
        assert len(tokens.requests) == 1


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    with serve_tokens(tmp_path / "roots.pem", users={"someone": PASSWORD}, anonymous={"a"}) as running:
        yield running


@pytest.fixture
def server(tokens: TokenServer) -> Iterator[FaultyRegistry]:
    """Wants a token of the token server for everything."""
    with serve_faulty(tokens.guard) as running:
        yield running


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_both_names_of_the_token(server: FaultyRegistry, tokens: TokenServer, field: str) -> None:
    tokens.answer_with = field
    image = random_image()
    assert pull(server.put(image, "a:1")) == [image.layers[0].blob]
    assert len(tokens.requests) == 1


def test_one_token_for_all_parallel_requests(server: FaultyRegistry, tokens: TokenServer) -> None:
    image = random_image(*[10_000] * 16)
    name = server.put(image, "a:1")
    with opened(name) as source:
        layers = layers_of(source)
        # The token ends: all notice at once.
        tokens.issued.clear()
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda layer: fetch(source, layer), layers)) == [each.blob for each in image.layers]
    assert len(tokens.requests) == 2


def test_a_wrong_password_is_no_storm_of_requests(server: FaultyRegistry, tokens: TokenServer) -> None:
    image = random_image(*[10_000] * 8)
    name = server.put(image, "a:1")
    with opened(name, as_user(server.host)) as source:
        layers = layers_of(source)
        tokens.issued.clear()
        tokens.users["someone"] = "changed"
        tokens.requests.clear()
        with ThreadPoolExecutor(8) as pool:
            failures = [pool.submit(fetch, source, layer).exception() for layer in layers]
    assert all(isinstance(failure, AuthenticationError) for failure in failures)
    assert len(tokens.requests) == 1


def test_a_token_that_ends_in_the_middle_of_a_download_is_renewed(server: FaultyRegistry, tokens: TokenServer) -> None:
    image = random_image(1_000_000)
    name = server.put(image, "a:1")

    def script(request: Request) -> Answer | None:
        refused = tokens.guard(request)
        if refused or "/blobs/" not in request.path or "range" in request.headers:
            return refused
        tokens.issued.clear()
        return Answer(200, {}, image.layers[0].blob, cut=400_000)

    server.script = script
    assert pull(name) == [image.layers[0].blob]
    blob = f"GET /v2/a/blobs/{image.layers[0].digest}"
    assert server.lines[2:] == [blob, f"{blob} bytes=400000-", f"{blob} bytes=400000-"]
    assert len(tokens.requests) == 2


def test_a_token_near_its_end_is_renewed_before_it_is_refused(server: FaultyRegistry, tokens: TokenServer) -> None:
    tokens.lifetime = 1
    image = random_image()
    with opened(server.put(image, "a:1")) as source:
        (layer,) = layers_of(source)
        time.sleep(0.6)
        assert fetch(source, layer) == image.layers[0].blob
    assert len(tokens.requests) == 2
    # Nothing but the very first request was refused.
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"expires_in": 0},
        {"expires_in": None},
        {"expires_in": "soon"},
        {"expires_in": True},
        {"expires_in": "inf"},
        {"expires_in": "60"},
        {"expires_in": 60.5},
        {"expires_in": [], "issued_at": 5, "unknown": {}},
    ],
)
def test_a_token_without_a_lifetime_is_good_for_a_minute(
    server: FaultyRegistry, tokens: TokenServer, stated: dict[str, Any]
) -> None:
    import json

    tokens.override = lambda request: Answer(200, {}, json.dumps({"token": tokens._grant("u", []), **stated}).encode())
    image = random_image(*[1000] * 3)
    assert len(pull(server.put(image, "a:1"))) == 3
    assert len(tokens.requests) == 1


def test_identity_tokens(server: FaultyRegistry, tokens: TokenServer) -> None:
    tokens.identity_tokens["refresh"] = "someone"
    image = random_image()
    name = server.put(image, "a:1")
    with opened(name, as_user(server.host, Credential(identity_token="refresh"))) as source:
        (layer,) = layers_of(source)
        tokens.issued.clear()
        assert fetch(source, layer) == image.layers[0].blob
    assert [request.method for request in tokens.requests] == ["POST", "POST"]
    forms = [parse_qs(request.body.decode()) for request in tokens.requests]
    # The one that the server gave in exchange is used the next time.
    assert [form.pop("refresh_token") for form in forms] == [["refresh"], ["refresh+"]]
    expected = {
        "grant_type": ["refresh_token"],
        "service": [SERVICE],
        "client_id": ["ocifast"],
        "scope": ["repository:a:pull"],
    }
    assert forms == [expected, expected]
    assert not [request for request in tokens.requests if "authorization" in request.headers or request.query]


def test_an_identity_token_that_is_refused(server: FaultyRegistry, tokens: TokenServer) -> None:
    name = server.put(random_image(), "a:1")
    with pytest.raises(AuthenticationError, match="identity token is refused: its token server answered 401") as caught:
        pull(name, as_user(server.host, Credential(identity_token="s3cret")))
    assert "s3cret" not in str(caught.value)
    assert len(tokens.requests) == 1


def test_a_helper_is_asked_again_after_a_401(
    server: FaultyRegistry, tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Helpers of clouds hand out passwords that end after hours."""
    write_helper(
        tmp_path / "bin",
        "cloud",
        f"echo x >>{tmp_path}/calls\n"
        f'echo "{{\\"Username\\":\\"someone\\",\\"Secret\\":\\"$(cat {tmp_path}/password)\\"}}"',
        monkeypatch,
    )
    (tmp_path / "password").write_text("first")
    tokens.users["someone"] = "first"
    config = tmp_path / "config.json"
    config.write_text(f'{{"credHelpers": {{"{server.host}": "cloud"}}}}')
    image = random_image(1000, 2000)
    with opened(server.put(image, "a:1"), quick(auth_file=config)) as source:
        first, second = layers_of(source)
        assert fetch(source, first) == image.layers[0].blob
        assert (tmp_path / "calls").read_text().count("x") == 1
        tokens.issued.clear()
        tokens.users["someone"] = "second"
        (tmp_path / "password").write_text("second")
        assert fetch(source, second) == image.layers[1].blob
    assert (tmp_path / "calls").read_text().count("x") == 2
    assert len(tokens.requests) == 3


def test_basic_credentials_of_a_helper_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_helper(
        tmp_path / "bin",
        "cloud",
        f'echo "{{\\"Username\\":\\"AWS\\",\\"Secret\\":\\"$(cat {tmp_path}/password)\\"}}"',
        monkeypatch,
    )
    good = {"Basic QVdTOm9uZQ=="}  # AWS:one
    (tmp_path / "password").write_text("one")

    def script(request: Request) -> Answer | None:
        return None if request.headers.get("authorization") in good else Answer(401, {"WWW-Authenticate": "Basic"})

    with serve_faulty(script) as server:
        config = tmp_path / "config.json"
        config.write_text(f'{{"credHelpers": {{"{server.host}": "cloud"}}}}')
        image = random_image(1000)
        with opened(server.put(image, "a:1"), quick(auth_file=config)) as source:
            (layer,) = layers_of(source)
            (tmp_path / "password").write_text("two")
            good = {"Basic QVdTOnR3bw=="}  # AWS:two
            assert fetch(source, layer) == image.layers[0].blob
            good = set()
            with pytest.raises(AuthenticationError, match="user name and password are refused: it answered 401"):
                fetch(source, layer)


def test_bearer_is_preferred_to_basic(server: FaultyRegistry, tokens: TokenServer) -> None:
    def script(request: Request) -> Answer | None:
        refused = tokens.guard(request)
        if refused is None:
            return None
        return Answer(401, {"WWW-Authenticate": f'Basic realm="a, b", {tokens.challenge("repository:a:pull")}'})

    server.script = script
    image = random_image()
    assert pull(server.put(image, "a:1"), as_user(server.host)) == [image.layers[0].blob]
    assert len(tokens.requests) == 1


def test_scopes_of_the_challenge_are_asked_for_as_well(server: FaultyRegistry, tokens: TokenServer) -> None:
    scope = "repository:a:pull,metadata repository:shared:pull"
    server.script = lambda request: (
        Answer(401, {"WWW-Authenticate": tokens.challenge(scope)}) if tokens.guard(request) else None
    )
    pull(server.put(random_image(), "a:1"))
    assert tokens.requests[0].values("scope") == ["repository:a:pull,metadata", "repository:shared:pull"]


@pytest.mark.parametrize(
    ("scopes", "merged"),
    [
        (["repository:a:pull", "repository:a:pull,push"], ["repository:a:pull,push"]),
        (["repository:a:pull,push", "repository:b:pull"], ["repository:a:pull,push", "repository:b:pull"]),
        (["repository:host:5000/a:pull", ""], ["repository:host:5000/a:pull"]),
        (["registry:catalog:*", "registry:catalog:*"], ["registry:catalog:*"]),
        ([], []),
    ],
)
def test_scopes_are_merged(scopes: list[str], merged: list[str]) -> None:
    assert merge_scopes(*scopes) == merged


@pytest.mark.parametrize(
    ("registry", "realm", "trusted", "known"),
    [
        ("registry.example", "registry.example", (), True),
        ("registry-1.docker.io", "auth.docker.io", (), True),
        ("registry.gitlab.com", "gitlab.com", (), True),
        ("registry.example", "auth.docker.io", (), False),
        ("registry.example", "example", (), False),
        ("registry.example", "auth.registry.example", (), False),
        ("evil.docker.io", "auth.docker.io", (), False),
        ("registry.example", "auth.example", ("auth.example",), True),
    ],
)
def test_realms_that_may_get_a_password(registry: str, realm: str, trusted: tuple[str, ...], known: bool) -> None:
    assert realm_is_known(registry, realm, trusted) is known


@pytest.mark.parametrize(
    ("challenge", "kind", "message"),
    [
        ("", AuthenticationError, "the registry answered 401; check the user"),
        ("Negotiate", AuthenticationError, "asks for negotiate; only Basic and Bearer are spoken here"),
        ("Bearer service=x", AuthenticationError, "asks for bearer; only Basic and Bearer"),
        ('Bearer realm="no url"', RegistryError, "names a token server that is no URL of one"),
        ('Bearer realm="ftp://127.0.0.1/x"', RegistryError, "names a token server that is no URL of one"),
        ('Bearer realm="http://u:p@127.0.0.1/x"', RegistryError, "names a token server that is no URL of one"),
    ],
)
def test_challenges_that_cannot_be_answered(challenge: str, kind: type[Exception], message: str) -> None:
    with serve_faulty(lambda request: Answer(401, {"WWW-Authenticate": challenge} if challenge else {})) as server:
        with pytest.raises(kind, match=message):
            pull(f"{server.host}/a:1", as_user(server.host))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Answer(200, {}, b"{}"), RegistryError, "the answer of its token server 127.0.0.1 holds no token"),
        (Answer(200, {}, b"not json"), RegistryError, "holds no token"),
        (Answer(200, {}, b'{"x":' + b"[" * 30_000), RegistryError, "holds no token"),
        (Answer(200, {}, b'{"token": "two words"}'), RegistryError, "holds no token"),
        (Answer(200, {}, b'{"token": "line\\nbreak"}'), RegistryError, "holds no token"),
        (Answer(200, {}, b'{"token": 5}'), RegistryError, "holds no token"),
        (Answer(404), RegistryError, "its token server answered 404"),
        (Answer(302, {"Location": "http://127.0.0.1/"}), RegistryError, "its token server answered 302"),
        (Answer(401), AuthenticationError, "no anonymous access: its token server answered 401; use `ocifast"),
        (Answer(403), AuthenticationError, "no anonymous access: its token server answered 403; use `ocifast"),
    ],
)
def test_token_servers_that_fail(
    server: FaultyRegistry, tokens: TokenServer, answer: Answer, kind: type[Exception], message: str
) -> None:
    tokens.override = lambda request: answer
    with pytest.raises(kind, match=message):
        pull(server.put(random_image(), "a:1"))
    assert len(tokens.requests) == 1


def test_a_token_server_is_tried_again(server: FaultyRegistry, tokens: TokenServer) -> None:
    answers = iter([Answer(503), Answer(429, {"Retry-After": "0"})])
    tokens.override = lambda request: next(answers, None)
    image = random_image()
    assert pull(server.put(image, "a:1")) == [image.layers[0].blob]
    assert len(tokens.requests) == 3


def test_a_token_server_that_is_not_there(server: FaultyRegistry) -> None:
    server.script = lambda request: Answer(401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/token"'})
    with pytest.raises(NetworkError, match=r"cannot reach 127\.0\.0\.1:1: the connection was refused"):
        pull(server.put(random_image(), "a:1"), quick(retries=1))


def test_closing_twice_is_harmless(server: FaultyRegistry) -> None:
    with opened(server.put(random_image(), "a:1")) as source, closing(source):
        source.root()

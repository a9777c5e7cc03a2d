"""Published failures of registry clients, by their numbers in the list of threats: where registries send us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ocifast.errors import AuthenticationError, NetworkError, RegistryError
from ocifast.reference import Reference
from ocifast.sources.registry import Credential, RegistryDestination, RegistryOptions
from ocifast.sources.registry.addresses import is_public
from ocifast.spec import Descriptor

from tests.support.faulty import Answer, FaultyRegistry, Request, serve_faulty
from tests.support.images import as_json, digest_of
from tests.support.pulls import Authority, opened, pretend, pull, quick, random_image
from tests.support.tokens import TokenServer, serve_tokens

PUBLIC, OTHER_PUBLIC = "11.22.33.44", "55.66.77.88"
SECRET = "swordfish-9f8e7d"
USER = Credential("someone", SECRET)
ASKS_FOR_A_PASSWORD = Answer(401, {"WWW-Authenticate": "Basic"})


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def seen_by(*servers: FaultyRegistry | TokenServer) -> str:
    """All that servers were told, as one text."""
    requests = [request for server in servers for request in server.requests]
    return "\n".join(f"{each.line} {dict(each.headers)} {each.query} {each.body!r}" for each in requests)


def authorizations(server: FaultyRegistry | TokenServer) -> list[str | None]:
    return [request.headers.get("authorization") for request in server.requests]


# 25: the password goes to any realm.


def test_threat_25_no_password_for_a_realm_on_another_host(tmp_path: Path, authority: Authority) -> None:
    tls = authority.server("127.0.0.1", "127.0.0.2")
    users = {"someone": SECRET}
    with (
        serve_tokens(tmp_path / "roots.pem", address="127.0.0.2", users=users, tls=tls) as tokens,
        serve_faulty(tokens.guard, tls=tls) as server,
    ):
        authority.trust(server.host)
        authority.trust(tokens.host)
        folders = (authority.folder,)
        options = quick(credentials={server.host: USER}, certificates=folders)
        name = server.put(random_image(), "a:1")
        with pytest.raises(AuthenticationError, match=r"wants its password sent to 127\.0\.0\.2; .* --trust-realm"):
            pull(name, options)
        assert tokens.requests == []
        assert authorizations(server) == [None]

        # The user may allow it; and without a password any realm will do.
        trusted = quick(credentials={server.host: USER}, certificates=folders, trusted_realms=frozenset({"127.0.0.2"}))
        assert len(pull(name, trusted)) == 1
        assert len(tokens.requests) == 1
        tokens.anonymous.add("a")
        assert len(pull(name, quick(certificates=folders))) == 1
        assert authorizations(tokens)[1] is None


# 26: a token is sent to where a redirect leads.


def test_threat_26_bearer_not_resent_after_cross_host_redirect(tmp_path: Path) -> None:
    image = random_image()
    with (
        serve_tokens(tmp_path / "a.pem", users={"someone": SECRET}) as tokens,
        serve_faulty(tokens.guard) as first,
        serve_tokens(tmp_path / "b.pem", address="127.0.0.2", anonymous={"x"}) as other_tokens,
        serve_faulty(other_tokens.guard, address="127.0.0.2") as second,
    ):
        name = first.put(image, "a:1")
        second.put(image, "x:1")

        def script(request: Request) -> Answer | None:
            elsewhere = Answer(307, {"Location": f"{second.url}{request.path.replace('/a/', '/x/')}"})
            return tokens.guard(request) or (elsewhere if "/blobs/" in request.path else None)

        first.script = script
        # B asks for a token of its own, and gets an anonymous one.
        assert pull(name, quick(credentials={first.host: USER, second.host: USER})) == [image.layers[0].blob]
        assert authorizations(second) == [None, f"Bearer {other_tokens.issued[0]}"]
        assert authorizations(other_tokens) == [None]
        # What is asked of A is none of B's business.
        assert [request.values("scope") for request in other_tokens.requests] == [[]]
        assert tokens.issued[0] not in seen_by(second, other_tokens)
        assert SECRET not in seen_by(second, other_tokens)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("challenge", ['Basic realm="storage"', 'Bearer realm="{tokens}",service="s"'])
def test_threat_26_no_password_for_where_a_redirect_leads(tmp_path: Path, status: int, challenge: str) -> None:
    with (
        serve_tokens(tmp_path / "b.pem", address="127.0.0.2") as tokens,
        serve_faulty(address="127.0.0.2") as second,
        serve_faulty() as first,
    ):
        asked = challenge.replace("{tokens}", tokens.realm)
        second.script = lambda request: Answer(401, {"WWW-Authenticate": asked})
        name = first.put(random_image(), "a:1")

        def script(request: Request) -> Answer | None:
            if "authorization" not in request.headers:
                return ASKS_FOR_A_PASSWORD
            return Answer(status, {"Location": f"{second.url}/x"}) if "/blobs/" in request.path else None

        first.script = script
        with pytest.raises(AuthenticationError):
            pull(name, quick(credentials={first.host: USER, second.host: USER}))
        assert len(second.requests) >= 1
        assert not [each for each in authorizations(second) if each and each.startswith("Basic")]
        assert not [each for each in authorizations(tokens) if each]
        assert SECRET not in seen_by(second, tokens)


def test_threat_26_the_same_name_on_another_port_is_another_host() -> None:
    with serve_faulty() as storage, serve_faulty() as first:
        image = random_image()
        storage.script = lambda request: Answer(200, {}, image.layers[0].blob)
        name = first.put(image, "a:1")

        def script(request: Request) -> Answer | None:
            if "authorization" not in request.headers:
                return ASKS_FOR_A_PASSWORD
            return Answer(307, {"Location": f"{storage.url}/x"}) if "/blobs/" in request.path else None

        first.script = script
        assert len(pull(name, quick(credentials={first.host: USER}))) == 1
        assert authorizations(storage) == [None]


def test_threat_26_an_upload_location_on_another_host_gets_no_credential() -> None:
    with serve_faulty() as storage, serve_faulty() as first:
        storage.script = lambda request: Answer(201)

        def script(request: Request) -> Answer | None:
            if "authorization" not in request.headers:
                return ASKS_FOR_A_PASSWORD
            return Answer(202, {"Location": f"{storage.url}/bucket?key=1"}) if request.method == "POST" else None

        first.script = script
        reference = Reference.parse(f"{first.host}/a:1")
        destination = RegistryDestination(reference, quick(credentials={first.host: USER}))
        destination.put_blob(Descriptor("application/x", digest_of(b"x"), 1), [b"x"])
        destination.abort()
        assert [(request.line, request.body) for request in storage.requests] == [("PUT /bucket", b"x")]
        assert authorizations(storage) == [None]


# 27: a public registry sends us into a private network.

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a01:203",
    "2002:a01:203::1",
    "not an address",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_threat_27_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["11.22.33.44", "2606:4700::1111", "::ffff:11.22.33.44", "64:ff9b::b16:212c"])
def test_threat_27_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


Public = tuple[FaultyRegistry, list[str]]


@pytest.fixture
def public(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Public]:
    """A registry that looks as if it stood on the Internet, and the addresses that were connected to."""
    with serve_faulty(tls=authority.server("registry.example")) as server:
        server.host = f"registry.example:{server.host.rpartition(':')[2]}"
        authority.trust(server.host)
        yield server, pretend(monkeypatch, {"registry.example": (PUBLIC, "127.0.0.1")})


def push_a_blob(name: str, options: RegistryOptions) -> None:
    destination = RegistryDestination(Reference.parse(name), options)
    try:
        destination.put_blob(Descriptor("application/x", digest_of(b"x"), 1), [b"x"])
    finally:
        destination.abort()


def ask_for_referrers(name: str, options: RegistryOptions) -> None:
    with opened(name, options) as source:
        source.referrers(digest_of(b""))


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "[::1]", "[::ffff:10.0.0.1]", "localhost"]
)
@pytest.mark.parametrize(
    ("part", "act"),
    [("/blobs/sha256", pull), ("/manifests/", pull), ("/uploads/", push_a_blob), ("/referrers/", ask_for_referrers)],
)
def test_threat_27_no_hop_from_public_to_private(
    public: Public, authority: Authority, part: str, act: Any, target: str
) -> None:
    server, connected = public
    url = f"https://{target}:1/latest/meta-data"
    answers = {
        "/blobs/sha256": Answer(307, {"Location": url}),
        "/manifests/": Answer(401, {"WWW-Authenticate": f'Bearer realm="{url}"'}),
        "/uploads/": Answer(202, {"Location": url}),
        "/referrers/": Answer(200, {"Link": f'<{url}>; rel="next"'}, as_json({"manifests": []})),
    }
    server.script = lambda request: answers[part] if part in request.path else None
    name = server.put(random_image(), "a:1")
    with pytest.raises(NetworkError, match=r"refused to be sent to .*: .* is not a public address"):
        act(name, quick(certificates=(authority.folder,), insecure=frozenset({target})))
    assert set(connected) == {PUBLIC}


def test_threat_27_a_name_that_resolves_to_a_private_address(
    public: Public, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, connected = public
    pretend(monkeypatch, {"metadata.example": ("169.254.169.254", "127.0.0.1")})
    server.script = lambda request: Answer(307, {"Location": "https://metadata.example/"})
    with pytest.raises(NetworkError, match=r"refused to be sent to metadata\.example: 169\.254\.169\.254 is not"):
        pull(f"{server.host}/a:1", quick(certificates=(authority.folder,)))
    assert set(connected) == {PUBLIC}


def test_threat_27_public_to_public_is_allowed(
    public: Public, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And from loopback to loopback: see 26."""
    server, _ = public
    image = random_image()
    with serve_faulty(address="127.0.0.2", tls=authority.server("storage.example")) as storage:
        host = f"storage.example:{storage.host.rpartition(':')[2]}"
        authority.trust(host)
        pretend(monkeypatch, {"storage.example": (OTHER_PUBLIC, "127.0.0.2")})
        storage.script = lambda request: Answer(200, {}, image.layers[0].blob)
        moved = Answer(307, {"Location": f"https://{host}/x"})
        server.script = lambda request: moved if "/blobs/" in request.path else None
        assert pull(server.put(image, "a:1"), quick(certificates=(authority.folder,))) == [image.layers[0].blob]
        assert len(storage.requests) == 1


# 28: secrets and data over plain HTTP.


@pytest.mark.parametrize("host", ["127.0.0.1", "registry.example"])
@pytest.mark.parametrize("credential", [None, USER])
def test_threat_28_no_token_over_plain_http(
    public: Public, authority: Authority, tmp_path: Path, host: str, credential: Credential | None
) -> None:
    server, _ = public
    with serve_tokens(tmp_path / "roots.pem") as tokens:
        realm = tokens.realm.replace("127.0.0.1", host)
        server.script = lambda request: Answer(401, {"WWW-Authenticate": f'Bearer realm="{realm}"'})
        credentials = {server.host: credential} if credential else {}
        # To loopback plain HTTP may be spoken, but nobody on the Internet sends us there.
        refused = (
            "for a token over plain HTTP"
            if host == "registry.example"
            else "refused to be sent to 127.0.0.1|wants its password sent to 127.0.0.1"
        )
        with pytest.raises((AuthenticationError, NetworkError), match=refused):
            pull(f"{server.host}/a:1", quick(credentials=credentials, certificates=(authority.folder,)))
        assert tokens.requests == []


@pytest.mark.parametrize("credential", [None, USER])
def test_threat_28_a_plain_registry_names_no_other_plain_host(
    tmp_path: Path, credential: Credential | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"tokens.example": (OTHER_PUBLIC, "127.0.0.2")})
    with serve_tokens(tmp_path / "roots.pem", address="127.0.0.2") as tokens, serve_faulty(tokens.guard) as server:
        credentials = {server.host: credential} if credential else {}
        options = quick(credentials=credentials, trusted_realms=frozenset({"127.0.0.2", "tokens.example"}))
        port = tokens.host.rpartition(":")[2]
        tokens.host = f"tokens.example:{port}"
        with pytest.raises(AuthenticationError, match=r"sends us to tokens\.example for a token over plain HTTP"):
            pull(f"{server.host}/a:1", options)
        assert tokens.requests == []
        assert authorizations(server) == [None]


def test_threat_28_plain_http_to_a_token_server_on_loopback(tmp_path: Path, authority: Authority) -> None:
    image = random_image()
    users = {USER.username: USER.password}
    tokens_of_it = serve_tokens(tmp_path / "roots.pem", users=users)
    with tokens_of_it as tokens, serve_faulty(tls=authority.server("127.0.0.1")) as server:
        authority.trust(server.host)
        name = server.put(image, "a:1")
        server.script = tokens.guard
        options = quick(credentials={server.host: USER}, certificates=(authority.folder,))
        assert pull(name, options) == [image.layers[0].blob]
        assert tokens.requests


def test_threat_28_https_never_becomes_plain_http(
    public: Public, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = public
    image = random_image()
    with serve_faulty(address="127.0.0.2") as storage:
        host = f"storage.example:{storage.host.rpartition(':')[2]}"
        pretend(monkeypatch, {"storage.example": (OTHER_PUBLIC, "127.0.0.2")})
        storage.script = lambda request: Answer(200, {}, image.layers[0].blob)
        moved = Answer(307, {"Location": f"http://{host}/x?sig=1"})
        server.script = lambda request: moved if "/blobs/" in request.path else None
        name = server.put(image, "a:1")
        # Plain HTTP for one host says nothing of another.
        for insecure in (frozenset[str](), frozenset({"other.example"})):
            with pytest.raises(RegistryError, match=rf"sends us from HTTPS to plain HTTP at http://{host}/x; refused"):
                pull(name, quick(certificates=(authority.folder,), insecure=insecure))
        assert storage.requests == []
        pull(name, quick(certificates=(authority.folder,), insecure=frozenset({host})))
        assert len(storage.requests) == 1


def test_threat_28_a_registry_is_not_tried_over_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"registry.example": (PUBLIC, "127.0.0.1")})
    with serve_faulty() as server:
        name = server.put(random_image(), "a:1").replace("127.0.0.1", "registry.example")
        with pytest.raises(NetworkError, match="it does not speak HTTPS; for plain HTTP use --insecure"):
            pull(name)
        assert server.requests == []
        assert len(pull(name, quick(insecure=frozenset({"registry.example"})))) == 1

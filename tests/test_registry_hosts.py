"""Mirrors, rewritten locations and plain-HTTP hosts, from options and from registries.conf."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast.errors import FileError, ImageNotFoundError, RegistryError
from ocifast.reference import Reference
from ocifast.sources.registry import Credential, RegistryOptions
from ocifast.sources.registry.hops import speaks_plain
from ocifast.sources.registry.hosts import Endpoint, pull_endpoints, push_endpoint

from tests.support.faulty import Answer, FaultyRegistry, error, serve_faulty
from tests.support.pulls import opened, pull, quick, random_image

CONFIGURATION = """
unqualified-search-registries = ["docker.io"]

[[registry]]
location = "registry.example"
[[registry.mirror]]
location = "mirror.example/cache"
[[registry.mirror]]
location = "plain.example:5000"
insecure = true
pull-from-mirror = "digest-only"

[[registry]]
prefix = "registry.example/team"
location = "other.example/people"
insecure = true

[[registry]]
prefix = "registry.example/team/secret"
blocked = true

[[registry]]
prefix = "*.wild.example"
location = "tame.example"

[[registry]]
prefix = "docker.io"
location = "hub.example/hub"
mirror-by-digest-only = true
[[registry.mirror]]
location = "mirror.example/hub"
"""
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def configured(tmp_path: Path) -> RegistryOptions:
    path = tmp_path / "registries.conf"
    path.write_text(CONFIGURATION)
    return RegistryOptions(registries_file=path)


def shown(endpoint: Endpoint) -> str:
    scheme = "http" if speaks_plain(endpoint.registry, endpoint.options) else "https"
    return f"{scheme}://{endpoint.registry}/{endpoint.repository}"


@pytest.mark.parametrize(
    ("reference", "pulled", "pushed"),
    [
        ("free.example/a", ["https://free.example/a"], "https://free.example/a"),
        (
            "registry.example/a/b:1",
            ["https://mirror.example/cache/a/b", "https://registry.example/a/b"],
            "https://registry.example/a/b",
        ),
        (
            f"registry.example/a@{DIGEST}",
            ["https://mirror.example/cache/a", "http://plain.example:5000/a", "https://registry.example/a"],
            "https://registry.example/a",
        ),
        ("registry.example/team/a", ["http://other.example/people/a"], "http://other.example/people/a"),
        (
            "registry.example/teamwork/a",
            ["https://mirror.example/cache/teamwork/a", "https://registry.example/teamwork/a"],
            "https://registry.example/teamwork/a",
        ),
        ("x.wild.example/a", ["https://tame.example/a"], "https://tame.example/a"),
        ("wild.example/a", ["https://wild.example/a"], "https://wild.example/a"),
        ("alpine", ["https://hub.example/hub/library/alpine"], "https://hub.example/hub/library/alpine"),
        (
            f"alpine@{DIGEST}",
            ["https://mirror.example/hub/library/alpine", "https://hub.example/hub/library/alpine"],
            "https://hub.example/hub/library/alpine",
        ),
    ],
)
def test_where_references_lead(configured: RegistryOptions, reference: str, pulled: list[str], pushed: str) -> None:
    parsed = Reference.parse(reference)
    assert [shown(endpoint) for endpoint in pull_endpoints(parsed, configured)] == pulled
    assert shown(push_endpoint(parsed, configured)) == pushed


def test_a_blocked_registry(configured: RegistryOptions) -> None:
    for endpoint in (pull_endpoints, push_endpoint):
        with pytest.raises(RegistryError, match="is blocked by the configuration of this machine"):
            endpoint(Reference.parse("registry.example/team/secret/a"), configured)


def test_docker_hub_has_another_name_for_its_api() -> None:
    (endpoint,) = pull_endpoints(Reference.parse("alpine"), RegistryOptions())
    assert shown(endpoint) == "https://registry-1.docker.io/library/alpine"
    assert endpoint.host == "docker.io"


def test_files_and_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "containers"
    (folder / "registries.conf.d").mkdir(parents=True)

    def location() -> str:
        return push_endpoint(Reference.parse("a.example/x"), RegistryOptions()).host

    def write(path: Path, host: str) -> None:
        path.write_text(f'[[registry]]\nprefix = "a.example"\nlocation = "{host}"\n')

    assert location() == "a.example"
    write(folder / "registries.conf", "user.example")
    assert location() == "user.example"
    write(folder / "registries.conf.d/10.conf", "ten.example")
    write(folder / "registries.conf.d/20.conf", "twenty.example")
    assert location() == "twenty.example"
    write(tmp_path / "named.conf", "named.example")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "named.conf"))
    assert location() == "named.example"


@pytest.mark.parametrize(
    "content",
    [
        "[[registry]]\nlocation = ",
        "[[registry]]\ninsecure = true\n",
        '[[registry]]\nlocation = "a"\n[[registry.mirror]]\ninsecure = true\n',
        '[registry]\nx = "[[registry"\n',
        '[[registry]]\nlocation = "a"\nx = ' + "[" * 100_000,
    ],
)
def test_damaged_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "registries.conf"
    path.write_text(content)
    with pytest.raises(FileError, match=f"{path} does not configure registries"):
        pull_endpoints(Reference.parse("a.example/x"), RegistryOptions(registries_file=path))


def test_spaces_and_quotes_make_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "registries.conf"
    path.write_text('[[ "registry" ]]\nprefix = "a.example"\nlocation = "b.example"\n')
    options = RegistryOptions(registries_file=path)
    assert [shown(found) for found in pull_endpoints(Reference.parse("a.example/x"), options)] == [
        "https://b.example/x"
    ]


@pytest.mark.parametrize("content", ["", "# [[registry]]\nnot TOML", "  #\t[[registry]]\n", '[aliases]\n"a" = "b"\n'])
def test_a_file_that_only_shows_how_it_is_done_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = tmp_path / "registries.conf"
    path.write_text(content)
    for parser in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, parser, None)
    options = RegistryOptions(registries_file=path)
    assert [shown(found) for found in pull_endpoints(Reference.parse("a.example/x"), options)] == [
        "https://a.example/x"
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is not there; it should configure registries"):
        pull_endpoints(Reference.parse("a.example/x"), RegistryOptions(registries_file=tmp_path / "none"))


@pytest.mark.parametrize(
    ("host", "insecure", "plain"),
    [
        ("127.0.0.1:5000", (), True),
        ("127.8.9.10", (), True),
        ("[::1]:5000", (), True),
        ("localhost", (), True),
        ("localhost:5000", (), True),
        ("LOCALHOST:5000", (), True),
        ("x.localhost:5000", (), True),
        ("localhost.example", (), False),
        ("127.0.0.1.example", (), False),
        ("registry.example", (), False),
        ("10.0.0.1:5000", (), False),
        ("registry.example", ("registry.example",), True),
        ("Registry.example:5000", ("registry.example",), True),
        ("registry.example:5000", ("registry.example:5000",), True),
        ("registry.example:5001", ("registry.example:5000",), False),
        ("registry.example", ("registry.example:5000",), False),
        ("sub.registry.example", ("registry.example",), False),
    ],
)
def test_who_is_spoken_to_in_plain_http(host: str, insecure: tuple[str, ...], plain: bool) -> None:
    assert speaks_plain(host, RegistryOptions(insecure=frozenset(insecure))) is plain


def test_loopback_with_certificates_is_spoken_to_in_https(tmp_path: Path) -> None:
    (tmp_path / "localhost:5000").mkdir()
    options = RegistryOptions(certificates=(tmp_path,))
    assert not speaks_plain("localhost:5000", options)
    assert speaks_plain("localhost:5001", options)


@pytest.fixture
def pair() -> Iterator[tuple[FaultyRegistry, FaultyRegistry]]:
    """A mirror and its origin."""
    with serve_faulty() as mirror, serve_faulty(address="127.0.0.2") as origin:
        yield mirror, origin


def mirrored(mirror: FaultyRegistry, origin: FaultyRegistry, **changes: object) -> RegistryOptions:
    return quick(mirrors={origin.host: (f"{mirror.host}/cache",)}, **changes)


def test_a_mirror_comes_first(pair: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    mirror, origin = pair
    image = random_image()
    name = origin.put(image, "a:1")
    mirror.put(image, "cache/a:1")
    assert pull(name, mirrored(mirror, origin)) == [image.layers[0].blob]
    assert mirror.lines == ["GET /v2/cache/a/manifests/1", f"GET /v2/cache/a/blobs/{image.layers[0].digest}"]
    assert origin.requests == []


@pytest.mark.parametrize(
    "answer", [error(404, "MANIFEST_UNKNOWN"), error(500, "X"), error(403, "DENIED"), Answer(200, {}, b"<html>")]
)
def test_a_mirror_that_fails_is_passed_over(pair: tuple[FaultyRegistry, FaultyRegistry], answer: Answer) -> None:
    mirror, origin = pair
    image = random_image()
    name = origin.put(image, "a:1")
    mirror.script = lambda request: answer
    assert pull(name, mirrored(mirror, origin, retries=0)) == [image.layers[0].blob]
    assert len(mirror.requests) == 2
    assert origin.lines == ["GET /v2/a/manifests/1", f"GET /v2/a/blobs/{image.layers[0].digest}"]


def test_a_mirror_that_lies_is_passed_over(pair: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    mirror, origin = pair
    image = random_image()
    origin.put(image, "a:1")
    mirror.put(random_image(5), "cache/a:1")
    mirror.manifests["cache/a"][image.digest] = mirror.manifests["cache/a"]["1"]
    with opened(f"{origin.host}/a@{image.digest}", mirrored(mirror, origin)) as source:
        assert source.root().raw == image.raw
    assert len(mirror.requests) == 1


def test_the_origin_goes_on_where_a_mirror_broke(pair: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    mirror, origin = pair
    image = random_image(500_000)
    name = origin.put(image, "a:1")
    mirror.put(image, "cache/a:1")
    answers = iter([Answer(200, {}, image.layers[0].blob, cut=200_000)])
    mirror.script = lambda request: next(answers, Answer(500)) if "/blobs/" in request.path else None
    assert pull(name, mirrored(mirror, origin, retries=0)) == [image.layers[0].blob]
    assert origin.lines == [f"GET /v2/a/blobs/{image.layers[0].digest} bytes=200000-"]


def test_the_origin_says_what_went_wrong(pair: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    mirror, origin = pair
    mirror.script = lambda request: error(500, "X")
    with pytest.raises(ImageNotFoundError, match=f"{origin.host}/a:1: not found"):
        pull(f"{origin.host}/a:1", mirrored(mirror, origin, retries=0))


def test_a_mirror_gets_its_own_credential_and_not_the_origins(pair: tuple[FaultyRegistry, FaultyRegistry]) -> None:
    mirror, origin = pair
    image = random_image()
    name = origin.put(image, "a:1")
    mirror.put(image, "cache/a:1")
    asks = Answer(401, {"WWW-Authenticate": "Basic"})
    mirror.script = lambda request: None if "authorization" in request.headers else asks
    pull(name, mirrored(mirror, origin, credentials={origin.host: Credential("u", "origin")}))
    assert [request.headers.get("authorization") for request in mirror.requests] == [None, None]
    pull(name, mirrored(mirror, origin, credentials={mirror.host: Credential("u", "mirror")}))
    assert {request.headers.get("authorization") for request in mirror.requests[2:]} == {None, "Basic dTptaXJyb3I="}

"""What files of this machine say of registries: `ocifast/registries.toml`, and containerd's `hosts.toml`."""

from __future__ import annotations

from pathlib import Path

import pytest
from ocifast.errors import AuthenticationError, FileError, NetworkError
from ocifast.reference import Reference
from ocifast.sources.registry import Credential, RegistryOptions, list_tags
from ocifast.sources.registry.hosts import pull_endpoints, push_endpoint
from ocifast.sources.registry.settings import with_settings

from tests.support.faulty import serve_faulty
from tests.support.pulls import QUICK, Authority, pretend, pull, quick, random_image
from tests.support.tokens import serve_tokens


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of configuration."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def say(configuration: Path, text: str) -> Path:
    return write(configuration / "ocifast/registries.toml", text)


def hosts(configuration: Path, name: str, text: str) -> Path:
    return write(configuration / "containerd/certs.d" / name / "hosts.toml", text)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def test_insecure_for_good(configuration: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"registry.example": ("127.0.0.1", "127.0.0.1")})
    image = random_image()
    with serve_faulty(tls=authority.server("other.example")) as server:
        name = server.put(image, "a:1").replace("127.0.0.1", "registry.example")
        host = name.partition("/")[0]
        with pytest.raises(NetworkError, match="is not trusted"):
            pull(name)
        say(configuration, f'[registry."{host}"]\ninsecure = true\n')
        assert pull(name) == [image.layers[0].blob]
        with pytest.raises(NetworkError, match="is not trusted"):
            pull(name.replace("registry.example", "localhost"))
        say(configuration, f'[registry."{host}"]\ninsecure = false\n[registry."x.example"]\ninsecure = true\n')
        with pytest.raises(NetworkError, match="is not trusted"):
            pull(name)


def test_commands_without_an_image_look_at_registries_conf(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"registry.example": ("127.0.0.1", "127.0.0.1")})
    with serve_faulty(tls=authority.server("other.example")) as server:
        server.put(random_image(), "a:1")
        host = server.host.replace("127.0.0.1", "registry.example")
        file = write(tmp_path / "registries.conf", f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        assert list_tags(Reference.parse(f"{host}/a"), quick(registries_file=file)) == ["1"]
        with pytest.raises(NetworkError, match="is not trusted"):
            list_tags(Reference.parse(f"{host}/a"), QUICK)


def test_a_realm_that_is_trusted_for_good(configuration: Path, tmp_path: Path) -> None:
    user = Credential("me", "secret")
    tokens_of_it = serve_tokens(tmp_path / "roots.pem", users={"me": "secret"}, address="127.0.0.2")
    with tokens_of_it as tokens, serve_faulty() as server:
        image = random_image()
        name = server.put(image, "a:1")
        server.script = tokens.guard
        options = quick(credentials={server.host: user})
        with pytest.raises(AuthenticationError, match=r"allow it with --trust-realm 127\.0\.0\.2"):
            pull(name, options)
        say(configuration, f'[registry."{server.host}"]\ntrusted_realms = ["127.0.0.2"]\n')
        assert pull(name, options) == [image.layers[0].blob]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("registry = 1", "registries.toml does not say how registries are spoken to: "),
        ("[registry", "does not say how registries are spoken to"),
        (
            '[registry."a.io"]\ninsecur = 1',
            "has 'insecur', which means nothing; it may have insecure, trusted_realms",
        ),
        ('[registry."a.io"]\ninsecure = "yes"', "is neither true nor false"),
        ('[registry."a.io"]\ntrusted_realms = "b.io"', "is no list of hosts"),
    ],
)
def test_settings_that_are_none(configuration: Path, text: str, why: str) -> None:
    path = say(configuration, text)
    with pytest.raises(FileError) as caught:
        with_settings("a.io", RegistryOptions())
    assert str(path) in str(caught.value)
    assert why in str(caught.value)


def shown(reference: str) -> list[str]:
    found = pull_endpoints(Reference.parse(reference), RegistryOptions())
    return [f"{each.registry}/{each.repository}{'!' if each.options.insecure else ''}" for each in found]


def test_where_hosts_of_containerd_lead(configuration: Path) -> None:
    hosts(
        configuration,
        "docker.io",
        """server = "https://registry-1.docker.io"
        [host."https://mirror.example:5000"]
        capabilities = ["pull", "resolve"]
        [host."http://10.0.0.1/v2/hub"]
        override_path = true
        [host."https://blobs.example"]
        capabilities = ["pull"]
        skip_verify = true
        [host."https://push.example"]
        capabilities = ["push"]
        """,
    )
    digest = "sha256:" + "0" * 64
    own = "registry-1.docker.io/library/debian"
    first = ["mirror.example:5000/library/debian", "10.0.0.1/hub/library/debian!"]
    assert shown("debian") == [*first, own]
    assert shown(f"debian@{digest}") == [*first, "blobs.example/library/debian!", own]
    assert push_endpoint(Reference.parse("debian"), RegistryOptions()).registry == "registry-1.docker.io"
    assert shown("ghcr.io/a/b") == ["ghcr.io/a/b"]
    hosts(configuration, "_default", '[host."https://all.example"]\n')
    assert shown("ghcr.io/a/b") == ["all.example/a/b", "ghcr.io/a/b"]
    hosts(configuration, "ghcr.io_444_", 'server = "https://other.example/v2/"\n')
    assert shown("ghcr.io:444/a/b") == ["other.example/a/b"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[host", "does not name hosts"),
        ('[host."ftp://x"]', "'ftp://x' is no URL of a host"),
        ('[host."https://u:p@x"]', "is no URL of a host"),
        ('[host."https://x"]\nca = 7', "is no text"),
        ("host = 3", "does not name hosts"),
    ],
)
def test_hosts_that_are_none(configuration: Path, text: str, why: str) -> None:
    path = hosts(configuration, "a.io", text)
    with pytest.raises(FileError) as caught:
        shown("a.io/b")
    assert str(path) in str(caught.value)
    assert why in str(caught.value)


def test_a_host_that_cannot_be_spoken_to_is_passed_over(configuration: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = hosts(configuration, "a.io", '[host."https://x.io/y"]\n[host."https://z.io"]\n')
    assert shown("a.io/b") == ["z.io/b", "a.io/b"]
    assert f"{path}: https://x.io/y has its API below another path than /v2, and is passed over" in caplog.text


@pytest.mark.parametrize("way", ["ca", "skip_verify"])
def test_a_mirror_of_containerd(
    configuration: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    pretend(monkeypatch, {"mirror.example": ("127.0.0.1", "127.0.0.1")})
    image = random_image()
    with serve_faulty(tls=authority.server("mirror.example")) as mirror, serve_faulty() as origin:
        mirror.put(image, "a:1")
        name = origin.put(image, "a:1")
        host = mirror.host.replace("127.0.0.1", "mirror.example")
        path = hosts(configuration, origin.host, "")
        (path.parent / "its.crt").write_bytes(authority.file.read_bytes())
        how = 'ca = "its.crt"' if way == "ca" else "skip_verify = true"
        header = f'[host."https://{host}".header]\nx-team = "infra"\n'
        path.write_text(f'[host."https://{host}"]\n{how}\n{header}')
        assert pull(name) == [image.layers[0].blob]
        assert origin.requests == []
        assert {request.headers.get("x-team") for request in mirror.requests} == {"infra"}
        # Without either it is passed over, and what is said of it goes to no other host.
        path.write_text(f'[host."https://{host}"]\n{header}')
        assert pull(name) == [image.layers[0].blob]
        assert {request.headers.get("x-team") for request in origin.requests} == {None}


def test_a_client_certificate_of_containerd(configuration: Path, authority: Authority) -> None:
    image = random_image()
    with serve_faulty(tls=authority.server("127.0.0.1", clients=True)) as server:
        folder = authority.trust("elsewhere", client=True)
        name = server.put(image, "a:1")
        path = hosts(configuration, server.host, "")
        own = f'[host."https://{server.host}"]\nca = "{authority.file}"\n'
        path.write_text(own)
        with pytest.raises(NetworkError):
            pull(name)
        path.write_text(f'{own}client = [["{folder / "client.cert"}", "{folder / "client.key"}"]]\n')
        assert pull(name) == [image.layers[0].blob]

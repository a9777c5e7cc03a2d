"""TLS with certificates made here, and proxies."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from ocifast.errors import FileError, NetworkError, RegistryError
from ocifast.sources.registry.network import proxy_for
from ocifast.sources.registry.options import RegistryOptions
from ocifast.sources.registry.tls import Certificates, certificate_folder

from tests.support.faulty import Answer, serve_faulty
from tests.support.pulls import Authority, pretend, pull, quick, random_image
from tests.support.registry import serve_registry


@contextmanager
def in_front_of(host: str, refusal: bytes | None) -> Iterator[str]:
    """A door that hands TLS on to `host`, and answers plain HTTP with `refusal`; none breaks it off."""
    name, _, port = host.rpartition(":")

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            if client.recv(1, socket.MSG_PEEK) != b"\x16":
                client.recv(65536)
                client.sendall(refusal or b"")
                return
            with socket.create_connection((name, int(port))) as server:
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()

    door = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{door.getsockname()[1]}"
    finally:
        door.shutdown(socket.SHUT_RDWR)
        door.close()
        thread.join()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.mark.tools
def test_docker_registry_with_a_certificate_of_our_own(authority: Authority, tmp_path: Path) -> None:
    image = random_image()
    with serve_registry(tmp_path / "registry", tls=authority.files("localhost")) as registry:
        name = registry.put(image, "tls/a:1")
        authority.trust(registry.host)
        assert pull(name, quick(certificates=(authority.folder,))) == [image.layers[0].blob]


@pytest.mark.parametrize(
    "refusal", [None, b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server."]
)
def test_tls_on_loopback_is_noticed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, refusal: bytes | None
) -> None:
    """Servers break off what is not TLS, or answer it in plain HTTP."""
    image = random_image()
    with serve_faulty(tls=authority.server("127.0.0.1")) as server, in_front_of(server.host, refusal) as host:
        name = server.put(image, "a:1").replace(server.host, host)
        with pytest.raises(NetworkError, match="its certificate is not trusted"):
            pull(name)
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert pull(name) == [image.layers[0].blob]


@pytest.mark.parametrize("is_tls", [True, False])
@pytest.mark.parametrize("port", [True, False])
def test_insecure(authority: Authority, monkeypatch: pytest.MonkeyPatch, is_tls: bool, port: bool) -> None:
    """A certificate that nobody vouches for is taken, and plain HTTP where there is none; elsewhere nothing changes."""
    image = random_image()
    with serve_faulty(tls=authority.server("other.example") if is_tls else None) as server:
        served = int(server.host.rpartition(":")[2])
        usual = (443 if is_tls else 80) if not port else served
        pretend(monkeypatch, {"registry.example": ("127.0.0.1", "127.0.0.1")}, ports={usual: served})
        host = f"registry.example:{served}" if port else "registry.example"
        server.put(image, "library/a:1")
        name = f"{host}/library/a:1"
        with pytest.raises(NetworkError):
            pull(name)
        assert pull(name, quick(insecure=frozenset({host}))) == [image.layers[0].blob]
        assert pull(name, quick(insecure=frozenset({"registry.example"}))) == [image.layers[0].blob]
        with pytest.raises(NetworkError):
            pull(name, quick(insecure=frozenset({"other.example"})))


def test_what_is_no_tls_on_loopback_stays_plain() -> None:
    with serve_faulty(lambda request: Answer(400)) as server:
        with pytest.raises(RegistryError, match="answered 400"):
            pull(f"{server.host}/a:1")
        assert len(server.requests) == 1


@pytest.mark.parametrize("names", [("registry.example",), ("127.0.0.1", "registry.example")])
def test_ssl_cert_file(authority: Authority, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    pretend(monkeypatch, {"registry.example": ("11.22.33.44", "127.0.0.1")})
    image = random_image()
    with serve_faulty(tls=authority.server(*names)) as server:
        name = server.put(image, "a:1").replace("127.0.0.1", "registry.example")
        assert pull(name) == [image.layers[0].blob]


def test_the_systems_certificates_are_trusted() -> None:
    """Debian's ca-certificates, here; what they are is the system's affair."""
    context = Certificates(RegistryOptions()).context("registry.example")
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) > 50


def test_ssl_cert_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    with pytest.raises(FileError, match=r"SSL_CERT_FILE names /nonexistent\.pem, which is not there"):
        pull("registry.example/a:1")


@pytest.mark.parametrize(
    ("certified", "trusted", "reason"),
    [
        ("registry.example", False, "unable to get local issuer certificate"),
        ("other.example", True, "Hostname mismatch"),
    ],
)
def test_untrusted_certificates(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, certified: str, trusted: bool, reason: str
) -> None:
    pretend(monkeypatch, {"registry.example": ("11.22.33.44", "127.0.0.1")})
    with serve_faulty(tls=authority.server(certified)) as server:
        host = server.host.replace("127.0.0.1", "registry.example")
        if trusted:
            authority.trust(host)
        with pytest.raises(NetworkError) as caught:
            pull(f"{host}/a:1", quick(certificates=(authority.folder,)))
        assert f"{host}/a:1: cannot reach the registry: its certificate is not trusted" in str(caught.value)
        assert reason in str(caught.value)
        assert f"/etc/docker/certs.d/{host}/ca.crt or name it in SSL_CERT_FILE" in str(caught.value)
        assert server.requests == []


def test_client_certificates(authority: Authority) -> None:
    image = random_image()
    with serve_faulty(tls=authority.server("127.0.0.1", clients=True)) as server:
        folder = authority.trust(server.host, client=True)
        name = server.put(image, "a:1")
        assert pull(name, quick(certificates=(authority.folder,))) == [image.layers[0].blob]
        (folder / "client.cert").unlink()
        with pytest.raises(NetworkError):
            pull(name, quick(certificates=(authority.folder,), retries=0))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ca.crt", "no certificate", "cannot read the certificates in .*ca.crt"),
        ("client.key", None, "cannot use the client certificate .*client.cert with .*client.key"),
        ("client.key", "no key", "cannot use the client certificate .*client.cert with .*client.key"),
    ],
)
def test_damaged_certificate_folders(authority: Authority, file: str, content: str | None, message: str) -> None:
    folder = authority.trust("127.0.0.1:1", client=True)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(FileError, match=message):
        pull("127.0.0.1:1/a:1", quick(certificates=(authority.folder,)))


def test_a_key_with_a_password_is_named_and_nobody_asked_for_it(authority: Authority) -> None:
    folder = authority.trust("127.0.0.1:1", client=True)
    key = serialization.load_pem_private_key((folder / "client.key").read_bytes(), None)
    (folder / "client.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(FileError, match=r"cannot use the client certificate .*: the key is protected by a password"):
        pull("127.0.0.1:1/a:1", quick(certificates=(authority.folder,)))


def test_folders_of_certificates_and_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    name = "Registry.example:5000"
    places = [tmp_path / "first", tmp_path / "second", tmp_path / "home/.config/containers/certs.d"]
    for place in reversed(places):
        assert certificate_folder(name, places[:2]) != place / name.lower()
        (place / name.lower()).mkdir(parents=True)
        assert certificate_folder(name, places[:2]) == place / name.lower()
    # Each port is a registry of its own.
    for other in ("registry.example", "registry.example:500", "registry.example:50000", "example:5000"):
        assert certificate_folder(other, places[:2]) is None
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config/containers/certs.d" / name.lower()
    own.mkdir(parents=True)
    assert certificate_folder(name) == own


@pytest.mark.parametrize("host", ["", ".", "..", "../second", "a/b", "a\0b"])
def test_a_host_that_is_no_name_of_a_folder(tmp_path: Path, host: str) -> None:
    (tmp_path / "first/a/b").mkdir(parents=True)
    (tmp_path / "second").mkdir()
    assert certificate_folder(host, [tmp_path / "first"]) is None


@dataclass
class Proxy:
    """An HTTP proxy that knows every name as the given port of loopback.

    Attributes:
        url: with a user and a password.
        asked: the first lines of the requests.
        authorizations: the values of Proxy-Authorization.
    """

    url: str = ""
    asked: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)


@contextmanager
def serve_proxy(port: int) -> Iterator[Proxy]:
    """Runs a proxy in a thread until the block ends."""
    proxy = Proxy()
    listener = socket.create_server(("127.0.0.1", 0))
    proxy.url = f"http://user:pass%20word@127.0.0.1:{listener.getsockname()[1]}"

    def pump(source: socket.socket, target: socket.socket) -> None:
        with source, target:
            try:
                while data := source.recv(65536):
                    target.sendall(data)
            except OSError:
                pass

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        lines = head.decode("latin-1").split("\r\n")
        proxy.asked.append(lines[0])
        proxy.authorizations.extend(line for line in lines if line.lower().startswith("proxy-authorization"))
        target = socket.create_connection(("127.0.0.1", port))
        if lines[0].startswith("CONNECT"):
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            target.sendall(head.replace(b"Connection: keep-alive", b"Connection: close"))
        threading.Thread(target=pump, args=(target, client), daemon=True).start()
        pump(client, target)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_https_through_a_proxy(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_image()
    with serve_faulty(tls=authority.server("registry.example")) as server:
        port = server.host.rpartition(":")[2]
        authority.trust(f"registry.example:{port}")
        with serve_proxy(int(port)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            name = server.put(image, "a:1").replace("127.0.0.1", "registry.example")
            assert pull(name, quick(certificates=(authority.folder,))) == [image.layers[0].blob]
            assert proxy.asked == [f"CONNECT registry.example:{port} HTTP/1.1"]
            (sent,) = proxy.authorizations
            assert sent.partition("Basic ")[2] == base64.b64encode(b"user:pass word").decode()
        assert not [request for request in server.requests if "proxy-authorization" in request.headers]


@pytest.mark.slow
def test_plain_http_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_image()
    with serve_faulty() as server:
        port = server.host.rpartition(":")[2]
        with serve_proxy(int(port)) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            name = server.put(image, "a:1").replace("127.0.0.1", "registry.example")
            assert pull(name, quick(insecure=frozenset({"registry.example"}))) == [image.layers[0].blob]
            assert proxy.asked[0] == f"GET http://registry.example:{port}/v2/a/manifests/1 HTTP/1.1"


def test_a_proxy_does_not_lead_from_public_to_private(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_faulty(tls=authority.server("registry.example")) as server:
        port = server.host.rpartition(":")[2]
        authority.trust(f"registry.example:{port}")
        server.script = lambda request: Answer(307, {"Location": "https://169.254.169.254/latest"})
        with serve_proxy(int(port)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with pytest.raises(NetworkError, match=r"refused to be sent to 169\.254\.169\.254"):
                pull(f"registry.example:{port}/a:1", quick(certificates=(authority.folder,)))
            assert proxy.asked == [f"CONNECT registry.example:{port} HTTP/1.1"]


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("https://registry.example", {}, None),
        ("https://registry.example", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://registry.example", {"https_proxy": "p:1"}, "http://p:1"),
        ("https://registry.example", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://registry.example", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://registry.example", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://registry.example", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "registry.example"}, None),
        ("https://sub.registry.example", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".registry.example"}, None),
        ("https://registry.example", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("https://registry.example", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other.example"}, "http://p:1"),
        ("http://127.0.0.1:5000", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://localhost", {"ALL_PROXY": "http://p:1"}, None),
        ("http://[::1]:5000", {"HTTP_PROXY": "http://p:1"}, None),
    ],
)
def test_which_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], expected: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(httpx.URL(url)) == expected


def test_a_proxy_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:secret@proxy.example:1080")
    with pytest.raises(NetworkError, match=r"the proxy socks5://proxy\.example is not supported") as caught:
        pull("registry.example/a:1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("secure", [False, True])
def test_connections_are_used_again(authority: Authority, secure: bool) -> None:
    image = random_image(1000, 200_000, 3000, 400_000)
    with serve_faulty(tls=authority.server("127.0.0.1") if secure else None) as server:
        if secure:
            authority.trust(server.host)
        name = server.put(image, "a:1")
        assert pull(name, quick(certificates=(authority.folder,))) == [layer.blob for layer in image.layers]
        assert len(server.requests) == 5
        assert server.connections == 1

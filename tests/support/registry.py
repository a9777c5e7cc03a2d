"""Debian's docker-registry on a free port of loopback, and images put into it by skopeo or byte for byte."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.support.images import BuiltImage, digest_of
from tests.support.run import Argument, run, tool

START_SECONDS = 30


@dataclass(frozen=True)
class Tls:
    """A server certificate with its key, and the authority that signed it, as PEM files."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True)
class TokenAuth:
    """Bearer tokens of a token server (distribution, "Token Authentication").

    Attributes:
        realm: URL of the token server.
        service: audience of the tokens.
        issuer: who signs them.
        certificates: PEM file with the certificates of the signing keys.
    """

    realm: str
    service: str
    issuer: str
    certificates: Path


@dataclass
class Registry:
    """A registry that runs.

    Attributes:
        host: `127.0.0.1:PORT`, or `localhost:PORT` with TLS.
        storage: where it keeps its files.
        log: its output so far, requests included.
        user: name and password when it asks for them.
        tls: its certificate when it speaks HTTPS.
    """

    host: str
    storage: Path
    log: Path
    user: tuple[str, str] | None = None
    tls: Tls | None = None

    @property
    def url(self) -> str:
        """`http://` or `https://` and the host."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def client(self) -> httpx.Client:
        """A plain HTTP client with the registry's credentials and authority."""
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(self.tls.authority)) if self.tls else True
        return httpx.Client(base_url=self.url, auth=self.user, verify=verify, trust_env=False, timeout=60)

    def push(self, source: str, name: str, *options: Argument) -> str:
        """Copies an image into the registry with skopeo, as `NAME:TAG`; returns the full reference."""
        verify = [f"--dest-cert-dir={self._certificates()}"] if self.tls else ["--dest-tls-verify=false"]
        login = [f"--dest-creds={self.user[0]}:{self.user[1]}"] if self.user else []
        run(
            "skopeo",
            "--insecure-policy",
            "copy",
            "-q",
            *verify,
            *login,
            *options,
            source,
            f"docker://{self.host}/{name}",
        )
        return f"{self.host}/{name}"

    def put(self, image: BuiltImage, name: str) -> str:
        """Puts a hand-built image into the registry byte for byte, as `NAME:TAG`; returns the full reference.

        Blobs whose digest is not that of their bytes are put into the registry's storage, where a damaged disk would
        leave them; nothing that the registry checks at the door can be wrong in another way.
        """
        repository, _, tag = name.rpartition(":")
        with self.client() as client:
            for document in image.documents().values():
                for digest, data in document.blobs.items():
                    self._put_blob(client, repository, digest, data)
                at = tag if document is image else document.digest
                answer = client.put(
                    f"/v2/{repository}/manifests/{at}",
                    content=document.raw,
                    headers={"Content-Type": document.media_type},
                )
                assert answer.status_code == 201, f"{answer.status_code} {answer.text}"
        return f"{self.host}/{name}"

    def blob(self, digest: str) -> Path:
        """The file that holds a blob; change or remove it to damage the registry."""
        algorithm, _, hexadecimal = digest.partition(":")
        return self.storage / "docker/registry/v2/blobs" / algorithm / hexadecimal[:2] / hexadecimal / "data"

    def requests(self) -> list[str]:
        """`METHOD PATH STATUS` of every request since the start, in order."""
        return [f"{method} {path} {status}" for method, path, status in _requests(self.log)]

    def _put_blob(self, client: httpx.Client, repository: str, digest: str, data: bytes) -> None:
        if digest_of(data) != digest:
            link = self.storage / "docker/registry/v2/repositories" / repository / "_layers" / digest.replace(":", "/")
            for file, content in [(link / "link", digest.encode()), (self.blob(digest), data)]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            return
        upload = client.post(f"/v2/{repository}/blobs/uploads/")
        assert upload.status_code == 202, f"{upload.status_code} {upload.text}"
        answer = client.put(
            httpx.URL(upload.headers["Location"]).copy_merge_params({"digest": digest}),
            content=data,
            headers={"Content-Type": "application/octet-stream"},
        )
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}"

    def _certificates(self) -> Path:
        assert self.tls is not None
        folder = self.storage.parent / "certificates"
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_bytes(self.tls.authority.read_bytes())
        return folder


def password_file(path: Path, users: dict[str, str]) -> Path:
    """Writes the htpasswd file of the users, bcrypt as the registry wants it, and returns it."""
    path.write_bytes(
        b"".join(run("htpasswd", "-Bbn", name, password).strip() + b"\n" for name, password in users.items())
    )
    return path


def free_port() -> int:
    """A port of loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serve_registry(
    folder: Path,
    *,
    user: tuple[str, str] | None = None,
    tls: Tls | None = None,
    token: TokenAuth | None = None,
    settings: dict[str, Any] | None = None,
) -> Iterator[Registry]:
    """Runs a registry until the block ends.

    Args:
        folder: an empty folder for its storage, configuration and log.
        user: the one name and password that it takes, by Basic authentication.
        tls: speaks HTTPS with this certificate.
        token: asks for Bearer tokens of this server.
        settings: merged over the top-level sections of its configuration file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    storage, log = folder / "storage", folder / "registry.log"
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
    }
    if user:
        passwords = password_file(folder / "htpasswd", dict([user]))
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(passwords)}}
    if token:
        config["auth"] = {
            "token": {
                "realm": token.realm,
                "service": token.service,
                "issuer": token.issuer,
                "rootcertbundle": str(token.certificates),
            }
        }
    for attempt in range(3):
        port = free_port()
        config["http"] = {"addr": f"127.0.0.1:{port}", "secret": "tests", "debug": {"addr": ""}}
        if tls:
            config["http"]["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
        file = folder / "config.yml"
        # JSON is YAML, and needs no library.
        file.write_bytes(msgspec.json.encode({**config, **(settings or {})}))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [tool("docker-registry"), "serve", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.defpath, "OTEL_TRACES_EXPORTER": "none"},
            )
        registry = Registry(f"{'localhost' if tls else '127.0.0.1'}:{port}", storage, log, user, tls)
        try:
            if _wait_until_it_answers(registry, process):
                yield registry
                return
        finally:
            process.terminate()
            process.wait(timeout=30)
        assert attempt < 2, f"docker-registry does not start: {log.read_text()[-2000:]}"


def _wait_until_it_answers(registry: Registry, process: subprocess.Popen[bytes]) -> bool:
    """False when the process ended: another process took the port first."""
    deadline = time.monotonic() + START_SECONDS
    with registry.client() as client:
        while process.poll() is None:
            with suppress(httpx.TransportError):
                client.get("/v2/")
                return True
            assert time.monotonic() < deadline, f"docker-registry is silent: {registry.log.read_text()[-2000:]}"
            time.sleep(0.02)
    return False


def _requests(log: Path) -> Iterator[tuple[str, str, int]]:
    """The requests in Apache's combined log format, which the registry writes among its own lines."""
    for line in log.read_text(errors="replace").splitlines():
        found = re.match(r'\S+ - \S* \[[^]]*\] "(\S+) (\S+) HTTP/[\d.]+" (\d+)', line)
        if found:
            yield found[1], found[2], int(found[3])

"""What tests of the registry client share: quick options, images of random bytes, sources that are closed."""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from ocifast.reference import Reference
from ocifast.sources.registry import RegistryOptions, RegistrySource, addresses
from ocifast.sources.verify import verified
from ocifast.spec import Descriptor, decode_manifest

from tests.support.images import BuiltImage, Layer, build_image
from tests.support.registry import Tls

QUICK = RegistryOptions(backoff=0.01, retries=3, connect_timeout=5, read_timeout=5)
"""Options under which a fault costs no time."""


def quick(**changes: Any) -> RegistryOptions:
    """`QUICK` with other values."""
    return replace(QUICK, **changes)


def random_image(*sizes: int, seed: int = 1) -> BuiltImage:
    """An image with layers of so many random bytes, which are no archives."""
    random_bytes = random.Random(seed).randbytes
    return build_image([Layer(b"", blob=random_bytes(size)) for size in sizes or (100_000,)])


@contextmanager
def opened(reference: str, options: RegistryOptions = QUICK) -> Iterator[RegistrySource]:
    """A source for the block's time."""
    with closing(RegistrySource(Reference.parse(reference), options)) as source:
        yield source


def layers_of(source: RegistrySource) -> tuple[Descriptor, ...]:
    """The layers of the image that the source names."""
    return decode_manifest(source.root(), name=source.name).layers


def fetch(source: RegistrySource, descriptor: Descriptor) -> bytes:
    """A blob's bytes, verified."""
    with source.blob(descriptor) as blob:
        return b"".join(verified(descriptor, blob, name=source.name))


def pull(reference: str, options: RegistryOptions = QUICK) -> list[bytes]:
    """The layers' bytes, one after the other, verified."""
    with opened(reference, options) as source:
        return [fetch(source, layer) for layer in layers_of(source)]


def pretend(
    monkeypatch: pytest.MonkeyPatch, names: dict[str, tuple[str, str]], *, ports: dict[int, int] | None = None
) -> list[str]:
    """Makes names resolve to addresses of the Internet while connections go to loopback.

    Args:
        monkeypatch: of the test.
        names: for each name the address that it resolves to, and the address of loopback that is connected to for it.
        ports: for ports the ones that are connected to for them.

    Returns:
        A list that gets the addresses that were connected to.
    """
    connected: list[str] = []
    resolve, connect = addresses.resolve, addresses.connect
    behind = dict(names.values())

    def pretended_resolve(host: str, port: int) -> list[tuple[int, str]]:
        return [(2, names[host][0])] if host in names else resolve(host, port)

    def pretended_connect(address: str, port: int, timeout: float | None) -> Any:
        connected.append(address)
        return connect(behind.get(address, address), (ports or {}).get(port, port), timeout)

    monkeypatch.setattr(addresses, "resolve", pretended_resolve)
    monkeypatch.setattr(addresses, "connect", pretended_connect)
    return connected


def write_helper(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper `docker-credential-NAME` in a folder that is put into PATH."""
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return program


class Authority:
    """A certificate authority of the test's own.

    Attributes:
        folder: like `/etc/docker/certs.d`; `trust` fills it.
        file: its certificate, as PEM.
    """

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.folder = folder / "certs.d"
        self.folder.mkdir(parents=True)
        self.file = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def server(self, *names: str, clients: bool = False) -> ssl.SSLContext:
        """The context of a server with a certificate for the names; with `clients` it wants theirs, too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def files(self, *names: str) -> Tls:
        """A server's certificate and key as files."""
        issued = self._ca.issue_cert(*names)
        certificate, key = self.file.with_name("server.pem"), self.file.with_name("server.key")
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return Tls(certificate, key, self.file)

    def trust(self, host: str, *, client: bool = False) -> Path:
        """Writes the folder for `HOST:PORT`: the authority, and with `client` a certificate for us."""
        folder = self.folder / host
        folder.mkdir()
        self._ca.cert_pem.write_to_path(str(folder / "ca.crt"))
        if client:
            issued = self._ca.issue_cert("client@example.com")
            issued.cert_chain_pems[0].write_to_path(str(folder / "client.cert"))
            issued.private_key_pem.write_to_path(str(folder / "client.key"))
        return folder

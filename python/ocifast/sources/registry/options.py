"""How registries are spoken to."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from ocifast.marks import keeps_bytes
from ocifast.records import dataclass

__all__ = ["Credential", "RegistryOptions", "host_name", "is_insecure", "is_loopback", "is_unchecked"]


@dataclass(frozen=True)
class Credential:
    """What one registry knows its user by. Its repr shows no secret.

    Attributes:
        username: empty when only an identity token is known.
        password: or an access token that is used like one.
        identity_token: an OAuth2 refresh token (Docker token spec, "Requesting a refresh token"); wins over the
            password where the registry speaks Bearer.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RegistryOptions:
    """Options of all requests to registries. Plain data: it can be pickled and compared.

    Attributes:
        insecure: hosts (`HOST` or `HOST:PORT`, as in references) whose certificates are not checked, and that are
            spoken to in plain HTTP where they do not speak TLS. Registries on loopback are spoken to in plain HTTP
            without being named here, unless a folder of certificates is there for them or they speak TLS.
        credentials: by host as in references; they win over all files and helpers, and go to that host alone.
        anonymous: use no credentials at all.
        trusted_realms: hosts of token servers that may get a registry's password although they are on another host
            and no known pair.
        auth_file: a file in the format of Docker's `config.json`, instead of the places that are searched.
        mirrors: by host or by host and the beginning of a repository's path: what replaces it, tried in order before
            the registry itself.
        registries_file: a file in the format of containers-registries.conf(5), for mirrors and plain-HTTP hosts,
            instead of the places that are searched.
        certificates: folders like `/etc/docker/certs.d`, looked at before the system's.
        authorities: by host, files of certificates that are trusted besides the system's.
        client_certificates: by host, files of our own certificates and their keys.
        headers: by host, what each request to it gets besides.
        connect_timeout: seconds for name, connection and TLS.
        read_timeout: seconds without any byte of an answer, and to the end of its head; for a small document (a
            manifest, a token, an error) also the window in which `min_rate` is looked at.
        upload_timeout: seconds to the answer of the request that ends an upload (`PUT`), in its place.
        min_rate: bytes per second that a body must bring at least.
        rate_window: seconds over which that is looked at.
        retries: attempts after the first one, for one request or, in a download, since the last byte that came.
        backoff: seconds before the second attempt; doubled each time, at most 30, with jitter.
        max_wait: longest wait in seconds that a server may ask for with Retry-After.
        parallel: requests at a time that carry blobs, per host.
        shares_limits: whether `parallel`, and what a server says of waiting, hold for all processes of this user on
            this machine that say so.
        range_threshold: blobs of at least this many bytes are fetched in parallel ranges where requests are to spare
            and one connection is slow; None never does.
        range_speed: bytes per second of one connection that need no help.
        helper_timeout: seconds for a credential helper's answer.
        daemon_timeout: seconds to the first byte of an image that a daemon or `podman save` stages before; after it
            `read_timeout` counts for a daemon.
    """

    insecure: frozenset[str] = keeps_bytes(default=frozenset())
    credentials: Mapping[str, Credential] = keeps_bytes(default_factory=dict, hash=False)
    anonymous: bool = keeps_bytes(default=False)
    trusted_realms: frozenset[str] = keeps_bytes(default=frozenset())
    auth_file: Path | None = keeps_bytes(default=None)
    mirrors: Mapping[str, tuple[str, ...]] = keeps_bytes(default_factory=dict, hash=False)
    registries_file: Path | None = keeps_bytes(default=None)
    certificates: tuple[Path, ...] = keeps_bytes(default=())
    authorities: Mapping[str, tuple[Path, ...]] = keeps_bytes(default_factory=dict, hash=False)
    client_certificates: Mapping[str, tuple[tuple[Path, Path], ...]] = keeps_bytes(default_factory=dict, hash=False)
    headers: Mapping[str, Mapping[str, str]] = keeps_bytes(default_factory=dict, hash=False, repr=False)
    connect_timeout: float = keeps_bytes(default=15.0)
    read_timeout: float = keeps_bytes(default=60.0)
    upload_timeout: float = keeps_bytes(default=900.0)
    min_rate: float = keeps_bytes(default=1024.0)
    rate_window: float = keeps_bytes(default=300.0)
    retries: int = keeps_bytes(default=5)
    backoff: float = keeps_bytes(default=0.5)
    max_wait: float = keeps_bytes(default=120.0)
    parallel: int = keeps_bytes(default=4)
    shares_limits: bool = keeps_bytes(default=False)
    range_threshold: int | None = keeps_bytes(default=64 << 20)
    range_speed: float = keeps_bytes(default=100e6)
    helper_timeout: float = keeps_bytes(default=60.0)
    daemon_timeout: float = keeps_bytes(default=900.0)


def host_name(host: str) -> str:
    """The name or address of `HOST[:PORT]` in lower case, without port and brackets."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return name.strip("[]").lower()


def is_insecure(host: str, options: RegistryOptions) -> bool:
    """Whether `HOST[:PORT]` is one that plain HTTP may be spoken to by name."""
    return host.lower() in options.insecure or host_name(host) in options.insecure


def is_unchecked(host: str, options: RegistryOptions) -> bool:
    """Whether the certificate of `HOST[:PORT]` is not checked: a token server may stand on another port."""
    return host_name(host) in {host_name(named) for named in options.insecure}


def is_loopback(host: str) -> bool:
    """Whether `HOST[:PORT]` is this machine by its name alone: `localhost` or a loopback address."""
    name = host_name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

"""`hosts.toml` of containerd: for each registry the hosts that have its images, and how they are spoken to.

containerd, docs/hosts.md. Looked for in `certs.d/HOST[:PORT]` or `certs.d/HOST_PORT_`, then `certs.d/_default`, of the
folders that containerd and nerdctl have. What counts: `server`, and of each `[host."URL"]` `capabilities`, `ca`,
`client`, `skip_verify`, `header` and `override_path`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ocifast.home import config_folder
from ocifast.logs import logger
from ocifast.records import dataclass
from ocifast.sources.registry.toml_file import read_toml

__all__ = ["Host", "HostsFile", "hosts_for"]

_log = logger(__name__)
_SYSTEM = Path("/etc/containerd/certs.d")
_CAPABILITIES = ("pull", "resolve", "push")


@dataclass(frozen=True)
class Host:
    """One host that has a registry's images.

    Attributes:
        host: `HOST[:PORT]`.
        prefix: what stands before a repository's path there; "" or "PATH/".
        insecure: its certificate is not checked, or it speaks plain HTTP.
        capabilities: of "pull", "resolve" and "push".
        authorities: files of certificates to trust.
        client: files of our certificate and its key.
        headers: that each request gets.
    """

    host: str
    prefix: str = ""
    insecure: bool = False
    capabilities: frozenset[str] = frozenset(_CAPABILITIES)
    authorities: tuple[Path, ...] = ()
    client: tuple[tuple[Path, Path], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class HostsFile:
    """What is said of one registry: its hosts in order, and the one that is asked last."""

    hosts: tuple[Host, ...]
    server: Host | None


def hosts_for(host: str, folders: Iterable[Path] | None = None) -> HostsFile | None:
    """What is said of `HOST[:PORT]`; None when nothing is.

    Raises:
        FileError: the file is damaged.
    """
    name = host.lower()
    if "/" in name or name.startswith("."):
        return None
    spelled = [name, f"{name.replace(':', '_')}_"] if ":" in name else [name]
    for folder in _folders() if folders is None else folders:
        for each in (*spelled, "_default"):
            path = folder / each / "hosts.toml"
            if path.is_file():
                return read_toml(path, b"", partial(_read, folder=path.parent), what="name hosts")
    return None


def _folders() -> list[Path]:
    configuration = config_folder()
    return [*([] if configuration is None else [configuration / "containerd/certs.d"]), _SYSTEM]


def _read(tables: dict[str, Any], folder: Path) -> HostsFile:
    # The keys at the top level are the server's.
    server = _host(str(tables["server"]), tables, folder) if tables.get("server") else None
    found = [_host(url, table, folder) for url, table in tables.get("host", {}).items()]
    return HostsFile(tuple(host for host in found if host is not None), server)


def _host(url: str, table: dict[str, Any], folder: Path) -> Host | None:
    """A host; None, and a warning, for one that cannot be spoken to."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or "@" in parts.netloc:
        raise ValueError(f"{url!r} is no URL of a host")
    prefix = _prefix(parts.path.strip("/"), bool(table.get("override_path")))
    if prefix is None:
        _log.warning("%s: %s has its API below another path than /v2, and is passed over", folder / "hosts.toml", url)
        return None
    return Host(
        parts.netloc.lower(),
        prefix,
        parts.scheme == "http" or bool(table.get("skip_verify")),
        frozenset(table.get("capabilities") or _CAPABILITIES),
        tuple(folder / path for path in _strings(table.get("ca"))),
        tuple(_pairs(table.get("client"), folder)),
        tuple((name, text) for name, value in table.get("header", {}).items() for text in _strings(value)),
    )


def _prefix(path: str, overrides: bool) -> str | None:
    if path in ("", "v2"):
        return ""
    return path.removeprefix("v2/") + "/" if overrides and path.startswith("v2/") else None


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(each, str) for each in values):
        raise TypeError(f"{value!r} is no text and no list of texts")
    return values


def _pairs(value: Any, folder: Path) -> Iterable[tuple[Path, Path]]:
    """`client` is a file of both, a list of such files, or a list of pairs."""
    for each in value if isinstance(value, list) else [] if value is None else [value]:
        certificate, key = each if isinstance(each, list) else (each, each)
        yield folder / certificate, folder / (key or certificate)

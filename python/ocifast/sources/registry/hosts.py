"""Which hosts a reference is fetched from: mirrors, rewritten locations, plain-HTTP hosts.

Configured in the options, or in files in the format of containers-registries.conf(5), version 2, which podman, buildah
and skopeo share: `$CONTAINERS_REGISTRIES_CONF`, else the user's, else the system's, with their `.conf.d` folders. What
is read of each `[[registry]]` is `prefix`, `location`, `insecure`, `blocked`, `mirror-by-digest-only` and its mirrors
(`location`, `insecure`, `pull-from-mirror`). After their mirrors come those that containerd has (see `hosts_file`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ocifast.errors import FileError, RegistryError
from ocifast.home import config_folder
from ocifast.records import dataclass
from ocifast.reference import Reference
from ocifast.sources.registry.hosts_file import Host, HostsFile, hosts_for
from ocifast.sources.registry.options import RegistryOptions
from ocifast.sources.registry.toml_file import read_toml

__all__ = ["Endpoint", "pull_endpoints", "push_endpoint"]


@dataclass(frozen=True)
class Endpoint:
    """One place that a repository is asked for.

    Attributes:
        host: as in references; credentials are looked up by it.
        repository: the path there.
        registry: host and port of its API.
        options: with the host's own plainness.
    """

    host: str
    repository: str
    registry: str
    options: RegistryOptions


@dataclass(frozen=True)
class _Rule:
    """One `[[registry]]`."""

    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[_Mirror, ...]


@dataclass(frozen=True)
class _Mirror:
    location: str
    insecure: bool
    use: str
    """`all`, `digest-only` or `tag-only`."""


def pull_endpoints(reference: Reference, options: RegistryOptions) -> list[Endpoint]:
    """Where to look for an image, in order: its mirrors, then its registry.

    Raises:
        RegistryError: the configuration blocks it.
        FileError: a configuration file is damaged.
    """
    rule = _rule_for(reference, options)
    own = _locate(reference, rule, options)
    by = "digest-only" if reference.digest is not None else "tag-only"
    mirrors = [
        _rewritten(reference, rule.prefix, mirror.location, mirror.insecure, options)
        for mirror in (rule.mirrors if rule else ())
        if rule is not None and mirror.use in ("all", by)
    ]
    found = hosts_for(reference.host)
    if found is None:
        return [*mirrors, own]
    needed = {"pull"} if reference.digest is not None else {"pull", "resolve"}
    others = [
        _at(host, reference, options)
        for host in found.hosts
        if host.host not in (own.host, own.registry) and needed <= host.capabilities
    ]
    return [*mirrors, *others, _told_of(own, found)]


def push_endpoint(reference: Reference, options: RegistryOptions) -> Endpoint:
    """Where to push an image to: never a mirror. Raises as `pull_endpoints`."""
    own = _locate(reference, _rule_for(reference, options), options)
    found = hosts_for(reference.host)
    return own if found is None else _told_of(own, found)


def _at(host: Host, reference: Reference, options: RegistryOptions) -> Endpoint:
    """A repository at another host."""
    return Endpoint(host.host, host.prefix + reference.repository, host.host, _as_told(host, options))


def _told_of(own: Endpoint, found: HostsFile) -> Endpoint:
    """The registry itself with what is said of it, or of the server that stands for it."""
    names = (own.host, own.registry)
    host = next((each for each in found.hosts if each.host in names), None)
    if host is None and found.server is not None:
        host = found.server
        if host.host not in names:
            return Endpoint(own.host, host.prefix + own.repository, host.host, _as_told(host, own.options))
    return own if host is None else replace(own, options=_as_told(host, own.options, own.registry))


def _as_told(host: Host, options: RegistryOptions, name: str = "") -> RegistryOptions:
    api = name or host.host
    return replace(
        options,
        insecure=options.insecure | ({api} if host.insecure else set()),
        authorities={**options.authorities, api: host.authorities},
        client_certificates={**options.client_certificates, api: host.client},
        headers={**options.headers, api: dict(host.headers)},
    )


def _locate(reference: Reference, rule: _Rule | None, options: RegistryOptions) -> Endpoint:
    if rule is None:
        return Endpoint(reference.host, reference.repository, reference.registry, options)
    if rule.blocked:
        raise RegistryError(f"{reference}: the registry is blocked by the configuration of this machine")
    return _rewritten(reference, rule.prefix, rule.location, rule.insecure, options)


def _rewritten(reference: Reference, prefix: str, location: str, insecure: bool, options: RegistryOptions) -> Endpoint:
    # A wildcard prefix (`*.example.com`) replaces the host alone.
    if prefix.startswith("*."):
        full = f"{location}/{reference.repository}" if location else reference.name
    else:
        full = location + reference.name[len(prefix) :]
    host, slash, repository = full.partition("/")
    if not slash or not host or not (repository or not reference.repository):
        raise RegistryError(f"{reference}: the configuration of this machine leads to {full!r}, which is no repository")
    if insecure:
        options = replace(options, insecure=options.insecure | {host})
    moved = Reference(host, repository)
    return Endpoint(host, repository, moved.registry, options)


def _rule_for(reference: Reference, options: RegistryOptions) -> _Rule | None:
    """The rule with the longest prefix that the reference has."""
    rules = [rule for rule in _rules(options) if _matches(reference, rule.prefix)]
    return max(rules, key=lambda rule: len(rule.prefix), default=None)


def _matches(reference: Reference, prefix: str) -> bool:
    if prefix.startswith("*."):
        return reference.host.partition(":")[0].endswith(prefix[1:])
    name = reference.name
    return name == prefix or name.startswith(prefix + "/")


def _rules(options: RegistryOptions) -> list[_Rule]:
    found: dict[str, _Rule] = {}
    for path in _files(options):
        found.update((rule.prefix, rule) for rule in _read(path))
    for host, mirrors in options.mirrors.items():
        made = tuple(_Mirror(mirror, False, "all") for mirror in mirrors)
        found[host] = _Rule(host, host, False, False, made)
    return list(found.values())


def _files(options: RegistryOptions) -> list[Path]:
    """Later ones win."""
    stated = options.registries_file or os.environ.get("CONTAINERS_REGISTRIES_CONF")
    if stated:
        if not Path(stated).is_file():
            raise FileError(f"{stated} is not there; it should configure registries")
        return [Path(stated)]
    system, configuration = Path("/etc/containers"), config_folder()
    folders = [system] if configuration is None else [system, configuration / "containers"]
    main = next((folder for folder in reversed(folders) if (folder / "registries.conf").is_file()), system)
    drop_ins = [path for folder in folders for path in sorted(folder.glob("registries.conf.d/*.conf"))]
    return [path for path in (main / "registries.conf", *drop_ins) if path.is_file()]


def _read(path: Path) -> list[_Rule]:
    def rules(tables: dict[str, Any]) -> list[_Rule]:
        return [_parse(table) for table in tables.get("registry", [])]

    return read_toml(path, b"[[registry", rules, what="configure registries")


def _parse(table: dict[str, Any]) -> _Rule:
    location = str(table.get("location") or "")
    prefix = str(table.get("prefix") or location)
    if not prefix:
        raise ValueError("a [[registry]] has neither prefix nor location")
    by_digest = "digest-only" if table.get("mirror-by-digest-only") else "all"
    mirrors = tuple(
        _Mirror(str(mirror["location"]), bool(mirror.get("insecure")), str(mirror.get("pull-from-mirror") or by_digest))
        for mirror in table.get("mirror", [])
    )
    fallback = "" if prefix.startswith("*.") else prefix
    return _Rule(prefix, location or fallback, bool(table.get("insecure")), bool(table.get("blocked")), mirrors)

"""Which hosts a reference is fetched from: mirrors, rewritten locations, plain-HTTP hosts.

Configured in the options, or in files in the format of containers-registries.conf(5), version 2, which podman, buildah
and skopeo share: `$CONTAINERS_REGISTRIES_CONF`, else the user's, else the system's, with their `.conf.d` folders. What
is read of each `[[registry]]` is `prefix`, `location`, `insecure`, `blocked`, `mirror-by-digest-only` and its mirrors
(`location`, `insecure`, `pull-from-mirror`). `insecure` means plain HTTP here.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ocifast.errors import FileError, RegistryError
from ocifast.home import config_folder
from ocifast.reference import Reference
from ocifast.sources.registry.options import RegistryOptions

__all__ = ["Endpoint", "pull_endpoints", "push_endpoint"]

_LIMIT = 1 << 20


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
    return [*mirrors, own]


def push_endpoint(reference: Reference, options: RegistryOptions) -> Endpoint:
    """Where to push an image to: never a mirror. Raises as `pull_endpoints`."""
    return _locate(reference, _rule_for(reference, options), options)


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
    if not slash or not host or not repository:
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
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT)
        # Most such files hold other things only, and a TOML parser takes its time.
        if b"[[registry" not in raw:
            return []
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        tables = tomllib.loads(raw.decode("utf-8")).get("registry", [])
        return [_parse(table) for table in tables]
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise FileError(f"{path} does not configure registries: {error}", path=str(path)) from None


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

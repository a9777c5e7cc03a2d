"""What this machine says once and for all of a registry: `ocifast/registries.toml`, the user's and the system's.

[registry."registry.example:5000"]
insecure = true                             # as --insecure
trusted_realms = ["tokens.example"]         # as --trust-realm
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ocifast.home import config_folder
from ocifast.records import dataclass
from ocifast.sources.registry.options import RegistryOptions
from ocifast.sources.registry.toml_file import read_toml

__all__ = ["with_settings"]

_KEYS = frozenset({"insecure", "trusted_realms"})


@dataclass(frozen=True)
class _Setting:
    insecure: bool
    trusted_realms: frozenset[str]


def with_settings(host: str, options: RegistryOptions) -> RegistryOptions:
    """The options with what is set for `HOST[:PORT]`; what a caller says stays.

    Raises:
        FileError: a file is damaged, or has a key that means nothing.
    """
    found = [setting for path in _files() if (setting := _read(path).get(host.lower())) is not None]
    if not found:
        return options
    return replace(
        options,
        insecure=options.insecure | {host for setting in found if setting.insecure},
        trusted_realms=options.trusted_realms.union(*(setting.trusted_realms for setting in found)),
    )


def _files() -> list[Path]:
    folders = [Path("/etc"), config_folder()]
    paths = [folder / "ocifast/registries.toml" for folder in folders if folder is not None]
    return [path for path in paths if path.is_file()]


def _read(path: Path) -> dict[str, _Setting]:
    return read_toml(path, b"registry", _settings, what="say how registries are spoken to")


def _settings(tables: dict[str, Any]) -> dict[str, _Setting]:
    return {host.lower(): _setting(host, table) for host, table in tables.get("registry", {}).items()}


def _setting(host: str, table: dict[str, Any]) -> _Setting:
    if unknown := sorted(set(table) - _KEYS):
        raise ValueError(
            f'[registry."{host}"] has {unknown[0]!r}, which means nothing; it may have insecure, trusted_realms'
        )
    insecure, realms = table.get("insecure", False), table.get("trusted_realms", [])
    if not isinstance(insecure, bool):
        raise TypeError(f'insecure of [registry."{host}"] is neither true nor false')
    if not isinstance(realms, list) or not all(isinstance(realm, str) for realm in realms):
        raise TypeError(f'trusted_realms of [registry."{host}"] is no list of hosts')
    return _Setting(insecure, frozenset(realms))

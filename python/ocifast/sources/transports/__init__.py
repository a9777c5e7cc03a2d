"""The table of transports: the only list of prefixes. A new one is a file with a `TRANSPORT` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from ocifast.sources.transports.transport import Access, Transport

__all__ = ["TRANSPORTS", "Access", "Transport"]

_MODULES = (
    "docker",
    "oci",
    "oci_archive",
    "docker_archive",
    "docker_daemon",
    "containers_storage",
    "tar",
    "dir",
)


def _transport(module: str) -> Transport:
    found: Transport = import_module(f"{__name__}.{module}").TRANSPORT
    return found


TRANSPORTS: Mapping[str, Transport] = {found.prefix: found for found in map(_transport, _MODULES)}
"""By prefix, in the order in which help texts list them."""

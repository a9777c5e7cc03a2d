"""The table of transports: the only list of prefixes. A new one is a file with a `TRANSPORT` and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from ocifast.sources.transports import (
    containers_storage,
    dir,  # noqa: A004 - the prefix
    docker,
    docker_archive,
    docker_daemon,
    oci,
    oci_archive,
    tar,
)
from ocifast.sources.transports.transport import Access, Transport

__all__ = ["TRANSPORTS", "Access", "Transport"]

_MODULES = (
    docker,
    oci,
    oci_archive,
    docker_archive,
    docker_daemon,
    containers_storage,
    tar,
    dir,
)

TRANSPORTS: Mapping[str, Transport] = {module.TRANSPORT.prefix: module.TRANSPORT for module in _MODULES}
"""By prefix, in the order in which help texts list them."""

"""Images in registries that speak the OCI distribution-spec.

Each name is imported when it is first used: options are chosen by whoever may speak to a registry, its client is loaded
by who does.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ocifast.sources.registry.destination import RegistryDestination
    from ocifast.sources.registry.options import Credential, RegistryOptions
    from ocifast.sources.registry.repository import check_login, delete_manifest, list_tags
    from ocifast.sources.registry.source import RegistrySource

__all__ = [
    "Credential",
    "RegistryDestination",
    "RegistryOptions",
    "RegistrySource",
    "check_login",
    "delete_manifest",
    "list_tags",
]

_HOMES = {
    "Credential": "options",
    "RegistryDestination": "destination",
    "RegistryOptions": "options",
    "RegistrySource": "source",
    "check_login": "repository",
    "delete_manifest": "repository",
    "list_tags": "repository",
}


_importing = threading.Lock()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] != "options":
        _import_httpx()
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def _import_httpx() -> None:
    """Imports httpx without its command line, and with it rich and pygments where they are installed.

    They are a third of the time that a small request takes. It does without when that module is missing. One thread at
    a time: what it is told is for all of them.
    """
    with _importing:
        if "httpx" not in sys.modules:
            sys.modules["httpx._main"] = None  # type: ignore[assignment]
            try:
                import_module("httpx")
            finally:
                del sys.modules["httpx._main"]

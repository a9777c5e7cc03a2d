"""Images in registries that speak the OCI distribution-spec."""

import sys

# httpx imports its command line and with it rich and pygments where they are installed: a third of the time that a
# small request takes. It does without when that module is missing.
if "httpx" not in sys.modules:
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    import httpx  # noqa: F401

    del sys.modules["httpx._main"]

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

"""Images in registries that speak the OCI distribution-spec."""

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

"""Images in registries that speak the OCI distribution-spec."""

from ocifast.sources.registry.options import Credential, RegistryOptions
from ocifast.sources.registry.source import RegistrySource

__all__ = ["Credential", "RegistryOptions", "RegistrySource"]

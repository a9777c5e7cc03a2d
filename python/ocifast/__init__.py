"""Container images from a registry to a root filesystem in one pass, and executables to images.

The names in `__all__` are the public ones. Each is imported when it is first used, so that `import ocifast` costs
nothing, whatever the parts behind it need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocifast.cache import Cache, CacheInfo
    from ocifast.errors import OcifastError
    from ocifast.image import Image, Index, open  # noqa: A004 - as `gzip.open`
    from ocifast.progress import Event, LayerState, Phase
    from ocifast.reference import Reference
    from ocifast.spec import Descriptor, ImageConfig, Platform

__all__ = [
    "Cache",
    "CacheInfo",
    "Descriptor",
    "Event",
    "Image",
    "ImageConfig",
    "Index",
    "LayerState",
    "OcifastError",
    "Phase",
    "Platform",
    "Reference",
    "__version__",
    "errors",
    "open",
]

_HOMES = {
    "Cache": "cache",
    "CacheInfo": "cache",
    "Descriptor": "spec",
    "Event": "progress",
    "Image": "image",
    "ImageConfig": "spec",
    "Index": "image",
    "LayerState": "progress",
    "OcifastError": "errors",
    "Phase": "progress",
    "Platform": "spec",
    "Reference": "reference",
    "__version__": "_core",
    "open": "image",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("ocifast.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'ocifast' has no attribute {name!r}")
    found = getattr(import_module(f"ocifast.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

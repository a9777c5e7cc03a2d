"""Container images from a registry to a root filesystem in one pass, and executables to images.

The names in `__all__` are the public ones. Each is imported when it is first used, so that `import ocifast` costs
nothing, whatever the parts behind it need.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all else here
if TYPE_CHECKING:
    from typing import Any

    from ocifast import aio
    from ocifast.batch import BatchResult, BatchStand, compile_many
    from ocifast.boot import BootConfig
    from ocifast.cache import Cache, CacheInfo
    from ocifast.compiled import CompiledImage
    from ocifast.compiler import CompileOptions, CompilePlan
    from ocifast.compiler import compile_image as compile
    from ocifast.copying import CopyResult
    from ocifast.difference import Change, Difference, LayerChange, compare_layers, diff
    from ocifast.edits import Addition, Edits
    from ocifast.errors import OcifastError
    from ocifast.exporting import ExportedLayer, export_layers
    from ocifast.flatten import FlattenOptions
    from ocifast.footprint import Usage, usage
    from ocifast.history import History, HistoryEntry
    from ocifast.image import Image, Index, open_index
    from ocifast.image import open_image as open
    from ocifast.layer_difference import EntryChange, LayerDifference, LayersDifference, diff_layers
    from ocifast.layer_entries import LayerEntry
    from ocifast.mirroring import MirrorEntry, MirrorResult, copy_many
    from ocifast.packers import (
        CpioOptions,
        DirOptions,
        ErofsOptions,
        Ext4Options,
        Loss,
        PackOptions,
        SquashfsOptions,
        TarOptions,
        Written,
    )
    from ocifast.peek import Peek
    from ocifast.progress import Event, LayerState, Phase
    from ocifast.reference import Reference
    from ocifast.reporting import report
    from ocifast.rootfs import Rootfs, RootfsEntry
    from ocifast.runnable import BuiltRunnable, Runnable
    from ocifast.signatures import Verification
    from ocifast.sources.registry.options import Credential, RegistryOptions
    from ocifast.spec import Descriptor, HistoryRecord, ImageConfig, Platform
    from ocifast.transfers import copy, delete, pull, push, tags

__all__ = [
    "Addition",
    "BatchResult",
    "BatchStand",
    "BootConfig",
    "BuiltRunnable",
    "Cache",
    "CacheInfo",
    "Change",
    "CompileOptions",
    "CompilePlan",
    "CompiledImage",
    "CopyResult",
    "CpioOptions",
    "Credential",
    "Descriptor",
    "Difference",
    "DirOptions",
    "Edits",
    "EntryChange",
    "ErofsOptions",
    "Event",
    "ExportedLayer",
    "Ext4Options",
    "FlattenOptions",
    "History",
    "HistoryEntry",
    "HistoryRecord",
    "Image",
    "ImageConfig",
    "Index",
    "LayerChange",
    "LayerDifference",
    "LayerEntry",
    "LayerState",
    "LayersDifference",
    "Loss",
    "MirrorEntry",
    "MirrorResult",
    "OcifastError",
    "PackOptions",
    "Peek",
    "Phase",
    "Platform",
    "Reference",
    "RegistryOptions",
    "Rootfs",
    "RootfsEntry",
    "Runnable",
    "SquashfsOptions",
    "TarOptions",
    "Usage",
    "Verification",
    "Written",
    "__version__",
    "aio",
    "compare_layers",
    "compile",
    "compile_many",
    "copy",
    "copy_many",
    "delete",
    "diff",
    "diff_layers",
    "errors",
    "export_layers",
    "open",
    "open_index",
    "pull",
    "push",
    "report",
    "tags",
    "usage",
]

_HOMES = {
    "Addition": "edits",
    "BatchResult": "batch",
    "BatchStand": "batch",
    "BootConfig": "boot",
    "BuiltRunnable": "runnable",
    "Cache": "cache",
    "CacheInfo": "cache",
    "CompileOptions": "compiler",
    "CompilePlan": "compiler",
    "CompiledImage": "compiled",
    "CopyResult": "copying",
    "CpioOptions": "packers",
    "Credential": "sources.registry.options",
    "Change": "difference",
    "Descriptor": "spec",
    "Difference": "difference",
    "DirOptions": "packers",
    "Edits": "edits",
    "EntryChange": "layer_difference",
    "ErofsOptions": "packers",
    "Event": "progress",
    "ExportedLayer": "exporting",
    "Ext4Options": "packers",
    "FlattenOptions": "flatten",
    "History": "history",
    "HistoryEntry": "history",
    "HistoryRecord": "spec",
    "Image": "image",
    "ImageConfig": "spec",
    "Index": "image",
    "LayerChange": "difference",
    "LayerDifference": "layer_difference",
    "LayerEntry": "layer_entries",
    "LayerState": "progress",
    "LayersDifference": "layer_difference",
    "Loss": "packers",
    "MirrorEntry": "mirroring",
    "MirrorResult": "mirroring",
    "OcifastError": "errors",
    "PackOptions": "packers",
    "Peek": "peek",
    "Phase": "progress",
    "Platform": "spec",
    "Reference": "reference",
    "RegistryOptions": "sources.registry.options",
    "Rootfs": "rootfs",
    "RootfsEntry": "rootfs",
    "Runnable": "runnable",
    "SquashfsOptions": "packers",
    "TarOptions": "packers",
    "Usage": "footprint",
    "Verification": "signatures",
    "Written": "packers",
    "__version__": "_core",
    "compare_layers": "difference",
    "compile": "compiler",
    "compile_many": "batch",
    "copy": "transfers",
    "copy_many": "mirroring",
    "delete": "transfers",
    "diff": "difference",
    "diff_layers": "layer_difference",
    "export_layers": "exporting",
    "open": "image",
    "open_index": "image",
    "pull": "transfers",
    "push": "transfers",
    "report": "reporting",
    "tags": "transfers",
    "usage": "footprint",
}
_NAMES_THERE = {"compile": "compile_image", "open": "open_image"}
"""What is called otherwise in its module, where the name would hide a built-in function."""


def __getattr__(name: str) -> Any:
    if name in ("aio", "errors"):
        return import_module(f"ocifast.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ocifast' has no attribute {name!r}")
    found = getattr(import_module(f"ocifast.{_HOMES[name]}"), _NAMES_THERE.get(name, name))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Hand-built layers through the Rust core, without an image around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ocifast import _core
from ocifast.errors import CancelledError

from tests.support.images import Layer
from tests.support.layers import TarBuilder

Layers = Sequence[Layer | TarBuilder | bytes]


def flatten(layers: Layers, folder: Path, *, store: str = "spool", **limits: Any) -> _core.Tree:
    """The finished tree of some layers, bottom layer first; `folder` is made and holds the contents."""
    folder.mkdir()
    built = [layer if isinstance(layer, Layer) else Layer(layer, "plain") for layer in layers]
    flattener = _core.Flattener(
        [(layer.digest, layer.size or 0, layer.diff_id) for layer in built],
        store=store,
        folder=folder,
        limits=_core.Limits(**limits) if limits else None,
    )
    try:
        for index, layer in enumerate(built):
            flattener.write(index, layer.blob)
            flattener.close_layer(index)
        return flattener.finish()
    except CancelledError:
        # Another layer has failed: that is the error to tell.
        return flattener.finish()
    finally:
        flattener.abort()


def dump(layers: Layers, folder: Path, **limits: Any) -> str:
    """The canonical text of some layers' tree."""
    return flatten(layers, folder, **limits).dump().decode()


def names(dump: str) -> list[str]:
    """The paths of a dump with their types: `/etc directory`."""
    return [" ".join(line.split(" ")[:2]) for line in dump.splitlines()]

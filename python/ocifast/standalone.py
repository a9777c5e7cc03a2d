"""The layers of an image as erofs images of each alone, which others than us stack: from the cache, or decoded now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace

from ocifast.cache.layers import DecodedLayer
from ocifast.decoded import KEPT_LAYERS_MAX, Layers
from ocifast.errors import FileError, OutputUnsupportedError
from ocifast.flatten import FlattenOptions, flatten
from ocifast.image import Image
from ocifast.intake import erofs_layers
from ocifast.progress import Progress, silent

__all__ = ["refuse_unfit", "standalone_layers"]


def refuse_unfit(image: Image) -> None:
    """Raises OutputUnsupportedError for an image with layers that are never kept decoded."""
    if erofs := erofs_layers(image.layers):
        raise OutputUnsupportedError(
            f"{image.name}: the layer {image.diff_ids[erofs[0]]} is an erofs image already; leave it as it is"
        )
    if len(image.layers) > KEPT_LAYERS_MAX:
        raise OutputUnsupportedError(f"{image.name} has {len(image.layers)} layers, more than {KEPT_LAYERS_MAX}")


def standalone_layers(
    image: Image,
    diff_ids: Iterable[str],
    store: Layers,
    stack: ExitStack,
    *,
    options: FlattenOptions,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, DecodedLayer]:
    """Layers of an image, each of which overlayfs shows as the image has it.

    Args:
        image: what `refuse_unfit` lets pass; after a failure it is closed.
        diff_ids: of those that are wanted.
        store: where they are, and where they go that have to be decoded.
        stack: holds the layers: nobody removes them until it is closed.
        options: how many layers at a time, and bounds on what they may ask for.
        progress: gets the events of layers.
        cancelled: asked several times a second.

    Raises:
        SourceError, VerificationError, LayerError: a layer cannot be read.
        OutputUnsupportedError: a layer cannot stand alone; the message names it, and its first entry that is a reason.
        FileError: a layer cannot be kept.
        CancelledError: `cancelled` said so.
    """
    wanted = list(dict.fromkeys(diff_ids))
    held: dict[str, DecodedLayer] = {}

    def take() -> None:
        for diff_id in wanted:
            if diff_id not in held and (found := store.get(diff_id)) is not None:
                held[diff_id] = stack.enter_context(found)

    take()
    if len(held) < len(wanted):
        options = replace(options, layers=store, keep_layers=True, every_layer=True)
        import tempfile

        with tempfile.TemporaryDirectory(prefix="ocifast-") as contents:
            flatten(image, folder=contents, options=options, progress=progress, cancelled=cancelled).close()
        take()
    for diff_id in wanted:
        if diff_id not in held:
            raise FileError(f"{image.name}: the layer {diff_id} was decoded, and could not be kept")
        reason = held[diff_id].table.reason
        if reason is not None:
            _, told, path = reason
            raise OutputUnsupportedError(
                f"{image.name}: the layer {diff_id} cannot stand alone ({os.fsdecode(path)!r}: {told}); "
                "compile the image to one erofs image instead (ocifast compile)"
            )
    return held

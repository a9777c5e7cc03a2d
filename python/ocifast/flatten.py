"""All layers of an image downloaded, verified, decoded and merged in one pass, into a `Rootfs`."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from ocifast import _core
from ocifast.edits import PreparedEdits
from ocifast.errors import OcifastError
from ocifast.intake import FlattenOptions, Intake, decoded_layers, erofs_layers
from ocifast.layered import Layered
from ocifast.progress import Progress, silent
from ocifast.rootfs import Rootfs
from ocifast.sources import Blob
from ocifast.spec import Descriptor

__all__ = ["FlattenOptions", "flatten", "flatten_both", "shared_layers"]


def flatten(
    image: Layered,
    *,
    store: str | _core.SquashfsCompression = "spool",
    folder: str | os.PathLike[str] | None = None,
    options: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
    edits: PreparedEdits | None = None,
    digest: str | None = None,
    created: int = 0,
    keep_removed: bool = False,
) -> Rootfs:
    """Downloads, verifies, decodes and merges all layers, side by side.

    Args:
        image: what to flatten; after a failure it is closed.
        store: where contents wait; see `_core.Flattener`.
        folder: an empty folder for them, which the caller removes; None for one of our own in the temporary folder,
            which `Rootfs.close` removes.
        options: how.
        progress: gets the LAYER_ACQUIRE events.
        cancelled: asked several times a second while layers arrive.
        edits: what is changed; None for nothing.
        digest: what UUIDs of filesystems are derived from when the tree is written; None for one of all diff IDs.
        created: time of such filesystems, in seconds since 1970.
        keep_removed: the tree keeps what layers hide, for `_core.usage`.

    Returns:
        The tree, complete, verified and edited.

    Raises:
        SourceError: a blob could not be fetched.
        VerificationError: a blob or layer is not what its digest, size or diff ID says.
        LayerError: a layer that cannot be applied; the message names image, layer and entry.
        UsageError: an edit that makes no sense for this image.
    """
    options = options or FlattenOptions()
    made = () if edits is None else edits.layers
    pairs = zip(image.layers, image.diff_ids, strict=True)
    layers = [(descriptor.digest, descriptor.size, diff_id) for descriptor, diff_id in pairs]
    added = [len(layers) + index for index, layer in enumerate(made) if layer.added]
    layers += [(layer.descriptor.digest, layer.descriptor.size, layer.diff_id) for layer in made]
    with ExitStack() as resources:
        if folder is None:
            import tempfile

            folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-"))
        try:
            flattener = _core.Flattener(
                layers,
                store=store,
                folder=folder,
                limits=options.limits,
                decoders=options.decoders,
                added=added,
                keep_removed=keep_removed,
                erofs=erofs_layers(image.layers),
            )
            decoded = decoded_layers(resources, image, flattener, options, len(layers), cancelled, made)
            edit = None if edits is None else edits.edit
            intake = Intake(image, flattener, options, progress, cancelled, decoded, made)
            tree = intake.run(lambda: flattener.finish(edit))
        except OcifastError as error:
            names = {layer.descriptor.digest: layer.name for layer in made}
            raise error.about(names.get(error.context.get("layer", ""), image.name)) from error.__cause__
        digest = digest or _core.digest("\n".join(diff_id for _, _, diff_id in layers).encode())
        return Rootfs(tree, name=image.name, resources=resources.pop_all(), digest=digest, created=created)


def shared_layers(first: Layered, second: Layered) -> int:
    """How many of the lowest layers of two images are the same, by their diff IDs and whether they are erofs images."""
    pairs = zip(first.diff_ids, second.diff_ids, strict=False)
    differing = set(erofs_layers(first.layers)) ^ set(erofs_layers(second.layers))
    return next(
        (count for count, (one, other) in enumerate(pairs) if one != other or count in differing),
        min(len(first.diff_ids), len(second.diff_ids)),
    )


def flatten_both(
    first: Layered,
    second: Layered,
    *,
    options: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Rootfs, Rootfs]:
    """Flattens two images in one run. The lowest layers that they share are read once, from the first image.

    Contents of both wait in one folder of the temporary folder. The bounds of `options` are for both together.

    Args:
        first: an image; after a failure both are closed.
        second: another.
        options: how, as for `flatten`.
        progress: gets the LAYER_ACQUIRE events.
        cancelled: asked several times a second while layers arrive.

    Returns:
        The two trees, both to be closed, the second one first.

    Raises:
        SourceError, VerificationError, LayerError: as `flatten` does.
    """
    options = options or FlattenOptions()
    both = _Both(first, second)
    layers = [(layer.digest, layer.size, diff_id) for layer, diff_id in zip(both.layers, both.diff_ids, strict=True)]
    import tempfile

    with ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="ocifast-"))
        try:
            flattener = _core.Flattener(
                layers,
                store="spool",
                folder=folder,
                limits=options.limits,
                decoders=options.decoders,
                branch=(both.shared, len(first.layers)),
                erofs=erofs_layers(both.layers),
            )
            decoded = decoded_layers(resources, both, flattener, options, len(layers), cancelled)
            one, other = Intake(both, flattener, options, progress, cancelled, decoded).run(flattener.finish_all)
        except OcifastError as error:
            raise error.about(both.image_of(error.context.get("layer", "")).name) from error.__cause__
        return Rootfs(one, name=first.name, resources=resources.pop_all()), Rootfs(other, name=second.name)


class _Both:
    """Two images as one run has them: the layers of the first, then those that only the second has."""

    def __init__(self, first: Layered, second: Layered) -> None:
        self._first, self._second = first, second
        self.shared = shared_layers(first, second)
        self.name = f"{first.name} and {second.name}"
        self.layers = (*first.layers, *second.layers[self.shared :])
        self.diff_ids = (*first.diff_ids, *second.diff_ids[self.shared :])
        self._of_first = {layer.digest for layer in first.layers}

    def image_of(self, digest: str) -> Layered:
        """The image that a layer is read from."""
        return self._first if digest in self._of_first else self._second

    def blob(self, descriptor: Descriptor, *, offset: int = 0) -> Blob:
        """Opens a layer of either."""
        return self.image_of(descriptor.digest).blob(descriptor, offset=offset)

    def close(self) -> None:
        """Closes both."""
        self._first.close()
        self._second.close()

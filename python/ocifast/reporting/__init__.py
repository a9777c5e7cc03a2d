"""What an image is, as one page to look at: layers, sizes, waste, files, how it is booted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ocifast.boot import boot_config
from ocifast.errors import UsageError
from ocifast.flatten import FlattenOptions, flatten
from ocifast.footprint import usage_of
from ocifast.image import Image, open_image
from ocifast.progress import Progress, silent
from ocifast.reporting.page import page
from ocifast.spec import Platform

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["report"]

_LISTED = 10_000
"""Most files, folders and wasted files that a page has; the largest."""


def report(
    image: str | Image,
    *,
    platform: Platform | str | None = None,
    options: RegistryOptions | None = None,
    flattening: FlattenOptions | None = None,
    progress: Progress = silent,
    cancelled: Callable[[], bool] | None = None,
) -> bytes:
    """Makes a page about an image: one HTML document in UTF-8 that loads nothing.

    All layers are read. The same image gives the same bytes. Names of the image appear in it as text alone, with
    backslash escapes for what is no printable character; the lists and every text in them are bounded.

    Args:
        image: where it is, as `ocifast.open` takes it, or an image, which is left open.
        platform: which image of an index, for one that is named.
        options: how registries are spoken to, for an image that is named.
        flattening: how many layers at a time, and bounds on what they may ask for.
        progress: gets the events of layers.
        cancelled: asked several times a second while layers arrive.

    Raises:
        ImageReferenceError, SourceError, VerificationError, LayerError.
        UsageError: a platform or options for an image that is open.
    """
    with ExitStack() as stack:
        if isinstance(image, str):
            image = stack.enter_context(open_image(image, platform=platform, options=options))
        elif platform is not None or options is not None:
            raise UsageError("a platform and options are for an image that is named, not for one that is open")
        rootfs = stack.enter_context(
            flatten(image, options=flattening, progress=progress, cancelled=cancelled, keep_removed=True)
        )
        told = usage_of(rootfs, image, "/", top=_LISTED)
        return page(image, told, boot_config(image.config, rootfs), names=len(rootfs))

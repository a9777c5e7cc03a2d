"""`ocifast cache export`: layers for containerd."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from ocifast.cache import Cache
from ocifast.cli import options
from ocifast.cli.display import format_size, report
from ocifast.cli.help import Command
from ocifast.cli.looking import Looking, looking_options
from ocifast.exporting import export_layers

__all__ = ["command"]


@click.command("export", cls=Command)
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--containerd",
    "folder",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder that containerd has in layer_content_caches; made where it is missing.",
)
@click.option("--verity", is_flag=True, help="Append dm-verity's hash tree, and write containerd's sidecars.")
@options.no_sync
@options.as_json
@looking_options
def command(
    images: tuple[str, ...], *, folder: Path, verity: bool, sync: bool, as_json: bool, looking: Looking
) -> None:
    """Fill a layer content cache of containerd with the layers of IMAGEs, as erofs images.

    IMAGE is {anywhere}. What is in DIR is never changed. Layers that are decoded for it are kept in the cache.
    """
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(looking.opened(image)) for image in images]
        cache = None if looking.no_cache else Cache.usable()
        with looking.display(images[0]) as show:
            layers = export_layers(found, folder, verity=verity, sync=sync, cache=cache, progress=show)
    report(
        {"layers": [{**vars(layer), "path": os.fsdecode(layer.path)} for layer in layers]},
        as_json=as_json,
        text="\n".join(
            f"{'there' if layer.existed else 'new':<5}  {format_size(layer.size):>9}  {layer.diff_id}"
            for layer in layers
        ),
    )

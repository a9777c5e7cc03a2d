"""`ocifast pull`: an image from a registry into a layout or an archive."""

from __future__ import annotations

from typing import Any

import click

from ocifast.cli.copy import all_platforms, moving, run_copy
from ocifast.cli.help import Command
from ocifast.cli.options import PLACE, platform

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("image", metavar="IMAGE")
@click.argument("destination", metavar="DEST", type=PLACE)
@platform
@all_platforms
@moving
def command(image: str, destination: str, *, all_platforms: bool | None, **options: Any) -> None:
    """Fetch IMAGE from a registry into DEST: one platform of an index, unless --all is given.

    IMAGE is {registry}[@DIGEST].

    DEST is {disk}.
    """
    from ocifast.transfers import pull

    run_copy(pull, image, destination, all_platforms=bool(all_platforms), **options)

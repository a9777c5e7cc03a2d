"""`ocifast push`: an image from a layout or an archive into a registry."""

from __future__ import annotations

from typing import Any

import click

from ocifast.cli.copy import all_platforms, parallel, run_copy
from ocifast.cli.help import Command
from ocifast.cli.options import PLACE, as_json, cached, follow_links, platform, progress, quiet
from ocifast.cli.registry import registry_options
from ocifast.cli.verify import verify_options

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("source", metavar="SOURCE", type=PLACE)
@click.argument("image", metavar="IMAGE")
@platform
@all_platforms
@parallel
@follow_links
@verify_options
@cached
@registry_options
@quiet
@progress
@as_json
def command(source: str, image: str, **options: Any) -> None:
    """Send the image at SOURCE to a registry as IMAGE, an index whole unless --platform names one image.

    SOURCE is {local}.

    IMAGE is {registry}.
    """
    from ocifast.transfers import push

    run_copy(push, source, image, **options)

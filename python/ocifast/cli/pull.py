"""`ocifast pull`: an image from a registry into a layout or an archive."""

from __future__ import annotations

from typing import Any

import click

from ocifast.cli.copy import all_platforms, parallel, run_copy
from ocifast.cli.options import PLACE, as_json, platform, progress, quiet
from ocifast.cli.registry import registry_options

__all__ = ["command"]


@click.command()
@click.argument("image", metavar="IMAGE")
@click.argument("destination", metavar="DEST", type=PLACE)
@platform
@all_platforms
@parallel
@registry_options
@quiet
@progress
@as_json
def command(image: str, destination: str, **options: Any) -> None:
    """Fetch IMAGE from a registry into DEST.

    IMAGE is [docker://]HOST/NAME[:TAG][@DIGEST]; DEST is oci:DIR[:TAG], oci-archive:FILE[:TAG] or
    docker-archive:FILE[:NAME:TAG].
    """
    from ocifast.errors import UsageError
    from ocifast.reference import parse_location

    source = parse_location(image)
    if source.transport != "docker":
        raise UsageError(f"{image}: pull fetches from a registry; for other places use `ocifast copy`")
    if not destination.startswith(("oci:", "oci-archive:", "docker-archive:")):
        raise UsageError(
            f"{destination}: pull writes to a place on disk: oci:{destination}, oci-archive:{destination} or"
            f" docker-archive:{destination}"
        )
    run_copy(source, parse_location(destination), **options)

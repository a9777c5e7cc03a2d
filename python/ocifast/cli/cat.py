"""ocifast cat: a file of an image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ocifast.cli import options
from ocifast.cli.display import standard_output
from ocifast.cli.registry import registry_options
from ocifast.cli.rootfs import open_rootfs
from ocifast.cli.verify import verify_options
from ocifast.signatures import Verification

__all__ = ["command"]

_PIECE = 1 << 20


@click.command(short_help="Write a file of an image to standard output.")
@options.image_argument
@click.argument("path")
@options.platform
@options.seed
@options.follow_links
@verify_options
@options.cached
@options.quiet
@options.progress
@registry_options
def command(
    image: str,
    path: str,
    platform: str | None,
    seeds: tuple[Path, ...],
    follow_links: bool,
    verify: Verification | None,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    quiet: bool,
    progress: str,
    **registry: Any,
) -> None:
    """Write the regular file PATH of IMAGE to standard output. Links are followed inside the image."""
    with open_rootfs(
        image,
        platform,
        seeds,
        follow_links=follow_links,
        no_cache=no_cache,
        offline=offline,
        refresh=refresh,
        quiet=quiet,
        progress=progress,
        verify=verify,
        registry=registry,
    ) as rootfs:
        out = sys.stdout.buffer
        with rootfs.open(path) as file:
            while chunk := file.read(_PIECE):
                with standard_output():
                    out.write(chunk)
        with standard_output():
            out.flush()

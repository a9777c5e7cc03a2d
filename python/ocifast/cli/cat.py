"""ocifast cat: a file of an image."""

from __future__ import annotations

import sys

import click

from ocifast.cli import options
from ocifast.cli.display import standard_output
from ocifast.cli.help import Command
from ocifast.cli.looking import Looking, looking_options

__all__ = ["command"]

_PIECE = 1 << 20


@click.command(cls=Command, short_help="Write a file of an image to standard output.")
@options.image_argument
@click.argument("path")
@looking_options
def command(image: str, path: str, *, looking: Looking) -> None:
    """Write the regular file PATH of IMAGE to standard output. Links are followed inside the image.

    Layers are read from the highest on, and no more of them than it takes to know what PATH is.
    """
    out = sys.stdout.buffer
    with looking.peeked(image, lambda peek: peek.open(path)) as file:
        with file:
            while chunk := file.read(_PIECE):
                with standard_output():
                    out.write(chunk)
        with standard_output():
            out.flush()

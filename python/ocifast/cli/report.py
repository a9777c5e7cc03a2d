"""`ocifast report`: a page about an image."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ocifast.cli import options
from ocifast.cli.display import check_stdout, format_size, report, standard_output
from ocifast.cli.help import Command
from ocifast.cli.looking import Looking, looking_options
from ocifast.reporting import report as make_report
from ocifast.workspace import Workspace

__all__ = ["command"]


@click.command(
    cls=Command,
)
@options.image_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Where to write it; - is standard output.",
)
@options.no_sync
@looking_options
def command(image: str, *, output: str, sync: bool, looking: Looking) -> None:
    """Make a page about IMAGE: one HTML file that loads nothing, for a browser with or without network.

    It shows the layers, a treemap of folders and files, what is wasted or there twice, the largest files with a search,
    the config and what a machine needs to boot it.

    IMAGE is {anywhere}.
    """
    if output == "-":
        check_stdout("--output", as_json=False)
        page = _made(image, looking)
        with standard_output():
            sys.stdout.buffer.write(page)
            sys.stdout.buffer.flush()
        return
    # Made before the work begins, so that a wrong path costs nothing.
    with Workspace(Path(output), is_directory=False, sync=sync) as space:
        page = _made(image, looking)
        made = space.path / "report.html"
        made.write_bytes(page)
        space.publish(made)
    report({}, as_json=False, text=f"{output}: {format_size(len(page))}")


def _made(image: str, looking: Looking) -> bytes:
    with looking.opened(image) as found, looking.display(image) as show:
        return make_report(found, progress=show)

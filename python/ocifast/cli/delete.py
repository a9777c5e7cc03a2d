"""`ocifast delete`: a manifest is removed from a registry."""

from __future__ import annotations

from typing import Any

import click

from ocifast.cli.display import report
from ocifast.cli.help import Command
from ocifast.cli.options import as_json
from ocifast.cli.registry import make_options, registry_options

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("image", metavar="IMAGE@DIGEST")
@registry_options
@as_json
def command(image: str, *, as_json: bool, **registry: Any) -> None:
    """Delete the manifest IMAGE@DIGEST from its registry, and with it all tags that name it."""
    from ocifast.reference import Reference
    from ocifast.transfers import delete

    reference = Reference.parse(image.removeprefix("docker://"))
    delete(reference, options=make_options(reference.host, **registry))
    report({"deleted": str(reference)}, as_json=as_json, text=f"deleted {reference}")

"""`ocifast tags`: the tags of a repository."""

from __future__ import annotations

from typing import Any

import click

from ocifast.cli.display import printable, report
from ocifast.cli.help import Command
from ocifast.cli.options import as_json
from ocifast.cli.registry import make_options, registry_options

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("repository", metavar="HOST/REPOSITORY")
@registry_options
@as_json
def command(repository: str, *, as_json: bool, **registry: Any) -> None:
    """List the tags of HOST/REPOSITORY, one a line."""
    from ocifast.reference import Reference
    from ocifast.transfers import tags

    reference = Reference.parse(repository.removeprefix("docker://"))
    found = tags(reference, options=make_options(reference.host, **registry))
    report({"repository": reference.name, "tags": found}, as_json=as_json, text="\n".join(map(printable, found)))

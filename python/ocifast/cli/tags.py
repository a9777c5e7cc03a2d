"""`ocifast tags`: the tags of a repository."""

from __future__ import annotations

from typing import Any

import click

from ocifast.cli.display import printable, report
from ocifast.cli.options import as_json
from ocifast.cli.registry import make_options, registry_options

__all__ = ["command"]


@click.command()
@click.argument("repository", metavar="HOST/REPOSITORY")
@registry_options
@as_json
def command(repository: str, *, as_json: bool, **registry: Any) -> None:
    """List the tags of HOST/REPOSITORY, one a line."""
    from ocifast.errors import ImageReferenceError
    from ocifast.reference import Reference
    from ocifast.sources.registry import list_tags

    reference = Reference.parse(repository.removeprefix("docker://"))
    if reference.tag or reference.digest:
        raise ImageReferenceError(f"{repository!r} names one image; write {reference.name} for the list of its tags")
    tags = list_tags(reference, make_options(reference.host, **registry))
    report({"repository": reference.name, "tags": tags}, as_json=as_json, text="\n".join(map(printable, tags)))

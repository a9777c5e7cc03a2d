"""Options that several commands share, each with one name, one meaning and one help text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["as_json", "image_argument", "insecure", "jobs", "no_cache", "platform", "quiet", "seed", "tmp_dir"]

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


def _remember_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    # Looked at by `main`, so that an error is told as JSON too, even one in the parsing of later options.
    root = ctx.find_root()
    if isinstance(root.obj, dict):
        root.obj["json"] = value
    return value


as_json: Decorator[Any] = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_remember_json,
    help="Write the result (or the error) to standard output as JSON.",
)
"""Passes `as_json: bool`."""

quiet: Decorator[Any] = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
"""Passes `quiet: bool`."""

insecure: Decorator[Any] = click.option(
    "--insecure",
    is_flag=True,
    help="Speak plain HTTP to the registry that is named, and to no other.",
)
"""Passes `insecure: bool`."""

platform: Decorator[Any] = click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    help="Which image of an index to take.  [default: this machine's]",
)
"""Passes `platform: str | None`."""

no_cache: Decorator[Any] = click.option("--no-cache", is_flag=True, help="Neither look into the cache nor write to it.")
"""Passes `no_cache: bool`."""

seed: Decorator[Any] = click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An OCI layout that is looked at before the registry. May be given several times.",
)
"""Passes `seeds: tuple[Path, ...]`."""

tmp_dir: Decorator[Any] = click.option(
    "--tmp-dir",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where data waits while layers arrive.  [default: beside the output]",
)
"""Passes `tmp_dir: Path | None`."""

jobs: Decorator[Any] = click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Threads to use. The output is the same for any number.  [default: one per processor]",
)
"""Passes `jobs: int | None`."""

image_argument: Decorator[Any] = click.argument("image", metavar="IMAGE")
"""Passes `image: str`."""

"""Options that change an image on its way to a filesystem."""

from __future__ import annotations

import re
from typing import Any

import click

from ocifast.cli.options import together
from ocifast.edits import Addition, Edits
from ocifast.errors import UsageError
from ocifast.patterns import pattern

__all__ = ["edit_options", "make_edits"]

edit_options = together(
    click.option(
        "--add",
        multiple=True,
        metavar="SRC:DST[:mode=0755,owner=0:0,mtime=keep]",
        help="Add a file, a folder or a symbolic link, at /DST. May be given several times.",
    ),
    click.option(
        "--layer",
        multiple=True,
        metavar="FILE",
        help="Apply a tar on top as a layer, whiteouts and all; - is standard input. May be given several times.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Leave out what matches, by the rules of gitignore; !GLOB takes back. May be given several times.",
    ),
    click.option("--subtree", metavar="PATH", help="Take only what is below this directory of the image."),
    click.option("--mount-points", is_flag=True, help="Make /dev, /proc, /run, /sys and /tmp where they are missing."),
    click.option("--chown", metavar="UID:GID", help="Give everything this owner and group."),
    click.option(
        "--id-offset", metavar="N", type=click.IntRange(min=0), default=0, help="Add N to every user and group number."
    ),
)
"""They are passed on as `make_edits` takes them."""


def make_edits(
    *,
    add: tuple[str, ...],
    layer: tuple[str, ...],
    exclude: tuple[str, ...],
    subtree: str | None,
    mount_points: bool,
    chown: str | None,
    id_offset: int,
) -> Edits:
    """The edits that the options ask for.

    Raises:
        UsageError: an option that says nothing sensible.
    """
    return Edits(
        add=[_addition(text) for text in add],
        layers=layer,
        exclude=exclude,
        subtree=subtree,
        mount_points=mount_points,
        owner=None if chown is None else _owner(chown, f"--chown {chown!r}"),
        id_offset=id_offset,
    )


_ADDITION = pattern(r"(?P<source>.+?):(?P<target>/[^:]*)(?::(?P<settings>[a-z]+=.*))?", re.DOTALL)


def _addition(text: str) -> Addition:
    found = _ADDITION.fullmatch(text)
    if found is None:
        raise UsageError(f"--add {text!r} says not where to; write SOURCE:/PATH, or SOURCE:/PATH:mode=0755,owner=0:0")
    settings: dict[str, Any] = {}
    for setting in filter(None, (found["settings"] or "").split(",")):
        name, _, value = setting.partition("=")
        if name == "mode" and re.fullmatch(r"[0-7]{1,5}", value):
            settings["mode"] = int(value, 8)
        elif name == "owner":
            settings["owner"] = _owner(value, f"--add {text!r}: owner={value}")
        elif (name, value) == ("mtime", "keep"):
            settings["keep_mtime"] = True
        else:
            raise UsageError(f"--add {text!r}: {setting!r} is none of mode=OCTAL, owner=UID:GID and mtime=keep")
    return Addition(found["source"], found["target"], **settings)


def _owner(text: str, what: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text, re.ASCII)
    if found is None:
        raise UsageError(f"{what} is no owner; write two numbers, as 1000:1000")
    return int(found[1]), int(found[2])

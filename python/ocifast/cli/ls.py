"""ocifast ls: the files of an image."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterable
from typing import Any

import click

from ocifast.cli import options
from ocifast.cli.display import format_size, printable, report, standard_output
from ocifast.cli.help import Command
from ocifast.cli.looking import Looking, looking_options
from ocifast.file_types import FILE_TYPES
from ocifast.layer_entries import LayerEntry
from ocifast.peek import Peek
from ocifast.rootfs import RootfsEntry

__all__ = ["command", "entry_json"]

_MARKS = {"hardlink": "h", "whiteout": "w", "opaque": "o", "bookkeeping": "?"}
"""The letter of the type, for entries that only layers have."""


# -h is what it is to ls(1), so that help has its long name alone.
@click.command(
    cls=Command, short_help="List the files of an image.", context_settings={"help_option_names": ["--help"]}
)
@options.image_argument
@click.argument("path", default="/")
@click.option("-R", "--recursive", is_flag=True, help="List what is in folders, too.")
@click.option("-l", "long", is_flag=True, help="As without it: the list is a long one anyway.")
@click.option("-h", "--human-readable", is_flag=True, help="Show sizes as 3.4 MB.")
@click.option(
    "--layer",
    "of_layer",
    metavar="N|DIFFID",
    help="List what this layer itself holds, whiteouts included; it is named by its number from 0, the lowest, or the "
    "beginning of its diff ID.",
)
@options.as_json
@looking_options
def command(
    image: str,
    path: str,
    *,
    recursive: bool,
    long: bool,
    human_readable: bool,
    of_layer: str | None,
    as_json: bool,
    looking: Looking,
) -> None:
    """List the files of IMAGE at PATH: mode, owner, group, size, time (UTC), path.

    All layers are applied: what is shown is what a container sees. Links on the way to PATH, and one to a directory at
    its end, are followed inside the image. Of a file no more layers are read, from the highest on, than it takes to
    know what PATH is.

    With --layer it is what one layer holds at PATH and below, in the order of its archive; no other layer is read.
    """
    entries: Iterable[RootfsEntry | LayerEntry]
    if of_layer is not None:
        with looking.opened(image) as found, looking.display(image) as show:
            entries = _below(path, found.layer_entries(of_layer, progress=show))
    else:
        with looking.peeked(image, lambda peek: _chosen(peek, path, recursive)) as entries:
            pass
    if as_json:
        report({"entries": [entry_json(entry) for entry in entries]}, as_json=True, text="")
        return
    with standard_output():
        for entry in entries:
            click.echo(_line(entry, human=human_readable))


def _chosen(peek: Peek, path: str, recursive: bool) -> list[RootfsEntry]:
    if peek.stat(path).type != "directory":
        return [peek.stat(path, follow=False)]
    return list(peek.walk(peek.resolve(path))) if recursive else peek.scandir(path)


def _below(path: str, entries: Iterable[LayerEntry]) -> list[LayerEntry]:
    """The entries at a path by its letters, and below it."""
    at = f"/{path.strip('/')}"
    below = at if at == "/" else f"{at}/"
    return [entry for entry in entries if entry.path == at or entry.path.startswith(below)]


def _line(entry: RootfsEntry | LayerEntry, *, human: bool) -> str:
    kind = _MARKS.get(entry.type)
    mode = stat.filemode(FILE_TYPES.get(entry.type, 0) | entry.mode)
    mode = mode if kind is None else kind[0] + mode[1:]
    size = format_size(entry.size) if human else str(entry.size)
    more = {"symlink": f" -> {entry.target}", "hardlink": f" link to /{entry.target.lstrip('/')}"}.get(entry.type, "")
    if kind is not None and not more:
        more = f"  ({entry.type})"
    rest = f"{size:>{9 if human else 12}} {_when(entry.mtime_ns)} {printable(entry.path + more)}"
    return f"{mode} {entry.uid:>5} {entry.gid:>5} {rest}"


def _when(mtime_ns: int) -> str:
    """A time as people read it; one that no calendar has, in seconds since 1970."""
    seconds = mtime_ns // 10**9
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        return f"@{seconds}"


def entry_json(entry: RootfsEntry | LayerEntry) -> dict[str, Any]:
    """An entry as JSON has it; that of a layer has no number of an inode."""
    data: dict[str, Any] = {
        "path": entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "type": entry.type,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "target": entry.target.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
    }
    if isinstance(entry, RootfsEntry):
        data["inode"] = entry.inode
    return data

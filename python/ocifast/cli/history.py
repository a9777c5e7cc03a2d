"""`ocifast history`: the steps that made an image, each beside its layer."""

from __future__ import annotations

from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click

from ocifast.cli.display import format_size, printable, report, warn
from ocifast.cli.help import Command
from ocifast.cli.options import as_json, cached, follow_links, image_argument, platform
from ocifast.cli.registry import registry_options

if TYPE_CHECKING:
    from ocifast.history import History, HistoryEntry

__all__ = ["command"]

_COLUMNS = "{:<16}  {:>8}  {:<{}}  "
_SHORT = 12
"""Characters of a shortened digest."""
_NARROW = 20
"""Least columns for what was done, however narrow the terminal is."""
_SHELL = "/bin/sh -c #(nop) "
"""What old builders write before a step that runs nothing."""


@click.command(
    cls=Command,
)
@image_argument
@platform
@click.option("--no-trunc", is_flag=True, help="Write digests and commands in full, however wide.")
@follow_links
@cached
@registry_options
@as_json
def command(
    image: str,
    *,
    platform: str | None,
    no_trunc: bool,
    follow_links: bool,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    as_json: bool,
    **registry: Any,
) -> None:
    """Show the steps that made IMAGE, the first one first.

    Of each: when, the size (compressed) and the diff ID of its layer, and what was done.

    IMAGE is {anywhere}. Nothing but manifests and the config is fetched. A step that made no layer is marked empty.
    """
    from ocifast.cli.looking import Looking

    looking = Looking(
        platform=platform,
        seeds=(),
        follow_links=follow_links,
        verify=None,
        no_cache=no_cache,
        offline=offline,
        refresh=refresh,
        quiet=True,
        progress="none",
        registry=registry,
    )
    with looking.opened(image) as found:
        history = found.history
        name, digest = found.name, found.digest
    if not history.matches:
        warn(f"{name}: {_mismatch(history)}")
    data = {
        "reference": name,
        "digest": digest,
        "matches": history.matches,
        "entries": [_json(entry) for entry in history.entries],
    }
    report(data, as_json=as_json, text=lambda: _show(history, full=no_trunc))


def _mismatch(history: History) -> str:
    if not any(entry.record for entry in history.entries):
        return f"the config has no history of its layers ({history.layers})"
    return (
        f"steps of the history that made a layer: {history.stated}, layers: {history.layers}; which belongs to which "
        "is a guess"
    )


def _json(entry: HistoryEntry) -> dict[str, Any]:
    record, layer = entry.record, entry.layer
    return {
        "created": record and record.created,
        "created_by": record and record.created_by,
        "author": record and record.author,
        "comment": record and record.comment,
        "empty_layer": entry.is_empty,
        "digest": layer and layer.digest,
        "diff_id": entry.diff_id or None,
        "media_type": layer and layer.media_type,
        "size": layer and layer.size,
    }


def _show(history: History, *, full: bool) -> str:
    digits = max([len(entry.diff_id) for entry in history.entries], default=0) if full else _SHORT
    digits = max(digits, len("DIFF ID"))
    lines = [_COLUMNS.format("CREATED", "SIZE", "DIFF ID", digits) + "CREATED BY"]
    room = max(get_terminal_size().columns - len(_COLUMNS.format("", "", "", digits)), _NARROW)
    for entry in history.entries:
        record = entry.record
        when = printable((record and record.created) or "-")
        if not full:
            when = when[:16].replace("T", " ")
        size = "empty" if entry.is_empty else "-" if entry.layer is None else format_size(entry.layer.size)
        diff_id = entry.diff_id if full else entry.diff_id.partition(":")[2][:_SHORT]
        done = "(no step names this layer)" if record is None else record.created_by or record.comment or "-"
        lines.append(_COLUMNS.format(when, size, diff_id or "-", digits) + _shortened(done, None if full else room))
    return "\n".join(line.rstrip() for line in lines)


def _shortened(text: str, room: int | None) -> str:
    """One line of text in so many columns."""
    if room is None:
        return printable(text)
    text = printable(" ".join(text.removeprefix(_SHELL).split()))
    return text if len(text) <= room else text[: room - 1] + "…"

"""`ocifast diff`: which files differ between two images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ocifast.cli import options
from ocifast.cli.display import format_size, printable, report
from ocifast.cli.help import Command
from ocifast.cli.looking import Looking, looking_options
from ocifast.cli.ls import entry_json
from ocifast.cli.registry import make_options
from ocifast.difference import Change, Difference, LayerChange, compare_layers, diff
from ocifast.image import Image
from ocifast.rootfs import RootfsEntry
from ocifast.sources.open import parse_location

__all__ = ["command"]

_MARKS = {"added": "+", "removed": "-", "changed": "~"}


@click.command(
    cls=Command,
)
@click.argument("first", metavar="FIRST", type=options.PLACE)
@click.argument("second", metavar="SECOND", type=options.PLACE)
@click.option("--stat", is_flag=True, help="Show numbers instead of names.")
@click.option("--exit-code", is_flag=True, help="End with status 1 when the images differ.")
@click.option("--by-layer", is_flag=True, help="Compare the layers by their diff IDs, and read none.")
@click.option("--times", is_flag=True, help="Compare modification times as well.")
@options.as_json
@looking_options
def command(
    first: str,
    second: str,
    *,
    stat: bool,
    exit_code: bool,
    by_layer: bool,
    times: bool,
    as_json: bool,
    looking: Looking,
) -> None:
    """Show which files differ between two images: + only SECOND has it, - only FIRST has it, ~ it differs.

    FIRST and SECOND are {anywhere}. All layers are applied before. The lowest layers that both have are read once;
    where all are the same nothing is read.
    """
    if by_layer and (stat or times):
        raise click.UsageError("--by-layer reads no file: --stat and --times make no sense with it")
    remotes = [location.remote for location in map(parse_location, (first, second))]
    how = make_options(*(remote.host for remote in remotes if remote), **looking.registry)
    with looking.opened(first, options=how) as one, looking.opened(second, options=how) as other:
        if by_layer:
            layer_changes = compare_layers(one, other)
            report(
                _layers_json((one, other), layer_changes),
                as_json=as_json,
                text=lambda: "\n".join(map(_layer_line, layer_changes)),
            )
            differs = any(change.kind != "same" for change in layer_changes)
            click.get_current_context().exit(1 if exit_code and differs else 0)
        with looking.display(f"{first} and {second}") as show:
            difference = diff(one, other, times=times, progress=show)
        layers = len(one.layers), len(other.layers)
        names = one.name, other.name
    report(
        _json(difference, names, listed=not stat),
        as_json=as_json,
        text=lambda: _stat(difference, layers) if stat else "\n".join(map(_line, difference.changes)),
    )
    click.get_current_context().exit(1 if exit_code and difference.changes else 0)


def _layers_json(images: tuple[Image, Image], changes: Sequence[LayerChange]) -> dict[str, Any]:
    return {
        "first": images[0].name,
        "second": images[1].name,
        "first_digest": images[0].digest,
        "second_digest": images[1].digest,
        "differs": any(change.kind != "same" for change in changes),
        "layers": [
            {
                "kind": change.kind,
                "first": change.first,
                "second": change.second,
                "diff_id": change.diff_id,
                "digest": change.layer.digest,
                "size": change.layer.size,
            }
            for change in changes
        ],
    }


def _layer_line(change: LayerChange) -> str:
    """Mark, numbers in both images, size of the blob, diff ID."""
    mark = {"same": "=", **_MARKS}[change.kind]
    first, second = ("-" if number is None else number for number in (change.first, change.second))
    return f"{mark} {first:>4} {second:>4}  {format_size(change.layer.size):>9}  {change.diff_id}"


def _bytes(entry: RootfsEntry | None) -> int:
    return entry.size if entry is not None and entry.type == "file" else 0


def _json(difference: Difference, names: tuple[str, str], *, listed: bool) -> dict[str, Any]:
    kinds = {kind: difference.of_kind(kind) for kind in _MARKS}
    return {
        "first": names[0],
        "second": names[1],
        "first_digest": difference.digests[0],
        "second_digest": difference.digests[1],
        "shared_layers": difference.shared_layers,
        "differs": bool(difference.changes),
        **{kind: len(changes) for kind, changes in kinds.items()},
        "added_bytes": sum(_bytes(change.after) for change in kinds["added"]),
        "removed_bytes": sum(_bytes(change.before) for change in kinds["removed"]),
        "changes": [
            {
                "path": change.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
                "kind": change.kind,
                "fields": list(change.fields),
                "before": change.before and entry_json(change.before),
                "after": change.after and entry_json(change.after),
            }
            for change in (difference.changes if listed else ())
        ],
    }


def _stat(difference: Difference, layers: tuple[int, int]) -> str:
    """Numbers for people; of what changed the bytes before and after."""
    rows = [("", "NAMES", "BEFORE", "AFTER")]
    for kind in _MARKS:
        changes = difference.of_kind(kind)
        before = "-" if kind == "added" else format_size(sum(_bytes(change.before) for change in changes))
        after = "-" if kind == "removed" else format_size(sum(_bytes(change.after) for change in changes))
        rows.append((kind, str(len(changes)), before, after))
    shared = f"layers    {difference.shared_layers} shared, of {layers[0]} and {layers[1]}"
    return "\n".join([*(f"{kind:<8}  {names:>8}  {old:>9}  {new:>9}" for kind, names, old, new in rows), shared])


def _line(change: Change) -> str:
    """One change for people."""
    entry = change.after or change.before
    slash = "/" if entry is not None and entry.type == "directory" and change.path != "/" else ""
    told = ", ".join(_told(change)) if change.kind == "changed" else _what(entry)
    return f"{_MARKS[change.kind]} {printable(change.path)}{slash}{'  ' if told else ''}{told}"


def _what(entry: RootfsEntry | None) -> str:
    if entry is None or entry.type == "directory":
        return ""
    if entry.type == "symlink":
        return f"-> {printable(entry.target)}"
    return format_size(entry.size) if entry.type == "file" else entry.type


def _told(change: Change) -> list[str]:
    """What changed, with both values where they are short."""
    before, after = change.before, change.after
    if before is None or after is None:
        return []
    values = {
        "type": (before.type, after.type),
        "mode": (f"{before.mode:04o}", f"{after.mode:04o}"),
        "owner": (f"{before.uid}:{before.gid}", f"{after.uid}:{after.gid}"),
        "size": (format_size(before.size), format_size(after.size)),
        "target": (printable(before.target), printable(after.target)),
    }
    told = []
    for field in change.fields:
        old, new = values.get(field, ("", ""))
        word = field.replace("_", " ")
        told.append(word if old == new else f"{word} {old} -> {new}")
    return told

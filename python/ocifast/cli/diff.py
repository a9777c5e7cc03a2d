"""`ocifast diff`: which files differ between two images."""

from __future__ import annotations

from typing import Any

import click

from ocifast.cli import options
from ocifast.cli.changes import CHANGES, change_json, change_line, show_by_layer, show_layers
from ocifast.cli.display import format_size, report
from ocifast.cli.help import Command
from ocifast.cli.looking import Looking, looking_options
from ocifast.cli.registry import make_options
from ocifast.difference import Difference, compare_layers, diff
from ocifast.layer_difference import diff_layers
from ocifast.rootfs import RootfsEntry
from ocifast.sources.open import parse_location

__all__ = ["command"]


@click.command(
    cls=Command,
)
@click.argument("first", metavar="FIRST", type=options.PLACE)
@click.argument("second", metavar="SECOND", type=options.PLACE)
@click.option("--stat", is_flag=True, help="Show numbers instead of names.")
@click.option("--exit-code", is_flag=True, help="End with status 1 when the images differ.")
@click.option("--by-layer", is_flag=True, help="Compare the files of the layers, layer by layer.")
@click.option("--layers", "layers_alone", is_flag=True, help="Compare the layers by their diff IDs, and read none.")
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
    layers_alone: bool,
    times: bool,
    as_json: bool,
    looking: Looking,
) -> None:
    """Show which files differ between two images: + only SECOND has it, - only FIRST has it, ~ it differs.

    FIRST and SECOND are {anywhere}. All layers are applied before. The lowest layers that both have are read once;
    where all are the same nothing is read.

    With --by-layer the files are those that each layer holds itself, whiteouts included, below a line for the layer:
    = both images have it, > both have it at another place, ~ two layers differ, + only SECOND has it, - only FIRST has
    it. Layers that both have are not read.
    """
    if layers_alone and (by_layer or stat or times):
        raise click.UsageError("--layers reads no file: --by-layer, --stat and --times make no sense with it")
    remotes = [location.remote for location in map(parse_location, (first, second))]
    how = make_options(*(remote.host for remote in remotes if remote), **looking.registry)
    with looking.opened(first, options=how) as one, looking.opened(second, options=how) as other:
        if layers_alone:
            rows = compare_layers(one, other)
            show_layers(rows, (one, other), as_json=as_json)
            click.get_current_context().exit(1 if exit_code and any(row.kind != "same" for row in rows) else 0)
        with looking.display(f"{first} and {second}") as show:
            if by_layer:
                by_layers = diff_layers(one, other, times=times, progress=show)
            else:
                difference = diff(one, other, times=times, progress=show)
        layers = len(one.layers), len(other.layers)
        names = one.name, other.name
    if by_layer:
        show_by_layer(by_layers, names, listed=not stat, as_json=as_json)
        click.get_current_context().exit(1 if exit_code and by_layers.differs else 0)
    report(
        _json(difference, names, listed=not stat),
        as_json=as_json,
        text=lambda: _stat(difference, layers) if stat else "\n".join(map(change_line, difference.changes)),
    )
    click.get_current_context().exit(1 if exit_code and difference.changes else 0)


def _bytes(entry: RootfsEntry | None) -> int:
    return entry.size if entry is not None and entry.type == "file" else 0


def _json(difference: Difference, names: tuple[str, str], *, listed: bool) -> dict[str, Any]:
    kinds = {kind: difference.of_kind(kind) for kind in CHANGES}
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
        "changes": [change_json(change) for change in difference.changes] if listed else [],
    }


def _stat(difference: Difference, layers: tuple[int, int]) -> str:
    """Numbers for people; of what changed the bytes before and after."""
    rows = [("", "NAMES", "BEFORE", "AFTER")]
    for kind in CHANGES:
        changes = difference.of_kind(kind)
        before = "-" if kind == "added" else format_size(sum(_bytes(change.before) for change in changes))
        after = "-" if kind == "removed" else format_size(sum(_bytes(change.after) for change in changes))
        rows.append((kind, str(len(changes)), before, after))
    shared = f"layers    {difference.shared_layers} shared, of {layers[0]} and {layers[1]}"
    return "\n".join([*(f"{kind:<8}  {names:>8}  {old:>9}  {new:>9}" for kind, names, old, new in rows), shared])

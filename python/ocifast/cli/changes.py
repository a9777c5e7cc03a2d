"""How changes of files and of layers are told: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ocifast.cli.display import format_size, printable, report
from ocifast.cli.ls import entry_json
from ocifast.difference import Change, LayerChange
from ocifast.image import Image
from ocifast.layer_difference import EntryChange, LayerDifference, LayersDifference
from ocifast.layer_entries import LayerEntry
from ocifast.rootfs import RootfsEntry

__all__ = ["CHANGES", "change_json", "change_line", "show_by_layer", "show_layers"]

CHANGES = {"added": "+", "removed": "-", "changed": "~"}
"""Kinds of changes, and the marks of their lines."""

_LAYERS = {"same": "=", "moved": ">", **CHANGES}


def show_layers(changes: Sequence[LayerChange], images: tuple[Image, Image], *, as_json: bool) -> None:
    """Writes which layers differ, a line a layer: mark, numbers in both images, size of the blob, diff ID."""
    report(
        {
            **_heads((images[0].name, images[1].name), (images[0].digest, images[1].digest)),
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
        },
        as_json=as_json,
        text=lambda: "\n".join(
            _layer_line(change.kind, (change.first, change.second), change.layer.size, change.diff_id)
            for change in changes
        ),
    )


def show_by_layer(difference: LayersDifference, names: tuple[str, str], *, listed: bool, as_json: bool) -> None:
    """Writes the layers, and below each its files; only how many those are unless they are to be `listed`."""
    report(
        {
            **_heads(names, difference.digests),
            "differs": difference.differs,
            "layers": [_by_layer_json(layer, listed=listed) for layer in difference.layers],
        },
        as_json=as_json,
        text=lambda: "\n".join(line for layer in difference.layers for line in _by_layer_lines(layer, listed=listed)),
    )


def _heads(names: tuple[str, str], digests: tuple[str, str]) -> dict[str, Any]:
    return {"first": names[0], "second": names[1], "first_digest": digests[0], "second_digest": digests[1]}


def _layer_line(kind: str, numbers: tuple[int | None, int | None], size: int, diff_id: str | None) -> str:
    first, second = ("-" if number is None else number for number in numbers)
    return f"{_LAYERS[kind]} {first:>4} {second:>4}  {format_size(size):>9}  {diff_id}"


def _by_layer_json(layer: LayerDifference, *, listed: bool) -> dict[str, Any]:
    return {
        "kind": layer.kind,
        "first": layer.first,
        "second": layer.second,
        "first_diff_id": layer.diff_ids[0],
        "second_diff_id": layer.diff_ids[1],
        "digest": layer.layer.digest,
        "size": layer.layer.size,
        **{kind: len(layer.of_kind(kind)) for kind in CHANGES},
        "changes": [change_json(change) for change in layer.changes] if listed else [],
    }


def _by_layer_lines(layer: LayerDifference, *, listed: bool) -> list[str]:
    line = _layer_line(
        layer.kind, (layer.first, layer.second), layer.layer.size, layer.diff_ids[1] or layer.diff_ids[0]
    )
    if listed:
        return [line, *(f"    {change_line(change)}" for change in layer.changes)]
    counts = [f"{len(found)} {kind}" for kind in CHANGES if (found := layer.of_kind(kind))]
    return [line + (f"  {', '.join(counts)}" if counts else "")]


def change_json(change: Change | EntryChange) -> dict[str, Any]:
    """One change as JSON has it."""
    return {
        "path": change.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "kind": change.kind,
        "fields": list(change.fields),
        "before": change.before and entry_json(change.before),
        "after": change.after and entry_json(change.after),
    }


def change_line(change: Change | EntryChange) -> str:
    """One change for people."""
    entry = change.after or change.before
    slash = "/" if entry is not None and entry.type == "directory" and change.path != "/" else ""
    told = ", ".join(_told(change)) if change.kind == "changed" else _what(entry)
    return f"{CHANGES[change.kind]} {printable(change.path)}{slash}{'  ' if told else ''}{told}"


def _what(entry: RootfsEntry | LayerEntry | None) -> str:
    if entry is None or entry.type == "directory":
        return ""
    if entry.type == "symlink":
        return f"-> {printable(entry.target)}"
    if entry.type == "hardlink":
        return f"link to /{printable(entry.target.lstrip('/'))}"
    return format_size(entry.size) if entry.type == "file" else entry.type


def _told(change: Change | EntryChange) -> list[str]:
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

"""`ocifast du`: where the bytes of an image are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ocifast.cli import options
from ocifast.cli.display import format_size, printable, report
from ocifast.cli.help import Command
from ocifast.cli.looking import Looking, looking_options, not_there
from ocifast.errors import PathNotFoundError
from ocifast.footprint import Usage, usage

__all__ = ["command"]

_SHORT = 12
"""Characters of a shortened digest."""


@click.command(
    cls=Command,
)
@options.image_argument
@click.argument("path", default="/")
@click.option(
    "--top", metavar="N", type=click.IntRange(0, 10_000), default=10, help="Most lines of each list.  [default: 10]"
)
@options.as_json
@looking_options
def command(image: str, path: str, *, top: int, as_json: bool, looking: Looking) -> None:
    """Show where the bytes of IMAGE are, at and below PATH: by layer, by folder and file, wasted, and there twice.

    IMAGE is {anywhere}. Wasted is what a layer brings and a later one hides or replaces. Bytes are those of files as
    they are decompressed, without holes; hard links count once.
    """
    with looking.opened(image) as found:
        with looking.display(image) as show:
            try:
                told = usage(found, path, top=top, progress=show)
            except PathNotFoundError as error:
                raise not_there(error, image) from None
        name = found.name
    report(_json(name, told), as_json=as_json, text=lambda: "\n".join(_show(told)))


def _text(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _json(name: str, told: Usage) -> dict[str, Any]:
    return {
        "reference": name,
        "digest": told.digest,
        "path": _text(told.path),
        "bytes": told.bytes,
        "hidden_bytes": told.hidden_bytes,
        "duplicate_bytes": told.duplicate_bytes,
        "layers": [
            {
                "digest": layer.layer.digest,
                "diff_id": layer.diff_id,
                "size": layer.layer.size,
                "files": layer.files,
                "bytes": layer.bytes,
                "hidden_files": layer.hidden_files,
                "hidden_bytes": layer.hidden_bytes,
            }
            for layer in told.layers
        ],
        "files": [{"path": _text(file.path), "bytes": file.bytes, "layer": file.layer} for file in told.files],
        "folders": [{"path": _text(folder.path), "bytes": folder.bytes} for folder in told.folders],
        "hidden": [
            {
                "path": _text(file.path),
                "bytes": file.bytes,
                "layer": file.layer,
                "by": file.by,
                "replaced": file.replaced,
            }
            for file in told.hidden
        ],
        "duplicates": [
            {"paths": [_text(path) for path in one.paths], "count": one.count, "bytes": one.bytes}
            for one in told.duplicates
        ],
    }


def _show(told: Usage) -> Iterator[str]:
    """The same for people. Layers are numbered from 0, the lowest."""
    whole = told.bytes + told.hidden_bytes
    yield f"{'path':<12}{printable(told.path)}"
    yield f"{'files':<12}{format_size(told.bytes)}"
    yield f"{'wasted':<12}{_share(told.hidden_bytes, whole)}"
    yield f"{'duplicates':<12}{_share(told.duplicate_bytes, told.bytes)}"
    yield ""
    yield f"{'LAYER':>5}  {'DIFF ID':<{_SHORT}}  {'BLOB':>9}  {'FILES':>8}  {'BYTES':>9}  {'WASTED':>9}"
    for number, layer in enumerate(told.layers):
        short = layer.diff_id.partition(":")[2][:_SHORT]
        numbers = f"{format_size(layer.layer.size):>9}  {layer.files:>8}  {format_size(layer.bytes):>9}"
        yield f"{number:>5}  {short}  {numbers}  {format_size(layer.hidden_bytes):>9}"
    if told.folders:
        yield from ("", f"{'FOLDERS':>9}")
        yield from (f"{format_size(folder.bytes):>9}  {printable(folder.path)}/" for folder in told.folders)
    if told.files:
        yield from ("", f"{'FILES':>9}  LAYER")
        yield from (f"{format_size(file.bytes):>9}  {file.layer:>5}  {printable(file.path)}" for file in told.files)
    if told.hidden:
        yield from ("", f"{'WASTED':>9}  LAYER  GONE IN")
        for file in told.hidden:
            how = "replaced" if file.replaced else "hidden"
            yield f"{format_size(file.bytes):>9}  {file.layer:>5}  {file.by:>7} {how:<8}  {printable(file.path)}"
    if told.duplicates:
        yield from ("", f"{'SPARE':>9}  TIMES  SAME CONTENT")
        for one in told.duplicates:
            more = f" and {one.count - len(one.paths)} more" if one.count > len(one.paths) else ""
            first, *others = map(printable, one.paths)
            yield f"{format_size(one.spare_bytes):>9}  {one.count:>5}  {first}"
            yield from (f"{'':>9}  {'':>5}  {path}" for path in others)
            if more:
                yield f"{'':>9}  {'':>5} {more}"


def _share(part: int, whole: int) -> str:
    """A size and its share of the whole."""
    return f"{format_size(part)} ({100 * part / whole if whole else 0:.1f} %)"

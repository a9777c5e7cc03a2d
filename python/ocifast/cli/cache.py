"""ocifast cache: what is kept between runs."""

from __future__ import annotations

import re
from typing import Any

import click

from ocifast.cache import Cache
from ocifast.cli import options
from ocifast.cli.display import format_size, report

__all__ = ["command"]


class _Age(click.ParamType[float]):
    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+)([smhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age; write a number with s, m, h, d or w, as 30d", param, ctx)
        seconds = int(match[1][:20]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]
        if seconds >= 1 << 53:
            self.fail(f"{value!r} is too long ago", param, ctx)
        return seconds


@click.group(short_help="Look at the cache, or make it smaller.")
def command() -> None:
    """Look at the cache of blobs, decoded layers and compiled outputs, or make it smaller.

    It stands in OCIFAST_CACHE_DIR, or else in the user's cache folder.
    """


@command.command()
@options.as_json
def info(as_json: bool) -> None:
    """Show where the cache is and how much is in it."""
    found = Cache().info()
    data = {**vars(found), "folder": str(found.folder), "total_bytes": found.total_bytes}
    report(
        data,
        as_json=as_json,
        text=lambda: "\n".join(
            (
                f"folder:   {found.folder}",
                f"blobs:    {found.blobs}, {format_size(found.blob_bytes)}",
                f"partial:  {found.partial}, {format_size(found.partial_bytes)}",
                f"layers:   {found.layers}, {format_size(found.layer_bytes)}",
                f"outputs:  {found.outputs}, {format_size(found.output_bytes)}",
                f"total:    {format_size(found.total_bytes)}",
            )
        ),
    )


@command.command()
@click.option("--max-size", metavar="SIZE", type=options.SIZE, help="Remove what was used longest ago, down to SIZE.")
@click.option("--older-than", metavar="AGE", type=_Age(), help="Remove what was not used for so long, as 30d.")
@options.as_json
def prune(max_size: int | None, older_than: float | None, as_json: bool) -> None:
    """Remove what was used longest ago; what is being written stays."""
    if max_size is None and older_than is None:
        raise click.UsageError("say how much may stay: --max-size, --older-than or both")
    _report_freed(Cache().prune(max_bytes=max_size, older_than=older_than), as_json)


@command.command()
@options.as_json
def clear(as_json: bool) -> None:
    """Remove everything that is not being written right now."""
    _report_freed(Cache().clear(), as_json)


def _report_freed(freed: int, as_json: bool) -> None:
    report({"freed_bytes": freed}, as_json=as_json, text=f"{format_size(freed)} freed")

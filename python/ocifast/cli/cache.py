"""ocifast cache: what is kept between runs."""

from __future__ import annotations

import re
from datetime import datetime
from importlib import import_module
from typing import Any

import click

from ocifast.cache import Cache, CacheEntry
from ocifast.cli import options
from ocifast.cli.display import format_size, printable, report
from ocifast.cli.help import Command

__all__ = ["command"]

_EXTENTS = {
    True: "shared: copies of outputs and layers take no room on this file system",
    False: "not shared: what is kept of outputs and layers takes its own room",
    None: "unknown until the cache is there",
}


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


class _Commands(click.Group):
    """The commands here, and one that opens images: it is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*self.commands, "export"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "export":
            found: click.Command = import_module("ocifast.cli.export").command
            return found
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, short_help="Look at the cache, or make it smaller.")
def command() -> None:
    """Look at the cache of blobs, decoded layers and compiled outputs, or make it smaller.

    It stands in OCIFAST_CACHE_DIR, or else in the user's cache folder, and takes at most OCIFAST_CACHE_SIZE (a size as
    20G, or none for no bound), or else 10 % of its file system and no more than 16 GiB.
    """


@command.command(cls=Command)
@options.as_json
def info(as_json: bool) -> None:
    """Show where the cache is, how much is in it, and how much it may take."""
    found = Cache().info()
    data = {**vars(found), "folder": str(found.folder), "total_bytes": found.total_bytes}
    report(
        data,
        as_json=as_json,
        text=lambda: "\n".join(
            (
                f"folder:   {found.folder}",
                f"blobs:    {found.blobs}, {format_size(found.blob_bytes)}",
                f"points:   {found.points}, {format_size(found.point_bytes)}",
                f"partial:  {found.partial}, {format_size(found.partial_bytes)}",
                f"layers:   {found.layers}, {format_size(found.layer_bytes)}",
                f"outputs:  {found.outputs}, {format_size(found.output_bytes)}",
                f"names:    {found.references}, {format_size(found.reference_bytes)}",
                f"remote:   {found.remotes}, {format_size(found.remote_bytes)}",
                f"total:    {format_size(found.total_bytes)}",
                f"bound:    {'none' if found.max_bytes is None else format_size(found.max_bytes)}",
                f"extents:  {_EXTENTS[found.shares_extents]}",
            )
        ),
    )


@command.command("ls", cls=Command)
@options.as_json
def list_entries(as_json: bool) -> None:
    """List what is in the cache, what was used last first."""
    found = Cache().entries()

    def text() -> str:
        rows = [(entry, datetime.fromtimestamp(entry.used).astimezone()) for entry in found]
        return "\n".join(
            f"{entry.kind:<9}  {format_size(entry.size):>9}  {used:%Y-%m-%d %H:%M}  {printable(_named(entry))}"
            for entry, used in rows
        )

    report({"entries": [vars(entry) for entry in found]}, as_json=as_json, text=text)


@command.command(cls=Command)
@click.option("--max-size", metavar="SIZE", type=options.SIZE, help="Remove what was used longest ago, down to SIZE.")
@click.option("--older-than", metavar="AGE", type=_Age(), help="Remove what was not used for so long, as 30d.")
@options.as_json
def prune(max_size: int | None, older_than: float | None, as_json: bool) -> None:
    """Remove what was used longest ago; what is being written stays.

    Without an option as much stays as the cache may take.
    """
    _report_freed(Cache().prune(max_bytes=max_size, older_than=older_than), as_json)


@command.command(cls=Command)
@options.as_json
def clear(as_json: bool) -> None:
    """Remove everything that is not being written right now."""
    _report_freed(Cache().clear(), as_json)


@command.command(cls=Command)
@options.as_json
@click.pass_context
def verify(ctx: click.Context, as_json: bool) -> None:
    """Hash everything in the cache, and remove what is damaged.

    The exit status is 1 when something was.
    """
    checked, size = 0, 0
    damaged: list[CacheEntry] = []
    for entry, whole in Cache().verify():
        checked += 1
        size += entry.size
        if not whole:
            damaged.append(entry)
    what = [{"kind": entry.kind, "name": entry.name} for entry in damaged]
    lines = [f"damaged, and removed: {entry.kind} {printable(_named(entry))}" for entry in damaged]
    lines.append(f"{checked} checked, {format_size(size)}; {len(damaged)} damaged")
    data = {"checked": checked, "checked_bytes": size, "damaged": what}
    report(data, as_json=as_json, text="\n".join(lines))
    ctx.exit(1 if damaged else 0)


def _named(entry: CacheEntry) -> str:
    made_of = " ".join(part for part in (entry.reference, entry.format) if part)
    return f"{entry.name}  {made_of}" if made_of else entry.name


def _report_freed(freed: int, as_json: bool) -> None:
    report({"freed_bytes": freed}, as_json=as_json, text=f"{format_size(freed)} freed")

"""ocifast ls: the files of an image."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import Any

import click

from ocifast.cli import options
from ocifast.cli.display import printable, report, standard_output
from ocifast.cli.registry import registry_options
from ocifast.cli.rootfs import open_rootfs
from ocifast.cli.verify import verify_options
from ocifast.rootfs import Rootfs, RootfsEntry
from ocifast.signatures import Verification

__all__ = ["command", "entry_json"]

_TYPES = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}


@click.command(short_help="List the files of an image.")
@options.image_argument
@click.argument("path", default="/")
@click.option("-R", "--recursive", is_flag=True, help="List what is in folders, too.")
@options.platform
@options.seed
@options.follow_links
@verify_options
@options.cached
@options.quiet
@options.progress
@options.as_json
@registry_options
def command(
    image: str,
    path: str,
    recursive: bool,
    platform: str | None,
    seeds: tuple[Path, ...],
    follow_links: bool,
    verify: Verification | None,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    quiet: bool,
    progress: str,
    as_json: bool,
    **registry: Any,
) -> None:
    """List the files of IMAGE at PATH: mode, owner, group, size, time (UTC), path.

    All layers are applied: what is shown is what a container sees. Links on the way to PATH, and one to a directory at
    its end, are followed inside the image.
    """
    with open_rootfs(
        image,
        platform,
        seeds,
        follow_links=follow_links,
        no_cache=no_cache,
        offline=offline,
        refresh=refresh,
        quiet=quiet,
        progress=progress,
        verify=verify,
        registry=registry,
    ) as rootfs:
        entries = _chosen(rootfs, path, recursive)
        if as_json:
            report({"entries": [entry_json(entry) for entry in entries]}, as_json=True, text="")
            return
        lines = [_line(entry) for entry in entries]
    with standard_output():
        for line in lines:
            click.echo(line)


def _chosen(rootfs: Rootfs, path: str, recursive: bool) -> list[RootfsEntry]:
    if rootfs.stat(path).type != "directory":
        return [rootfs.stat(path, follow=False)]
    return list(rootfs.walk(rootfs.resolve(path))) if recursive else rootfs.scandir(path)


def _line(entry: RootfsEntry) -> str:
    mode = stat.filemode(_TYPES[entry.type] | entry.mode)
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.mtime_ns // 10**9))
    target = f" -> {entry.target}" if entry.type == "symlink" else ""
    return f"{mode} {entry.uid:>5} {entry.gid:>5} {entry.size:>12} {when} {printable(entry.path + target)}"


def entry_json(entry: RootfsEntry) -> dict[str, Any]:
    """An entry as JSON has it."""
    return {
        "path": entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "type": entry.type,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "target": entry.target.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        "inode": entry.inode,
    }

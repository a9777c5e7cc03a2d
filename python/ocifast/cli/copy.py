"""`ocifast copy`: an image from any place to any other. `pull` and `push` are the same with one end fixed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ocifast.cli.display import check_stdout, format_size, report, streaming
from ocifast.cli.help import Command
from ocifast.cli.options import (
    PLACE,
    as_json,
    cache_for,
    cached,
    follow_links,
    no_sync,
    platform,
    progress,
    quiet,
    together,
)
from ocifast.cli.progress import progress_display
from ocifast.cli.registry import make_options, registry_options
from ocifast.cli.verify import verify_options

if TYPE_CHECKING:
    from ocifast.copying import CopyResult
    from ocifast.signatures import Verification

__all__ = ["all_platforms", "command", "moving", "parallel", "run_copy"]

all_platforms = click.option(
    "--all", "all_platforms", is_flag=True, default=None, help="Take every platform of an index."
)
parallel = click.option(
    "--parallel",
    metavar="N",
    type=click.IntRange(min=1, max=64),
    default=4,
    show_default=True,
    help="Blobs at a time, per registry.",
)
moving = together(parallel, follow_links, verify_options, cached, no_sync, registry_options, quiet, progress, as_json)
"""What all that moves images has; `run_copy` and `run_mirror` take it."""


@click.command(cls=Command)
@click.argument("source", metavar="SOURCE", type=PLACE, required=False)
@click.argument("destination", metavar="DEST", type=PLACE, required=False)
@click.option(
    "--from-file",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Copy the images of this list, in YAML or lines of JSON; DEST is for those that say no destination.",
)
@click.option("--all-tags", is_flag=True, help="Copy every tag of the repository or layout SOURCE.")
@click.option(
    "--include", metavar="PATTERN", multiple=True, help="Of all tags, take these. May be given several times."
)
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Of all tags, leave these out.")
@click.option(
    "--images",
    metavar="N",
    type=click.IntRange(min=1, max=64),
    help="Of a list or all tags, copy so many images at a time (4 unless given).",
)
@platform
@all_platforms
@click.option("--referrers", is_flag=True, help="Copy signatures and the like that refer to the image, too.")
@click.option(
    "--layers", type=click.Choice(["erofs"]), help="Rewrite the layers of one image to erofs images; see --draft."
)
@click.option("--draft", is_flag=True, help="Says that --layers is a draft, whose media types may change.")
@moving
def command(
    source: str | None,
    destination: str | None,
    *,
    from_file: str | None,
    all_tags: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    images: int | None,
    referrers: bool,
    layers: str | None,
    draft: bool,
    **options: Any,
) -> int | None:
    """Copy an image from SOURCE to DEST, byte for byte, an index whole unless --platform names one image.

    SOURCE is {anywhere}.

    DEST is {writable}.

    With --all-tags both are repositories or layouts, without a tag. With --from-file there is no SOURCE. Blobs that
    images share are moved once; what is there stays; an image that fails stops no other one.
    """
    if from_file is not None or all_tags:
        if layers is not None or draft:
            raise click.UsageError("--layers rewrites one image; leave it out, or name one SOURCE and one DEST")
        from ocifast.cli.mirror import mirror_entries, run_mirror
        from ocifast.mirroring import MirrorEntry

        one = options.pop("platform")
        if from_file is not None:
            if destination is not None or all_tags or include or exclude:
                raise click.UsageError("with --from-file the file says what is copied; DEST alone can be given")
            entries = list(mirror_entries(from_file, source, one))
        elif source is None or destination is None:
            raise click.UsageError("--all-tags needs SOURCE and DEST")
        else:
            entries = [MirrorEntry(source, destination, one, all_tags=True, include=include, exclude=exclude)]
        return run_mirror(entries, images=images, referrers=referrers, **options)
    if source is None or destination is None:
        raise click.UsageError(f"Missing argument '{'SOURCE' if source is None else 'DEST'}'.")
    if include or exclude:
        raise click.UsageError("--include and --exclude choose of --all-tags")
    if images is not None:
        raise click.UsageError("--images is for a list, or for --all-tags")
    from ocifast.transfers import copy

    run_copy(partial(copy, referrers=referrers, layers=layers, draft=draft), source, destination, **options)
    return None


def run_copy(
    verb: Callable[..., CopyResult],
    source: str,
    destination: str,
    *,
    platform: str | None,
    all_platforms: bool | None,
    parallel: int,
    follow_links: bool,
    verify: Verification | None,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    quiet: bool,
    progress: str,
    as_json: bool,
    sync: bool | None = None,
    **registry: Any,
) -> None:
    """Copies with a verb of `ocifast.transfers`, shows progress, and reports the digest."""
    from dataclasses import asdict

    from ocifast.sources.open import parse_location, writes_stdout

    places = parse_location(source), parse_location(destination)
    to_stdout = writes_stdout(places[1])
    if to_stdout:
        check_stdout(destination, as_json=as_json)
    options = make_options(*(place.remote.host for place in places if place.remote), **registry)
    # A registry keeps the blobs that it got; the name is what comes last.
    unfinished = f"{places[1]} was not changed" if places[1].is_remote else "nothing was written"
    if to_stdout:
        unfinished = "standard output is not complete"
    with (
        streaming(to_stdout),
        progress_display(source, mode=progress, quiet=quiet, finishes=True, unfinished=unfinished) as show,
    ):
        result = verb(
            source,
            destination,
            platform=platform,
            all_platforms=all_platforms,
            parallel=parallel,
            follow_links=follow_links,
            verify=verify,
            cache=cache_for(no_cache, offline, refresh) if places[0].is_remote else None,
            offline=offline,
            refresh=refresh,
            options=options,
            progress=show,
            **({} if sync is None else {"sync": sync}),
        )
    data = {"source": source, "destination": destination, **asdict(result)}
    text = result.digest if quiet else f"{result.digest}  {_summary(result)}"
    report(data, as_json=as_json, text=text, to_stderr=to_stdout)


def _summary(result: CopyResult) -> str:
    blobs = f"{result.copied} {'blob' if result.copied == 1 else 'blobs'} copied ({format_size(result.bytes)})"
    there = f", {result.existing} already there" if result.existing else ""
    if result.platform is None or result.platforms < 2:
        return blobs + there
    return f"{blobs}{there}; {result.platform}, one of {result.platforms} platforms (--all takes every one)"

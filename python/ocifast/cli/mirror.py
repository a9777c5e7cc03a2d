"""`ocifast copy` of many images: a list from a file, or all tags of a repository."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ocifast.cli.batchfile import read_entries, read_file
from ocifast.cli.display import encodable, format_size, printable, say, standard_output
from ocifast.cli.progress import images_display
from ocifast.cli.registry import make_options
from ocifast.errors import ImageReferenceError, UsageError
from ocifast.mirroring import IMAGES, MirrorEntry, MirrorResult, copy_many
from ocifast.opening import Asking, asking
from ocifast.sources.open import parse_location

if TYPE_CHECKING:
    from ocifast.signatures import Verification

__all__ = ["mirror_entries", "run_mirror"]

_FIELDS = ("source", "destination", "platform", "all_tags", "include", "exclude")


def mirror_entries(file: str, base: str | None, platform: str | None) -> Iterator[MirrorEntry]:
    """The entries of a file.

    Args:
        file: its name; "-" is standard input.
        base: a registry with the beginning of a path, or a layout: where what says no destination goes.
        platform: of entries that say none.

    Raises:
        FileError: it cannot be read.
        UsageError: an entry makes no sense; the message names it.
    """
    for where, entry in read_entries(file, read_file(file)):
        for field in entry:
            if field not in _FIELDS:
                raise UsageError(f"{where} has the unknown field {str(field)[:100]!r}; known are {', '.join(_FIELDS)}")
        source, destination = entry.get("source"), entry.get("destination")
        if not isinstance(source, str) or not isinstance(destination, (str, type(None))):
            raise UsageError(f"{where} has no source, or a place that is no text")
        all_tags = entry.get("all_tags", False)
        patterns = [_patterns(entry.get(field, ()), f"{where}: {field}") for field in ("include", "exclude")]
        try:
            yield MirrorEntry(
                source,
                destination or _below(base, source, all_tags=all_tags),
                entry.get("platform", platform),
                all_tags,
                *patterns,
            )
        except (UsageError, ImageReferenceError) as error:
            raise UsageError(f"{where}: {error.message}") from None


def run_mirror(
    entries: list[MirrorEntry],
    *,
    all_platforms: bool | None,
    referrers: bool,
    images: int | None,
    parallel: int,
    follow_links: bool,
    verify: Verification | None,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    quiet: bool,
    progress: str,
    as_json: bool,
    sync: bool,
    **registry: Any,
) -> int:
    """Copies, tells each image as it is done, and sums up; the exit status is 1 when one failed.

    Blobs go from place to place without the cache: a mirror has more of them than that would hold.
    """
    if asking(offline, refresh) is Asking.OFFLINE:
        raise UsageError("many images are copied from where they are, and --offline asks no registry")
    hosts = {
        location.remote.host
        for entry in entries
        for location in (parse_location(entry.source), parse_location(entry.destination))
        if location.remote is not None
    }
    options = make_options(*sorted(hosts), **registry)
    counts = {"copied": 0, "existing": 0, "failed": 0}
    moved = 0
    unfinished = "not all images are copied; the same command goes on"
    with images_display(mode=progress, quiet=quiet, unfinished=unfinished) as display:
        for result in copy_many(
            entries,
            all_platforms=all_platforms,
            referrers=referrers,
            images=images or IMAGES,
            parallel=parallel,
            follow_links=follow_links,
            verify=verify,
            sync=sync,
            options=options,
            progress=display.begin,
        ):
            display.end(result.source)
            counts[result.to_json()["status"]] += 1
            moved += result.copied.bytes if result.copied is not None else 0
            _tell(result, as_json=as_json)
    summary = {"total": sum(counts.values()), **counts, "bytes": moved}
    if as_json:
        with standard_output():
            click.echo(json.dumps({"summary": summary}))
    else:
        say(
            f"ocifast: {counts['copied']} copied ({format_size(moved)}), {counts['existing']} there already, "
            f"{counts['failed']} failed"
        )
    return 1 if counts["failed"] else 0


def _tell(result: MirrorResult, *, as_json: bool) -> None:
    places = f"{printable(result.source)} -> {printable(result.destination)}"
    if result.error is not None:
        say(f"ocifast: {places} failed: {printable(' '.join(str(result.error).split()))}")
    if as_json:
        text = encodable(json.dumps(result.to_json(), default=str, ensure_ascii=False))
    elif result.error is not None:
        return
    elif result.copied is None or result.existing:
        text = f"{result.digest}  {places}: there already"
    else:
        blobs = f"{result.copied.copied} {'blob' if result.copied.copied == 1 else 'blobs'}"
        there = f", {result.copied.existing} already there" if result.copied.existing else ""
        text = f"{result.digest}  {places}: {blobs} copied ({format_size(result.copied.bytes)}){there}"
    with standard_output():
        click.echo(text)
        sys.stdout.flush()


def _below(base: str | None, source: str, *, all_tags: bool) -> str:
    """Where an image goes below a registry's path or in a layout, under the name that it has."""
    if base is None:
        raise UsageError("there is no destination; name one in the entry, or one for all on the command line")
    origin = parse_location(source)
    if origin.remote is None:
        raise UsageError(f"{source} has no name in a registry that its destination could have; name one")
    tag = "" if all_tags else f":{origin.remote.tag or 'latest'}" if origin.remote.digest is None else ""
    if base.startswith("oci:"):
        if all_tags:
            raise UsageError("tags of many repositories would be mixed in one layout; name a destination for each")
        return f"{base}:{origin.remote.name}{tag or '@' + str(origin.remote.digest)}"
    if origin.remote.digest is not None and not all_tags:
        tag = f":{origin.remote.tag}" if origin.remote.tag else f":{origin.remote.digest.replace(':', '-')}"
    return f"{base.rstrip('/')}/{origin.remote.repository}{tag}"


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, (list, tuple)) or not all(isinstance(each, str) for each in several):
        raise UsageError(f"{where} is no list of patterns")
    return tuple(several)

"""`ocifast runnable`: executables that become an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ocifast.cli.display import check_stdout, report, streaming
from ocifast.cli.help import Command, PlacesOption
from ocifast.cli.options import (
    PLACE,
    PLACE_OR_FILE,
    as_json,
    cache_for,
    cached,
    follow_links,
    no_sync,
    progress,
    quiet,
    together,
)
from ocifast.cli.progress import progress_display
from ocifast.cli.registry import OPTION_NAMES, make_options, registry_options

if TYPE_CHECKING:
    from ocifast.runnable import BuiltRunnable, Runnable

__all__ = ["command"]

_options = together(
    click.option("-t", "--tag", "reference", metavar="NAME", help="The image's name: HOST/NAME[:TAG]."),
    click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=PLACE_OR_FILE,
        cls=PlacesOption,
        help="Where to write it: a file, for an OCI archive, or {disk}.",
    ),
    click.option("--push", is_flag=True, help="Send it to the registry that --tag names."),
    click.option("--name", help="The executable's name in the image.  [default: that of its file]"),
    click.option("--arg", "args", multiple=True, metavar="TEXT", help="An argument; `run` may replace all of them."),
    click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="An environment variable."),
    click.option("--user", metavar="NAME[:GROUP]|UID[:GID]", help="Who runs it; a name gets an /etc/passwd."),
    click.option("--workdir", "working_dir", metavar="PATH", help="Where it runs.  [default: that of the base, or /]"),
    click.option("-l", "--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label of the config."),
    click.option("--annotation", "annotations", multiple=True, metavar="NAME=VALUE", help="An annotation."),
    click.option("-p", "--port", "ports", multiple=True, metavar="PORT[/PROTOCOL]", help="A port it listens on."),
    click.option("--volume", "volumes", multiple=True, metavar="PATH", help="A place for data."),
    click.option("--stop-signal", metavar="SIGNAL", help="The signal that ends it."),
    click.option("--add", multiple=True, metavar="SRC:DST", help="A file or folder for the image, at /DST."),
    click.option("--ca-certs", is_flag=True, help="Take this machine's CA certificates along."),
    click.option("--ca-certs-file", metavar="FILE", type=click.Path(path_type=Path), help="Take these along instead."),
    click.option("--time-zones", is_flag=True, help="Take this machine's time zones along."),
    click.option("--time-zones-dir", metavar="DIR", type=click.Path(path_type=Path), help="Take these along instead."),
    click.option(
        "--base", metavar="IMAGE", type=PLACE, help="An image to build on: its layers below, its config added to."
    ),
    follow_links,
    cached,
    click.option("--bundle", is_flag=True, help="Take the libraries of a dynamically linked executable along."),
    click.option(
        "--sysroot",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=Path("/"),
        help="The root of the system that a dynamically linked executable was built for.",
    ),
    click.option(
        "--compression",
        type=click.Choice(["none", "gzip", "zstd"]),
        default="none",
        show_default=True,
        help="How layers are compressed.",
    ),
    click.option("--level", type=int, metavar="N", help="Level of the compression: gzip 1 to 9, zstd 1 to 22."),
)


@click.command(cls=Command)
@click.argument("executables", metavar="EXECUTABLE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@_options
@no_sync
@registry_options
@quiet
@progress
@as_json
def command(
    executables: tuple[Path, ...],
    reference: str | None,
    output: str | None,
    push: bool,
    base: str | None,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    quiet: bool,
    progress: str,
    as_json: bool,
    sync: bool,
    **options: Any,
) -> None:
    """Turn a statically linked executable into an image.

    Several executables for different machines become one image index. The digest is printed. Layers have the same
    bytes on every machine and every day; SOURCE_DATE_EPOCH is the time of creation.
    """
    from ocifast.errors import UsageError

    if push == (output is not None):
        raise UsageError("say where the image shall go: either --output FILE or --push")
    if push and reference is None:
        raise UsageError("--push needs to know where to: give --tag HOST/NAME[:TAG]")
    to_stdout = output is not None and _writes_stdout(output)
    if to_stdout:
        check_stdout("--output", as_json=as_json)
    registry = {name: options.pop(name) for name in OPTION_NAMES}
    runnable = _runnable(executables, base=base, **options)
    hosts = [*_hosts(reference if push else None), *_hosts(base), *_hosts(_stated(output))]
    # Without a registry its client stays unloaded: half of the time of a small build.
    registries = make_options(*hosts, **registry) if hosts else None
    reading: dict[str, Any] = {"offline": offline, "refresh": refresh}
    if _hosts(base):
        reading["cache"] = cache_for(no_cache, offline, refresh)
    unfinished = f"{reference} was not changed" if push else "nothing was written"
    if to_stdout:
        unfinished = "standard output is not complete"
    title = reference or output or ""
    with (
        streaming(to_stdout),
        progress_display(title, mode=progress, quiet=quiet, finishes=True, unfinished=unfinished) as show,
    ):
        if push and reference is not None:
            built = runnable.push(reference, options=registries, progress=show, **reading)
        else:
            written: dict[str, Any] = {"sync": sync, "progress": show, **reading}
            built = runnable.write(output or "", reference=reference, options=registries, **written)
    report(_told(built), as_json=as_json, text=built.digest, to_stderr=to_stdout)


def _runnable(
    executables: tuple[Path, ...],
    *,
    env: tuple[str, ...],
    labels: tuple[str, ...],
    annotations: tuple[str, ...],
    add: tuple[str, ...],
    ca_certs: bool,
    ca_certs_file: Path | None,
    time_zones: bool,
    time_zones_dir: Path | None,
    **options: Any,
) -> Runnable:
    from ocifast.runnable import Runnable

    return Runnable(
        executables,
        env=_pairs(env, "--env"),
        labels=_pairs(labels, "--label"),
        annotations=_pairs(annotations, "--annotation"),
        add=[_source_and_target(text) for text in add],
        ca_certs=ca_certs_file or ca_certs,
        time_zones=time_zones_dir or time_zones,
        **options,
    )


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    from ocifast.errors import UsageError

    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{option} {text!r} has no value; write NAME=VALUE")
        pairs[name] = value
    return pairs


def _source_and_target(text: str) -> tuple[str, str]:
    from ocifast.errors import UsageError

    source, _, target = text.rpartition(":")
    if not source or not target:
        raise UsageError(f"--add {text!r} says not where to; write SOURCE:/PATH")
    return source, target


def _hosts(text: str | None) -> list[str]:
    """The registry that a location names."""
    from ocifast.errors import ImageReferenceError
    from ocifast.sources.open import parse_location

    try:
        location = parse_location(text) if text else None
    except ImageReferenceError:  # a plain path, or told of later
        return []
    return [location.remote.host] if location and location.remote else []


def _stated(output: str | None) -> str | None:
    """The output, where it is a location; a plain path would be read as the name of an image."""
    from ocifast.sources.open import is_location

    return output if output is not None and is_location(output) else None


def _writes_stdout(output: str) -> bool:
    from ocifast.runnable.runnable import place_of
    from ocifast.sources.open import writes_stdout

    return writes_stdout(place_of(output, None))


def _told(built: BuiltRunnable) -> dict[str, Any]:
    return {
        "destination": built.destination,
        "media_type": built.media_type,
        "digest": built.digest,
        "images": [
            {
                "platform": str(image.platform),
                "digest": image.digest,
                "config": image.config_digest,
                "layers": [
                    {"media_type": layer.media_type, "digest": layer.digest, "size": layer.size}
                    for layer in image.layers
                ],
            }
            for image in built.images
        ],
    }

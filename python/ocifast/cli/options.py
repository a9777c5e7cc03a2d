"""Options that several commands share, each with one name, one meaning and one help text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ocifast.sizes import parse_size

if TYPE_CHECKING:
    import click.shell_completion

    from ocifast.cache import Cache

__all__ = [
    "PLACE",
    "PLACE_OR_FILE",
    "SIZE",
    "as_json",
    "cache_for",
    "cached",
    "image_argument",
    "jobs",
    "keep_layers",
    "no_sync",
    "platform",
    "progress",
    "quiet",
    "seed",
    "tmp_dir",
    "together",
]

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


def together(*options: Decorator[Any]) -> Decorator[Any]:
    """One decorator for several options, which help shows in this order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _remember_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    # Looked at by `main`, so that an error is told as JSON too, even one in the parsing of later options.
    root = ctx.find_root()
    if isinstance(root.obj, dict):
        root.obj["json"] = value
    return value


as_json: Decorator[Any] = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_remember_json,
    help="Write the result (or the error) to standard output as JSON.",
)
"""Passes `as_json: bool`."""

quiet: Decorator[Any] = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
"""Passes `quiet: bool`."""

progress: Decorator[Any] = click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "json", "none"]),
    default="auto",
    envvar="OCIFAST_PROGRESS",
    help="How progress is told on standard error: auto draws on a terminal and writes plain lines elsewhere.",
)
"""Passes `progress: str`, one of `ocifast.cli.progress.MODES`."""

platform: Decorator[Any] = click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    help="Which image of an index to take.  [default: this machine's]",
)
"""Passes `platform: str | None`."""

cached = together(
    click.option("--no-cache", is_flag=True, help="Neither look into the cache nor write to it."),
    click.option(
        "--offline",
        is_flag=True,
        default=None,
        help="Ask no registry; what the cache lacks is an error.  [default: OCIFAST_OFFLINE, or no]",
    ),
    click.option(
        "--refresh", is_flag=True, help="Ask the registry for the manifest again, also where OCIFAST_OFFLINE is set."
    ),
)
"""Passes `no_cache: bool`, `offline: bool | None` and `refresh: bool`."""


def cache_for(no_cache: bool, offline: bool | None, refresh: bool) -> Cache | None:
    """The cache that a command reads images through; None for none.

    Raises:
        UsageError: options that contradict each other.
    """
    from ocifast.opening import Asking, refuse_uncached

    if refuse_uncached(not no_cache, offline, refresh) is Asking.OFFLINE or no_cache:
        # Offline, what is wrong with it is an error.
        return None
    from ocifast.cache import Cache

    return Cache.usable()


keep_layers: Decorator[Any] = click.option(
    "--keep-layers/--no-keep-layers",
    default=None,
    help="Keep layers in the cache once they are decoded. [default: OCIFAST_KEEP_LAYERS, or no]",
)
"""Passes `keep_layers: bool | None`."""

no_sync: Decorator[Any] = click.option(
    "--no-sync",
    "sync",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Do not wait until what is made is on the disk: a power failure may damage it. The cache is never waited for.",
)
"""Passes `sync: bool`, False where it is given."""

seed: Decorator[Any] = click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An OCI layout that is looked at before the registry. May be given several times.",
)
"""Passes `seeds: tuple[Path, ...]`."""

follow_links: Decorator[Any] = click.option(
    "--follow-links",
    is_flag=True,
    help="Follow symbolic links that lead out of a layout that is read.",
)
"""Passes `follow_links: bool`."""

tmp_dir: Decorator[Any] = click.option(
    "--tmp-dir",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where data waits while layers arrive.  [default: beside the output]",
)
"""Passes `tmp_dir: Path | None`."""

jobs: Decorator[Any] = click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Threads to use. The output is the same for any number.  [default: one per processor]",
)
"""Passes `jobs: int | None`."""


class Place(click.ParamType[str]):
    """Where an image is, as `ocifast.sources.open.parse_location` takes it; shells complete it."""

    name = "place"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem[str]]:
        """Transports, and the files behind them."""
        from ocifast.cli.completion import places

        return places(incomplete)


class PlaceOrFile(Place):
    """The same, or a plain file name."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem[str]]:
        """Transports, the files behind them, and files."""
        from click.shell_completion import CompletionItem

        return (
            super().shell_complete(ctx, param, incomplete) if ":" in incomplete else [CompletionItem("", type="file")]
        )


PLACE = Place()
PLACE_OR_FILE = PlaceOrFile()

image_argument: Decorator[Any] = click.argument("image", metavar="IMAGE", type=PLACE)
"""Passes `image: str`."""


class Size(click.ParamType[int]):
    """A number of bytes: `4096`, `512K`, `64M`, `2G` (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = Size()

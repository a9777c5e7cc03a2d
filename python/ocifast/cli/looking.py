"""What the commands that look into images share: their options, and how they open what they look at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ocifast.cli import options
from ocifast.cli.options import cache_for
from ocifast.cli.progress import progress_display
from ocifast.cli.registry import OPTION_NAMES, options_for, registry_options
from ocifast.cli.verify import verify_options
from ocifast.errors import OcifastError, PathNotFoundError
from ocifast.image import Image, open_image
from ocifast.records import dataclass

if TYPE_CHECKING:
    from ocifast.peek import Peek
    from ocifast.progress import Progress
    from ocifast.signatures import Verification
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["Looking", "looking_options", "not_there"]

Function = TypeVar("Function", bound=Callable[..., Any])
Answer = TypeVar("Answer")


def not_there(error: PathNotFoundError, image: str) -> OcifastError:
    """The error with the image's name, and what to do next."""
    named = error.about(image)
    return type(named)(f"{named.message}; 'ocifast ls {image}' lists what is there", **named.context)


@dataclass(frozen=True)
class Looking:
    """What was chosen with `looking_options`.

    Attributes:
        platform: which image of an index.
        seeds: folders with image layouts that are looked at before a registry.
        follow_links: out of a layout.
        verify: how the image must be signed.
        no_cache: what comes of a registry is neither looked for in the cache nor kept there.
        offline: no registry is asked.
        refresh: a registry is asked again.
        quiet: shows no progress.
        progress: how it is shown.
        registry: what `registry_options` passed on.
    """

    platform: str | None
    seeds: Sequence[Path]
    follow_links: bool
    verify: Verification | None
    no_cache: bool
    offline: bool | None
    refresh: bool
    quiet: bool
    progress: str
    registry: Mapping[str, Any]

    @contextmanager
    def opened(self, image: str, *, options: RegistryOptions | None = None) -> Iterator[Image]:
        """The image that a command looks into.

        Args:
            image: where it is.
            options: how its registry is spoken to; by default as the options say.
        """
        cache = cache_for(self.no_cache, self.offline, self.refresh)
        found = open_image(
            image,
            platform=self.platform,
            options=options or options_for(image, self.registry),
            seeds=self.seeds,
            cache=cache,
            follow_links=self.follow_links,
            offline=self.offline,
            refresh=self.refresh,
            verify=self.verify,
        )
        with found:
            yield found
        if cache is not None:
            cache.keep_to_bound()

    def display(self, title: str) -> AbstractContextManager[Progress]:
        """Shows progress while the block runs."""
        return progress_display(title, mode=self.progress, quiet=self.quiet, makes=False)

    @contextmanager
    def peeked(self, image: str, ask: Callable[[Peek], Answer]) -> Iterator[Answer]:
        """What `ask` finds in an image, read with as few layers as it needs; progress is shown meanwhile.

        What it opens can be read in the block.
        """
        with self.opened(image) as found:
            try:
                with self.display(image) as show:
                    peek = found.peek(progress=show)
                    try:
                        answer = ask(peek)
                    except BaseException:
                        peek.close()
                        raise
                with peek:
                    yield answer
            except PathNotFoundError as error:
                raise not_there(error, image) from None


def looking_options(function: Function) -> Function:
    """The options of a command that looks into images; it gets `looking: Looking`."""

    @functools.wraps(function)
    def command(
        *arguments: Any,
        platform: str | None,
        seeds: tuple[Path, ...],
        follow_links: bool,
        verify: Verification | None,
        no_cache: bool,
        offline: bool | None,
        refresh: bool,
        quiet: bool,
        progress: str,
        **others: Any,
    ) -> Any:
        registry = {name: others.pop(name) for name in OPTION_NAMES}
        looking = Looking(platform, seeds, follow_links, verify, no_cache, offline, refresh, quiet, progress, registry)
        return function(*arguments, looking=looking, **others)

    decorate = options.together(
        options.platform,
        options.seed,
        options.follow_links,
        verify_options,
        options.cached,
        options.quiet,
        options.progress,
        registry_options,
    )
    decorated: Function = decorate(command)
    return decorated

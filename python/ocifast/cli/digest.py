"""`ocifast digest`: the digest that a name stands for now."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from ocifast.cli.display import report
from ocifast.cli.help import Command
from ocifast.cli.options import as_json, cache_for, cached, follow_links, image_argument, platform
from ocifast.cli.registry import options_for, registry_options

__all__ = ["command"]


@click.command(cls=Command)
@image_argument
@platform
@follow_links
@cached
@registry_options
@as_json
def command(
    image: str,
    *,
    platform: str | None,
    follow_links: bool,
    no_cache: bool,
    offline: bool | None,
    refresh: bool,
    as_json: bool,
    **registry: Any,
) -> None:
    """Print the digest of IMAGE: of its manifest, or of its index unless --platform names one image.

    IMAGE is {anywhere}. A registry is asked for the digest alone, if it states that.
    """
    from ocifast import platforms
    from ocifast.image import resolve
    from ocifast.opening import Asking, asking, open_cached
    from ocifast.sources.open import open_source, parse_location

    location = parse_location(image)
    wanted = None if platform is None else platforms.parse(platform)
    options, how = options_for(image, registry), asking(offline, refresh)
    # One that the reference states is no answer: whether it is there is the question.
    if location.remote is not None and location.remote.digest is None and wanted is None and how is not Asking.OFFLINE:
        opened = open_source(location, options=options)
    else:
        opened = open_cached(
            location,
            cache_for(no_cache, offline, refresh),
            how=how,
            platform=wanted or "all",
            options=options,
            follow_links=follow_links,
        )
    with closing(opened) as source:
        asked = getattr(source, "digest", None)
        if wanted is not None:
            digest = resolve(source, wanted).digest
        elif location.remote is not None and location.remote.digest is None and callable(asked):
            digest = asked()
        else:
            digest = source.root().digest
        name = source.name
    report({"reference": name, "digest": digest}, as_json=as_json, text=digest)

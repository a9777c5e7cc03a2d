"""What somebody may have meant who asked for a tag that is not there. Loaded only when that happens."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ocifast.errors import OcifastError
from ocifast.reference import Reference
from ocifast.shown import shortened
from ocifast.sources.registry import list_tags

if TYPE_CHECKING:
    from ocifast.sources.registry.options import RegistryOptions

__all__ = ["similar_tags"]

_PAGES = 5
"""Most pages of the list of tags that are asked for."""
_SECONDS = 5.0
"""How long an answer may take: who has mistyped does not wait for a list."""
_TAG = 128
"""Longest tag (distribution-spec, "Pulling manifests")."""


def similar_tags(name: str, options: RegistryOptions) -> list[str]:
    """At most three tags of the repository that are spelt much like that of a reference; none when that is not known.

    Args:
        name: the reference that was not found.
        options: how its registry is spoken to.
    """
    try:
        reference = Reference.parse(name)
        if reference.tag is None or reference.digest is not None:
            return []
        quick = replace(
            options,
            retries=0,
            connect_timeout=min(options.connect_timeout, _SECONDS),
            read_timeout=min(options.read_timeout, _SECONDS),
        )
        tags = list_tags(reference, quick, pages=_PAGES)
    except OcifastError:
        return []
    return [shortened(tag, _TAG) for tag in get_close_matches(reference.tag, [tag for tag in tags if len(tag) <= _TAG])]

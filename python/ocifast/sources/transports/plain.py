"""Locations that are a prefix and a path, without a name within."""

from __future__ import annotations

from ocifast.reference import Location, invalid
from ocifast.sources.transports.transport import named_path

__all__ = ["parse_path"]


def parse_path(text: str, rest: str) -> Location:
    """All that follows the prefix is the path, colons included."""
    if not rest:
        raise invalid(text, f"the path is missing; write {text}PATH")
    return Location(text, text.partition(":")[0], path=named_path(rest))

"""Locations that are a prefix and a path, without a name within."""

from __future__ import annotations

from pathlib import Path

from ocifast.reference import Location, invalid

__all__ = ["parse_path"]


def parse_path(text: str, rest: str) -> Location:
    """All that follows the prefix is the path, colons included."""
    if not rest:
        raise invalid(text, f"the path is missing; write {text}PATH")
    return Location(text, text.partition(":")[0], path=Path(rest))

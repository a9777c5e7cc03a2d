"""Which options change the bytes of an output. Those that do are in the key under which it is cached.

Every field of every class of options is made by one of the two functions here; a test walks all of them, and fails for
a field that says neither, and for one that says "yes" and is in no key.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields
from typing import Any

__all__ = ["byte_values", "changes_bytes", "changes_bytes_of", "keeps_bytes"]

_MARK = "changes_bytes"


def changes_bytes(default: Any = MISSING, *, told_by: str | None = None, **of_field: Any) -> Any:
    """A field whose value changes the bytes of an output.

    Args:
        default: its default.
        told_by: what of the key stands for it; None when its value itself does.
        of_field: what else `dataclasses.field` takes.
    """
    return field(default=default, metadata={_MARK: True, "told_by": told_by}, **of_field)


def keeps_bytes(**of_field: Any) -> Any:
    """A field whose value changes no byte of any output; takes what `dataclasses.field` takes."""
    return field(metadata={_MARK: False}, **of_field)


def changes_bytes_of(kind: type) -> dict[str, bool]:
    """Of each field of a class of options whether it changes bytes. Raises KeyError for one that does not say it."""
    return {each.name: each.metadata[_MARK] for each in fields(kind)}


def byte_values(options: Any) -> dict[str, Any]:
    """The values of all fields that stand in the key themselves."""
    return {
        each.name: getattr(options, each.name)
        for each in fields(options)
        if each.metadata[_MARK] and each.metadata["told_by"] is None
    }

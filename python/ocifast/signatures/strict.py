"""JSON that decides about trust, read so that it has one meaning only: no key twice, no unknown field."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

__all__ = ["UnclearError", "fields_of", "loads"]


class UnclearError(ValueError):
    """A document that decides about trust, and is not what it must be."""


def loads(raw: bytes | str) -> Any:
    """A JSON document. Raises UnclearError when it is malformed, has a key twice, or is nested too deep."""
    try:
        return json.loads(raw, object_pairs_hook=_unique, parse_constant=_refused)
    except UnclearError:
        raise
    except ValueError as error:
        raise UnclearError(f"it is no JSON: {error}") from None
    except RecursionError:
        raise UnclearError("it is nested too deep") from None


def fields_of(value: Any, what: str, *, needed: Collection[str] = (), allowed: Collection[str] = ()) -> dict[str, Any]:
    """An object with exactly these fields, `allowed` ones or not. Raises UnclearError with the field that is wrong."""
    if not isinstance(value, dict):
        raise UnclearError(f"{what} is no object")
    for name in needed:
        if name not in value:
            raise UnclearError(f"{what} has no field {name!r}")
    for name in value:
        if name not in needed and name not in allowed:
            raise UnclearError(f"{what} has an unknown field {name[:100]!r}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnclearError("a key stands twice in one object")
    return found


def _refused(text: str) -> None:
    raise UnclearError(f"{text} is no JSON")

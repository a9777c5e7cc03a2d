"""Configuration files in TOML, read to a bound."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ocifast.errors import FileError, reason

__all__ = ["read_toml"]

_LIMIT = 1 << 20
_Read = TypeVar("_Read")


def read_toml(path: Path, needed: bytes, read: Callable[[dict[str, Any]], _Read], *, what: str) -> _Read:
    """What `read` makes of a file's tables.

    Args:
        path: the file.
        needed: without these bytes in a line that is no comment nothing in it is of interest: most such files hold
            other things only, or examples, and a parser takes its time. `read` gets an empty table then. Spaces and
            quotes in the line do not count.
        read: raises ValueError, TypeError, AttributeError or KeyError for tables that are none of its own.
        what: what the file should do, for messages: "configure registries".

    Raises:
        FileError: it cannot be read, or does not do this.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT)
        if not _mentions(raw, needed):
            return read({})
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        return read(tomllib.loads(raw.decode("utf-8")))
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise FileError(f"{path} does not {what}: {reason(error)}", path=str(path)) from None


def _mentions(raw: bytes, needed: bytes) -> bool:
    lines = (line.translate(None, b" \t\"'") for line in raw.splitlines())
    return any(needed in line for line in lines if not line.startswith(b"#"))

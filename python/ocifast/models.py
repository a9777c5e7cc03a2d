"""What makes a model of a JSON document safe to read from any thread."""

from __future__ import annotations

from typing import TypeVar

import msgspec

__all__ = ["readable"]

_Model = TypeVar("_Model", bound=msgspec.Struct)


def readable(model: type[_Model]) -> type[_Model]:
    """Makes a model ready to be read; decorates each Struct of this package.

    msgspec 0.22 makes one ready when it is read first, and crashes when two threads are the first. A module is imported
    by one thread.
    """
    msgspec.json.Decoder(model)
    return model

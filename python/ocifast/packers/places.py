"""What an error says of the place where an output is made, said of the place where it shall be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ocifast.errors import OcifastError
from ocifast.layer_folder import LayerFolder
from ocifast.workspace import Workspace

__all__ = ["as_named"]


@contextmanager
def as_named(spaces: Iterable[tuple[str, Workspace | LayerFolder]]) -> Iterator[None]:
    """Errors while the block runs name outputs and their folders, not the hidden ones beside them.

    Args:
        spaces: outputs as they were named, and where each is made, as `output` in a private folder.
    """
    try:
        yield
    except OcifastError as error:
        message = error.message
        for shown, space in spaces:
            if str(space.path) in message:
                private = re.escape(str(space.path))
                message = re.sub(rf"{private}/output\b", lambda _, name=shown: name, message)  # type: ignore[misc]
                parent = str(space.destination.parent)
                message = re.sub(rf"{private}[^\s:;,\"']*", lambda _, name=parent: name, message)  # type: ignore[misc]
        if message != error.message:
            raise type(error)(message, **error.context) from error.__cause__
        raise

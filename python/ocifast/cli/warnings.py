"""What the library warns of through `logging` is told as everything else is: `ocifast: warning: ...`, in one line."""

from __future__ import annotations

import logging

from ocifast.cli.display import warn

__all__ = ["install"]


class _Handler(logging.Handler):
    """Tells each warning once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._told:
            self._told.add(message)
            warn(message)


def install() -> None:
    """Takes the warnings of the package over, for one command."""
    logger = logging.getLogger("ocifast")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Handler)]
    logger.addHandler(_Handler())

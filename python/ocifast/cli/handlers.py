"""Handlers of what the library logs. Loaded when something is logged, and `logging` with it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ocifast.cli.display import warn

__all__ = ["Retries", "take_warnings"]


class _Warnings(logging.Handler):
    """Tells each warning once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._told:
            self._told.add(message)
            warn(message)


def take_warnings() -> None:
    """Takes the warnings of the package over, for one command."""
    logger = logging.getLogger("ocifast")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, _Warnings)]
    logger.addHandler(_Warnings())


class Retries(logging.Handler):
    """Gets what the registry client says when it tries something again, until it is closed."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell
        self._logger = logging.getLogger("ocifast.sources.registry")
        self._before = self._logger.level
        self._logger.addHandler(self)
        if self._logger.getEffectiveLevel() > logging.INFO:
            self._logger.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        seconds = getattr(record, "retry_in", None)
        if seconds is not None:
            self._tell(record.getMessage(), float(seconds))

    def close(self) -> None:
        """Gives the logger back as it was."""
        self._logger.setLevel(self._before)
        self._logger.removeHandler(self)
        super().close()

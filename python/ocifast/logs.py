"""The package's loggers. `logging` is loaded when there is something to say, and somebody who may listen."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

__all__ = ["INFO", "WARNING", "forget", "logger", "when_used"]

INFO = 20
"""As in `logging`."""
WARNING = 30


class _Waiting(NamedTuple):
    """A listener before `logging` is loaded: to which loggers it listens, from which level on, and what sets it up."""

    name: str
    level: int
    prepare: Callable[[], None]


_waiting: list[_Waiting] = []
_preparing = threading.RLock()


def when_used(name: str, level: int, prepare: Callable[[], None]) -> None:
    """Sets a listener up: at once where `logging` is loaded, else before the first record that it listens to.

    Args:
        name: of one of the package's loggers; it includes those below.
        level: least level of the records.
        prepare: adds handlers and sets levels.
    """
    with _preparing:
        if "logging" in sys.modules:
            prepare()
        elif (waiting := _Waiting(name, level, prepare)) not in _waiting:
            _waiting.append(waiting)


def forget(prepare: Callable[[], None]) -> None:
    """Takes back what waits; what has been done stays done."""
    with _preparing:
        _waiting[:] = [waiting for waiting in _waiting if waiting.prepare is not prepare]


if TYPE_CHECKING:
    from logging import getLogger as logger  # noqa: N813
else:

    def logger(name: str) -> Any:
        """What `logging.getLogger` gives, as far as the package uses it."""
        return _Logger(name)


class _Logger:
    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, message: str, *values: object, **more: Any) -> None:
        if self._is_heard(INFO - 1):
            _loaded(self._name).debug(message, *values, stacklevel=2, **more)

    def info(self, message: str, *values: object, **more: Any) -> None:
        if self._is_heard(INFO):
            _loaded(self._name).info(message, *values, stacklevel=2, **more)

    def warning(self, message: str, *values: object, **more: Any) -> None:
        # These are told on standard error where nobody listens.
        _loaded(self._name).warning(message, *values, stacklevel=2, **more)

    def _is_heard(self, level: int) -> bool:
        # A listener that is not in `_waiting` has loaded `logging` to be set up.
        return "logging" in sys.modules or any(
            level >= waiting.level and f"{self._name}.".startswith(f"{waiting.name}.") for waiting in _waiting
        )


def _loaded(name: str) -> Any:
    import logging

    if _waiting:
        with _preparing:
            while _waiting:
                _waiting[0].prepare()
                del _waiting[0]
    return logging.getLogger(name)

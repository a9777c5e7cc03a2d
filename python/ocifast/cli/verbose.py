"""`-v`: what is asked of registries and what they answer, a line each, on standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ocifast.cli import display

__all__ = ["show_requests"]

_LOGGER = "ocifast.sources.registry"


class _LineHandler(logging.Handler):
    """Tells what the registry client logs; warnings are told by another handler."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            from ocifast.sources.registry.redaction import redact

            display.say(f"ocifast: {redact(record.getMessage())}")


def show_requests() -> Callable[[], None]:
    """Begins to tell; returns what ends it."""
    logger, lines = logging.getLogger(_LOGGER), _LineHandler()
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)

    def end() -> None:
        logger.removeHandler(lines)
        logger.setLevel(before)

    return end

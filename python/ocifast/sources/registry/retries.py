"""When a request is tried again, and after how long."""

from __future__ import annotations

import email.utils
import random
import time
from typing import Final

import httpx

from ocifast.logs import logger
from ocifast.sources.registry.failures import called

__all__ = ["RETRIED", "backoff", "jitter", "retry_after", "status_words", "tell_retry"]


_log = logger(__name__)
RETRIED: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses that another attempt may change."""
LONGEST = 30.0
"""Seconds that are waited at most, where the server asks for nothing."""


def backoff(first: float, attempt: int) -> float:
    """Seconds to wait before attempt number `attempt + 1`: `first` at most, then twice as long each time."""
    longest = min(first * 2**attempt, LONGEST)
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter


def jitter(most: float) -> float:
    """Seconds up to one and to `most`: those who were sent away together must not come back together."""
    return random.uniform(0, min(1.0, most))  # noqa: S311


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which states seconds or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return max(0.0, when.timestamp() - time.time())


def tell_retry(failed: str, seconds: float) -> None:
    """Tells those who watch that something is tried again: displays look at `retry_in` of the record."""
    # What to do about it comes when it is given up.
    _log.info("%s; trying again in %.1f s", failed.partition(";")[0], seconds, extra={"retry_in": seconds})


def status_words(name: str, what: str, response: httpx.Response) -> str:
    """What an answer said that is not the last word, for `tell_retry`."""
    host = response.request.url.netloc.decode("ascii")
    return f"{name}: cannot {what}: {called(name, host)} answered {response.status_code}"

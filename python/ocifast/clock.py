"""Times that documents and the environment give."""

from __future__ import annotations

import os
import re

from ocifast.errors import UsageError
from ocifast.patterns import pattern

__all__ = ["LATEST", "rfc3339_seconds", "source_date_epoch"]

LATEST = (1 << 63) - 1
"""Seconds since 1970 that the core can hold."""
_RFC3339 = pattern(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def rfc3339_seconds(text: str) -> int:
    """Seconds since 1970 of a date and time as RFC 3339 writes it; 0 for anything else, or before 1970."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return 0
    numbers = [int(number) for number in match.groups()[:6]]
    offset = 0
    if match[7]:
        offset = (int(match[8]) * 3600 + int(match[9]) * 60) * (1 if match[7] == "+" else -1)
    import calendar

    try:
        return max(0, calendar.timegm((*numbers, 0, 0, 0)) - offset)
    except (ValueError, OverflowError):
        return 0


def source_date_epoch(*, latest: int = LATEST) -> int | None:
    """Seconds since 1970 as `SOURCE_DATE_EPOCH` says; None when it is not set.

    See reproducible-builds.org, "SOURCE_DATE_EPOCH specification".

    Raises:
        UsageError: it is no whole number, or over `latest`.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) > latest:
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}; it must be a whole number of seconds since 1970")
    return int(text)

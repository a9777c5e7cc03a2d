"""Rules for single options: each function raises UsageError for a value that is malformed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ocifast.clock import source_date_epoch
from ocifast.errors import UsageError
from ocifast.patterns import pattern

__all__ = ["COMPRESSIONS", "NUMBER", "check_name", "check_port", "check_signal", "check_user", "creation_time"]

COMPRESSIONS: Mapping[str, tuple[int, int, int]] = {"none": (0, 0, 0), "gzip": (1, 9, 6), "zstd": (1, 22, 3)}
"""How layers may be compressed: lowest, highest and usual level of each."""

_PORT = pattern(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(?:tcp|udp|sctp))?", re.ASCII)
_SIGNAL = pattern(r"(?:SIG)?(?:[A-Z][A-Z0-9]{1,9}(?:[+-][0-9]{1,2})?)|[0-9]{1,2}", re.ASCII)
_ID_LIMIT = 1 << 32
# The names that Debian's adduser and shadow take, capital letters included.
_NAME = pattern(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", re.ASCII)
NUMBER = pattern(r"[0-9]{1,10}", re.ASCII)
"""A user or group by its number."""
_LATEST = 1 << 37
"""About the year 6300, within what `datetime` and RFC 3339 can say."""


def check_port(port: str) -> None:
    """Raises UsageError unless `port` is a port or a range of ports, with or without a protocol."""
    found = _PORT.fullmatch(port)
    numbers = [int(number) for number in (found.groups() if found else ()) if number]
    if not numbers or numbers != sorted(numbers) or not all(1 <= number <= 65535 for number in numbers):
        raise UsageError(f"{port!r} is no port; write it as 8080, 53/udp or 6000-6010/tcp")


def check_name(name: str) -> None:
    """Raises UsageError unless `name` can be a file in the root of an image."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name!r} is not UTF-8, which a config needs; give the executable another --name") from None
    if not name or "/" in name or "\0" in name or name in (".", "..") or len(encoded) > 255 or name.startswith(".wh."):
        raise UsageError(f"{name!r} cannot be the name of a file in an image; give the executable another --name")


def check_signal(signal: str) -> None:
    """Raises UsageError unless `signal` is the name or number of a signal (image-spec, config.md, "StopSignal")."""
    if not _SIGNAL.fullmatch(signal):
        raise UsageError(f"{signal!r} is no signal; write it as SIGTERM or 15")


def check_user(user: str) -> None:
    """Raises UsageError unless `user` is NAME[:GROUP] or UID[:GID] (image-spec, config.md, "User")."""
    parts = user.split(":")
    numbers = [int(part) for part in parts if NUMBER.fullmatch(part)]
    names = [part for part in parts if _NAME.fullmatch(part)]
    # The last number means "no change" to chown and setuid.
    if len(parts) > 2 or len(numbers) + len(names) != len(parts) or any(number >= _ID_LIMIT - 1 for number in numbers):
        raise UsageError(f"{user!r} is no user; write NAME[:GROUP] or UID[:GID]")


def creation_time(created: int | None) -> int:
    """Seconds since 1970: as given, or as `SOURCE_DATE_EPOCH` says, or 0.

    Raises:
        UsageError: a time before 1970 or after the year 9999, which a config cannot name.
    """
    if created is None:
        return source_date_epoch(latest=_LATEST - 1) or 0
    if not 0 <= created < _LATEST:
        raise UsageError(f"the time of creation is {created}; it must be a number of seconds since 1970")
    return created

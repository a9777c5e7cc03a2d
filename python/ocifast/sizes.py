"""Sizes as people write them."""

from __future__ import annotations

__all__ = ["parse_size"]

_FACTORS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_size(text: str) -> int:
    """A number of bytes: `4096`, `512K`, `64M`, `2G`, `1T` (powers of 1024).

    Raises:
        ValueError: it is none, or over 63 bits; the message says so.
    """
    number, unit = (text[:-1], text[-1].upper()) if text and not text[-1].isdigit() else (text, "")
    if not (number.isascii() and number.isdigit()) or unit not in _FACTORS:
        raise ValueError(f"{text!r} is no size; write bytes, or a number with K, M, G or T")
    size = int(number[:20]) << _FACTORS[unit]
    if size >= 1 << 63:
        raise ValueError(f"{text!r} is too much")
    return size

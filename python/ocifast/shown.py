"""Text and sizes as people are shown them, wherever they come from."""

from __future__ import annotations

__all__ = ["format_size", "printable", "shortened"]


def printable(text: str) -> str:
    """Text from an image or a registry as a terminal can show it: in one line, and nothing in it that steers.

    Control characters and bytes that are no UTF-8 (as surrogate escapes) become backslash escapes.
    """
    raw = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in raw)


def shortened(text: str, room: int) -> str:
    """`printable` text of at most so many characters: of what is too long the middle is left out."""
    if len(text) > room:
        half = (room - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    text = printable(text)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def format_size(size: int) -> str:
    """A size for people: "17 B", "3.4 MB" (decimal, as registries count)."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError

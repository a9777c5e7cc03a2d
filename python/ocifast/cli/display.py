"""What a person or a machine sees of the work: results as text or JSON, warnings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from ocifast.errors import FileError
from ocifast.shown import format_size, printable

__all__ = [
    "check_stdout",
    "encodable",
    "format_size",
    "printable",
    "reader_has_gone",
    "redirected",
    "report",
    "say",
    "standard_output",
    "streaming",
    "warn",
]

_writers: list[Callable[[str], None]] = []
"""Displays that write to standard error in the place of `say`, the last one first."""


def report(
    data: dict[str, Any] | list[dict[str, Any]],
    *,
    as_json: bool,
    text: str | Callable[[], str],
    to_stderr: bool = False,
) -> None:
    """Writes a result to standard output: `data` as one line of JSON, or `text` for people.

    Args:
        data: JSON-able; bytes are written as text with surrogate escapes replaced, paths as text.
        as_json: which of the two.
        text: what people get; nothing is written when it is empty.
        to_stderr: the text goes to standard error, as standard output is what was made.
    """
    if as_json:
        import json

        shown = encodable(json.dumps(data, default=_plain, ensure_ascii=False))
    else:
        shown = text() if callable(text) else text
    if shown and to_stderr:
        say(shown)
    elif shown:
        with standard_output():
            click.echo(shown)


@contextmanager
def standard_output() -> Iterator[None]:
    """What cannot be written there while the block runs is an error that says where; a reader that has gone is none.

    Raises:
        FileError: the disk is full, or fails.
        BrokenPipeError: whoever read us has gone.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"standard output: {error.strerror}") from error


def check_stdout(place: str, *, as_json: bool) -> None:
    """Refuses what cannot go to standard output together with `place`, the word of the command line that means it.

    Raises:
        click.UsageError: JSON would go there as well, or it is a terminal.
    """
    if as_json:
        raise click.UsageError(f"--json writes to standard output, which {place} is already")
    if sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal; redirect it, or name a file")


@contextmanager
def streaming(to_stdout: bool) -> Iterator[None]:
    """While the block runs, what is made goes to standard output, or not: a reader that has gone is no error then.

    Raises:
        BrokenPipeError: whoever read us has gone.
    """
    try:
        yield
    except FileError:
        if to_stdout and reader_has_gone():
            raise BrokenPipeError from None
        raise


def reader_has_gone() -> bool:
    """Whether standard output is a pipe or socket that nobody reads any more (poll(2), POLLERR)."""
    import select

    poll = select.poll()
    poll.register(1, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def encodable(text: str) -> str:
    """Text with surrogates, which no output takes, as backslash escapes; in JSON, those it has for them."""
    return "".join(f"\\u{ord(char):04x}" if "\ud800" <= char <= "\udfff" else char for char in text)


def say(line: str) -> None:
    """Writes a line to standard error: above what is drawn there, if anything is."""
    if _writers:
        _writers[-1](line)
    else:
        click.echo(line, err=True)


def warn(message: str) -> None:
    """Tells something on standard error, in one line, as errors are told."""
    say(f"ocifast: warning: {printable(' '.join(message.split()))}")


@contextmanager
def redirected(writer: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, `say` hands lines to `writer`, which knows what stands on the terminal."""
    _writers.append(writer)
    try:
        yield
    finally:
        _writers.remove(writer)


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)

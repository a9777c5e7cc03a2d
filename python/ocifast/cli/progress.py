"""Chooses how a command shows its progress, and takes it away again when the command ends, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import click

from ocifast.cli import display
from ocifast.logs import INFO, forget, when_used
from ocifast.progress import Event, Phase, Progress, silent
from ocifast.records import dataclass

__all__ = ["MODES", "ImagesDisplay", "images_display", "progress_display"]

MODES = ("auto", "plain", "json", "none")
"""Values of `--progress`."""


@contextmanager
def progress_display(
    title: str,
    *,
    mode: str = "auto",
    quiet: bool = False,
    makes: bool = True,
    finishes: bool = False,
    unfinished: str = "nothing was written",
) -> Iterator[Progress]:
    """A callable that shows events on standard error while the block runs.

    Args:
        title: what is worked on, for people.
        mode: one of `MODES`. "auto" draws on a terminal, and writes plain lines where there is none.
        quiet: shows nothing.
        makes: the command makes something; one that only looks tells nothing where no terminal is.
        finishes: blobs are done when they are there, as in a copy.
        unfinished: what an interrupted run says until the job is complete.
    """
    _say_when_interrupted(unfinished if makes else "")
    chosen = _chosen(mode, quiet=quiet, makes=makes)
    if chosen == "none":
        yield _watched(silent) if makes else silent
    elif chosen == "draw":
        with _drawing(title, finishes) as progress:
            yield _watched(progress)
    else:
        from ocifast.cli.narration import JsonLines, PlainLines

        lines: JsonLines | PlainLines
        lines = JsonLines(display.say) if chosen == "json" else PlainLines(title, display.say)
        with _retries(lines.tell_retry):
            yield _watched(lines.take)


@dataclass(frozen=True)
class ImagesDisplay:
    """Shows many images at a time.

    Attributes:
        begin: gives for the name of an image what gets its events.
        end: an image is done with, or has failed.
    """

    begin: Callable[[str], Progress]
    end: Callable[[str], None]


@contextmanager
def images_display(*, mode: str, quiet: bool, unfinished: str) -> Iterator[ImagesDisplay]:
    """Shows on standard error how many images are copied while the block runs; as `progress_display` otherwise."""
    _say_when_interrupted(unfinished)
    chosen = _chosen(mode, quiet=quiet, makes=True)
    if chosen == "none":
        yield ImagesDisplay(lambda image: silent, lambda image: None)
    elif chosen == "draw":
        from ocifast.cli.images import drawing

        with drawing() as (begin, end, tell_retry), _retries(tell_retry):
            yield ImagesDisplay(begin, end)
    else:
        from ocifast.cli.narration import JsonLines, PlainLines

        as_json, say = chosen == "json", display.say
        with _retries(JsonLines(say).tell_retry if as_json else PlainLines("", say).tell_retry):
            yield ImagesDisplay(
                lambda image: JsonLines(say, image=image).take if as_json else PlainLines(image, say).take,
                lambda image: None,
            )


def _chosen(mode: str, *, quiet: bool, makes: bool) -> str:
    """`draw`, or one of `MODES` but `auto`."""
    if quiet or mode != "auto":
        return "none" if quiet else mode
    # The lines of `-v` and a picture that is drawn anew would tear each other apart.
    session = _session() or {}
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not session.get("verbose")
    return "draw" if terminal else "plain" if makes else "none"


@contextmanager
def _drawing(title: str, finishes: bool) -> Iterator[Progress]:
    from ocifast.cli.frame import Style, draw
    from ocifast.cli.screen import Screen
    from ocifast.cli.tally import Tally

    tally = Tally(finishes)
    encoding = sys.stderr.encoding or "ascii"
    style = Style(colour=not os.environ.get("NO_COLOR"), unicode=encoding.lower().replace("-", "") == "utf8")
    screen = Screen(
        sys.stderr.fileno(),
        lambda width, height: draw(
            title, tally.snapshot(), width=width, height=height, style=style, is_final=tally.is_final
        ),
        encoding=encoding,
    )

    with _retries(screen.telling(tally.tell_retry)), screen.drawing():
        yield screen.telling(tally.take)


@contextmanager
def _retries(tell: Callable[[str, float], None]) -> Iterator[None]:
    if (_session() or {}).get("verbose"):
        # They are told already.
        yield
        return
    with ExitStack() as taken:

        def take() -> None:
            from ocifast.cli.handlers import Retries

            taken.callback(Retries(tell).close)

        when_used("ocifast.sources.registry", INFO, take)
        taken.callback(forget, take)
        yield


def _watched(progress: Progress) -> Progress:
    """The same, which also notices when the job is complete: from then on an interrupt takes nothing back."""
    session = _session()
    if session is None:
        return progress

    def take(event: Event) -> None:
        if event.phase is Phase.COMPLETE:
            session.pop("unfinished", None)
        if event.written is not None:
            session["unfinished"] = f"written: {', '.join(event.written)}, and no other output"
            return
        progress(event)

    return take


def _say_when_interrupted(unfinished: str) -> None:
    session = _session()
    if session is not None:
        session["unfinished"] = unfinished


def _session() -> dict[str, object] | None:
    """What `main` looks at when the command has ended; None when no command runs."""
    context = click.get_current_context(silent=True)
    found = None if context is None else context.find_root().obj
    return found if isinstance(found, dict) else None

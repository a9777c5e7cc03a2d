"""What a person or a machine sees of the work: progress on a terminal, results as text or JSON."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ocifast.progress import Event, LayerState, Phase, Progress, silent

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["encodable", "format_size", "printable", "progress_display", "report", "warn"]

_WORDS = {
    LayerState.WAITING: "waiting",
    LayerState.DOWNLOADING: "downloading",
    LayerState.DOWNLOADED: "downloaded",
    LayerState.EXTRACTING: "extracting",
    LayerState.EXTRACTED: "done",
    LayerState.UPLOADING: "uploading",
    LayerState.UPLOADED: "done",
    LayerState.EXISTS: "already there",
}
_FINAL = {LayerState.EXTRACTED, LayerState.UPLOADED, LayerState.EXISTS}


def report(data: dict[str, Any], *, as_json: bool, text: str | Callable[[], str]) -> None:
    """Writes a result to standard output: `data` as one line of JSON, or `text` for people.

    Args:
        data: JSON-able; bytes are written as text with surrogate escapes replaced, paths as text.
        as_json: which of the two.
        text: what people get; nothing is written when it is empty.
    """
    if as_json:
        import json

        click.echo(encodable(json.dumps(data, default=_plain, ensure_ascii=False)))
        return
    shown = text() if callable(text) else text
    if shown:
        click.echo(shown)


def encodable(text: str) -> str:
    """Text with surrogates, which no output takes, as backslash escapes; in JSON, those it has for them."""
    return "".join(f"\\u{ord(char):04x}" if "\ud800" <= char <= "\udfff" else char for char in text)


def warn(message: str) -> None:
    """Tells something on standard error, in one line, as errors are told."""
    click.echo(f"ocifast: warning: {printable(' '.join(message.split()))}", err=True)


def printable(text: str) -> str:
    """Text from an image or a registry as a terminal can show it: in one line, and nothing in it that steers.

    Control characters and bytes that are no UTF-8 (as surrogate escapes) become backslash escapes.
    """
    raw = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in raw)


def format_size(size: int) -> str:
    """A size for people: "17 B", "3.4 MB" (decimal, as registries count)."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


@contextmanager
def progress_display(*, quiet: bool = False) -> Iterator[Progress]:
    """A callable that shows events on standard error while the block runs.

    It is silent when standard error is no terminal, or `quiet` is set; rich is loaded only when something is shown.
    """
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    display = _Display()
    with display.bars:
        yield display.show


class _Display:
    """One line per layer, and one for the whole work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self.bars = Progress(
            TextColumn("{task.fields[name]}"),
            TextColumn("{task.fields[state]:<12}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._states: dict[str, LayerState | Phase] = {}
        self._lock = threading.Lock()

    def show(self, event: Event) -> None:
        """Takes one event, from any thread."""
        key, name, state, word = self._describe(event)
        with self._lock:
            task = self._tasks.get(key)
            if task is None:
                task = self._tasks[key] = self.bars.add_task("", name=name, state=word, total=event.total)
            elif self._states[key] != state:
                # The rate of one state says nothing about the next.
                self.bars.reset(task, name=name, state=word, total=event.total)
            self._states[key] = state
            self.bars.update(task, completed=event.done, total=event.total, state=word)
            if state in _FINAL:
                finished = self.bars.tasks[self.bars.task_ids.index(task)]
                done = event.done or event.total or finished.total or finished.completed or 1
                self.bars.update(task, completed=done, total=done)

    @staticmethod
    def _describe(event: Event) -> tuple[str, str, LayerState | Phase, str]:
        if event.layer is None or event.state is None:
            return "", "image       ", event.phase, event.phase.value.replace("_", " ")
        return event.layer, event.layer.partition(":")[2][:12], event.state, _WORDS[event.state]


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)

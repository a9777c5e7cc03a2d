"""How a job looks on a terminal: from what is known to lines of text. Nothing here writes, waits or knows the time.

One line a layer while it is worked on, those that are done and those that wait folded into one, a total. Every line has
one unit, compressed bytes; what a narrow terminal has no room for is left out whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ocifast.cli.display import format_size, printable
from ocifast.cli.tally import LayerStand, Snapshot
from ocifast.progress import LayerState, Phase
from ocifast.records import dataclass

__all__ = ["Style", "draw"]

_WORDS: dict[LayerState, tuple[str, str]] = {
    LayerState.WAITING: ("waiting", "waiting"),
    LayerState.DOWNLOADING: ("downloading", "downloading"),
    LayerState.DOWNLOADED: ("downloaded", "downloaded"),
    LayerState.EXTRACTING: ("extracting", "extracting"),
    LayerState.BLOCKED: ("waiting for lower layers", "waiting"),
    LayerState.EXTRACTED: ("done", "done"),
    LayerState.UPLOADING: ("uploading", "uploading"),
    LayerState.UPLOADED: ("done", "done"),
    LayerState.EXISTS: ("already there", "there"),
}
"""What a state is called, with room and without."""
_ACTIVE = (
    LayerState.DOWNLOADING,
    LayerState.UPLOADING,
    LayerState.EXTRACTING,
    LayerState.DOWNLOADED,
    LayerState.BLOCKED,
)
"""In the order of their lines."""
_PHASES = {
    Phase.RESOLVING: "resolving",
    Phase.RESOLVED: "resolved",
    Phase.CONFIG_ACQUIRE: "reading the config",
    Phase.LAYER_ACQUIRE: "reading layers",
    Phase.PACKING: "packing",
    Phase.COMPLETE: "done",
}
_MOST_LAYERS = 12
_LABEL, _PAIR, _RATE_AND_REST = 12, 16, 26
_BAR_LEAST, _BAR_MOST = 10, 30
"""Columns of a bar; there is none where it had less room."""
_DIM, _ACCENT, _CAUTION = "2", "36", "33"


@dataclass(frozen=True)
class Style:
    """What the terminal can show.

    Attributes:
        colour: escape sequences for colours are understood and wanted.
        unicode: lines and dots beyond ASCII can be shown.
    """

    colour: bool = True
    unicode: bool = True

    def paint(self, code: str, text: str) -> str:
        """The text in a colour (ECMA-48, "select graphic rendition")."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text.strip() else text

    def bar(self, done: int, total: int | None, width: int) -> str:
        """A bar of that many columns; empty while the total is not known."""
        full = 0 if not total else min(width, done * width // total)
        mark, rest = ("━", "─") if self.unicode else ("#", "-")
        return self.paint(_ACCENT, mark * full) + self.paint(_DIM, rest * (width - full))


@dataclass(frozen=True)
class _Cell:
    """A part of a line: the characters that it shows, how early it gives way (0 never), and what is written."""

    plain: str
    gives_way: int
    text: str


def draw(
    title: str,
    now: Snapshot,
    *,
    width: int,
    height: int,
    style: Style,
    is_final: Callable[[LayerState], bool],
) -> list[str]:
    """The lines of one moment, each narrower than `width`, fewer than `height`.

    Args:
        title: what is worked on.
        now: how it stands.
        width: columns of the terminal.
        height: lines of the terminal.
        style: what it can show.
        is_final: whether nothing follows a state.
    """
    layers = [layer for layer in now.layers if not is_final(layer.state)]
    active = sorted((layer for layer in layers if layer.state in _ACTIVE), key=lambda layer: _ACTIVE.index(layer.state))
    waiting = len(layers) - len(active)
    # Title, folded ones, total, what is tried again, and the line that the cursor stands in.
    others = 4 + (now.retry is not None)
    bar = min(_BAR_MOST, width - 1 - (2 + _LABEL) - 2 - (2 + _PAIR) - _RATE_AND_REST)
    bar = bar if bar >= _BAR_LEAST else 0
    shown = active[: max(0, min(_MOST_LAYERS, height - others))]
    lines = [_cut(printable(title), width)] if title else []
    lines += [_layer_line(layer, bar, width, style) for layer in shown]
    done = [layer for layer in now.layers if is_final(layer.state)]
    folded = _folded(now, done, len(active) - len(shown), waiting)
    if folded:
        lines.append(style.paint(_DIM, _cut(f"  {folded}", width)))
    if now.packed is not None:
        row = _row("packing", *now.packed, bar, width, style)
        lines.append(_line(row, _speed(now.packing_rate, now.packing_left), width))
    elif layers:
        lines.append(_total_line(now, bar, width, style))
    else:
        lines.append(style.paint(_DIM, _cut(f"  {_PHASES[now.phase] if now.phase else 'starting'}", width)))
    if now.retry is not None:
        lines.append(style.paint(_CAUTION, _cut(f"  {printable(now.retry)}", width)))
    return lines[-max(1, height - 1) :]


def clock(seconds: float) -> str:
    """A duration for people: "0:07", "12:34", "1:02:03"."""
    whole = min(round(seconds), 359_999)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _layer_line(layer: LayerStand, bar: int, width: int, style: Style) -> str:
    long, short = _WORDS[layer.state]
    taken = 2 + _LABEL + (2 + bar if bar else 0) + 2 + _PAIR
    word = long if taken + 2 + len(long) < width else short
    label = layer.digest.partition(":")[2][:_LABEL]
    told = _Cell(word, 3, style.paint(_DIM, word))
    speed, time = _speed(layer.rate, layer.left)
    more = (told, replace(speed, gives_way=2), replace(time, gives_way=1))
    return _line(_row(label, layer.done, layer.total, bar, width, style), more, width)


def _total_line(now: Snapshot, bar: int, width: int, style: Style) -> str:
    row = _row("total", now.done, now.total, bar, width, style)
    return _line(row, _speed(now.rate, now.left), width)


def _speed(rate: float | None, left: float | None) -> tuple[_Cell, _Cell]:
    """Bytes a second and the time left, as far as they are known."""
    speed = "" if rate is None else f"{format_size(round(rate))}/s".rjust(10)
    time = "" if left is None else f"{clock(left)} left"
    return _Cell(speed, 1, speed), _Cell(time, 2, time)


def _row(label: str, done: int, total: int | None, bar: int, width: int, style: Style) -> list[_Cell]:
    """What all lines begin with: a name, a bar, bytes."""
    drawn = [_Cell("x" * bar, 4, style.bar(done, total, bar))] if bar else []
    pair = _pair(done, total) if width > 2 + _LABEL + 2 + _PAIR else _share(done, total)
    return [_Cell(label.ljust(_LABEL), 0, label.ljust(_LABEL)), *drawn, _Cell(pair, 5, pair)]


def _folded(now: Snapshot, done: Sequence[LayerStand], more: int, waiting: int) -> str:
    """What has no line of its own, in one."""
    parts = [f"{len(done)} of {len(now.layers)} done"] if done or more or waiting else []
    cached = sum(layer.cached for layer in done)
    if cached:
        parts.append(f"{cached} of them already there" if cached < len(done) else "all of them already there")
    if more:
        parts.append(f"{more} more on their way")
    if waiting:
        parts.append(f"{waiting} to come")
    return ", ".join(parts)


def _pair(done: int, total: int | None) -> str:
    """Bytes done and to do in one unit: "3.2 / 45.6 MB"."""
    if total is None:
        return format_size(done).rjust(_PAIR)
    number, _, unit = format_size(total).partition(" ")
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit]
    have = str(done) if unit == "B" else f"{done / factor:.1f}"
    return f"{have} / {number} {unit}".rjust(_PAIR)


def _share(done: int, total: int | None) -> str:
    """The same where there is no room for two numbers: "46%"."""
    return format_size(done) if not total else f"{done * 100 // total}%"


def _line(row: Sequence[_Cell], more: Sequence[_Cell], width: int) -> str:
    """The cells side by side; those that give way first are left out until the rest fits."""
    kept = [cell for cell in (*row, *more) if cell.plain.strip()]
    while sum(2 + len(cell.plain) for cell in kept) >= width:
        candidates = [cell for cell in kept if cell.gives_way]
        if not candidates:
            return _cut("".join(f"  {cell.plain}" for cell in kept), width)
        kept.remove(min(candidates, key=lambda cell: cell.gives_way))
    return "".join(f"  {cell.text}" for cell in kept)


def _cut(text: str, width: int) -> str:
    """Plain text that fits into a line, with room for the cursor."""
    return text if len(text) < width else text[: max(0, width - 1)]

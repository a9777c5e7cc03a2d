"""The progress display: what a terminal shows, and silence everywhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from ocifast.cli.display import format_size, progress_display
from ocifast.progress import Event, LayerState, Phase, silent

from tests.support.images import build_image
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import COMMAND, try_ocifast


def on_terminal(*words: str | Path) -> str:
    """What a command writes to a terminal as its standard error."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen([COMMAND, *words], stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    # Linux says EIO when the last process has closed its end (pty(7)).
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        said += chunk
    os.close(ours)
    assert process.wait(60) == 0
    return said.decode()


@pytest.fixture
def reference(registry: Registry) -> str:
    layers = [TarBuilder().file(f"f{number}", os.urandom(300_000)) for number in range(2)]
    return registry.put(build_image(layers), "progress/image:1")


def test_a_terminal_shows_each_layer_and_is_left_clean(reference: str, registry: Registry, tmp_path: Path) -> None:
    shown = on_terminal("compile", reference, tmp_path / "out.tar")
    layers = re.findall(r"\b[0-9a-f]{12}\b", shown)
    assert len(set(layers)) == 2
    assert "kB" in shown
    # The bars are erased at the end (ECMA-48, "erase in line").
    assert shown.rstrip().endswith("\x1b[2K") or "\x1b[2K" in shown[-200:]


@pytest.mark.parametrize("command", ["pull", "push", "copy"])
def test_copies_show_each_blob(reference: str, registry: Registry, tmp_path: Path, command: str) -> None:
    layout = f"oci:{tmp_path}/layout:app"
    if command == "push":
        assert on_terminal("pull", reference, layout, "--quiet") == ""
        shown = on_terminal("push", layout, f"{registry.host}/progress/{os.urandom(8).hex()}:1")
    else:
        shown = on_terminal(command, reference, layout)
    # Two layers and the config.
    assert len(set(re.findall(r"\b[0-9a-f]{12}\b", shown))) == 3
    assert "kB" in shown


def test_quiet_shows_nothing_on_a_terminal(reference: str, tmp_path: Path) -> None:
    assert on_terminal("compile", reference, tmp_path / "out.tar", "--quiet") == ""


def test_a_pipe_gets_nothing(reference: str, tmp_path: Path) -> None:
    assert try_ocifast("compile", reference, tmp_path / "out.tar").stderr == b""


def test_display_is_the_silent_one_off_a_terminal() -> None:
    with progress_display() as progress:
        assert progress is silent


def test_display_takes_every_event_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_display() as progress:
        for phase in Phase:
            progress(Event(phase))
            progress(Event(phase, done=5))
            progress(Event(phase, done=5, total=10))
        for state in reversed(LayerState):
            progress(Event(Phase.LAYER_ACQUIRE, "sha256:" + "a" * 64, state))
            progress(Event(Phase.LAYER_ACQUIRE, "sha256:" + "b" * 64, state, 7, None))
            progress(Event(Phase.LAYER_ACQUIRE, "sha256:" + "b" * 64, state, 7, 7))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2 * 10**9, "2.0 GB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_are_decimal(size: int, text: str) -> None:
    assert format_size(size) == text

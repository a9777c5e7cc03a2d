"""What packers tell of their progress; the display of it: what a terminal shows, and silence everywhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import threading
from pathlib import Path

import pytest
from ocifast.cli.display import format_size, progress_display
from ocifast.compiler import CompileOptions, compile  # noqa: A004
from ocifast.errors import CancelledError
from ocifast.packers import PackOptions
from ocifast.progress import Event, LayerState, Phase, silent

from tests.support.images import build_image, write_layout
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


def told_by_packing(folder: Path, form: str, pack: PackOptions, threads: int | None = None) -> list[tuple[int, int]]:
    """Bytes done and to do, as a packer tells them of 20 MiB that compress to half."""
    tar = TarBuilder().file("big", b"".join(os.urandom(32768) + bytes(32768) for _ in range(320))).file("small", b"1")
    layout = write_layout(folder / "layout", build_image([tar]))
    events: list[Event] = []
    options = CompileOptions(cache=False, pack=pack, threads=threads)
    compile(f"oci:{layout}:app", folder / "out", format=form, options=options, progress=events.append)
    packing = [event for event in events if event.phase is Phase.PACKING and event.done is not None]
    assert all(event.layer is None for event in packing)
    return [(event.done or 0, event.total or 0) for event in packing]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_erofs_image_tells_how_far_it_is(tmp_path: Path, compression: str, threads: int) -> None:
    told = told_by_packing(tmp_path, "erofs", PackOptions(compression=compression), threads)
    total = (20 << 20) + 1
    # The last MiB and one byte end the last step.
    assert told == [(0, total), *((done << 20, total) for done in (4, 8, 12, 16, 20)), (total, total)]


@pytest.mark.parametrize("backend", ["sqfstar", "tar2sqfs", "mksquashfs"])
def test_tools_that_write_squashfs_tell_how_far_they_are(tmp_path: Path, backend: str) -> None:
    told = told_by_packing(tmp_path, "squashfs", PackOptions(backend=backend))
    assert told
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert all(0 <= done <= total for done, total in told)
    done, total = told[-1]
    # Whole blocks of 128 KiB in mksquashfs, entries in tar2sqfs.
    assert 20 << 20 <= total <= (20 << 20) + (256 << 10)
    assert done == total


def test_whoever_is_told_of_packing_may_end_it(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("big", bytes(20 << 20))]))
    told: list[int] = []

    def refuse(event: Event) -> None:
        if event.phase is Phase.PACKING and event.done is not None:
            told.append(event.done)
            if event.done >= 8 << 20:
                raise ValueError("enough")

    options = CompileOptions(cache=False, pack=PackOptions(compression="lz4"))
    with pytest.raises(ValueError, match="enough"):
        compile(f"oci:{layout}:app", tmp_path / "out.erofs", options=options, progress=refuse)
    assert told == [0, 4 << 20, 8 << 20]
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


def test_a_compressed_erofs_image_that_is_cancelled_on_its_way(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("big", bytes(20 << 20))]))
    stop = threading.Event()
    told: list[int] = []

    def look(event: Event) -> None:
        if event.phase is Phase.PACKING and event.done is not None:
            told.append(event.done)
            stop.set()

    options = CompileOptions(cache=False, pack=PackOptions(compression="lz4"))
    with pytest.raises(CancelledError):
        compile(f"oci:{layout}:app", tmp_path / "out.erofs", options=options, progress=look, cancelled=stop.is_set)
    assert told == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


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

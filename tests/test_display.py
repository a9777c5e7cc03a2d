"""What a terminal shows: frames as pure text, frames on a real terminal, plain lines and JSON lines elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from ocifast.cli.display import format_size
from ocifast.cli.frame import Style, draw
from ocifast.cli.losses import sentences
from ocifast.cli.narration import JsonLines, PlainLines
from ocifast.cli.progress import progress_display
from ocifast.cli.screen import Screen
from ocifast.cli.tally import Tally
from ocifast.packers import Loss
from ocifast.progress import Event, LayerState, Phase
from ocifast.workspace import data_bytes

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import COMMAND, ocifast

PLAIN = Style(colour=False, unicode=True)
MB = 1_000_000


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def digest(number: int) -> str:
    return f"sha256:{number:064x}"[:7] + f"{number:012d}" + "0" * 52


def layer(number: int, state: LayerState, done: int | None = None, total: int | None = None) -> Event:
    return Event(Phase.LAYER_ACQUIRE, digest(number), state, done, total)


def frame(tally: Tally, width: int, height: int = 24, style: Style = PLAIN) -> list[str]:
    return draw("app:1", tally.snapshot(), width=width, height=height, style=style, is_final=tally.is_final)


@pytest.fixture
def busy() -> Tally:
    """Seven layers: one of each state."""
    clock = Clock()
    tally = Tally(clock=clock)
    for number in range(7):
        tally.take(layer(number, LayerState.WAITING, total=10 * MB))
    tally.take(layer(0, LayerState.DOWNLOADING, 0, 10 * MB))
    tally.take(layer(1, LayerState.DOWNLOADING, 0, 10 * MB))
    clock.now += 2
    tally.take(layer(0, LayerState.DOWNLOADED, 10 * MB, 10 * MB))
    tally.take(layer(0, LayerState.EXTRACTED, 10 * MB, 10 * MB))
    tally.take(layer(1, LayerState.DOWNLOADING, 2_500_000, 10 * MB))
    tally.take(layer(2, LayerState.EXISTS, 10 * MB, 10 * MB))
    tally.take(layer(2, LayerState.BLOCKED, 1 * MB, 10 * MB))
    tally.take(layer(3, LayerState.EXISTS, 10 * MB, 10 * MB))
    tally.take(layer(3, LayerState.EXTRACTING, 7_500_000, 10 * MB))
    return tally


def test_a_frame_with_room_for_all(busy: Tally) -> None:
    assert frame(busy, 120) == [
        "app:1",
        "  000000000001  ━━━━━━━───────────────────────     2.5 / 10.0 MB  downloading    1.2 MB/s  0:06 left",
        "  000000000003  ━━━━━━━━━━━━━━━━━━━━━━────────     7.5 / 10.0 MB  extracting",
        "  000000000002  ━━━───────────────────────────     1.0 / 10.0 MB  waiting for lower layers",
        "  1 of 7 done, 3 to come",
        "  total         ━━━━━━━━━─────────────────────    21.0 / 70.0 MB    6.2 MB/s  0:08 left",
    ]


def test_a_narrow_terminal_loses_whole_columns(busy: Tally) -> None:
    assert frame(busy, 50) == [
        "app:1",
        "  000000000001     2.5 / 10.0 MB  downloading",
        "  000000000003     7.5 / 10.0 MB  extracting",
        "  000000000002     1.0 / 10.0 MB  waiting",
        "  1 of 7 done, 3 to come",
        "  total           21.0 / 70.0 MB  0:08 left",
    ]
    assert frame(busy, 30) == [
        "app:1",
        "  000000000001  25%",
        "  000000000003  75%",
        "  000000000002  10%  waiting",
        "  1 of 7 done, 3 to come",
        "  total         30%",
    ]


def test_rates_of_what_is_read_here() -> None:
    """An image on this disk has a rate as well; a layer that waited begins anew."""
    clock = Clock()
    tally = Tally(clock=clock)
    tally.take(layer(1, LayerState.EXTRACTING, 0, 10 * MB))
    tally.take(layer(2, LayerState.WAITING, 0, 10 * MB))
    clock.now += 4
    tally.take(layer(1, LayerState.EXTRACTING, 4 * MB, 10 * MB))
    tally.take(layer(2, LayerState.EXTRACTING, 0, 10 * MB))
    clock.now += 1
    tally.take(layer(2, LayerState.EXTRACTING, 2 * MB, 10 * MB))
    assert [line[46:] for line in frame(tally, 100)[1:3]] == [
        "     4.0 / 10.0 MB  extracting  800.0 kB/s  0:08 left",
        "     2.0 / 10.0 MB  extracting    2.0 MB/s  0:04 left",
    ]
    assert frame(tally, 100)[-1].endswith("6.0 / 20.0 MB    1.2 MB/s  0:12 left")
    # The time left gives way first, then the rate.
    assert [line[35:] for line in frame(tally, 80)[1:3]] == [
        "     4.0 / 10.0 MB  extracting  800.0 kB/s",
        "     2.0 / 10.0 MB  extracting    2.0 MB/s",
    ]


def test_no_frame_is_larger_than_its_terminal(busy: Tally) -> None:
    busy.tell_retry("registry.example: no answer; trying again in 3.0 s", 3)
    for width in range(1, 130):
        for height in range(1, 20):
            lines = frame(busy, width, height)
            assert len(lines) < max(2, height)
            assert all(len(line) < width for line in lines)
    # What is last to go is the total.
    assert frame(busy, 80, 3)[-2].startswith("  total")


def test_many_layers_fill_no_more_lines_than_few() -> None:
    tally = Tally()
    for number in range(600):
        tally.take(layer(number, LayerState.WAITING, total=MB))
    for number in range(100, 150):
        tally.take(layer(number, LayerState.DOWNLOADING, 1, MB))
    lines = frame(tally, 100, 60)
    assert len(lines) == 15
    assert lines[-2] == "  0 of 600 done, 38 more on their way, 550 to come"


def test_packing_takes_the_place_of_the_total(busy: Tally) -> None:
    for number in range(7):
        busy.take(layer(number, LayerState.EXTRACTED, 10 * MB, 10 * MB))
    busy.take(Event(Phase.PACKING, done=30 * MB, total=60 * MB))
    assert frame(busy, 60) == [
        "app:1",
        "  7 of 7 done, 2 of them already there",
        "  packing         30.0 / 60.0 MB",
    ]


def test_a_retry_is_shown_until_it_is_over() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.take(layer(1, LayerState.DOWNLOADING, 0, MB))
    tally.tell_retry("registry.example: 503; trying again in 3.0 s", 3)
    assert frame(tally, 80)[-1] == "  registry.example: 503; trying again in 3.0 s"
    clock.now += 5
    assert "trying" not in "".join(frame(tally, 80))


def test_colours_and_letters_are_those_that_the_terminal_has(busy: Tally) -> None:
    coloured = "".join(frame(busy, 100, style=Style()))
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == "".join(frame(busy, 100))
    # Calm: nothing bold, nothing bright, no background.
    assert set(re.findall(r"\x1b\[([\d;]*)m", coloured)) <= {"0", "2", "36", "33"}
    assert "".join(frame(busy, 100, style=Style(colour=False, unicode=False))).isascii()


def test_nothing_in_a_title_steers_the_terminal() -> None:
    assert "\x1b" not in "".join(draw("a\x1b[2Jb", Tally().snapshot(), width=80, height=9, style=PLAIN, is_final=bool))


def test_events_in_any_order_are_taken() -> None:
    for states in permutations((LayerState.EXISTS, LayerState.DOWNLOADING, LayerState.EXTRACTED, LayerState.BLOCKED)):
        for finishes in (False, True):
            tally = Tally(finishes)
            for phase in Phase:
                tally.take(Event(phase, done=5))
            for state in states:
                tally.take(layer(1, state))
                tally.take(layer(2, state, 7, None))
                tally.take(layer(2, state, 7, 7))
                assert frame(tally, 80)


def test_the_unit_of_a_layer_stays_while_it_is_read_again() -> None:
    """Layers that were fetched are there, however much of them was decompressed."""
    tally = Tally()
    tally.take(layer(1, LayerState.DOWNLOADING, 3 * MB, 10 * MB))
    tally.take(layer(1, LayerState.DOWNLOADED, 10 * MB, 10 * MB))
    tally.take(layer(1, LayerState.EXTRACTING, 4 * MB, 10 * MB))
    assert "10.0 / 10.0 MB" in frame(tally, 80)[1]


def test_plain_lines() -> None:
    clock, lines = Clock(), list[str]()
    plain = PlainLines("app:1", lines.append, clock)
    plain.take(Event(Phase.RESOLVING))
    for number in (1, 2):
        plain.take(layer(number, LayerState.WAITING, total=number * MB))
    plain.take(layer(1, LayerState.EXISTS, MB, MB))
    for done in (0, 1, 2):
        plain.take(layer(2, LayerState.DOWNLOADING, done * MB, 2 * MB))
    plain.tell_retry("registry.example: trying again", 2)
    plain.take(layer(2, LayerState.DOWNLOADED, 2 * MB, 2 * MB))
    for number in (1, 2):
        plain.take(layer(number, LayerState.EXTRACTED, number * MB, number * MB))
    plain.take(Event(Phase.PACKING))
    plain.take(Event(Phase.PACKING, done=5, total=10))
    clock.now += 1.25
    plain.take(Event(Phase.COMPLETE))
    assert lines == [
        "ocifast: app:1: 2 blobs, 3.0 MB",
        "ocifast: app:1: 1/2 000000000001 1.0 MB already there",
        "ocifast: registry.example: trying again",
        "ocifast: app:1: 2/2 000000000002 2.0 MB fetched",
        "ocifast: app:1: packing",
        "ocifast: app:1: done in 1.2 s",
    ]


def test_json_lines_are_few() -> None:
    clock, lines = Clock(), list[str]()
    told = JsonLines(lines.append, clock)
    told.take(Event(Phase.RESOLVING))
    for done in range(101):
        told.take(layer(1, LayerState.DOWNLOADING, done, 100))
        clock.now += 0.04
    told.take(layer(1, LayerState.DOWNLOADED, 100, 100))
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert found[0] == {"phase": "resolving", "layer": None, "state": None, "done": None, "total": None}
    assert [event["done"] for event in found[1:]] == [0, 25, 50, 75, 100, 100]
    assert found[-1]["state"] == "downloaded"


@contextmanager
def terminal(columns: int = 80, rows: int = 24) -> Iterator[tuple[int, int]]:
    """Our end and their end of a terminal of that size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    yield ours, theirs
    os.close(ours)


def read_all(ours: int) -> str:
    """What was written until the last process closed its end (Linux says EIO then; pty(7))."""
    said = b""
    while True:
        try:
            said += os.read(ours, 65536)
        except OSError:
            # The terminal itself puts a carriage return before each line feed, too.
            return said.decode().replace("\r\r\n", "\r\n")


def test_a_screen_draws_in_place_and_wipes_itself() -> None:
    shown = [["one", "two"], ["three"]]
    with terminal(10) as (ours, theirs):
        screen = Screen(theirs, lambda width, height: [f"{width}x{height}", *shown.pop(0)])
        screen.draw()
        screen.draw()
        screen.above("stays")
        screen.close()
        os.close(theirs)
        assert read_all(ours) == (
            "10x24\x1b[K\r\none\x1b[K\r\ntwo\x1b[K\r\n\x1b[J"
            "\r\x1b[3A10x24\x1b[K\r\nthree\x1b[K\r\n\x1b[J"
            "\r\x1b[2A\x1b[Jstays\r\n"
        )


def test_a_terminal_that_became_narrower_is_wiped_to_the_top() -> None:
    with terminal(20) as (ours, theirs):
        screen = Screen(theirs, lambda width, height: ["x" * 19, "\x1b[36my\x1b[0m"])
        screen.draw()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 7, 0, 0))
        screen.close()
        os.close(theirs)
        # The first line takes three rows now, the second one.
        assert read_all(ours).endswith("\r\x1b[4A\x1b[J")


def test_frames_do_not_follow_the_events() -> None:
    with terminal() as (ours, theirs):
        tally = Tally()
        screen = Screen(theirs, lambda width, height: frame(tally, width, height))
        screen.start()
        events = 0
        begun = time.monotonic()
        while time.monotonic() - begun < 0.35:
            tally.take(layer(events % 60, LayerState.DOWNLOADING, events, 10**9))
            screen.poke()
            events += 1
        took = time.monotonic() - begun
        drawn = screen.frames
        screen.close()
        os.close(theirs)
        read_all(ours)
    assert events > 10 * drawn > 0
    assert drawn <= took / 0.1 + 1


def test_display_when_no_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display("app:1") as progress:
        progress(Event(Phase.COMPLETE))
    assert capsys.readouterr().err == "ocifast: app:1: done in 0.0 s\n"
    with progress_display("app:1", mode="none") as progress:
        progress(Event(Phase.COMPLETE))
    assert capsys.readouterr().err == ""


@pytest.fixture
def slow(tmp_path: Path) -> dict[str, str]:
    """An environment whose `tar2sqfs` never ends; it leaves the file `pid` when it began."""
    tool = tmp_path / "bin/tar2sqfs"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n[ $# = 1 ] && exec echo 'tar2sqfs 1' zstd\necho $$ > {tmp_path}/pid; sleep 1000\n")
    tool.chmod(0o755)
    return {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}


def test_an_interrupted_command_leaves_one_line(tmp_path: Path, slow: dict[str, str]) -> None:
    image = write_layout(tmp_path / "layout", build_image([TarBuilder().file("a", b"1")]))
    words: list[str | Path] = [COMMAND, "compile", f"oci:{image}:app", tmp_path / "out.squashfs"]
    words += ["--backend", "tar2sqfs", "--no-cache", "--progress", "auto"]
    with terminal() as (ours, theirs):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=theirs, env={**slow, "TERM": "xterm"})
        os.close(theirs)
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = read_all(ours)
        assert process.wait(60) == 130
    # The frame is wiped, and what follows is the last word.
    assert said.endswith("\x1b[J" + "ocifast: interrupted; nothing was written\r\n")


def test_warnings_stand_above_the_frame_and_begin_alike(tmp_path: Path) -> None:
    """One that the library says through logging, and one that the command says itself."""
    tar = TarBuilder().pax({"mtime": "7.25"}).file("a", b"1")
    image = build_image([tar], config={"User": "nobody-here"})
    layout = write_layout(tmp_path / "layout", image)
    (tmp_path / "file").write_text("no folder")
    environment = {**os.environ, "HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": str(tmp_path / "file")}
    environment.pop("OCIFAST_CACHE_DIR", None)
    words: list[str | Path] = [COMMAND, "compile", f"oci:{layout}:app", tmp_path / "out.cpio", "--progress", "none"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("ocifast: warning: ") for line in lines)
    assert "nothing is cached" in lines[0]


@pytest.mark.parametrize("words", [["ls", "{image}"], ["cat", "{image}", "/data"], ["compile", "{image}", "-"]])
def test_a_reader_that_went_away_is_no_error(tmp_path: Path, words: list[str]) -> None:
    big = TarBuilder().file("data", bytes(3_000_000))
    for number in range(3000):
        big.file(f"a-name-that-is-long-enough-{number}", b"")
    image = f"oci:{write_layout(tmp_path / 'layout', build_image([big]))}:app"
    ours, theirs = os.pipe()
    os.close(ours)
    command: list[str | Path] = [COMMAND, *(word.format(image=image) for word in words), "-q"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_named(unbuffered: str, tmp_path: Path) -> None:
    """Whether Python keeps back what it writes or not; an error is told all the same where its JSON finds no room."""
    image = f"oci:{write_layout(tmp_path / 'layout', build_image([TarBuilder().file('data', b'1')]))}:app"
    full_disk = b"ocifast: error: standard output: No space left on device\n"
    for words in (["ls", image], ["cat", image, "/data"], ["cache", "info"]):
        assert into_a_full_disk(words, unbuffered) == (1, full_disk)
    status, said = into_a_full_disk(["inspect", f"{image}-not", "--json"], unbuffered)
    assert status == 1
    assert re.fullmatch(rb"ocifast: error: oci:[^\n]*:app-not: [^\n]*\n", said)


def into_a_full_disk(words: list[str], unbuffered: str) -> tuple[int, bytes]:
    """Exit status and standard error of a command whose standard output takes nothing."""
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        command: list[str | Path] = [COMMAND, *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    return done.returncode, done.stderr


def test_closed_streams_lead_nowhere(tmp_path: Path) -> None:
    image = write_layout(tmp_path / "layout", build_image([TarBuilder().file("data", b"1")]))
    ocifast("compile", f"oci:{image}:app", tmp_path / "expected.tar")
    script = f"exec {COMMAND} compile oci:{image}:app {tmp_path}/out.tar --no-cache >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0
    assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "expected.tar").read_bytes()


def test_losses_are_sentences_one_a_kind() -> None:
    losses = [
        Loss("owner", "7:8", 22_000, (b"a\xff",)),
        Loss("xattr", "user.a: Operation not supported", 2, (b"b",)),
        Loss("owner", "8:8", 295, (b"c",)),
        Loss("xattr", "user.b: Operation not supported", 1, (b"b",)),
        Loss("device", "device nodes need root", 1, (b"dev/null",)),
    ]
    assert sentences("dir", losses) == [
        "owners of 22,295 entries were not kept: only root can; use erofs, tar or sudo (first: /a\\xff)",
        "extended attributes of 3 entries were not kept: dir: user.a: Operation not supported, and 1 other reason; use"
        " tar or erofs, which hold them (first: /b)",
        "device nodes of 1 entry were not kept: only root can make them; use erofs, tar or sudo (first: /dev/null)",
    ]
    assert sentences("erofs", losses[1:2]) == [
        "extended attributes of 2 entries were not kept: erofs: user.a: Operation not supported (first: /b)"
    ]


def test_holes_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b"1" * 65536)
        file.seek(100 << 20)
        file.write(b"2" * 65536)
        file.truncate(200 << 20)
    assert data_bytes(path) == 131072
    path.write_bytes(b"")
    assert data_bytes(path) == 0
    path.write_bytes(b"3" * 10000)
    assert data_bytes(path) == 10000


def test_the_last_line_tells_where_the_bytes_came_from(registry: Registry, tmp_path: Path) -> None:
    image = build_image([TarBuilder().file("f", os.urandom(300_000)), TarBuilder().file("g", os.urandom(100_000))])
    reference = registry.put(image, "display/line:1")
    fetched = format_size(sum(len(layer.blob) for layer in image.layers))

    def last(*words: str | Path) -> str:
        return ocifast("compile", reference, *words).decode().splitlines()[-1]

    assert last(tmp_path / "out.tar").endswith(f" s, {fetched} fetched")
    assert last(tmp_path / "out.cpio").endswith(f" s, {fetched} from the cache")
    assert last(tmp_path / "out.tar").endswith(" s, from the cache")
    assert ", 400.0 kB, 3 entries, linux/amd64, " in last(tmp_path / "out")
    assert last(tmp_path / "again.tar", "--no-cache").endswith(f" s, {fetched} fetched")

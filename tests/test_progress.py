"""What packers tell of their progress, and what whole commands show of theirs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import threading
from pathlib import Path

import ocifast
import pytest
from ocifast.cli.display import format_size
from ocifast.compiler import CompileOptions, compile_image
from ocifast.errors import CancelledError
from ocifast.flatten import flatten
from ocifast.packers import PackOptions
from ocifast.progress import Event, Phase

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import COMMAND, try_ocifast


def on_terminal(*words: str | Path) -> str:
    """What a command writes to a terminal as its standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
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


@pytest.fixture(autouse=True)
def _as_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """All other tests want no progress."""
    monkeypatch.delenv("OCIFAST_PROGRESS")


@pytest.fixture
def reference(registry: Registry) -> str:
    layers = [TarBuilder().file(f"f{number}", os.urandom(300_000)) for number in range(2)]
    return registry.put(build_image(layers), "progress/image:1")


@pytest.mark.parametrize("command", ["compile", "pull", "copy"])
def test_a_terminal_shows_the_work_and_is_left_clean(reference: str, tmp_path: Path, command: str) -> None:
    target = tmp_path / "out.tar" if command == "compile" else f"oci:{tmp_path}/layout:app"
    shown = on_terminal(command, reference, target)
    assert shown.startswith(f"{reference}\x1b[K\r")
    assert shown.endswith("\x1b[J")


def test_quiet_shows_nothing_on_a_terminal(reference: str, tmp_path: Path) -> None:
    assert on_terminal("compile", reference, tmp_path / "out.tar", "--quiet") == ""
    assert on_terminal("pull", reference, f"oci:{tmp_path}/layout:app", "--progress", "none") == ""


def test_a_pipe_gets_plain_lines(reference: str, tmp_path: Path) -> None:
    lines = try_ocifast("compile", reference, tmp_path / "out.tar").stderr.decode().splitlines()
    assert lines[0].startswith(f"ocifast: {reference}: 2 blobs, 60")
    assert sorted(line.split()[2] for line in lines[1:3]) == ["1/2", "2/2"]
    assert all(line.endswith(" kB fetched") for line in lines[1:3])
    assert lines[3] == f"ocifast: {reference}: packing"
    assert lines[4].startswith(f"ocifast: {reference}: done in ")
    assert len(lines) == 5
    again = try_ocifast("compile", reference, tmp_path / "out.cpio").stderr.decode().splitlines()
    assert all(line.endswith(" kB already there") for line in again[1:3])


def test_a_pipe_gets_nothing_of_commands_that_only_look(reference: str) -> None:
    assert try_ocifast("ls", reference).stderr == b""


def test_lines_of_json(reference: str, tmp_path: Path) -> None:
    said = try_ocifast("compile", reference, tmp_path / "out.tar", "--progress", "json").stderr
    events = [json.loads(line) for line in said.splitlines()]
    phases = list(dict.fromkeys(event["phase"] for event in events))
    assert phases == [phase.value for phase in Phase]
    layers = {event["layer"] for event in events} - {None}
    assert len(layers) == 2
    for digest in layers:
        states = [event["state"] for event in events if event["layer"] == digest]
        assert (states[0], states[-1]) == ("waiting", "extracted")


def told_by_packing(folder: Path, form: str, pack: PackOptions, threads: int | None = None) -> list[tuple[int, int]]:
    """Bytes done and to do, as a packer tells them of 20 MiB that compress to half."""
    tar = TarBuilder().file("big", b"".join(os.urandom(32768) + bytes(32768) for _ in range(320))).file("small", b"1")
    layout = write_layout(folder / "layout", build_image([tar]))
    events: list[Event] = []
    options = CompileOptions(cache=False, pack=pack, threads=threads)
    compile_image(f"oci:{layout}:app", folder / "out", format=form, options=options, progress=events.append)
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


@pytest.mark.tools
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
        compile_image(f"oci:{layout}:app", tmp_path / "out.erofs", options=options, progress=refuse)
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
        compile_image(
            f"oci:{layout}:app", tmp_path / "out.erofs", options=options, progress=look, cancelled=stop.is_set
        )
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


@pytest.mark.parametrize("form", ["tar", "cpio", "ext4", "erofs", "dir"])
def test_writers_of_ours_tell_bytes(tmp_path: Path, form: str) -> None:
    told = told_by_packing(tmp_path, form, PackOptions())
    total = (20 << 20) + 1
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {of for _, of in told} == {total}


@pytest.mark.parametrize("store", ["spool", "directory", "erofs"])
def test_the_core_counts_what_a_writer_takes(tmp_path: Path, store: str) -> None:
    tar = TarBuilder().file("a", bytes(70_000)).hard_link("b", "a").file("c", b"1").directory("d/")
    layout = write_layout(tmp_path / "layout", build_image([tar]))
    (tmp_path / "made").mkdir()
    (tmp_path / "waiting").mkdir()
    with ocifast.open(f"oci:{layout}:app") as image:
        tree = flatten(image, store=store, folder=tmp_path / "waiting").tree
        assert tree.content_bytes() == 70_001
        if store == "spool":
            assert tree.packed() == 0
            with (tmp_path / "out.tar").open("wb") as out:
                tree.write_tar(out.fileno())
        elif store == "directory":
            assert tree.packed() == 0
            tree.write_directory(tmp_path / "made", owners=False)
        assert tree.packed() == 70_001

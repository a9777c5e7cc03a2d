"""Runs that are killed at random moments: at the destination is nothing, or what was there, or all of the output."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ocifast.cli import Stopped, main
from ocifast.compiler import CompileOptions, compile_image
from ocifast.errors import FileError
from ocifast.packers import load_format
from ocifast.workspace import Workspace

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory
from tests.support.pack import PLAIN_FORMATS
from tests.support.run import COMMAND, Argument, ocifast

CASES: list[tuple[str, tuple[str, ...]]] = [
    *(
        (name, ("--backend", backend, *(("--free", "1M") if name == "ext4" else ())))
        for name in PLAIN_FORMATS
        for backend in sorted({b.name for b in load_format(name).backends})
    ),
    ("erofs", ("--compression", "zstd")),
    ("cpio", ("--compression", "zstd")),
    ("ext4", ("--free", "1M", "--journal")),
]

ROUNDS = 4
"""Every other one of them soon after the first byte of the output is somewhere, the rest at any moment."""


PRECIOUS = b"precious"


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image whose making takes some tenths of a second in every format."""
    noise = random.Random(5).randbytes(6_000_000)
    lower = TarBuilder().file("large", noise)
    for number in range(2500):
        lower.file(f"d/{number}", noise[number * 1000 : number * 1000 + 2000], mode=0o4755, uid=number)
    upper = TarBuilder().file("large", noise[::-1]).whiteout("d/7")
    return f"oci:{write_layout(tmp_path_factory.mktemp('kills') / 'layout', build_image([lower, upper]))}:app"


def content(path: Path) -> str:
    """What is at a path, in a line."""
    if path.is_dir():
        return hashlib.sha256(dump_directory(path).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "nothing"


def below(folder: Path) -> list[str]:
    """Commands of all processes that have to do with a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            inside = str((process / "cwd").readlink()).startswith(f"{folder}/")
        except OSError:
            continue
        if os.fsencode(folder) in command or inside:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def wait_begun(process: subprocess.Popen[bytes], folder: Path, what: str = "") -> None:
    """Until a run has its own folder beside the output (and `what` in it, or at the destination), or has ended."""
    while process.poll() is None and not any(folder.glob(f".ocifast-*/{what}")):
        if what and (out := folder / "out").exists() and out.stat().st_size != len(PRECIOUS):
            return
        time.sleep(0.0005)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_stop_at_the_very_moment_of_a_name(
    stop_at: int,
    named: bool,
    cached: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of three outputs, after or before one gets its name, fresh or from the cache."""
    image = write_layout(tmp_path / "layout", build_image([TarBuilder().file("f", b"data")]))
    outs = [tmp_path / name for name in ("a.tar", "b.erofs", "c.cpio")]
    words = ["compile", f"oci:{image}:app", *map(str, outs), "--quiet"]
    if cached:
        ocifast(*words)
    for out in outs:
        out.write_bytes(PRECIOUS)
    capsys.readouterr()
    # The signals of this process stay its own.
    monkeypatch.setattr(signal, "signal", lambda _number, _handler: None)
    publish = Workspace.publish
    moments: list[Path] = []

    def stopped(self: Workspace, made: Path) -> None:
        moments.append(made)
        if len(moments) < stop_at or named:
            publish(self, made)
        if len(moments) == stop_at:
            raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(Workspace, "publish", stopped)
    assert main([*words, *([] if cached else ["--no-cache"])]) == 143
    written = [out for out in outs if out.read_bytes() != PRECIOUS]
    assert written == outs[: stop_at if named else stop_at - 1]
    rest = {0: "; nothing was written", 3: ""}.get(
        len(written), f"; written: {', '.join(map(str, written))}, and no other output"
    )
    assert capsys.readouterr().err == f"ocifast: terminated{rest}\n"
    assert not list(tmp_path.glob(".ocifast-*"))


def test_a_disk_that_fails_between_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_layout(tmp_path / "layout", build_image([TarBuilder().file("f", b"data")]))
    outs = [tmp_path / "a.tar", tmp_path / "b.erofs"]
    publish = Workspace.publish

    def full(self: Workspace, made: Path) -> None:
        if self.destination == outs[1]:
            raise FileError("cannot write b.erofs: No space left on device")
        publish(self, made)

    monkeypatch.setattr(Workspace, "publish", full)
    with pytest.raises(FileError) as caught:
        compile_image(f"oci:{image}:app", outs, options=CompileOptions(cache=False))
    (kept,) = tmp_path.glob("b.erofs.*.unpublished")
    assert caught.value.message == (
        f"cannot write b.erofs: No space left on device; only {outs[0]} could be written; "
        f"what was made is kept as {kept}"
    )
    assert [out.exists() for out in outs] == [True, False]


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("form", "options"), CASES)
def test_a_kill_at_a_random_moment(
    location: str, tmp_path: Path, form: str, options: tuple[str, ...], number: signal.Signals
) -> None:
    def words(out: Path) -> list[Argument]:
        return [COMMAND, "compile", location, out, "-f", form, "--no-cache", "--quiet", *options]

    ocifast(*words(tmp_path / "warm")[1:])
    process = subprocess.Popen(words(tmp_path / "whole"), stdout=subprocess.DEVNULL)
    wait_begun(process, tmp_path)
    begun = time.monotonic()
    assert process.wait(60) == 0
    lasts = time.monotonic() - begun
    whole = content(tmp_path / "whole")
    moments = random.Random(f"{form}{options}{number}")
    for attempt in range(ROUNDS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        out = folder / "out"
        if attempt % 3 and form != "dir":
            out.write_bytes(PRECIOUS)
        before = content(out)
        process = subprocess.Popen(words(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if attempt % 2:
            wait_begun(process, folder)
            time.sleep(lasts * (attempt + moments.random()) / ROUNDS)
        else:
            wait_begun(process, folder, "output")
            time.sleep(0.02 * moments.random())
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        # Killed before it could listen, ended by its own hand, or done before.
        told = {b"": (-number, 0), b"ocifast: terminated; nothing was written\n": (128 + number,)}
        told[b"ocifast: terminated\n"] = (128 + number,)
        assert process.returncode in told[said]
        left = sorted(path.name for path in folder.iterdir() if path.name != "out")
        if process.returncode == 0 or said == b"ocifast: terminated\n":
            assert content(out) == whole
        else:
            # Only who was killed outright cannot say what it has done: also by a signal that comes while Python ends,
            # when nobody listens any more.
            assert content(out) == before or (content(out) == whole and process.returncode == -number)
        assert all(name.startswith(".ocifast-") for name in left)
        # What is left of a killed run goes with the next one, and its tools went with it.
        deadline = time.monotonic() + 30
        while (alive := below(folder)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert alive == []
        if form == "dir" and out.exists():
            continue
        ocifast(*words(out)[1:])
        assert content(out) == whole
        assert [path.name for path in folder.iterdir()] == ["out"]


def test_a_stop_that_breaks_a_lock_is_told_as_a_stop(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As `Condition.wait` does when the signal comes while it takes its lock back."""

    def broken(*_: object, **__: object) -> None:
        lock = threading.Lock()
        with lock:
            lock.release()
            raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("ocifast.cli.cli.main", broken)
    assert main(["compile"]) == 128 + signal.SIGTERM
    assert capfd.readouterr().err == "ocifast: terminated\n"

"""Archives that are written to standard output: whole, or nothing of them."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import ocifast
import pytest
from ocifast.errors import FileError
from ocifast.sources.open import parse_location, writes_stdout

from tests.support.elf import compile_c
from tests.support.images import Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import COMMAND, attempt, run, try_ocifast

IMAGE = build_image(
    [Layer(TarBuilder().file("big", os.urandom(3 << 20)), "gzip"), TarBuilder().file("etc/small", b"x")]
)
KINDS = ["oci-archive", "docker-archive"]


@pytest.fixture
def layout(tmp_path: Path) -> str:
    write_layout(tmp_path / "layout", IMAGE)
    return f"oci:{tmp_path}/layout:app"


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of the commands that are run."""
    folder = tmp_path / "waiting"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_out_is_the_file(kind: str, layout: str, waiting: Path, tmp_path: Path) -> None:
    run(COMMAND, "copy", layout, f"{kind}:{tmp_path}/file:app:1", "-q")
    done = try_ocifast("copy", layout, f"{kind}:-:app:1", "-q")
    assert (done.returncode, done.stdout) == (0, (tmp_path / "file").read_bytes())
    assert done.stderr.decode() == f"{IMAGE.digest}\n"
    done = try_ocifast("copy", layout, f"{kind}:-:app:1")
    assert f"{IMAGE.digest}  3 blobs copied" in done.stderr.decode()
    assert list(waiting.iterdir()) == []


@pytest.mark.tools
@pytest.mark.parametrize("kind", KINDS)
def test_podman_and_tar_read_it(kind: str, layout: str, tmp_path: Path) -> None:
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/root"\nrunroot = "{tmp_path}/run"\n'
    )
    env = {"CONTAINERS_STORAGE_CONF": f"{tmp_path}/storage.conf"}
    line = f"{COMMAND} copy -q {layout} {kind}:-:localhost/app:1"
    run("bash", "-o", "pipefail", "-c", f"{line} | podman load -q", env=env)
    found = json.loads(run("podman", "image", "inspect", "localhost/app:1", env=env))
    assert found[0]["RootFS"]["Layers"] == [layer.diff_id for layer in IMAGE.layers]
    listed = run("bash", "-o", "pipefail", "-c", f"{line} | tar t").split()
    assert (b"index.json" if kind == "oci-archive" else b"manifest.json") in listed


@pytest.mark.parametrize("kind", KINDS)
def test_a_pull_is_compiled_through_a_pipe(kind: str, layout: str, tmp_path: Path) -> None:
    run(COMMAND, "compile", "--no-cache", "-q", layout, tmp_path / "expected.tar")
    line = f"{COMMAND} copy -q {layout} {kind}:- | {COMMAND} copy -q {kind}:- {kind}:- "
    line += f"| {COMMAND} compile --no-cache -q {kind}:- {tmp_path}/seen.tar"
    run("bash", "-o", "pipefail", "-c", line)
    assert (tmp_path / "seen.tar").read_bytes() == (tmp_path / "expected.tar").read_bytes()


def test_an_image_from_a_registry(registry: Registry, layout: str, tmp_path: Path) -> None:
    name = f"{registry.host}/team/app:1"
    run(COMMAND, "push", "-q", layout, name)
    data = run(COMMAND, "pull", "-q", name, "oci-archive:-:app")
    assert data == run(COMMAND, "copy", "-q", layout, "oci-archive:-:app")


@pytest.mark.tools
@pytest.mark.parametrize("output", ["-", "oci-archive:-", "docker-archive:-:app:1"])
def test_a_runnable(output: str, tmp_path: Path) -> None:
    program = compile_c("musl-gcc", tmp_path / "hello", "-static")
    done = try_ocifast("runnable", program, "-o", output, "-q")
    prefix, _, name = output.rpartition("-")
    place = f"{prefix}{tmp_path}/file{name}"
    digest = run(COMMAND, "runnable", program, "-o", place, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, (tmp_path / "file").read_bytes(), digest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["small", "large"])
def test_a_copy_that_fails_writes_nothing(kind: str, size: str, waiting: Path, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", IMAGE)
    digest = IMAGE.layers[0 if size == "large" else 1].digest
    blob = tmp_path / "layout/blobs" / digest.replace(":", "/")
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    done = try_ocifast("copy", f"oci:{tmp_path}/layout:app", f"{kind}:-", "-q")
    assert (done.returncode, done.stdout) == (1, b"")
    assert digest in done.stderr.decode()
    assert list(waiting.iterdir()) == []


@pytest.mark.tools
@pytest.mark.parametrize("words", [["copy", "{layout}"], ["runnable", "{program}", "-o"]])
def test_json_goes_nowhere_else(words: list[str], layout: str, tmp_path: Path) -> None:
    program = compile_c("musl-gcc", tmp_path / "hello", "-static")
    words = [word.format(layout=layout, program=program) for word in words]
    done = try_ocifast(*words, "oci-archive:-", "--json")
    place = "--output" if words[0] == "runnable" else "oci-archive:-"
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        f"ocifast: error: --json writes to standard output, which {place} is already "
        f"(see 'ocifast {words[0]} --help')\n"
    )


def test_a_terminal_is_no_place_for_an_archive(layout: str) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([COMMAND, "copy", layout, "oci-archive:-"], stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        _, said = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 2
    assert said.startswith(b"ocifast: error: standard output is a terminal; redirect it, or name a file")


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_goes_away_is_no_error(kind: str, layout: str, waiting: Path) -> None:
    line = f"{COMMAND} copy -q {layout} {kind}:- | head -c 5; exit ${{PIPESTATUS[0]}}"
    done = attempt("bash", "-c", line)
    assert (done.returncode, len(done.stdout), done.stderr) == (1, 5, b"")
    assert list(waiting.iterdir()) == []


def test_a_full_disk_behind_standard_output(layout: str, waiting: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([COMMAND, "copy", "-q", layout, "oci-archive:-"], stdout=full, stderr=subprocess.PIPE)
    message = "ocifast: error: standard output: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, message)
    assert list(waiting.iterdir()) == []


def test_no_room_to_wait(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    with pytest.raises(FileError, match=r"^standard output: cannot write .*/not there: .*; the archive waits there"):
        ocifast.copy(layout, "oci-archive:-")


def test_whatever_python_has_as_standard_output(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.BytesIO):
        def write(self, data: object) -> int:
            return super().write(memoryview(data)[:100_000])  # type: ignore[arg-type]

    out = io.TextIOWrapper(Slow())
    monkeypatch.setattr(sys, "stdout", out)
    ocifast.copy(layout, "oci-archive:-")
    assert out.buffer.getvalue() == run(COMMAND, "copy", "-q", layout, "oci-archive:-")


@pytest.mark.parametrize("kind", [*KINDS, "tar"])
def test_a_file_that_is_called_so(kind: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "tar":
        Path("-").write_bytes(TarBuilder().file("x").build())
    else:
        assert run(COMMAND, "copy", "-q", layout, f"{kind}:./-") == f"{IMAGE.digest}\n".encode()
    assert Path("-").is_file()
    assert run(COMMAND, "ls", f"{kind}:./-")


def test_which_places_are_standard_output() -> None:
    texts = ["oci-archive:-", "docker-archive:-:a:1", "oci:-", "tar:-", "dir:-", "oci-archive:./-", "oci-archive:x"]
    assert [writes_stdout(parse_location(text)) for text in texts] == [True, True, False, False, False, False, False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_while_nobody_reads(number: signal.Signals, layout: str, waiting: Path) -> None:
    words = [str(COMMAND), "copy", "-q", layout, "oci-archive:-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        # The archive is larger than the pipe: the run waits for us.
        assert len(list(waiting.iterdir())) == 1
        process.send_signal(number)
        said = process.communicate(timeout=60)[1].decode()
    if number is signal.SIGKILL:
        assert run(*words)
    else:
        word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
        assert (process.returncode, said) == (128 + number, f"ocifast: {word}; standard output is not complete\n")
    assert list(waiting.iterdir()) == []


@pytest.mark.parametrize("words", [["copy", "oci-archive:-"], ["compile", "-"]], ids=lambda words: words[0])
def test_a_pipe_that_does_not_wait(words: list[str], layout: str) -> None:
    """As some programs give it to those that they start: a full pipe is no error."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    words = [str(COMMAND), words[0], layout, words[1], "-q"]
    with subprocess.Popen(words, stdout=writer) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            first = pipe.read(1)
            time.sleep(0.2)
            data = first + pipe.read()
    assert process.returncode == 0
    assert data == run(*words)


@pytest.mark.slow
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("words", [["copy", "oci-archive:-"], ["compile", "-"]], ids=lambda words: words[0])
def test_a_stop_while_the_pipe_is_full(words: list[str], blocking: bool, layout: str, waiting: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    words = [str(COMMAND), words[0], layout, words[1], "-q"]
    with subprocess.Popen(words, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert os.read(reader, 1)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    os.close(reader)
    assert (process.returncode, said) == (130, "ocifast: interrupted; standard output is not complete\n")
    assert list(waiting.iterdir()) == []

"""What errors call things: the image as it was asked for, the output as it was named, options as they are typed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ocifast.compiler import CompileOptions, compile_image
from ocifast.errors import FileError

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import COMMAND, try_ocifast


@pytest.fixture
def image(tmp_path: Path) -> str:
    """Many names and little content: a tar is larger than all that waits for it."""
    tar = TarBuilder()
    for number in range(2000):
        tar.file(f"f{number}", b"")
    return f"oci:{write_layout(tmp_path / 'layout', build_image([tar]))}:app"


def said(*words: str | Path) -> str:
    done = try_ocifast(*words)
    assert done.returncode == 1
    return done.stderr.decode()


def test_commands_that_look_name_the_image(image: str) -> None:
    further = f"; 'ocifast ls {image}' lists what is there\n"
    for command in ("ls", "cat", "du"):
        assert (
            said(command, image, "/nowhere") == f"ocifast: error: {image}: no such path in the image: /nowhere{further}"
        )
    assert said("cat", image, "/") == f"ocifast: error: {image}: not a regular file: /{further}"


def test_options_are_called_as_they_are_typed(image: str, tmp_path: Path) -> None:
    for option in ("--free", "--size", "--block-size"):
        assert (
            said("compile", image, tmp_path / "out.tar", option, "1M")
            == f"ocifast: error: tar has no option {option}\n"
        )


def limited(image: str, output: str) -> str:
    """What a run says whose files may not grow beyond 256 KiB."""
    words = f"ulimit -f 256; exec {COMMAND} compile {image} {output} --no-cache"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


def test_an_output_that_cannot_be_written_is_named(image: str, tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    assert limited(image, str(out)) == f"ocifast: error: {out}: writing the archive: File too large (os error 27)\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]
    with (tmp_path / "stream").open("wb") as stream:
        words = f"ulimit -f 256; exec {COMMAND} compile {image} - --no-cache"
        done = subprocess.run(["bash", "-c", words], stdout=stream, stderr=subprocess.PIPE, check=False)
    assert done.stderr.startswith(b"ocifast: error: standard output: writing the archive: File too large")


def test_the_hidden_folder_is_named_nowhere(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = (1, 1, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FileError) as caught:
        compile_image(image, tmp_path / "out.tar", options=CompileOptions(cache=False))
    assert ".ocifast-" not in caught.value.message
    assert f"are needed in {tmp_path}, and" in caught.value.message


def test_a_disk_that_does_not_tell_its_size_is_tried(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FUSE answers with zeros for those that do not know."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (0, 0, 0))
    compile_image(image, tmp_path / "out.tar", options=CompileOptions(cache=False))
    assert (tmp_path / "out.tar").stat().st_size > 0

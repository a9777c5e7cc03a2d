"""Streams of the caller's: with a file descriptor, without one, and such that refuse."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import ocifast
import pytest
from ocifast.errors import UsageError
from ocifast.streams import fd_of

from tests.support.images import Layer, build_image, write_layout
from tests.support.layers import TarBuilder

CONTENT = os.urandom(3 << 20)


class Reluctant(io.RawIOBase):
    """Takes 1,000 bytes at a time."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def write(self, data: Any, /) -> int:
        self.taken += data[:1000]
        return min(len(data), 1000)


class Full(io.RawIOBase):
    """A stream whose room ends."""

    def write(self, data: Any, /) -> int:
        raise ValueError("no room")


@pytest.fixture
def location(tmp_path: Path) -> str:
    write_layout(tmp_path / "layout", build_image([Layer(TarBuilder().file("f", CONTENT))]))
    return f"oci:{tmp_path}/layout:app"


def test_a_tar_into_objects_with_and_without_a_descriptor(location: str, tmp_path: Path) -> None:
    memory, reluctant = io.BytesIO(), Reluctant()
    with ocifast.open(location) as image, image.flatten() as rootfs:
        with (tmp_path / "file.tar").open("wb") as file:
            file.write(b"before")
            sizes = {rootfs.write_tar(out) for out in (file, memory, reluctant)}  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no room"):
            rootfs.write_tar(Full())  # type: ignore[arg-type]
    assert sizes == {len(memory.getvalue())}
    assert (tmp_path / "file.tar").read_bytes() == b"before" + memory.getvalue()
    assert reluctant.taken == memory.getvalue()
    with tarfile.open(fileobj=io.BytesIO(memory.getvalue())) as archive:
        content = archive.extractfile("f")
        assert content is not None
        assert content.read() == CONTENT
    assert [thread.name for thread in threading.enumerate() if thread.name == "ocifast-stream"] == []


def test_what_the_block_raises_goes_on() -> None:
    out = io.BytesIO()

    def use() -> None:
        with fd_of(out) as fd:
            os.write(fd, b"some")
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert out.getvalue() == b"some"


class Replaced:
    """Standard output as notebooks have it: bytes go in, no descriptor is behind it."""

    def __init__(self, buffer: io.BytesIO | None) -> None:
        if buffer is not None:
            self.buffer = buffer


def test_standard_output_that_was_replaced(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = io.BytesIO()
    options = ocifast.CompileOptions(cache=False)
    monkeypatch.setattr(sys, "stdout", Replaced(memory))
    ocifast.compile(location, "-", format="tar", options=options)
    with tarfile.open(fileobj=io.BytesIO(memory.getvalue())) as archive:
        assert archive.getnames() == [".", "f"]
    monkeypatch.setattr(sys, "stdout", Replaced(None))
    with pytest.raises(UsageError, match="standard output was replaced by something that takes text only"):
        ocifast.compile(location, "-", format="tar", options=options)

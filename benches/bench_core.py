"""The parts of the core, each on its own: hashing, inflating, reading tar, merging, writing.

Run with `make bench`, on a quiet machine; numbers of another machine mean nothing here.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ocifast import _core

from tests.support.images import Layer
from tests.support.layers import TarBuilder

MIB = 1 << 20
CHUNK = 256 << 10
Benchmark = Any


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on a tmpfs, so that no disk is measured."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def flatten(layers: Sequence[Layer], folder: Path, *, store: str = "spool") -> _core.Tree:
    """All layers through the core, as a source hands them on."""
    flattener = _core.Flattener(
        [(layer.digest, len(layer.blob), layer.diff_id) for layer in layers], store=store, folder=folder
    )
    for index, layer in enumerate(layers):
        view = memoryview(layer.blob)
        for start in range(0, len(view), CHUNK):
            flattener.write(index, bytes(view[start : start + CHUNK]))
        flattener.close_layer(index)
    return flattener.finish()


def in_new_folders(folder: Path) -> Callable[[], tuple[tuple[Path], dict[str, object]]]:
    """For `benchmark.pedantic`: each round gets a folder of its own."""

    def make() -> tuple[tuple[Path], dict[str, object]]:
        return (Path(tempfile.mkdtemp(dir=folder)),), {}

    return make


def like_code(size: int) -> bytes:
    """Bytes that deflate takes to about a third, as programs do; the same at every call."""
    chance = random.Random(1)
    words = [chance.randbytes(chance.randrange(3, 12)) for _ in range(4000)]
    out = bytearray()
    while len(out) < size:
        out += chance.choice(words)
    return bytes(out[:size])


def many_files(count: int) -> TarBuilder:
    """A layer of small files, a thousand in a directory."""
    tar = TarBuilder()
    for number in range(count):
        tar.file(f"srv/{number // 1000}/file-{number}", b"x" * (number % 700))
    return tar


def test_digest_of_64_mib(benchmark: Benchmark) -> None:
    data = os.urandom(64 * MIB)
    benchmark(_core.digest, data)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_layer_of_one_file_of_128_mib(benchmark: Benchmark, folder: Path, compression: Any) -> None:
    layer = Layer(TarBuilder().file("large", like_code(128 * MIB)), compression)
    benchmark.pedantic(lambda at: flatten([layer], at), setup=in_new_folders(folder), rounds=5)


@pytest.mark.parametrize("store", ["spool", "directory"])
def test_113_000_small_files(benchmark: Benchmark, folder: Path, store: str) -> None:
    layer = Layer(many_files(113_000))
    benchmark.pedantic(lambda at: flatten([layer], at, store=store), setup=in_new_folders(folder), rounds=3)


def test_100_000_whiteouts(benchmark: Benchmark, folder: Path) -> None:
    upper = TarBuilder()
    for number in range(100_000):
        upper.whiteout(f"srv/{number // 1000}/file-{number}")
    layers = [Layer(many_files(100_000)), Layer(upper)]
    tree = benchmark.pedantic(lambda at: flatten(layers, at), setup=in_new_folders(folder), rounds=3)
    assert len(tree) == 102


def test_200_000_names_in_one_directory(benchmark: Benchmark, folder: Path) -> None:
    tar = TarBuilder()
    for number in range(200_000):
        tar.file(f"d/{number}")
    layer = Layer(tar)
    benchmark.pedantic(lambda at: flatten([layer], at), setup=in_new_folders(folder), rounds=3)


def test_forty_layers_that_change_the_same_files(benchmark: Benchmark, folder: Path) -> None:
    layers = [Layer(many_files(2000).file("number", str(number).encode())) for number in range(40)]
    benchmark.pedantic(lambda at: flatten(layers, at), setup=in_new_folders(folder), rounds=3)


@pytest.mark.parametrize("what", ["tar", "dump"])
def test_write_113_000_small_files(benchmark: Benchmark, folder: Path, what: str) -> None:
    (folder / "spool").mkdir()
    tree = flatten([Layer(many_files(113_000))], folder / "spool")

    def write() -> None:
        if what == "dump":
            tree.dump()
        else:
            with (folder / "out.tar").open("wb") as file:
                tree.write_tar(file.fileno())

    benchmark.pedantic(write, rounds=3)

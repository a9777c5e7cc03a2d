"""What the cache keeps is what was made, whatever others do to an output once it has its name."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import ocifast
import pytest
from ocifast.compiler import CompileOptions
from ocifast.workspace import Workspace

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder


def changed(out: Path) -> None:
    """A machine writes to its disk."""
    with out.open("r+b") as file:
        file.write(b"EVIL")


def replaced(out: Path) -> None:
    """Another run with the same output puts its own there."""
    out.with_name("other").write_bytes(b"EVIL" * 1000)
    out.with_name("other").replace(out)


MEDDLE: dict[str, Callable[[Path], None]] = {"changed": changed, "replaced": replaced, "removed": Path.unlink}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MEDDLE)
@pytest.mark.parametrize("form", ["tar", "erofs", "ext4"])
def test_an_output_that_others_touch_at_once(
    kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"oci:{write_layout(tmp_path / 'layout', build_image([TarBuilder().file('f', b'data' * 9000)]))}:app"
    options = CompileOptions(cache_folder=str(tmp_path / "cache"))
    ocifast.compile(location, tmp_path / "right", format=form, options=CompileOptions(cache=False))
    publish = Workspace.publish

    def meddling(self: Workspace, made: Path) -> None:
        publish(self, made)
        MEDDLE[kind](self.destination)

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "publish", meddling)
        ocifast.compile(location, tmp_path / "out", format=form, options=options)
    again = ocifast.compile(location, tmp_path / "again", format=form, options=options)
    assert again.from_cache
    assert (tmp_path / "again").read_bytes() == (tmp_path / "right").read_bytes()


def compile_often(location: str, out: Path, cache: Path, rounds: int) -> None:
    """One of two processes that write to one path."""
    for _ in range(rounds):
        ocifast.compile(location, out, options=CompileOptions(cache_folder=str(cache)))
        for entry in cache.glob("outputs/*/entry.json"):
            with contextlib.suppress(OSError):
                entry.unlink()


def test_two_images_are_compiled_to_one_path_at_once(tmp_path: Path) -> None:
    """Each output is whole, and the cache has for each key what is made of its own image."""
    locations, right = [], {}
    for number in range(2):
        image = build_image([TarBuilder().file("f", bytes([number]) * 3_000_000)])
        locations.append(f"oci:{write_layout(tmp_path / f'layout-{number}', image)}:app")
        alone = tmp_path / f"alone-{number}.tar"
        ocifast.compile(locations[-1], alone, options=CompileOptions(cache=False))
        right[locations[-1]] = alone.read_bytes()
    out, cache = tmp_path / "out.tar", tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=compile_often, args=(each, out, cache, 25)) for each in locations]
    for run in runs:
        run.start()
    seen = set()
    while any(run.is_alive() for run in runs):
        with contextlib.suppress(FileNotFoundError):
            content = out.read_bytes()
            assert content in right.values()
            seen.add(content)
    assert [run.exitcode for run in runs] == [0, 0]
    assert seen == set(right.values())
    for location in locations:
        ocifast.compile(location, tmp_path / "fresh.tar", options=CompileOptions(cache_folder=str(cache)))
        done = ocifast.compile(location, tmp_path / "again.tar", options=CompileOptions(cache_folder=str(cache)))
        assert done.from_cache
        assert (tmp_path / "fresh.tar").read_bytes() == (tmp_path / "again.tar").read_bytes() == right[location]
    assert sorted(path.name for path in tmp_path.glob(".ocifast-*")) == []

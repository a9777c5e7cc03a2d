"""Several outputs from one decode, and one tree written in every format."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from ocifast import _core
from ocifast.compiler import CompileOptions, compile_image
from ocifast.errors import LossError, OcifastError, UsageError
from ocifast.image import open_image
from ocifast.marks import changes_bytes
from ocifast.packers import (
    FORMATS,
    Backend,
    Ext4Options,
    Format,
    FormatOptions,
    Loss,
    PackOptions,
    TarOptions,
    WriteRequest,
    Written,
    rows,
)
from ocifast.progress import Event, LayerState

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_mounted
from tests.support.pack import PLAIN_FORMATS
from tests.support.run import ocifast, try_ocifast

NAMES = {"dir": "out", **{name: f"out.{name}" for name in PLAIN_FORMATS if name != "dir"}}
UNCACHED = CompileOptions(cache=False)


@pytest.fixture
def location(tmp_path: Path) -> str:
    """Two layers: files of many sizes, links, holes, and some that the upper layer replaces."""
    lower = TarBuilder().directory("d/", mode=0o750, uid=7, gid=8, mtime=60).file("big", os.urandom(300_000))
    for size in (0, 1, 4095, 4096, 5000, 70_000):
        lower.file(f"d/{size}", os.urandom(size), mtime=70, uid=1000, gid=1001)
    lower.hard_link("d/again", "d/5000").symlink("link", "d/4096", mtime=74).file("gone", b"g" * 9000)
    upper = TarBuilder().file("d/70000", b"new" * 2000, mode=0o4755, mtime=80).file(".wh.gone", b"")
    upper.file("big", b"small").file("late", os.urandom(100_000))
    return f"oci:{write_layout(tmp_path / 'layout', build_image([lower, upper]))}:app"


@pytest.mark.root
def test_several_outputs_have_the_bytes_of_each_alone(tmp_path: Path, location: str) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "together").mkdir()
    alone = [compile_image(location, tmp_path / "alone" / name, options=UNCACHED) for name in NAMES.values()]
    together = compile_image(location, [tmp_path / "together" / name for name in NAMES.values()], options=UNCACHED)
    assert [done.format for done in together] == list(NAMES)
    for one, other in zip(alone, together, strict=True):
        assert (one.format, one.size, one.losses, one.properties) == (
            other.format,
            other.size,
            other.losses,
            other.properties,
        )
        if one.format != "dir":
            assert (tmp_path / "alone" / NAMES[one.format]).read_bytes() == (
                tmp_path / "together" / NAMES[one.format]
            ).read_bytes(), one.format
    assert dump_directory(tmp_path / "alone/out") == dump_directory(tmp_path / "together/out")
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == sorted(NAMES.values())


def test_layers_are_decoded_once(tmp_path: Path, location: str) -> None:
    seen: list[Event] = []
    compile_image(location, [tmp_path / "a.tar", tmp_path / "a.cpio"], options=UNCACHED, progress=seen.append)
    assert sum(event.state is LayerState.EXTRACTED for event in seen) == 2


def test_two_of_one_kind_are_equal(tmp_path: Path, location: str) -> None:
    compile_image(location, [tmp_path / "a.erofs", tmp_path / "b.erofs"], options=UNCACHED)
    assert (tmp_path / "a.erofs").read_bytes() == (tmp_path / "b.erofs").read_bytes()
    assert (tmp_path / "b.erofs").stat().st_mode & 0o7777 == 0o600


def test_what_is_cached_is_not_made_again(tmp_path: Path, location: str) -> None:
    options = CompileOptions(cache_folder=str(tmp_path / "cache"))
    compile_image(location, tmp_path / "one.erofs", options=options)
    first = compile_image(location, [tmp_path / "a.erofs", tmp_path / "a.ext4"], options=options)
    assert [done.from_cache for done in first] == [True, False]
    again = compile_image(location, [tmp_path / "b.ext4", tmp_path / "b.erofs"], options=options)
    assert [done.from_cache for done in again] == [True, True]
    assert [done.properties for done in again] == [done.properties for done in reversed(first)]
    for name in ("erofs", "ext4"):
        assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / f"b.{name}").read_bytes()


def test_when_one_fails_none_appears(tmp_path: Path, location: str) -> None:
    """The first output is complete when the second one fails."""
    options = CompileOptions(cache=False, pack=PackOptions(size=1 << 16))
    with pytest.raises(OcifastError, match="needs an ext4 image of at least"):
        compile_image(location, [tmp_path / "a.erofs", tmp_path / "a.tar", tmp_path / "a.ext4"], options=options)
    assert os.listdir(tmp_path) == ["layout"]  # noqa: PTH208


def test_when_one_loses_something_none_appears(tmp_path: Path) -> None:
    layer = TarBuilder().pax({"mtime": "7.25"}).file("a", b"1")
    layout = f"oci:{write_layout(tmp_path / 'layout', build_image([layer]))}:app"
    options = CompileOptions(cache=False, strict=True)
    with pytest.raises(LossError, match="cpio cannot hold all"):
        compile_image(layout, [tmp_path / "a.tar", tmp_path / "a.cpio"], options=options)
    assert os.listdir(tmp_path) == ["layout"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("names", "pack", "says"),
    [
        ([], PackOptions(), "there is no output"),
        (["a.tar", "./a.tar"], PackOptions(), r"\./a\.tar is named twice"),
        (["out", "out/a.tar"], PackOptions(), r"out/a\.tar would be inside of out"),
        (["a.tar", "a.cpio"], PackOptions(journal=True), "tar has no option --journal"),
        (["a.tar", "a.cpio"], PackOptions(backend="mkfs.erofs"), "no output has a backend 'mkfs.erofs'"),
        (["a.tar", "a.what"], PackOptions(), "of no known format"),
    ],
)
def test_outputs_that_make_no_sense_are_refused(
    tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch, names: list[str], pack: PackOptions, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    with pytest.raises(UsageError, match=says):
        compile_image(location, names, options=CompileOptions(cache=False, pack=pack))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "out"]


def test_an_option_goes_to_the_outputs_that_have_it(tmp_path: Path, location: str) -> None:
    pack = PackOptions(compression="zstd", size=64 << 20)
    done = compile_image(
        location, [tmp_path / "a.erofs", tmp_path / "a.ext4"], options=CompileOptions(cache=False, pack=pack)
    )
    assert done[1].size == 64 << 20
    alone = CompileOptions(cache=False, pack=PackOptions(compression="zstd"))
    compile_image(location, tmp_path / "b.erofs", options=alone)
    assert (tmp_path / "a.erofs").read_bytes() == (tmp_path / "b.erofs").read_bytes()


def test_the_command_line_writes_several(tmp_path: Path, location: str) -> None:
    places = [str(tmp_path / "a.erofs"), str(tmp_path / "a.tar")]
    told = json.loads(ocifast("compile", "--no-cache", "--json", location, *places))
    assert [(each["path"], each["format"]) for each in told] == [(places[0], "erofs"), (places[1], "tar")]
    assert told[0]["properties"]["uuid"].count("-") == 4
    assert told[1]["properties"] == {}
    single = json.loads(ocifast("compile", "--no-cache", "--json", location, str(tmp_path / "b.tar")))
    assert set(single) == set(told[0])
    lines = ocifast("compile", "--no-cache", location, *places).splitlines()
    assert [line.decode().partition(": ")[0] for line in lines[1:]] == places
    assert lines[0].decode() == single["digest"]
    assert try_ocifast("compile", location).returncode == 2


def test_a_stream_and_a_file_from_one_decode(tmp_path: Path, location: str) -> None:
    import subprocess
    import sys

    words = [sys.executable, "-m", "ocifast", "compile", "--no-cache", location, "-", str(tmp_path / "a.tar")]
    streamed = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
    assert streamed == (tmp_path / "a.tar").read_bytes()


@pytest.mark.root
def test_a_root_filesystem_is_written_in_every_format_again_and_again(tmp_path: Path, location: str) -> None:
    with open_image(location) as image, image.flatten() as rootfs:
        for turn in ("one", "two"):
            (tmp_path / turn).mkdir()
            for name, out in NAMES.items():
                written = rootfs.write(tmp_path / turn / out)
                assert written.bytes == (None if name == "dir" else (tmp_path / turn / out).stat().st_size)
                assert written.losses == ()
        dump = rootfs.dump().decode()
    assert dump_directory(tmp_path / "one/out") == dump
    for name, out in NAMES.items():
        if name != "dir":
            assert (tmp_path / "one" / out).read_bytes() == (tmp_path / "two" / out).read_bytes(), name
    for name in ("erofs", "ext4", "squashfs"):
        assert dump_mounted(tmp_path / "one" / NAMES[name], name, tmp_path / f"mounted-{name}") == dump
    assert not list(tmp_path.rglob(".ocifast-*"))


def test_a_root_filesystem_is_written_as_compile_does(tmp_path: Path, location: str) -> None:
    """Also with the image's own UUID and time; of erofs without compression see `Rootfs.write`."""
    with open_image(location) as image, image.flatten() as rootfs:
        for name in ("a.tar", "a.cpio.gz", "a.ext4"):
            compile_image(location, tmp_path / name, options=UNCACHED)
            rootfs.write(tmp_path / f"again-{name}")
            assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes(), name
        compile_image(
            location, tmp_path / "a.erofs", options=CompileOptions(cache=False, pack=PackOptions(compression="lz4"))
        )
        rootfs.write(tmp_path / "b", "erofs", PackOptions(compression="lz4"))
        assert (tmp_path / "a.erofs").read_bytes() == (tmp_path / "b").read_bytes()


def test_options_of_another_format_are_refused(tmp_path: Path, location: str) -> None:
    with open_image(location) as image, image.flatten() as rootfs:
        rootfs.write(tmp_path / "a.ext4", options=Ext4Options(size=32 << 20))
        assert (tmp_path / "a.ext4").stat().st_size == 32 << 20
        with pytest.raises(UsageError, match="options of tar are none of ext4"):
            rootfs.write(tmp_path / "b.ext4", options=TarOptions())
        with pytest.raises(UsageError, match="is a directory"):
            rootfs.write(tmp_path, "tar")
        with pytest.raises(OcifastError, match="needs an ext4 image of at least"):
            rootfs.write(tmp_path / "b.ext4", options=Ext4Options(size=1 << 16))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ext4", "layout"]


def test_contents_in_an_erofs_image_can_be_written_as_anything(tmp_path: Path) -> None:
    """Also as a second image, whose bytes are those of the first: nothing was replaced."""
    from tests.support.core import flatten

    data = os.urandom(10_000)
    layer = TarBuilder().file("a", data, mtime=5).directory("d/", mtime=6)
    tree: _core.Tree = flatten([layer], tmp_path / "work", store="erofs")
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        tree.write_erofs(tmp_path / turn / "image", uuid=bytes(16), created=7, folder=tmp_path / turn)
    assert (tmp_path / "one/image").read_bytes() == (tmp_path / "two/image").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "staged").mkdir()
    tree.write_directory(tmp_path / "out", owners=False, folder=tmp_path / "staged")
    assert (tmp_path / "out/a").read_bytes() == data


@dataclass(frozen=True)
class ToyOptions(FormatOptions):
    """Options of a toy: a list of paths."""

    format: ClassVar[str] = "toy"
    hide: str | None = changes_bytes(None)


class ToyBackend(Backend[ToyOptions]):
    """Writes it."""

    name = "toy"

    def version(self) -> str | None:
        return "1"

    def write(self, request: WriteRequest[ToyOptions]) -> Written:
        hidden = os.fsencode(request.options.hide or "")
        paths = [row.path for row in rows(request.tree) if row.path not in (b"", hidden)]
        size = request.path.write_bytes(b"\n".join(paths))
        return Written(size, (Loss("mode", "a toy has none", len(paths)),), {"lines": str(len(paths))})


TOY = Format("toy", ToyOptions, (ToyBackend(),))


def test_a_format_is_one_file_and_one_line(tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the end of this one, the line is the next."""
    monkeypatch.setitem(FORMATS, "toy", f"{__name__}:TOY")
    options = CompileOptions(cache_folder=str(tmp_path / "cache"))
    for cached in (False, True):
        made = compile_image(location, tmp_path / "a", format="toy", options=options)
        assert (made.from_cache, made.backend, made.properties) == (cached, "toy", (("lines", "11"),))
        assert (tmp_path / "a").read_text().split("\n")[:3] == ["big", "d", "d/0"]
    with pytest.raises(LossError, match="toy cannot hold all"):
        compile_image(location, tmp_path / "b", format="toy", options=CompileOptions(cache=False, strict=True))
    with pytest.raises(UsageError, match="toy has no option --level"):
        compile_image(location, tmp_path / "b", format="toy", options=CompileOptions(pack=PackOptions(level=1)))
    with open_image(location) as image, image.flatten() as rootfs:
        assert rootfs.write(tmp_path / "c", "toy", ToyOptions(hide="d")).properties == {"lines": "10"}
    assert (tmp_path / "c").read_text().startswith("big\nd/0")
    assert not (tmp_path / "b").exists()

"""Outputs that are read back before they are published."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ocifast import _core
from ocifast.compiler import CompiledImage, CompileOptions, compile_image
from ocifast.edits import Edits
from ocifast.errors import FilesystemError, OutputMismatchError, UsageError
from ocifast.packers import PackOptions, Written, load_format
from ocifast.planned import READABLE

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import COMMAND, attempt
from tests.support.samples import everything
from tests.support.shapes import attributes, contents, holes, names, times

CHECKED = CompileOptions(cache=False, verify_output=True)
BACKENDS = [
    (name, backend.name, compression)
    for name, compressions in {
        "tar": ("none", "gzip", "zstd"),
        "cpio": ("none", "zstd"),
        "erofs": ("none", "lz4", "zstd"),
        "squashfs": ("zstd", "gzip", "xz", "lz4"),
        "ext4": (None,),
    }.items()
    for backend in load_format(name).backends
    for compression in compressions
    # Debian's mkfs.erofs was built without zstd, and tar2sqfs writes lz4 that nobody reads.
    if (backend.name, compression) not in {("mkfs.erofs", "zstd"), ("tar2sqfs", "lz4")}
]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    lower = everything().file("gone", b"g" * 9000).directory("shapes")
    upper = TarBuilder().file(".wh.gone").file("shapes/new", b"n" * 5000)
    folder = tmp_path_factory.mktemp("layout")
    return f"oci:{write_layout(folder / 'image', build_image([lower, upper]))}:app"


def packed(layout: str, output: Path, name: str, backend: str, compression: str | None) -> CompiledImage:
    chosen = PackOptions(backend=backend, compression=compression, free_space=0 if name == "ext4" else None)
    options = CompileOptions(cache=False, pack=chosen, verify_output=True)
    # Debian's mkfs.erofs gives up on the longest name.
    edits = Edits(exclude=["n" * 255]) if backend == "mkfs.erofs" else None
    return compile_image(layout, output, format=name, options=options, edits=edits)


@pytest.mark.root
@pytest.mark.tools
@pytest.mark.parametrize(("name", "backend", "compression"), BACKENDS)
def test_what_every_backend_writes_is_the_tree(
    layout: str, tmp_path: Path, name: str, backend: str, compression: str | None
) -> None:
    done = packed(layout, tmp_path / "out", name, backend, compression)
    assert done.verified
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("shape", [attributes, contents, holes, names, times], ids=lambda shape: shape.__name__)
def test_odd_shapes_of_all_formats_at_once(tmp_path: Path, shape: object) -> None:
    assert callable(shape)
    layout = f"oci:{write_layout(tmp_path / 'image', build_image([shape()]))}:app"
    outputs = [tmp_path / f"out.{suffix}" for suffix in ("erofs", "squashfs", "ext4", "cpio", "tar", "tar.gz")]
    done = compile_image(
        layout, outputs, options=CompileOptions(cache=False, verify_output=True, pack=PackOptions(free_space=0))
    )
    assert all(each.verified for each in done)


class Liar:
    """A writer that says that all went well."""

    def __init__(self, name: str, change: str) -> None:
        self.backend = load_format(name).backends[0]
        self.change = change

    def __call__(self, request: object) -> Written:
        written = type(self.backend).write(self.backend, request)  # type: ignore[arg-type]
        path: Path = request.path  # type: ignore[attr-defined]
        if self.change == "short":
            os.truncate(path, 5000)
        elif self.change == "byte":
            data = bytearray(path.read_bytes())
            data[data.index(b"n" * 5000)] ^= 1
            path.write_bytes(data)
        else:
            return Written(written.bytes, (), written.properties)
        return written


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tar", "byte", r"/shapes/new: its content differs at byte 0"),
        ("ext4", "byte", r"/shapes/new: its content differs at byte 0"),
        ("squashfs", "short", r"cannot be read back"),
        ("erofs", "short", r"cannot be read back|differs"),
        ("cpio", "losses", r"its attribute .* is missing"),
    ],
)
def test_what_differs_is_not_published(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: str, said: str
) -> None:
    liar = Liar(name, change)
    pack = PackOptions(free_space=0 if name == "ext4" else None)
    monkeypatch.setattr(liar.backend, "write", liar)
    compile_image(layout, tmp_path / "unseen", format=name, options=CompileOptions(cache=False, pack=pack))
    (tmp_path / "unseen").unlink()
    checked = CompileOptions(cache=False, pack=pack, verify_output=True)
    with pytest.raises(OutputMismatchError, match=said) as caught:
        compile_image(layout, tmp_path / "out", format=name, options=checked)
    assert "it was not published" in caught.value.message
    assert list(tmp_path.iterdir()) == []
    if name in ("squashfs", "cpio"):
        with pytest.raises(OutputMismatchError):
            compile_image(layout, [tmp_path / "other.tar", tmp_path / f"out.{name}"], options=checked)
        assert list(tmp_path.iterdir()) == []


def test_an_output_of_the_cache_is_taken_when_it_was_read_back(layout: str, tmp_path: Path) -> None:
    cached = CompileOptions(cache_folder=str(tmp_path / "cache"))
    checked = CompileOptions(cache_folder=str(tmp_path / "cache"), verify_output=True)
    assert not compile_image(layout, tmp_path / "1.erofs", options=cached).from_cache
    made = compile_image(layout, tmp_path / "2.erofs", options=checked)
    assert (made.from_cache, made.verified) == (False, True)
    again = compile_image(layout, tmp_path / "3.erofs", options=checked)
    assert (again.from_cache, again.verified) == (True, True)
    assert (tmp_path / "1.erofs").read_bytes() == (tmp_path / "3.erofs").read_bytes()


@pytest.mark.parametrize("output", ["folder", "-"])
def test_what_cannot_be_read_back_is_refused_before_any_work(layout: str, tmp_path: Path, output: str) -> None:
    target = output if output == "-" else tmp_path / output
    with pytest.raises(UsageError, match="cannot be read back; erofs, squashfs, ext4, cpio, tar in files can"):
        compile_image(layout, target, options=CHECKED)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_so(layout: str, tmp_path: Path) -> None:
    done = attempt(COMMAND, "compile", layout, tmp_path / "out.tar", "--no-cache", "--verify-output", "--json")
    assert json.loads(done.stdout)["verified"] is True


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"something else" * 1000)
    for name in READABLE:
        with pytest.raises(FilesystemError):
            _core.read_image(tmp_path / "file", name)

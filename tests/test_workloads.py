"""The images of the comparison: built twice the same, and what they are said to be."""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import ocifast
import pytest

from benches.workloads import WORKLOADS, Source, Workload, build
from benches.workloads.blobs import ESTARGZ_CHUNK, PIECE, PIGZ_BLOCK, Deflated, estargz
from benches.workloads.content import Content
from benches.workloads.layouts import read_layers
from tests.support.images import build_image, digest_of, write_layout
from tests.support.layers import TarBuilder

KNOWN = {workload.name: workload for workload in WORKLOADS}
NEEDS_TOOLS = {"zstd"}
ALL = [pytest.param(name, marks=pytest.mark.tools) if name in NEEDS_TOOLS else name for name in KNOWN]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    big = Content(7, 1 << 18).take(ESTARGZ_CHUNK + 5)
    layers = [
        TarBuilder().directory("etc").file("etc/one", b"1" * 5000, mtime=2).file("etc/two", b"2").file("big", big),
        TarBuilder().file("srv/" + "n" * 120, b"3").symlink("srv/link", "one").hard_link("etc/three", "etc/one"),
    ]
    write_layout(tmp_path / "corpus", build_image(layers, config={"User": "7"}), tag="image")
    return Source(tmp_path / "corpus", "image", 0.002)


def archives(layout: Path, tag: str = "app") -> list[tarfile.TarFile]:
    """The layers of an image that are gzip, as Python reads them."""
    layers, _ = read_layers(layout, tag)
    blobs = [(layout / "blobs" / described["digest"].replace(":", "/")).read_bytes() for described, _ in layers]
    return [tarfile.open(fileobj=BytesIO(gzip.decompress(blob))) for blob in blobs]


def digest(layout: Path, tag: str = "app") -> str:
    """Of the tree, after all digests and diff IDs were verified."""
    with ocifast.open(f"oci:{layout}:{tag}") as image, image.flatten() as found:
        return found.digest


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_built_twice_the_same(tmp_path: Path, source: Source, name: str) -> None:
    first = build(KNOWN[name], source, tmp_path / "first")
    again = build(KNOWN[name], source, tmp_path / "again")
    assert list((tmp_path / "first").iterdir()) == [first]
    assert (first / "index.json").read_bytes() == (again / "index.json").read_bytes()
    assert digest(first) == digest(again)


@pytest.mark.parametrize("name", [pytest.param("zstd", marks=pytest.mark.tools), "pigz", "corpus", "slow", "second"])
def test_what_is_made_of_the_corpus_has_its_tree_and_config(tmp_path: Path, source: Source, name: str) -> None:
    layout = build(KNOWN[name], source, tmp_path / "made")
    assert digest(layout) == digest(tmp_path / "corpus", "image")
    assert read_layers(layout, "app")[1]["config"] == {"User": "7"}


def test_nothing_half_built_stays(tmp_path: Path, source: Source) -> None:
    def fail(folder: Path, _: Source) -> None:
        folder.mkdir()
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        build(Workload("broken", "", "", fail, ()), source, tmp_path / "made")
    assert not list((tmp_path / "made").iterdir())


def test_one_big_layer_has_the_files_of_the_four(tmp_path: Path, source: Source) -> None:
    layout = build(KNOWN["big"], replace(source, scale=0.01), tmp_path)
    (one,), four = archives(layout), archives(layout, "four")
    assert len(four) == 4
    assert sum(member.size for member in one) == 20_000_000
    assert digest(layout) == digest(layout, "four")


def test_sixty_layers_replace_and_delete(tmp_path: Path, source: Source) -> None:
    layout = build(KNOWN["sixty"], source, tmp_path)
    layers = archives(layout)
    assert len(layers) == 60
    assert "srv/layer-0/.wh.file-1" in layers[1].getnames()
    # 60 folders and srv and the root; one file of each layer but the last is deleted.
    with ocifast.open(f"oci:{layout}:app") as image, image.flatten() as found:
        assert len(list(found)) == 62 + 60 * 40 - 59


def test_the_small_files_have_the_size_that_is_told(tmp_path: Path, source: Source) -> None:
    layout = build(KNOWN["files"], source, tmp_path)
    (layer,) = archives(layout)
    files = [member for member in layer if member.isfile()]
    assert len(files) == 600
    assert max(member.size for member in files) <= 580
    # 300,000 of them are 327 MB, headers and padding included.
    padded = sum(512 + (member.size + 511) // 512 * 512 for member in files)
    assert padded * 500 == pytest.approx(326e6, rel=0.02)


def test_a_second_image_shares_all_layers_but_one(tmp_path: Path, source: Source) -> None:
    layout = build(KNOWN["second"], source, tmp_path)
    first, second = read_layers(layout, "app")[0], read_layers(layout, "second")[0]
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]


def test_flush_points_stand_where_pigz_has_them(tmp_path: Path, source: Source) -> None:
    layout = build(KNOWN["pigz"], source, tmp_path)
    (described, _), *_ = read_layers(layout, "app")[0]
    blob = (layout / "blobs" / described["digest"].replace(":", "/")).read_bytes()
    size = len(gzip.decompress(blob))
    # A flush ends in an empty stored block: after each there are whole blocks of 128 KiB.
    inflate, ends = zlib.decompressobj(31), 0
    for piece in blob.split(b"\x00\x00\xff\xff"):
        ends += len(inflate.decompress(piece + b"\x00\x00\xff\xff"))
        if ends < size and inflate.unconsumed_tail == b"":
            assert ends % PIGZ_BLOCK == 0
    assert blob.count(b"\x00\x00\xff\xff") >= size // PIGZ_BLOCK


def test_estargz_can_be_read_by_its_table_alone(tmp_path: Path, source: Source) -> None:
    layers, _ = read_layers(tmp_path / "corpus", "image")
    blob = tmp_path / "corpus/blobs" / layers[0][0]["digest"].replace(":", "/")
    archive = BytesIO(gzip.decompress(blob.read_bytes()))
    diff_id = estargz(archive, tmp_path / "estargz")
    made = (tmp_path / "estargz").read_bytes()
    assert diff_id == digest_of(gzip.decompress(made))
    footer = made[-51:]
    assert footer[:4] == b"\x1f\x8b\x08\x04"
    assert footer[32:38] == b"STARGZ"
    offset = int(footer[16:32], 16)
    with tarfile.open(fileobj=BytesIO(gzip.decompress(made[offset:-51]))) as table:
        toc = table.extractfile("stargz.index.json")
        assert toc is not None
        entries: list[dict[str, Any]] = json.loads(toc.read())["entries"]
    chunks = [entry for entry in entries if entry["name"] == "big"]
    assert [chunk["type"] for chunk in chunks] == ["reg", "chunk"]
    content = b"".join(
        zlib.decompressobj(31).decompress(made[chunk["offset"] :])[: chunk["chunkSize"]] for chunk in chunks
    )
    assert content == Content(7, 1 << 18).take(ESTARGZ_CHUNK + 5)


def test_pieces_that_are_deflated_once_make_one_member(tmp_path: Path) -> None:
    piece = Content(1, 1 << 18).take(PIECE)
    blob = Deflated(tmp_path / "blob")
    for data in (b"first", piece, piece, b"last", piece):
        blob.write(data)
    blob.close()
    inflate = zlib.decompressobj(31)
    assert inflate.decompress((tmp_path / "blob").read_bytes()) == b"first" + piece + piece + b"last" + piece
    assert inflate.eof
    assert len(blob.known) == 1


def test_contents_compress_as_programs_do() -> None:
    data = Content(1).take(8 << 20)
    assert 2 < len(data) / len(zlib.compress(data)) < 3.5

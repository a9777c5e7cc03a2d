"""Layers of many members: however many cores inflate them, and in whatever order, they give the same."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import pytest
from ocifast import _core
from ocifast.errors import OcifastError
from ocifast.flatten import FlattenOptions, flatten
from ocifast.image import open_image

from tests.support.images import Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import run

MEMBER = b"\x1f\x8b\x08\x00"


def archive() -> bytes:
    """Files of many sizes, and some that look like members of gzip."""
    noise = hashlib.shake_256(b"noise").digest(6 << 20)
    tar = TarBuilder().directory("usr/")
    for index in range(400):
        tar.file(f"usr/{index}", noise[: index * 97])
    for index in range(6):
        part = noise[index << 20 : (index + 1) << 20]
        tar.file(f"usr/large{index}", part + MEMBER * 10 + part[:300_000] + gzip.compress(part[:1000], mtime=0))
    return tar.build()


TAR = archive()


def pieces(*lengths: int) -> list[bytes]:
    """The archive in pieces of these lengths, over and over."""
    source = io.BytesIO(TAR)
    found: list[bytes] = []
    while piece := source.read(lengths[len(found) % len(lengths)]):
        found.append(piece)
    return found


def named(data: bytes) -> bytes:
    """A member with a name, as each member of some writers has one."""
    file = io.BytesIO()
    with gzip.GzipFile("a name", "wb", 6, file, 0) as member:
        member.write(data)
    return file.getvalue()


BLOBS = {
    "one": lambda: gzip.compress(TAR, 1, mtime=0),
    "bgzip": lambda: b"".join(gzip.compress(piece, 1, mtime=0) for piece in [*pieces(65_280), b""]),
    "tiny": lambda: b"".join(gzip.compress(piece, 1, mtime=0) for piece in pieces(512, 97, 3000)),
    "estargz": lambda: b"".join(named(piece) for piece in pieces(512, 4 << 20, 700, 20_000)),
    "stored": lambda: b"".join(gzip.compress(piece, 0, mtime=0) for piece in pieces(300_000, 1 << 20)),
    "frames": lambda: b"".join(run("zstd", "-q", "-c", stdin=piece) for piece in pieces(400_000)),
}


def dump(layout: Path, decoders: int) -> bytes:
    options = FlattenOptions(decoders=decoders, limits=_core.Limits(layer_bytes=1 << 30))
    with open_image(f"oci:{layout}:app") as image, flatten(image, options=options) as tree:
        return tree.dump()


KINDS = [pytest.param(kind, marks=pytest.mark.tools if kind == "frames" else ()) for kind in BLOBS]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_nothing(kind: str, tmp_path: Path) -> None:
    blob = BLOBS[kind]()
    layout = write_layout(tmp_path / "layout", build_image([Layer(TAR, blob=blob), Layer(TAR, blob=blob)]))
    plain = write_layout(tmp_path / "plain", build_image([Layer(TAR, compression="plain")] * 2))
    expected = dump(plain, 1)
    for decoders in (1, 2, 4, 8):
        assert dump(layout, decoders) == expected


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.values[0] in ("bgzip", "estargz", "frames")])
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9, 1.0])
def test_damage_is_said_the_same(kind: str, where: float, tmp_path: Path) -> None:
    blob = bytearray(BLOBS[kind]())
    blob[int(where * (len(blob) - 1))] ^= 0x10
    layout = write_layout(tmp_path / "layout", build_image([Layer(TAR, blob=bytes(blob))]))
    said = []
    for decoders in (1, 2, 4):
        with pytest.raises(OcifastError) as failure:
            dump(layout, decoders)
        said.append(str(failure.value))
    assert len(set(said)) == 1

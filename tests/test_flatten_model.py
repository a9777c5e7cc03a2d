"""Flattening random layers, from the blob to the dump, against a naive model of the merge."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ocifast import _core

from tests.support.images import Layer
from tests.support.model import Member, Model, Path, RefusedError, as_tar

FOLDERS = [b"d", b"e", b"l"]
LEAVES = [b"a", b"b", b"c", b"\xff"]
LINKS = [b"l", b"m"]
TARGETS = [b"d", b"/e", b"../d", b"d/e", b"missing", b".", b"/l/..", b"a"]
KINDS = ["file", "file", "directory", "symlink", "link", "link", "fifo", "whiteout", "opaque"]
MODES = [0o644, 0o4755, 0o1777, 0]


@st.composite
def some_layers(draw: st.DrawFn) -> list[list[Member]]:
    """A few layers. Files mostly stand in folders and links mostly name files, as else the image is refused."""
    known: list[Path] = []
    images = []
    for _ in range(draw(st.integers(1, 4))):
        layer = []
        for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8)):
            folder = tuple(draw(st.lists(st.sampled_from(FOLDERS), max_size=2)))
            leaf = {"symlink": LINKS, "directory": FOLDERS, "opaque": FOLDERS}.get(kind, LEAVES)
            path = (*folder, draw(st.sampled_from(leaf * 6 + FOLDERS + LEAVES)))
            mode = draw(st.sampled_from(MODES))
            if kind == "link" and not known:
                continue
            target = draw(st.sampled_from(TARGETS)) if kind == "symlink" else b""
            if kind == "link":
                target = b"/".join(draw(st.sampled_from(known)))
            layer.append(Member(kind, path, mode, target, draw(st.binary(max_size=2)) if kind == "file" else b""))
            if kind in ("file", "fifo", "symlink", "link"):
                known.append(path)
        images.append(layer)
    return images


layers = some_layers()


def flatten(images: Sequence[Sequence[Member]]) -> str:
    """The dump of real layers, given to the core in small pieces."""
    built = [Layer(as_tar(layer)) for layer in images]
    with tempfile.TemporaryDirectory() as folder:
        flattener = _core.Flattener(
            [(layer.digest, len(layer.blob), layer.diff_id) for layer in built], store="spool", folder=folder
        )
        for index, layer in enumerate(built):
            for start in range(0, len(layer.blob), 97):
                flattener.write(index, layer.blob[start : start + 97])
            flattener.close_layer(index)
        return flattener.finish().dump().decode()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(layers)
def test_flattening_agrees_with_the_model(images: list[list[Member]]) -> None:
    model = Model()
    try:
        for layer in images:
            model.apply(layer)
    except (RefusedError, RecursionError):
        assume(False)
    assert flatten(images) == model.dump()


def test_the_layers_are_worth_it() -> None:
    """Most random layers are taken, and all kinds of members survive into trees."""
    seen: Counter[str] = Counter()

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(layers)
    def look(images: list[list[Member]]) -> None:
        model = Model()
        try:
            for layer in images:
                model.apply(layer)
        except RefusedError:
            seen["refused"] += 1
            return
        seen["taken"] += 1
        seen.update({line.split(" ")[1] for line in model.dump().splitlines()})
        seen["hard link"] += any(line.split(" ")[6] != "-" for line in model.dump().splitlines())

    look()
    assert seen["taken"] > 50
    assert min(seen[kind] for kind in ("file", "directory", "symlink", "fifo", "hard link")) > 5, seen

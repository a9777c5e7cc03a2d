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

NAMES = [b"a", b"b", b"c", b"d", b"\xff"]
LINKS = [b"l", b"m"]
TARGETS = [b"a", b"/b", b"../c", b"a/b", b"/l/..", b"missing", b"."]

names = st.sampled_from([*NAMES, *LINKS])
paths: st.SearchStrategy[Path] = st.lists(names, min_size=1, max_size=3).map(tuple)
modes = st.sampled_from([0o644, 0o4755, 0o1777, 0])
members = st.one_of(
    st.builds(Member, st.just("file"), paths, modes, data=st.binary(max_size=3)),
    st.builds(Member, st.just("directory"), paths, modes),
    st.builds(
        lambda path, target: Member("symlink", path, 0o777, target),
        st.tuples(st.lists(names, max_size=2), st.sampled_from(LINKS)).map(lambda pair: (*pair[0], pair[1])),
        st.sampled_from(TARGETS),
    ),
    st.builds(lambda path, target: Member("link", path, target=b"/".join(target)), paths, paths),
    st.builds(Member, st.just("fifo"), paths, modes),
    st.builds(Member, st.just("whiteout"), paths),
    st.builds(Member, st.just("opaque"), paths),
)
layers = st.lists(st.lists(members, min_size=1, max_size=8), min_size=1, max_size=4)


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

"""The names of a tree come in pages: pages of any length, in any order, give what one page of all gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from ocifast import _core

from tests.support.core import flatten
from tests.support.layers import TarBuilder

NAMES = ["a", "b/c/d/e", "b/c/d/f", "b/c.d", "b-b/x", "b/c/d.d", "deep/1/2/3/4/5", "empty", "z"]


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> _core.Tree:
    tar = TarBuilder()
    for name in NAMES:
        tar.file(name)
    tar.directory("folder").symlink("link", "b").hard_link("z2", "z")
    return flatten([tar.build()], tmp_path / "work")


def pages(tree: _core.Tree, prefix: bytes, length: int) -> list[bytes]:
    """All paths, read in pages."""
    found: list[bytes] = []
    while page := tree.entries(prefix, len(found), length):
        assert len(page) <= length
        found += [row[0] for row in page]
    return found


@pytest.mark.parametrize("prefix", [b"", b"b", b"b/c", b"deep/1", b"folder", b"z", b"link", b"link/c"])
def test_pages_of_any_length_give_all_names(tree: _core.Tree, prefix: bytes) -> None:
    whole = [row[0] for row in tree.entries(prefix, 0, 1000)]
    assert whole[0] == prefix
    assert len(set(whole)) == len(whole)
    for length in range(1, len(whole) + 2):
        assert pages(tree, prefix, length) == whole


def test_pages_in_any_order_give_the_same(tree: _core.Tree) -> None:
    whole, below = tree.entries(b"", 0, 1000), tree.entries(b"b", 0, 1000)
    assert len(whole) == len(tree) == 22
    for start in [5, 3, 7, 9, 0, 2, 20, 21, 22, 23, 4]:
        assert tree.entries(b"", start, 2) == whole[start : start + 2]
        assert tree.entries(b"b", start, 2) == below[start : start + 2]
    assert tree.entries(b"", 4, 0) == []
    assert tree.entries(b"", 4, 3) == whole[4:7]

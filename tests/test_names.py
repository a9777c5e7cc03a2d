"""A name of a class means one thing: words are the same everywhere, and different things have different ones."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent

PYTHON = re.compile(r"^\s*class (\w+)", re.MULTILINE)
# A type of a trait or an implementation stands further in; those of a test are its own.
RUST = re.compile(r"^(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|type|union) (\w+)", re.MULTILINE)

FORMATS = {
    "Algorithm", "Attribute", "Compression", "Device", "Fields", "Header", "Identity", "Image", "Inode", "Name",
    "Opened", "Options", "Reading", "Record", "Shape", "Stream", "Superblock", "Type",
}  # fmt: skip
"""Names that each format, written or read, has of its own: the module is part of them, as in `ext4::Options`."""
MIRRORS = {"Edit", "Flattener", "FrameWriter", "Hasher", "KeptLayer", "Limits", "Tree"}
"""Python's classes, in `bindings`, of what the core calls so."""
PRIVATE = {"State"}
"""What one file keeps behind a lock or between two steps."""


def homes(pattern: re.Pattern[str], folder: Path, suffixes: tuple[str, ...]) -> Mapping[str, set[str]]:
    """By name, the files that define it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes:
            for name in pattern.findall(path.read_text().partition("#[cfg(test)]\nmod tests {")[0]):
                found[name].add(path.relative_to(folder).as_posix())
    assert len(found) > 100
    return found


def test_each_class_has_a_name_of_its_own() -> None:
    classes = homes(PYTHON, ROOT / "python/ocifast", (".py", ".pyi"))
    assert {name: files for name, files in classes.items() if len(files) > 1} == {}


def test_a_type_of_the_core_shares_its_name_for_a_reason_only() -> None:
    types = homes(RUST, ROOT / "rust/src", (".rs",))
    twice = {name: files for name, files in types.items() if len(files) > 1}
    assert set(twice) == FORMATS | MIRRORS | PRIVATE
    for name in MIRRORS:
        mirrored = [file for file in twice[name] if not file.startswith("bindings/")]
        assert len(mirrored) == len(twice[name]) - 1 == 1, name

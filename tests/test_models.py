"""Models of JSON documents are ready to be read before there are threads."""

from __future__ import annotations

import ast
from pathlib import Path

import ocifast

PACKAGE = Path(ocifast.__file__).parent


def structs(path: Path) -> dict[str, list[str]]:
    """The models of a module with the names of their decorators."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    return {
        f"{path.relative_to(PACKAGE)}: {node.name}": [ast.unparse(each) for each in node.decorator_list]
        for node in found
        if any(ast.unparse(base).endswith("Struct") for base in node.bases)
    }


def test_each_model_is_readable() -> None:
    """What a thread that is the first to read one does to the process: `test_image.py`."""
    found = {name: how for path in PACKAGE.rglob("*.py") for name, how in structs(path).items()}
    assert len(found) > 20
    assert [name for name, how in found.items() if how != ["readable"]] == []

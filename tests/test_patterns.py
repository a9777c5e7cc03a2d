"""Regular expressions that are compiled when they are first used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocifast import patterns

_ROOT = Path(patterns.__file__).parent


def test_a_pattern_does_what_a_compiled_one_does() -> None:
    both: tuple[tuple[Any, Any], ...] = (
        (patterns.pattern(r"(a+)b", re.IGNORECASE), re.compile(r"(a+)b", re.IGNORECASE)),
        (patterns.pattern(rb"(a+)b", re.IGNORECASE), re.compile(rb"(a+)b", re.IGNORECASE)),
    )
    for late, at_once in both:
        assert "fullmatch" not in vars(late)
        text: Any = "xAab aB" if isinstance(at_once.pattern, str) else b"xAab aB"
        assert [each.groups() for each in late.finditer(text)] == [each.groups() for each in at_once.finditer(text)]
        assert late.fullmatch(text) is None
        assert late.search(text, 5).span() == at_once.search(text, 5).span()
        assert late.sub(text[:1], text) == at_once.sub(text[:1], text)
        assert (late.pattern, late.flags, late.groups) == (at_once.pattern, at_once.flags, at_once.groups)
        assert "fullmatch" in vars(late)


def test_no_module_compiles_one_while_it_is_imported() -> None:
    assert [f"{path.relative_to(_ROOT)}:{line}" for path in _ROOT.rglob("*.py") for line in _compiled(path)] == []


def _compiled(path: Path) -> Iterator[int]:
    """Lines outside functions that call `re.compile`."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("re.compile", "compile"):
            yield node.lineno
        waiting += ast.iter_child_nodes(node)

"""Which file imports which, in both languages, read from the sources without running them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = dict[str, set[str]]
"""For each module (dotted, without the package's or crate's name; "" is its root) those that it imports."""


def python_graph(package: Path) -> Graph:
    """Imports between the modules of a package, those inside functions and for type checkers included."""
    modules = {_dotted(path.relative_to(package)): path for path in sorted(package.rglob("*.py"))}
    modules["_core"] = package / "_core.pyi"
    graph: Graph = {}
    for module, path in modules.items():
        base = module if path.name == "__init__.py" else module.rpartition(".")[0]
        targets = _python_targets(ast.parse(path.read_text()), package.name, base, set(modules))
        graph[module] = targets - {module}
    return graph


def rust_graph(source: Path) -> Graph:
    """`crate::`, `super::` and `self::` paths between the modules of a crate.

    Left out: the module of unit tests at a file's end, and what a folder's `mod.rs` hands on with `pub use`: that is
    the folder's face, not a use of what stands behind it.
    """
    modules = {_dotted(path.relative_to(source)): path for path in sorted(source.rglob("*.rs"))}
    graph: Graph = {}
    for module, path in modules.items():
        text = _without_comments(path.read_text())
        text = re.split(r"#\[cfg\(test\)\]\s*mod\s", text)[0]
        text = re.sub(r"^pub use [^;]*;", "", text, flags=re.MULTILINE) if path.name in ("mod.rs", "lib.rs") else text
        folder = module if path.name in ("mod.rs", "lib.rs") else module.rpartition(".")[0]
        found = {_closest(target, set(modules)) for target in _rust_targets(text, module, folder, set(modules))}
        graph[module] = found - {module}
    return graph


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle in the order of their imports; empty when there is none."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if found := search(target, [*path, module]):
                return found
        done.add(module)
        return []

    for module in sorted(graph):
        if found := search(module, []):
            return found
    return []


def _dotted(path: Path) -> str:
    parts = list(path.with_suffix("").parts)
    if parts[-1] in ("__init__", "mod", "lib"):
        parts.pop()
    return ".".join(parts)


def _closest(target: str, modules: set[str]) -> str:
    """The module that a path names, or that holds the item that it names."""
    while target not in modules:
        target = target.rpartition(".")[0]
    return target


def _python_targets(tree: ast.Module, package: str, base: str, modules: set[str]) -> set[str]:
    targets: set[str] = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parts = base.split(".") if base else []
                parts = parts[: len(parts) - node.level + 1]
                start = ".".join([package, *parts, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        for name in names:
            if name == package or name.startswith(package + "."):
                targets.add(_closest(name[len(package) + 1 :], modules))
    return targets


def _without_comments(text: str) -> str:
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def _rust_targets(text: str, module: str, folder: str, modules: set[str]) -> Iterator[str]:
    for found in re.finditer(r"\b(crate|self|(?:super::)*super)::", text):
        start = found[1]
        if start == "crate":
            base: list[str] = []
        else:
            base = module.split(".") if module else []
            base = base[: len(base) - start.count("super")]
        for path in _expand(text, found.end()):
            yield ".".join([*base, *path])
    # A `mod.rs` names its children without a word before them.
    if folder == module:
        children = {name.rpartition(".")[2] for name in modules if name and name.rpartition(".")[0] == module}
        for found in re.finditer(r"\b([a-z_0-9]+)::", text):
            before = text[: found.start()]
            if found[1] in children and not before.endswith("::"):
                yield ".".join(filter(None, [module, found[1]]))


def _expand(text: str, start: int) -> list[list[str]]:
    """The paths of a `use` tree that begins at `start`: `a::{b, c::D}` is a.b and a.c.D."""
    return _tree(text, start)[0]


def _tree(text: str, at: int) -> tuple[list[list[str]], int]:
    word = re.compile(r"\s*([A-Za-z_0-9*]+)").match(text, at)
    if word:
        at = word.end()
        if text.startswith("::", at):
            deeper, at = _tree(text, at + 2)
            return [[word[1], *path] for path in deeper], at
        return [[word[1]]], at
    brace = re.compile(r"\s*\{").match(text, at)
    if not brace:
        return [[]], at
    paths, at = [], brace.end()
    while True:
        found, at = _tree(text, at)
        paths += found
        rest = re.compile(r"(?:\s+as\s+\w+)?\s*([,}])").match(text, at)
        if not rest or rest[1] == "}":
            return paths, rest.end() if rest else at
        at = rest.end()
        if close := re.compile(r"\s*\}").match(text, at):
            return paths, close.end()

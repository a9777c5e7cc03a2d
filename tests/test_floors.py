"""Imports point down. Floors are numbered as in docs/architecture.md.

The rule: a file imports from lower floors, and on its own floor from lower *steps* (the tuples below stand in the order
of the steps) or from its own folder, and never in a circle. `_core` is the lowest Python module, `ocifast` itself
stands below the command line and above all else.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.floors import Graph, circle, python_graph, rust_graph

ROOT = Path(__file__).parent.parent

Steps = Sequence[Sequence[str]]
PYTHON: Mapping[int, Steps] = {
    0: (
        ("file_types", "logs", "models", "patterns", "records"),
        ("_core", "errors", "home", "lazy", "marks", "metrics", "progress", "refusals", "shown", "sizes"),
        ("spec", "clock", "telemetry"),
        ("reference", "platforms", "elf"),
    ),
    1: (
        ("digests", "removal", "file_data"),
        ("leftovers",),
        ("atomic",),
        ("early_writeback", "process", "streams", "interrupt"),
        ("workspace",),
        ("sources",),
        ("cache",),
        ("kernel_folder", "layer_folder", "opening"),
    ),
    2: (
        ("artifacts", "decoded", "history", "layered", "layers", "signatures"),
        ("edits", "packers", "points", "remote", "seals"),
        ("rootfs", "intake"),
        ("flatten", "layer_entries", "peek"),
        ("image",),
    ),
    3: (("boot", "loader"),),
    4: (
        ("compiled", "options"),
        ("planned",),
        ("sharing", "standalone", "writing"),
        ("compiler", "copying", "difference", "exporting", "footprint", "rewriting", "runnable"),
        ("batch", "filesystem", "layer_difference", "reporting", "transfers"),
        ("mirroring",),
        ("aio",),
        ("",),
    ),
    5: (("cli",), ("__main__",)),
}
RUST: Mapping[int, Steps] = {
    0: (("error", "limits", "entry", "open_files"), ("whiteout", "digest"), ("path",)),
    1: (
        ("tar", "contents"),
        ("blocks", "decompress", "file_digest", "frames", "tree", "batch", "same", "spool"),
        ("budget",),
        ("merge", "edit"),
    ),
    2: (("read",), ("layer", "decoded"), ("scheduler",), ("flatten",)),
    3: (("output",), ("compare", "compare_layers", "usage", "verify", "verity")),
    4: (("bindings",), ("",)),
}
ROOMS: Mapping[str, Steps] = {
    "output.erofs": (("identity",), ("format",), ("data",), ("meta",)),
}
"""Folders with rooms of their own: a room imports from those before it, and from itself."""


def place(module: str, table: Mapping[int, Steps]) -> tuple[int, int]:
    """Floor and step of a module; fails for one that has no place."""
    top = module.split(".")[0]
    for floor, steps in table.items():
        for step, names in enumerate(steps):
            if top in names:
                return floor, step
    pytest.fail(f"{module} stands on no floor: put it into the table in {Path(__file__).name}")


def offences(graph: Graph, table: Mapping[int, Steps]) -> list[str]:
    """Imports that point up or sideways."""
    found = []
    for module, targets in graph.items():
        for target in targets:
            if module and target and module.split(".")[0] == target.split(".")[0]:
                continue
            if place(target, table) >= place(module, table):
                found.append(f"{module or '(root)'} imports {target or '(root)'}")
    return sorted(found)


def test_python_imports_point_down() -> None:
    graph = python_graph(ROOT / "python/ocifast")
    assert len(graph) > 10
    assert offences(graph, PYTHON) == []
    assert circle(graph) == []


def test_rust_imports_point_down() -> None:
    graph = rust_graph(ROOT / "rust/src")
    assert len(graph) > 10
    assert offences(graph, RUST) == []
    assert circle(graph) == []


def rooms(graph: Graph, folder: str) -> Graph:
    """The part of a graph that is in a folder, named from there."""
    inner = {module for module in graph if module.startswith(f"{folder}.")}
    start = len(folder) + 1
    return {module[start:]: {target[start:] for target in graph[module] & inner} for module in inner}


def test_rooms_import_only_from_those_before_them() -> None:
    graph = rust_graph(ROOT / "rust/src")
    for folder, steps in ROOMS.items():
        inner = rooms(graph, folder)
        assert {module.split(".")[0] for module in inner} == {name for names in steps for name in names}
        assert offences(inner, {0: steps}) == []
        # Nobody outside takes a thing from a room but through the folder's face.
        beside = {module for module in graph if not f"{module}.".startswith(f"{folder}.")}
        assert {target for module in beside for target in graph[module] if target.startswith(f"{folder}.")} == set()


def test_only_the_bindings_name_pyo3() -> None:
    naming = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "rust/src").rglob("*.rs") if "pyo3" in path.read_text()
    }
    assert {name for name in naming if not name.startswith("rust/src/bindings/")} == set()


def test_only_process_runs_tools() -> None:
    naming = set()
    for path in (ROOT / "python").rglob("*.py"):
        if "import subprocess" in path.read_text() or "os.system(" in path.read_text():
            naming.add(path.name)
    assert naming == {"process.py"}


def test_every_library_is_a_declared_one() -> None:
    declared = re.findall(
        r'^ {4}"([a-z]+)>=', (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0], re.MULTILINE
    )
    imported = set()
    for path in (ROOT / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
    optional = {"fsspec", "cryptography", "distributed", "opentelemetry", "yaml"}
    libraries = imported - sys.stdlib_module_names - optional - {"ocifast", "tomllib"}
    assert libraries == {{"pyelftools": "elftools"}.get(name, name) for name in declared}


def test_files_stay_short() -> None:
    long = {}
    for folder in ("python", "rust", "tests", "benches", "tools"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".rs") and len(path.read_text().splitlines()) > 500:
                long[path.relative_to(ROOT).as_posix()] = len(path.read_text().splitlines())
    assert long == {}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Files of a package made for one test."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_every_way_to_import_is_seen_in_python(tmp_path: Path) -> None:
    package = write(
        tmp_path / "ocifast",
        {
            "__init__.py": "from ocifast.cli import main\n",
            "_core.pyi": "",
            "errors.py": "def f():\n    import ocifast.image\n",
            "image.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import sources\n",
            "sources/__init__.py": "from ..cli import x, y\nfrom .layout import Layout\n",
            "sources/layout.py": "from ocifast.errors import E\nfrom ocifast import _core\n",
            "cli/__init__.py": "import os\nfrom ocifast import errors\n",
        },
    )
    assert python_graph(package) == {
        "": {"cli"},
        "_core": set(),
        "errors": {"image"},
        "image": {"sources"},
        "sources": {"cli", "sources.layout"},
        "sources.layout": {"errors", "_core"},
        "cli": {"errors"},
    }
    assert circle(python_graph(package)) == ["cli", "errors", "image", "sources", "cli"]
    assert offences(python_graph(package), PYTHON) == [
        "(root) imports cli",
        "errors imports image",
        "sources imports cli",
    ]


def test_every_way_to_import_is_seen_in_rust(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        {
            "lib.rs": "pub mod error;\npub mod tree;\npub mod output;\nmod bindings;\n",
            "error.rs": "// use crate::tree;\n/* crate::output */\npub type A = crate::tree::Tree;\n",
            "tree.rs": "use crate::{error::{self, Error}, output::{dump::Dump, Loss as L}};\n"
            "#[cfg(test)]\nmod tests { use crate::bindings; }\n",
            "output/mod.rs": "pub use dump::Dump;\npub fn f() { dump::g() }\n",
            "output/dump.rs": "use super::Loss;\nuse super::super::error::Error;\n",
            "bindings/mod.rs": "use self::tree::Tree;\n",
            "bindings/tree.rs": "",
        },
    )
    assert rust_graph(source) == {
        "": set(),
        "error": {"tree"},
        "tree": {"error", "output.dump", "output"},
        "output": {"output.dump"},
        "output.dump": {"output", "error"},
        "bindings": {"bindings.tree"},
        "bindings.tree": set(),
    }
    assert circle(rust_graph(source)) == ["error", "tree", "error"]
    assert offences(rust_graph(source), RUST) == [
        "error imports tree",
        "tree imports output",
        "tree imports output.dump",
    ]

"""The documents say what the code does: tables are complete, examples run, public names are the listed ones."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_floors import PYTHON, RUST, Steps

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


def text(name: str) -> str:
    """A document of the project."""
    return (ROOT / name).read_text()


def table_rows(document: str, first: str) -> Iterator[list[str]]:
    """Cells of the table whose header line begins with the cell `first`."""
    inside = False
    for line in document.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0] == first:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not set(line) <= set("|-: "):
            yield cells


@pytest.mark.parametrize(("language", "floors"), [("Python", PYTHON), ("Rust", RUST)])
def test_the_architecture_shows_the_floors_that_are_held(language: str, floors: dict[int, Steps]) -> None:
    shown = {
        int(row[0]): re.findall(r"`([a-z_]+)/?`", row[1])
        for header in re.findall(
            rf"^\| floor \| {language}.*$\n(?:\|.*\n)+", text("docs/architecture.md"), re.MULTILINE
        )
        for row in table_rows(header, "floor")
    }
    held = {floor: sorted(name for step in steps for name in step if name) for floor, steps in floors.items()}
    assert {floor: sorted(names) for floor, names in shown.items()} == held


def test_the_architecture_gives_a_reason_for_every_dependency() -> None:
    reasons = {
        name for row in table_rows(text("docs/architecture.md"), "crate") for name in re.findall(r"`([\w-]+)`", row[0])
    }
    manifest = text("rust/Cargo.toml")
    sections = re.findall(r"^\[(?:dev-)?dependencies\]\n((?:(?!\[).*\n)*)", manifest, re.MULTILINE)
    crates = {name for section in sections for name in re.findall(r"^([\w-]+)\s*=", section, re.MULTILINE)}
    assert crates - reasons == set()
    assert reasons - crates - {"zlib-rs"} == set()
    packages = {
        re.split(r"[<>=~]", line)[0] for line in re.findall(r'^    "(.*)",$', text("pyproject.toml"), re.MULTILINE)
    }
    document = text("docs/architecture.md")
    assert {name for name in packages if f"`{name}`" not in document and "::" not in name} == set()


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []


def test_every_public_name_is_there() -> None:
    package = importlib.import_module("ocifast")
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert sorted(package.__all__, key=str.lower) == package.__all__ or sorted(package.__all__) == package.__all__

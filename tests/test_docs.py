"""The documents say what the code does: tables are complete, examples run, public names are the listed ones."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ocifast import _core, errors
from ocifast.errors import OcifastError
from ocifast.packers import FORMATS

from tests.support.images import build_image, build_index, write_layout
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import attempt, run, tool
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
    sections = re.findall(r"^\[(?:target\..*\.)?(?:dev-)?dependencies\]\n((?:(?!\[).*\n)*)", manifest, re.MULTILINE)
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


def test_every_public_name_has_its_row() -> None:
    rows = [name for row in table_rows(text("docs/python.md"), "name") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(rows) == sorted(importlib.import_module("ocifast").__all__)


def test_every_format_has_its_row() -> None:
    rows = [row[0].strip("`") for row in table_rows(text("docs/packers.md"), "format")]
    assert sorted(rows) == sorted(FORMATS)


def test_every_error_has_its_row() -> None:
    """Rows for the classes that are raised; those that only group others have none."""

    def subclasses(cls: type[OcifastError]) -> Iterator[type[OcifastError]]:
        yield cls
        for sub in cls.__subclasses__():
            yield from subclasses(sub)

    grouping = {"OcifastError", "SourceError", "VerificationError", "LayerError", "OutputError"}
    named = {(cls.code, cls.__name__) for cls in subclasses(OcifastError) if cls.__name__ not in grouping}
    public = {pair for pair in named if pair[1] in errors.__all__}
    rows = {(row[0].strip("`"), row[1].strip("`")) for row in table_rows(text("docs/errors.md"), "code")}
    assert rows == public
    assert set(_core.CODES) <= {code for code, _ in rows}


def test_every_document_can_be_found_from_the_first_page() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document not in seen:
            seen.add(document)
            targets = re.findall(r"\]\(([^)#]+\.md)", document.read_text())
            waiting += [(document.parent / target).resolve() for target in targets if "://" not in target]
    assert sorted(set(DOCS.glob("*.md")) - seen) == []


def blocks(language: str) -> list[tuple[str, str]]:
    """The examples of all documents in one language, each with where it stands.

    Commands of how-tos and of the tutorial build on each other: `tests/test_howtos.py` runs them.
    """
    found = []
    for document in DOCUMENTS:
        if language == "console" and (document.parent.name == "howto" or document.name == "tutorial.md"):
            continue
        pieces = re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
        found += [(f"{document.relative_to(ROOT)}-{number}", piece) for number, piece in enumerate(pieces)]
    return found


RUN_ELSEWHERE = {
    "--policy": "tests/test_policies.py has policies and signed images",
    "--sign-verity": "tests/test_verity.py has the key",
    "--verify-key": "tests/test_signatures.py has keys and signed images",
    "--verity": "tests/test_verity.py opens what it makes",
}
"""Options of indented commands that are no synopsis, and where they run."""


def test_commands_stand_where_a_test_runs_them() -> None:
    """An indented command of ours is a synopsis, with a place in capitals; what can be typed is in a `console` one."""
    for document in DOCUMENTS:
        for line in re.findall(r"^    (?:\$ )?((?:python -m )?ocifast [a-z].*)$", document.read_text(), re.MULTILINE):
            elsewhere = RUN_ELSEWHERE.keys() & set(line.split())
            assert elsewhere or re.search(r"\b[A-Z]{3,}\b", line), f"{document.relative_to(ROOT)}: {line}"


@pytest.fixture(scope="session")
def public_names(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The public names that the examples use, and where the tests have something of that name."""
    folder = tmp_path_factory.mktemp("examples")
    tar = TarBuilder().directory("etc").file("etc/os-release", b"ID=example\n")
    tar.directory("bin").file("bin/app", b"x" * 5000, mode=0o755)
    config = {"Entrypoint": ["/bin/app"]}
    platforms = [build_image([tar], config=config, platform=name) for name in ("linux/amd64", "linux/arm64")]
    index = build_index(platforms)
    write_layout(folder / "layout", platforms[0])
    names = {
        "docker.io/library/python:3.13-slim": registry.put(index, "examples/python:3.13-slim"),
        "ghcr.io/org/app:1.2": registry.put(index, "examples/app:1.2"),
        "ghcr.io/org/app:nosuch": f"{registry.host}/examples/app:nosuch",
        'ghcr.io/org/app"': f'{registry.host}/examples/app"',
        "ghcr.io/org/hello:1": f"{registry.host}/examples/hello:1",
        "ghcr.io/me/hello:1": f"{registry.host}/examples/hello:1",
        "oci:layout:app": f"oci:{folder}/layout:app",
    }
    for name in ("hello", "hello-amd64"):
        shutil.copy(tool("busybox"), folder / name)
        names[f"./{name}"] = f"{folder}/{name}"
    source = folder / "hello.c"
    source.write_text("int main(void) { return 0; }\n")
    run("aarch64-linux-gnu-gcc", "-static", "-o", folder / "hello-arm64", source)
    names["./hello-arm64"] = f"{folder}/hello-arm64"
    return names


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """Where an example runs, with the files of a user that examples add to an image."""
    (tmp_path / "agent").write_bytes(b"agent")
    return tmp_path


def localized(example: str, names: dict[str, str]) -> str:
    """The example with public names replaced, longest first."""
    for name in sorted(names, key=len, reverse=True):
        example = example.replace(name, names[name])
    return example


@pytest.mark.parametrize(("place", "example"), blocks("python"), ids=[place for place, _ in blocks("python")])
def test_python_examples_run(workplace: Path, public_names: dict[str, str], place: str, example: str) -> None:
    script = workplace / "example.py"
    script.write_text(localized(example, public_names))
    done = attempt(sys.executable, "-W", "error", script, cwd=workplace)
    # What is not closed is told at the very end, when it is too late to fail.
    assert (done.returncode, b"Warning" in done.stderr) == (0, False), done.stderr.decode()


@pytest.mark.parametrize(("place", "example"), blocks("console"), ids=[place for place, _ in blocks("console")])
def test_commands_in_examples_run(workplace: Path, public_names: dict[str, str], place: str, example: str) -> None:
    commands = [line[2:] for line in localized(example, public_names).splitlines() if line.startswith("$ ")]
    assert commands
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in commands:
        run("bash", "-euo", "pipefail", "-c", command, cwd=workplace, env={"PATH": path})

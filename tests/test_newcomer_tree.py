"""The newcomer's test in the tree itself: in a copy of it, each toy is a file in its folder and a line in its table.

What stands in the tree is then known to the command line at once, and the tests of the copy name what is left to write.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder

ROOT = Path(__file__).parent.parent
COPIED = ("python", "tests", "docs", "README.md", "CHANGELOG.md", "pyproject.toml", "Cargo.toml")


class Toy(NamedTuple):
    """One toy: its file, the folder where it goes, the table there, the line before which its own goes, and that."""

    file: str
    folder: str
    before: str
    line: str


TOYS = {
    "format": Toy(
        "listing.py", "packers", '}\n"""Name of each format', '    "listing": "ocifast.packers.listing:FORMAT",\n'
    ),
    "transport": Toy("zipped.py", "sources/transports", ")\n\n\ndef _transport", '    "zipped",\n'),
    "seal": Toy("trailer.py", "seals", '}\n"""Name of each seal', '    "trailer": "ocifast.seals.trailer:SEAL",\n'),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with all toys in it."""
    copy = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    for toy in TOYS.values():
        folder = copy / "python/ocifast" / toy.folder
        shutil.copy(ROOT / "tests/support/toys" / toy.file, folder / toy.file)
        table = folder / "__init__.py"
        text = table.read_text()
        assert text.count(toy.before) == 1
        table.write_text(text.replace(toy.before, toy.line + toy.before))
    return copy


def run(copy: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": f"{copy}/python:{copy}", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def failing(copy: Path, *tests: str) -> set[str]:
    """Which of these tests of the copy fail."""
    done = run(copy, "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return set(re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE))


def test_the_command_line_knows_each(copy: Path, tmp_path: Path) -> None:
    assert "zip:FILE" in run(copy, "ocifast", "--help").stdout
    told = run(copy, "ocifast", "compile", "--help").stdout
    assert "listing" in told
    assert "--trailer" in told
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().directory("d").file("d/a", b"1")]))
    words = ("compile", f"oci:{layout}:app", tmp_path / "out", "-f", "listing", "--trailer", "--no-cache", "-q")
    done = run(copy, "ocifast", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes()[:-32] == b"d\nd/a\n"


def test_tests_name_what_is_left_to_write(copy: Path) -> None:
    """What each toy has not: a row of the documents, an example in the test of all transports."""
    seen = failing(
        copy,
        "tests/test_docs.py::test_every_format_has_its_row",
        "tests/test_cli.py::test_every_command_and_option_is_documented",
        "tests/test_transports.py::test_each_transport_has_an_example_here",
        "tests/test_floors.py::test_python_imports_point_down",
        "tests/test_options.py::test_every_field_says_whether_it_changes_bytes",
        "tests/test_options.py::test_the_fields_of_all_formats_are_those_of_the_command_line",
    )
    assert seen == {
        "tests/test_docs.py::test_every_format_has_its_row",
        "tests/test_cli.py::test_every_command_and_option_is_documented",
        "tests/test_transports.py::test_each_transport_has_an_example_here",
    }


def test_an_option_that_is_in_no_key_is_found(copy: Path) -> None:
    path = copy / "python/ocifast/packers/listing.py"
    text = path.read_text()
    line = '    format: ClassVar[str] = "listing"\n'
    assert line in text
    path.write_text(text.replace(line, line + '    hide: str = ""\n'))
    try:
        seen = failing(copy, "tests/test_options.py::test_every_field_says_whether_it_changes_bytes")
    finally:
        path.write_text(text)
    assert seen == {"tests/test_options.py::test_every_field_says_whether_it_changes_bytes[ListingOptions]"}

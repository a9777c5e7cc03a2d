"""Manual pages and completion files that the wheel carries: made from the commands, and taken by the shells."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.run import run

ROOT = Path(__file__).parent.parent
SHARE = ROOT / "ocifast.data/data/share"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def made() -> dict[str, str]:
    """What the tool writes, in a process of its own: commands keep their first option of help."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, ROOT / "tools/manuals.py", folder)
        found = (path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def test_the_files_are_those_that_would_be_made() -> None:
    there = {path.relative_to(SHARE).as_posix(): path.read_text() for path in SHARE.rglob("*") if path.is_file()}
    assert there == made(), "`make manuals` writes them anew"


def test_the_wheel_takes_them_along() -> None:
    settings = (ROOT / "pyproject.toml").read_text().partition("[tool.maturin]")[2].partition("\n[")[0]
    folder = re.search(r'^data = "(.*)"$', settings, re.MULTILINE)
    assert folder is not None
    assert ROOT / folder[1] / "data/share" == SHARE


@pytest.mark.tools
def test_pages_are_what_man_takes() -> None:
    pages = sorted(SHARE.glob("man/man1/*.1"))
    assert len(pages) > 20
    for page in pages:
        done = run("groff", "-man", "-ww", "-Tutf8", page)
        assert done.count(b"\n") > 20
    shown = run("groff", "-man", "-Tascii", "-P-cbou", SHARE / "man/man1/ocifast-ls.1").decode()
    for words in ("--follow-links", "-R, --recursive", "EXAMPLES", "ocifast ls -lh python:3.13-slim /etc"):
        assert words in shown


@pytest.fixture
def layouts(tmp_path: Path) -> Path:
    """A folder with files to complete."""
    (tmp_path / "layout").mkdir()
    (tmp_path / "layover.tar").touch()
    (tmp_path / "with space").mkdir()
    return tmp_path


LINES = [
    ("ocifast rep", {"report"}),
    ("ocifast cat oci-ar", {"oci-archive:"}),
    ("ocifast ls oci:lay", {"oci:layout/", "oci:layover.tar"}),
    ("ocifast ls --progress=pl", {"--progress=plain"}),
    ("ocifast cache pr", {"prune"}),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_bash_completes(layouts: Path, line: str, expected: set[str]) -> None:
    # Bash breaks words at colons and equals signs, and gets back what stands behind the last one.
    script = f"""
        source {SHARE}/bash-completion/completions/ocifast
        COMP_LINE={line!r}
        IFS=$'\\n' COMP_WORDS=($(printf %s "$COMP_LINE" | sed -E 's/ /\\n/g; s/([:=])/\\n\\1\\n/g' | sed '/^$/d'))
        COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        unset IFS
        complete() {{ :; }}; compopt() {{ :; }}
        _ocifast_completion ocifast
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    found = set(run("bash", "-c", script, cwd=layouts, env={"PATH": PATH}).decode().split("\n")) - {""}
    separator = max(line.rfind(":"), line.rfind("="), line.rfind(" "))
    kept = line[line.rfind(" ") + 1 : separator + 1]
    assert {kept + word for word in found} == expected


@pytest.mark.tools
@pytest.mark.parametrize(("line", "expected"), LINES)
def test_fish_completes(layouts: Path, line: str, expected: set[str]) -> None:
    script = f"source {SHARE}/fish/vendor_completions.d/ocifast.fish; complete -C {line!r}"
    out = run("fish", "--no-config", "-c", script, cwd=layouts, env={"PATH": PATH, "HOME": str(layouts)}).decode()
    found = {word.partition("\t")[0] for word in out.splitlines()}
    assert found == expected


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_what_zsh_is_told(layouts: Path, line: str, expected: set[str]) -> None:
    words = line.split(" ")
    env = {"PATH": PATH, "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_OCIFAST_COMPLETE": "zsh_complete"}
    told = run(Path(sys.executable).parent / "ocifast", cwd=layouts, env=env).decode().splitlines()
    # Three lines each: type, word, what it is.
    assert {word.replace("\\:", ":") for word in told[1::3]} == expected


@pytest.mark.tools
def test_zsh_takes_the_file() -> None:
    run("zsh", "-n", SHARE / "zsh/site-functions/_ocifast")
    text = (SHARE / "zsh/site-functions/_ocifast").read_text()
    assert text.startswith("#compdef ocifast\n")
    # Behind a colon or a slash goes on what is completed.
    script = "completions=(oci: oci:dir/ plain 'a b'); print -rl -- ${(M)completions:#*[:/]} -- ${completions:#*[:/]}"
    assert run("zsh", "-fc", script).decode().split("\n") == ["oci:", "oci:dir/", "--", "plain", "a b", ""]
    assert "${(M)completions:#*[:/]}" in text
    assert "compadd -U -S '' -V unsorted -a open" in text

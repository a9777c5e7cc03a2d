"""A newcomer's test: a transport, a format and a seal take one file and one line each.

The files are `tests/support/toys/`, the lines are those of `LINES`; all goes through the command line.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import ocifast
import pytest
from ocifast.errors import UsageError
from ocifast.packers import FORMATS
from ocifast.seals import SEALS, load_seals

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import ocifast as command
from tests.support.run import try_ocifast

ROOT = Path(__file__).parent.parent
ARCHITECTURE = ROOT / "docs/architecture.md"
LINES = {
    "transport": "TRANSPORTS['zip'] = zipped.TRANSPORT",
    "format": "FORMATS['listing'] = 'tests.support.toys.listing:FORMAT'",
    "seal": "SEALS['trailer'] = 'tests.support.toys.trailer:SEAL'",
}
RUN = """
import sys
from ocifast.packers import FORMATS
from ocifast.seals import SEALS, load_seals
from ocifast.sources.transports import TRANSPORTS
from tests.support.toys import zipped
{lines}
from ocifast.cli import main
sys.exit(main())
"""


def attempt(*words: str | Path, lines: str = "\n".join(LINES.values()), **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line with some lines added to the tables."""
    return subprocess.run(
        [sys.executable, "-c", RUN.format(lines=lines), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def run(*words: str | Path, **env: str) -> str:
    done = attempt(*words, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def zipped(tmp_path: Path) -> str:
    with zipfile.ZipFile(tmp_path / "root.zip", "w") as file:
        file.writestr("etc/motd", "hello\n")
        file.writestr("bin", "x" * 5000)
    return f"zip:{tmp_path}/root.zip"


@pytest.fixture
def image(tmp_path: Path) -> str:
    tar = TarBuilder().directory("d").file("d/a", b"1" * 9000).file("b", b"2")
    return f"oci:{write_layout(tmp_path / 'layout', build_image([tar]))}:app"


def test_a_transport_is_one_file_and_one_line(zipped: str, tmp_path: Path) -> None:
    assert run("cat", zipped, "/etc/motd") == "hello\n"
    assert [line.split()[-1] for line in run("ls", "-R", zipped).splitlines()] == ["/", "/bin", "/etc", "/etc/motd"]
    run("compile", zipped, tmp_path / "out.tar")
    run("copy", zipped, f"oci:{tmp_path}/copied:app")
    assert command("cat", f"oci:{tmp_path}/copied:app", "/etc/motd") == b"hello\n"
    assert json.loads(run("inspect", "--json", zipped))["image"]["layers"]
    # What is said of places knows it as well: help, errors, shells.
    assert "zip:FILE" in run("--help")
    assert "a root filesystem in a zip" in run("--help")
    assert "dir:DIR or zip:FILE" in " ".join(run("copy", "--help").split())
    assert f"tar:{tmp_path}/root.zip or zip:{tmp_path}/root.zip\n" in attempt("ls", f"{tmp_path}/root.zip").stderr
    assert attempt("copy", zipped, zipped).stderr == (
        f"ocifast: error: {zipped}: images are read from zip: and not written to it\n"
    )
    offered = run(_OCIFAST_COMPLETE="bash_complete", COMP_WORDS="ocifast ls zi", COMP_CWORD="2")
    assert offered.split() == ["open,zip:"]
    done = attempt("ls", f"zip:{tmp_path}/nothing.zip")
    assert (done.returncode, done.stderr) == (1, f"ocifast: error: there is no file {tmp_path}/nothing.zip\n")
    assert try_ocifast("ls", zipped).returncode == 1


def test_a_format_is_one_file_and_one_line(image: str, tmp_path: Path) -> None:
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    for cached in (False, True):
        made = json.loads(run("compile", image, tmp_path / "out", "-f", "listing", "--json", **environment))
        assert (made["from_cache"], made["format"], made["properties"]) == (cached, "listing", {"lines": "3"})
        assert (tmp_path / "out").read_text() == "b\nd\nd/a\n"
    assert "listing" in run("compile", "--help")
    done = attempt("compile", image, tmp_path / "strict", "-f", "listing", "--strict", "--no-cache", "-q")
    assert "listing cannot hold all" in done.stderr
    done = attempt("compile", image, tmp_path / "level", "-f", "listing", "--level", "1")
    assert "listing has no option --level" in done.stderr
    run("compile", image, tmp_path / "one.tar", tmp_path / "two.erofs", "--no-cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "layout", "one.tar", "out", "two.erofs"]


def sealed(path: Path) -> str:
    """Looks at a sealed file, and returns what it is sealed with."""
    data = path.read_bytes()
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    return data[-32:].hex()


@pytest.mark.parametrize("name", ["out.tar", "out.erofs", "out"])
def test_a_seal_is_one_file_and_one_line(name: str, image: str, tmp_path: Path) -> None:
    words = ["compile", image, str(tmp_path / name), "--json", *(["-f", "listing"] if name == "out" else [])]
    environment = {"OCIFAST_CACHE_DIR": str(tmp_path / "cache")}
    plain = json.loads(run(*words, **environment))
    before = (tmp_path / name).read_bytes()
    for cached in (False, True):
        made = json.loads(run(*words, "--trailer", **environment))
        # Its name is part of the key; what is kept is sealed.
        assert made["from_cache"] == cached
        assert made["size"] == plain["size"] + 32 == (tmp_path / name).stat().st_size
        assert made["properties"].pop("trailer") == sealed(tmp_path / name)
        assert made["properties"].pop("sealed_image") == made["digest"]
        assert made["properties"] == plain["properties"]
        assert (tmp_path / name).read_bytes()[:-32] == before
    assert "--trailer Append the SHA-256 of the file." in " ".join(run("compile", "--help").split())


def test_several_outputs_are_sealed(image: str, tmp_path: Path) -> None:
    """Contents wait in the first image, from which the others are written before it is sealed; two are copies."""
    names = [tmp_path / name for name in ("a.erofs", "b.tar", "c.erofs")]
    made = json.loads(run("compile", image, *names, "--trailer", "--no-cache", "--json"))
    assert [each["properties"]["trailer"] for each in made] == [sealed(path) for path in names]
    assert names[0].read_bytes() == names[2].read_bytes()


def test_what_cannot_be_sealed(image: str, tmp_path: Path) -> None:
    for words, says in {
        ("out.ext4",): "the seal trailer is not for ext4, but for erofs, listing, tar",
        ("out",): "the seal trailer is not for dir, but for erofs, listing, tar",
        ("-",): "the seal trailer needs a file, and standard output is none",
    }.items():
        output = words[0] if words[0] == "-" else str(tmp_path / words[0])
        done = attempt("compile", image, output, "--trailer", "--no-cache")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"ocifast: error: {says}\n")
    # A seal that fails takes all outputs with it.
    empty = f"oci:{write_layout(tmp_path / 'empty', build_image([TarBuilder()]))}:app"
    done = attempt("compile", empty, tmp_path / "a", "-f", "listing", "--trailer", "--no-cache", "-q")
    assert (done.returncode, done.stderr) == (1, "ocifast: error: an empty file has no seal\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "layout"]


def test_a_tree_is_written_with_a_seal(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEALS, "trailer", "tests.support.toys.trailer:SEAL")
    with ocifast.open(image) as opened, opened.flatten() as rootfs:
        written = rootfs.write(tmp_path / "out.tar", seals=["trailer"])
        assert written.properties["trailer"] == sealed(tmp_path / "out.tar")
        assert written.bytes == (tmp_path / "out.tar").stat().st_size
        assert written.properties["sealed_image"] == opened.digest
        with pytest.raises(UsageError, match="not for dir"):
            rootfs.write(tmp_path / "out", seals=["trailer"])
    assert not (tmp_path / "out").exists()


def test_seals_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEALS, "trailer", "tests.support.toys.trailer:SEAL")
    with pytest.raises(UsageError, match="there is no seal 'wax'; there are verity, trailer"):
        load_seals(["wax"])
    with pytest.raises(UsageError, match="the seal trailer is named twice"):
        load_seals(["trailer", "trailer"])


def test_the_documentation_walks_through_each() -> None:
    text = ARCHITECTURE.read_text()
    for title, table in (("A new format", "FORMATS"), ("A new transport", "TRANSPORTS"), ("A new seal", "SEALS")):
        section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        steps = [line for line in section.splitlines() if line[:2].rstrip(".").isdigit()]
        assert 5 <= len(steps) <= 10, title
        assert f"`{table}`" in section
        assert "tests/support/toys/" in section
    assert "listing" not in FORMATS

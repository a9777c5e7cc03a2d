"""What a copy does not do: write files where both ends can stream, or go on without an end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ocifast.cli import main

from tests.support.faulty import serve_faulty
from tests.support.images import Layer, build_image, build_index, write_layout
from tests.support.layers import TarBuilder

WATCHED = """
import json, os, sys
written = []

def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    # What goes to the null device is no file.
    if writes and arguments[0] != os.devnull:
        written.append(str(arguments[0]))
    if event.startswith("tempfile.") or event == "os.mkdir":
        written.append(event)

sys.addaudithook(watch)
sys.dont_write_bytecode = True
from ocifast.cli import main
status = main()
print(json.dumps(written))
sys.exit(status)
"""


def files_written(*words: object) -> list[str]:
    """Files that a command line opens for writing, and temporary files and folders that it makes."""
    done = subprocess.run([sys.executable, "-c", WATCHED, *map(str, words), "-q"], stdout=subprocess.PIPE, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", ["docker", "oci", "oci-archive", "docker-archive"])
def test_a_copy_to_a_registry_writes_no_file(tmp_path: Path, kind: str) -> None:
    image = build_image([Layer(TarBuilder().file(f"file{n}", bytes([n]) * 300_000), "plain") for n in range(3)])
    layout = write_layout(tmp_path / "layout", image)
    with serve_faulty() as server, serve_faulty(address="127.0.0.2") as target:
        source = {
            "docker": f"docker://{server.put(image, 'a:1')}",
            "oci": f"oci:{layout}:app",
            "oci-archive": f"oci-archive:{tmp_path}/oci.tar:app",
            "docker-archive": f"docker-archive:{tmp_path}/docker.tar:a:1",
        }[kind]
        if "archive" in kind:
            assert main(["copy", f"oci:{layout}:app", source, "-q"]) == 0
        before = sorted(tmp_path.rglob("*"))
        assert files_written("copy", source, f"docker://{target.host}/b:1", "--no-cache") == []
        assert sorted(tmp_path.rglob("*")) == before
        assert "1" in target.manifests["b"]


def test_a_copy_to_a_layout_is_seen_to_write(tmp_path: Path) -> None:
    """The check above can fail."""
    layout = write_layout(tmp_path / "layout", build_image([b"x"]))
    assert files_written("copy", f"oci:{layout}:app", f"oci:{tmp_path}/there:app") != []


def test_more_manifests_than_anybody_means(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ocifast.copying._DOCUMENTS", 2)
    with serve_faulty() as source, serve_faulty(address="127.0.0.2") as target:
        name = source.put(build_index([build_image([name]) for name in (b"1", b"2", b"3")]), "a:1")
        assert main(["copy", name, f"{target.host}/b:1", "--all"]) == 1
        assert capsys.readouterr().err == (f"ocifast: error: {name}: more than 2 manifests; copy a single platform\n")
        assert len(source.requests) == 4
        assert target.requests == []

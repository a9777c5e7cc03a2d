"""What killed runs leave goes with the next run; what anybody else has made stays, whatever it is called."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ocifast.atomic import NewFile, PrivateFolder, sweep_folder
from ocifast.leftovers import is_private, private_name

from tests.support.documents import listing
from tests.support.elf import compile_c
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import ocifast

NOT_OURS = [
    ".ocifast-notes",
    ".ocifast-cache",
    ".ocifast-abcdefgh",
    ".ocifast-0123456789abcdef",
    ".ocifast-0123456789abcdef.tmp",
    ".ocifast-0123456789abcdef0123456789abcdef",
    ".ocifast-0123456789abcdef0123456789abcdef.tmp",
    ".ocifast-",
    ".ocifast-.tmp",
]


def test_private_names_are_known_again() -> None:
    names = {private_name(suffix) for suffix in ("", ".tmp") for _ in range(100)}
    assert len(names) == 200
    assert all(is_private(name) for name in names)
    assert not any(is_private(name) for name in NOT_OURS)
    for name in names:
        assert not is_private(name + "x")
        assert not is_private(name.upper())
        at = len(".ocifast-")
        assert not is_private(name[:at] + ("1" if name[at] == "0" else "0") + name[at + 1 :])


@pytest.mark.parametrize("kind", ["folder", "full folder", "file", "link"])
def test_what_is_not_ours_stays(kind: str, tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("f", b"data")]))
    (tmp_path / "work").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").touch()
    # Right names on the wrong kind of thing are not ours either.
    wrong = {"file": private_name(), "link": private_name()}.get(kind, private_name(".tmp"))
    for name in (*NOT_OURS, wrong):
        path = tmp_path / "work" / name
        if kind == "file":
            path.write_bytes(b"mine")
        elif kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        else:
            path.mkdir()
            if kind == "full folder":
                (path / "precious").touch()
    before = listing(tmp_path / "work")
    ocifast("compile", f"oci:{layout}:app", tmp_path / "work/out.tar", "--no-cache")
    ocifast("copy", f"oci:{layout}:app", f"oci-archive:{tmp_path}/work/copy.tar")
    assert [name for name in listing(tmp_path / "work") if name not in ("out.tar", "copy.tar")] == before
    assert listing(tmp_path / "elsewhere") == ["precious"]


def test_what_is_locked_stays_and_what_is_not_goes(tmp_path: Path) -> None:
    file, folder = NewFile(tmp_path), PrivateFolder(tmp_path)
    (folder.path / "inside").touch()
    left = {private_name(".tmp"), private_name()}
    for name in left:
        path = tmp_path / name
        if name.endswith(".tmp"):
            path.touch()
        else:
            path.mkdir()
            (path / "d").mkdir()
    sweep_folder(tmp_path)
    assert listing(tmp_path) == sorted([file.path.name, f"{folder.name}/", f"{folder.name}/inside"])
    file.discard()
    folder.close()
    assert listing(tmp_path) == []


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from ocifast import atomic, file_data
real = file_data.write_all
def killed(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
for name in ("ocifast.sources.layout_destination", "ocifast.sources.archive_destination"):
    __import__(name)
    sys.modules[name].write_all = killed
from ocifast.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
@pytest.mark.parametrize("verb", ["copy", "runnable"])
def test_the_next_run_sweeps_what_a_killed_one_has_left(form: str, verb: str, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    place, tag = {"oci": ("layout", "t"), "oci-archive": ("a.tar", "t"), "docker-archive": ("a.tar", "x:t")}[form]
    destination = f"{form}:{tmp_path}/work/{place}:{tag}"
    if verb == "copy":
        layout = write_layout(tmp_path / "layout", build_image([TarBuilder().file("f", b"data")]))
        words = ["copy", f"oci:{layout}:app", destination, "-q"]
    else:
        words = ["runnable", str(compile_c("gcc", tmp_path / "hello", "-static")), "-o", destination, "-q"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "work" / ("layout" if form == "oci" else "")
    assert [name for name in names(folder) if re.fullmatch(r"\.ocifast-\w+\.tmp", name)] != []
    ocifast(*words)
    assert [name for name in names(folder) if name.startswith(".ocifast-")] == []

"""No path of a hostile layer reaches a system call outside of the output, as strace sees it.

All names in the layers have `hostile` in them. Whoever follows a link of the image, or takes a path of a layer as it
is, gives the kernel that word outside of the output, or a path with more than one part; strace says where each file
descriptor really is (`-y`), whatever way led there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory
from tests.support.run import COMMAND, attempt, run

pytestmark = pytest.mark.tools

MARK = "hostile"
STRACE = ("strace", "-f", "--seccomp-bpf", "-y", "-s", "4096", "-e", "trace=%file", "-o")


def hostile_layers(out: str) -> dict[str, list[TarBuilder]]:
    """Layers of images that try to reach the folder `out`."""

    def links(target: str = out) -> TarBuilder:
        return TarBuilder().symlink(f"{MARK}-first", out).symlink(f"{MARK}-link", target)

    def new() -> TarBuilder:
        return TarBuilder().file(f"{MARK}-link/{MARK}-new", b"x")

    return {
        "a file below a link": [links(), new()],
        "a file below a relative link": [links("../" * 12 + out.lstrip("/")), new()],
        "a file below a chain of links": [links(f"{MARK}-first/{MARK}-sub"), new()],
        "all of it in one layer": [links().file(f"{MARK}-link/{MARK}-new", b"x").directory(f"{MARK}-link/{MARK}-d")],
        "a directory over a link": [links(), TarBuilder().directory(f"{MARK}-link", mode=0o777)],
        "a file over a link to a file": [
            TarBuilder().symlink(f"{MARK}-file", f"{out}/sentinel"),
            TarBuilder().file(f"{MARK}-file", b"x", mode=0o4777, xattrs={"user.a": b"b"}),
        ],
        "whiteouts below a link": [links(), TarBuilder().whiteout(f"{MARK}-link/sentinel").opaque(f"{MARK}-link")],
        "a hard link through a link": [
            links().file(f"{MARK}-link/sentinel", b"own"),
            TarBuilder().hard_link(f"{MARK}-hard", f"{MARK}-link/sentinel"),
        ],
        "a pipe below a link": [links(), TarBuilder().fifo(f"{MARK}-link/{MARK}-pipe")],
        "an absolute name": [TarBuilder().file(f"/{MARK}-d/{MARK}-new", b"x")],
        "a hard link to the outside": [TarBuilder().hard_link(f"{MARK}-hard", f"{out}/sentinel")],
        "a name with dots": [TarBuilder().file(f"{MARK}-d/../../{MARK}-new", b"x")],
        "a link over the root": [TarBuilder().symlink("./", out).file(f"{MARK}-new", b"x")],
    }


REFUSED = ("a hard link to the outside", "a name with dots", "a link over the root")


class Call(NamedTuple):
    """One system call: its name, its path arguments with the folder that each is below, and all of its text."""

    name: str
    paths: list[tuple[str, str]]
    text: str


_CALL = re.compile(r"^\d+ +(\w+)\((.*)$")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<((?:[^<>]|\\[0-9]+)*)>, )?"((?:[^"\\]|\\.)*)"')
_CHANGES = re.compile(
    r"mkdir|mknod|rename|link|rmdir|chmod|chown|xattr|truncate|utime|creat|mount|chroot|O_CREAT|O_WRONLY|O_RDWR|O_TRUNC"
)
_READS = re.compile(r"readlink|getxattr|listxattr")
_FOLLOWS = re.compile(r"^(chmod|fchmodat|chown|fchownat|setxattr|truncate|utimensat|open|openat|openat2)$")


def calls(trace: Path) -> Iterator[Call]:
    """What strace has written down."""
    for line in trace.read_text(errors="backslashreplace").splitlines():
        found = _CALL.match(line)
        if found is not None and not line.rstrip().endswith("= -1 ENOSYS"):
            yield Call(found[1], _PATH.findall(found[2]), line)


def places(call: Call) -> list[tuple[str, str]]:
    """Its paths, without the target of a new symbolic link, which is data."""
    return call.paths[1:] if call.name in ("symlink", "symlinkat") else call.paths


def offences(trace: Path, place: Path) -> list[str]:
    """System calls that have a name of a layer anywhere but in the output, or change something outside of `place`."""
    output = re.compile(re.escape(str(place)) + r"/\.ocifast-[0-9a-f]{32}/(output|layers|packer)(/.*)?")
    own = re.compile(r"/proc/(self|\d+)/fd/\d+(/[a-z]+)?|/dev/null")
    found = []
    for call in calls(trace):
        for folder, path in places(call):
            if MARK in path:
                single = "/" not in path and path not in (".", "..") and output.fullmatch(folder)
                nofollow = not _FOLLOWS.match(call.name) or "NOFOLLOW" in call.text
                if not single or not nofollow:
                    found.append(call.text)
            elif _CHANGES.search(f"{call.name} {call.text.partition(' = ')[0]}") and not _READS.match(call.name):
                whole = path if path.startswith("/") else f"{folder}/{path}"
                inside = whole == str(place) or whole.startswith(f"{place}/")
                if not own.fullmatch(whole) and (not inside or ".." in whole.split("/")):
                    found.append(call.text)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that the links lead to, with a file; the test fails when anything in it changes."""
    folder = tmp_path / "outside"
    (folder / f"{MARK}-sub").mkdir(parents=True)
    (folder / "sentinel").write_bytes(b"untouched")
    before = dump_directory(folder)
    yield folder
    assert dump_directory(folder) == before


@pytest.mark.parametrize("name", hostile_layers(""))
def test_names_of_layers_stay_in_the_output(name: str, tmp_path: Path, outside: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    trace = tmp_path / "trace"
    layout = write_layout(tmp_path / "layout", build_image(hostile_layers(str(outside))[name]))
    words = ("compile", "--platform", "linux/amd64", f"oci:{layout}:app", str(place / "out"), "-f", "dir", "-q")
    done = attempt(*STRACE, trace, COMMAND, *words, "--no-cache", cwd=place, env={"TMPDIR": str(place)})
    assert (done.returncode != 0) == (name in REFUSED), done.stderr.decode()
    assert offences(trace, place) == []
    if name in REFUSED:
        assert list(place.iterdir()) == []
    else:
        assert any(MARK in path for call in calls(trace) for _, path in places(call)), "the trace shows nothing"


def test_the_trace_shows_what_breaks_out(tmp_path: Path) -> None:
    """A tool that follows links is found out: what is looked for can be seen."""
    place = tmp_path / "place"
    (place / ".ocifast-0123456789abcdef0123456789abcdef" / "output").mkdir(parents=True)
    script = "cd .ocifast-*/output && ln -s ../../../outside hostile-link && touch hostile-link/hostile-new"
    (tmp_path / "outside").mkdir()
    run(
        "strace", "-f", "-y", "-s", "4096", "-e", "trace=%file", "-o", tmp_path / "trace", "sh", "-c", script, cwd=place
    )
    found = offences(tmp_path / "trace", place)
    assert any("hostile-link/hostile-new" in line for line in found)

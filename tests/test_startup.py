"""What a command imports: a start is as quick as the modules that it loads are few. No times are measured here.

Each row runs a command in a process of its own and looks at the modules that were loaded in the end; what they cost is
measured by `benches/startup.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from ocifast.cli import COMMANDS

from tests.support.elf import build_elf
from tests.support.faulty import serve_faulty
from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import attempt, run

HTTP = ("httpx", "httpcore", "h11", "ssl", "http.client")
OPTIONAL = ("cryptography", "rich", "yaml", "fsspec", "distributed", "opentelemetry", "importlib.metadata", "asyncio")
READING = ("ocifast.flatten", "ocifast.intake", "ocifast.packers", "ocifast.rootfs", "ocifast.edits", "ocifast.peek")
MAKING = ("ocifast.compiler", "ocifast.copying", "ocifast.runnable", "elftools", "ocifast.batch", "ocifast.reporting")
SHARING = ("ocifast.remote", "ocifast.signatures.asked", "ocifast.signatures.making")
CACHE = ("ocifast.cache",)
DOCUMENTS = ("msgspec", "ocifast.spec", "ocifast.image")
PROGRAMS = ("subprocess", "ocifast.process")
LOOKING = (
    "ocifast.cli.looking",
    "ocifast.cli.progress",
    "ocifast.cli.template",
    "ocifast.signatures",
    "ocifast.history",
)
"""What only looks at documents shows no progress, and asks nothing of their signatures."""
CLIENT = tuple(
    f"ocifast.sources.registry.{name}"
    for name in ("referrers", "upload", "challenge", "download_ranges", "shared_limit", "destination")
)
"""Of the registry's client: what a small image without a login does without."""
FLATTENING = ("ocifast.flatten", "ocifast.intake", "ocifast.rootfs")
LIBRARY = ("logging", "tempfile", "shutil", "subprocess", "concurrent", "calendar")
"""Of the standard library: what each command would import through something that it does not use."""

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "--version": (
        "",
        (*HTTP, *OPTIONAL, *READING, *MAKING, *SHARING, *CACHE, *DOCUMENTS, *PROGRAMS, "ocifast.sources"),
    ),
    "--help": ("", (*HTTP, *OPTIONAL, *READING, *MAKING, *SHARING, *CACHE, *DOCUMENTS, *PROGRAMS, "tempfile")),
    **{f"{name} --help": ("", (*HTTP, *OPTIONAL)) for name in COMMANDS},
    "inspect oci:{layout}:app": (
        "",
        (*HTTP, *OPTIONAL, *READING, *MAKING, *SHARING, *PROGRAMS, *LIBRARY, *LOOKING, "hashlib"),
    ),
    "inspect --offline {name}": ("", (*HTTP, *OPTIONAL, *READING, *MAKING, *SHARING, *PROGRAMS, *LIBRARY, *LOOKING)),
    "inspect {name}": (
        "httpx",
        (*OPTIONAL, *READING, *MAKING, *SHARING, *PROGRAMS, *LOOKING, *CLIENT, "statistics", "encodings.idna"),
    ),
    "inspect --no-cache {name}": (
        "httpx",
        (*OPTIONAL, *READING, *MAKING, *SHARING, *PROGRAMS, *CACHE, *LOOKING, *CLIENT, "ocifast.atomic"),
    ),
    "digest oci:{layout}:app": ("", (*HTTP, *OPTIONAL, *READING, *MAKING, *SHARING, *PROGRAMS, *LIBRARY)),
    "history oci:{layout}:app": ("", (*HTTP, *OPTIONAL, *READING, *MAKING, *SHARING, *PROGRAMS, "logging", "tempfile")),
    "ls oci:{layout}:app": ("", (*HTTP, *OPTIONAL, *MAKING, *SHARING)),
    "cat oci:{layout}:app etc/text": ("", (*HTTP, *OPTIONAL, *MAKING, *SHARING)),
    "du oci:{layout}:app": ("", (*HTTP, *OPTIONAL, *MAKING, *SHARING)),
    "diff oci:{layout}:app oci:{layout}:app": ("", (*HTTP, *OPTIONAL, *MAKING, *SHARING)),
    "runnable {program} -o {out}": (
        "elftools",
        (
            *(*HTTP, *OPTIONAL, *READING, *SHARING, *CACHE, *PROGRAMS, "ocifast.image", "ocifast.loader", "hashlib"),
            *(*LIBRARY, "bdb", "json", "tarfile", "zlib"),
        ),
    ),
    "copy oci:{layout}:app oci:{out}.oci": ("", (*HTTP, *OPTIONAL, *READING, *SHARING)),
    "compile oci:{layout}:app {out}.erofs": ("", (*HTTP, *OPTIONAL, *SHARING, "hashlib")),
    # These are kept from the first time.
    "compile --offline {name} {out}.erofs": ("", (*HTTP, *OPTIONAL, *SHARING, *LIBRARY, *FLATTENING, "hashlib")),
    "compile {pinned} {out}.erofs": ("", (*HTTP, *OPTIONAL, *SHARING, *LIBRARY, *FLATTENING, "hashlib")),
    "compile {name} {out}.erofs": ("httpx", (*OPTIONAL, *SHARING, *FLATTENING, *CLIENT)),
    "tags {repository}": ("httpx", (*OPTIONAL, *READING, *MAKING[2:], *SHARING)),
    "cache info": ("", (*HTTP, *OPTIONAL, *READING, *MAKING, *SHARING, *PROGRAMS, "ocifast.image")),
    "logout {host}": ("", (*HTTP, *PROGRAMS, *OPTIONAL, *READING, *MAKING, *SHARING, *CACHE)),
}
"""Command line, a module that it does need ("" for none), and those that it must not import."""

_TELL = """
import subprocess
import sys
before = set(sys.modules)
sys.argv[0] = "ocifast"
from ocifast.cli import main
status = main()
sys.stderr.write("\\n".join(["", f"status {status}", *sorted(set(sys.modules) - before)]))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An image in a layout and in a registry, compiled once; an executable; where to write."""
    folder = tmp_path_factory.mktemp("startup")
    image = build_image([TarBuilder().file("etc/text", b"text")])
    write_layout(folder / "layout", image)
    (folder / "program").write_bytes(build_elf())
    with serve_faulty() as server:
        name = server.put(image, "app:1")
        compile_ = ("compile", "--platform", "linux/amd64", name, str(folder / "first.erofs"))
        loaded(*compile_, env={"OCIFAST_CACHE_DIR": str(folder / "cache"), "HOME": str(folder)})
        yield {
            "cache": str(folder / "cache"),
            "layout": str(folder / "layout"),
            "program": str(folder / "program"),
            "out": str(folder / "out"),
            "name": name,
            "pinned": f"{server.host}/app@{image.digest}",
            "repository": f"{server.host}/app",
            "host": server.host,
            "home": str(folder),
        }


def loaded(*words: str, env: dict[str, str]) -> set[str]:
    """The modules that a command line has imported, when it has ended well."""
    done = attempt(sys.executable, "-c", _TELL, *words, env=env)
    _, _, told = done.stderr.decode().rpartition("\nstatus ")
    status, *modules = told.split("\n")
    # Nobody is logged in: `logout HOST` says so.
    assert status == ("1" if words[0] == "logout" and words[1] != "--help" else "0"), done.stderr.decode()
    return set(modules)


@pytest.mark.parametrize("row", ROWS)
def test_a_command_imports_what_it_needs_and_no_more(row: str, places: dict[str, str]) -> None:
    needed, unwanted = ROWS[row]
    words = row.format(**places).split()
    if (
        words[0] in ("compile", "inspect", "history", "ls", "cat", "du", "diff", "copy", "digest")
        and "--help" not in row
    ):
        words[1:1] = ["--platform", "linux/amd64"]
    environment = {"OCIFAST_CACHE_DIR": places["cache"], "HOME": places["home"], "DOCKER_CONFIG": places["home"]}
    found = loaded(*words, env=environment)
    families = {".".join(name.split(".")[: depth + 1]) for name in found for depth in range(name.count(".") + 1)}
    assert families & set(unwanted) == set()
    assert not needed or needed in families


def test_every_command_has_a_row_for_its_help() -> None:
    assert {f"{name} --help" for name in COMMANDS} <= set(ROWS)


def test_the_package_itself_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import ocifast; print(*sorted(set(sys.modules) - before))"
    found = set(run(sys.executable, "-c", code).decode().split())
    assert {name for name in found if name.partition(".")[0] not in ("importlib", "warnings", "__future__")} == {
        "ocifast"
    }


def test_what_is_public_is_found_all_the_same() -> None:
    code = "import ocifast; print(*[name for name in ocifast.__all__ if getattr(ocifast, name, None) is None])"
    assert run(sys.executable, "-c", code).decode().split() == []
    code = "from ocifast.sources.registry import *; print(RegistryOptions.__name__, RegistrySource.__name__)"
    assert run(sys.executable, "-c", code).decode().split() == ["RegistryOptions", "RegistrySource"]
    code = "import ocifast.sources.registry as r; r.nothing"
    assert b"has no attribute 'nothing'" in attempt(sys.executable, "-c", code).stderr


def test_a_module_that_gives_way_to_the_real_one_is_whole_for_all_who_ask() -> None:
    words = """
import sys
import ocifast.elf
import pdb
assert "bdb" not in sys.modules
held = pdb
from pdb import Pdb
assert held.Pdb is Pdb is sys.modules["pdb"].Pdb
import pdb
assert pdb.set_trace is held.set_trace
assert "bdb" in sys.modules
"""
    done = attempt(sys.executable, "-c", words)
    assert (done.returncode, done.stderr) == (0, b"")


_LEAVING = """
import atexit, os, sys, threading
leave = os._exit
os._exit = lambda status: (os.write(2, b"at once, "), leave(status))
atexit.register(lambda: sys.stderr.write("registered, "))
sys.argv = ["ocifast", "--version"]
from ocifast.__main__ import run
"""


@pytest.mark.parametrize(
    ("before", "environment", "told"),
    [
        ("", {}, "registered, at once, "),
        ("", {"OCIFAST_DEBUG": "1"}, "registered, "),
        ("sys.setprofile(lambda *_: None)", {}, "registered, "),
        ("threading.Timer(0.5, lambda: sys.stderr.write('in time, ')).start()", {}, "in time, registered, "),
    ],
)
def test_the_exit_is_short_and_does_what_is_registered(before: str, environment: dict[str, str], told: str) -> None:
    done = attempt(sys.executable, "-c", f"{_LEAVING}{before}\nrun()", env=environment)
    assert done.returncode == 0
    assert done.stdout.startswith(b"ocifast ")
    assert done.stderr.decode() == told


def test_threads_that_load_the_registry_client_together_all_get_it() -> None:
    words = """
import sys, threading
import ocifast.sources.registry as registry
sys.setswitchinterval(1e-6)
ready, failures = threading.Barrier(8), []
def load(name):
    ready.wait()
    try:
        getattr(registry, name)
    except BaseException as error:
        failures.append(error)
names = ["RegistrySource", "RegistryDestination", "list_tags", "check_login"] * 2
threads = [threading.Thread(target=load, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
"""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

"""A cache folder that is another user's, read-only, full or without locks, and what others do to it: never an error."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ocifast.cache import Cache
from ocifast.compiler import CompileOptions, compile_image

from tests.support.images import build_image
from tests.support.layers import TarBuilder
from tests.support.refusal import refusing
from tests.support.registry import Registry
from tests.support.run import attempt, run, try_ocifast

NOISE = random.Random(11).randbytes(400_000)
LAYERS = [TarBuilder().file("large", NOISE), TarBuilder().file("small", b"x" * 5000)]
ADVICE = "name another one in OCIFAST_CACHE_DIR, or do without (--no-cache)"


@pytest.fixture(scope="module")
def reference(registry: Registry) -> str:
    """The image in a registry."""
    return registry.put(build_image(LAYERS), "places/image:1")


@pytest.fixture(scope="module")
def right(reference: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What is made of it."""
    out = tmp_path_factory.mktemp("right") / "out.erofs"
    compile_image(reference, out, options=CompileOptions(cache=False))
    return out.read_bytes()


def compiled(reference: str, out: Path, cache: Path, *words: str, env: dict[str, str] | None = None) -> list[str]:
    """Compiles through the command line; returns its warnings."""
    env = {"OCIFAST_CACHE_DIR": str(cache), **(env or {})}
    done = try_ocifast("compile", reference, out, "--progress", "none", *words, env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith("ocifast: warning: ") for line in lines)
    return [line.removeprefix("ocifast: warning: ") for line in lines]


@pytest.mark.root
@pytest.mark.parametrize("options", ["ro", "size=64k"])
def test_a_folder_that_cannot_be_written(options: str, reference: str, right: bytes, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", cache)
    try:
        if options == "ro":
            Cache(cache).prepare()
            run("mount", "-o", "remount,ro", cache)
        told = compiled(reference, tmp_path / "out.erofs", cache, "--keep-layers")
        assert (tmp_path / "out.erofs").read_bytes() == right
        if options == "ro":
            expected = f"nothing is cached: the cache folder {cache} cannot be used: Read-only file system; {ADVICE}"
        else:
            room = "No space left on device; free some room, make it smaller (ocifast cache prune), or"
            expected = f"nothing more is cached: the cache folder {cache} cannot be written: {room} {ADVICE}"
        assert told == [expected]
        assert not list(cache.rglob(".ocifast-*"))
    finally:
        run("umount", cache)


@pytest.mark.root
def test_a_folder_of_another_user(reference: str, right: bytes, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    Cache(cache).prepare()
    os.chown(cache, 1234, 1234)
    told = compiled(reference, tmp_path / "out.erofs", cache)
    assert told == [f"nothing is cached: the cache folder {cache} belongs to another user; {ADVICE}"]
    assert (tmp_path / "out.erofs").read_bytes() == right
    assert [path.name for path in cache.iterdir()] == ["CACHEDIR.TAG"]


@pytest.mark.parametrize("answer", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_folder_without_locks(answer: str, reference: str, right: bytes, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    told = compiled(reference, tmp_path / "out.erofs", cache, env=refusing(flock=answer))
    assert told == [f"nothing is cached: files in the cache folder {cache} cannot be locked; {ADVICE}"]
    assert (tmp_path / "out.erofs").read_bytes() == right
    assert [path.name for path in cache.iterdir()] == ["CACHEDIR.TAG"]


def other_bytes(cache: Path) -> None:
    for path in files(cache):
        path.chmod(0o600)
        path.write_bytes(bytes(len(path.read_bytes())))


def cut(cache: Path) -> None:
    for path in files(cache):
        os.truncate(path, path.stat().st_size // 2)


def folders(cache: Path) -> None:
    for path in files(cache):
        path.unlink()
        (path / "inner").mkdir(parents=True)


def pipes(cache: Path) -> None:
    for path in files(cache):
        path.unlink()
        os.mkfifo(path)


def links(cache: Path) -> None:
    for path in files(cache):
        size = path.stat().st_size
        path.unlink()
        path.symlink_to("/etc/passwd" if size % 2 else "nowhere")


def files(cache: Path) -> list[Path]:
    """All that was kept."""
    kept = [path for name in ("blobs", "layers", "outputs") for path in (cache / name).rglob("*")]
    return [path for path in kept if path.is_file() and path.name != "CACHEDIR.TAG"]


def no_files(cache: Path) -> None:
    for path in files(cache):
        path.unlink()


def files_for_folders(cache: Path) -> None:
    for name in ("blobs", "layers", "outputs", "locks", "tmp"):
        shutil.rmtree(cache / name, ignore_errors=True)
        (cache / name).touch()


def no_folders(cache: Path) -> None:
    for name in ("blobs", "layers", "outputs", "locks", "tmp"):
        shutil.rmtree(cache / name, ignore_errors=True)


def swapped(cache: Path) -> None:
    one, other = sorted(cache.glob("blobs/sha256/*"), key=lambda path: path.stat().st_size)[-2:]
    one.rename(cache / "between")
    other.rename(one)
    (cache / "between").rename(other)
    shutil.rmtree(cache / "outputs", ignore_errors=True)


def no_marker(cache: Path) -> None:
    (cache / "CACHEDIR.TAG").unlink()


def damaged_use(cache: Path) -> None:
    (cache / "use.json").write_bytes(b"\xff" * 100)


def pipe_for_use(cache: Path) -> None:
    (cache / "use.json").unlink()
    os.mkfifo(cache / "use.json")


DAMAGE: dict[str, Callable[[Path], None]] = {
    kind.__name__: kind
    for kind in (
        other_bytes,
        cut,
        folders,
        pipes,
        links,
        no_files,
        files_for_folders,
        no_folders,
        swapped,
        no_marker,
        damaged_use,
        pipe_for_use,
    )
}
SILENT = {"no_folders", "damaged_use", "pipe_for_use", "no_files"}
"""What leaves no trace to warn of, or is nobody's loss."""


@pytest.mark.parametrize("keep", ["--keep-layers", "--no-keep-layers"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_what_others_do_to_a_cache(kind: str, keep: str, reference: str, right: bytes, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out.erofs"
    assert compiled(reference, out, cache, keep) == []
    DAMAGE[kind](cache)
    told = compiled(reference, out, cache, keep)
    assert out.read_bytes() == right
    if kind not in SILENT:
        assert told
    # What can be mended is: the next run finds all of it.
    told = compiled(reference, out, cache, keep)
    assert out.read_bytes() == right
    if kind not in ("folders", "files_for_folders", "no_marker"):
        assert told == []
    for command in ("info", "ls", "prune", "verify"):
        done = try_ocifast("cache", command, env={"OCIFAST_CACHE_DIR": str(cache)})
        assert b"unexpected" not in done.stderr
        assert done.returncode in ((1,) if kind == "no_marker" else (0, 1) if command == "verify" else (0,)), (
            done.stderr
        )


AS_A_PLAIN_USER = """
import os, sys
import ocifast.compiler, ocifast.packers.erofs, ocifast.sources.registry, ocifast.cache.outputs, ocifast.cache.layers
import ocifast.sources.transports, ocifast.sources.registry.source
from ocifast.cli import main
warm = os.environ["WARM"]
main(["compile", sys.argv[1], warm, "--progress", "none", "-q", "--keep-layers"])
for folder, names, files in os.walk(os.environ["OCIFAST_CACHE_DIR"]):
    for name in [folder, *(os.path.join(folder, file) for file in files)]:
        os.chown(name, 54321, 54321)
os.setgid(54321)
os.setuid(54321)
for folder, names, files in list(os.walk(os.environ["OCIFAST_CACHE_DIR"], topdown=False)):
    if sys.argv[3] == "files":
        for file in files:
            if not file.endswith(".lock"):
                os.chmod(os.path.join(folder, file), 0)
    elif folder != os.environ["OCIFAST_CACHE_DIR"]:
        os.chmod(folder, 0)
sys.exit(main(["compile", sys.argv[1], sys.argv[2], "--progress", "none", "-q"]))
"""


@pytest.mark.root
@pytest.mark.parametrize("what", ["files", "folders"])
def test_what_a_plain_user_may_not_read(what: str, reference: str, right: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="ocifast-tests-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        env = {"OCIFAST_CACHE_DIR": f"{folder}/cache", "WARM": f"{folder}/warm.erofs", "TMPDIR": name}
        done = attempt(sys.executable, "-c", AS_A_PLAIN_USER, reference, folder / "out.erofs", what, env=env)
        assert done.returncode == 0, done.stderr
        assert (folder / "out.erofs").read_bytes() == right
        lines = done.stderr.decode().splitlines()
        assert lines
        assert all(line.startswith("ocifast: warning: ") for line in lines)
        assert all("Permission denied" in line or "cannot be" in line for line in lines)

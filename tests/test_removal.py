"""Clean-up: by file descriptor, whatever is put in our way, and whatever depth."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ocifast.removal import empty_folder, remove_folder
from ocifast.workspace import Workspace

from tests.support.documents import listing
from tests.support.oracle import dump_directory

FOLDER = os.O_RDONLY | os.O_DIRECTORY


def opened(path: Path) -> int:
    """A folder, open."""
    return os.open(path, FOLDER)


def deep(top: Path, levels: int) -> None:
    """Folders within folders, a file in each."""
    here = opened(top)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.mkdir("d", 0o700, dir_fd=here)
        inner = os.open("d", FOLDER, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


@pytest.mark.parametrize("levels", [1, 1100, 2048, 5000])
def test_a_deep_tree_is_removed(levels: int, tmp_path: Path) -> None:
    with Workspace(tmp_path / "out", is_directory=True) as space:
        deep(space.subfolder("output"), levels)
    assert listing(tmp_path) == []


@pytest.mark.root
def test_folders_that_their_modes_close_are_removed(tmp_path: Path) -> None:
    """A plain user may have made directories without permissions, as an image asks for."""
    for name in ("a", "a/b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/b/file").touch()
    for name, mode in (("a/b", 0o500), ("a", 0), ("c", 0o100), (".", 0o700)):
        os.chown(tmp_path / name, 65534, 65534)
        (tmp_path / name).chmod(mode)
    held = opened(tmp_path)
    if (child := os.fork()) == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os._exit(0 if empty_folder(held) else 1)
    assert os.waitpid(child, 0)[1] == 0
    os.close(held)
    assert listing(tmp_path) == []


def outside(tmp_path: Path) -> Path:
    """A folder that nothing may change."""
    place = tmp_path / "outside"
    (place / "inner").mkdir(parents=True)
    (place / "inner/precious").write_bytes(b"mine")
    (place / "output").write_bytes(b"mine, too")
    (place / "inner").chmod(0o500)
    return place


def swap(path: Path, target: Path) -> None:
    """Puts a link in the place of a folder or file, which is moved away."""
    path.rename(path.parent / "moved")
    path.symlink_to(target)


@pytest.mark.parametrize("what", ["private folder", "subfolder", "output"])
@pytest.mark.parametrize("step", ["before the clean-up", "before publishing", "begun"])
def test_links_in_the_place_of_ours_lead_nowhere(what: str, step: str, tmp_path: Path) -> None:
    place = outside(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    before = dump_directory(place)
    space = Workspace(work / "out", is_directory=True)
    real = space.path.resolve()
    made = space.path / "output"
    if step == "begun" and what == "private folder":
        swap(real, place)
    inner = space.subfolder("output") / "inner"
    inner.mkdir()
    (inner / "file").write_bytes(b"1")
    space.subfolder("layers")
    if step != "begun" or what != "private folder":
        swap({"private folder": real, "subfolder": inner, "output": real / "output"}[what], place)
    if step == "before publishing":
        space.publish(made)
        assert (work / "out").is_symlink() == (what == "output")
    space.__exit__(None, None, None)
    assert dump_directory(place) == before


@pytest.mark.parametrize("moment", range(12))
@pytest.mark.parametrize("target", ["outside", "outside/inner"])
def test_links_put_there_while_we_clean(
    moment: int, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each system call that names something, each folder in the tree becomes a link in turn."""
    place = outside(tmp_path)
    before = dump_directory(place)
    top = tmp_path / "top"
    (top / "a/b/c").mkdir(parents=True)
    for name in ("f", "a/f", "a/b/f", "a/b/c/f"):
        (top / name).touch()
    count = 0
    reals: dict[str, Any] = {name: getattr(os, name) for name in ("unlink", "rmdir", "open", "scandir", "chmod")}

    def meddling(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == moment:
                for folder in (top / "a/b/c", top / "a/b", top / "a"):
                    if folder.is_dir() and not folder.is_symlink():
                        folder.rename(tmp_path / f"moved-{folder.name}")
                        folder.symlink_to(tmp_path / target)
            return reals[name](*arguments, **options)

        return call

    parent, held = opened(tmp_path), opened(top)
    with monkeypatch.context() as patched:
        for name in reals:
            patched.setattr(os, name, meddling(name))
        remove_folder("top", parent, held)
    os.close(parent)
    os.close(held)
    assert dump_directory(place) == before


def test_a_folder_that_was_moved_away_takes_nothing_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `..` is somebody else's by then."""
    (tmp_path / "top/a").mkdir(parents=True)
    (tmp_path / "top/a/f").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a").mkdir()
    real = os.unlink

    def moving(name: str, **options: int) -> None:
        real(name, **options)
        (tmp_path / "top/a").rename(tmp_path / "other/moved")

    held = opened(tmp_path / "top")
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", moving)
        assert not empty_folder(held)
    os.close(held)
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["a", "moved"]
    shutil.rmtree(tmp_path / "other")

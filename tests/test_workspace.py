"""Where outputs are made: a folder of one run, that no other run takes away."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from ocifast.workspace import Workspace

from tests.support.documents import listing


@pytest.mark.parametrize("step", ["open", "flock"])
def test_a_folder_that_is_swept_away_before_it_is_locked(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open, real_flock = os.open, fcntl.flock
    swept: list[Path] = []

    def sweep() -> None:
        if not swept:
            [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
            folder.rmdir()
            swept.append(folder)

    def open_late(path: str, flags: int, *arguments: int, **options: int) -> int:
        if step == "open" and str(path).startswith(".ocifast-"):
            sweep()
        return real_open(path, flags, *arguments, **options)

    def flock_late(descriptor: int, operation: int) -> None:
        if step == "flock":
            sweep()
        real_flock(descriptor, operation)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", open_late)
        patched.setattr(fcntl, "flock", flock_late)
        space = Workspace(tmp_path / "out", is_directory=False)
    with space:
        assert len(swept) == 1
        assert space.path.is_dir()
        assert space.path.resolve() not in swept
    assert listing(tmp_path) == []


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_while_the_folder_is_removed(signals: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is obeyed when the folder is gone; a second one leaves it to the next run."""
    real, left = os.unlink, [signals]

    def interrupted(path: str, **options: int) -> None:
        real(path, **options)
        if left[0]:
            left[0] -= 1
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", interrupted)
        space = Workspace(tmp_path / "out", is_directory=False)
        (space.path / "first").write_bytes(b"1")
        (space.path / "second").write_bytes(b"2")
        (space.path / "third").write_bytes(b"3")
        with pytest.raises(KeyboardInterrupt):
            space.__exit__(None, None, None)
    assert (listing(tmp_path) != []) == (signals == 2)
    with Workspace(tmp_path / "out", is_directory=False) as space:
        assert listing(tmp_path) == [f"{space.path.resolve().name}/"]
    assert listing(tmp_path) == []

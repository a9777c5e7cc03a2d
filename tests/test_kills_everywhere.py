"""Kills at random moments over all commands and formats, with one cache; `benches.kills` does it for hours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.root
def test_kills_at_random_moments() -> None:
    # Another process: forks of one that has threads, as this one has, may hang.
    done = subprocess.run(
        [sys.executable, "-m", "benches.kills", "25"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].endswith("; nothing lost, wrong or left")


@pytest.mark.slow
@pytest.mark.root
def test_many_processes_on_small_disks() -> None:
    words = [sys.executable, "-m", "benches.soak", "--seconds", "6", "--processes", "3", "--size", "12M"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "; 0 wrong" in done.stdout

"""Rounds of measurements: every contestant once, then every one again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benches.measure import Contestant, measure, take_memory_back


def alternate(
    contestants: Sequence[Contestant],
    runs: int,
    folder: Path,
    env: Mapping[str, str],
    *,
    look: Callable[[Contestant, Path], None] = lambda one, at: None,
) -> None:
    """Measures all of them one after the other, so often, each in an empty folder that is removed afterwards.

    Args:
        contestants: get the samples.
        runs: how often.
        folder: where theirs are made.
        env: variables of the commands.
        look: is shown what a run has left.
    """
    for _ in range(runs):
        for one in contestants:
            at = Path(tempfile.mkdtemp(dir=folder))
            if one.prepare is not None:
                one.prepare(at)
            take_memory_back(folder)
            one.samples.append(measure(one.commands(at), folder / "log", env))
            look(one, at)
            shutil.rmtree(at)

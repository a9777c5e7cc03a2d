"""What keeping outputs costs, and what it saves: `python -m benches.cache oci:DIR:TAG FOLDER...`.

For each folder (its file system decides whether extents are shared) and format: a cold compile without the cache, one
that keeps its output, and one that finds it. Wall and CPU seconds, medians; a copy of the file to compare with.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of what a call and its children do."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    took, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--formats", nargs="+", default=["erofs", "tar"])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    command = Path(sys.executable).with_name("ocifast")
    print("| folder | format | work | wall s | CPU s |\n|---|---|---|--:|--:|")
    for folder in options.folders:
        for form in options.formats:
            with tempfile.TemporaryDirectory(dir=folder) as name:
                place = Path(name)
                times: dict[str, list[tuple[float, float]]] = {}
                env = {**os.environ, "OCIFAST_CACHE_DIR": str(place / "cache"), "OCIFAST_CACHE_SIZE": "none"}

                def compiled(*words: str, place: Path = place, form: str = form, env: dict[str, str] = env) -> None:
                    out = place / "out"
                    out.unlink(missing_ok=True)
                    line = [command, "compile", options.image, out, "-f", form, "-q", *words]
                    subprocess.run(line, env=env, check=True, stdout=subprocess.DEVNULL)

                def copied(place: Path = place) -> None:
                    subprocess.run(["sh", "-c", "cp out copy && sync copy"], cwd=place, check=True)

                for _ in range(options.runs):
                    shutil.rmtree(place / "cache", ignore_errors=True)
                    for what, work in (
                        ("cold, not kept", partial(compiled, "--no-cache")),
                        ("cold, kept", compiled),
                        ("found", compiled),
                        ("`cp` and `sync`", copied),
                    ):
                        times.setdefault(what, []).append(measured(work))
                for what, each in times.items():
                    wall, cpu = (statistics.median(column) for column in zip(*each, strict=True))
                    print(f"| {folder} | {form} | {what} | {wall:.2f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()

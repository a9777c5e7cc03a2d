"""Kills at random moments over all commands and formats: `python -m benches.kills [N] [--seed S]`.

Each run is killed with SIGKILL, now and then with SIGTERM, somewhere in the time that it takes. After each the output
is looked at: nothing, what was there before, or the right one. Every so often all of the cache is hashed. In the end
each command runs once more to its end, and nothing may be left of all the others.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from benches.havoc import (
    LONGEST,
    Havoc,
    Job,
    content,
    layout_is_whole,
    leftovers,
    load_everything,
    random_image,
    remove,
    served,
)

PRECIOUS = b"precious"
EVERY = 20
"""Kills between two looks at all of the cache."""


def kills(count: int, seed: int, folder: Path, *, told: bool = False) -> collections.Counter[str]:
    """Kills so many runs; AssertionError when something is not as it must be. Returns what came of them."""
    load_everything()
    chance = random.Random(seed)
    outcomes: collections.Counter[str] = collections.Counter()
    lasts: dict[str, float] = {}
    with served({f"app{number}:1": random_image(number) for number in (1, 2, 11)}) as references:
        havoc = Havoc(folder, references, folder / "cache")
        for number in range(count):
            image = chance.choice(list(references))
            job = chance.choice(havoc.jobs(image))
            right = ""
            if job.makes:
                right = havoc.right(job, image)
            if job.name not in lasts:
                begun = time.monotonic()
                havoc.finish(job, folder / "timed")
                lasts[job.name] = max(0.02, time.monotonic() - begun)
                remove(folder / "timed")
            place = folder / f"out-{number}"
            place.mkdir()
            out = place / "out"
            if job.makes and chance.random() < 0.5 and "dir" not in job.name and job.name != "pull oci":
                out.write_bytes(PRECIOUS)
            before = content(out)
            if chance.random() < 0.2:
                # As if it were the first time.
                shutil.rmtree(havoc.cache.folder, ignore_errors=True)
            run = havoc.start(job, out, folder / "said")
            signalled = chance.choice([signal.SIGKILL] * 4 + [signal.SIGTERM])
            if not run.wait(1.2 * lasts[job.name] * chance.random()):
                run.send(signalled)
            assert run.wait(LONGEST), f"{job.name} hung after {signalled.name}"
            outcomes["done" if run.status == 0 else "killed"] += 1
            assert run.status in (0, -signalled, 128 + signalled), f"{job.name}: {run.said.read_text()[-2000:]}"
            check(job, out, before, right, finished=run.status == 0)
            if number % EVERY == EVERY - 1:
                for entry, whole in havoc.cache.verify():
                    assert whole, f"{entry.kind} {entry.name} of the cache is damaged after {job.name}"
                if told:
                    print(f"{number + 1} kills: {dict(outcomes)}", flush=True)
            # What is left goes with the next run there, and the output is right then.
            if job.makes and chance.random() < 0.3:
                if job.name.startswith("compile dir") and out.exists():
                    remove(out)
                havoc.finish(job, out)
                assert content(out) == right, job.name
                assert [path.name for path in place.iterdir()] == ["out"], job.name
            remove(place)
        for job in havoc.jobs(next(iter(references))):
            havoc.finish(job, folder / "last")
            remove(folder / "last")
        havoc.finish(Job("prune", ("cache", "prune"), makes=False), folder)
        assert all(whole for _, whole in havoc.cache.verify())
        assert leftovers(folder) == []
        assert not list(havoc.cache.folder.glob("locks/layer-*"))
    return outcomes


def check(job: Job, out: Path, before: str, right: str, *, finished: bool) -> None:
    """Whether an output is what may be there."""
    if not job.makes:
        return
    if job.name == "pull oci":
        # A layout is added to; it may be there without the image, and what its index names is whole.
        assert not out.exists() or layout_is_whole(out), job.name
        assert not finished or content(out) == right, job.name
        return
    now = content(out)
    assert now == right if finished else now in (before, right), f"{job.name}: {now}, before it was {before}"


def main() -> None:
    """Prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocifast-kills-") as folder:
        begun = time.monotonic()
        outcomes = kills(options.count, options.seed, Path(folder), told=True)
        seconds = time.monotonic() - begun
    print(
        f"{options.count} runs in {seconds:.0f} s, seed {options.seed}: {dict(outcomes)}; nothing lost, wrong or left"
    )


if __name__ == "__main__":
    main()

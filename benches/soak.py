"""Many processes on one cache, for as long as you like: `python -m benches.soak [--seconds S] [--processes N]`.

Each process runs commands over random images, with the cache and the outputs on two disks that are too small for all of
it. Runs are killed, the cache is pruned and cleared, files in it are damaged. What a run that ended well has made must
be right; any other must have said in one line that the disk was full. In the end nothing may be left. Needs root, for
the disks.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
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
    served,
)

IMAGES = [number * 10 + inner for number in range(3) for inner in range(4)]


class Worker:
    """One process that starts runs until the time is over, and counts what comes of them."""

    def __init__(self, havoc: Havoc, places: Path, seed: int) -> None:
        self._havoc = havoc
        self._places = places
        self._chance = random.Random(seed)
        self._seed = seed
        self.seen: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def work(self, until: float) -> None:
        """Runs one command after the other."""
        number = 0
        while time.monotonic() < until:
            number += 1
            image = self._chance.choice(list(self._havoc.references))
            job = self._chance.choice(self._havoc.jobs(image))
            if self._chance.random() < 0.02:
                job = Job("cache clear", ("cache", "clear"), makes=False)
            place = self._places / f"{self._seed}-{number}"
            try:
                place.mkdir()
            except OSError:
                # The disk is that full; others will make room.
                time.sleep(0.1)
                continue
            self._one(job, image, place)
            shutil.rmtree(place, ignore_errors=True)
            if self._chance.random() < 0.02:
                self._damage()

    def _one(self, job: Job, image: str, place: Path) -> None:
        out = place / "out"
        run = self._havoc.start(job, out, self._havoc.folder / f"said-{self._seed}")
        number = 0
        if self._chance.random() < 0.3:
            number = self._chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            if not run.wait(2 * self._chance.random() ** 2):
                run.send(number)
        if not run.wait(LONGEST):
            run.send(signal.SIGKILL)
            run.wait(LONGEST)
            self._fault(f"{job.name} hung")
            return
        said = run.said.read_text(errors="replace")
        if run.status == 0:
            self.seen["done"] += 1
            if job.makes and not self._is_right(job, image, out):
                self._fault(f"{job.name} of {image} made something else: {content(out)}")
        elif number and run.status in (-number, 128 + number):
            self.seen["killed"] += 1
            if job.makes and job.name != "pull oci" and out.exists() and not self._is_right(job, image, out):
                self._fault(f"{job.name} of {image} was killed and left something else")
            if job.name == "pull oci" and out.exists() and not layout_is_whole(out):
                self._fault("a layout is not whole")
        elif "No space left on device" in said or "no room for" in said:
            self.seen["full"] += 1
            if job.makes and job.name != "pull oci" and out.exists():
                self._fault(f"{job.name}: the disk was full, and there is an output")
        elif job.name == "cache verify" and run.status == 1 and "unexpected" not in said:
            self.seen["damage found"] += 1
        else:
            self._fault(f"{job.name}: status {run.status}: {said[-1500:]}")

    def _is_right(self, job: Job, image: str, out: Path) -> bool:
        return content(out) == self._havoc.right(job, image)

    def _damage(self) -> None:
        """Changes a byte of something in the cache, as a bad disk would, or cuts it, or removes it."""
        kinds = ("blobs/*/*", "outputs/*/output", "outputs/*/*.json", "layers/*/*/*", "references/*", "use.json")
        files = list(self._havoc.cache.folder.glob(self._chance.choice(kinds)))
        if not files:
            return
        path = self._chance.choice(files)
        try:
            size = path.stat().st_size
            path.chmod(0o600)
            match self._chance.randrange(3):
                case 0:
                    os.truncate(path, size // 2)
                case 1:
                    with path.open("r+b") as file:
                        file.seek(self._chance.randrange(max(1, size)))
                        file.write(b"\0damaged")
                case 2:
                    path.unlink()
            self.seen["damages"] += 1
        except OSError:
            pass

    def _fault(self, text: str) -> None:
        self.wrong.append(text)


def soak(seconds: float, processes: int, seed: int, folder: Path, *, size: str) -> tuple[dict[str, int], list[str]]:
    """Runs the processes.

    Args:
        seconds: for how long.
        processes: how many.
        seed: of all chances.
        folder: an empty folder.
        size: of each of the two disks, as mount takes it.

    Returns:
        What came of the runs, and what was wrong.
    """
    load_everything()
    images = {f"app{number}:1": random_image(number) for number in IMAGES}
    disks = [folder / "cache-disk", folder / "out-disk"]
    with served(images) as references:
        havoc = Havoc(folder, references, disks[0] / "cache", {"OCIFAST_CACHE_SIZE": "none"})
        # Before the disks are there, which are too small.
        for image in references:
            for job in havoc.jobs(image):
                if job.makes:
                    havoc.right(job, image)
        try:
            for disk in disks:
                disk.mkdir()
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
            pids = [start(havoc, disks[1], seed * 1000 + number, seconds) for number in range(processes)]
            for pid in pids:
                os.waitpid(pid, 0)
            seen, wrong = gathered(folder)
            # One more run, which sweeps; nothing of all the others may be left.
            havoc.finish(Job("prune", ("cache", "prune"), makes=False), folder)
            verified = list(havoc.cache.verify())
            seen["cache entries at the end"] = len(verified)
            wrong += [f"left: {path}" for path in leftovers(*disks)]
        finally:
            for disk in disks:
                subprocess.run(["umount", disk], check=False)
    return seen, wrong


def start(havoc: Havoc, places: Path, seed: int, seconds: float) -> int:
    """A process that works for so long."""
    pid = os.fork()
    if pid:
        return pid
    worker = Worker(havoc, places, seed)
    try:
        worker.work(time.monotonic() + seconds)
    except BaseException as error:
        worker.wrong.append(f"worker {seed}: {error!r}")
    finally:
        told = {"seen": worker.seen, "wrong": worker.wrong}
        (havoc.folder / f"worker-{seed}.json").write_text(json.dumps(told))
        os._exit(0)


def gathered(folder: Path) -> tuple[dict[str, int], list[str]]:
    """What all processes have told."""
    seen: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    for path in folder.glob("worker-*.json"):
        told = json.loads(path.read_text())
        seen.update(told["seen"])
        wrong += told["wrong"]
    return dict(seen), wrong


def main() -> None:
    """Prints what came of it; the exit status is 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--size", default="40M")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocifast-soak-") as folder:
        seen, wrong = soak(options.seconds, options.processes, options.seed, Path(folder), size=options.size)
    print(f"{options.processes} processes, {options.seconds:g} s, seed {options.seed}: {seen}; {len(wrong)} wrong")
    for text in wrong[:50]:
        print(f"- {text}")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()

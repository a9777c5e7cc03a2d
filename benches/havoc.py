"""Runs that are killed: images in a registry, commands that read them through one cache, and what is right afterwards.

A run is a fork of this process, which has loaded everything: it begins to work at once, so that a kill at a random
moment hits the work and not Python's start. Used by `benches.kills` and `benches.soak`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ocifast
from ocifast.cache import Cache
from ocifast.cli import STOPS, Stopped, main

from tests.support.faulty import serve_faulty
from tests.support.images import BuiltImage, build_image
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory

__all__ = ["Havoc", "Job", "Run", "content", "layout_is_whole", "leftovers", "random_image", "served"]

FORMATS = ("dir", "tar", "cpio", "erofs", "squashfs", "ext4")
LONGEST = 300.0
"""Seconds after which a run counts as hung."""


def random_image(seed: int, *, layers: int = 3, size: int = 400_000) -> BuiltImage:
    """An image of some layers; those of one number are the same in all images whose seeds have the same tens."""
    chance = random.Random(seed)
    made = []
    for number in range(layers):
        # The lower layers are shared by ten images.
        noise = random.Random((seed if number == layers - 1 else seed // 10) * 100 + number)
        layer = TarBuilder().directory(f"l{number}", mode=0o2755, uid=number)
        for name in range(30):
            layer.file(f"l{number}/{name}", noise.randbytes(noise.randrange(size // 15)), mode=0o640, uid=name)
        if number:
            layer.whiteout(f"l{number - 1}/{noise.randrange(30)}")
        made.append(layer)
    chance.random()
    return build_image(made)


@contextmanager
def served(images: dict[str, BuiltImage]) -> Iterator[dict[str, str]]:
    """A registry in a process of its own; full references by `NAME:TAG`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with serve_faulty() as server:
            os.write(writing, "\n".join(server.put(image, name) for name, image in images.items()).encode() + b"\0")
            signal.pause()
    os.close(writing)
    said = b""
    while not said.endswith(b"\0"):
        said += os.read(reading, 65536)
    os.close(reading)
    try:
        yield dict(zip(images, said[:-1].decode().split("\n"), strict=True))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def load_everything() -> None:
    """Imports what commands import when they need it."""
    for found in pkgutil.walk_packages(ocifast.__path__, "ocifast."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    importlib.import_module("httpx")


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: what it does and makes.
        words: of the command; `{out}` is its output.
        suffix: of the output.
        makes: whether there is an output; else the job reads, or tidies up.
    """

    name: str
    words: tuple[str, ...]
    suffix: str = ""
    makes: bool = True


class Run:
    """A command in a process of its own; its output streams go to a file."""

    def __init__(self, words: list[str], said: Path, environment: dict[str, str]) -> None:
        self.said = said
        self.begun = time.monotonic()
        self.status: int | None = None
        # Until the command listens, a signal means what it means to every program, and not an exception of Python's.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        self.pid = os.fork()
        if self.pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        else:
            status = 70
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            try:
                fd = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.dup2(fd, 1)
                os.dup2(fd, 2)
                os.environ.update(environment)
                status = main(words)
                for number in STOPS:
                    signal.signal(number, signal.SIG_IGN)
            except Stopped as stopped:
                status = stopped.status
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)

    def ended(self) -> bool:
        """Whether it has ended; its status is known then, negative for a signal."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def wait(self, seconds: float) -> bool:
        """Whether it ended in so many seconds."""
        until = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() >= until:
                return False
            time.sleep(0.002)
        return True

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if not self.ended():
            os.kill(self.pid, number)


class Havoc:
    """Commands over images of a registry, with one cache.

    Args:
        folder: for the cache and outputs.
        references: of the images.
        cache: the cache's folder.
        environment: of the commands besides.
    """

    def __init__(
        self, folder: Path, references: dict[str, str], cache: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.references = references
        self.cache = Cache(cache)
        self.environment = {
            "OCIFAST_CACHE_DIR": str(cache),
            "OCIFAST_PROGRESS": "none",
            "OCIFAST_READ_TIMEOUT": "60",
            **(environment or {}),
        }
        self._right: dict[tuple[str, str], str] = {}

    def jobs(self, name: str) -> list[Job]:
        """All commands for one image."""
        reference = self.references[name]
        made = [
            Job(
                f"compile {form}{' --keep-layers' * keeps}",
                (
                    *("compile", reference, "{out}", "-f", form),
                    *(("--keep-layers",) if keeps else ()),
                    *(("--free", "1M") if form == "ext4" else ()),
                ),
            )
            for form in FORMATS
            for keeps in (False, True)
        ]
        return [
            *made,
            Job("pull oci", ("pull", reference, "oci:{out}:app")),
            Job("pull oci-archive", ("pull", reference, "oci-archive:{out}:app")),
            Job("copy docker-archive", ("copy", f"docker://{reference}", "docker-archive:{out}")),
            Job("ls", ("ls", "-R", reference), makes=False),
            Job("du", ("du", reference), makes=False),
            Job("diff", ("diff", reference, next(iter(self.references.values()))), makes=False),
            Job("cache prune", ("cache", "prune", "--max-size", "1M"), makes=False),
            Job("cache verify", ("cache", "verify"), makes=False),
        ]

    def start(self, job: Job, out: Path, said: Path, *options: str) -> Run:
        """Starts a command with its output at a path."""
        words = [word.format(out=out) for word in job.words]
        return Run([*words, *options], said, self.environment)

    def finish(self, job: Job, out: Path, *options: str) -> None:
        """Runs a command to its end, which must be a good one."""
        run = self.start(job, out, self.folder / "said", *options)
        assert run.wait(LONGEST), f"{job.name} hung"
        assert run.status == 0, f"{job.name}: {run.status}: {run.said.read_text()[-2000:]}"

    def right(self, job: Job, image: str) -> str:
        """What the output of a job must be: made once, without the cache."""
        key = (job.name.partition(" --")[0], image)
        if key not in self._right:
            place = self.folder / "right"
            self.finish(job, place, "--no-cache")
            self._right[key] = content(place)
            remove(place)
        return self._right[key]


def content(path: Path) -> str:
    """What is at a path, in a line; of a layout whether it is whole."""
    if not os.path.lexists(path):
        return "nothing"
    if path.is_dir():
        if (path / "oci-layout").exists() or (path / "blobs").exists():
            return f"layout {hashlib.sha256((path / 'index.json').read_bytes()).hexdigest()}"
        return hashlib.sha256(dump_directory(path).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def layout_is_whole(path: Path) -> bool:
    """Whether what a layout's index names is there, byte for byte; one without an index names nothing."""
    if not (path / "index.json").exists():
        return True
    with ocifast.open(f"oci:{path}:app") as image, image.flatten() as tree:
        return len(tree) > 0


def leftovers(*folders: Path) -> list[str]:
    """Temporary files of ours."""
    return sorted(str(path) for folder in folders for path in folder.rglob(".ocifast-*"))

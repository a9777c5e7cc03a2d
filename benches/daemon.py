"""A containerd of our own for one run of `ctr`: its folders, its socket and nothing of the machine's."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.run import attempt, tool

START_SECONDS = 20
CONFIG = """version = 2
root = "{at}/containerd/root"
state = "{at}/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{socket}"
"""


@dataclass
class Containerd:
    """The daemon of one folder.

    Attributes:
        process: it.
        socket: where it listens; not below the folder, whose path may be too long for a socket (unix(7)).
    """

    process: subprocess.Popen[bytes]
    socket: Path


_running: dict[Path, Containerd] = {}


def words(at: Path) -> list[str]:
    """How `ctr` asks the daemon of a folder, which runs."""
    return ["ctr", "--address", str(_running[at].socket), "--namespace", "default"]


def start(at: Path) -> None:
    """Starts the daemon of a folder and waits until it answers.

    Raises:
        TimeoutError: it does not answer; the text has the end of what it said.
    """
    (at / "containerd").mkdir()
    config, log = at / "containerd/config.toml", at / "containerd/log"
    socket = Path(tempfile.mkdtemp(prefix="containerd-")) / "socket"
    config.write_text(CONFIG.format(at=at, socket=socket))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [tool("containerd"), "--config", config], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    _running[at] = Containerd(process, socket)
    deadline = time.monotonic() + START_SECONDS
    while attempt(*words(at), "version").returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"containerd does not answer: {log.read_text()[-400:].splitlines()[-1]}")
        time.sleep(0.05)


def pids(at: Path) -> list[int]:
    """The process of a folder's daemon."""
    return [_running[at].process.pid]


def stop(at: Path) -> None:
    """Unmounts what `ctr` mounted and ends the daemon."""
    attempt("umount", at / "root")
    if found := _running.pop(at, None):
        found.process.terminate()
        found.process.wait(timeout=30)
        shutil.rmtree(found.socket.parent)

"""A gigabyte through a pipe: memory stays small, and the disk holds it once."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

from tests.support.images import digest_of

pytestmark = pytest.mark.slow

SIZE = 1 << 30
PIECE = bytes(1 << 20)
MEMORY = 100 << 20
"""Bytes that a run may take; the interpreter and its modules are about a third of it."""

RUN = r"""
import re, sys
from ocifast.cli import main
status = main()
# Not ru_maxrss: that is inherited from whoever started this program.
print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(status)
"""


def header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)


def layer() -> Iterator[bytes]:
    """A tar with one file of a gibibyte, made while it is read."""
    yield header("zeros", SIZE)
    for _ in range(SIZE // len(PIECE)):
        yield PIECE
    yield bytes(2 * tarfile.BLOCKSIZE)


LAYER_SIZE = SIZE + 3 * tarfile.BLOCKSIZE


@pytest.fixture(scope="module")
def diff_id() -> str:
    hasher = hashlib.sha256()
    for piece in layer():
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


def archive(kind: str, diff_id: str) -> Iterator[bytes]:
    """What a user pipes in, a piece at a time."""
    if kind == "tar":
        yield from layer()
        return
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    ).encode()
    small: dict[str, bytes]
    if kind == "docker-archive":
        name = "layer.tar"
        small = {
            "config.json": config,
            "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [], "Layers": [name]}]).encode(),
        }
    else:
        kind = "application/vnd.oci.image"
        layers = [{"mediaType": f"{kind}.layer.v1.tar", "digest": diff_id, "size": LAYER_SIZE}]
        described = {"mediaType": f"{kind}.config.v1+json", "digest": digest_of(config), "size": len(config)}
        manifest = json.dumps({"schemaVersion": 2, "config": described, "layers": layers}).encode()
        root = {"mediaType": f"{kind}.manifest.v1+json", "digest": digest_of(manifest), "size": len(manifest)}
        name = f"blobs/{diff_id.replace(':', '/')}"
        small = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [root]}).encode(),
            f"blobs/{digest_of(config).replace(':', '/')}": config,
            f"blobs/{digest_of(manifest).replace(':', '/')}": manifest,
        }
    # What names the layer comes after it, as some writers have it.
    yield header(name, LAYER_SIZE)
    yield from layer()
    for name, data in small.items():
        yield header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


class Disk:
    """The most that a folder took, as far as it was looked at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.peak = 0

    def look(self) -> None:
        taken = 0
        for path in self._folder.rglob("*"):
            try:
                taken += path.lstat().st_blocks * 512
            except FileNotFoundError:
                continue
        self.peak = max(self.peak, taken)


def piped(words: Sequence[str], pieces: Iterator[bytes], disk: Disk) -> tuple[dict[str, int], int]:
    """Runs a command over pipes.

    Returns:
        Sizes of the files of the tar that it writes, of which the large one is looked at: it must be zeros; and the
        most memory that it took, in bytes.
    """

    def feed(pipe: IO[bytes]) -> None:
        with pipe:
            for number, piece in enumerate(pieces):
                pipe.write(piece)
                if number % 64 == 0:
                    disk.look()

    found: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feeder = threading.Thread(target=feed, args=(process.stdin,))
        feeder.start()
        with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 20) as tar:
            for member in filter(tarfile.TarInfo.isreg, tar):
                found[member.name] = member.size
                disk.look()
                file = tar.extractfile(member)
                others = 0
                while file is not None and (piece := file.read(len(PIECE))):
                    others += len(piece) - piece.count(0)
                # The layer's own header is all that may stand between the zeros.
                assert member.size < SIZE or others == 0 or (member.name != "zeros" and others < tarfile.BLOCKSIZE)
        process.stdout.read()
        feeder.join()
        said = process.stderr.read().decode()
    assert process.returncode == 0, said
    return found, int(said.splitlines()[-1]) << 10


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The folder for temporary files of the commands that are run."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Disk(tmp_path)


@pytest.mark.parametrize("kind", ["tar", "oci-archive", "docker-archive"])
def test_an_image_is_compiled_from_a_pipe(kind: str, diff_id: str, disk: Disk, tmp_path: Path) -> None:
    found, memory = piped(["compile", f"{kind}:-", "-", "--no-cache", "-q"], archive(kind, diff_id), disk)
    assert found == {"zeros": SIZE}
    assert memory < MEMORY
    assert SIZE < disk.peak < SIZE * 5 // 4
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_copied_from_a_pipe_to_a_pipe(diff_id: str, disk: Disk, tmp_path: Path) -> None:
    found, memory = piped(["copy", "docker-archive:-", "oci-archive:-", "-q"], archive("docker-archive", diff_id), disk)
    assert found[f"blobs/{diff_id.replace(':', '/')}"] == LAYER_SIZE
    assert memory < MEMORY
    # Once as it came, and once as it goes.
    assert SIZE < disk.peak < SIZE * 9 // 4
    assert list(tmp_path.iterdir()) == []

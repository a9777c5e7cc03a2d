"""Layers too big for memory, written to disk member by member, and readers that no path is too long for."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.layers import FILE, header
from tests.support.oracle import mounted
from tests.support.pack import LayerFile
from tests.support.run import run, tool

IMAGES = ("erofs", "ext4", "squashfs")
"""Formats that the kernel mounts."""


def write_layer(path: Path, pieces: Iterable[bytes]) -> LayerFile:
    """A layer compressed with zstd from the pieces of a tar archive."""
    diff_id = hashlib.sha256()
    with (
        path.open("wb") as file,
        subprocess.Popen([tool("zstd"), "-1", "-q", "-c"], stdin=subprocess.PIPE, stdout=file) as zstd,
    ):
        assert zstd.stdin is not None
        for piece in pieces:
            diff_id.update(piece)
            zstd.stdin.write(piece)
        zstd.stdin.close()
        assert zstd.wait() == 0
    blob = hashlib.sha256(path.read_bytes()).hexdigest()
    return LayerFile(path, f"sha256:{blob}", f"sha256:{diff_id.hexdigest()}")


def empty_files(names: Iterable[bytes], *, batch: int = 2000, mtime: int = 0, uid: int = 0) -> Iterator[bytes]:
    """The headers of empty files with names of at most 100 bytes, some thousand at a time, and the archive's end."""
    template = bytearray(header(b"", FILE, mtime=mtime, uid=uid))
    template[148:156] = b" " * 8
    bare = sum(template)
    gathered = bytearray()
    for count, name in enumerate(names):
        block = template.copy()
        block[: len(name)] = name
        block[148:156] = b"%06o\x00 " % (bare + sum(name))
        gathered += block
        if count % batch == batch - 1:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered) + bytes(1024)


@contextmanager
def opened(output: Path, form: str, folder: Path) -> Iterator[Path]:
    """The output as a folder: mounted, extracted, or itself; `folder` does not exist yet."""
    if form == "dir":
        yield output
        return
    if form in IMAGES:
        with mounted(output, form, folder) as root:
            yield root
        return
    folder.mkdir()
    run("bsdtar", "--numeric-owner", "-C", folder, "-xpf", output)
    yield folder
    run("rm", "-rf", folder)


def names_below(root: Path) -> set[bytes]:
    """All paths below a folder, however long: every step is taken from an open folder."""
    found: set[bytes] = set()

    def visit(descriptor: int, prefix: bytes) -> None:
        for name in os.listdir(descriptor):
            raw = os.fsencode(name)
            found.add(prefix + raw)
            if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                try:
                    visit(inner, prefix + raw + b"/")
                finally:
                    os.close(inner)

    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        visit(top, b"")
    finally:
        os.close(top)
    return found


def listed(archive: Path) -> set[bytes]:
    """The paths in a tar or cpio archive as bsdtar lists them, the root left out; names have no line breaks."""
    names = run("bsdtar", "-tf", archive).split(b"\n")
    return {name.rstrip(b"/").removeprefix(b"./") for name in names} - {b"", b"."}


def deep_layer(depth: int, name: bytes) -> list[bytes]:
    """The paths of folders inside each other, outermost first."""
    return [b"/".join([name] * count) for count in range(1, depth + 1)]

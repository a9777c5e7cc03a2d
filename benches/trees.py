"""What contestants made, as canonical text of trees (docs/dump.md), and how they differ: nobody wins by leaving out.

The trees are read by other programs than ours: by the kernel, GNU tar and libarchive.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from tests.support.oracle import dump_cpio, dump_directory, dump_mounted, dump_tar
from tests.support.run import attempt

FIELDS = ("type", "mode", "owner", "group", "time", "hard link", "target", "attributes", "content")
TIME = FIELDS.index("time")
SHOWN = 60
"""Characters of a path that are shown of the first one that differs."""


def _mounted(kind: str, **more: tuple[bytes, ...]) -> Callable[[Path, Path], str]:
    return lambda result, at: dump_mounted(result, kind, at, **more)


def _blobs(result: Path, _: Path) -> str:
    """The blobs of a layout, which are named by their digests, as lines like those of a tree."""
    found = sorted((result / "blobs/sha256").iterdir())
    return "".join(
        f"/{one.name} file - - - - - - - {sha256(one.read_bytes()).hexdigest()}\n" for one in found if one.is_file()
    )


KINDS: Mapping[str, Callable[[Path, Path], str]] = {
    "dir": lambda result, _: dump_directory(result),
    "mounted": lambda result, _: dump_directory(Path(result.read_text().rstrip("\n")).resolve(strict=True)),
    "tar": dump_tar,
    "cpio": dump_cpio,
    "ext4": _mounted("ext4", skip=(b"lost+found",)),
    "erofs": _mounted("erofs"),
    "squashfs": _mounted("squashfs"),
    "layout": _blobs,
}
"""For each kind of result what reads it, given a folder that does not exist yet to work in.

`mounted` is a file with the path of a folder; `layout` an image layout.
"""


def read(kind: str, result: Path, at: Path) -> str:
    """The canonical text of a result; `at` is a folder that does not exist yet, and does not exist afterwards."""
    try:
        return KINDS[kind](result, at)
    finally:
        shutil.rmtree(at, ignore_errors=True)


def _parsed(dump: str) -> dict[str, list[str]]:
    """The fields of each name. Not the root's: most layers have no entry for it, and each tool makes one up."""
    lines = (line.split(" ") for line in dump.splitlines())
    return {fields[0]: fields[1:] for fields in lines if fields[0] != "/"}


def without_times(dump: str) -> str:
    """A digest of all but times and the root."""
    hashed = sha256()
    for path, fields in _parsed(dump).items():
        hashed.update(" ".join([path, *fields[:TIME], *fields[TIME + 1 :], "\n"]).encode())
    return hashed.hexdigest()


def differences(dump: str, reference: str) -> tuple[str, str]:
    """How a tree differs from another, in words for a cell of a table; both empty when it does not.

    Returns:
        What is left out, added or another; and a word on modification times that differ, which is told and no more.
    """
    ours, theirs = _parsed(dump), _parsed(reference)
    missing = [path for path in theirs if path not in ours]
    added = [path for path in ours if path not in theirs]
    changed, times = list[str](), 0
    for path in ours.keys() & theirs.keys():
        wrong = [name for name, one, other in zip(FIELDS, ours[path], theirs[path], strict=True) if one != other]
        times += "time" in wrong
        if others := [name for name in wrong if name != "time"]:
            changed.append(f"{path} ({', '.join(others)})")
    told = [
        f"{len(paths)} {word}, first {_short(min(paths))}"
        for word, paths in (("missing", missing), ("more", added), ("other", changed))
        if paths
    ]
    return "; ".join(told), f"mtime differs: {times}" if times else ""


def _short(text: str) -> str:
    # A bar would end the table's cell.
    text = text.replace("|", "\\|")
    return f"`{text if len(text) <= SHOWN else text[:SHOWN] + '…'}`"


class Trees:
    """The trees of all contestants of one image, kept as files below a folder until they are compared.

    They are read and compared in processes of their own: a contestant's peak memory counts from what this one holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        folder.mkdir(exist_ok=True)

    def add(self, who: str, kind: str, result: Path) -> None:
        """Reads and keeps a contestant's result.

        Raises:
            ValueError: the result cannot be read; the text is one line.
        """
        place, work = self.folder / str(len(self.digests)), self.folder / "work"
        try:
            digest, count = _apart("read", kind, result, work, place).split()
        finally:
            # Who was ended in the middle left an image mounted.
            if work.is_mount():
                attempt("umount", work)
        self.digests[who], self.counts[who] = digest, int(count)

    @property
    def measure(self) -> str | None:
        """Whose tree the others are held against: one that most made, of several the one that was made first."""
        for common, _ in Counter(self.digests.values()).most_common(1):
            return next(who for who, digest in self.digests.items() if digest == common)
        return None

    @property
    def entries(self) -> int:
        """Names of that tree, the root included; 0 when there is none."""
        return self.counts[self.measure] if self.measure else 0

    def verdicts(self) -> Iterator[tuple[str, str]]:
        """For each contestant the cell of its row: `same`, or what is not, in bold."""
        places = {who: self.folder / str(number) for number, who in enumerate(self.digests)}
        for who, place in places.items():
            yield who, _apart("compare", place, places[self.measure or who])


def _apart(*words: str | Path) -> str:
    """Runs this module as a program."""
    done = subprocess.run([sys.executable, "-m", "benches.trees", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1][:200])
    return done.stdout.strip()


def main(what: str, *words: str) -> None:
    """`read KIND RESULT AT FILE` writes a dump and prints digest and size; `compare FILE REFERENCE` prints a cell."""
    if what == "read":
        kind, result, at, place = words
        dump = read(kind, Path(result), Path(at))
        Path(place).write_text(dump)
        print(without_times(dump), dump.count("\n"))
    else:
        wrong, times = differences(*(Path(word).read_text() for word in words))
        print(", ".join(filter(None, [f"**{wrong}**" if wrong else "same", times])))


if __name__ == "__main__":
    main(*sys.argv[1:])

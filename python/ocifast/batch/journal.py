"""What a batch has made, a line for each plan, so that a later run can skip what is there and right.

An output is right when it would have the same bytes (the key of its image, options and edits) and is the file that was
written: the same inode, size and times, or else the same digest. Of a directory the inode and times of the directory
itself are looked at; what others have done inside is not.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import msgspec

from ocifast.cache.kept import KeptFile, file_digest, open_regular, this_boot
from ocifast.compiled import CompiledImage
from ocifast.errors import FileError
from ocifast.records import dataclass

__all__ = ["Journal", "MadeOutput", "made_outputs", "placed", "still_right"]

_LINE = 1 << 20
"""Most bytes of a line that are looked at."""


@dataclass(frozen=True)
class MadeOutput:
    """One output, as it was when it was made.

    Attributes:
        path: absolute.
        key: of its bytes; see `ocifast.cache.output_key`.
        inode: its number.
        size: in bytes.
        mtime: in nanoseconds since 1970; so is `ctime`.
        ctime: when its inode changed last.
        digest: of its bytes (`ocifast.cache.kept.file_digest`); None of a directory.
        boot: when it was made (`ocifast.cache.kept.this_boot`): after a power failure only its digest says what it is.
    """

    path: str
    key: str
    inode: int
    size: int
    mtime: int
    ctime: int
    digest: str | None
    boot: str = ""


class Journal:
    """A file of lines of JSON. Lines that are damaged, as by a crash while the last one was written, are passed over.

    Args:
        path: where it is; it is made with the first line.
        keep: whether what is there is read; False begins anew.

    Raises:
        FileError: it cannot be read.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        self._path = path
        self._made: dict[str, MadeOutput] = {}
        self._begun = keep
        self._ending = b""
        if not keep:
            return
        try:
            with path.open("rb") as file:
                while line := file.readline(_LINE):
                    self._take(line)
                    # A line that a crash has cut must not swallow the next one.
                    self._ending = b"" if line.endswith(b"\n") else b"\n"
        except FileNotFoundError:
            return
        except OSError as error:
            raise FileError(f"cannot read {path}: {error.strerror}", errno=error.errno) from error

    def of(self, outputs: tuple[str, ...]) -> tuple[MadeOutput, ...] | None:
        """What was made for these outputs; None unless all of them were."""
        found = [self._made.get(placed(output)) for output in outputs]
        return None if None in found else tuple(each for each in found if each is not None)

    def add(self, made: tuple[MadeOutput, ...]) -> None:
        """Writes lines, flushed to the file system. Raises FileError."""
        try:
            with self._path.open("ab" if self._begun else "wb") as file:
                file.write(self._ending)
                file.writelines(json.dumps(asdict(each)).encode() + b"\n" for each in made)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileError(f"cannot write {self._path}: {error.strerror}", errno=error.errno) from error
        self._begun, self._ending = True, b""
        self._made.update((each.path, each) for each in made)

    def _take(self, line: bytes) -> None:
        try:
            made = msgspec.json.decode(line, type=MadeOutput)
        except (msgspec.MsgspecError, RecursionError):
            return
        self._made[made.path] = made


def placed(output: str) -> str:
    """Where an output is, whatever the working directory becomes."""
    return os.path.normpath(Path(output).absolute())


def made_outputs(images: tuple[CompiledImage, ...]) -> tuple[MadeOutput, ...]:
    """What is written down of outputs that were just made; none of those that went to standard output."""
    return tuple(found for image in images if image.path is not None and (found := _look(image)) is not None)


def still_right(made: tuple[MadeOutput, ...], keys: Mapping[str, str]) -> bool:
    """Whether outputs are there as they were made.

    Args:
        made: what was written down, one for each output.
        keys: what their bytes would be now, by absolute path.
    """
    return all(keys.get(each.path) == each.key and _is_same(each) for each in made)


def _is_same(made: MadeOutput) -> bool:
    try:
        status = os.lstat(made.path)
        same = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if same == (made.inode, made.size, made.mtime, made.ctime) and (
            made.digest is None or made.boot in ("", this_boot())
        ):
            return True
        if made.digest is None or not stat.S_ISREG(status.st_mode) or status.st_size != made.size:
            return False
        return _digest(Path(made.path)) == made.digest
    except (OSError, ValueError):
        return False


def _look(image: CompiledImage) -> MadeOutput | None:
    assert image.path is not None
    path = Path(placed(str(image.path)))
    try:
        status = path.lstat()
        digest = None if stat.S_ISDIR(status.st_mode) else _digest(path)
    except (OSError, ValueError):
        # Somebody has taken it away already: then it is not right.
        return None
    kept = KeptFile(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest or "")
    return MadeOutput(str(path), image.key or "", kept.inode, kept.size, kept.mtime, kept.ctime, digest, this_boot())


def _digest(path: Path) -> str:
    fd = open_regular(path)
    try:
        return file_digest(fd)
    finally:
        os.close(fd)

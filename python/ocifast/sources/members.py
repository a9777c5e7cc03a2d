"""What is in a tar on disk, without unpacking it: where the bytes of each member stand.

The archives read here hold a few files of known names (a layout, or what `docker save` writes). They are not layers:
those are read by the core alone. Python's tarfile is asked for headers and for nothing else; nothing is extracted, and
names serve to look members up.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from pathlib import Path
from typing import IO

from ocifast.errors import DocumentError, FileError, reason
from ocifast.records import dataclass
from ocifast.sources import FileSlice
from ocifast.sources.blobs import FileBlob
from ocifast.sources.unpacked import Unpacked

__all__ = ["Members"]

MEMBER_LIMIT = 50_000
"""Most members of an archive that are looked at."""
HEADER_LIMIT = 1 << 20
"""Most bytes of the headers of one member."""
LINK_HOPS = 8
"""Most links that lead from one to the next."""


@dataclass(frozen=True)
class _Link:
    target: str


class Members:
    """The members of a tar by name.

    Args:
        path: as `Unpacked` takes it, and unpacked by it where that is needed.
        name: how messages call the image.

    Raises:
        DocumentError: no tar, damaged, or of a kind that cannot be read.
        UsageError, CompressionError, LimitError, FileError: see `Unpacked`.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self._name = name
        self._tar = Unpacked(path, name=name)
        self._path = self._tar.path
        try:
            with self._path.open("rb") as plain:
                self._members = self._list(plain)
        except OSError as error:
            self.close()
            raise FileError(f"{name}: cannot read {path}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def find(self, name: str) -> FileSlice | None:
        """Where the bytes of a file stand, or None; links lead to other members and never out of the archive."""
        found = self._members.get(posixpath.normpath(name))
        for _ in range(LINK_HOPS):
            if not isinstance(found, _Link):
                return found
            found = self._members.get(found.target)
        return None

    def read(self, name: str, limit: int) -> bytes | None:
        """The bytes of a small file, or None when there is none. Raises DocumentError when it passes the limit."""
        found = self.find(name)
        if found is None:
            return None
        if found.length > limit:
            raise DocumentError(f"{self._name}: {name} is longer than {limit >> 20} MiB", reference=self._name)
        return b"".join(FileBlob(found.path, found.offset, found.length, name=self._name))

    def close(self) -> None:
        """Removes what was unpacked."""
        self._tar.close()

    def _list(self, file: IO[bytes]) -> dict[str, FileSlice | _Link]:
        found: dict[str, FileSlice | _Link] = {}
        end = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            headers = _Headers(file)
            with tarfile.open(fileobj=headers, mode="r:") as archive:
                for count, member in enumerate(archive):
                    headers.taken = 0
                    if count >= MEMBER_LIMIT:
                        raise DocumentError(f"{self._name}: more than {MEMBER_LIMIT} members; this is no image archive")
                    if member.size < 0 or (member.isreg() and member.offset_data + member.size > end):
                        raise DocumentError(f"{self._name}: the archive ends within its member {member.name!r}")
                    self._enter(found, member)
                rest = archive.offset
            file.seek(rest)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise DocumentError(f"{self._name}: the archive is damaged at byte {rest}")
        except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
            raise DocumentError(
                f"{self._name}: this is not a tar archive: {reason(error)}", reference=self._name
            ) from None
        return found

    def _enter(self, found: dict[str, FileSlice | _Link], member: tarfile.TarInfo) -> None:
        """Takes one member; of equal names the last one counts, as when unpacking."""
        name = posixpath.normpath(member.name.lstrip("/"))
        if member.isreg():
            if member.issparse():
                raise DocumentError(f"{self._name}: the member {name!r} is sparse; pack the archive without holes")
            found[name] = FileSlice(self._path, member.offset_data, member.size)
        elif member.issym():
            found[name] = _Link(posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname)))
        elif member.islnk():
            found[name] = _Link(posixpath.normpath(member.linkname.lstrip("/")))


class _Headers(io.RawIOBase):
    """A file for tarfile, which believes what a header says of the length of the next: reads stay bounded here.

    Attributes:
        taken: bytes that were asked for, in one piece or in several, since the last member.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        self.taken += size
        if size < 0 or self.taken > HEADER_LIMIT:
            raise tarfile.ReadError(f"an extended header of more than {HEADER_LIMIT >> 20} MiB")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

"""Blobs of layers, written as a stream: gzip, zstd, gzip with flush points as pigz has them, and eStargz.

Sources: RFC 1952 (gzip), RFC 1951 (deflate), RFC 8878 (zstd), containerd's eStargz (docs/estargz.md of
stargz-snapshotter).
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import zlib
from hashlib import sha256
from pathlib import Path
from typing import IO, Protocol

from tests.support.images import digest_of
from tests.support.run import tool

PIECE = 1 << 20
PIGZ_BLOCK = 128 << 10
ESTARGZ_CHUNK = 4 << 20
GZIP, RAW = 31, -15
"""`wbits` of zlib: with gzip's header and trailer, and without any."""


class Blob(Protocol):
    """What takes the bytes of an archive and makes a file of them."""

    media: str

    def write(self, data: bytes) -> None:
        """The next bytes of the archive."""

    def close(self) -> None:
        """Ends the file."""


class Gzip:
    """One gzip member, one deflate stream, as most tools write it."""

    media = "gzip"

    def __init__(self, path: Path, level: int = 6) -> None:
        self.file = path.open("wb")
        self.deflate = zlib.compressobj(level, zlib.DEFLATED, GZIP)

    def write(self, data: bytes) -> None:
        """See `Blob`."""
        self.file.write(self.deflate.compress(data))

    def close(self) -> None:
        """See `Blob`."""
        self.file.write(self.deflate.flush())
        self.file.close()


class Pigz(Gzip):
    """One gzip member whose deflate stream is flushed to a byte after every 128 KiB, as `pigz` does by default."""

    def __init__(self, path: Path, level: int = 6) -> None:
        super().__init__(path, level)
        self.waiting = bytearray()

    def write(self, data: bytes) -> None:
        """See `Blob`."""
        self.waiting += data
        while len(self.waiting) >= PIGZ_BLOCK:
            super().write(bytes(self.waiting[:PIGZ_BLOCK]))
            self.file.write(self.deflate.flush(zlib.Z_SYNC_FLUSH))
            del self.waiting[:PIGZ_BLOCK]

    def close(self) -> None:
        """See `Blob`."""
        super().write(bytes(self.waiting))
        super().close()


class Zstd:
    """What `zstd -3` makes."""

    media = "zstd"

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.process = subprocess.Popen(
            [tool("zstd"), "-q", "-3", "-c"], stdin=subprocess.PIPE, stdout=self.file, bufsize=0
        )

    def write(self, data: bytes) -> None:
        """See `Blob`."""
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def close(self) -> None:
        """See `Blob`."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait()
        self.file.close()
        assert status == 0, f"zstd ended with {status}"


class Deflated:
    """A gzip member of pieces that were deflated before, each on its own: quick to write, however large.

    A piece ends at a byte and refers to nothing before it (Z_FULL_FLUSH), so that pieces stand in any order.
    """

    media = "gzip"

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.file.write(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
        self.crc, self.size, self.known = 0, 0, dict[bytes, bytes]()

    def write(self, data: bytes) -> None:
        """See `Blob`. The same object given again is not deflated again."""
        deflated = self.known.get(data) if len(data) == PIECE else None
        if deflated is None:
            one = zlib.compressobj(6, zlib.DEFLATED, RAW)
            deflated = one.compress(data) + one.flush(zlib.Z_FULL_FLUSH)
            if len(data) == PIECE:
                self.known[data] = deflated
        self.file.write(deflated)
        self.crc, self.size = zlib.crc32(data, self.crc), self.size + len(data)

    def close(self) -> None:
        """See `Blob`."""
        # An empty block that says it is the last one (RFC 1951, 3.2.3), then the trailer.
        self.file.write(b"\x03\x00" + self.crc.to_bytes(4, "little") + (self.size & 0xFFFFFFFF).to_bytes(4, "little"))
        self.file.close()


def member(data: bytes) -> bytes:
    """One gzip member."""
    one = zlib.compressobj(6, zlib.DEFLATED, GZIP)
    return one.compress(data) + one.flush()


def estargz(source: IO[bytes], target: Path) -> str:
    """Writes the layer of an archive as eStargz, and returns its diff ID, which is another than the archive's.

    Each file's content begins a gzip member, every 4 MiB of it another one; a table of contents is the last entry of
    the archive and has a member of its own, and so has the footer that says where the table begins.
    """
    hashed, entries = sha256(), list[dict[str, object]]()
    landmark = tarfile.TarInfo(".no.prefetch.landmark")
    landmark.size = 1
    # The kinds of entries that the table of contents knows by name.
    kinds = {b"0": "reg", b"1": "hardlink", b"2": "symlink", b"3": "char", b"4": "block", b"5": "dir", b"6": "fifo"}
    with target.open("wb") as file:
        waiting = bytearray()

        def begin_member() -> int:
            if waiting:
                file.write(member(bytes(waiting)))
                hashed.update(waiting)
                waiting.clear()
            return file.tell()

        def add(info: tarfile.TarInfo, head: bytes, body: IO[bytes] | bytes) -> None:
            waiting.extend(head)
            entry: dict[str, object] = {
                "name": info.name,
                "type": kinds.get(info.type, "reg"),
                "modtime": "1970-01-01T00:00:00Z",
                "mode": info.mode,
                "uid": info.uid,
                "gid": info.gid,
            }
            left, offset = info.size if info.isreg() else 0, 0
            while left:
                size = min(left, ESTARGZ_CHUNK)
                data = body if isinstance(body, bytes) else body.read(size)
                chunk = {
                    "offset": begin_member(),
                    "chunkOffset": offset,
                    "chunkSize": size,
                    "chunkDigest": digest_of(data),
                }
                entries.append(
                    {**entry, "size": info.size, **chunk}
                    if not offset
                    else {"name": info.name, **chunk, "type": "chunk"}
                )
                waiting.extend(data)
                left, offset = left - size, offset + size
            if not offset:
                entries.append({**entry, **({"linkName": info.linkname} if info.linkname else {})})
            waiting.extend(bytes(-offset % tarfile.BLOCKSIZE))

        add(landmark, landmark.tobuf(), b"\x0f")
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for info in archive:
                after = source.tell()
                source.seek(info.offset)
                add(info, source.read(info.offset_data - info.offset), source)
                source.seek(after)
        table = json.dumps({"version": 1, "entries": entries}).encode()
        head = tarfile.TarInfo("stargz.index.json")
        head.size = len(table)
        toc = begin_member()
        waiting.extend(head.tobuf() + table + bytes(-len(table) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
        begin_member()
        # An empty member whose extra field has the table's offset.
        extra = b"SG" + (22).to_bytes(2, "little") + b"%016xSTARGZ" % toc
        file.write(b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff" + len(extra).to_bytes(2, "little") + extra)
        file.write(b"\x01\x00\x00\xff\xff" + bytes(8))
    return "sha256:" + hashed.hexdigest()

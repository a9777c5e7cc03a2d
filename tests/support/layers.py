"""Tar archives made header by header, right or wrong in every field.

Source: POSIX.1-2024, "pax Interchange Format" and "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" and
"Storing Sparse Files".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

Name = str | bytes
Number = int | bytes
Records = Mapping[str, Name] | Sequence[tuple[Name, Name]]

BLOCK = 512
USTAR = b"ustar\x0000"
GNU = b"ustar  \x00"
V7 = b"\x00" * 8

FILE, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = (b"%d" % kind for kind in range(7))
PAX, PAX_GLOBAL, GNU_LONG_NAME, GNU_LONG_LINK, GNU_SPARSE = b"x", b"g", b"L", b"K", b"S"


def raw_name(name: Name) -> bytes:
    """The bytes of a name; text is UTF-8."""
    return name.encode() if isinstance(name, str) else name


def number(value: Number, width: int) -> bytes:
    """A numeric field: bytes as they are, else octal digits and a NUL, else base-256 where octal cannot hold it."""
    if isinstance(value, bytes):
        return value
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\x00" % (width - 1, value)
    field = bytearray(value.to_bytes(width, "big", signed=True))
    field[0] = field[0] | 0x80 if value >= 0 else 0xFF
    return bytes(field)


def padded(data: bytes) -> bytes:
    """The data and zeros up to the next block."""
    return data + bytes(-len(data) % BLOCK)


def pax_records(records: Records) -> bytes:
    """The records of an extended header: `LENGTH KEY=VALUE\\n`, the length counting itself."""
    pairs: Iterable[tuple[Name, Name]] = records.items() if isinstance(records, Mapping) else records
    out = bytearray()
    for key, value in pairs:
        rest = b" " + raw_name(key) + b"=" + raw_name(value) + b"\n"
        length = len(rest) + len(str(len(rest)))
        length = len(rest) + len(str(length))
        out += str(length).encode() + rest
    return bytes(out)


def header(
    name: Name,
    typeflag: bytes = FILE,
    *,
    mode: Number = 0o644,
    uid: Number = 0,
    gid: Number = 0,
    size: Number = 0,
    mtime: Number = 0,
    linkname: Name = b"",
    magic: bytes = USTAR,
    uname: bytes = b"",
    gname: bytes = b"",
    major: Number = 0,
    minor: Number = 0,
    prefix: bytes = b"",
    tail: bytes | None = None,
    checksum: bytes | None = None,
) -> bytes:
    """One header block.

    Args:
        name: at most 100 bytes; a longer one needs `prefix` or an extension.
        typeflag: one byte.
        mode: this and the other numbers: an int for the right encoding, bytes for the field as it stands.
        uid: see `mode`.
        gid: see `mode`.
        size: see `mode`.
        mtime: see `mode`.
        linkname: at most 100 bytes.
        magic: magic and version, 8 bytes; with `V7` all that follows the link name stays zero.
        uname: at most 32 bytes.
        gname: at most 32 bytes.
        major: device number.
        minor: device number.
        prefix: at most 155 bytes.
        tail: the 167 bytes from offset 345 on, instead of the prefix and its padding (old GNU sparse headers).
        checksum: the 8 bytes of the field when they are to be wrong.
    """
    name, linkname = raw_name(name), raw_name(linkname)
    block = bytearray(BLOCK)
    fields = [(0, 100, name), (100, 8, number(mode, 8)), (108, 8, number(uid, 8)), (116, 8, number(gid, 8))]
    fields += [(124, 12, number(size, 12)), (136, 12, number(mtime, 12)), (148, 8, b" " * 8), (156, 1, typeflag)]
    fields += [(157, 100, linkname)]
    if magic != V7:
        fields += [(257, 8, magic), (265, 32, uname), (297, 32, gname)]
        if typeflag in (CHAR, BLOCK_DEVICE):
            fields += [(329, 8, number(major, 8)), (337, 8, number(minor, 8))]
        fields += [(345, 155, prefix)] if tail is None else [(345, 167, tail)]
    for offset, width, value in fields:
        assert len(value) <= width, f"{value!r} does not fit into {width} bytes"
        block[offset : offset + len(value)] = value
    block[148:156] = b"%06o\x00 " % sum(block) if checksum is None else checksum
    return bytes(block)


class TarBuilder:
    """An archive that grows member by member; every method returns the builder, so that calls chain.

    Well-formed calls need few words: `TarBuilder().directory("etc").file("etc/motd", b"hello").build()`. Every keyword
    of `header` passes through, and `raw`, `pax`, `gnu` put anything at all into the stream.
    """

    def __init__(self, *, magic: bytes = USTAR) -> None:
        self.magic = magic
        self.buffer = bytearray()

    def __len__(self) -> int:
        return len(self.buffer)

    def raw(self, data: bytes) -> TarBuilder:
        """Bytes as they are, without padding."""
        self.buffer += data
        return self

    def pax(self, records: Records | bytes, *, typeflag: bytes = PAX, name: Name = "PaxHeaders/x") -> TarBuilder:
        """An extended header; bytes are taken as its data, wrong as they may be."""
        data = records if isinstance(records, bytes) else pax_records(records)
        return self.raw(header(name, typeflag, size=len(data)) + padded(data))

    def gnu(self, typeflag: bytes, name: Name, *, terminated: bool = True) -> TarBuilder:
        """A GNU long name (`L`) or long link (`K`) extension for the next member."""
        data = raw_name(name) + (b"\x00" if terminated else b"")
        return self.raw(header("././@LongLink", typeflag, size=len(data), magic=GNU) + padded(data))

    def member(
        self,
        path: Name,
        typeflag: bytes = FILE,
        data: bytes = b"",
        *,
        long: Literal["pax", "gnu", "ustar"] = "pax",
        linkname: Name = b"",
        size: Number | None = None,
        mode: Number = 0o644,
        uid: Number = 0,
        gid: Number = 0,
        mtime: Number | tuple[int, int] = 0,
        xattrs: Mapping[str, bytes] | None = None,
        pax: Records | None = None,
        magic: bytes | None = None,
        uname: bytes = b"",
        gname: bytes = b"",
        major: Number = 0,
        minor: Number = 0,
        checksum: bytes | None = None,
        tail: bytes | None = None,
    ) -> TarBuilder:
        """One member with the extensions that it needs.

        Args:
            path: as it shall stand in the archive.
            typeflag: one byte.
            data: content, written and padded whatever `size` says.
            long: how a path or link over 100 bytes is stored. "ustar" splits the path at a slash.
            linkname: target of a link.
            size: the header's size when it differs from the data's.
            mode: a number, or the field's bytes.
            uid: a number, or the field's bytes.
            gid: a number, or the field's bytes.
            mtime: seconds, the field's bytes, or (seconds, nanoseconds) as a pax record.
            xattrs: stored as `SCHILY.xattr.` records.
            pax: more pax records, before the ones that the other arguments ask for.
            magic: instead of the builder's.
            uname: name of the user.
            gname: name of the group.
            major: device number.
            minor: device number.
            checksum: a wrong one.
            tail: see `header`.
        """
        path, linkname = raw_name(path), raw_name(linkname)
        records: list[tuple[Name, Name]] = list(pax.items()) if isinstance(pax, Mapping) else list(pax or [])
        prefix = b""
        if len(path) > 100:
            if long == "pax":
                records.append(("path", path))
                path = path[:100]
            elif long == "gnu":
                self.gnu(GNU_LONG_NAME, path)
                path = path[:100]
            else:
                cut = path.rindex(b"/", 0, 156)
                prefix, path = path[:cut], path[cut + 1 :]
        if len(linkname) > 100:
            if long == "gnu":
                self.gnu(GNU_LONG_LINK, linkname)
            else:
                records.append(("linkpath", linkname))
            linkname = linkname[:100]
        if isinstance(mtime, tuple):
            seconds, nanoseconds = mtime
            total = seconds * 10**9 + nanoseconds
            sign = "-" if total < 0 else ""
            records.append(("mtime", f"{sign}{abs(total) // 10**9}.{abs(total) % 10**9:09d}"))
            mtime = max(seconds, 0)
        records += [(f"SCHILY.xattr.{key}", value) for key, value in (xattrs or {}).items()]
        if records:
            self.pax(records)
        self.raw(
            header(
                path,
                typeflag,
                mode=mode,
                uid=uid,
                gid=gid,
                size=len(data) if size is None else size,
                mtime=mtime,
                linkname=linkname,
                magic=self.magic if magic is None else magic,
                uname=uname,
                gname=gname,
                major=major,
                minor=minor,
                prefix=prefix,
                tail=tail,
                checksum=checksum,
            )
        )
        return self.raw(padded(data))

    def file(self, path: Name, data: bytes = b"", **fields: object) -> TarBuilder:
        """A regular file."""
        return self._typed(path, FILE, {"data": data, "mode": 0o644}, fields)

    def directory(self, path: Name, **fields: object) -> TarBuilder:
        """A directory; a slash is put after the path, but for the root's "." and "/"."""
        slashed = raw_name(path)
        slashed += b"" if slashed.endswith(b"/") else b"/"
        return self._typed(slashed, DIRECTORY, {"mode": 0o755}, fields)

    def symlink(self, path: Name, target: Name, **fields: object) -> TarBuilder:
        """A symbolic link."""
        return self._typed(path, SYMLINK, {"linkname": target, "mode": 0o777}, fields)

    def hard_link(self, path: Name, target: Name, **fields: object) -> TarBuilder:
        """Another name for a file."""
        return self._typed(path, HARD_LINK, {"linkname": target, "mode": 0o644}, fields)

    def device(
        self, path: Name, kind: Literal["char", "block"], major: int, minor: int, **fields: object
    ) -> TarBuilder:
        """A character or block device."""
        typeflag = CHAR if kind == "char" else BLOCK_DEVICE
        return self._typed(path, typeflag, {"major": major, "minor": minor, "mode": 0o600}, fields)

    def fifo(self, path: Name, **fields: object) -> TarBuilder:
        """A named pipe."""
        return self._typed(path, FIFO, {"mode": 0o600}, fields)

    def whiteout(self, path: Name, **fields: object) -> TarBuilder:
        """The whiteout that hides `path` of lower layers (image-spec, layer.md, "Whiteouts")."""
        folder, slash, name = raw_name(path).rpartition(b"/")
        return self._typed(folder + slash + b".wh." + name, FILE, {"mode": 0o644}, fields)

    def opaque(self, path: Name, **fields: object) -> TarBuilder:
        """The opaque whiteout that hides all lower children of the directory `path`."""
        return self._typed(raw_name(path).rstrip(b"/") + b"/.wh..wh..opq", FILE, {"mode": 0o644}, fields)

    def sparse(
        self,
        path: Name,
        extents: Sequence[tuple[int, bytes]],
        size: int,
        *,
        form: Literal["gnu", "0.0", "0.1", "1.0"] = "1.0",
        **fields: object,
    ) -> TarBuilder:
        """A sparse file.

        Args:
            path: its name.
            extents: offset and bytes of each piece of data, in order. Readers differ on a piece that is not a multiple
                of 512 bytes long unless it is the last, and GNU tar wants `(size, b"")` after a hole at the end.
            size: apparent size, holes included.
            form: the old GNU header, or the version of GNU's pax records.
            fields: passed on to `member`.
        """
        data = b"".join(piece for _, piece in extents)
        flat = [value for offset, piece in extents for value in (offset, len(piece))]
        if form == "gnu":
            return self._sparse_gnu(path, flat, data, size, fields)
        records: list[tuple[Name, Name]] = [("GNU.sparse.size", str(size)), ("GNU.sparse.numblocks", str(len(extents)))]
        if form == "0.0":
            keys = ("GNU.sparse.offset", "GNU.sparse.numbytes")
            records += [(keys[index % 2], str(value)) for index, value in enumerate(flat)]
            return self._typed(path, FILE, {"data": data, "pax": records}, fields)
        records.append(("GNU.sparse.name", path))
        if form == "0.1":
            records.append(("GNU.sparse.map", ",".join(map(str, flat))))
        else:
            records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", path)]
            records.append(("GNU.sparse.realsize", str(size)))
            table = "".join(f"{value}\n" for value in [len(extents), *flat])
            data = padded(table.encode()) + data
        return self._typed(b"GNUSparseFile.0/file", FILE, {"data": data, "pax": records}, fields)

    def end(self, blocks: int = 2) -> TarBuilder:
        """Zero blocks; two of them end an archive."""
        return self.raw(bytes(BLOCK * blocks))

    def build(self, *, end: bool = True) -> bytes:
        """The archive, with the two blocks that end it unless told otherwise. The builder can go on."""
        return bytes(self.buffer) + (bytes(2 * BLOCK) if end else b"")

    def _sparse_gnu(self, path: Name, flat: list[int], data: bytes, size: int, fields: dict[str, object]) -> TarBuilder:
        def entries(values: list[int]) -> bytes:
            return b"".join(number(value, 12) for value in values)

        more = [flat[start : start + 42] for start in range(8, len(flat), 42)]
        tail = bytes(41) + entries(flat[:8]).ljust(96, b"\x00") + (b"\x01" if more else b"\x00") + number(size, 12)
        blocks = b"".join(
            entries(values).ljust(504, b"\x00") + (b"\x01" if index + 1 < len(more) else b"\x00") + bytes(7)
            for index, values in enumerate(more)
        )
        self._typed(path, GNU_SPARSE, {"size": len(data), "magic": GNU, "tail": tail}, fields)
        return self.raw(blocks + padded(data))

    def _typed(self, path: Name, typeflag: bytes, defaults: dict[str, object], fields: dict[str, object]) -> TarBuilder:
        return self.member(path, typeflag, **{**defaults, **fields})  # type: ignore[arg-type]

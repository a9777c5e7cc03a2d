"""disk: a disk image with a table of partitions: the root filesystem, its dm-verity tree, and room for data."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from ocifast import _core
from ocifast.atomic import reported
from ocifast.file_data import copy_part, write_all
from ocifast.layered import Store
from ocifast.packers.backend import Backend, Format
from ocifast.packers.erofs import FORMAT as EROFS
from ocifast.packers.ext4 import FORMAT as EXT4
from ocifast.packers.gpt import LINUX_DATA, READ_ONLY, ROOT_TYPES, Partition, tables
from ocifast.packers.options import DiskOptions, FormatOptions
from ocifast.packers.request import FileTarget, WriteRequest, Written
from ocifast.packers.squashfs import FORMAT as SQUASHFS
from ocifast.packers.uuids import image_uuid

__all__ = ["FORMAT"]

_MIB = 1 << 20
_ROOTS: dict[str, Format] = {form.name: form for form in (EROFS, SQUASHFS, EXT4)}


class _Disk(Backend[DiskOptions]):
    """The core's writers, and a table around them."""

    name = "disk"

    def store(self, options: DiskOptions, threads: int) -> Store:
        backend, own = _root(options)
        return backend.store(own, threads)

    def version(self) -> str | None:
        return ", ".join(["1", *(f"{name} {form.backends[0].version()}" for name, form in _ROOTS.items())])

    def tells(self, options: DiskOptions) -> bool:
        backend, own = _root(options)
        return backend.tells(own)

    def write(self, request: WriteRequest[DiskOptions]) -> Written:
        with reported(request.path):
            return self._write(request)

    def _write(self, request: WriteRequest[DiskOptions]) -> Written:
        options = request.options
        backend, own = _root(options)
        root = request.folder / "root"
        scratch = request.folder / "root-packer"
        scratch.mkdir(mode=0o700)
        inner: WriteRequest[Any] = replace(request, target=FileTarget(root), folder=scratch)
        written = backend.write(replace(inner, options=own))
        pieces = [(root, 0, root.stat().st_size)]
        properties = dict(written.properties)
        root_hash = b""
        if options.root != "ext4":
            root_hash, offset, _ = _core.seal_verity(
                root, salt=_salt(request.digest), uuid=_named(request.digest, "verity").bytes, threads=request.threads
            )
            pieces = [(root, 0, offset), (root, offset, root.stat().st_size - offset)]
            properties["root_hash"] = bytes(root_hash).hex()
        if options.data_size is not None:
            pieces.append((self._data(request, options.data_size), 0, options.data_size))
        align = max(options.align or 0, _MIB)
        partitions, at = [], align
        for (_, _, size), (kind, identity, name, attributes) in zip(
            pieces, _kinds(request, bytes(root_hash)), strict=False
        ):
            partitions.append(Partition(kind, identity, name, at, -(-size // 4096) * 4096, attributes))
            at = -(-(at + size) // align) * align
        # Behind the last one the table stands again.
        size = at + align
        with request.path.open("xb+") as disk:
            os.fchmod(disk.fileno(), 0o600)
            disk.truncate(size)
            for (path, begin, length), partition in zip(pieces, partitions, strict=True):
                with path.open("rb") as source:
                    copy_part(source.fileno(), begin, length, disk.fileno(), partition.start)
            first, last = tables(_named(request.digest, "disk"), size, partitions)
            write_all(disk.fileno(), first, 0)
            write_all(disk.fileno(), last, size - len(last))
        for number, partition in enumerate(partitions, 1):
            properties[f"partition_{number}"] = (
                f"{partition.name} {partition.identity} {partition.start} {partition.size}"
            )
        return Written(size, written.losses, properties)

    def _data(self, request: WriteRequest[DiskOptions], size: int) -> Path:
        """An empty ext4."""
        path, folder = request.folder / "data", request.folder / "nothing"
        folder.mkdir(mode=0o700)
        flattener = _core.Flattener([], store="spool", folder=folder)
        with path.open("xb+") as file:
            flattener.finish().write_ext4(
                file.fileno(),
                uuid=_named(request.digest, "data").bytes,
                created=request.created,
                size=size,
                journal=True,
            )
        return path


def _root(options: DiskOptions) -> tuple[Backend[Any], FormatOptions]:
    """What writes the root filesystem, and its options."""
    return _ROOTS[options.root].backends[0], options.make_root()


def _kinds(request: WriteRequest[DiskOptions], root_hash: bytes) -> list[tuple[str, uuid.UUID, str, int]]:
    """Type, UUID, name and attributes of each partition."""
    architecture = (request.platform or "").split("/")[1:2]
    types = ROOT_TYPES.get(architecture[0]) if architecture else None
    name = f"root-{types.name}" if types else "root"
    kinds = []
    if root_hash:
        # Who knows the root hash finds both partitions (DPS, "Partition UUIDs").
        kinds.append((types.root if types else LINUX_DATA, uuid.UUID(bytes=root_hash[:16]), name, READ_ONLY))
        verity = types.verity if types else LINUX_DATA
        kinds.append((verity, uuid.UUID(bytes=root_hash[16:]), f"{name}-verity", READ_ONLY))
    else:
        kinds.append((types.root if types else LINUX_DATA, _named(request.digest, "root"), name, 0))
    return [*kinds, (LINUX_DATA, _named(request.digest, "data"), "data", 0)]


def _named(digest: str, what: str) -> uuid.UUID:
    return image_uuid(f"{digest}, {what} of a disk")


def _salt(digest: str) -> bytes:
    return bytes.fromhex(_core.digest(f"{digest}, salt of a disk".encode()).partition(":")[2])


FORMAT = Format("disk", DiskOptions, (_Disk(),))

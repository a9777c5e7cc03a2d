"""disk: a disk image with a table of partitions: what boots, the root filesystem, its dm-verity tree, room for data."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from ocifast import _core
from ocifast.atomic import reported
from ocifast.errors import OutputUnsupportedError
from ocifast.file_data import copy_part, write_all
from ocifast.layered import Store
from ocifast.packers.backend import Backend, Format
from ocifast.packers.erofs import FORMAT as EROFS
from ocifast.packers.esp import StagedBoot, command_line, stage_boot
from ocifast.packers.ext4 import FORMAT as EXT4
from ocifast.packers.fat import fat_size, write_fat
from ocifast.packers.gpt import EFI_SYSTEM, LINUX_DATA, READ_ONLY, ROOT_TYPES, Partition, tables
from ocifast.packers.kernels import find_boot
from ocifast.packers.options import DiskOptions, FormatOptions
from ocifast.packers.request import FileTarget, WriteRequest, Written
from ocifast.packers.squashfs import FORMAT as SQUASHFS
from ocifast.packers.uuids import image_uuid
from ocifast.records import dataclass

__all__ = ["FORMAT"]

_MIB = 1 << 20
_ESP_DEFAULT = 64 << 20
_ROOTS: dict[str, Format] = {form.name: form for form in (EROFS, SQUASHFS, EXT4)}


class _Disk(Backend[DiskOptions]):
    """The core's writers, and a table around them."""

    name = "disk"

    def store(self, options: DiskOptions, threads: int) -> Store:
        backend, own = _root(options)
        return backend.store(own, threads)

    def version(self) -> str | None:
        return ", ".join(["2", *(f"{name} {form.backends[0].version()}" for name, form in _ROOTS.items())])

    def tells(self, options: DiskOptions) -> bool:
        backend, own = _root(options)
        return backend.tells(own)

    def write(self, request: WriteRequest[DiskOptions]) -> Written:
        with reported(request.path):
            return self._write(request)

    def _write(self, request: WriteRequest[DiskOptions]) -> Written:
        options = request.options
        # First, so that what is not there costs no work.
        boot = self._boot(request)
        parts, root_hash, written = self._root(request)
        words = command_line(options.cmdline, root=options.root, root_hash=root_hash.hex(), partition=parts[0].identity)
        properties = {**written.properties, "cmdline": words}
        if root_hash:
            properties["root_hash"] = root_hash.hex()
        if boot is not None:
            name, found = boot.first
            properties["kernel"] = boot.described(name, found)
            properties["kernel_version"] = found.version
            if options.has_esp:
                parts.insert(0, _esp_part(request, boot.partition(options, words)))
        if options.data_size is not None:
            identity = _named(request.digest, "data")
            data = self._data(request, options.data_size)
            parts.append(_Partition(LINUX_DATA, identity, "data", options.data_size, source=data))
        align = max(options.align or 0, _MIB)
        partitions, at = [], align
        for part in parts:
            kept = -(-part.size // 4096) * 4096
            partitions.append(Partition(part.type, part.identity, part.name, at, kept, part.attributes))
            at = -(-(at + part.size) // align) * align
        # Behind the last one the table stands again.
        size = at + align
        with request.path.open("xb+") as disk:
            os.fchmod(disk.fileno(), 0o600)
            disk.truncate(size)
            for part, partition in zip(parts, partitions, strict=True):
                part.write(disk.fileno(), partition.start, request)
            first, last = tables(_named(request.digest, "disk"), size, partitions)
            write_all(disk.fileno(), first, 0)
            write_all(disk.fileno(), last, size - len(last))
        for number, partition in enumerate(partitions, 1):
            properties[f"partition_{number}"] = (
                f"{partition.name} {partition.identity} {partition.start} {partition.size}"
            )
        if boot is not None and request.kernel_folder is not None:
            boot.set_aside(request.kernel_folder, words)
        return Written(size, written.losses, properties)

    def _boot(self, request: WriteRequest[DiskOptions]) -> StagedBoot | None:
        """What there is to boot, where anything takes it; looked at so far as can be before the root is written."""
        options = request.options
        if not options.has_esp and request.kernel_folder is None:
            return None
        boot = find_boot(
            request.tree,
            kernel=options.kernel,
            initrd=options.initrd,
            loader=options.boot_loader,
            architecture=_architecture(request),
        )
        folder = request.folder / "boot"
        folder.mkdir(mode=0o700)
        staged = stage_boot(boot, folder, request.files)
        if options.has_esp:
            files = staged.partition(options, options.cmdline or "")
            if options.esp_size is not None and (least := fat_size(files, spare=0.0)) > options.esp_size:
                raise OutputUnsupportedError(
                    f"an EFI system partition of {options.esp_size} bytes is too small for what boots: {least} bytes "
                    "are needed; choose another --esp-size, or leave it out"
                )
        return staged

    def _root(self, request: WriteRequest[DiskOptions]) -> tuple[list[_Partition], bytes, Written]:
        """Writes the root filesystem, and its hash tree behind it, whose root hash is empty for ext4."""
        backend, own = _root(request.options)
        root = request.folder / "root"
        scratch = request.folder / "root-packer"
        scratch.mkdir(mode=0o700)
        inner: WriteRequest[Any] = replace(request, target=FileTarget(root), folder=scratch)
        written = backend.write(replace(inner, options=own))
        root_hash, offset = b"", 0
        if request.options.root != "ext4":
            found, offset, _ = _core.seal_verity(
                root, salt=_salt(request.digest), uuid=_named(request.digest, "verity").bytes, threads=request.threads
            )
            root_hash = bytes(found)
        return _root_parts(request, root, offset, root_hash), root_hash, written

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


@dataclass(frozen=True)
class _Partition:
    """A partition and its content: a part of a file, or files for a file system of their own.

    Attributes:
        type: as of `Partition`, as those that follow.
        identity: see there.
        name: see there.
        size: bytes.
        attributes: see there.
        source: the file, from `begin` on.
        begin: first byte of it.
        files: of an EFI system partition.
    """

    type: str
    identity: uuid.UUID
    name: str
    size: int
    attributes: int = 0
    source: Path | None = None
    begin: int = 0
    files: Mapping[str, bytes | Path] = field(default_factory=dict)

    def write(self, disk: int, start: int, request: WriteRequest[DiskOptions]) -> None:
        """Writes it to its place on a disk. Raises OSError, OutputUnsupportedError."""
        if self.source is not None:
            with self.source.open("rb") as source:
                copy_part(source.fileno(), self.begin, self.size, disk, start)
            return
        volume = int.from_bytes(self.identity.bytes[:4], "big")
        write_fat(disk, start, self.size, self.files, volume_id=volume, label="ESP", seconds=request.created)


def _root_parts(request: WriteRequest[DiskOptions], root: Path, offset: int, root_hash: bytes) -> list[_Partition]:
    """The root filesystem, and its hash tree if it has one."""
    types = ROOT_TYPES.get(_architecture(request) or "")
    name, kind = (f"root-{types.name}", types.root) if types else ("root", LINUX_DATA)
    size = root.stat().st_size
    if not root_hash:
        return [_Partition(kind, _named(request.digest, "root"), name, size, source=root)]
    # Their UUIDs are made of the root hash, by which both are found (DPS, "Partition UUIDs").
    data, tree = uuid.UUID(bytes=root_hash[:16]), uuid.UUID(bytes=root_hash[16:])
    return [
        _Partition(kind, data, name, offset, READ_ONLY, root),
        _Partition(
            types.verity if types else LINUX_DATA, tree, f"{name}-verity", size - offset, READ_ONLY, root, offset
        ),
    ]


def _esp_part(request: WriteRequest[DiskOptions], files: Mapping[str, bytes | Path]) -> _Partition:
    """The EFI system partition, with room for what it holds once more, for what replaces it some day."""
    size = request.options.esp_size or max(_ESP_DEFAULT, fat_size(files))
    return _Partition(EFI_SYSTEM, _named(request.digest, "esp"), "esp", size, files=files)


def _architecture(request: WriteRequest[DiskOptions]) -> str | None:
    return next(iter((request.platform or "").split("/")[1:2]), None)


def _named(digest: str, what: str) -> uuid.UUID:
    return image_uuid(f"{digest}, {what} of a disk")


def _salt(digest: str) -> bytes:
    return bytes.fromhex(_core.digest(f"{digest}, salt of a disk".encode()).partition(":")[2])


FORMAT = Format("disk", DiskOptions, (_Disk(),))

"""layers: an erofs image of metadata whose data are in the images of its layers, each of them there once.

The layers are decoded ones (`ocifast.cache.layers`), which the run has put into the output (`ocifast.layer_folder`).
This module writes the image that joins them, and the files that say how they belong together.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from ocifast import _core
from ocifast.atomic import reported
from ocifast.digests import OpenFile, digest_of
from ocifast.errors import UsageError
from ocifast.layer_folder import layer_path
from ocifast.models import readable
from ocifast.packers.backend import Backend, Format
from ocifast.packers.losses import summarize
from ocifast.packers.options import LayersOptions
from ocifast.packers.request import WriteRequest, Written
from ocifast.packers.uuids import image_uuid

__all__ = ["FORMAT"]

_BLOCK = 4096
_SECTOR = 512


@readable
class _Device(msgspec.Struct, frozen=True):
    """A device as `NAME.json` has it.

    Attributes:
        path: below the output.
        diff_id: of the layer that it has data of.
        digest: of a private file's bytes; None for a layer, which its diff ID names.
        size: bytes of the file that are the device, from its first on.
        first_block: where it begins behind the metadata, in blocks of 4096 bytes, where all are one disk.
    """

    path: str
    diff_id: str
    digest: str | None
    size: int
    first_block: int


class _LayersBackend(Backend[LayersOptions]):
    """The core's writer."""

    name = "layers"

    def version(self) -> str | None:
        return "1"

    def write(self, request: WriteRequest[LayersOptions]) -> Written:
        if not request.layers:
            raise UsageError("layers are written while an image is compiled, and not of a tree that is there")
        with reported(request.path):
            return self._write(request)

    def _write(self, request: WriteRequest[LayersOptions]) -> Written:
        tree, folder, uuid = request.tree, request.path, image_uuid(request.digest)
        folder.mkdir(mode=0o700)
        single, name = bool(request.options.single), request.options.name or "image"
        found = [
            (layer, dead, _Device(layer_path(request.layers[layer]), request.layers[layer], None, size, 0))
            for layer, size, dead in _core.layers_in_use(tree)
        ]
        # One file that mounts alone has no data but those of the tree.
        private = [layer for layer, dead, _ in found if dead and request.leaves_out and not single]
        files = _private(tree, private, folder)
        devices: dict[str, tuple[list[int], _Device]] = {}
        for layer, _, device in found:
            if layer in files:
                path, digest = files[layer]
                device = msgspec.structs.replace(device, path=path, digest=digest)
            devices.setdefault(device.path, ([], device))[0].append(layer)
        tags = [
            (layers, (device.digest or device.diff_id).partition(":")[2][:64]) for layers, device in devices.values()
        ]
        with (folder / f"{name}.erofs").open("xb+") as image:
            os.fchmod(image.fileno(), 0o600)
            size, losses, bases = _core.write_layered_erofs(
                tree,
                image.fileno(),
                devices=tags,
                uuid=uuid.bytes,
                created=request.created,
                single=single,
                clamp_mtime=request.clamp_mtime,
            )
        placed = [
            msgspec.structs.replace(device, first_block=base)
            for (_, device), base in zip(devices.values(), bases, strict=True)
        ]
        if not single:
            _write(folder / f"{name}.table", _table(name, size, placed).encode())
            _write(folder / f"{name}.vmdk", _vmdk(name, size, placed, uuid.hex).encode())
        _write(folder / f"{name}.json", msgspec.json.encode(_description(name, size, placed, single=single)))
        properties = {"uuid": str(uuid), "devices": str(0 if single else len(placed)), "metadata_bytes": str(size)}
        return Written(None, tuple(summarize(losses)), properties)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)


def _private(tree: _core.Tree, layers: list[int], folder: Path) -> dict[int, tuple[str, str]]:
    """Writes layers without what is not in the tree: what was left out must not be in a file that is handed on.

    Returns:
        For each its path below the folder, and its digest.
    """
    place = folder / "layers/private"
    with ExitStack() as stack:
        files = []
        for layer in layers:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = stack.enter_context((place / f"layer-{layer}").open("xb+"))
            os.fchmod(file.fileno(), 0o400)
            files.append((layer, file))
        _core.write_private_layers(tree, [(layer, file.fileno()) for layer, file in files])
        named = {}
        for layer, file in files:
            digest = digest_of(OpenFile(file.fileno()))
            named[layer] = (f"layers/private/{digest.partition(':')[2]}.data", digest)
            (place / f"layer-{layer}").rename(folder / named[layer][0])
    return named


def _description(name: str, size: int, devices: list[_Device], *, single: bool) -> dict[str, Any]:
    # A mount(8) makes a loop device of an image, and then its devices must be such as well.
    loops = ",".join(f"device=$(losetup --find --show --read-only {device.path})" for device in devices)
    options = "ro" if single or not devices else f"ro,{loops}"
    return {
        "image": f"{name}.erofs",
        "size": size,
        "single": single,
        "devices": devices,
        "mount": f"mount -t erofs -o {options} {name}.erofs MOUNTPOINT",
    }


def _table(name: str, size: int, devices: list[_Device]) -> str:
    """A device-mapper table of linear targets: each file's name stands for the device that has it."""
    lines = [f"0 {size // _SECTOR} linear {name}.erofs 0"]
    for device in devices:
        begin = device.first_block * _BLOCK // _SECTOR
        lines.append(f"{begin} {device.size // _SECTOR} linear {device.path} 0")
    return "".join(f"{line}\n" for line in lines)


def _vmdk(name: str, size: int, devices: list[_Device], made_of: str) -> str:
    """A disk of the same extents (VMware, Virtual Disk Format 5.0, "The Descriptor File")."""
    extents = [(size, f"{name}.erofs"), *((device.size, device.path) for device in devices)]
    lines = [f'RW {length // _SECTOR} FLAT "{path}" 0' for length, path in extents]
    # The content of the disk is named by what made it; a monitor compares it with that of snapshots.
    return "\n".join(
        [
            "# Disk DescriptorFile",
            "version=1",
            f"CID={made_of[:8]}",
            "parentCID=ffffffff",
            'createType="twoGbMaxExtentFlat"',
            "",
            "# Extent description",
            *lines,
            "",
            "# The Disk Data Base",
            "#DDB",
            'ddb.virtualHWVersion = "4"',
            'ddb.adapterType = "lsilogic"',
            "",
        ]
    )


FORMAT = Format("layers", LayersOptions, (_LayersBackend(),), is_directory=True, has_layers=True)

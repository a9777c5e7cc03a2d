"""verity: dm-verity's hash tree behind an image, so that a kernel refuses every block that is not the image's.

(Linux, Documentation/admin-guide/device-mapper/verity.rst; superblock and tree as `veritysetup format` makes them.)
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, fields

from ocifast import _core
from ocifast.errors import CancelledError
from ocifast.records import dataclass
from ocifast.seals import Seal, SealRequest

__all__ = ["SEAL", "Verity"]

_BLOCK = 4096
_SECTOR = 512
_NAMESPACE = "ocifast, dm-verity, "


def _apply(request: SealRequest) -> Mapping[str, str]:
    # From the digest alone: the same image gives the same bytes, and no two images have trees in common.
    salt = bytes.fromhex(_core.digest(f"{_NAMESPACE}salt, {request.digest}".encode()).partition(":")[2])
    name = uuid.uuid5(uuid.NAMESPACE_OID, f"{_NAMESPACE}{request.digest}")

    def tell(done: int, total: int) -> None:
        if request.cancelled():
            raise CancelledError("the work was called off")

    root, offset, blocks = _core.seal_verity(
        request.path, salt=salt, uuid=name.bytes, threads=request.threads, progress=tell
    )
    return {
        "root_hash": bytes(root).hex(),
        "hash_offset": str(offset),
        "data_blocks": str(blocks),
        "verity_salt": salt.hex(),
        "verity_uuid": str(name),
    }


@dataclass(frozen=True)
class Verity:
    """What opens a sealed image.

    Attributes:
        root_hash: in hexadecimal; who knows it knows every byte of the image.
        hash_offset: where the superblock stands behind the data, in bytes.
        data_blocks: of 4096 bytes.
        salt: in hexadecimal.
        uuid: in the superblock.
    """

    root_hash: str
    hash_offset: int
    data_blocks: int
    salt: str
    uuid: str

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> Verity | None:
        """Out of the properties of an output; None of one that was not sealed."""
        if "hash_offset" not in properties:
            return None
        numbers = int(properties["hash_offset"]), int(properties["data_blocks"])
        return cls(properties["root_hash"], *numbers, properties["verity_salt"], properties["verity_uuid"])

    def to_json(self) -> dict[str, str | int]:
        """The same as JSON-able data, with what is the same for all: `algorithm`, and `block_size` in bytes."""
        return {**asdict(self), "algorithm": "sha256", "block_size": _BLOCK}

    @classmethod
    def from_json(cls, data: Mapping[str, str | int]) -> Verity:
        """From what `to_json` gave."""
        return cls(**{each.name: data[each.name] for each in fields(cls)})  # type: ignore[arg-type]

    def table(self, device: str) -> str:
        """The line of a device-mapper table, for `dmsetup create`, or for a kernel's `dm-mod.create=`.

        Args:
            device: that holds the image and its tree.
        """
        words = [0, self.data_blocks * _BLOCK // _SECTOR, "verity", 1, device, device, _BLOCK, _BLOCK, self.data_blocks]
        # The tree begins one block behind the superblock.
        words += [self.hash_offset // _BLOCK + 1, "sha256", self.root_hash, self.salt]
        return " ".join(map(str, words))


SEAL = Seal(
    name="verity",
    version="1",
    formats=frozenset({"erofs", "ext4", "squashfs"}),
    apply=_apply,
    about="Append dm-verity's hash tree, whose root hash is printed.",
)

"""What a user changes in an image on its way to a filesystem: files added, paths left out, owners changed.

Edits are a value. Added files are one more layer on top and go through the same merge as the image's own; what is left
out and who owns what is decided in the finished tree, once, before anyone reads it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ocifast import _core
from ocifast.digests import digest_and_size
from ocifast.errors import FileError, OcifastError, UsageError
from ocifast.layers.members import Describe, Member, destination, file_member, link_member, tree_members
from ocifast.marks import changes_bytes
from ocifast.records import dataclass
from ocifast.sources import FileSlice
from ocifast.spec import OCI_LAYER, Descriptor

__all__ = ["Addition", "Edits", "MadeLayer", "PreparedEdits", "prepare"]

_ID_MAX = (1 << 32) - 2
"""The highest id; the one above means "none" to the kernel (credentials(7))."""


@dataclass(frozen=True)
class Addition:
    """A file, a folder or a symbolic link that is added.

    Attributes:
        source: on this machine. A symbolic link is added as a link. A folder with a slash at its end stands for what is
            in it.
        target: an absolute path in the image; with a slash at its end the source goes inside, under its own name.
            Folders that are missing on the way are made (0755, owner 0:0).
        mode: permission bits of the file, or of every file in the folder; None for those that they have here, without
            set-id bits.
        owner: user and group of all that is added.
        keep_mtime: whether modification times are those of this machine; else they are the image's (`Edits`).
    """

    source: str
    target: str
    mode: int | None = changes_bytes(None, told_by="edits")
    owner: tuple[int, int] = changes_bytes((0, 0), told_by="edits")
    keep_mtime: bool = changes_bytes(False, told_by="edits")

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", os.fspath(self.source))
        if self.mode is not None and not 0 <= self.mode <= 0o7777:
            raise UsageError(f"{self.source}: a mode is at most 7777, in octal, not {self.mode:o}")
        _check_ids(self.source, self.owner)

    def members(self, time: int) -> list[Member]:
        """What it puts into a layer; `time` in seconds since 1970 is its modification time.

        Raises:
            UsageError: a target that is no plain path, a device, a socket or a FIFO, a name that would delete files.
            FileError: something cannot be read.
        """
        path, inside = Path(self.source), destination(self.source, self.target)
        describe = self._describe(time)
        if path.is_symlink() and not self.source.endswith("/"):
            return [link_member(path, inside, describe)]
        if path.is_dir():
            return list(tree_members(path, inside, describe))
        if not inside:
            raise UsageError(f"{path} cannot take the place of the root folder")
        return [file_member(path, inside, describe)]

    def _describe(self, time: int) -> Describe:
        def describe(kind: str, status: os.stat_result) -> dict[str, Any]:
            mode = 0o777 if kind == "symlink" else stat.S_IMODE(status.st_mode) & 0o1777
            if kind == "file" and self.mode is not None:
                mode = self.mode
            mtime = divmod(status.st_mtime_ns, 1_000_000_000) if self.keep_mtime else (time, 0)
            return {"mode": mode, "uid": self.owner[0], "gid": self.owner[1], "mtime": mtime}

        return describe


@dataclass(frozen=True)
class Edits:
    """Changes to an image. Plain data: it can be pickled and compared. Made in the order of the fields.

    Times of what is added come from `SOURCE_DATE_EPOCH` or else from the image, so that the same edits give the same
    bytes on any day.

    Attributes:
        add: what is added, as `Addition` or as a pair of source and target. An added folder keeps what the image has
            there; a file takes a file's place, and no directory's.
        layers: tar files (plain, gzip or zstd) that are applied on top as image layers are, whiteouts and all; "-" is
            standard input. They come above what `add` adds.
        exclude: patterns of gitignore(5) relative to the image's root; a later one outweighs earlier ones, `!` takes
            back. Nothing of what is left out stands in the output.
        subtree: the directory of the image that becomes the root.
        mount_points: whether `/dev`, `/proc`, `/run`, `/sys` and `/tmp` are made where they are missing.
        owner: user and group of everything. Set-id bits fall away where the owner changes.
        id_offset: added to every user and group number, also in access control lists and file capabilities.

    Raises:
        UsageError: an id that is none.
    """

    add: Sequence[Addition | tuple[str | os.PathLike[str], str]] = changes_bytes((), told_by="edits")
    layers: Sequence[str | os.PathLike[str]] = changes_bytes((), told_by="edits")
    exclude: Sequence[str] = changes_bytes((), told_by="edits")
    subtree: str | None = changes_bytes(None, told_by="edits")
    mount_points: bool = changes_bytes(False, told_by="edits")
    owner: tuple[int, int] | None = changes_bytes(None, told_by="edits")
    id_offset: int = changes_bytes(0, told_by="edits")

    def __post_init__(self) -> None:
        added = (item if isinstance(item, Addition) else Addition(os.fspath(item[0]), item[1]) for item in self.add)
        object.__setattr__(self, "add", tuple(added))
        object.__setattr__(self, "layers", tuple(os.fspath(layer) for layer in self.layers))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if self.owner is not None:
            _check_ids("owner", self.owner)
        if not 0 <= self.id_offset <= _ID_MAX:
            raise UsageError(f"an offset of ids is 0 to {_ID_MAX}, not {self.id_offset}")
        if list(self.layers).count("-") > 1:
            raise UsageError("standard input can be one layer, not several")

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return self != Edits()


@dataclass(frozen=True)
class MadeLayer:
    """A layer that is no part of the image.

    Attributes:
        name: how messages call it.
        file: its blob.
        descriptor: of the blob.
        diff_id: of the tar.
        added: whether it follows the rules of `Edits.add` rather than those of an image's layer.
    """

    name: str
    file: FileSlice
    descriptor: Descriptor
    diff_id: str
    added: bool


@dataclass(frozen=True)
class PreparedEdits:
    """Edits whose files were read.

    Attributes:
        layers: what comes on top of the image's layers, bottom layer first.
        edit: for the core; what is done to the finished tree.
        digest: of all that the edits are, contents of files included: equal digests make equal changes.
    """

    layers: tuple[MadeLayer, ...]
    edit: _core.Edit
    digest: str

    def image_digest(self, image: str) -> str:
        """A digest for the image with these edits, from the image's own."""
        return _core.digest(f"{image}\n{self.digest}\n".encode())


def prepare(edits: Edits, folder: Path, *, time: int) -> PreparedEdits:
    """Reads what is added and gives it the form of layers.

    Args:
        edits: what to change.
        folder: an existing private folder, for the layers; it must last as long as they are read.
        time: seconds since 1970, of what is added.

    Raises:
        UsageError, FileError: something cannot be added; the message names it.
    """
    layers = []
    if edits.add:
        layers.append(_added(edits, folder, time))
    layers += [_tar(os.fspath(path), folder, number) for number, path in enumerate(edits.layers)]
    edit = _core.Edit(
        exclude=list(edits.exclude),
        subtree=None if edits.subtree is None else os.fsencode(edits.subtree),
        mount_points=time if edits.mount_points else None,
        owner=edits.owner,
        id_offset=edits.id_offset,
    )
    told = {
        "layers": [[layer.diff_id, layer.added] for layer in layers],
        "exclude": list(edits.exclude),
        "subtree": None if edits.subtree is None else os.fsencode(edits.subtree).hex(),
        "mount_points": time if edits.mount_points else None,
        "owner": edits.owner,
        "id_offset": edits.id_offset,
    }
    # Not imported before it is needed: most images are not edited.
    import json

    return PreparedEdits(tuple(layers), edit, _core.digest(json.dumps(told, sort_keys=True).encode()))


def _added(edits: Edits, folder: Path, time: int) -> MadeLayer:
    found: dict[str, Member] = {}
    for addition in edits.add:
        assert isinstance(addition, Addition)
        for member in addition.members(time):
            other = found.setdefault(member.path, member)
            if other != member and (other.kind, member.kind) != ("directory", "directory"):
                raise UsageError(f"two files want to be /{member.path} in the image")
    members = sorted(found.values(), key=lambda member: os.fsencode(member.path).split(b"/"))
    path = folder / "added.tar"
    with _reported(path), path.open("xb") as file:
        digest, size, diff_id = _core.write_layer(
            [member.row() for member in members], file.fileno(), 0, compression="none", level=0
        )
    return MadeLayer("added files", FileSlice(path, 0, size), Descriptor(OCI_LAYER, digest, size), diff_id, added=True)


def _tar(name: str, folder: Path, number: int) -> MadeLayer:
    """A layer of the user's: read once for its digests, which also tell whether it changes until it is used."""
    source = Path(name)
    title = "the layer from standard input" if name == "-" else name
    path = source
    with _reported(title), sys.stdin.buffer if name == "-" else source.open("rb") as file:
        if name == "-" or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            path = folder / f"layer-{number}"
            with path.open("xb") as spooled:
                import shutil

                shutil.copyfileobj(file, spooled, 1 << 20)
    with _reported(title), path.open("rb") as file, open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        digest, size = digest_and_size(file)
        file.seek(0)
        try:
            diff_id, _ = _core.decompress(file.fileno(), nowhere.fileno())
        except OcifastError as error:
            raise error.about(title) from None
    descriptor = Descriptor(OCI_LAYER, digest, size)
    return MadeLayer(title, FileSlice(path, 0, size), descriptor, diff_id, added=False)


def _check_ids(what: str, owner: tuple[int, int]) -> None:
    for number in owner:
        if not 0 <= number <= _ID_MAX:
            raise UsageError(f"{what}: {number} is no id of a user or group; they are 0 to {_ID_MAX}")


@contextlib.contextmanager
def _reported(what: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{what}: {error.strerror}", path=str(what)) from None

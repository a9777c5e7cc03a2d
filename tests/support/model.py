"""The merge of layers as a naive model: a dictionary from paths to inodes, every question answered by a scan.

Written from the words of image-spec, layer.md, and of `docs/architecture.md`, not from the code: it shares nothing with
it but the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.support.layers import TarBuilder
from tests.support.oracle import Node, format_dump

Path = tuple[bytes, ...]
LINKS_MAX = 40


class RefusedError(Exception):
    """The model takes no such image: a parent is no directory, or a hard link leads nowhere."""


@dataclass(frozen=True)
class Member:
    """One member of a layer: what the tar holds and what the model sees.

    Attributes:
        kind: "file", "directory", "symlink", "link" (a hard link), "fifo", "whiteout" or "opaque".
        path: components.
        mode: permission bits.
        target: of links.
        data: of files.
    """

    kind: str
    path: Path
    mode: int = 0o644
    target: bytes = b""
    data: bytes = b""


@dataclass(eq=False)
class Inode:
    """A file of the model; names share it by identity."""

    kind: str
    mode: int
    target: bytes = b""
    data: bytes = b""


def as_tar(members: Sequence[Member]) -> TarBuilder:
    """The layer as an archive."""
    tar = TarBuilder()
    for member in members:
        name = b"/".join(member.path)
        match member.kind:
            case "file":
                tar.file(name, member.data, mode=member.mode)
            case "directory":
                tar.directory(name, mode=member.mode)
            case "symlink":
                tar.symlink(name, member.target, mode=member.mode)
            case "link":
                tar.hard_link(name, member.target)
            case "fifo":
                tar.fifo(name, mode=member.mode)
            case "whiteout":
                tar.whiteout(name)
            case _:
                tar.opaque(name)
    return tar


class Model:
    """The tree so far."""

    def __init__(self) -> None:
        self.names: dict[Path, Inode] = {(): Inode("directory", 0o755)}

    def resolve(self, path: Path, *, follow_last: bool, create: bool, followed: int = 0) -> Path | None:
        """The path without links; None when something is missing and is not to be created."""
        at: Path = ()
        for index, name in enumerate(path):
            if name in (b"", b"."):
                continue
            if name == b"..":
                at = at[:-1]
                continue
            here = (*at, name)
            inode = self.names.get(here)
            if inode is None:
                if not create:
                    return None
                if self.names[at].kind != "directory":
                    raise RefusedError
                self.names[here] = inode = Inode("directory", 0o755)
            rest = path[index + 1 :]
            if inode.kind == "symlink" and (rest or follow_last):
                if followed == LINKS_MAX:
                    raise RefusedError
                base = () if inode.target.startswith(b"/") else at
                longer = (*base, *inode.target.split(b"/"), *rest)
                return self.resolve(longer, follow_last=follow_last, create=create, followed=followed + 1)
            at = here
        return at

    def remove(self, path: Path, *, itself: bool = True) -> None:
        """Takes a path and all below it away, or only what is below it."""
        for name in list(self.names):
            if name[: len(path)] == path and (itself or name != path):
                del self.names[name]

    def apply(self, members: Sequence[Member]) -> None:
        """One layer: what it hides of the lower ones first, then what it brings."""
        lower = dict(self.names)
        for member in members:
            if member.kind == "whiteout":
                parent = self.resolve(member.path[:-1], follow_last=True, create=False)
                if parent is not None:
                    self.remove((*parent, member.path[-1]))
            elif member.kind == "opaque":
                directory = self.resolve(member.path, follow_last=True, create=False)
                if directory is not None:
                    self.remove(directory, itself=False)
        for member in members:
            if member.kind not in ("whiteout", "opaque"):
                self._put(member, lower)

    def _put(self, member: Member, lower: dict[Path, Inode]) -> None:
        parent = self.resolve(member.path[:-1], follow_last=True, create=True)
        assert parent is not None
        if self.names[parent].kind != "directory":
            raise RefusedError
        path = (*parent, member.path[-1])
        there = self.names.get(path)
        if member.kind == "link":
            inode = self._target(member, lower)
            if inode is not there:
                self.remove(path)
                self.names[path] = inode
        elif member.kind == "directory" and there and there.kind == "directory":
            there.mode = member.mode
        else:
            self.remove(path)
            self.names[path] = Inode(member.kind, member.mode, member.target, member.data)

    def _target(self, member: Member, lower: dict[Path, Inode]) -> Inode:
        wanted = tuple(member.target.split(b"/"))
        found = self.resolve(wanted, follow_last=False, create=False)
        inode = self.names.get(found) if found is not None else None
        if inode is None:
            # Hidden by a whiteout of its own layer: the link still means the lower layer's file.
            before = Model()
            before.names = lower
            found = before.resolve(wanted, follow_last=False, create=False)
            inode = lower.get(found) if found is not None else None
        if inode is None or inode.kind == "directory":
            raise RefusedError
        return inode

    def dump(self) -> str:
        """The canonical text of the tree."""
        nodes = []
        numbers = {id(inode): index for index, inode in enumerate(self.names.values())}
        for path, inode in self.names.items():
            node = Node(b"/".join(path), inode.kind, inode.mode, 0, 0, 0, link=inode.target)
            if inode.kind != "directory":
                node = replace(node, group=(0, numbers[id(inode)]))
            if inode.kind == "file":
                node = replace(node, sha256=hashlib.sha256(inode.data).hexdigest())
            nodes.append(node)
        return format_dump(nodes)

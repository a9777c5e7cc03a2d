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
        before = Model()
        before.names = dict(self.names)
        for member in members:
            if member.kind not in ("whiteout", "opaque"):
                continue
            directory = member.path if member.kind == "opaque" else member.path[:-1]
            if before.led_astray(directory, members):
                continue
            found = before.resolve(directory, follow_last=True, create=False)
            if found is not None and member.kind == "opaque":
                self.remove(found, itself=False)
            elif found is not None:
                self.remove((*found, member.path[-1]))
        late: list[tuple[Path, Inode, Member]] = []
        for member in members:
            if member.kind not in ("whiteout", "opaque"):
                self._put(member, late)
        self._settle(late, before)

    def led_astray(self, directory: Path, members: Sequence[Member]) -> bool:
        """Whether the first link on a path has made way for something of the layer."""
        for length in range(1, len(directory) + 1):
            path = directory[:length]
            there = self.names.get(path)
            if there is not None and there.kind == "directory":
                continue
            if there is None or there.kind != "symlink":
                return False
            return any(
                (member.kind == "directory" and member.path == path)
                or (member.kind == "whiteout" and path[: len(member.path)] == member.path)
                or (member.kind == "opaque" and path[: len(member.path)] == member.path and path != member.path)
                for member in members
            )
        return False

    def _settle(self, late: list[tuple[Path, Inode, Member]], before: Model) -> None:
        """Links whose target came after them, or was hidden by a whiteout of their own layer and not replaced."""
        waiting = [(path, inode, member) for path, inode, member in late if self.names.get(path) is inode]
        while waiting:
            for tree in (self, before):
                ready = []
                for path, inode, member in waiting:
                    mine = self._find(self, member)
                    if any(mine is held for _, held, _ in waiting) or (tree is before and mine is not None):
                        continue
                    target = mine if tree is self else self._find(before, member)
                    if target is not None:
                        ready.append((path, inode, target))
                if ready:
                    break
            if not ready:
                raise RefusedError
            for path, _, target in ready:
                if target.kind == "directory":
                    raise RefusedError
                self.names[path] = target
            settled = {id(inode) for _, inode, _ in ready}
            waiting = [item for item in waiting if id(item[1]) not in settled]

    @staticmethod
    def _find(tree: Model, member: Member) -> Inode | None:
        found = tree.resolve(tuple(member.target.split(b"/")), follow_last=False, create=False)
        return tree.names.get(found) if found is not None else None

    def _put(self, member: Member, late: list[tuple[Path, Inode, Member]]) -> None:
        parent = self.resolve(member.path[:-1], follow_last=True, create=True)
        assert parent is not None
        if self.names[parent].kind != "directory":
            raise RefusedError
        path = (*parent, member.path[-1])
        there = self.names.get(path)
        if member.kind == "link":
            inode = self._find(self, member)
            if inode is None or any(inode is held for _, held, _ in late):
                inode = Inode("fifo", 0)
                late.append((path, inode, member))
            elif inode.kind == "directory":
                raise RefusedError
            if inode is not there:
                self.remove(path)
                self.names[path] = inode
        elif member.kind == "directory" and there and there.kind == "directory":
            there.mode = member.mode
        else:
            self.remove(path)
            self.names[path] = Inode(member.kind, member.mode, member.target, member.data)

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

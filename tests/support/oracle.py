"""Trees as canonical text: of a folder, a mounted image, an archive, and of what `umoci unpack` makes of an image.

The text is that of `docs/dump.md`, made here a second time from what the kernel says of each file, so that the two
programs check each other. All of it needs root: owners, devices and `trusted.*` attributes exist for root alone.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.run import run

_MS_RDONLY = 1

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


@dataclass(frozen=True)
class Node:
    """One name of a tree.

    Attributes:
        path: without a leading slash; empty for the root.
        type: one of `TYPES`.
        mode: permission bits with setuid, setgid and sticky.
        uid: numeric owner.
        gid: numeric group.
        mtime: nanoseconds since 1970.
        group: names of one file have the same one; None for a file with one name.
        link: target of a symlink, `major:minor` of a device.
        xattrs: values by name.
        sha256: of a file's content, in hexadecimal.
    """

    path: bytes
    type: str
    mode: int
    uid: int
    gid: int
    mtime: int
    group: tuple[int, int] | None = None
    link: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    sha256: str = ""


def escape(data: bytes) -> str:
    """Printable ASCII as it is; the space, backslash, comma, equals sign and all else as `\\xHH`."""
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte not in b"\\,=" else f"\\x{byte:02x}" for byte in data)


def format_dump(nodes: Collection[Node]) -> str:
    """The canonical text of a tree: one line for each name, paths in order as lists of components."""
    first: dict[tuple[int, int], bytes] = {}
    lines = []
    for node in sorted(nodes, key=lambda node: node.path.split(b"/") if node.path else []):
        known = first.setdefault(node.group, node.path) if node.group else node.path
        fields = [
            "/" + escape(node.path),
            node.type,
            f"{node.mode:04o}",
            str(node.uid),
            str(node.gid),
            f"{node.mtime // 10**9}.{node.mtime % 10**9:09d}",
            "/" + escape(known) if known != node.path else "-",
            escape(node.link) or "-",
            ",".join(f"{escape(name)}={value.hex()}" for name, value in node.xattrs) or "-",
            node.sha256 or "-",
        ]
        lines.append(" ".join(fields) + "\n")
    return "".join(lines)


def read_directory(root: Path, *, skip: Collection[bytes] = ()) -> list[Node]:
    """All names below a folder and the folder itself; `skip` names paths that are left out with all below them."""
    base = os.fsencode(root)
    found, waiting = [], [b""]
    while waiting:
        path = waiting.pop()
        if path in skip:
            continue
        full = os.path.join(base, path) if path else base  # noqa: PTH118
        node = _read(full, path)
        found.append(node)
        if node.type == "directory":
            waiting += [path + b"/" + name if path else name for name in os.listdir(full)]  # noqa: PTH208
    return found


def dump_directory(root: Path, *, skip: Collection[bytes] = ()) -> str:
    """The canonical text of a folder."""
    return format_dump(read_directory(root, skip=skip))


def umoci_unpack(layout: Path, bundle: Path, *, tag: str = "app") -> Path:
    """Unpacks an image of a layout with umoci and returns the folder of its root filesystem."""
    run("umoci", "unpack", "--image", f"{layout}:{tag}", bundle, timeout=600)
    return bundle / "rootfs"


def dump_umoci(layout: Path, bundle: Path, *, tag: str = "app") -> str:
    """The canonical text of what umoci makes of an image; `bundle` is a folder that does not exist yet."""
    return dump_directory(umoci_unpack(layout, bundle, tag=tag))


def dump_tar(archive: Path, folder: Path) -> str:
    """The canonical text of what GNU tar extracts from an archive into `folder`, which does not exist yet."""
    folder.mkdir()
    attributes = ["--xattrs", "--xattrs-include=*"]
    run("tar", "-C", folder, *attributes, "--numeric-owner", "--same-owner", "-xpf", archive)
    return dump_directory(folder)


def dump_cpio(archive: Path, folder: Path) -> str:
    """The canonical text of what libarchive extracts from a cpio archive into `folder`, which does not exist yet.

    Not GNU cpio: it dates folders before the last of their hard links is made, and leaves `folder` itself alone.
    """
    folder.mkdir()
    run("bsdtar", "--numeric-owner", "-C", folder, "-xpf", archive)
    # The one thing that bsdtar does not do: the time of the folder that it was told to work in.
    plain = archive.read_bytes()[:112]
    if plain.startswith(b"070701") and plain[110:] == b".\x00":
        mtime = int(plain[46:54], 16)
        os.utime(folder, (mtime, mtime))
    return dump_directory(folder)


def dump_unsquashfs(image: Path, folder: Path) -> str:
    """The canonical text of what unsquashfs extracts from an image into `folder`, which does not exist yet."""
    run("unsquashfs", "-no-progress", "-quiet", "-xattrs", "-dest", folder, image)
    return dump_directory(folder)


@contextmanager
def mounted(image: Path, kind: str, folder: Path, *, options: str = "") -> Iterator[Path]:
    """The kernel's own view of an image, read-only, until the block ends; `folder` is made and removed."""
    folder.mkdir()
    run("mount", "-t", kind, "-o", ",".join(filter(None, ["loop,ro", options])), image, folder)
    try:
        yield folder
    finally:
        run("umount", folder)
        folder.rmdir()


@contextmanager
def mounted_layers(out: Path, folder: Path, *, name: str = "image") -> Iterator[Path]:
    """The kernel's view of a layered image, whose files it opens itself, as the system call has it."""
    described = json.loads((out / f"{name}.json").read_text())
    folder.mkdir()
    devices = ",".join(f"device={out}/{device['path']}" for device in described["devices"])
    libc = ctypes.CDLL(None, use_errno=True)
    words = (str(out / described["image"]).encode(), str(folder).encode(), b"erofs", _MS_RDONLY, devices.encode())
    assert libc.mount(*words) == 0, os.strerror(ctypes.get_errno())
    try:
        yield folder
    finally:
        run("umount", folder)
        folder.rmdir()


def dump_mounted(image: Path, kind: str, folder: Path, *, skip: Collection[bytes] = ()) -> str:
    """The canonical text of a mounted image; `folder` does not exist yet. An ext4's `lost+found` can be skipped."""
    with mounted(image, kind, folder, options="noload" if kind == "ext4" else "") as root:
        return dump_directory(root, skip=skip)


def assert_same_from_any_place(path: Path, expected: bytes) -> None:
    """Reads a large file in small pieces from the end to the start, and as a whole by some readers at once."""
    with path.open("rb", buffering=0) as file:
        for offset in range(len(expected) - 10_000, 0, -777_777):
            file.seek(offset)
            assert file.read(10_000) == expected[offset : offset + 10_000]
    with ThreadPoolExecutor() as pool:
        assert all(read == expected for read in pool.map(Path.read_bytes, [path] * 4))


def without_mtime(dump: str, *paths: str) -> str:
    """The dump with the mtime of some paths (`/` is the root) replaced: umoci dates now what it does not restore."""
    lines = []
    for line in dump.splitlines():
        fields = line.split(" ")
        if fields[0] in paths:
            fields[5] = "?"
        lines.append(" ".join(fields) + "\n")
    return "".join(lines)


def _read(full: bytes, path: bytes) -> Node:
    status = os.lstat(full)
    kind = TYPES[stat.S_IFMT(status.st_mode)]
    try:
        names = sorted(os.fsencode(name) for name in os.listxattr(full, follow_symlinks=False))
    except OSError as error:
        # What squashfs says of an image without any attribute.
        if error.errno != errno.ENOTSUP:
            raise
        names = []
    node = Node(
        path=path,
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        group=(status.st_dev, status.st_ino) if kind != "directory" and status.st_nlink > 1 else None,
        xattrs=tuple((name, os.getxattr(full, name, follow_symlinks=False)) for name in names),
    )
    if kind == "symlink":
        return replace(node, link=os.readlink(full))  # noqa: PTH115
    if kind in ("char", "block"):
        device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return replace(node, link=device.encode())
    if kind == "file":
        return replace(node, sha256=_sha256(full))
    return node


def _sha256(path: bytes) -> str:
    running = hashlib.sha256()
    with open(path, "rb") as file:  # noqa: PTH123
        while chunk := file.read(1 << 20):
            running.update(chunk)
    return running.hexdigest()

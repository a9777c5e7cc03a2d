"""The flattened tree as an object: what is in it, and that it is gone when closed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import ocifast
import pytest
from ocifast.errors import OcifastError, PathNotFoundError, UsageError
from ocifast.rootfs import Rootfs

from tests.support.images import Layer, build_image, write_layout
from tests.support.layers import TarBuilder

LAYER = (
    TarBuilder()
    .directory("usr")
    .directory("usr/lib")
    .file("usr/lib/os-release", b"ID=x\n")
    .directory("etc")
    .symlink("etc/os-release", "../usr/lib/os-release")
    .symlink("lib", "usr/lib")
    .symlink("nowhere", "/not/there")
)


@pytest.fixture
def rootfs(tmp_path: Path) -> Rootfs:
    write_layout(tmp_path, build_image([Layer(LAYER)]))
    with ocifast.open(f"oci:{tmp_path}:app") as image:
        return image.flatten()


def test_what_is_in_a_tree(rootfs: Rootfs) -> None:
    inside: list[object] = ["/etc/os-release", "etc/os-release", b"/etc", "/", "/lib/os-release", "/nowhere"]
    outside: list[object] = ["/etc/os-releas", "/nowhere/x", "/usr/lib/os-release/x", 7, None]
    assert [item for item in inside if item not in rootfs] == []
    assert [item for item in outside if item in rootfs] == []
    entry = rootfs.stat("/usr/lib/os-release")
    assert entry in rootfs
    assert replace(entry, size=6) not in rootfs
    assert replace(entry, path="/gone") not in rootfs
    assert all(entry in rootfs for entry in rootfs)
    rootfs.close()


USES: dict[str, Callable[[Rootfs], object]] = {
    "len": len,
    "iter": list,
    "in": lambda tree: "/etc" in tree,
    "walk": lambda tree: list(tree.walk("/etc")),
    "stat": lambda tree: tree.stat("/etc"),
    "xattrs": lambda tree: tree.xattrs("/etc"),
    "scandir": lambda tree: tree.scandir("/etc"),
    "listdir": lambda tree: tree.listdir("/etc"),
    "resolve": lambda tree: tree.resolve("/etc"),
    "open": lambda tree: tree.open("/etc/os-release"),
    "read_bytes": lambda tree: tree.read_bytes("/etc/os-release"),
    "dump": lambda tree: tree.dump(),
    "digest": lambda tree: tree.digest,
    "notices": lambda tree: tree.notices,
    "write_tar": lambda tree: tree.write_tar(io.BytesIO()),
}


@pytest.mark.parametrize("use", USES)
def test_a_closed_tree_refuses(use: str, rootfs: Rootfs) -> None:
    USES[use](rootfs)
    rootfs.close()
    rootfs.close()
    with pytest.raises(UsageError, match=r"^oci:.*:app: the root filesystem is closed$"):
        USES[use](rootfs)


LINKS = (
    TarBuilder()
    .directory("usr/lib/deep")
    .file("usr/lib/deep/file", b"x")
    .symlink("lib", "usr/lib")
    .symlink("abs", "/lib/deep")
    .symlink("up", "usr/../lib/./deep/..")
    .symlink("out", "../../../../usr")
    .symlink("chain", "up/deep")
    .symlink("to-file", "chain/file")
    .symlink("root", "/")
    .symlink("round", "round")
    .symlink("nowhere", "gone")
)
RESOLVED = {
    "/": "/",
    "": "/",
    "/usr/lib": "/usr/lib",
    "lib": "/usr/lib",
    "/lib/": "/usr/lib",
    "/abs/file": "/usr/lib/deep/file",
    "/up": "/usr/lib",
    "/up/deep/file": "/usr/lib/deep/file",
    "/out/lib/../lib": "/usr/lib",
    "/chain": "/usr/lib/deep",
    "/to-file": "/usr/lib/deep/file",
    "/root": "/",
    "/root/root/lib": "/usr/lib",
    "/usr/lib/../../chain/file": "/usr/lib/deep/file",
}


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[Rootfs]:
    write_layout(tmp_path, build_image([Layer(LINKS)]))
    with ocifast.open(f"oci:{tmp_path}:app") as image, image.flatten() as tree:
        yield tree


def test_paths_without_links(linked: Rootfs) -> None:
    assert {path: linked.resolve(path) for path in RESOLVED} == RESOLVED
    assert linked.resolve("/to-file", follow=False) == "/to-file"
    assert linked.resolve("/chain/file", follow=False) == "/usr/lib/deep/file"
    assert linked.resolve("/up/../up", follow=False) == "/up"
    for path in ("/gone", "/nowhere", "/lib/deep/file/x"):
        with pytest.raises(PathNotFoundError):
            linked.resolve(path)
    for path in ("/round", "/round/x", "/.."):
        with pytest.raises(OcifastError):
            linked.resolve(path)
    # What is there under another name is the same, and has no link on its way.
    for path, real in RESOLVED.items():
        assert linked.stat(path).inode == linked.stat(real, follow=False).inode
        assert linked.resolve(real, follow=False) == real


def test_folders(linked: Rootfs) -> None:
    assert linked.listdir() == sorted(
        ["abs", "chain", "lib", "nowhere", "out", "root", "round", "to-file", "up", "usr"]
    )
    assert linked.listdir("/lib") == ["deep"]
    assert linked.listdir("abs/") == ["file"]
    assert [entry.path for entry in linked.scandir("/chain")] == ["/usr/lib/deep/file"]
    assert linked.scandir("/root") == [entry for entry in linked if entry.path.count("/") == 1 and entry.path != "/"]
    for path in ("/gone", "/nowhere", "/to-file", "/usr/lib/deep/file"):
        with pytest.raises(PathNotFoundError):
            linked.listdir(path)


def test_an_open_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096
    layer = TarBuilder().file("big", data).file("empty", b"").symlink("link", "big").directory("d")
    layer.sparse("hole", [(1 << 20, b"x" * 512)], 3 << 20)
    write_layout(tmp_path, build_image([Layer(layer)]))
    with ocifast.open(f"oci:{tmp_path}:app") as image, image.flatten() as tree:
        for path in ("/big", "link", b"/big"):
            with tree.open(path) as file:
                assert file.read() == data
                assert (file.tell(), file.read(1), file.seekable(), file.writable()) == (len(data), b"", True, False)
                assert file.seek(-10, io.SEEK_END) == len(data) - 10
                assert file.read(100) == data[-10:]
                assert file.seek(1000) == 1000
                assert file.seek(24, io.SEEK_CUR) == 1024
                assert file.read(7) == data[1024:1031]
                assert file.seek(len(data) + 5) == len(data) + 5
                assert file.read() == b""
                with pytest.raises(ValueError, match=r"negative|no place"):
                    file.seek(-1)
            with pytest.raises(ValueError, match="closed"):
                file.read()
        with tree.open("/empty") as file:
            assert file.read() == b""
        with tree.open("/hole") as file:
            file.seek((1 << 20) - 1)
            assert file.read(514) == b"\0" + b"x" * 512 + b"\0"
            assert len(file.read()) == (2 << 20) - 513
        with tree.open("/big") as text:
            assert io.TextIOWrapper(text, "latin-1").readline() == data[:11].decode("latin-1")
        for path in ("/d", "/gone", "/"):
            with pytest.raises(PathNotFoundError):
                tree.open(path)
        left = tree.open("/big")
    with pytest.raises(UsageError, match="is closed"):
        left.read()

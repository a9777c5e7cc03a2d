"""The flattened tree as an object: what is in it, and that it is gone when closed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ocifast
import pytest
from ocifast.errors import UsageError
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

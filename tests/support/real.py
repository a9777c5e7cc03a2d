"""A real image, built by the tools that people build images with, and small enough for every run of the tests.

Six layers, 4 MB that unpack to 60 MB and 1,200 names: three committed by buildah, one repacked by umoci, two made
by hand with what those tools do not write. They hold whiteouts, opaque directories, replaced types, hard links over
layers, symlinked parents, devices, capabilities, extended attributes, setuid and setgid, holes, names that are not
UTF-8, nanoseconds and times before 1970.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.layers import TarBuilder
from tests.support.oracle import dump_umoci
from tests.support.run import Argument, run, tool

TAG = "app"
MTIME = 1_650_000_000 * 10**9


@dataclass(frozen=True)
class RealImage:
    """The image as it is kept and as umoci sees it.

    Attributes:
        layout: an image layout, with the image as its tag `app`.
        location: how the command line takes it: `oci:DIR:app`.
        dump: the canonical text of what `umoci unpack` makes of it.
    """

    layout: Path
    dump: str

    @property
    def location(self) -> str:
        return f"oci:{self.layout}:{TAG}"


def real_image(folder: Path) -> RealImage:
    """Builds the image in an empty folder and lets umoci unpack it once."""
    layout = build_real_image(folder / "build")
    dump = dump_umoci(layout, folder / "bundle")
    shutil.rmtree(folder / "bundle")
    return RealImage(layout, dump)


def build_real_image(folder: Path) -> Path:
    """Builds the image as the tag `app` of an image layout and returns the layout's folder; needs root."""
    folder.mkdir(parents=True)
    layout = folder / "layout"
    with _buildah(folder / "buildah") as buildah:
        _commit(buildah, "scratch", "base", _base)
        _commit(buildah, "localhost/base", "tools", _tools)
        _commit(buildah, "localhost/tools", "changed", _changed)
        run(*buildah, "push", "-q", "localhost/changed", f"oci:{layout}:{TAG}")
    _repack(layout, folder / "bundle", _repacked)
    for name, layer in (("links", _links()), ("odd", _odd())):
        archive = folder / f"{name}.tar"
        archive.write_bytes(layer.build())
        run("umoci", "raw", "add-layer", "--image", f"{layout}:{TAG}", "--history.comment", name, archive)
        archive.unlink()
    run("umoci", "config", "--image", f"{layout}:{TAG}", "--config.entrypoint", "/bin/sh", "--config.user", "1000:1000")
    run("umoci", "config", "--image", f"{layout}:{TAG}", "--config.env", "LANG=C.UTF-8", "--config.workingdir", "/srv")
    run("umoci", "gc", "--layout", layout)
    return layout


def _base(root: Path) -> None:
    for name in ("bin", "dev", "etc", "home/user", "lib", "opt/replaced", "proc", "srv", "tmp", "usr/share", "var/lib"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "usr/bin").symlink_to("../bin")
    shutil.copy2(tool("busybox"), root / "bin/busybox")
    for applet in run("busybox", "--list").decode().split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    shutil.copytree("/usr/share/common-licenses", root / "usr/share/common-licenses", symlinks=True)
    (perl,) = Path("/usr/lib").glob("*-linux-gnu*/perl-base")
    shutil.copytree(perl, root / "usr/lib/perl-base", symlinks=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    (root / "etc/shadow").write_text("root:*:19000::::::\n")
    (root / "etc/shadow").chmod(0o640)
    os.chown(root / "etc/shadow", 0, 42)
    (root / "etc/secret").write_text("deleted by a later layer\n")
    (root / "opt/replaced/by-a-file").write_text("a directory that becomes a file\n")
    (root / "opt/file").write_text("a file that becomes a directory\n")
    (root / "opt/link").symlink_to("/nowhere")
    for index in range(200):
        (root / f"var/lib/many-{index % 10}").mkdir(exist_ok=True)
        (root / f"var/lib/many-{index % 10}" / f"file-{index}").write_bytes(bytes([index]) * index * 37)
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "dev/disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    (root / "dev/null").chmod(0o666)
    os.mkfifo(root / "dev/pipe", 0o600)


def _tools(root: Path) -> None:
    for name in ("ping", "su"):
        (root / "bin" / name).unlink(missing_ok=True)
        shutil.copy2(root / "bin/busybox", root / "bin" / name)
    run("setcap", "cap_net_raw+ep", root / "bin/ping")
    (root / "bin/ping-again").hardlink_to(root / "bin/ping")
    (root / "bin/su").chmod(0o6755)
    (root / "srv/first").write_bytes(b"one of three names")
    os.setxattr(root / "srv/first", "user.comment", b"\x00\xff binary")
    (root / "srv/second").hardlink_to(root / "srv/first")
    (root / "home/user/notes").write_text("owned by a user\n")
    os.chown(root / "home/user/notes", 1000, 1000)
    os.chown(root / "home/user", 1000, 1000)
    (root / "srv/unreadable").write_text("mode 0000\n")
    (root / "srv/unreadable").chmod(0)
    with (root / "srv/holes").open("wb") as file:
        file.write(b"start")
        file.seek(40 << 20)
        file.write(b"end")
    os.utime(root / "srv/holes", ns=(MTIME, MTIME + 123_456_789))
    os.utime(root / "home/user", ns=(MTIME, MTIME + 1))


def _changed(root: Path) -> None:
    (root / "etc/secret").unlink()
    shutil.rmtree(root / "usr/share/common-licenses")
    (root / "usr/share/common-licenses").mkdir()
    (root / "usr/share/common-licenses/README").write_text("an opaque directory\n")
    shutil.rmtree(root / "opt/replaced")
    (root / "opt/replaced").write_text("now a file\n")
    (root / "opt/file").unlink()
    (root / "opt/file").mkdir()
    (root / "opt/file/inside").write_text("now a directory\n")
    shutil.rmtree(root / "var/lib/many-3")
    (root / "srv/second").unlink()
    (root / "bin/sh").unlink()
    (root / "bin/sh").symlink_to("/bin/busybox")


def _repacked(root: Path) -> None:
    (root / "var/lib/many-4/file-4").unlink()
    (root / "var/lib/many-5/file-5").write_text("changed\n")
    (root / "srv/by-umoci").write_text("repacked\n")
    os.setxattr(root / "srv/by-umoci", "user.origin", b"umoci")
    (root / "srv/unreadable").chmod(0o400)


def _links() -> TarBuilder:
    seconds = MTIME // 10**9
    return (
        TarBuilder()
        # A hard link to a file of a lower layer, through a symlinked parent, and one whose target is then replaced.
        .hard_link("srv/third", "srv/first")
        .hard_link("usr/bin/busybox-by-link", "/bin/busybox")
        .hard_link("srv/kept", "home/user/notes")
        .file("home/user/notes", b"replaced under its second name", uid=1000, gid=1000, mtime=(seconds, 5))
        # Files below a symlinked directory land in the directory that it points to.
        .file("usr/bin/through-the-link", b"#!/bin/sh\n", mode=0o755, mtime=(seconds, 999_999_999))
        .symlink("opt/link", "srv", mtime=seconds)
        .directory("srv/new", mode=0o2775, gid=50, mtime=(seconds, 7))
        .file("srv/new/file", b"in a setgid directory", mtime=seconds)
        .whiteout("var/lib/many-6")
        .whiteout("bin/usleep")
    )


def _odd() -> TarBuilder:
    seconds = MTIME // 10**9
    long = "n" * 200 + "/" + "m" * 200
    return (
        TarBuilder()
        .file(b"srv/not utf-8: \xff\xfe", b"bytes", mtime=seconds)
        .file("srv/line\nbreak", b"a name of two lines", mtime=seconds)
        .directory("srv/" + "n" * 200, mtime=seconds)
        .file("srv/" + long, b"a long path", mtime=seconds)
        # Relative: sqfstar 4.5 takes the first slash of long targets away, which the packer notices and refuses.
        .symlink("srv/long-link", "l" * 300, mtime=(-100, 250_000_000))
        .file("srv/before-1970", b"", mtime=(-1, 500_000_000))
        .file("srv/large-owner", b"", uid=4_000_000_000, gid=3_000_000_000, mtime=seconds)
        .sparse("srv/pax-sparse", [(65536, b"x" * 512), (1 << 21, b"")], 1 << 21, form="1.0", mtime=seconds)
        .device("dev/large", "block", 259, 1_048_575, mtime=seconds)
        .directory("var/lib/many-7", mtime=(seconds, 11))
        # The opaque whiteout stands after an entry of its own directory, which it must not hide.
        .file("var/lib/many-7/kept", b"of the same layer as the whiteout", mtime=seconds)
        .opaque("var/lib/many-7")
        .directory("var/lib/many-8", mode=0o700, uid=7, gid=8, mtime=seconds, xattrs={"user.dir": b"\x01"})
    )


@contextmanager
def _buildah(store: Path) -> Iterator[list[Argument]]:
    words: list[Argument] = [
        "buildah",
        "--storage-driver",
        "overlay",
        "--root",
        store / "root",
        "--runroot",
        store / "run",
    ]
    try:
        yield words
    finally:
        run(*words, "rm", "--all")
        run(*words, "rmi", "--all", "--force")
        shutil.rmtree(store)


def _commit(buildah: list[Argument], base: str, name: str, change: Callable[[Path], None]) -> None:
    container = run(*buildah, "from", "--pull-never", base).decode().strip()
    root = run(*buildah, "mount", container).decode().strip()
    change(Path(root))
    run(*buildah, "umount", container)
    run(*buildah, "commit", "-q", "--rm", container, f"localhost/{name}")


def _repack(layout: Path, bundle: Path, change: Callable[[Path], None]) -> None:
    run("umoci", "unpack", "--image", f"{layout}:{TAG}", bundle)
    change(bundle / "rootfs")
    run("umoci", "repack", "--image", f"{layout}:{TAG}", bundle)
    shutil.rmtree(bundle)

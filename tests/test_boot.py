"""A kernel boots what we write: our cpio as its first root, our filesystem images as its root disk.

In both cases the image's own shell runs as the first process and tells what it finds on its root.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ocifast.packers import PackOptions, format_of

from tests.support.layers import TarBuilder
from tests.support.machine import Kernel, boot, disk_initramfs, shell_image
from tests.support.pack import pack

LOOK = r"""
set -e
read -r line < /etc/motd
echo "motd: $line"
read -r line < /etc/linked
echo "linked: $line"
[ /etc/linked -ef /etc/motd ] && echo "one file under two names"
[ -u /setuid ] && echo "setuid"
[ -k /etc ] && echo "sticky folder"
[ -h /link ] && read -r line < /link && echo "through the link: $line"
[ -p /pipe ] && [ -c /null ] && [ -b /disk ] && echo "pipe and devices"
[ ! -e /hidden ] && echo "what a layer hid is gone"
[ -s /big ] && exec 3< /big && read -r first <&3 && echo "big: $first"
[ /newer -nt /older ] && echo "times"
set -- /n*
echo "names: $*"
"""

SEEN = """motd: hello from the image
linked: hello from the image
one file under two names
setuid
sticky folder
through the link: hello from the image
pipe and devices
what a layer hid is gone
big: first line
times
names: /newer /null
"""

FINISHED = "exitcode=0x00000000"
"""What a kernel says when its first process ended well (and nothing is left to run)."""


def image(script: str) -> list[TarBuilder]:
    """Two layers of what `LOOK` looks at."""
    lower = shell_image(script).file("hidden", b"secret").file("etc/motd", b"from the lower layer\n")
    upper = TarBuilder().whiteout("hidden").directory("etc", mode=0o1755)
    upper.file("etc/motd", b"hello from the image\n", mtime=1_000_000_000).hard_link("etc/linked", "etc/motd")
    upper.file("setuid", mode=0o4755).symlink("link", "etc/motd").fifo("pipe")
    upper.device("null", "char", 1, 3, mode=0o666).device("disk", "block", 254, 0)
    upper.file("big", b"first line\n" + b"x" * 3_000_000)
    upper.file("older", mtime=1_000_000_000).file("newer", mtime=1_000_000_001)
    return [lower, upper]


def said(console: str, before: str) -> str:
    """The lines between the first that begins with `before` and the kernel's last words."""
    start = console.find(before)
    assert start >= 0, console[-4000:]
    return "".join(line + "\n" for line in console[start:].split("\n") if line and not line.startswith("["))


@pytest.mark.parametrize("suffix", ["cpio", "cpio.gz", "cpio.zst"])
def test_our_cpio_is_an_initial_root(kernel: Kernel, suffix: str, tmp_path: Path) -> None:
    form, compression = format_of(f"root.{suffix}")
    initrd = pack(image(LOOK), tmp_path / "initrd", form, options=PackOptions(compression=compression)).path
    console = boot(kernel, initrd, "rdinit=/bin/sh -- /hello")
    assert said(console, "motd: ") == SEEN
    assert FINISHED in console


@pytest.mark.parametrize(("kind", "options"), [("erofs", "ro"), ("squashfs", "ro"), ("ext4", "rw")])
def test_our_image_is_a_root_disk(kernel: Kernel, kind: str, options: str, tmp_path: Path) -> None:
    initrd = pack([disk_initramfs(kernel, kind, options)], tmp_path / "initrd", "cpio").path
    write = "echo written > /new && read -r line < /new && echo $line\n" if options == "rw" else ""
    disk = pack(image(LOOK + write), tmp_path / "disk", kind).path
    console = boot(kernel, initrd, "", disk=disk)
    assert f"/dev/vda /root {kind} {options}," in console
    assert said(console, "motd: ") == SEEN + ("written\n" if write else "")
    assert FINISHED in console

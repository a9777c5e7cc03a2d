"""Firmware boots our disks: a kernel, an initrd and a boot loader out of the image, and a unified kernel image.

What is extracted beside a disk boots without firmware. Each time the image's own shell runs at the end. A kernel takes
our FAT32 as its root, too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ocifast.packers.fat import fat_size, write_fat

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.machine import Kernel, boot, boot_firmware, disk_initramfs, shell_image, unified_kernel
from tests.support.pack import pack
from tests.support.run import ocifast, run

SCRIPT = 'read -r line < /motd && echo "motd: $line"\n'
SAYS = "motd: hello from the image\n"
WORDS = "console=ttyS0 quiet panic=-1 no_timer_check"
SYSTEMD_BOOT = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")

pytestmark = [pytest.mark.tools, pytest.mark.slow]


def made_image(tmp_path: Path, kernel: Kernel, *, initrd: bytes, besides: TarBuilder | None = None) -> str:
    """A layout with a shell, Debian's kernel and an initrd where Debian puts them, and an older kernel that is none."""
    version = kernel.image.name.partition("-")[2]
    tar = shell_image(SCRIPT).file("motd", b"hello from the image\n").directory("boot")
    tar.file(f"boot/vmlinuz-{version}", kernel.image.read_bytes()).file(f"boot/initrd.img-{version}", initrd)
    tar.file("boot/vmlinuz-5.10.0-9-amd64", b"old")
    layers = [tar, besides] if besides is not None else [tar]
    return f"oci:{write_layout(tmp_path / 'layout', build_image(layers))}:app"


def initramfs(kernel: Kernel, tmp_path: Path, *, first: int) -> Path:
    """What opens the sealed root by the root hash, and mounts it: the root is that partition of the disk."""
    tar = disk_initramfs(kernel, "erofs", "ro", device=f"/dev/vda{first}", verity=f"/dev/vda{first + 1}")
    return pack([tar], tmp_path / "initrd", "cpio").path


def test_firmware_starts_a_boot_loader_with_an_entry(kernel: Kernel, tmp_path: Path) -> None:
    """All comes from the image: systemd-boot, the kernel and its initrd; the root hash stands in the entry."""
    initrd = initramfs(kernel, tmp_path, first=2).read_bytes()
    besides = TarBuilder().file(str(SYSTEMD_BOOT).lstrip("/"), SYSTEMD_BOOT.read_bytes())
    location = made_image(tmp_path, kernel, initrd=initrd, besides=besides)
    disk = tmp_path / "out.disk"
    done = json.loads(ocifast("compile", location, disk, "--esp", "--cmdline", WORDS, "--no-cache", "--json"))
    assert done["properties"]["kernel"] == f"image:/boot/{kernel.image.name}"
    console = boot_firmware(disk)
    assert SAYS in console, console[-3000:]
    assert "/dev/dm-0 /root erofs ro" in console


def test_firmware_starts_a_unified_kernel_image(kernel: Kernel, tmp_path: Path) -> None:
    """A UKI from a file stands where firmware looks, and needs no entry; it was built before the disk was."""
    plain = pack([disk_initramfs(kernel, "ext4", "rw", device="/dev/vda2")], tmp_path / "initrd", "cpio").path
    uki = unified_kernel(kernel.image, plain, WORDS, tmp_path / "app.efi")
    tar = shell_image(SCRIPT).file("motd", b"hello from the image\n")
    layout = write_layout(tmp_path / "layout", build_image([tar]))
    disk = tmp_path / "out.disk"
    ocifast("compile", f"oci:{layout}:app", disk, "--kernel", uki, "--root-format", "ext4", "--no-cache")
    console = boot_firmware(disk)
    assert SAYS in console, console[-3000:]
    assert "/dev/vda2 /root ext4 rw" in console


def test_what_is_extracted_boots_the_disk(kernel: Kernel, tmp_path: Path) -> None:
    """A machine monitor takes kernel, initrd and command line from the folder, and there is no firmware."""
    location = made_image(tmp_path, kernel, initrd=initramfs(kernel, tmp_path, first=1).read_bytes())
    disk, folder = tmp_path / "out.disk", tmp_path / "kernel"
    done = json.loads(ocifast("compile", location, disk, "--extract-kernel", folder, "--no-cache", "--json"))
    words = (folder / "cmdline").read_text()
    assert done["boot"]["kernel_command_line"] == words.strip()
    assert f"roothash={done['properties']['root_hash']}" in words.split()
    console = boot(Kernel(folder / "vmlinuz", {}), folder / "initrd", words.strip(), disk=disk)
    assert SAYS in console, console[-3000:]
    assert "/dev/dm-0 /root erofs ro" in console


def test_a_kernel_mounts_our_fat(kernel: Kernel, tmp_path: Path) -> None:
    """It reads long names, and runs programs: the shell of this machine stands there, and is the first process."""
    files: dict[str, bytes | Path] = {"bin/sh": Path("/bin/dash"), "hello": SCRIPT.encode(), "motd": SAYS[6:].encode()}
    for name in re.findall(r"(/\S+) \(0x", run("ldd", "/bin/dash").decode()):
        files[name.lstrip("/")] = Path(name)
    size = fat_size(files)
    disk = tmp_path / "fat"
    with disk.open("wb") as file:
        file.truncate(size)
        write_fat(file.fileno(), 0, size, files, volume_id=1, label="ESP", seconds=1_700_000_000)
    options = "ro,codepage=437,iocharset=ascii"
    initrd = pack([disk_initramfs(kernel, "vfat", options)], tmp_path / "initrd", "cpio").path
    console = boot(kernel, initrd, "", disk=disk)
    assert SAYS in console, console[-3000:]
    assert "/dev/vda /root vfat ro" in console

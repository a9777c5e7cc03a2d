"""A virtual machine without a processor of its own: Debian's kernel in qemu's software emulation, console to text."""

from __future__ import annotations

import fcntl
import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.layers import TarBuilder
from tests.support.run import Argument, attempt, run

PACKAGE = "linux-image-cloud-amd64"
"""Debian's kernel for virtual machines: small, with a serial console and virtio."""


@dataclass(frozen=True)
class Kernel:
    """A kernel, not installed.

    Attributes:
        image: what qemu boots.
        modules: the modules by name, with underscores.
    """

    image: Path
    modules: dict[str, Path]

    def module(self, name: str) -> bytes:
        """The bytes of a module, uncompressed."""
        path = self.modules[name]
        return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()

    def with_dependencies(self, names: Iterable[str]) -> list[str]:
        """The named modules that are not built in, and those that they need, in the order in which they load."""
        order: list[str] = []

        def add(name: str) -> None:
            if name in order or name not in self.modules:
                return
            found = re.search(rb"\x00depends=([^\x00]*)\x00", b"\x00" + self.module(name))
            assert found is not None, f"{name} does not say what it depends on"
            for dependency in found[1].decode().split(","):
                add(dependency.replace("-", "_"))
            order.append(name)

        for name in names:
            add(name)
        return order


def debian_kernel(folder: Path) -> Kernel:
    """Debian's kernel, downloaded into `folder` unless it is there. Runners side by side wait for the first."""
    root = folder / "root"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _download_kernel(folder, root)
    (image,) = root.glob("boot/vmlinuz-*")
    modules = {path.name.partition(".")[0].replace("-", "_"): path for path in root.rglob("*.ko*")}
    return Kernel(image, modules)


def _download_kernel(folder: Path, root: Path) -> None:
    for left in (folder / "unpacked", *folder.glob("*.deb")):  # by a run that was killed
        run("rm", "-rf", left)
    name = _package_name()
    if attempt("apt-get", "download", "-q", name, cwd=folder).returncode != 0:
        run("apt-get", "update", "-qq")
        name = _package_name()
        run("apt-get", "download", "-q", name, cwd=folder)
    (package,) = folder.glob(f"{name}_*.deb")
    run("dpkg-deb", "-x", package, folder / "unpacked")
    (folder / "unpacked").rename(root)


def _package_name() -> str:
    said = run("apt-cache", "depends", "--important", PACKAGE).decode()
    found = re.search(r"Depends: (linux-image-\S+)", said)
    assert found is not None, f"{PACKAGE} depends on no kernel: {said}"
    return found[1]


def boot(kernel: Kernel, initrd: Path, words: str, *, disk: Path | None = None, timeout: float = 240) -> str:
    """Boots and returns what the console showed. The machine ends when its first process does, well or not.

    On a busy machine the emulated timer is late, and a kernel that checks it gives up.
    """
    command: list[Argument] = ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nographic", "-no-reboot"]
    command += ["-nic", "none", "-kernel", kernel.image, "-initrd", initrd]
    command += ["-append", f"console=ttyS0 quiet panic=-1 no_timer_check {words}"]
    if disk is not None:
        command += ["-drive", f"file={disk},format=raw,if=virtio"]
    return run(*command, timeout=timeout).decode(errors="replace").replace("\r", "")


def boot_firmware(disk: Path, *, timeout: float = 400) -> str:
    """Boots a disk as a PC with UEFI does, and returns what the console showed, without what moves a cursor."""
    command: list[Argument] = ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nographic", "-no-reboot"]
    command += ["-nic", "none", "-bios", "/usr/share/ovmf/OVMF.fd"]
    command += ["-drive", f"file={disk},format=raw,if=virtio"]
    console = run(*command, timeout=timeout).decode(errors="replace").replace("\r", "")
    return re.sub(r"\x1b\[[0-9;=?]*[A-Za-z]", "", console)


def unified_kernel(kernel: Path, initrd: Path, words: str, to: Path) -> Path:
    """A UKI, as systemd's stub reads it (systemd-stub(7)): the parts are sections behind those of the stub."""
    sections = {".cmdline": words.encode() + b"\0", ".linux": kernel.read_bytes(), ".initrd": initrd.read_bytes()}
    command: list[Argument] = ["objcopy"]
    at = 0x30000
    for name, data in sections.items():
        part = to.with_name(f"{to.name}{name}")
        part.write_bytes(data)
        command += ["--add-section", f"{name}={part}", "--change-section-vma", f"{name}={at:#x}"]
        at += -(-len(data) // 0x1000) * 0x1000
    run(*command, "/usr/lib/systemd/boot/efi/linuxx64.efi.stub", to)
    return to


def shell_image(script: str) -> TarBuilder:
    """A small image: dash, what it is linked with, and a script at `/hello` for it, all of this machine's."""
    tar = TarBuilder().directory(".", mode=0o755).directory("dev").directory("bin")
    _add_program(tar, "/bin/dash")
    tar.symlink("bin/sh", "dash")
    return tar.file("hello", script.encode(), mode=0o644)


def _add_program(tar: TarBuilder, path: str) -> None:
    """A program of this machine's, and what it is linked with."""
    for name in [*re.findall(r"(/\S+) \(0x", run("ldd", path).decode()), path]:
        tar.file(name, Path(name).read_bytes(), mode=0o755)


def disk_initramfs(
    kernel: Kernel, kind: str, options: str, *, device: str = "/dev/vda", verity: str | None = None
) -> TarBuilder:
    """What mounts a disk and hands over to the shell and the script on it: Debian's static busybox.

    Args:
        kernel: whose modules are loaded.
        kind: of the file system.
        options: for `mount`.
        device: the file system.
        verity: where the hash tree of the file system is, and more for `veritysetup open`: the root hash is
            `roothash=` of the kernel's command line, and what it opens is mounted in the place of `device`.
    """
    besides = ["dm_verity"] if verity else ["nls_cp437", "nls_ascii"] if kind == "vfat" else []
    modules = kernel.with_dependencies(["virtio_pci", "virtio_blk", kind, *besides])
    tar = TarBuilder().directory("dev").directory("proc").directory("root").directory("bin")
    tar.file("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    for name in modules:
        tar.file(f"modules/{name}.ko", kernel.module(name))
    unlock = ""
    if verity is not None:
        _add_program(tar, "/usr/sbin/veritysetup")
        unlock = f"""mkdir /sys /run
mount -t sysfs sysfs /sys
hash=$(sed 's/.*roothash=\\([0-9a-f]*\\).*/\\1/' /proc/cmdline)
veritysetup open {device} root {verity.partition(" ")[0]} $hash {verity.partition(" ")[2]}
umount /sys
"""
        device = "/dev/dm-0"
    script = f"""#!/bin/busybox sh
export PATH=/bin:/usr/sbin
/bin/busybox --install -s /bin
set -e
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
for name in {" ".join(modules)}; do insmod /modules/$name.ko; done
{unlock}mount -t {kind} -o {options} {device} /root
grep {device} /proc/mounts
umount /proc
exec switch_root /root /bin/sh /hello
"""
    return tar.file("init", script.encode(), mode=0o755)

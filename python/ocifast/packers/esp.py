"""The files of an EFI system partition, and the words by which a kernel finds its root.

(UEFI specification 2.10, section 3.5.1.1, "Removable Media Boot Behavior"; uapi-group.org, "Boot Loader
Specification".)
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from pathlib import Path

from ocifast.errors import FileError, OutputUnsupportedError, UsageError
from ocifast.packers.efi import EFI_NAMES
from ocifast.packers.kernels import LOADERS, Boot, Found
from ocifast.packers.options import DiskOptions
from ocifast.records import dataclass

__all__ = ["COMMAND_LINE", "StagedBoot", "command_line", "stage_boot"]

COMMAND_LINE = "cmdline"
"""Name of the file with a kernel's command line, beside the kernel."""
_NAMES = {"kernel": "vmlinuz", "initrd": "initrd", "uki": "uki.efi", "loader": "loader.efi"}


@dataclass(frozen=True)
class StagedBoot:
    """What there is to boot, as files of our own.

    Attributes:
        boot: where it is from.
        files: those that there are, by the names of `Boot`.
        digests: of the same.
    """

    boot: Boot
    files: Mapping[str, Path]
    digests: Mapping[str, str]

    @property
    def first(self) -> tuple[str, Found]:
        """What firmware is to start first: a UKI, else a kernel; and its name."""
        if self.boot.uki is not None:
            return "uki", self.boot.uki
        assert self.boot.kernel is not None
        return "kernel", self.boot.kernel

    def described(self, name: str, found: Found) -> str:
        """Where something is from: its place in the image, or its digest."""
        return found.shown if found.is_of_image else self.digests[name]

    def partition(self, options: DiskOptions, words: str) -> dict[str, bytes | Path]:
        """The files of an EFI system partition, by their paths.

        A UKI stands where firmware looks when it has no entries. So does a boot loader, for a kernel with an initrd or
        with a command line; then the kernel has an entry of type 1. A kernel alone can stand there too.

        Args:
            options: of the disk.
            words: the kernel's command line.

        Raises:
            OutputUnsupportedError: firmware cannot start this.
            UsageError: options that have no meaning here.
        """
        name, found = self.first
        loader = self.boot.loader
        machine = EFI_NAMES.get(found.program.architecture or "")
        for each in (found, loader):
            if each is not None and (machine is None or not each.program.is_efi):
                raise OutputUnsupportedError(
                    f"{each.shown} is no EFI program, which firmware could start: a kernel is one when it is built "
                    "with CONFIG_EFI_STUB and not compressed from outside; --extract-kernel takes others, too"
                )
        first = f"EFI/BOOT/BOOT{(machine or '').upper()}.EFI"
        if loader is not None and loader.program.architecture != found.program.architecture:
            raise OutputUnsupportedError(
                f"{loader.shown} is for {loader.program.architecture}, and {found.shown} for "
                f"{found.program.architecture}"
            )
        if name == "uki":
            if options.initrd is not None or options.cmdline is not None:
                raise UsageError(
                    f"{found.shown} is a UKI, which has its own initrd and command line; leave --initrd and --cmdline "
                    "out, or name a kernel with --kernel"
                )
            if options.boot_loader is None or loader is None:
                return {first: self.files["uki"]}
            return {first: self.files["loader"], f"EFI/Linux/{_safe(found.version)}.efi": self.files["uki"]}
        if loader is None:
            if self.boot.initrd is None and options.cmdline is None:
                return {first: self.files["kernel"]}
            raise OutputUnsupportedError(
                f"no boot loader gives {found.shown} its {'command line' if self.boot.initrd is None else 'initrd'}: "
                f"the image has no {LOADERS.format(machine)}; name one with --boot-loader FILE, or a UKI with --kernel "
                "FILE, or let the kernel start without with --initrd none and no --cmdline"
            )
        version = _safe(found.version)
        made: dict[str, bytes | Path] = {first: self.files["loader"], f"linux/{version}/vmlinuz": self.files["kernel"]}
        entry = {"title": f"Linux {version}", "version": version, "linux": f"/linux/{version}/vmlinuz"}
        if self.boot.initrd is not None:
            made[f"linux/{version}/initrd"] = self.files["initrd"]
            entry["initrd"] = f"/linux/{version}/initrd"
        entry["options"] = words
        made[f"loader/entries/{version}.conf"] = "".join(f"{key} {value}\n" for key, value in entry.items()).encode()
        return made

    def set_aside(self, folder: Path, words: str) -> None:
        """Moves kernel, initrd and UKI into a folder, and writes the command line there. Raises OSError."""
        for name, path in self.files.items():
            if name != "loader":
                path.rename(folder / _NAMES[name])
        (folder / COMMAND_LINE).write_text(f"{words}\n")


def stage_boot(boot: Boot, folder: Path, digests: Mapping[str, str]) -> StagedBoot:
    """Copies what there is to boot.

    Args:
        boot: what there is.
        folder: an empty one.
        digests: what some of the files must have, by the names of options.

    Raises:
        FileError: one cannot be read, or is not what it was.
    """
    files, found = {}, {}
    for name, own in _NAMES.items():
        source: Found | None = getattr(boot, name)
        if source is None:
            continue
        files[name] = folder / own
        found[name] = source.copy(files[name])
        wanted = digests.get({"uki": "kernel", "loader": "boot_loader"}.get(name, name))
        if wanted is not None and not source.is_of_image and wanted != found[name]:
            raise FileError(f"{source.shown} was changed while it was read; try again", path=source.shown)
    return StagedBoot(boot, files, found)


def command_line(words: str | None, *, root: str, root_hash: str, partition: uuid.UUID) -> str:
    """The command line of a kernel that finds this disk's root.

    Args:
        words: what was asked for; `{root_hash}` and `{partuuid}` in it are filled in. Where they name no root, ours
            come first.
        root: format of the root filesystem.
        root_hash: of a sealed one, in hexadecimal; else "".
        partition: UUID of the root's partition.
    """
    words = (words or "").strip().replace("{root_hash}", root_hash).replace("{partuuid}", str(partition))
    if re.search(r"(?:^|\s)(?:root|roothash)=", words):
        return words
    if root_hash:
        # As systemd's generators read it (systemd-veritysetup-generator(8)).
        own = f"root=/dev/mapper/root roothash={root_hash} rootfstype={root} ro"
    else:
        own = f"root=PARTUUID={partition} rootfstype={root} rw"
    return f"{own} {words}".rstrip()


def _safe(version: str) -> str:
    """A version as a name of a file, of characters that FAT and boot loaders take."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", version)[:100].strip(".") or "unknown"

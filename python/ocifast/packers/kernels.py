"""The kernel of a disk, with what it boots with: out of the image, or from files."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path

from ocifast import _core
from ocifast.errors import FileError, OutputUnsupportedError, PathNotFoundError, UsageError
from ocifast.packers.efi import EFI_NAMES, Program, look, runs_on
from ocifast.packers.versions import compare_versions
from ocifast.patterns import pattern
from ocifast.records import dataclass

__all__ = ["IMAGE", "LOADERS", "NONE", "Boot", "Found", "find_boot"]

IMAGE, NONE = "image", "none"
"""Words for where something is: the image has it, and there shall be none. `image:PATH` is a path in the image."""

_MODULES = ("/usr/lib/modules", "/lib/modules")
_UKIS = ("/boot/EFI/Linux", "/boot/efi/EFI/Linux", "/efi/EFI/Linux")
_KERNELS = ("vmlinuz", "bzImage", "Image", "kernel", "vmlinux")
"""Names of kernels, the one that is taken first of the same version first."""
_INITRDS = ("initrd{}", "initrd.img{}", "initrd{}.img", "initramfs{}.img", "initramfs{}")
_LEFT_BEHIND = pattern(r"\.(?:old|bak|sig|hmac|p7s|map|dpkg-\w+)$")
LOADERS = "/usr/lib/systemd/boot/efi/systemd-boot{}.efi"
"""Where images have systemd-boot, by `EFI_NAMES`."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Found:
    """A file, and what it is.

    Attributes:
        shown: where it was found, for messages: a path of this machine, or `image:PATH`.
        size: bytes.
        read: reads up to so many bytes at an offset.
        program: what its first bytes say.
        version: of the kernel in it, or of the kernel that it is for; "" where nothing tells.
    """

    shown: str
    size: int
    read: Callable[[int, int], bytes]
    program: Program = field(default_factory=Program)
    version: str = ""

    @property
    def is_of_image(self) -> bool:
        """Whether the image has it."""
        return self.shown.startswith(f"{IMAGE}:")

    def copy(self, to: Path) -> str:
        """Writes its bytes to a new file. Returns their digest. Raises FileError, and OSError for the new file."""
        hasher = _core.Hasher()
        with to.open("xb") as file:
            at = 0
            while piece := self.read(at, _PIECE):
                hasher.update(piece)
                file.write(piece)
                at += len(piece)
        return hasher.digest()


@dataclass(frozen=True)
class Boot:
    """What there is to boot.

    Attributes:
        uki: a unified kernel image.
        kernel: a kernel that is a file of its own.
        initrd: what belongs to that kernel.
        loader: what starts a kernel with an initrd and a command line.
    """

    uki: Found | None = None
    kernel: Found | None = None
    initrd: Found | None = None
    loader: Found | None = None


def find_boot(
    tree: _core.Tree, *, kernel: str | None, initrd: str | None, loader: str | None, architecture: str | None
) -> Boot:
    """Finds what there is to boot.

    Links in the image are followed inside it. Of several kernels the one of the newest version is taken, by the order
    of the Version Format Specification (uapi-group.org).

    Args:
        tree: of the image.
        kernel: `IMAGE`, `image:PATH` or a file; None for `IMAGE`.
        initrd: the same, or `NONE`; None for the one that the image has for a kernel out of it.
        loader: the same; None for one that the image has.
        architecture: of the image; None where nobody knows.

    Raises:
        OutputUnsupportedError: the image has no kernel, or one of these is for another machine.
        PathNotFoundError, FileError: something that was named is not there.
        UsageError: something that was named is empty.
    """
    image = _Image(tree)
    if kernel is None or kernel == IMAGE:
        uki, own = _newest(image.ukis()), _newest(image.kernels())
    else:
        found = image.named(kernel)
        uki, own = (found, None) if found.program.is_uki else (None, found)
    starts = own or uki
    if starts is None:
        raise OutputUnsupportedError(
            "the image has no kernel: there is no /boot/vmlinuz-*, no /usr/lib/modules/*/vmlinuz, and no UKI (*.efi) "
            f"there or in {_UKIS[0]}; name one with --kernel FILE or --kernel image:PATH"
        )
    made = Boot(uki, own, _initrd(image, initrd, own), _loader(image, loader, starts))
    for each in filter(None, (uki, own, made.loader)):
        if architecture is not None and not runs_on(each.program, architecture):
            raise OutputUnsupportedError(
                f"{each.shown} is for {each.program.architecture}, and the image for {architecture}; name another "
                "with --kernel or --boot-loader"
            )
    return made


def _newest(found: Iterator[Found]) -> Found | None:
    """The one of the newest version, of equals the first."""
    best: Found | None = None
    for each in found:
        if best is None or compare_versions(each.version, best.version) > 0:
            best = each
    return best


def _initrd(image: _Image, where: str | None, kernel: Found | None) -> Found | None:
    if where == NONE:
        return None
    if where is not None and where != IMAGE:
        return image.named(where)
    version = kernel.version if kernel is not None else ""
    # What belongs to the image's kernel is for no other.
    found = image.initrd(version) if where == IMAGE or (kernel is not None and kernel.is_of_image) else None
    if found is None and where == IMAGE:
        raise OutputUnsupportedError(
            f"the image has no initrd for the kernel {version}: there is no /boot/initrd.img-{version}, no "
            f"/boot/initramfs-{version}.img and no /usr/lib/modules/{version}/initrd; name one with --initrd FILE or "
            "--initrd image:PATH"
        )
    return found


def _loader(image: _Image, where: str | None, kernel: Found) -> Found | None:
    if where == NONE:
        return None
    if where is not None and where != IMAGE:
        return image.named(where)
    found = image.loader(kernel.program.architecture)
    if found is None and where == IMAGE:
        raise OutputUnsupportedError(f"the image has no {LOADERS.format('*')}; name one with --boot-loader FILE")
    return found


class _Image:
    """An image's tree, where boot files are looked for."""

    def __init__(self, tree: _core.Tree) -> None:
        self._tree = tree

    def named(self, where: str) -> Found:
        """What is named: a path in the image behind `image:`, else a file."""
        found = self._file(where.partition(":")[2]) if where.startswith(f"{IMAGE}:") else _local(where)
        if found is None:
            raise PathNotFoundError(f"the image has no regular file {where.partition(':')[2]}")
        if not found.size:
            raise UsageError(f"{where} is empty")
        program = look(found.read)
        return replace(found, program=program, version=program.release or _version(where))

    def kernels(self) -> Iterator[Found]:
        """Kernels that are files of their own."""
        for folder, version in self._versions():
            for name in _KERNELS:
                yield from self._kernel(f"{folder}/{name}", version)
        names = self._names("/boot")
        for kind in _KERNELS:
            for name in names:
                if (name == kind or name.startswith(f"{kind}-")) and not _LEFT_BEHIND.search(name):
                    yield from self._kernel(f"/boot/{name}", _version(name))

    def ukis(self) -> Iterator[Found]:
        """Unified kernel images."""
        places = [(folder, version) for folder, version in self._versions()] + [(folder, "") for folder in _UKIS]
        for folder, version in places:
            for name in self._names(folder):
                if not name.lower().endswith(".efi"):
                    continue
                for found in self._kernel(f"{folder}/{name}", version or name[:-4]):
                    if found.program.is_uki:
                        yield found

    def initrd(self, version: str) -> Found | None:
        """What the image has for a kernel of this version."""
        end = f"-{version}" if version else ""
        paths = [f"/boot/{name.format(end)}" for name in _INITRDS]
        if version:
            paths = [f"{folder}/{version}/{name.format('')}" for folder in _MODULES for name in _INITRDS] + paths
        return next(filter(None, map(self._file, paths)), None)

    def loader(self, architecture: str | None) -> Found | None:
        """systemd-boot, for a machine."""
        name = EFI_NAMES.get(architecture or "")
        found = None if name is None else self._file(LOADERS.format(name))
        return None if found is None else replace(found, program=look(found.read))

    def _kernel(self, path: str, version: str) -> Iterator[Found]:
        found = self._file(path)
        if found is not None and found.size:
            yield replace(found, program=look(found.read), version=version)

    def _versions(self) -> Iterator[tuple[str, str]]:
        """Folders of modules, each once, and the versions that they are named after."""
        seen = set()
        for folder in _MODULES:
            for version in self._names(folder):
                path = f"{folder}/{version}"
                try:
                    real = self._tree.resolve(path.strip("/").encode("utf-8", "surrogateescape"))
                except PathNotFoundError:
                    continue
                if real not in seen:
                    seen.add(real)
                    yield path, version

    def _names(self, folder: str) -> list[str]:
        try:
            children = self._tree.children(folder.strip("/").encode())
        except PathNotFoundError:
            return []
        return [row[0].rpartition(b"/")[2].decode("utf-8", "surrogateescape") for row in children]

    def _file(self, path: str) -> Found | None:
        key = path.strip("/").encode("utf-8", "surrogateescape")
        try:
            row = self._tree.stat(key)
        except PathNotFoundError:
            return None
        if row[1] != "file":
            return None
        return Found(f"{IMAGE}:/{path.strip('/')}", row[8], lambda offset, length: self._tree.read(key, offset, length))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}", path=str(path)) from error


def _local(where: str) -> Found:
    """A file of this machine. Raises FileError."""
    path = Path(where)

    def read(offset: int, length: int) -> bytes:
        with _readable(path), path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    with _readable(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{where} is no regular file", path=where)
    return Found(where, status.st_size, read)


def _version(name: str) -> str:
    """What stands behind the first hyphen of a file's name, or the folder of modules that it is in."""
    found = re.search(r"/lib/modules/([^/]+)/", name)
    return found[1] if found else name.rpartition("/")[2].partition("-")[2]

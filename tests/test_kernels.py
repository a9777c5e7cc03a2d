"""What boots a disk: where it is found in an image, which of several is taken, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from ocifast import _core
from ocifast.errors import FileError, OcifastError, OutputUnsupportedError, PathNotFoundError, UsageError
from ocifast.packers.efi import Program, look
from ocifast.packers.kernels import Boot, find_boot
from ocifast.packers.options import DiskOptions, PackOptions
from ocifast.packers.versions import compare_versions
from ocifast.planned import plan_outputs

from tests.support.efi import MACHINES, efi_program, uki
from tests.support.layers import TarBuilder
from tests.support.pack import flattened

LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
EFI = efi_program()


def find(tar: TarBuilder, *, architecture: str | None = "amd64", **where: str | None) -> Boot:
    with flattened([tar]) as tree:
        return found(tree, architecture, **where)


def found(tree: _core.Tree, architecture: str | None, **where: str | None) -> Boot:
    chosen = {"kernel": None, "initrd": None, "loader": None, **where}
    return find_boot(tree, architecture=architecture, **chosen)


def names(boot: Boot) -> list[str | None]:
    return [None if each is None else each.shown for each in (boot.uki, boot.kernel, boot.initrd, boot.loader)]


@pytest.mark.parametrize(
    ("files", "kernel", "initrd"),
    [
        # Debian, Fedora, Arch, Alpine, and an image that keeps all with its modules.
        (["boot/vmlinuz-6.1.0-9-amd64", "boot/initrd.img-6.1.0-9-amd64"], 0, 1),
        (["boot/vmlinuz-6.9.7-200.fc40", "boot/initramfs-6.9.7-200.fc40.img"], 0, 1),
        (["boot/vmlinuz-linux", "boot/initramfs-linux.img"], 0, 1),
        (["boot/vmlinuz-virt", "boot/initramfs-virt"], 0, 1),
        (["usr/lib/modules/6.12/vmlinuz", "usr/lib/modules/6.12/initrd"], 0, 1),
        (["usr/lib/modules/6.12/vmlinuz", "usr/lib/modules/6.12/initramfs.img"], 0, 1),
        (["lib/modules/6.12/vmlinuz"], 0, None),
        (["boot/vmlinux-6.1", "boot/vmlinuz-6.1"], 1, None),
        (["boot/Image-6.1"], 0, None),
        (["boot/vmlinuz"], 0, None),
        # The newest is taken, by its version; an initrd of another version is none of its.
        (["boot/vmlinuz-6.1.0-9-amd64", "boot/vmlinuz-6.1.0-30-amd64", "boot/initrd.img-6.1.0-9-amd64"], 1, None),
        (["boot/vmlinuz-6.9", "usr/lib/modules/6.12/vmlinuz"], 1, None),
        (["boot/vmlinuz-0-rescue-1234", "boot/vmlinuz-6.9"], 1, None),
        (["boot/vmlinuz-6.9", "boot/vmlinuz-7.0.old", "boot/vmlinuz-7.0.hmac"], 0, None),
    ],
)
def test_kernels_of_distributions(files: list[str], kernel: int, initrd: int | None) -> None:
    tar = TarBuilder()
    for path in files:
        tar.file(path, EFI)
    boot = find(tar)
    assert names(boot)[1:3] == [None if index is None else f"image:/{files[index]}" for index in (kernel, initrd)]
    assert boot.kernel is not None
    assert boot.kernel.program == Program("amd64", True, {".text": (0x1000, 4)}, "")


def test_links_are_followed_inside_the_image() -> None:
    tar = TarBuilder().symlink("lib", "usr/lib").file("usr/lib/modules/6.12/vmlinuz", EFI)
    tar.symlink("boot/vmlinuz-6.12", "/usr/lib/modules/6.12/vmlinuz").symlink("boot/vmlinuz-9", "../../../etc/passwd")
    tar.symlink("boot/vmlinuz-8", "/nowhere").directory("boot/vmlinuz-7").fifo("boot/vmlinuz-10").file("etc/x", b"")
    assert names(find(tar)) == [None, "image:/usr/lib/modules/6.12/vmlinuz", None, None]


@pytest.mark.parametrize(
    "path", ["boot/EFI/Linux/app-6.1.efi", "boot/efi/EFI/Linux/app.efi", "usr/lib/modules/6.1/app.efi"]
)
def test_unified_kernel_images(path: str) -> None:
    tar = TarBuilder().file(path, uki()).file("boot/vmlinuz-6.5", EFI).file("boot/EFI/Linux/other.efi", EFI)
    assert names(find(tar)) == [f"image:/{path}", "image:/boot/vmlinuz-6.5", None, None]
    assert names(find(tar, kernel="image:/boot/vmlinuz-6.5"))[0] is None
    assert names(find(tar, kernel=f"image:{path}"))[:2] == [f"image:/{path}", None]


def test_what_is_named(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("kernel", "initrd", "loader")}
    Path(files["kernel"]).write_bytes(efi_program(release="6.6.1-mine"))
    Path(files["initrd"]).write_bytes(b"cpio")
    Path(files["loader"]).write_bytes(EFI)
    tar = TarBuilder().file("boot/vmlinuz-6.1", EFI).file("boot/initrd.img-6.1", b"1").file(LOADER, EFI)
    assert names(find(tar)) == [None, "image:/boot/vmlinuz-6.1", "image:/boot/initrd.img-6.1", f"image:/{LOADER}"]
    # The image's initrd is for no kernel but its own.
    boot = find(tar, kernel=files["kernel"])
    assert names(boot) == [None, files["kernel"], None, f"image:/{LOADER}"]
    assert boot.kernel is not None
    assert boot.kernel.version == "6.6.1-mine"
    assert names(find(tar, **files)) == [None, *files.values()]
    assert names(find(tar, initrd="none", loader="none")) == [None, "image:/boot/vmlinuz-6.1", None, None]
    assert names(find(tar, initrd="image:/boot/initrd.img-6.1"))[2] == "image:/boot/initrd.img-6.1"


@pytest.mark.parametrize("architecture", MACHINES)
def test_what_a_program_is(architecture: str) -> None:
    def told(data: bytes) -> Program:
        return look(lambda offset, length: data[offset : offset + length])

    made = efi_program(architecture)
    assert told(made).architecture == architecture
    assert told(made).is_efi
    assert not told(efi_program(architecture, subsystem=3)).is_efi
    assert told(uki(architecture)).is_uki
    assert told(uki(architecture, "6.6")).release == "6.6"
    # Nothing that is cut off is more than unknown.
    for size in (*range(0x80), *range(0x3F0, 0x520, 7), 0x1000):
        told(uki(architecture)[:size])
    assert told(b"\x7fELF\x02\x01" + bytes(12) + (183).to_bytes(2, "little")).architecture == "arm64"
    assert told(b"\x7fELF\x02\x02" + bytes(12) + (22).to_bytes(2, "big")).architecture == "s390x"
    assert told(bytes(56) + b"ARM\x64").architecture == "arm64"
    assert told(b"\x1f\x8b\x08") == Program()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"kernel": "nowhere"}, "nowhere: No such file or directory"),
        ({"kernel": "folder"}, "folder is no regular file"),
        ({"kernel": "empty"}, "empty is empty"),
        ({"kernel": "image:/boot/nothing"}, "the image has no regular file /boot/nothing"),
        ({"initrd": "image:/boot"}, "the image has no regular file /boot"),
        ({"initrd": "image"}, "the image has no initrd for the kernel 6.1: there is no /boot/initrd.img-6.1, no "),
        ({"loader": "image"}, "the image has no /usr/lib/systemd/boot/efi/systemd-boot*.efi; name one with "),
        ({"kernel": "image:/arm"}, "image:/arm is for arm64, and the image for amd64; name another with "),
        ({"loader": "image:/arm"}, "image:/arm is for arm64, and the image for amd64; name another with "),
    ],
)
def test_what_cannot_be_had(where: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("empty").touch()
    tar = TarBuilder().file("boot/vmlinuz-6.1", EFI).file("arm", efi_program("arm64"))
    with pytest.raises(OcifastError) as caught:
        find(tar, **where)
    assert caught.value.message.startswith(says)
    assert isinstance(caught.value, (FileError, OutputUnsupportedError, PathNotFoundError, UsageError))


def test_an_image_without_a_kernel_says_where_it_was_looked_for() -> None:
    with pytest.raises(OutputUnsupportedError, match=r"/boot/vmlinuz-\*.*/usr/lib/modules/\*/vmlinuz.*--kernel FILE"):
        find(TarBuilder().file("boot/config-6.1", b"y"))


def test_kernels_of_other_machines_that_start_the_image() -> None:
    tar = TarBuilder().file("boot/vmlinuz-6.1", efi_program("amd64"))
    assert find(tar, architecture="386").kernel is not None
    assert find(tar, architecture=None).kernel is not None
    with pytest.raises(OutputUnsupportedError, match="is for amd64, and the image for arm64"):
        find(tar, architecture="arm64")


def test_the_order_of_versions() -> None:
    ordered = [
        "~rc1",
        "",
        "0-rescue",
        "5.10",
        "6.1~rc1",
        "6.1",
        "6.1-9",
        "6.1-30",
        "6.1^1",
        "6.1.virt",
        "6.1.0-9",
        "6.1.0-30",
    ]
    ordered += ["6.1.1", "6.1.30", "6.12"]
    for first, second in itertools.combinations(ordered, 2):
        assert compare_versions(first, second) < 0 < compare_versions(second, first), (first, second)
    assert compare_versions("6.1.a", "6.1.A") > 0
    assert compare_versions("6.1", "6.01") == compare_versions("6.1+", "6.1") == 0


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"esp_size": 33 << 20},
            "an EFI system partition has 35651584 to 1099511627776 bytes, in blocks of 4096, not ",
        ),
        ({"esp_size": (64 << 20) + 1}, "an EFI system partition has "),
        ({"cmdline": "quiet\noptions"}, "a kernel's command line is one line without control characters"),
        ({"kernel": ""}, "a kernel, an initrd or a boot loader is image, image:PATH or a file, not nothing"),
        ({"kernel": "none"}, "a disk that boots has a kernel; "),
    ],
)
def test_options_that_make_no_sense(chosen: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        DiskOptions(**chosen)  # type: ignore[arg-type]


def test_where_a_kernel_is_taken_and_not_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing takes a kernel without an EFI system partition"):
        plan_outputs(["a.disk"], None, PackOptions(kernel="image", esp=False))
    with pytest.raises(UsageError, match="a kernel is extracted beside a disk"):
        plan_outputs(["a.erofs"], None, PackOptions(), (), (), str(tmp_path))
    with pytest.raises(FileError, match="there is no folder"):
        plan_outputs(["a.disk"], None, PackOptions(), (), (), str(tmp_path / "a/b"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is there and is no directory"):
        plan_outputs(["a.disk"], None, PackOptions(), (), (), str(tmp_path / "file"))

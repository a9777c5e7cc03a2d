"""ext4 images: the kernel mounts them, sees the tree and writes to them; e2fsck finds nothing wrong before or after."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from ocifast.errors import OutputUnsupportedError, UsageError
from ocifast.packers import PackOptions, choose_backend, load_format
from ocifast.packers.ext4 import FREE_SPACE

from tests.support.layers import TarBuilder
from tests.support.oracle import dump_mounted, mounted
from tests.support.pack import Packed, pack
from tests.support.run import run
from tests.support.samples import everything

pytestmark = pytest.mark.root


def check(image: Path) -> None:
    """Fails when e2fsck finds anything at all."""
    run("e2fsck", "-fn", image)


def superblock(image: Path) -> dict[str, str]:
    """What dumpe2fs says of the superblock."""
    lines = run("dumpe2fs", "-h", image).decode().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def whole_times() -> TarBuilder:
    """Times that need all 34 bits of seconds and all nanoseconds."""
    tar = TarBuilder()
    for seconds, nanoseconds in [(-1, 1), (-(1 << 31), 0), ((1 << 31), 999_999_999), ((1 << 34) - (1 << 31) - 1, 5)]:
        tar.file(f"at{seconds}", mtime=(seconds, nanoseconds))
    return tar


def big_folder() -> TarBuilder:
    """Names enough for an index, half of them with bytes over 127."""
    tar = TarBuilder()
    for number in range(3000):
        tar.file(b"folder/%d-%s" % (number, b"\xe9" * (number % 50) if number % 2 else b"e" * (number % 50)))
    return tar


def attributes() -> TarBuilder:
    """Attributes inside the inode, in a block, in shared blocks, and in inodes of their own."""
    tar = TarBuilder()
    for number in range(1100):
        tar.file(f"shared/{number}", xattrs={"user.same": b"s" * 200})
    tar.file("four", xattrs={f"user.{number}": b"v" * 900 for number in range(4)})
    tar.file("huge", xattrs={"user.huge": bytes(range(256)) * 256, "user.small": b"1", "trusted.x": b"2" * 5000})
    tar.directory(".", xattrs={"user.root": b"r" * 20_000})
    tar.symlink("sym", "to", xattrs={"trusted.of-a-link": b"l" * 500})
    return tar


@pytest.mark.tools
@pytest.mark.parametrize("journal", [False, True], ids=["plain", "journal"])
@pytest.mark.parametrize("layer", [TarBuilder, everything, whole_times, big_folder, attributes])
def test_the_kernel_sees_the_tree(layer: type[TarBuilder], journal: bool, tmp_path: Path) -> None:
    packed = pack([layer()], tmp_path / "a.ext4", "ext4", options=PackOptions(journal=journal))
    check(packed.path)
    assert packed.losses == []
    assert dump_mounted(packed.path, "ext4", tmp_path / "mount") == packed.dump


@pytest.mark.parametrize("journal", [False, True], ids=["plain", "journal"])
def test_the_kernel_writes_to_it(journal: bool, tmp_path: Path) -> None:
    options = PackOptions(journal=journal, free_space=20 << 20)
    image = pack([everything(), big_folder(), attributes()], tmp_path / "a.ext4", "ext4", options=options).path
    folder = tmp_path / "mount"
    folder.mkdir()
    run("mount", "-o", "loop", image, folder)
    try:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize
        assert free >= 20 << 20
        (folder / "new").write_bytes(b"n" * (free - (1 << 20)))
        for number in range(0, 3000, 7):
            (folder / f"folder/more-{number}").touch()
            (folder / f"shared/{number % 1100}").unlink(missing_ok=True)
        os.removexattr(folder / "huge", "user.huge")
        os.setxattr(folder / "shared/1", "user.same", b"other")
        os.setxattr(folder / "four", "user.0", b"v" * 60)
        run("rm", "-r", folder / "etc", folder / "holes")
        run("setfacl", "-m", "u:77:rwx", folder / "acl")
    finally:
        run("umount", folder)
    check(image)


@pytest.mark.tools
def test_without_a_journal_there_is_none(tmp_path: Path) -> None:
    for journal in (False, True):
        image = pack([everything()], tmp_path / str(journal), "ext4", options=PackOptions(journal=journal)).path
        assert ("has_journal" in superblock(image)["Filesystem features"].split()) is journal


@pytest.mark.parametrize("free", [0, 1, 10 << 20, 3 << 30])
def test_there_is_as_much_free_space_as_asked_for(free: int, tmp_path: Path) -> None:
    image = pack([everything()], tmp_path / "a.ext4", "ext4", options=PackOptions(free_space=free)).path
    with mounted(image, "ext4", tmp_path / "mount") as folder:
        seen = os.statvfs(folder)
    assert free <= seen.f_bavail * 4096 <= free + (1 << 20)
    assert seen.f_favail >= free // 16384
    assert image.stat().st_blocks * 512 < 16 << 20, "free space takes up disk"


@pytest.mark.tools
def test_free_space_by_default(tmp_path: Path) -> None:
    image = pack([TarBuilder()], tmp_path / "a.ext4", "ext4").path
    assert int(superblock(image)["Free blocks"]) * 4096 >= FREE_SPACE


@pytest.mark.tools
def test_a_size_is_kept_and_one_too_small_names_the_least(tmp_path: Path) -> None:
    image = pack([everything()], tmp_path / "a.ext4", "ext4", options=PackOptions(size=2 << 30)).path
    assert image.stat().st_size == 2 << 30
    check(image)
    with pytest.raises(OutputUnsupportedError, match="at least") as caught:
        pack([everything()], tmp_path / "b.ext4", "ext4", options=PackOptions(size=1 << 20))
    least = int(re.findall(r"\d+", str(caught.value).partition("at least")[2])[0])
    image = pack([everything()], tmp_path / "c.ext4", "ext4", options=PackOptions(size=least)).path
    check(image)
    assert image.stat().st_size == least


@pytest.mark.parametrize("size", [0, 1, 4095])
def test_a_size_of_less_than_a_block_is_refused_in_one_line(tmp_path: Path, size: int) -> None:
    with pytest.raises(OutputUnsupportedError, match=rf"at least \d+ bytes, not {size}") as caught:
        pack([everything()], tmp_path / "a.ext4", "ext4", options=PackOptions(size=size))
    assert "\n" not in str(caught.value)


@pytest.mark.tools
def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    def made(name: str) -> Packed:
        return pack([everything(), attributes()], tmp_path / name, "ext4", options=PackOptions(journal=True))

    assert made("one").path.read_bytes() == made("two").path.read_bytes()
    assert superblock(tmp_path / "one")["Filesystem UUID"] == superblock(tmp_path / "two")["Filesystem UUID"]


def test_what_a_layer_hides_is_not_in_the_image(tmp_path: Path) -> None:
    secret = b"a secret that an upper layer deletes " * 100
    layers = [TarBuilder().file("secret", secret).file("kept", b"k"), TarBuilder().whiteout("secret")]
    image = pack(layers, tmp_path / "a.ext4", "ext4").path
    assert secret[:37] not in image.read_bytes()


def test_a_time_clamped_is_no_loss(tmp_path: Path) -> None:
    packed = pack([TarBuilder().file("late", mtime=(1 << 40, 5))], tmp_path / "a.ext4", "ext4", clamp_mtime=1000)
    assert packed.losses == []
    assert "/late file 0644 0 0 1000.000000000 " in dump_mounted(packed.path, "ext4", tmp_path / "mount")


@pytest.mark.tools
def test_what_is_lost_is_said(tmp_path: Path) -> None:
    tar = TarBuilder().file("late", mtime=(1 << 40, 5)).file("other", xattrs={"other.class": b"1", "user.kept": b"2"})
    packed = pack([tar], tmp_path / "a.ext4", "ext4")
    assert packed.lost == ["mtime late", "xattr other"]
    check(packed.path)


def test_options_that_ext4_lacks_are_refused() -> None:
    for options in (
        PackOptions(compression="zstd"),
        PackOptions(size=1 << 30, free_space=0),
        PackOptions(block_size=1),
    ):
        with pytest.raises(UsageError):
            choose_backend(load_format("ext4"), options)

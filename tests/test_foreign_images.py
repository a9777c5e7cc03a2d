"""Images of other tools, read by our readers: the tree is the one that the kernel shows when it mounts them."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from ocifast import _core
from ocifast.errors import FilesystemError

from tests.support.layers import TarBuilder
from tests.support.oracle import dump_cpio, dump_mounted, dump_tar
from tests.support.run import run
from tests.support.samples import everything

pytestmark = [pytest.mark.root, pytest.mark.tools]

EROFS = {
    "plain": [],
    "lz4": ["-zlz4"],
    "big-clusters": ["-zlz4", "-C65536"],
    "full-index": ["-zlz4", "-Elegacy-compress"],
    "tails": ["-zlz4hc", "-Eztailpacking"],
    "big-tails": ["-zlz4hc", "-Eztailpacking", "-C32768"],
    "chunks": ["--chunksize=4096"],
    "long-inodes": ["-Eforce-inode-extended,noinline_data"],
    "short-inodes": ["-Eforce-inode-compact", "-T5", "--all-root"],
    "shared-attributes": ["-x1"],
}
EXT4 = {
    "usual": [],
    "small-blocks": ["-b1024"],
    "small-inodes": ["-I128"],
    "narrow": ["-O^64bit,^metadata_csum,^dir_index,^has_journal,^flex_bg"],
    "values": ["-Oea_inode", "-I1024"],
}
SQUASHFS = {
    "gzip": ["-comp", "gzip"],
    "xz": ["-comp", "xz", "-b", "65536"],
    "lz4": ["-comp", "lz4"],
    "zstd": ["-comp", "zstd", "-b", "4096"],
    "plain": ["-noI", "-noD", "-noF", "-noX"],
    "no-fragments": ["-no-fragments", "-no-exports"],
    "all-fragments": ["-always-use-fragments", "-no-duplicates"],
    "filters": ["-comp", "xz", "-Xbcj", "x86"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, long directories, and files that compress well, badly and in part."""
    root = tmp_path_factory.mktemp("tree") / "root"
    root.mkdir()
    tar = everything()
    chance = random.Random(7)
    words = [chance.randbytes(chance.randrange(2, 9)) for _ in range(200)]
    for size in (1, 4095, 4096, 4097, 300_000):
        text = b"".join(chance.choice(words) for _ in range(size // 4 + 1))[:size]
        noise = chance.randbytes(size)
        tar.file(f"text-{size}", text, mtime=20).file(f"noise-{size}", noise, mtime=20)
        tar.file(f"mixed-{size}", (text[:20_000] + noise[:9000]) * 3, mtime=20)
        tar.file(f"zeros-{size}", bytes(size), mtime=20)
    tar.file("text", b"".join(chance.choice(words) for _ in range(300_000)), mtime=20)
    tar.directory("many", mtime=21)
    for index in range(900):
        tar.file(f"many/{index:05}-{'n' * (index % 60)}", b"%d" % index, mtime=22)
    archive = root.parent / "tree.tar"
    archive.write_bytes(tar.build())
    run("tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-S", "-C", root, "-f", archive)
    # mkfs.erofs 1.5 gives up on the first, mke2fs 1.47 on the second.
    (root / ("n" * 255)).unlink()
    (root / "long").unlink()
    # What is smaller is read as fast, many times.
    (root / "holes").unlink()
    with (root / "holes").open("wb") as file:
        file.write(b"a" * 512)
        file.seek(1 << 20)
        file.write(b"b" * 512)
        file.truncate(3 << 20)
    (root / ("n" * 200)).write_bytes(b"long name")
    (root / "long").symlink_to("t/" * 400)
    return root


def read(image: Path, name: str) -> str:
    return _core.read_image(image, name).dump().decode()


def same(image: Path, name: str, kind: str, folder: Path) -> None:
    found, expected = read(image, name), dump_mounted(image, kind, folder / "mounted")
    for one, other in zip(found.splitlines(), expected.splitlines(), strict=False):
        assert one == other
    assert found == expected


@pytest.mark.parametrize("options", EROFS.values(), ids=EROFS)
def test_mkfs_erofs(folder: Path, tmp_path: Path, options: list[str]) -> None:
    run("mkfs.erofs", *options, tmp_path / "image", folder)
    same(tmp_path / "image", "erofs", "erofs", tmp_path)


@pytest.mark.parametrize("options", EXT4.values(), ids=EXT4)
def test_mke2fs(folder: Path, tmp_path: Path, options: list[str]) -> None:
    run("mke2fs", "-q", "-t", "ext4", *options, "-d", folder, tmp_path / "image", "64M")
    same(tmp_path / "image", "ext4", "ext4", tmp_path)


@pytest.mark.parametrize("options", SQUASHFS.values(), ids=SQUASHFS)
def test_mksquashfs(folder: Path, tmp_path: Path, options: list[str]) -> None:
    run("mksquashfs", folder, tmp_path / "image", "-quiet", "-no-progress", *options)
    same(tmp_path / "image", "squashfs", "squashfs", tmp_path)


@pytest.mark.parametrize("compressor", ["gzip", "zstd", "xz"])
def test_gensquashfs(folder: Path, tmp_path: Path, compressor: str) -> None:
    run("gensquashfs", "-q", "-k", "-c", compressor, "-D", folder, tmp_path / "image")
    same(tmp_path / "image", "squashfs", "squashfs", tmp_path)


def test_cpio(folder: Path, tmp_path: Path) -> None:
    listed = run("find", ".", "-mindepth", "0", "-print0", cwd=folder)
    archive = run("cpio", "-o", "-0", "-H", "newc", "--quiet", cwd=folder, stdin=listed)
    (tmp_path / "image").write_bytes(archive)
    assert read(tmp_path / "image", "cpio") == dump_cpio(tmp_path / "image", tmp_path / "extracted")


def test_tar(folder: Path, tmp_path: Path) -> None:
    names = ["-C", str(folder), "."]
    run(
        "tar",
        "-c",
        "--format=posix",
        "--numeric-owner",
        "--xattrs",
        "-S",
        "--sort=name",
        "-f",
        tmp_path / "image",
        *names,
    )
    # GNU tar keeps access and change times as well, which a tree has not.
    assert read(tmp_path / "image", "tar") == dump_tar(tmp_path / "image", tmp_path / "extracted")


def patched(image: Path, at: int, form: str, *values: int) -> None:
    data = bytearray(image.read_bytes())
    struct.pack_into(form, data, at, *values)
    image.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "at", "bit", "said"),
    [
        ("erofs", 1024 + 80, 0x80, "48bit"),
        ("erofs", 1024 + 80, 0x100, "metabox"),
        ("erofs", 1024 + 80, 1 << 30, "0x40000000"),
        ("ext4", 1024 + 0x60, 0x8000, "inline_data"),
        ("ext4", 1024 + 0x60, 0x4, "needs_recovery"),
        ("ext4", 1024 + 0x60, 1 << 30, "0x40000000"),
    ],
)
def test_unknown_features_are_refused_by_name(tmp_path: Path, name: str, at: int, bit: int, said: str) -> None:
    (tmp_path / "tree").mkdir()
    image = tmp_path / "image"
    if name == "erofs":
        run("mkfs.erofs", image, tmp_path / "tree")
    else:
        run("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", image, "4M")
    read(image, name)
    known = struct.unpack_from("<I", image.read_bytes(), at)[0]
    patched(image, at, "<I", known | bit)
    with pytest.raises(FilesystemError, match=f"needs features of {name} that are not known here: {said}"):
        read(image, name)


def test_devices_are_asked_for(folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "tree"
    small.mkdir()
    (small / "file").write_bytes(b"x" * 9000)
    run("mkfs.erofs", "--chunksize=4096", f"--blobdev={tmp_path / 'blob'}", tmp_path / "image", small)
    tree = _core.read_image(tmp_path / "image", "erofs")
    with pytest.raises(FilesystemError, match="its data are on device 1, which was not given"):
        tree.dump()


def test_a_builder_of_layers_makes_archives_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(TarBuilder().directory("d", mtime=1).file("d/f", b"1", mtime=2).build())
    assert [line.split(" ")[0] for line in read(tmp_path / "a.tar", "tar").splitlines()] == ["/", "/d", "/d/f"]

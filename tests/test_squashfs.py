"""squashfs images: the kernel mounts them and sees the tree, and so do the tools of others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ocifast import _core
from ocifast.errors import OutputUnsupportedError, UsageError
from ocifast.packers import PackOptions, choose_backend, load_format

from tests.support.edge import empty_files, write_layer
from tests.support.images import digest_of
from tests.support.layers import TarBuilder
from tests.support.oracle import assert_same_from_any_place, dump_mounted, dump_tar, dump_unsquashfs, mounted
from tests.support.pack import Packed, pack
from tests.support.run import run
from tests.support.samples import everything
from tests.support.shapes import attributes, contents, holes, names, owners, sizes, targets

pytestmark = pytest.mark.root

COMPRESSIONS = [
    PackOptions(compression=name, level=level, block_size=size, fragments=fragments)
    for name, level, size, fragments in [
        ("zstd", None, None, None),
        ("zstd", 1, 4096, False),
        ("zstd", 19, 1 << 20, None),
        ("gzip", None, None, None),
        ("gzip", 9, 1 << 20, False),
        ("xz", None, None, None),
        ("xz", None, 4096, None),
        ("lz4", None, None, None),
        ("lz4hc", None, 1 << 20, None),
        ("none", None, None, None),
        ("none", None, 4096, False),
    ]
]


def layers() -> list[TarBuilder]:
    secret = b"a secret that an upper layer deletes " * 30_000
    return [
        everything().file("secret", secret),
        contents().whiteout("secret").whiteout("big"),
        names().file("twin", b"twin" * 50_000),
        targets().file("other/twin", b"twin" * 50_000),
        holes(),
        owners().file("folder", b"now a file"),
    ]


def held(dump: str) -> str:
    """What squashfs holds of a dump: whole seconds since 1970, and no access lists."""
    lines = []
    for line in dump.splitlines():
        fields = line.split(" ")
        fields[5] = f"{max(0, int(fields[5].partition('.')[0]))}.000000000"
        fields[8] = ",".join(each for each in fields[8].split(",") if not each.startswith("system.")) or "-"
        lines.append(" ".join(fields) + "\n")
    return "".join(lines)


@pytest.mark.parametrize("layer", [TarBuilder, everything, owners, sizes, targets, names, attributes, holes])
def test_the_kernel_and_others_see_the_tree(layer: Callable[[], TarBuilder], tmp_path: Path) -> None:
    packed = pack([layer()], tmp_path / "a.squashfs", "squashfs")
    expected = held(packed.dump)
    assert dump_mounted(packed.path, "squashfs", tmp_path / "mount") == expected
    if layer is not attributes:
        # The file system below would have to hold them.
        assert dump_unsquashfs(packed.path, tmp_path / "unsquashfs") == expected


@pytest.mark.parametrize(
    "options", COMPRESSIONS, ids=lambda options: f"{options.compression}-{options.level}-{options.block_size}"
)
def test_every_compression_is_read(options: PackOptions, tmp_path: Path) -> None:
    packed = pack(layers(), tmp_path / "a.squashfs", "squashfs", options=options)
    expected = held(packed.dump)
    assert dump_mounted(packed.path, "squashfs", tmp_path / "mount") == expected
    assert dump_unsquashfs(packed.path, tmp_path / "unsquashfs") == expected
    assert b"a secret that" not in packed.path.read_bytes()
    said = run("unsquashfs", "-s", packed.path).decode()
    name = {"lz4hc": "lz4", "none": "gzip"}.get(options.compression or "", options.compression)
    assert f"Compression {name}\n" in said
    assert f"Block size {options.block_size or 131_072}\n" in said
    assert ("High Compression" in said) == (options.compression == "lz4hc")
    if options.level is not None:
        assert f"compression-level {options.level}\n" in said
    assert ("Number of fragments 0\n" in said) == (options.fragments is False)


@pytest.mark.tools
def test_the_tools_of_squashfs_tools_ng_read_it(tmp_path: Path) -> None:
    """All that it reads is compared through its tar."""
    packed = pack([everything(), holes(), owners()], tmp_path / "a.squashfs", "squashfs")
    (tmp_path / "a.tar").write_bytes(run("sqfs2tar", packed.path))
    # It leaves the root out.
    seen, expected = dump_tar(tmp_path / "a.tar", tmp_path / "tar"), held(packed.dump)
    assert seen.split("\n")[1:] == expected.split("\n")[1:]
    described = run("rdsquashfs", "--describe", packed.path).decode("utf-8", "surrogateescape")
    assert len(described.splitlines()) >= len(packed.dump.splitlines()) - 1


def test_files_are_read_from_any_place(tmp_path: Path) -> None:
    """In small pieces from the end to the start, and with some readers at once."""
    for options in COMPRESSIONS:
        image = pack([contents()], tmp_path / "a.squashfs", "squashfs", options=options, with_dump=False).path
        plain = pack([contents()], tmp_path / "b.erofs", "erofs", with_dump=False).path
        with mounted(image, "squashfs", tmp_path / "a") as ours, mounted(plain, "erofs", tmp_path / "b") as theirs:
            assert_same_from_any_place(ours / "large", (theirs / "large").read_bytes())
        image.unlink()
        plain.unlink()


def test_two_hundred_thousand_names_in_one_directory(tmp_path: Path) -> None:
    tar = TarBuilder()
    for number in range(200_000):
        tar.file(f"d/{number}", mode=0o600 + number % 64)
    image = pack([tar], tmp_path / "a.squashfs", "squashfs", with_dump=False).path
    with mounted(image, "squashfs", tmp_path / "mount") as folder:
        # Listing reads the blocks one after the other, looking up searches the index.
        listed = set(os.listdir(folder / "d"))  # noqa: PTH208
        assert listed == {str(number) for number in range(200_000)}
        for number in range(0, 200_000, 7):
            assert (folder / f"d/{number}").stat().st_mode & 0o777 == 0o600 + number % 64
        assert not any((folder / f"d/{number}x").exists() for number in range(0, 200_000, 1001))


@pytest.mark.tools
def test_a_million_entries_mount(tmp_path: Path) -> None:
    names = (b"folder-%d/file-number-%d" % (at // 1000, at) for at in range(1_000_000))
    layer = write_layer(tmp_path / "layer", empty_files(names, uid=7))
    image = pack([layer], tmp_path / "a.squashfs", "squashfs", with_dump=False).path
    with mounted(image, "squashfs", tmp_path / "mount") as folder:
        found = 0
        for at in range(1000):
            with os.scandir(folder / f"folder-{at}") as entries:
                found += sum(entry.name.startswith("file-number-") for entry in entries)
        assert found == 1_000_000
        assert (folder / "folder-999/file-number-999999").stat().st_uid == 7
        assert folder.stat().st_nlink == 1002


def test_a_file_handle_of_a_mounted_image_can_be_kept(tmp_path: Path) -> None:
    """The table of inodes by number is what serves files over NFS: Linux opens by a handle with it."""
    import ctypes

    image = pack([everything()], tmp_path / "a.squashfs", "squashfs", with_dump=False).path
    with mounted(image, "squashfs", tmp_path / "mount") as folder:
        libc = ctypes.CDLL(None, use_errno=True)
        handle = (ctypes.c_uint32 * 34)(128)
        mount_id = ctypes.c_int()
        place = os.fsencode(folder / "etc")
        assert libc.name_to_handle_at(-100, place, handle, ctypes.byref(mount_id), 0) == 0
        # What is known of names is forgotten.
        Path("/proc/sys/vm/drop_caches").write_text("2")
        root = os.open(folder, os.O_RDONLY)
        try:
            opened = libc.open_by_handle_at(root, handle, os.O_RDONLY)
            assert opened >= 0, os.strerror(ctypes.get_errno())
            assert os.path.samestat(os.fstat(opened), (folder / "etc").stat())
            os.close(opened)
        finally:
            os.close(root)


def many_owners(count: int) -> TarBuilder:
    """The root and its parents have 0:0."""
    tar = TarBuilder()
    for number in range(0, count, 2):
        tar.file(f"{number}", uid=number, gid=min(number + 1, count - 1))
    return tar


def test_65535_owners_and_groups(tmp_path: Path) -> None:
    image = pack([many_owners(65_535)], tmp_path / "a.squashfs", "squashfs", with_dump=False).path
    with mounted(image, "squashfs", tmp_path / "mount") as folder:
        for number in range(0, 65_535, 2):
            found = (folder / f"{number}").stat()
            assert (found.st_uid, found.st_gid) == (number, min(number + 1, 65_534))
    with pytest.raises(OutputUnsupportedError, match="squashfs holds 65535 different owners and groups"):
        pack([many_owners(65_536)], tmp_path / "b.squashfs", "squashfs", with_dump=False)


def test_an_image_is_taken_for_no_other_kind(tmp_path: Path) -> None:
    """The marks of HFS, minix and ext in the place of the first file's bytes, where nothing is compressed."""
    data = bytearray(8192)
    for at in range(0x300, 0x600, 2):
        data[at : at + 2] = b"H+"
    options = PackOptions(compression="none")
    image = pack([TarBuilder().file("a", bytes(data))], tmp_path / "a", "squashfs", options=options).path
    assert run("blkid", "-p", "-o", "value", "-s", "TYPE", image) == b"squashfs\n"
    with mounted(image, "squashfs", tmp_path / "mount") as folder:
        assert (folder / "a").read_bytes() == data


def test_threads_and_order_change_nothing(tmp_path: Path) -> None:
    blobs = [tar().build() for tar in (everything, sizes, names, contents, holes)]
    described = [(digest_of(layer), len(layer), digest_of(layer)) for layer in blobs]
    images = []
    for number, order in enumerate(([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1])):
        folder = tmp_path / f"work{number}"
        folder.mkdir()
        compression = _core.SquashfsCompression("zstd", threads=(1, 2, 5)[number])
        flattener = _core.Flattener(described, store=compression, folder=folder, decoders=number * 2 + 1)
        for layer in order if number else range(5):
            flattener.write(layer, blobs[layer])
            flattener.close_layer(layer)
        tree = flattener.finish()
        tree.write_squashfs(tmp_path / f"{number}", compression=compression, created=7, folder=folder)
        # Another compression than that of the blocks that are there: they are unpacked and packed again.
        other = _core.SquashfsCompression("gzip", block_size=65_536, threads=2)
        tree.write_squashfs(tmp_path / f"{number}.gzip", compression=other, created=7, folder=folder)
        images.append([(tmp_path / f"{number}{suffix}").read_bytes() for suffix in ("", ".gzip")])
    assert images[0] == images[1] == images[2]
    dumps = {dump_mounted(tmp_path / name, "squashfs", tmp_path / f"mount-{name}") for name in ("0", "0.gzip")}
    assert dumps == {held(tree.dump().decode())}


def test_every_store_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whether contents waited as blocks, as they were, or in an image of another format."""
    blob = contents().whiteout("gone").file("zz/large", b"large" * 300_000).build()
    compression = _core.SquashfsCompression("zstd", threads=2)
    images: list[bytes] = []
    for store in ("spool", "erofs", "directory", compression):
        folder = tmp_path / f"work{len(images)}"
        folder.mkdir()
        flattener = _core.Flattener([(digest_of(blob), len(blob), digest_of(blob))], store=store, folder=folder)
        flattener.write(0, blob)
        flattener.close_layer(0)
        out = tmp_path / f"{len(images)}"
        tree = flattener.finish()
        tree.write_squashfs(out, compression=compression, created=7, folder=folder)
        images.append(out.read_bytes())
    assert images[0] == images[1] == images[2] == images[3]


def test_the_file_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    packed = pack([everything()], tmp_path / "a.squashfs", "squashfs")
    assert packed.path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a.squashfs"]  # noqa: PTH208


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    tar = TarBuilder().file("a", xattrs={"other.class": b"1", "user.kept": b"2"}, mtime=(5, 5)).file("b", mtime=(-1, 0))
    packed: Packed = pack([tar], tmp_path / "a.squashfs", "squashfs")
    assert sorted(packed.lost) == ["mtime a", "mtime b", "xattr a"]
    seen = dump_mounted(packed.path, "squashfs", tmp_path / "mount")
    assert "user.kept=32 " in seen
    assert "other.class" not in seen


def test_the_core_writes_squashfs_unless_something_else_is_asked_for() -> None:
    for options in (PackOptions(), *COMPRESSIONS):
        assert choose_backend(load_format("squashfs"), options)[0].name == "squashfs"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            PackOptions(compression="lzo"),
            "squashfs has no compression 'lzo'; there are zstd, gzip, xz, lz4, lz4hc, none",
        ),
        (PackOptions(compression="lz4hc", level=3), "lz4hc has no levels in squashfs"),
        (PackOptions("tar2sqfs", fragments=False), "tar2sqfs always packs small files together"),
        (PackOptions("tar2sqfs", compression="lz4hc"), "other tools cannot read the lz4 images of tar2sqfs"),
        (PackOptions(tails="block"), "squashfs has no option --tails"),
    ],
)
def test_what_squashfs_has_not_is_refused(options: PackOptions, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        choose_backend(load_format("squashfs"), options)


@pytest.mark.tools
@pytest.mark.parametrize("backend", ["sqfstar", "mksquashfs"])
def test_the_options_mean_the_same_for_the_tools_of_others(backend: str, tmp_path: Path) -> None:
    options = PackOptions(backend, compression="lz4hc", fragments=False)
    said = run("unsquashfs", "-s", pack([everything()], tmp_path / "a", "squashfs", options=options).path).decode()
    assert "Number of fragments 0\n" in said
    assert "High Compression" in said

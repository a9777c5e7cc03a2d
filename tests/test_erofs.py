"""erofs images: the kernel mounts them and sees the tree; erofs-utils find nothing wrong with them."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

import pytest
from ocifast import _core
from ocifast.errors import UsageError
from ocifast.packers import PackOptions, choose_backend, load_format

from tests.support.images import digest_of
from tests.support.layers import TarBuilder
from tests.support.oracle import assert_same_from_any_place, dump_mounted, mounted
from tests.support.pack import DIGEST, Packed, pack
from tests.support.run import run
from tests.support.samples import everything
from tests.support.shapes import attributes, contents, holes, names, owners, sizes, targets, times

pytestmark = pytest.mark.root

OURS = PackOptions(backend="erofs")


def check(image: Path) -> None:
    """Fails when fsck.erofs finds anything at all, in what it reads of all inodes and data."""
    run("fsck.erofs", "--extract", image)


def superblock(image: Path) -> dict[str, str]:
    """What dump.erofs says of the superblock."""
    lines = run("dump.erofs", "-s", image).decode().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


SAMPLES = [TarBuilder, everything, times, owners, sizes, targets, names, attributes, holes]


@pytest.mark.tools
@pytest.mark.parametrize("layer", SAMPLES)
def test_the_kernel_sees_the_tree(layer: type[TarBuilder], tmp_path: Path) -> None:
    packed = pack([layer()], tmp_path / "a.erofs", "erofs", options=OURS)
    check(packed.path)
    assert packed.losses == []
    assert dump_mounted(packed.path, "erofs", tmp_path / "mount") == packed.dump


COMPRESSED = [
    PackOptions(backend="erofs", compression=name, level=level, block_size=size)
    for name, level, size in [
        ("lz4", None, None),
        ("lz4", None, 4096),
        ("lz4", None, 1 << 20),
        ("zstd", None, None),
        ("zstd", 1, 4096),
        ("zstd", 19, 1 << 20),
    ]
]


@pytest.mark.parametrize(
    "options", COMPRESSED, ids=lambda options: f"{options.compression}-{options.level}-{options.block_size}"
)
def test_the_kernel_reads_what_is_compressed(options: PackOptions, tmp_path: Path) -> None:
    layers = [everything().file("gone", b"gone"), contents(), attributes(), holes(), names().whiteout("gone")]
    packed = pack(layers, tmp_path / "a.erofs", "erofs", options=options)
    assert packed.losses == []
    assert packed.path.stat().st_size < 13 << 20
    assert dump_mounted(packed.path, "erofs", tmp_path / "mount") == packed.dump
    if options.compression == "lz4":
        check(packed.path)


def test_compressed_files_are_read_from_any_place(tmp_path: Path) -> None:
    """In small pieces from the end to the start, and with two readers at once."""
    for options in COMPRESSED:
        image = pack([contents()], tmp_path / "a.erofs", "erofs", options=options, with_dump=False).path
        plain = pack([contents()], tmp_path / "b.erofs", "erofs", options=OURS, with_dump=False).path
        with mounted(image, "erofs", tmp_path / "a") as ours, mounted(plain, "erofs", tmp_path / "b") as theirs:
            assert_same_from_any_place(ours / "large", (theirs / "large").read_bytes())
        image.unlink()
        plain.unlink()


@pytest.mark.tools
def test_all_together_with_layers_that_replace_and_remove(tmp_path: Path) -> None:
    secret = b"a secret that an upper layer deletes " * 3000
    layers = [
        everything().file("secret", secret).file("secret2", secret),
        sizes().whiteout("secret").whiteout("big"),
        names().file("secret2", b"public"),
        attributes(),
        holes(),
        times().file("folder", b"now a file"),
    ]
    packed = pack(layers, tmp_path / "a.erofs", "erofs", options=OURS)
    check(packed.path)
    assert dump_mounted(packed.path, "erofs", tmp_path / "mount") == packed.dump
    assert secret[:37] not in packed.path.read_bytes()


def test_the_file_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    packed = pack([everything()], tmp_path / "a.erofs", "erofs", options=OURS)
    assert packed.path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a.erofs"]  # noqa: PTH208


@pytest.mark.tools
def test_two_hundred_thousand_names_in_one_directory(tmp_path: Path) -> None:
    tar = TarBuilder()
    for number in range(200_000):
        tar.file(f"d/{number}")
    image = pack([tar], tmp_path / "a.erofs", "erofs", options=OURS, with_dump=False).path
    check(image)
    with mounted(image, "erofs", tmp_path / "mount") as folder:
        # Listing reads the blocks one after the other, looking up searches them.
        listed = set(os.listdir(folder / "d"))  # noqa: PTH208
        assert listed == {str(number) for number in range(200_000)}
        assert all((folder / f"d/{number}").is_file() for number in range(0, 200_000, 7))
        assert not any((folder / f"d/{number}x").exists() for number in range(0, 200_000, 1001))


def test_five_gibibytes_of_which_most_is_a_hole(tmp_path: Path) -> None:
    size, data = 5 << 30, [(0, b"start"), ((3 << 30) + 4096, b"middle" * 1000), ((5 << 30) - 3, b"end")]
    image = pack(
        [TarBuilder().sparse("large", data, size)], tmp_path / "a.erofs", "erofs", options=OURS, with_dump=False
    )
    assert image.path.stat().st_size < 8 << 20
    with mounted(image.path, "erofs", tmp_path / "mount") as folder, (folder / "large").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == size
        for offset, expected in data:
            file.seek(offset - min(offset, 10))
            assert file.read(len(expected) + 10).strip(b"\0") == expected
        file.seek(1 << 30)
        assert not any(file.read(1 << 20))


def test_decoders_change_nothing(tmp_path: Path) -> None:
    layers = [tar().build() for tar in (everything, sizes, names, attributes, holes)]
    described = [(digest_of(layer), len(layer), digest_of(layer)) for layer in layers]
    images = []
    for run_number, order in enumerate(([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1])):
        folder = tmp_path / f"work{run_number}"
        folder.mkdir()
        flattener = _core.Flattener(described, store="erofs", folder=folder, decoders=run_number * 2 + 1)
        for layer in order if run_number else range(5):
            flattener.write(layer, layers[layer])
            flattener.close_layer(layer)
        flattener.finish().write_erofs(tmp_path / f"{run_number}", uuid=bytes(16), created=7)
        images.append((tmp_path / f"{run_number}").read_bytes())
    assert images[0] == images[1] == images[2]


@pytest.mark.tools
def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    def made(name: str) -> Packed:
        return pack([everything(), attributes()], tmp_path / name, "erofs", options=OURS)

    assert made("one").path.read_bytes() == made("two").path.read_bytes()
    found = superblock(tmp_path / "one")
    assert found["Filesystem UUID"] == str(uuid.uuid5(uuid.NAMESPACE_OID, DIGEST))
    assert found["Filesystem created"].endswith("2023")


def test_times_are_clamped(tmp_path: Path) -> None:
    packed = pack([times()], tmp_path / "a.erofs", "erofs", options=OURS, clamp_mtime=1000)
    seconds = re.findall(r" (-?\d+)\.\d{9} ", dump_mounted(packed.path, "erofs", tmp_path / "mount"))
    assert max(map(int, seconds)) == 1000
    assert packed.losses == []


@pytest.mark.tools
def test_what_is_lost_is_said(tmp_path: Path) -> None:
    tar = TarBuilder().file("a", xattrs={"other.class": b"1", "user.kept": b"2", "user.large": b"l" * 65_536})
    tar.file("b")
    packed = pack([tar], tmp_path / "a.erofs", "erofs", options=OURS)
    assert packed.lost == ["xattr a", "xattr a"]
    check(packed.path)
    seen = dump_mounted(packed.path, "erofs", tmp_path / "mount")
    assert [line.split(" ")[0] for line in seen.splitlines()] == ["/", "/a", "/b"]
    assert "user.kept=32 " in seen


def test_options_that_the_writer_lacks_are_refused() -> None:
    for options in (PackOptions("erofs", journal=True), PackOptions("erofs", size=1 << 30)):
        with pytest.raises(UsageError):
            choose_backend(load_format("erofs"), options)


def test_the_core_writes_erofs_unless_something_else_is_asked_for() -> None:
    for options in (PackOptions(), PackOptions(compression="none"), PackOptions(compression="lz4"), COMPRESSED[-1]):
        assert choose_backend(load_format("erofs"), options)[0].name == "erofs"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (PackOptions(compression="gzip"), "erofs has no compression 'gzip'"),
        (PackOptions(compression="lz4", level=3), "lz4 has no levels"),
        (PackOptions(level=3), "none has no levels"),
        (PackOptions(compression="zstd", level=23), "levels from 1 to 22, not 23"),
        (PackOptions(compression="zstd", block_size=2 << 20), "4096 to 1048576 bytes, a power of two, not 2097152"),
        (PackOptions(block_size=4096), "choose a compression"),
    ],
)
def test_compression_that_erofs_has_not_is_refused(options: PackOptions, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose_backend(load_format("erofs"), options)

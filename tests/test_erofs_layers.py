"""Images whose layers are erofs images: flattened, listed, compared; the kernel's overlayfs shows the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ocifast.compiler import CompileOptions, compile_image
from ocifast.errors import EntryRefusedError, FilesystemError, NotAnImageError, PathNotFoundError, UsageError
from ocifast.flatten import flatten
from ocifast.image import open_image
from ocifast.layer_entries import entries_of_layer
from ocifast.peek import Peek

from tests.support.images import Compression, Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_mounted, mounted
from tests.support.run import COMMAND, run

pytestmark = [pytest.mark.root, pytest.mark.tools]

DRAFT, OLDER = "application/vnd.erofs", "application/vnd.erofs.layer.v1"


def lower(root: Path) -> None:
    """What an upper layer will hide, replace and keep."""
    for name in ("kept", "opaque", "gone", "merged"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_bytes(name.encode() * 3000)
    os.link(root / "kept/file", root / "kept/link")
    (root / "replaced").write_bytes(b"old")
    (root / "hidden").symlink_to("kept/file")
    with (root / "holes").open("wb") as file:
        file.seek(100_000)
        file.write(b"end")


def upper(root: Path) -> None:
    """In overlayfs' form."""
    for name in ("opaque", "merged"):
        (root / name).mkdir(parents=True)
        (root / name / "new").write_bytes(b"new" * 5000)
    os.setxattr(root / "opaque", "trusted.overlay.opaque", b"y")
    os.setxattr(root / "merged", "user.kept", b"1")
    for name in ("gone", "hidden", "kept/link", "never-there"):
        (root / name).parent.mkdir(exist_ok=True)
        os.mknod(root / name, 0o020000, os.makedev(0, 0))
    (root / "replaced").write_bytes(b"new")
    os.mknod(root / "device", 0o020600, os.makedev(1, 3))
    os.chmod(root, 0o1755)  # noqa: PTH101 - beside mknod


def layer(folder: Path, make: Callable[[Path], None], *options: str, media_type: str = DRAFT) -> Layer:
    """An image of what `make` puts into a folder, under its name."""
    name = make.__name__
    tree, image = folder / name, folder / f"{name}.erofs"
    tree.mkdir()
    make(tree)
    run("mkfs.erofs", *options, image, tree)
    return packed(image.read_bytes(), media_type)


def packed(image: bytes, media_type: str = DRAFT, compression: Compression = "plain") -> Layer:
    return Layer(image, compression, media_type=media_type)


def overlaid(folder: Path) -> str:
    """What the kernel makes of the two images."""
    with (
        mounted(folder / "lower.erofs", "erofs", folder / "low") as low,
        mounted(folder / "upper.erofs", "erofs", folder / "up") as up,
    ):
        (folder / "over").mkdir()
        run("mount", "-t", "overlay", "-o", f"lowerdir={up}:{low}", "overlay", folder / "over")
        try:
            return dump_directory(folder / "over")
        finally:
            run("umount", folder / "over")


def located(folder: Path, *layers: Layer | TarBuilder) -> str:
    return f"oci:{write_layout(folder / 'layout', build_image(layers))}:app"


@pytest.mark.parametrize("media_type", [DRAFT, OLDER])
@pytest.mark.parametrize("options", [(), ("-zlz4hc",), ("--chunksize=4096",)], ids=["plain", "lz4hc", "chunks"])
def test_layers_are_what_overlayfs_shows(tmp_path: Path, media_type: str, options: tuple[str, ...]) -> None:
    layers = [layer(tmp_path, make, *options, media_type=media_type) for make in (lower, upper)]
    location = located(tmp_path, *layers)
    expected = overlaid(tmp_path)
    with open_image(location) as image, flatten(image) as rootfs:
        assert rootfs.dump().decode() == expected
    done = compile_image(location, tmp_path / "out.erofs", options=CompileOptions(cache=False, verify_output=True))
    assert done.verified
    assert dump_mounted(tmp_path / "out.erofs", "erofs", tmp_path / "mounted") == expected


def test_layers_of_both_kinds_in_one_image_and_kept_ones(tmp_path: Path) -> None:
    base = TarBuilder().directory("base").file("base/file", b"b" * 9000).file("hidden").file("device")
    location = located(tmp_path, base, layer(tmp_path, lower), layer(tmp_path, upper, "-zlz4"))
    cached = CompileOptions(cache_folder=str(tmp_path / "cache"), keep_layers=True)
    first = compile_image(location, tmp_path / "1.tar", options=cached)
    again = compile_image(
        location, tmp_path / "2.erofs", options=CompileOptions(**{**vars(cached), "tree_digest": True})
    )
    plain = compile_image(location, tmp_path / "3.tar", options=CompileOptions(cache=False, tree_digest=True))
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "3.tar").read_bytes()
    assert again.tree_digest == plain.tree_digest
    assert first.entries == plain.entries


def test_what_was_kept_of_an_archive_is_not_taken_for_an_image(tmp_path: Path) -> None:
    made = layer(tmp_path, lower)
    cached = CompileOptions(cache_folder=str(tmp_path / "cache"), keep_layers=True)
    (tmp_path / "wrong").mkdir()
    wrong = located(tmp_path / "wrong", packed(made.blob, "application/vnd.oci.image.layer.v1.tar"))
    right = located(tmp_path, made)
    assert compile_image(wrong, tmp_path / "1.tar", options=cached).entries == 1
    assert (compile_image(right, tmp_path / "2.tar", options=cached).entries or 0) > 10
    assert b"+ /kept/file" in run(COMMAND, "diff", wrong, right)


def test_no_output_is_made_of_them_one_by_one(tmp_path: Path) -> None:
    location = located(tmp_path, TarBuilder().directory("base"), layer(tmp_path, lower))
    with pytest.raises(UsageError, match="layers that are erofs images cannot be kept as devices"):
        compile_image(location, tmp_path / "out", format="layers", options=CompileOptions(cache=False))
    assert not (tmp_path / "out").exists()


def test_they_are_listed_and_compared(tmp_path: Path) -> None:
    location = located(tmp_path, layer(tmp_path, lower), layer(tmp_path, upper))
    listed = run(COMMAND, "ls", location, "/merged").decode()
    assert {line.split()[-1].rpartition("/")[2] for line in listed.splitlines()} == {"file", "new"}
    assert run(COMMAND, "cat", location, "/replaced") == b"new"
    with open_image(location) as image, Peek(image) as peek:
        assert peek.read_bytes("/replaced") == b"new"
        assert peek.layers_read == 1
        assert [entry.path for entry in peek.scandir("/opaque")] == ["/opaque/new"]
        assert peek.layers_read == 1
        assert peek.read_bytes("/kept/file") == b"kept" * 3000
        with pytest.raises(PathNotFoundError):
            peek.stat("/gone/file")
    with open_image(location) as image:
        found = {(entry.path, entry.type) for entry in entries_of_layer(image, 1)}
    assert {("/opaque", "opaque"), ("/opaque", "directory"), ("/opaque/new", "file"), ("/gone", "whiteout")} <= found
    archive = tmp_path / "same.tar"
    compile_image(location, archive, options=CompileOptions(cache=False))
    same = f"oci:{write_layout(tmp_path / 'same', build_image([archive.read_bytes()]))}:app"
    assert run(COMMAND, "diff", location, same) == b""


def test_compressed_blobs_are_unpacked(tmp_path: Path) -> None:
    made = layer(tmp_path, lower)
    zipped = packed(made.blob, f"{OLDER}+zstd", "zstd")
    with open_image(located(tmp_path, zipped)) as image, flatten(image) as rootfs:
        assert rootfs.dump().decode() == dump_mounted(tmp_path / "lower.erofs", "erofs", tmp_path / "mounted")


def refused(folder: Path, made: Layer) -> str:
    with open_image(located(folder, made)) as image, pytest.raises((FilesystemError, EntryRefusedError)) as caught:
        flatten(image)
    return caught.value.message


def test_what_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    def redirected(root: Path) -> None:
        (root / "d").mkdir()
        os.setxattr(root / "d", "trusted.overlay.redirect", b"/elsewhere")

    def named(root: Path) -> None:
        (root / ".wh.name").write_bytes(b"")

    for index, (make, said) in enumerate(
        [(redirected, "it needs redirect of overlayfs"), (named, "that means a whiteout")]
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        assert said in refused(folder, layer(folder, make))
    folder = tmp_path / "feature"
    folder.mkdir()
    image = bytearray(layer(folder, lower).blob)
    image[1024 + 80] |= 0x80
    assert "features of erofs that are not known here: 48bit" in refused(folder, packed(bytes(image)))


def test_the_media_type_decides(tmp_path: Path) -> None:
    made = layer(tmp_path, lower)
    wrong = packed(made.blob, "application/vnd.oci.image.layer.v1.tar")
    with open_image(located(tmp_path, wrong)) as image, flatten(image) as rootfs:
        # Two blocks of zeros end an archive, and so begins an erofs image.
        assert len(rootfs) == 1
    folder = tmp_path / "tar"
    folder.mkdir()
    assert "no erofs image" in refused(folder, packed(TarBuilder().file("a", b"x" * 5000).build()))
    other = located(tmp_path / "other", packed(made.blob, "application/vnd.erofs.layer.v2"))
    with pytest.raises(NotAnImageError, match=r"vnd\.erofs\.layer\.v2"):
        open_image(other)

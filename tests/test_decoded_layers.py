"""Decoded layers in the cache: they change nothing of what is made, and are believed only while they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ocifast import CompileOptions, PackOptions, _core, compiler, writing
from ocifast.cache import Cache
from ocifast.cache.kept import KeptFile, open_kept, this_boot
from ocifast.compiler import compile_image
from ocifast.errors import DiffIdMismatchError, FileError, LayerError, UsageError

from tests.support.caches import logged
from tests.support.images import BuiltImage, Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_umoci, mounted, without_mtime
from tests.support.run import run

FORMATS = ("tar", "cpio", "erofs", "ext4", "squashfs")


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def layers(top: int = 3) -> list[TarBuilder]:
    """Three layers that touch each other in every way; `top` changes the last."""
    base = TarBuilder().directory("./").directory("etc/").file("etc/os-release", b"ID=test\n")
    base.directory("usr/").file("usr/large", noise(1, 300_000)).file("usr/small", b"s" * 100).hard_link(
        "usr/hard", "usr/large"
    )
    base.symlink("lib", "usr").directory("gone/").file("gone/file", noise(2, 5000))
    middle = TarBuilder().file("lib/through", noise(3, 9000)).whiteout("gone").hard_link("usr/again", "usr/small")
    middle.sparse("usr/sparse", [(8192, noise(4, 3000)), (40_000, b"end")], 50_000)
    last = TarBuilder().directory("usr/").opaque("etc/").file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    last.file("usr/large", noise(top, 70_000))
    return [base, middle, last]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache that is not there yet."""
    return Cache(tmp_path / "cache")


def options(cache: Cache | None, *, keep: bool | None = True, compression: str | None = None) -> CompileOptions:
    folder = None if cache is None else str(cache.folder)
    pack = PackOptions(compression=compression)
    return CompileOptions(pack=pack, cache=cache is not None, cache_folder=folder, keep_layers=keep, threads=2)


def made(image: Path, folder: Path, kind: str, cache: Cache | None, **more: bool | str | None) -> str:
    """The digest of an output, which is made anew, whatever outputs are cached."""
    if cache is not None:
        for name in cache.folder.glob("outputs/*"):
            # Another process may have been there before.
            with contextlib.suppress(FileNotFoundError):
                cache.outputs.remove(name.name)
    output = folder / f"out.{kind}"
    compile_image(f"oci:{image}:app", output, format=kind, options=options(cache, **more))  # type: ignore[arg-type]
    return hashlib.sha256(output.read_bytes()).hexdigest()


def tables(cache: Cache) -> list[Path]:
    return sorted(cache.folder.glob("layers/sha256/*/*.entries"))


def place(cache: Cache, image: BuiltImage, index: int) -> Path:
    """The table of a layer."""
    encoded = diff_ids(image)[index].removeprefix("sha256:")
    return cache.folder / "layers/sha256" / encoded[:2] / f"{encoded}.entries"


def diff_ids(image: BuiltImage) -> list[str]:
    return [layer.diff_id for layer in image.layers]


@pytest.fixture
def image() -> BuiltImage:
    return build_image(layers())


@pytest.fixture
def layout(image: BuiltImage, tmp_path: Path) -> Path:
    return write_layout(tmp_path / "layout", image)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_outputs_are_the_same_whatever_is_kept(
    cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path, kind: str
) -> None:
    expected = made(layout, tmp_path, kind, None)
    assert made(layout, tmp_path, kind, cache) == expected
    assert len(tables(cache)) == 3
    assert made(layout, tmp_path, kind, cache) == expected
    for index in range(3):
        assert cache.decoded.remove(place(cache, image, index))
        assert made(layout, tmp_path, kind, cache, keep=index == 1) == expected
    assert made(layout, tmp_path, kind, cache) == expected


def test_a_compressed_image_and_a_directory_are_the_same(cache: Cache, layout: Path, tmp_path: Path) -> None:
    expected = made(layout, tmp_path, "erofs", None, compression="lz4")
    assert made(layout, tmp_path, "erofs", cache, compression="lz4") == expected
    assert made(layout, tmp_path, "erofs", cache, compression="lz4") == expected
    digests: set[object] = set()
    for number, store in enumerate((None, cache, cache)):
        asked = CompileOptions(
            cache=store is not None, cache_folder=None if store is None else str(store.folder), tree_digest=True
        )
        output = tmp_path / f"directory-{number}"
        digests.add(compile_image(f"oci:{layout}:app", output, options=asked).tree_digest)
        digests.add(run("sh", "-c", f"cd {output} && find . -printf '%p %m %U:%G %T@ %l %s\\n' | sort | sha256sum"))
    assert len(digests) == 2


def test_kept_layers_need_no_blobs(cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path) -> None:
    expected = made(layout, tmp_path, "tar", cache)
    for layer in image.layers:
        (layout / "blobs" / layer.digest.replace(":", "/")).unlink()
    assert made(layout, tmp_path, "tar", cache) == expected


def test_a_second_image_decodes_only_its_own_layer(
    cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path
) -> None:
    made(layout, tmp_path, "erofs", cache)
    other = build_image(layers(top=9))
    second = write_layout(tmp_path / "second", other)
    for layer in other.layers[:2]:
        (second / "blobs" / layer.digest.replace(":", "/")).unlink()
    kept = made(second, tmp_path, "erofs", cache)
    assert len(tables(cache)) == 4
    assert kept == made(write_layout(tmp_path / "whole", other), tmp_path, "erofs", None)


DAMAGE = ("cut", "flipped", "longer", "swapped", "missing", "flipped and set back")


def damage(path: Path, other: Path, how: str) -> None:
    """Changes a file as through the file system."""
    data, status = bytearray(path.read_bytes()), path.stat()
    path.chmod(0o600)
    match how:
        case "cut":
            path.write_bytes(data[:-4096])
        case "longer":
            path.write_bytes(data + bytes(4096))
        case "swapped":
            path.write_bytes(other.read_bytes())
        case "missing":
            path.unlink()
        case _:
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            if how != "flipped":
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("suffix", [".entries", ".erofs"])
def test_damage_is_noticed_and_mended(
    cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path, suffix: str, how: str
) -> None:
    expected = made(layout, tmp_path, "tar", cache)
    victim, other = (place(cache, image, index).with_suffix(suffix) for index in (0, 1))
    before = hashlib.sha256(victim.read_bytes()).digest() if suffix == ".erofs" else b""
    damage(victim, other, how)
    assert cache.decoded.get(diff_ids(image)[0]) is None
    assert made(layout, tmp_path, "tar", cache) == expected
    found = cache.decoded.get(diff_ids(image)[0])
    assert found is not None
    found.close()
    if before:
        assert hashlib.sha256(victim.read_bytes()).digest() == before


def test_every_byte_of_the_data_counts(cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path) -> None:
    made(layout, tmp_path, "tar", cache)
    path = place(cache, image, 0).with_suffix(".erofs")
    whole, table = path.read_bytes(), path.with_suffix(".entries").read_bytes()
    for at in [0, 1024, 4095, 4096, len(whole) // 3, len(whole) - 1]:
        path.chmod(0o600)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert cache.decoded.get(diff_ids(image)[0]) is None, at
        # It was removed.
        path.write_bytes(whole)
        path.with_suffix(".entries").write_bytes(table)
    found = cache.decoded.get(diff_ids(image)[0])
    assert found is not None, "the same bytes are the same layer, whoever wrote them"
    found.close()


def test_who_hashes_always_finds_what_no_recorded_number_shows(
    cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path
) -> None:
    made(layout, tmp_path, "tar", cache)
    path = place(cache, image, 0)
    with path.open("rb") as file:
        kept = KeptFile.of(file.fileno(), "sha256:right")
    fd, now = open_kept(path, kept, digest=lambda _: pytest.fail("hashed without need"))
    os.close(fd)
    assert now == kept
    with pytest.raises(ValueError, match="should be sha256:right, but is sha256:wrong"):
        open_kept(path, kept, digest=lambda _: "sha256:wrong", always=True)


def test_a_layer_of_before_the_system_started_is_hashed_once(
    cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(layout, tmp_path, "tar", cache)
    hashed: list[int] = []
    digest = _core.layer_digest

    def counted(fd: int) -> str:
        hashed.append(fd)
        return digest(fd)

    monkeypatch.setattr(_core, "layer_digest", counted)
    for boot, times in ((this_boot(), 0), ("the next one", 1), ("the next one", 1), ("one after it", 1)):
        monkeypatch.setattr("ocifast.cache.kept.this_boot", lambda boot=boot: boot)
        found = cache.decoded.get(diff_ids(image)[0])
        assert found is not None
        found.close()
        assert len(hashed) == times, boot
    assert list(cache.folder.glob("tmp/*")) == []


@pytest.mark.parametrize("at", [8, 12, 200])
def test_what_cannot_be_read_is_told_of_once(
    at: int, cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A table of another form or decoder, or one that is damaged: nothing may come to replace it."""
    made(layout, tmp_path, "tar", cache)
    path, diff_id = place(cache, image, 0), diff_ids(image)[0]
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x41]))
    for times in (1, 1):
        assert cache.decoded.get(diff_id) is None
        assert caplog.text.count("is of no use, and decoded again") == times
    assert not path.exists()
    assert not path.with_suffix(".erofs").exists()


def test_what_a_power_failure_left_of_a_layer_is_decoded_again(
    cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name, size and times of the data were on the disk, and the bytes were not."""
    whole = made(layout, tmp_path, "tar", cache)
    path, diff_id = place(cache, image, 0).with_suffix(".erofs"), diff_ids(image)[0]
    table, data = _core.LayerTable(os.open(path.with_suffix(".entries"), os.O_RDONLY)), path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bytes(len(data)))
    with path.open("rb") as file:
        kept = msgspec.structs.replace(KeptFile.of(file.fileno(), ""), boot=this_boot())
    note = {**json.loads(table.note), **{name: getattr(kept, name) for name in ("inode", "size", "mtime", "ctime")}}
    with (tmp_path / "table").open("x+b") as file:
        table.copy(file.fileno(), json.dumps(note).encode())
    shutil.copyfile(tmp_path / "table", path.with_suffix(".entries"))
    found = cache.decoded.get(diff_id)
    assert found is not None, "nothing tells it from the one that was written"
    found.close()
    monkeypatch.setattr("ocifast.cache.kept.this_boot", lambda: "the next one")
    assert cache.decoded.get(diff_id) is None
    again = tmp_path / "again"
    again.mkdir()
    assert made(layout, again, "tar", cache) == whole
    assert path.read_bytes() == data


def test_nothing_wrong_is_kept(cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = build_image([Layer(layer, diff_id="sha256:" + "5" * 64) for layer in layers()])
    layout = write_layout(tmp_path / "wrong", wrong)
    with pytest.raises(DiffIdMismatchError):
        made(layout, tmp_path, "tar", cache)
    refused = build_image([TarBuilder().file("a", b"x").file("a/b", b"y")])
    with pytest.raises(LayerError):
        made(write_layout(tmp_path / "refused", refused), tmp_path, "tar", cache)
    assert tables(cache) == []
    assert list(cache.folder.glob("layers/**/*.erofs")) == []
    assert list(cache.folder.glob("tmp/*")) == []
    assert logged(caplog) == []


def test_what_is_kept_is_a_choice(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = TarBuilder()
    for number in range(100):
        small.file(f"file-{number}", b"x")
    layout = write_layout(tmp_path / "small", build_image([small, TarBuilder().file("large", noise(1, 100_000))]))
    made(layout, tmp_path, "tar", cache, keep=False)
    assert len(tables(cache)) == 0
    made(layout, tmp_path, "tar", cache, keep=None)
    assert len(tables(cache)) == 0
    monkeypatch.setenv("OCIFAST_KEEP_LAYERS", "auto")
    made(layout, tmp_path, "tar", cache, keep=None)
    assert len(tables(cache)) == 1
    monkeypatch.setenv("OCIFAST_KEEP_LAYERS", "1")
    made(layout, tmp_path, "tar", cache, keep=None)
    assert len(tables(cache)) == 2
    monkeypatch.setenv("OCIFAST_KEEP_LAYERS", "perhaps")
    with pytest.raises(UsageError, match="OCIFAST_KEEP_LAYERS is 'perhaps'"):
        made(layout, tmp_path, "tar", cache, keep=None)


def test_pruning_leaves_what_is_read_and_begins_with_the_oldest(
    cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path
) -> None:
    made(layout, tmp_path, "tar", cache, keep=True)
    for name in cache.folder.glob("outputs/*"):
        cache.outputs.remove(name.name)
    info = cache.info()
    assert (info.layers, info.outputs) == (3, 0)
    assert info.total_bytes == info.layer_bytes > 380_000
    # The middle one is used now, the others long ago.
    for index, when in ((0, 2_000), (1, 1_000), (2, 3_000)):
        os.utime(place(cache, image, index), (when, when))
    with_use = cache.decoded.get(diff_ids(image)[1])
    assert with_use is not None
    os.utime(place(cache, image, 1), (1_000, 1_000))
    cache.prune(max_bytes=info.layer_bytes - 4096)
    assert [place(cache, image, index).exists() for index in range(3)] == [False, True, True]
    cache.clear()
    assert tables(cache) == [place(cache, image, 1)]
    assert os.pread(with_use.data, 4, 1024) == b"\xe2\xe1\xf5\xe0"
    with_use.close()
    cache.clear()
    assert list(cache.folder.glob("layers/**/*.*")) == []


def _compile(layout: Path, folder: Path, cache: Path, number: int) -> str:
    logging.disable()
    store = Cache(cache)
    kind = FORMATS[number % 3]
    results = set()
    for turn in range(3):
        own = folder / f"process-{number}-{turn}"
        own.mkdir()
        results.add(made(layout, own, kind, store))
        if number % 4 == 0:
            store.prune(max_bytes=200_000)
    (digest,) = results
    return f"{kind} {digest}"


def test_eight_processes_share_one_cache(cache: Cache, layout: Path, tmp_path: Path) -> None:
    expected = {f"{kind} {made(layout, tmp_path, kind, None)}" for kind in FORMATS[:3]}
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        found = pool.starmap(_compile, [(layout, tmp_path, cache.folder, number) for number in range(8)])
    assert set(found) == expected
    for path in tables(cache):
        kept = cache.decoded.get(f"sha256:{path.stem}")
        assert kept is not None
        kept.close()


@pytest.fixture
def kept_images(cache: Cache, image: BuiltImage, layout: Path, tmp_path: Path) -> list[Path]:
    made(layout, tmp_path, "tar", cache)
    return [place(cache, image, index).with_suffix(".erofs") for index in range(3)]


@pytest.mark.tools
def test_each_kept_layer_is_an_image_of_its_own(kept_images: list[Path], tmp_path: Path) -> None:
    shown = []
    for index, path in enumerate(kept_images):
        assert path.stat().st_mode & 0o777 == 0o400
        run("fsck.erofs", str(path))
        with mounted(path, "erofs", tmp_path / f"mount-{index}") as folder:
            shown.append(run("sh", "-c", f"cd {folder} && find . -printf '%p %y %s %D\\n' | sed 's/ [0-9]*$//' | sort"))
            large = folder / "usr/large"
            if large.exists():
                assert large.read_bytes() == (noise(1, 300_000) if index == 0 else noise(3, 70_000))
            if index == 1:
                whiteout = (folder / "gone").lstat()
                assert (whiteout.st_mode & 0o170000, whiteout.st_rdev) == (0o020000, 0)
            if index == 2:
                assert os.getxattr(folder / "etc", "trusted.overlay.opaque") == b"y"
    assert b"./usr/hard f 300000" in shown[0]


def standalone_layers() -> list[TarBuilder]:
    """Layers whose every folder has its entry before what is in it."""
    base = (
        TarBuilder().directory("./", mode=0o755).directory("etc/").file("etc/passwd", b"root\n").file("etc/gone", b"x")
    )
    base.directory("usr/", mode=0o711).directory("usr/lib/").file("usr/lib/large", noise(1, 9000), mode=0o755)
    base.hard_link("usr/lib/hard", "usr/lib/large").symlink("lib", "usr/lib").directory("opaque/").file(
        "opaque/a", b"a"
    )
    base.directory("tree/").directory("tree/deep/").file("tree/deep/file", b"deep").device("null", "char", 1, 3)
    middle = TarBuilder().directory("./", mode=0o755).directory("etc/").whiteout("etc/gone").directory("opaque/")
    middle.opaque("opaque").file("opaque/b", b"b").whiteout("tree").file("tree", b"a file now").directory(
        "usr/", mode=0o755
    )
    last = (
        TarBuilder()
        .directory("./", mode=0o750)
        .whiteout("lib")
        .directory("lib/")
        .file("lib/own", b"o")
        .whiteout("opaque")
    )
    return [base, middle, last]


@pytest.mark.root
def test_overlayfs_over_standalone_layers_shows_what_umoci_unpacks(cache: Cache, tmp_path: Path) -> None:
    image = build_image(standalone_layers())
    layout = write_layout(tmp_path / "layout", image)
    made(layout, tmp_path, "tar", cache)
    with contextlib.ExitStack() as stack:
        lower = []
        for index, diff_id in enumerate(diff_ids(image)):
            found = stack.enter_context(cache.decoded.get(diff_id) or contextlib.nullcontext())
            assert found is not None
            assert found.table.reason is None
            path = place(cache, image, index).with_suffix(".erofs")
            lower.append(stack.enter_context(mounted(path, "erofs", tmp_path / f"layer-{index}")))
        merged = tmp_path / "merged"
        merged.mkdir()
        run("mount", "-t", "overlay", "-o", "ro,lowerdir=" + ":".join(map(str, reversed(lower))), "overlay", merged)
        stack.callback(run, "umount", merged)
        seen = dump_directory(merged)
    folders = ("/", "/etc", "/usr", "/usr/lib", "/lib", "/opaque", "/tree")
    expected = dump_umoci(layout, tmp_path / "bundle")
    assert without_mtime(seen, *folders) == without_mtime(expected, *folders)


def test_a_layer_that_cannot_stand_alone_says_why(cache: Cache, tmp_path: Path) -> None:
    image = build_image([TarBuilder().directory("a/").file("a/b", b"x"), TarBuilder().hard_link("c", "a/b")])
    made(write_layout(tmp_path / "layout", image), tmp_path, "tar", cache)
    reasons = []
    for diff_id in diff_ids(image):
        with cache.decoded.get(diff_id) or contextlib.nullcontext() as found:
            assert found is not None
            reasons.append(found.table.reason)
    assert reasons == [
        None,
        ("lower_link", "it is a hard link to a file that does not stand before it in the layer", b"c"),
    ]


@pytest.mark.parametrize("damage", ["cut", "removed", "gone", "changed"])
def test_a_layer_that_is_damaged_while_it_is_read(
    damage: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run begins anew without it; only what went to a stream cannot be taken back."""
    layout = write_layout(tmp_path / "layout", build_image(layers()))
    expected = made(layout, tmp_path, "cpio", cache)
    write, tried = writing.write_output, 0

    def damaging(*arguments: Any, **more: Any) -> Any:
        nonlocal tried
        tried += 1
        if tried == 1:
            for path in cache.folder.glob("layers/*/*/*.erofs"):
                path.chmod(0o600)
                size = path.stat().st_size
                if damage == "cut":
                    os.truncate(path, size // 2)
                elif damage == "removed":
                    path.unlink()
                elif damage == "gone":
                    path.unlink()
                    path.with_suffix(".entries").unlink()
                elif damage == "changed":
                    path.write_bytes(b"?" * size)
            raise FileError("cannot read the spool file: failed to fill whole buffer")
        return write(*arguments, **more)

    monkeypatch.setattr(compiler, "write_output", damaging)
    assert made(layout, tmp_path, "cpio", cache) == expected
    assert tried == 2
    # Where nothing was damaged a failure is one.
    tried = 0
    damage = "none"
    with pytest.raises(FileError, match="cannot read the spool file"):
        made(layout, tmp_path, "cpio", cache)

"""Every backend of every format: what is in the image, that it is always the same bytes, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ocifast.compiler import CompiledImage, CompileOptions, compile_image
from ocifast.errors import PackerError, PackerMissingError, UsageError
from ocifast.flatten import flatten
from ocifast.image import open_image
from ocifast.layered import Store
from ocifast.packers import (
    FORMATS,
    SUFFIXES,
    ErofsOptions,
    Loss,
    PackOptions,
    choose_backend,
    format_of,
    group,
    load_format,
    summarize,
)
from ocifast.packers.squashfs.listing import fit, read_back
from ocifast.packers.squashfs.streamed import SQFSTAR
from ocifast.rootfs import Rootfs

from tests.support.images import build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.oracle import dump_directory, dump_mounted, without_mtime
from tests.support.pack import PLAIN_FORMATS
from tests.support.real import RealImage
from tests.support.run import run, tool

BACKENDS = [(name, backend.name) for name in PLAIN_FORMATS for backend in load_format(name).backends]
IMAGES = [(name, backend) for name, backend in BACKENDS if name in ("squashfs", "erofs")]


def pack(location: str, output: Path, name: str, backend: str, **options: object) -> CompiledImage:
    threads = options.pop("threads", None)
    assert threads is None or isinstance(threads, int)
    chosen = PackOptions(backend=backend, **options)  # type: ignore[arg-type]
    return compile_image(
        location, output, format=name, options=CompileOptions(cache=False, pack=chosen, threads=threads)
    )


def edit_times(dump: str, change: Callable[[str], str]) -> str:
    """The dump with another text for every time."""
    lines = [line.split(" ") for line in dump.splitlines()]
    return "".join(" ".join([*line[:5], change(line[5]), *line[6:]]) + "\n" for line in lines)


def squashfs_time(text: str) -> str:
    seconds = int(text.partition(".")[0])
    return f"{0 if text.startswith('-') else min(seconds, 2**32 - 1)}.000000000"


def no_negative_time(text: str) -> str:
    return "0.000000000" if text.startswith("-") else text


def plain(folder: Path, *, deep: bool = True) -> str:
    """A layout with nothing that any backend stumbles over, and names that are hard to list."""
    layer = TarBuilder().directory("./", mode=0o751, mtime=50).directory("d/", mode=0o1777, mtime=60, uid=7, gid=8)
    layer.file("d/sp ace", b"x" * 70_000, mode=0o4755, mtime=70, uid=1000, gid=1001)
    layer.hard_link("d/second", "d/sp ace").file('d/quo"te\\', b"y", mode=0, mtime=71)
    layer.file("d/line\nfeed", b"z" * 10, mtime=72).file(b"d/\xff\xfe", b"", mtime=73)
    layer.symlink("link", "d/sp ace -> x", mtime=74).fifo("fifo", mtime=75, mode=0o620)
    layer.device("null", "char", 1, 3, mtime=76, mode=0o666).device("disk", "block", 8, 17, mtime=77, mode=0o660)
    layer.pax({"SCHILY.xattr.user.note": "v"}).file("noted", b"n", mtime=78)
    layer.directory("deep/", mtime=79)
    if deep:
        # mkfs.erofs 1.5 gives up on this one, and says so.
        layer.directory("deep/" + "n" * 255 + "/", mtime=80)
    return f"oci:{write_layout(folder / 'plain', build_image([layer]))}:app"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Rootfs]:
    with open_image(plain(tmp_path)) as image, flatten(image) as rootfs:
        yield rootfs


@pytest.mark.root
@pytest.mark.parametrize(("name", "backend"), IMAGES)
def test_what_the_kernel_sees_equals_umoci(real_image: RealImage, tmp_path: Path, name: str, backend: str) -> None:
    done = pack(real_image.location, tmp_path / "image", name, backend)
    times = {"squashfs": squashfs_time, "mkfs.erofs": no_negative_time}.get(
        name if name == "squashfs" else backend, str
    )
    expected = edit_times(real_image.dump, times)
    seen = dump_mounted(tmp_path / "image", name, tmp_path / "mounted")
    if backend == "sqfstar" and not SQFSTAR.exact():
        # This release stamps the root itself; the loss says so.
        assert Loss("mtime", f"{SQFSTAR.version()} gives the root a time of its own", 1, (b"",)) in done.losses
        expected, seen = without_mtime(expected, "/"), without_mtime(seen, "/")
    assert seen == expected
    assert {loss.kind for loss in done.losses} == (set() if times is str else {"mtime"})


@pytest.mark.tools
@pytest.mark.root
@pytest.mark.parametrize(("name", "backend"), IMAGES)
def test_hard_names_owners_modes_and_devices(tmp_path: Path, name: str, backend: str) -> None:
    location = plain(tmp_path, deep=backend != "mkfs.erofs")
    compile_image(location, tmp_path / "tree", options=CompileOptions(cache=False))
    done = pack(location, tmp_path / "image", name, backend)
    expected, seen = dump_directory(tmp_path / "tree"), dump_mounted(tmp_path / "image", name, tmp_path / "mounted")
    if backend == "sqfstar" and not SQFSTAR.exact():
        # What the loss says: this release stamps the root itself.
        assert [(loss.kind, loss.paths) for loss in done.losses] == [("mtime", (b"",))]
        expected = expected.replace("/ directory 0751 0 0 50.", "/ directory 0751 0 0 80.")
    else:
        assert done.losses == ()
    assert seen == expected


@pytest.mark.tools
@pytest.mark.parametrize(("compression", "level"), [("zstd", 1), ("zstd", None), ("gzip", 9), ("xz", None)])
@pytest.mark.parametrize("backend", ["sqfstar", "tar2sqfs", "mksquashfs"])
def test_squashfs_options_mean_the_same_for_every_backend(
    tmp_path: Path, backend: str, compression: str, level: int | None
) -> None:
    location = plain(tmp_path)
    pack(location, tmp_path / "i", "squashfs", backend, compression=compression, level=level, block_size=65536)
    said = run("unsquashfs", "-stat", tmp_path / "i").decode()
    assert f"Compression {compression}\n" in said
    assert "Block size 65536\n" in said
    default = {"zstd": 3, "gzip": 9}.get(compression) if level is None else level
    shown = re.search(r"compression-level (\d+)", said)
    assert (None if shown is None else int(shown[1])) in (default, None)


def time_of_erofs(image: Path) -> int:
    # Linux, fs/erofs/erofs_fs.h: the build time is 24 bytes into the superblock, which is at 1024.
    return int.from_bytes(image.read_bytes()[1048:1056], "little")


def time_of_ext4(image: Path) -> int:
    # Linux, fs/ext4/ext4.h: s_mkfs_time is 0x108 bytes into the superblock, which is at 1024.
    return int.from_bytes(image.read_bytes()[1288:1292], "little")


def time_of_squashfs(image: Path) -> int:
    return int(run("unsquashfs", "-mkfs-time", image))


IMAGE_TIMES: dict[str, tuple[PackOptions, Callable[[Path], int]]] = {
    "erofs": (PackOptions(), time_of_erofs),
    "erofs lz4": (PackOptions(compression="lz4"), time_of_erofs),
    "ext4": (PackOptions(free_space=0), time_of_ext4),
    "squashfs tar2sqfs": (PackOptions(backend="tar2sqfs"), time_of_squashfs),
    "squashfs mksquashfs": (PackOptions(backend="mksquashfs"), time_of_squashfs),
}


@pytest.mark.tools
@pytest.mark.parametrize(
    ("created", "clamp", "expected"),
    [
        ("2001-09-09T03:46:40.5+02:00", None, 1_000_000_000),
        ("2001-09-09T01:46:40Z", 900_000_000, 900_000_000),
        ("yesterday", None, 0),
        (None, None, 0),
    ],
)
@pytest.mark.parametrize("reader", list(IMAGE_TIMES))
def test_the_time_of_the_image_is_that_of_the_config(
    tmp_path: Path, reader: str, created: str | None, clamp: int | None, expected: int
) -> None:
    layer = TarBuilder().directory("./", mtime=5).file("a", b"1", mtime=5)
    image = build_image([layer], edit_config=lambda config: config.update({"created": created} if created else {}))
    location = f"oci:{write_layout(tmp_path / 'layout', image)}:app"
    pack, read = IMAGE_TIMES[reader]
    options = CompileOptions(cache=False, pack=pack, clamp_mtime=clamp)
    compile_image(location, tmp_path / "image", format=reader.partition(" ")[0], options=options)
    assert read(tmp_path / "image") == expected


@pytest.mark.tools
def test_tools_that_are_too_old_are_known_by_what_they_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins that claim the newest version, and whose help lacks what is needed."""
    from ocifast.packers.squashfs import settings

    real = tool("mksquashfs")
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin/mksquashfs"
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    table = [
        ("-tar", ["squashfs", "tar2sqfs", "mksquashfs"]),
        ("-mkfs-time", ["squashfs", "sqfstar", "tar2sqfs"]),
        ("-tar|-mkfs-time", ["squashfs", "tar2sqfs"]),
    ]
    for lacks, able in table:
        stand_in.write_text(
            "#!/bin/sh\n[ $1 = -version ] && exec echo 'mksquashfs version 99.9'\n"
            f"[ $1 = -help ] && {{ {real} -help 2>&1 | grep -vE -- '^({lacks})\\b'; exit 1; }}\nexec {real} \"$@\"\n"
        )
        stand_in.chmod(0o755)
        settings.help_text.cache_clear()
        try:
            backends = load_format("squashfs").backends
            assert [backend.name for backend in backends if backend.version() is not None] == able, lacks
            for backend in backends:
                if backend.name not in able:
                    with pytest.raises(PackerMissingError, match=r"Debian packages squashfs-tools$"):
                        choose_backend(load_format("squashfs"), PackOptions(backend=backend.name))
        finally:
            settings.help_text.cache_clear()


@pytest.mark.tools
@pytest.mark.parametrize("backend", ["sqfstar", "mksquashfs"])
def test_squashfs_without_compression(tmp_path: Path, backend: str) -> None:
    pack(plain(tmp_path), tmp_path / "i", "squashfs", backend, compression="none")
    assert b"x" * 70_000 in (tmp_path / "i").read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("squashfs", {"compression": "brotli"}, "squashfs has no compression 'brotli'"),
        ("squashfs", {"compression": "zstd", "level": 23}, "zstd has levels from 1 to 22, not 23"),
        ("squashfs", {"compression": "xz", "level": 1}, "xz has no levels in squashfs"),
        ("squashfs", {"block_size": 5000}, "a power of two, not 5000"),
        ("squashfs", {"backend": "tar2sqfs", "compression": "none"}, "tar2sqfs always compresses"),
        ("squashfs", {"backend": "tar2sqfs", "compression": "lz4"}, "other tools cannot read the lz4 images"),
        ("squashfs", {"free_space": 1}, "has no option --free"),
        (
            "squashfs",
            {"backend": "mkfs.erofs"},
            "squashfs has no backend 'mkfs.erofs'; there are squashfs, sqfstar, tar2sqfs",
        ),
        ("erofs", {"backend": "mkfs.erofs", "compression": "xz"}, "erofs has no compression 'xz'"),
        ("erofs", {"backend": "mkfs.erofs", "block_size": 1000}, "a power of two, not 1000"),
        ("tar", {"journal": True}, "tar has no option --journal"),
        ("dir", {"block_size": 4096}, "dir has no option --block-size"),
    ],
)
def test_options_that_are_refused_before_any_work(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_backend(load_format(name), PackOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(("backend", "package"), [("sqfstar", "squashfs-tools"), ("tar2sqfs", "squashfs-tools-ng")])
def test_a_missing_tool_names_its_package(
    backend: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ocifast.packers.squashfs import settings

    monkeypatch.setattr(settings, "find_tool", lambda _: None)
    settings.help_text.cache_clear()
    options = CompileOptions(cache=False, pack=PackOptions(backend=backend))
    try:
        with pytest.raises(PackerMissingError, match=f"Debian packages {package}$") as caught:
            compile_image(plain(tmp_path), tmp_path / "out.squashfs", options=options)
        assert caught.value.context["packages"] == [package]
    finally:
        settings.help_text.cache_clear()
    assert not (tmp_path / "out.squashfs").exists()


def test_squashfs_needs_no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plain(tmp_path)
    monkeypatch.setenv("PATH", "")
    done = compile_image(source, tmp_path / "out.squashfs", options=CompileOptions(cache=False))
    assert done.backend == "squashfs"


def image_of(layer: TarBuilder, folder: Path) -> Rootfs:
    with open_image(f"oci:{write_layout(folder, build_image([layer]))}:app") as image:
        return flatten(image)


BASE = [("d/", 0o755, 1, 2, 60, b""), ("d/f", 0o644, 3, 4, 120, b"12345"), ("d/g", 0o600, 0, 0, 180, b"")]


@pytest.mark.tools
@pytest.mark.parametrize("reader", ["unsquashfs", "rdsquashfs"])
@pytest.mark.parametrize(
    ("what", "entries", "sees"),
    [
        ("nothing", BASE, {"unsquashfs": None, "rdsquashfs": None}),
        (
            "file missing",
            [*BASE, ("d/h", 0o644, 0, 0, 0, b"")],
            {"unsquashfs": "wrote 5 files of 6", "rdsquashfs": "5 of"},
        ),
        ("renamed", [BASE[0], BASE[1], ("d/gg", *BASE[2][1:])], {"unsquashfs": "d/gg", "rdsquashfs": "d/gg"}),
        ("size", [BASE[0], (*BASE[1][:5], b"123456"), BASE[2]], {"unsquashfs": "d/f", "rdsquashfs": None}),
        ("mode", [BASE[0], BASE[1], ("d/g", 0o601, *BASE[2][2:])], {"unsquashfs": "d/g", "rdsquashfs": "d/g"}),
        ("uid", [BASE[0], ("d/f", 0o644, 9, *BASE[1][3:]), BASE[2]], {"unsquashfs": "d/f", "rdsquashfs": "d/f"}),
        ("gid", [("d/", 0o755, 1, 9, 60, b""), *BASE[1:]], {"unsquashfs": "root/d", "rdsquashfs": "dir d "}),
        ("time", [BASE[0], (*BASE[1][:4], 999, b"12345"), BASE[2]], {"unsquashfs": "d/f", "rdsquashfs": None}),
    ],
)
def test_reading_back_finds_every_difference(
    tmp_path: Path,
    reader: str,
    what: str,
    entries: list[tuple[str, int, int, int, int, bytes]],
    sees: dict[str, str | None],
) -> None:
    """A tree is packed, and the image compared with another tree: one that a bad tool might have made of it."""

    def build(chosen: list[tuple[str, int, int, int, int, bytes]]) -> TarBuilder:
        layer = TarBuilder().symlink("link", "target", mtime=0)
        for path, mode, uid, gid, mtime, data in chosen:
            fields = {"mode": mode, "uid": uid, "gid": gid, "mtime": mtime}
            layer = layer.directory(path, **fields) if path.endswith("/") else layer.file(path, data, **fields)
        return layer

    packed = write_layout(tmp_path / "packed", build_image([build(BASE)]))
    pack(f"oci:{packed}:app", tmp_path / "image", "squashfs", "tar2sqfs")
    with image_of(build(entries), tmp_path / "other") as other:
        if sees[reader] is None:
            read_back(tmp_path / "image", other.tree, tool="tool", seconds=fit(None), reader=reader)
            return
        expected = sees[reader] if what != "file missing" else "tool wrote 5 files of 6"
        with pytest.raises(PackerError, match=expected):
            read_back(tmp_path / "image", other.tree, tool="tool", seconds=fit(None), reader=reader)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "without a superblock"), (bytes(4096), "no squashfs 4 image")],
)
def test_reading_back_what_is_no_image(tmp_path: Path, tree: Rootfs, data: bytes, message: str) -> None:
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(PackerError, match=message):
        read_back(tmp_path / "image", tree.tree, tool="tool", seconds=fit(None))


@pytest.mark.tools
def test_reading_back_a_truncated_image(tmp_path: Path, tree: Rootfs) -> None:
    pack(plain(tmp_path), tmp_path / "image", "squashfs", "tar2sqfs")
    whole = (tmp_path / "image").read_bytes()
    used = int.from_bytes(whole[40:48], "little")
    (tmp_path / "image").write_bytes(whole[: used - 1])
    with pytest.raises(PackerError, match="bytes that claims"):
        read_back(tmp_path / "image", tree.tree, tool="tool", seconds=fit(None))


UNPRIVILEGED = textwrap.dedent(
    """
    import json, os, sys
    from ocifast.compiler import CompileOptions, compile_image
    from ocifast.packers import PackOptions
    location, folder, name, backend = sys.argv[1:]
    options = CompileOptions(cache=False, pack=PackOptions(backend=backend))
    compile_image(location, folder + "/warm", format=name, options=options)
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    done = compile_image(location, folder + "/image", format=name, options=options)
    print(json.dumps(done.to_json()["losses"]))
    """
)


@pytest.mark.root
@pytest.mark.parametrize(("name", "backend"), IMAGES)
def test_a_plain_user_gets_the_same_image(tmp_path_factory: pytest.TempPathFactory, name: str, backend: str) -> None:
    folder = Path("/tmp") / f"ocifast-plain-{os.getpid()}-{backend}"
    folder.mkdir(mode=0o755)
    try:
        layer = TarBuilder().directory("./", mode=0o751, mtime=50, uid=3, gid=4)
        layer.directory("shut/", mode=0, mtime=60, uid=7, gid=8).file("shut/in", b"x" * 9000, mode=0, mtime=70, uid=5)
        layer.file("set", b"y", mode=0o6755, mtime=71, gid=9).symlink("link", "set", mtime=72, uid=11, gid=12)
        layer.device("null", "char", 1, 3, mtime=76, mode=0o666, uid=13).fifo("fifo", mtime=77, uid=14, mode=0o600)
        location = f"oci:{write_layout(folder / 'layout', build_image([layer]))}:app"
        folder.chmod(0o777)
        done = run(sys.executable, "-c", UNPRIVILEGED, location, folder, name, backend)
        losses = json.loads(done.splitlines()[-1])
        if backend == "mkfs.erofs":
            assert {loss["kind"] for loss in losses} == {"device", "mode", "owner"}
        elif backend == "sqfstar" and not SQFSTAR.exact():
            assert {loss["kind"] for loss in losses} == {"mtime", "owner"}
        else:
            assert losses == []
            assert (folder / "warm").read_bytes() == (folder / "image").read_bytes()
    finally:
        shutil.rmtree(folder)


@pytest.mark.tools
@pytest.mark.root
def test_mkfs_erofs_with_a_tar_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for releases with `--tar`: it unpacks the stream and gives the tree to the release that is here."""
    from ocifast.packers import erofs
    from ocifast.packers.squashfs import settings

    real = tool("mkfs.erofs")
    stand_in = tmp_path / "bin/mkfs.erofs"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f"#!/bin/sh -e\nif [ $# = 1 ]; then {real} $1; echo ' --tar=X'; exit; fi\n"
        "mkdir tree; tar --xattrs --xattrs-include='*' --numeric-owner -xpf /dev/stdin -C tree\n"
        '[ "$5" = /dev/stdin ]\n'
        f'exec {real} "$1" "$2" "$3" tree\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    settings.help_text.cache_clear()
    try:
        assert erofs.FORMAT.backends[-1].store(ErofsOptions(), 1) is Store.SPOOL
        pack(plain(tmp_path, deep=False), tmp_path / "streamed", "erofs", "mkfs.erofs")
    finally:
        settings.help_text.cache_clear()
    monkeypatch.undo()
    pack(plain(tmp_path / "again", deep=False), tmp_path / "staged", "erofs", "mkfs.erofs")
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "staged").read_bytes()


@pytest.mark.tools
def test_mkfs_erofs_that_leaves_a_file_out_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ocifast.packers.squashfs import settings

    real = tool("mkfs.erofs")
    liar = tmp_path / "bin/mkfs.erofs"
    liar.parent.mkdir()
    liar.write_text(f'#!/bin/sh\nfor last; do :; done; rm -f "$last/noted"; exec {real} "$@"\n')
    liar.chmod(0o755)
    monkeypatch.setenv("PATH", f"{liar.parent}:{os.environ['PATH']}")
    settings.help_text.cache_clear()
    try:
        with pytest.raises(PackerError, match=r"mkfs\.erofs wrote 11 files of 12, and reported success"):
            pack(plain(tmp_path, deep=False), tmp_path / "image", "erofs", "mkfs.erofs")
    finally:
        settings.help_text.cache_clear()


def test_every_format_has_what_the_table_says() -> None:
    for name in FORMATS:
        found = load_format(name)
        assert found.name == name
        assert found.backends
        assert all(isinstance(backend.name, str) for backend in found.backends)
    assert {name for name, _ in SUFFIXES.values()} == set(FORMATS) - {"dir", "layers"}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("a.tar", ("tar", None)),
        ("a.tar.gz", ("tar", "gzip")),
        ("a.b.TGZ", ("tar", "gzip")),
        ("a.tar.zst", ("tar", "zstd")),
        ("a.tzst", ("tar", "zstd")),
        ("x/a.CPIO.GZ", ("cpio", "gzip")),
        ("a.cpio.zst", ("cpio", "zstd")),
        ("a.b.sqfs", ("squashfs", None)),
        ("root.img", ("ext4", None)),
        ("rootfs", ("dir", None)),
        ("v1.2/", ("dir", None)),
        (".tar", ("dir", None)),
    ],
)
def test_format_follows_the_suffix(output: str, expected: tuple[str, str | None]) -> None:
    assert format_of(output) == expected


def test_a_name_that_is_a_suffix_alone_says_nothing() -> None:
    with pytest.raises(UsageError, match=r"^\.tar\.gz: the suffix \.gz is of no known format"):
        format_of(".tar.gz")


def test_every_format_and_backend_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs/packers.md").read_text()
    for name, backend in BACKENDS:
        assert f"| `{name}` |" in page
        assert f"`{backend}`" in page
    for suffix in SUFFIXES:
        assert f"`{suffix}`" in page
    for option in vars(PackOptions()):
        assert f"`--{option.replace('_', '-').replace('free-space', 'free')}`" in page


def test_losses_are_grouped() -> None:
    lost = [("owner", b"a", "x"), ("xattr", b"b", "y"), *(("owner", b"c%d" % n, "x") for n in range(20))]
    assert summarize(group(lost), group([("owner", b"d", "x"), ("owner", b"e", "z")])) == [
        Loss("owner", "x", 22, (b"a", *(b"c%d" % n for n in range(9)))),
        Loss("xattr", "y", 1, (b"b",)),
        Loss("owner", "z", 1, (b"e",)),
    ]

"""Layers made to break out, to hide entries, or to exhaust. `test_threats.py` lists what other tools fell for."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from ocifast import _core
from ocifast.errors import CompressionError, EntryRefusedError, LayerError, LimitError, OcifastError, TarError

from tests.support import layers
from tests.support.core import dump, flatten, names
from tests.support.images import Layer, digest_of
from tests.support.layers import BLOCK, GNU_LONG_LINK, GNU_LONG_NAME, PAX, TarBuilder, header, padded
from tests.support.oracle import dump_directory
from tests.support.pack import PLAIN_FORMATS, pack
from tests.support.run import run

INNER = TarBuilder().file("evil", b"hidden").build()


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, beside the output, with a sentinel; the test fails when anything in it changes."""
    folder = tmp_path / "outside"
    folder.mkdir(mode=0o755)
    (folder / "sentinel").write_bytes(b"untouched")
    (folder / "sentinel").chmod(0o640)
    monkeypatch.chdir(folder)
    before = dump_directory(folder)
    yield folder
    assert dump_directory(folder) == before


def directory(built: list[Layer | TarBuilder | bytes], tmp_path: Path) -> list[str]:
    """Makes a directory of the layers; the paths and types that are in it."""
    tree = flatten(built, tmp_path / "work", store="directory")
    (tmp_path / "out").mkdir()
    tree.write_directory(tmp_path / "out", owners=os.geteuid() == 0)
    shutil.rmtree(tmp_path / "work")
    return names(dump_directory(tmp_path / "out"))


@pytest.mark.parametrize("header_size", [0, BLOCK, 2 * len(INNER)])
def test_a_pax_size_always_wins_and_hides_no_entry(tmp_path: Path, header_size: int) -> None:
    archive = (
        TarBuilder()
        .pax({"size": str(len(INNER))})
        .raw(header("carrier", size=header_size) + padded(INNER))
        .file("after", b"seen")
        .build()
    )
    ours = [line.split(" ")[0][1:] for line in dump([archive], tmp_path / "work").splitlines()][1:]
    (tmp_path / "a.tar").write_bytes(archive)
    gnu = run("tar", "-tf", tmp_path / "a.tar").decode().split()
    with tarfile.open(fileobj=BytesIO(archive)) as python:
        assert sorted(ours) == sorted(gnu) == sorted(python.getnames()) == ["after", "carrier"]
    tree = flatten([archive], tmp_path / "again")
    assert tree.read(b"carrier", 0, 1 << 20) == INNER


MALFORMED: dict[str, TarBuilder | Layer] = {
    "pax header and nothing after it": TarBuilder().pax({"path": "a"}),
    "GNU long name and nothing after it": TarBuilder().gnu(GNU_LONG_NAME, "a"),
    "two pax headers for one entry": TarBuilder().pax({"path": "a"}).pax({"path": "b"}).file("c"),
    "GNU long name and pax path": TarBuilder().gnu(GNU_LONG_NAME, "a").pax({"path": "b"}).file("c"),
    "GNU long link and pax linkpath": TarBuilder().gnu(GNU_LONG_LINK, "a").pax({"linkpath": "b"}).symlink("c", "d"),
    "one pax record twice": TarBuilder().pax([("path", "a"), ("path", "b")]).file("c"),
    "a pax record without a newline": TarBuilder().pax(b"9 path=ab").file("c"),
    "a pax record longer than its header": TarBuilder().pax(b"99 path=a\n").file("c"),
    "a pax record of length 0": TarBuilder().pax(b"0 path=a\n").file("c"),
    "an empty pax path": TarBuilder().pax({"path": ""}).file("c"),
    "a pax path with a NUL": TarBuilder().pax({"path": b"a\x00b"}).file("c"),
    "a pax size that is no number": TarBuilder().pax({"size": "0x10"}).file("c"),
    "a negative pax size": TarBuilder().pax({"size": "-1"}).file("c"),
    "a negative size": TarBuilder().member("a", size=-1),
    "a size of 2^63": TarBuilder().member("a", size=b"\x80" + (2**63).to_bytes(11, "big")),
    "a size of 2^64": TarBuilder().pax({"size": str(2**64)}).file("c"),
    "a uid over 32 bits": TarBuilder().file("a", uid=2**32),
    "a size that is no number": TarBuilder().member("a", size=b"00000000zz "),
    "a wrong checksum": TarBuilder().file("fine").member("a", checksum=b"0000000\x00"),
    "a device number that Linux cannot hold": TarBuilder().device("a", "char", 2**24, 0),
    "the end in the middle of a file": Layer(TarBuilder().file("a", b"x" * 2000).build(end=False)[:1500], "plain"),
    "the end in the middle of a header": Layer(TarBuilder().file("fine").file("a").build(end=False)[:800], "plain"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_archive_is_refused_and_named(tmp_path: Path, name: str) -> None:
    lower = TarBuilder().file("fine", b"below")
    layer = MALFORMED[name]
    built = layer if isinstance(layer, Layer) else Layer(layer, "plain")
    with pytest.raises(TarError) as caught:
        flatten([lower, built], tmp_path / "work")
    assert caught.value.context["layer"] == built.digest
    assert built.digest in str(caught.value)
    assert "\n" not in str(caught.value)


LIMITS = {
    "a pax header of 5 MiB": TarBuilder().pax({"comment": "x" * (5 << 20)}).file("a"),
    "a long name of 5 MiB": TarBuilder().gnu(GNU_LONG_NAME, "x" * (5 << 20)).file("a"),
    "a path of 100 KiB": TarBuilder().file("d/" * 50_000 + "a"),
    "a path of 3000 components": TarBuilder().file("d/" * 3000 + "a"),
    "attributes of 2 MiB": TarBuilder().file("a", xattrs={f"user.{n}": b"x" * 60_000 for n in range(35)}),
}


@pytest.mark.parametrize("name", LIMITS)
def test_headers_that_ask_for_too_much_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LimitError):
        flatten([LIMITS[name]], tmp_path / "work")


def test_a_header_that_only_claims_to_be_large_takes_no_memory(tmp_path: Path) -> None:
    claim = TarBuilder().raw(header("PaxHeaders/x", PAX, size=1 << 40)).build(end=False)
    with pytest.raises(LayerError):
        flatten([claim], tmp_path / "work")
    many = b"\n".join([b"1000000000"] + [b"0"] * 50)
    sparse = TarBuilder().pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"})
    with pytest.raises(LayerError):
        flatten([sparse.file("a", padded(many + b"\n"))], tmp_path / "again")


@pytest.mark.parametrize("path", [".", "./", "/", "a/.."])
@pytest.mark.parametrize("kind", ["symlink", "file", "hard_link"])
def test_the_root_can_only_be_a_directory(tmp_path: Path, outside: Path, path: str, kind: str) -> None:
    tar = TarBuilder().file("victim")
    builder = {"symlink": tar.symlink, "hard_link": tar.hard_link}.get(kind)
    hostile = builder(path, "victim") if builder else tar.member(path.rstrip("/") or "/", layers.FILE, b"x")
    with pytest.raises((EntryRefusedError, TarError)):
        directory([hostile, TarBuilder().file("etc/passwd", b"evil")], tmp_path)


@pytest.mark.parametrize("path", ["", "..", "../evil", "/../evil", "a/../../evil", "a/\x00b", "a/" + "n" * 256])
def test_names_that_leave_the_root_are_refused(tmp_path: Path, outside: Path, path: str) -> None:
    with pytest.raises((EntryRefusedError, TarError)) as caught:
        directory([TarBuilder().file("a/fine").pax({"path": path}).file("x")], tmp_path)
    assert caught.value.context["layer"].startswith("sha256:")


@pytest.mark.parametrize("form", PLAIN_FORMATS)
def test_a_long_name_in_a_links_target(tmp_path: Path, form: str) -> None:
    """No format gets a name that it would have to cut: a folder that a link's target names is made of that name."""
    for number, name in enumerate(["z" * 256, "etc" + "z" * 256, "z" * 1500]):
        tar = TarBuilder().file("etc/real", b"real").symlink("l", name).file("l/evil", b"evil")
        out = tmp_path / f"{number}"
        out.mkdir()
        with pytest.raises(EntryRefusedError, match=r"longer than 255 bytes.*l/evil"):
            pack([tar], out, form, with_dump=False)


@pytest.mark.parametrize(
    ("path", "rewritten"), [("/etc/motd", "/etc/motd"), ("./a//b", "/a/b"), ("a/../b", "/b"), ("//x", "/x")]
)
def test_names_that_stay_are_taken_below_the_root(tmp_path: Path, outside: Path, path: str, rewritten: str) -> None:
    assert f"{rewritten} file" in directory([TarBuilder().file(path)], tmp_path)


@pytest.mark.parametrize("split", [False, True])
def test_a_link_that_becomes_a_directory_is_replaced_not_followed(tmp_path: Path, outside: Path, split: bool) -> None:
    first = TarBuilder().symlink("d", str(outside)).symlink("f", str(outside / "sentinel"))
    second = TarBuilder() if split else first
    second.directory("d", mode=0o777, uid=1, mtime=5, xattrs={"user.a": b"x"}).file("f", b"new", mode=0o777)
    built: list[Layer | TarBuilder | bytes] = [first, second] if split else [first]
    assert directory(built, tmp_path) == ["/ directory", "/d directory", "/f file"]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("target", ["absolute", "relative"])
def test_entries_below_a_link_to_the_outside_stay_inside(
    tmp_path: Path, outside: Path, split: bool, target: str
) -> None:
    first = TarBuilder().symlink("a", str(outside) if target == "absolute" else "../../../outside")
    second = TarBuilder() if split else first
    second.file("a/file", b"evil").directory("a/dir", mode=0o777).symlink("a/link", "/etc").fifo("a/fifo")
    second.hard_link("a/hard", "a/file").whiteout("a/sentinel").file("a/sentinel", b"replaced")
    built: list[Layer | TarBuilder | bytes] = [first, second] if split else [first]
    inside = str(outside) if target == "absolute" else "/outside"
    found = directory(built, tmp_path)
    assert f"{inside}/file file" in found
    assert f"{inside}/dir directory" in found
    assert f"{inside}/hard file" in found
    assert f"{inside}/sentinel file" in found
    assert "/a symlink" in found


def test_a_whiteout_below_a_link_to_the_outside_removes_nothing_there(tmp_path: Path, outside: Path) -> None:
    lower = TarBuilder().symlink("a", str(outside)).file("kept")
    assert directory([lower, TarBuilder().whiteout("a/sentinel").opaque("a")], tmp_path) == [
        "/ directory",
        "/a symlink",
        "/kept file",
    ]


@pytest.mark.parametrize("target", ["sentinel", "../outside/sentinel", "./sentinel", "{outside}/sentinel", "/etc/motd"])
def test_hard_links_never_leave_the_image(tmp_path: Path, outside: Path, target: str) -> None:
    with pytest.raises((EntryRefusedError, TarError)) as caught:
        directory([TarBuilder().hard_link("link", target.format(outside=outside))], tmp_path)
    assert "link" in str(caught.value)
    assert (outside / "sentinel").stat().st_nlink == 1


def test_hard_links_to_what_is_in_the_image_are_below_its_root(tmp_path: Path, outside: Path) -> None:
    tar = TarBuilder().file("sentinel", b"inside").hard_link("one", "/sentinel").hard_link("two", "x/../sentinel")
    found = directory([tar], tmp_path)
    assert found == ["/ directory", "/one file", "/sentinel file", "/two file"]
    assert (tmp_path / "out/one").read_bytes() == b"inside"
    assert (tmp_path / "out/sentinel").stat().st_nlink == 3


@pytest.mark.parametrize("target", ["", "d"])
def test_hard_links_to_nothing_and_to_directories_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises((EntryRefusedError, TarError)):
        flatten([TarBuilder().directory("d").hard_link("link", target)], tmp_path / "work")


ALL = ["/d directory", "/d/x file", "/d/y file", "/z file"]
WITHOUT_X = ["/d directory", "/d/y file", "/z file"]
LOWER = TarBuilder().directory("d").file("d/x").file("d/y").file("z")
WHITEOUTS: dict[str, tuple[TarBuilder, list[str] | None]] = {
    ".wh. hides no name": (TarBuilder().file("d/.wh."), None),
    ".wh.. hides no name": (TarBuilder().file("d/.wh.."), None),
    ".wh... hides no name": (TarBuilder().file("d/.wh..."), None),
    ".wh.x hides x": (TarBuilder().file("d/.wh.x"), WITHOUT_X),
    "a whiteout that is a directory": (TarBuilder().directory("d/.wh.x"), WITHOUT_X),
    "a whiteout that is a hard link": (
        TarBuilder().hard_link("d/.wh.x", "z"),
        ["/d directory", "/d/y file", "/z file"],
    ),
    "an opaque whiteout": (TarBuilder().opaque("d"), ["/d directory", "/z file"]),
    "an opaque whiteout that is a directory": (TarBuilder().directory("d/.wh..wh..opq"), ["/d directory", "/z file"]),
    "bookkeeping of AUFS": (
        TarBuilder().directory(".wh..wh.plnk").file(".wh..wh.plnk/1.2").file(".wh..wh.aufs"),
        ALL,
    ),
    "a whiteout of nothing": (TarBuilder().whiteout("no/where"), ALL),
    "a whiteout below a file": (TarBuilder().whiteout("z/a"), ALL),
    "a whiteout after its entry": (
        TarBuilder().file("d/x", b"new").whiteout("d/x").opaque("d"),
        ["/d directory", "/d/x file", "/z file"],
    ),
    "a device 0:0 is no whiteout": (
        TarBuilder().device("d/x", "char", 0, 0),
        ["/d directory", "/d/x char", "/d/y file", "/z file"],
    ),
}


@pytest.mark.parametrize("name", WHITEOUTS)
def test_whiteouts(tmp_path: Path, name: str) -> None:
    upper, expected = WHITEOUTS[name]
    if expected is None:
        with pytest.raises(EntryRefusedError):
            flatten([LOWER, upper], tmp_path / "work")
    else:
        assert names(dump([LOWER, upper], tmp_path / "work")) == ["/ directory", *expected]


def test_attributes_that_steer_overlayfs_are_dropped_and_counted(tmp_path: Path) -> None:
    steering = {"trusted.overlay.redirect": b"/etc", "trusted.overlay.opaque": b"y", "user.overlay.whiteout": b"y"}
    tree = flatten([TarBuilder().directory("d", xattrs={**steering, "trusted.kept": b"1"})], tmp_path / "work")
    assert tree.xattrs(b"d") == {b"trusted.kept": b"1"}
    assert dict(tree.notices())["overlay_xattrs_dropped"] == 1


@pytest.mark.tools
def test_a_bomb_stops_at_the_ratio(tmp_path: Path) -> None:
    tar = TarBuilder().file("a", b"x").build()
    # Frames of zeros after the archive's end, which count like all others.
    zeros = run("zstd", "-q", "-c", stdin=bytes(64 << 20))
    bomb = run("zstd", "-q", "-c", stdin=tar) + 17 * zeros
    assert len(bomb) * 2000 < 17 * 64 << 20
    with pytest.raises(LimitError, match="more than 2000 times as many"):
        flatten([Layer(tar, "zstd", blob=bomb)], tmp_path / "work")


@pytest.mark.tools
def test_zeros_that_compress_well_are_no_bomb(tmp_path: Path) -> None:
    tar = TarBuilder().file("zeros", bytes(80 << 20)).build()
    layer = Layer(tar, "zstd")
    assert len(layer.blob) * 2000 < len(tar)
    assert flatten([layer], tmp_path / "work").stat(b"zeros")[8] == 80 << 20


BOUNDS: list[dict[str, Any]] = [{"layer_bytes": 4000}, {"entries": 1}]


def test_bounds_on_bytes_and_entries(tmp_path: Path) -> None:
    tar = TarBuilder().file("a", b"x" * 5000).file("b", b"x" * 5000)
    for number, limits in enumerate(BOUNDS):
        with pytest.raises(LimitError):
            flatten([tar], tmp_path / str(number), **limits)


MIB = 1 << 20


def attributes(count: int) -> list[TarBuilder]:
    tar = TarBuilder()
    for number in range(count):
        tar.file(f"f{number}", xattrs={"user.a": b"%08d" % number + b"A" * 100_000})
    return [tar]


def small_attributes(count: int) -> list[TarBuilder]:
    tar = TarBuilder()
    for number in range(count):
        tar.file(f"f{number}", xattrs={f"user.{number}.{name}": b"" for name in range(200)})
    return [tar]


def targets(count: int) -> list[TarBuilder]:
    tar = TarBuilder()
    for number in range(10 * count):
        tar.symlink(f"l{number}", f"{number:08d}" + "t" * 4000)
    return [tar]


def hard_links(count: int) -> list[TarBuilder]:
    tar = TarBuilder()
    for number in range(10 * count):
        tar.hard_link(f"h{number}", "./" * 4000 + "file")
    return [TarBuilder().file("file"), tar]


def paths(count: int) -> list[TarBuilder]:
    tar = TarBuilder()
    for number in range(2 * count):
        tar.file(f"{number:08d}" + "/./" * 10_000 + "file")
    return [TarBuilder().file("file"), tar]


def sparse_maps(count: int) -> list[TarBuilder]:
    tar = TarBuilder()
    for number in range(count):
        extents = [(2 * at, b"x") for at in range(2000)]
        tar.sparse(f"s{number}", extents, 4000, form="1.0")
    return [tar]


def names_behind_a_link(count: int) -> list[TarBuilder]:
    folder = "/".join(["n" * 200] * 15)
    tar = TarBuilder().directory(folder).symlink("l", folder)
    for number in range(10 * count):
        tar.file(f"l/{number}")
    return [tar]


METADATA: list[Callable[[int], list[TarBuilder]]] = [
    attributes,
    small_attributes,
    targets,
    hard_links,
    paths,
    sparse_maps,
    names_behind_a_link,
]

PEAK = """
import resource, sys
from pathlib import Path
from tests.support.core import flatten
from ocifast.errors import LimitError
layers = [path.read_bytes() for path in map(Path, sys.argv[3:])]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    flatten(layers, Path(sys.argv[2]), metadata_bytes=int(sys.argv[1]))
except LimitError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("make", METADATA)
def test_the_metadata_of_all_layers_have_one_bound(make: Callable[[int], list[TarBuilder]], tmp_path: Path) -> None:
    """A few pass, many do not, and memory stays near the bound either way."""
    flatten(make(25), tmp_path / "few", metadata_bytes=5 * MIB)
    layers = [tmp_path / f"layer{number}" for number in range(2)]
    built = make(300)
    for path, tar in zip(layers, built, strict=False):
        path.write_bytes(tar.build())
    command: list[str | Path] = [sys.executable, "-c", PEAK, str(5 * MIB), tmp_path / "many", *layers[: len(built)]]
    done = run(*command, cwd=Path(__file__).parent.parent)
    message, peak = done.decode().splitlines()
    assert "the paths, link targets, attributes and sparse maps of the image take more than 5242880 bytes" in message
    assert "layer sha256:" in message
    # A few buffers and threads beside what counts.
    assert int(peak) < 5 * MIB + 16 * MIB, f"{int(peak) >> 20} MiB"


def test_what_repeats_counts_once(tmp_path: Path) -> None:
    """Labels that all files have, folders that all paths share, dots and slashes: memory has them once, too."""
    value = b"system_u:object_r:container_file_t:s0" * 100
    lower, upper = TarBuilder(), TarBuilder()
    for number in range(2000):
        other = value if number % 2 else value[1:]
        lower.file("/".join(["folder" * 20] * 5) + f"/lower{number}", xattrs={"security.selinux": other})
        upper.file("./" * 500 + "/".join(["folder" * 20] * 5) + f"/upper{number}", xattrs={"security.selinux": other})
    tree = flatten([lower, upper], tmp_path / "work", metadata_bytes=100_000)
    assert len(tree) == 1 + 5 + 4000


@pytest.mark.tools
def test_a_window_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    tar = TarBuilder().file("a", os.urandom(1000)).build()
    blob = run("zstd", "-q", "-c", "--ultra", "--long=31", "-22", stdin=tar)
    with pytest.raises((LimitError, CompressionError)):
        flatten([Layer(tar, "zstd", blob=blob)], tmp_path / "work")


def flipped(blob: bytes) -> bytes:
    """The bytes with one bit in their middle turned."""
    middle = len(blob) // 2
    return blob[:middle] + bytes([blob[middle] ^ 1]) + blob[middle + 1 :]


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "gzip cut": lambda blob: blob[: len(blob) // 2],
    "gzip with a flipped bit": flipped,
    "gzip with a wrong checksum": lambda blob: blob[:-8] + bytes(4) + blob[-4:],
    "garbage after gzip": lambda blob: blob + b"garbage",
    "not compressed and no tar": lambda _: b"<html>not found</html>" * 100,
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_failing_decoder_lets_no_thread_wait(tmp_path: Path, name: str) -> None:
    """One damaged layer among large ones: every writer comes back, with the cause or as cancelled."""
    large = Layer(TarBuilder().file("large", os.urandom(24 << 20)))
    tar = TarBuilder().file("small", b"content" * 1000).build()
    damaged = DAMAGED[name](gzip.compress(tar, mtime=0))
    blobs = [large.blob, damaged, large.blob]
    first = (large.digest, len(large.blob), large.diff_id)
    bad = (digest_of(damaged), len(damaged), digest_of(tar))
    (tmp_path / "work").mkdir()
    flattener = _core.Flattener([first, bad, first], store="spool", folder=tmp_path / "work")
    failures: list[OcifastError] = []

    def feed(index: int) -> None:
        try:
            for start in range(0, len(blobs[index]), 1 << 16):
                flattener.write(index, blobs[index][start : start + (1 << 16)])
            flattener.close_layer(index)
        except OcifastError as error:
            failures.append(error)

    threads = [threading.Thread(target=feed, args=(index,), daemon=True) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(OcifastError) as caught:
        flattener.finish()
    assert caught.value.context["layer"] == bad[0]
    assert failures

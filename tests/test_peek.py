"""`Image.peek`, `ocifast ls` and `ocifast cat`: the answers of the whole tree, with no more layers than they need."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import ocifast
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ocifast import _core
from ocifast.errors import LayerError, OcifastError, PathNotFoundError, UsageError, VerificationError

from tests.support.images import Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.model import Member, as_tar
from tests.support.registry import Registry
from tests.support.run import ocifast as command
from tests.support.run import try_ocifast
from tests.test_flatten_model import FOLDERS, LEAVES, LINKS, layers

NAMES = [*FOLDERS, *LEAVES, *LINKS]
PATHS = [
    b"",
    *NAMES,
    *(b"/".join((one, other)) for one in (*FOLDERS, *LINKS) for other in NAMES),
    *(b"/".join((one, b"d", other)) for one in FOLDERS for other in NAMES),
    b"l/../a",
    b"d/e/d/a",
]
QUESTIONS = [("entry", True), ("entry", False), ("path", True), ("path", False), ("children", True), ("all", True)]


def ask(tree: _core.Tree, path: bytes, question: str, *, follow: bool) -> object:
    """The answer of a tree, without the numbers of inodes; the code of the error where there is none."""
    try:
        if question == "path":
            return tree.resolve(path, follow=follow)
        if question == "entry":
            rows = [tree.stat(path, follow=follow)]
        elif question == "children":
            rows = tree.children(path)
        else:
            rows = tree.entries(tree.resolve(path), 0, 1000)
        # A link's own entry has a file's content only where it is followed.
        return [(*row[:9], tree.read(row[0], 0, 100) if row[1] == "file" else b"") for row in rows]
    except OcifastError as error:
        return error.code


def started(built: Iterable[Layer], folder: str, *, from_top: bool) -> _core.Flattener:
    rows = [(layer.digest, len(layer.blob), layer.diff_id) for layer in built]
    return _core.Flattener(rows, store="spool", folder=folder, from_top=from_top)


def with_folders(layer: Sequence[Member]) -> list[Member]:
    """The same layer with an entry for each folder, before what is in it: as builders of images write them."""
    told: set[tuple[bytes, ...]] = set()
    members = []
    for member in layer:
        for length in range(1, len(member.path)):
            if (folder := member.path[:length]) not in told:
                told.add(folder)
                members.append(Member("directory", folder, 0o755))
        members.append(member)
    return members


def check(images: Sequence[Sequence[Member]], seen: Counter[str]) -> None:
    """Every answer that is given before all layers are read is that of the whole tree."""
    built = [Layer(as_tar(layer)) for layer in images]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        flattener = started(built, folder, from_top=False)
        try:
            for index, layer in enumerate(built):
                flattener.write(index, layer.blob)
                flattener.close_layer(index)
            whole = flattener.finish()
        except OcifastError:
            assume(False)
        from_top = started(built[::-1], other, from_top=True)
        for index, layer in enumerate(built[::-1]):
            from_top.write(index, layer.blob)
            from_top.close_layer(index)
            from_top.wait_for(index)
            try:
                tree = from_top.tree_so_far()
            except LayerError:
                # Some layers do not fit together without the lower ones: then more are read.
                assert index + 1 < len(built)
                continue
            for path in PATHS:
                for question, follow in QUESTIONS:
                    if not from_top.settles(path, question, follow=follow):
                        assert index + 1 < len(built)
                        continue
                    found = ask(tree, path, question, follow=follow)
                    assert found == ask(whole, path, question, follow=follow), (index, path, question, follow)
                    if index + 1 < len(built):
                        seen[f"{question} {'absent' if isinstance(found, str) else 'found'}"] += 1


@st.composite
def layers_as_built(draw: st.DrawFn) -> list[list[Member]]:
    """Random layers, most of them with entries for their folders."""
    return [layer if draw(st.integers(0, 3)) == 0 else with_folders(layer) for layer in draw(layers)]


def test_answers_are_those_of_the_whole_tree() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(layers_as_built())
    def answers(images: list[list[Member]]) -> None:
        check(images, seen)

    answers()
    # Random layers seldom hide what is below a folder: an opaque one, whose listing is then known.
    opaque = [Member("directory", (b"a",), 0o755), Member("opaque", (b"a",)), Member("file", (b"a", b"b"), data=b"2")]
    check([with_folders([Member("file", (b"a", b"c"), data=b"1")]), opaque], seen)
    # What is never answered early is not tested.
    assert set(seen) == {f"{question} {how}" for question, _ in QUESTIONS for how in ("absent", "found")}


BIG = Random(7).randbytes(200_000)
"""What does not compress to nothing, so that a layer that is fetched is seen in the bytes."""


def base() -> TarBuilder:
    """A lower layer that has all that is asked for, and much else."""
    tar = TarBuilder().directory("./").directory("etc/").file("etc/motd", b"low").file("etc/hosts", b"hosts")
    tar.directory("usr/").directory("usr/lib/").file("usr/lib/so", b"so").symlink("lib", "usr/lib")
    return tar.directory("opt/").directory("opt/app/").file("opt/app/old", BIG).directory("srv/").file("srv/x", b"x")


def upper() -> TarBuilder:
    """A layer as builders write them, with its folders."""
    tar = (
        TarBuilder().directory("etc/").file("etc/motd", b"high").whiteout("etc/hosts").hard_link("etc/hard", "etc/motd")
    )
    tar.symlink("etc/link", "motd").symlink("etc/up", "../etc/link").symlink("etc/away", "/usr/lib/so")
    tar.hard_link("etc/deep", "usr/lib/so")
    tar.directory("opt/").directory("opt/app/").opaque("opt/app").file("opt/app/new", b"new")
    tar.directory("opt/app/sub/").file("opt/app/sub/f", b"f")
    return tar.whiteout("srv").file("init", b"#!")


EARLY: list[tuple[str, bytes | None]] = [
    ("/etc/motd", b"high"),
    ("etc/../etc/./motd", b"high"),
    ("/etc/hard", b"high"),
    ("/etc/link", b"high"),
    ("/etc/up", b"high"),
    ("/init", b"#!"),
    ("/opt/app/new", b"new"),
    ("/opt/app/sub/f", b"f"),
    ("/etc/hosts", None),
    ("/opt/app/old", None),
    ("/srv/x", None),
    ("/etc/motd/x", None),
]
LATE: list[tuple[str, bytes | None]] = [
    ("/etc/away", b"so"),
    ("/etc/deep", b"so"),
    ("/lib/so", b"so"),
    ("/nowhere", None),
    ("/etc/nothing", None),
]


def read(peek: ocifast.Peek, path: str) -> bytes | None:
    try:
        return peek.read_bytes(path)
    except PathNotFoundError:
        return None


@pytest.fixture
def where(tmp_path: Path) -> str:
    """Three layers, of which the lowest is seldom needed."""
    return f"oci:{write_layout(tmp_path / 'peek', build_image([base(), TarBuilder().file('x', BIG), upper()]))}:app"


@pytest.mark.parametrize(("path", "content"), EARLY)
def test_one_layer_is_enough(where: str, path: str, content: bytes | None) -> None:
    with ocifast.open(where) as image, image.peek() as peek:
        assert read(peek, path) == content
        assert peek.layers_read == 1
        with image.flatten() as rootfs:
            if content is None:
                assert path not in rootfs
            else:
                assert rootfs.read_bytes(path) == content
                assert peek.resolve(path) == rootfs.resolve(path)


@pytest.mark.parametrize(("path", "content"), LATE)
def test_what_lower_layers_have_is_found(where: str, path: str, content: bytes | None) -> None:
    with ocifast.open(where) as image, image.peek() as peek:
        assert read(peek, path) == content
        assert peek.layers_read == 3


def test_folders_are_listed_when_all_of_them_is_known(where: str) -> None:
    with ocifast.open(where) as image, image.flatten() as rootfs, image.peek() as peek:
        assert [entry.path for entry in peek.scandir("/opt/app")] == ["/opt/app/new", "/opt/app/sub"]
        assert [entry.path for entry in peek.walk("/opt/app")] == [entry.path for entry in rootfs.walk("/opt/app")]
        assert peek.layers_read == 1
        file = peek.open("/opt/app/new")
        assert [entry.path for entry in peek.scandir("/etc")] == [entry.path for entry in rootfs.scandir("/etc")]
        assert peek.layers_read == 3
        # What was opened before more was read stays readable until the end.
        assert file.read() == b"new"
        raw = file.detach()
        raw.seek(0)
        peek.close()
        with pytest.raises(UsageError):
            raw.read(1)
        with pytest.raises(UsageError):
            peek.stat("/init")


def test_a_file_without_its_folders(tmp_path: Path) -> None:
    """Where a layer does not say what the folder is, a link of a lower layer may lead its files elsewhere."""
    lower = TarBuilder().directory("real/").directory("real/etc/").symlink("etc", "real/etc").file("real/etc/b", b"low")
    for top, path, needed in [
        # The last word of all: wherever it went, the same path leads there.
        (TarBuilder().file("etc/a", b"high"), "/etc/a", 1),
        (TarBuilder().file("etc/b", b"high"), "/real/etc/b", 2),
        (TarBuilder().file("etc/a", b"high").directory("etc/"), "/real/etc/a", 2),
    ]:
        write_layout(tmp_path, build_image([lower, top]))
        with ocifast.open(f"oci:{tmp_path}:app") as image, image.peek() as peek, image.flatten() as rootfs:
            assert peek.read_bytes(path) == rootfs.read_bytes(path) == b"high"
            assert peek.layers_read == needed
            assert peek.resolve(path) == rootfs.resolve(path)


def app() -> TarBuilder:
    """A folder that a layer has to itself."""
    return TarBuilder().directory("app/").file("app/conf", b"middle").opaque("app")


LINK = TarBuilder().symlink("lnk", "app")
LED_ASTRAY = {
    "an entry comes through a link": [LINK, app(), TarBuilder().file("lnk/conf", b"top").file("z")],
    "a whiteout does": [LINK, app(), TarBuilder().whiteout("lnk/conf").file("z")],
    "an opaque mark does": [LINK, app(), TarBuilder().opaque("lnk").file("z")],
    "a folder on the way does": [LINK, app(), TarBuilder().file("lnk/new/deep", b"top").file("z")],
    "what came through a link leads on": [
        TarBuilder().symlink("lnk", "app").directory("other/").file("other/conf", b"low"),
        TarBuilder()
        .directory("app/")
        .directory("app/sub/")
        .directory("other/")
        .file("other/conf", b"other")
        .opaque("."),
        TarBuilder().symlink("lnk/sub", "../other").file("app/sub/conf", b"top").file("z"),
    ],
    "a hard link's file is hidden by its layer": [
        TarBuilder().file("conf", b"low"),
        app().hard_link("app/hard", "conf").whiteout("conf"),
        TarBuilder().directory("app/").file("z"),
    ],
    "a link makes way for a folder": [
        TarBuilder().symlink("app", "other").directory("other/").file("other/conf", b"low"),
        TarBuilder().directory("app/").whiteout("app/conf"),
        TarBuilder().directory("other/").file("other/new", b"top"),
    ],
    "a folder comes after what is in it": [
        TarBuilder().symlink("app", "other").directory("other/").file("other/conf", b"low"),
        TarBuilder().file("app/conf", b"middle").directory("app/").file("app/new", b"new"),
        TarBuilder().directory("z/"),
    ],
    "a whiteout of a folder that is there again": [
        TarBuilder().directory("app/").directory("app/sub/").file("app/sub/conf", b"low"),
        TarBuilder().directory("app/").whiteout("app/sub").directory("app/sub/").file("app/sub/new", b"new"),
        TarBuilder().directory("z/"),
    ],
}
ASKED = [
    "app",
    "lnk",
    "other",
    "app/conf",
    "app/new",
    "app/new/deep",
    "app/sub",
    "app/sub/conf",
    "app/sub/new",
    "app/hard",
]


@pytest.mark.parametrize("how", LED_ASTRAY)
def test_what_lower_layers_lead_elsewhere(tmp_path: Path, how: str) -> None:
    write_layout(tmp_path, build_image(LED_ASTRAY[how]))
    early = 0
    with ocifast.open(f"oci:{tmp_path}:app") as image, image.flatten() as rootfs:
        for path in [*ASKED, "other/conf", "other/new", "z", "conf"]:
            for question in ("stat", "resolve", "scandir"):
                with image.peek() as peek:
                    found = answer(getattr(peek, question), path)
                    assert found == answer(getattr(rootfs, question), path), (path, question)
                    early += peek.layers_read < 3
    # Behind an opaque mark that is nowhere for certain nothing is.
    assert (early > 0) == (how != "an opaque mark does")


def answer(question: Any, path: str) -> object:
    """What is found, without the numbers of inodes."""
    try:
        found = question(path)
    except PathNotFoundError:
        return None
    if isinstance(found, str):
        return found
    entries = found if isinstance(found, list) else [found]
    return [(entry.path, entry.type, entry.mode, entry.size, entry.target) for entry in entries]


def test_layers_below_are_never_asked_for(registry: Registry, tmp_path: Path) -> None:
    built = build_image([base(), TarBuilder().file("big", BIG), upper()])
    reference = registry.put(built, "peek/app:1")
    low, middle, high = (layer.digest for layer in built.layers)

    # A folder of its own for each: what is in the cache is not asked for again.
    def asked(*words: str) -> tuple[set[str], bytes]:
        before = len(registry.requests())
        out = command(*words, env={"OCIFAST_CACHE_DIR": str(tmp_path / "-".join(words).replace("/", "-"))})
        gone = [line for line in registry.requests()[before:] if "/blobs/" in line]
        assert len(gone) == len(set(gone))
        return {digest for digest in (low, middle, high) if any(digest in line for line in gone)}, out

    assert asked("cat", reference, "/etc/motd") == ({high}, b"high")
    assert asked("cat", "--no-cache", reference, "/etc/up") == ({high}, b"high")
    fetched, out = asked("ls", reference, "/opt/app")
    assert fetched == {high}
    assert [line.split()[-1] for line in out.decode().splitlines()] == ["/opt/app/new", "/opt/app/sub"]
    cache = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert 0 < cache < len(BIG) / 2
    assert asked("cat", reference, "/big") == ({high, middle}, BIG)
    assert asked("ls", reference)[0] == {high, middle, low}
    # A layer that is there twice is fetched once.
    twice = TarBuilder().directory("a/").file("a/f", BIG)
    reference = registry.put(build_image([base(), twice, TarBuilder().directory("b/"), twice]), "peek/app:2")
    assert asked("cat", reference, "/etc/hosts")[1] == b"hosts"


def test_failures(tmp_path: Path, where: str) -> None:
    done = try_ocifast("cat", where, "/etc/hosts")
    assert (done.returncode, done.stdout) == (1, b"")
    assert (
        done.stderr.decode()
        == f"ocifast: error: {where}: no such path in the image: /etc/hosts; 'ocifast ls {where}' lists what is there\n"
    )
    built = [Layer(base()), Layer(upper(), diff_id="sha256:" + "0" * 64)]
    write_layout(tmp_path, build_image(built))
    with ocifast.open(f"oci:{tmp_path}:app") as image:
        peek = image.peek()
        with pytest.raises(VerificationError, match=built[1].digest):
            peek.read_bytes("/etc/motd")
        peek.close()
    # What is wrong with a layer that nobody asked for is not seen, but what was asked for is right.
    write_layout(tmp_path, build_image([Layer(base(), diff_id="sha256:" + "0" * 64), Layer(upper())]))
    with ocifast.open(f"oci:{tmp_path}:app") as image:
        assert image.read_bytes("/etc/motd") == b"high"
        assert [entry.path for entry in image.scandir("/opt/app/sub")] == ["/opt/app/sub/f"]
    with ocifast.open(f"oci:{tmp_path}:app") as image, pytest.raises(VerificationError):
        image.read_bytes("/lib/so")
    write_layout(tmp_path, build_image([]))
    with ocifast.open(f"oci:{tmp_path}:app") as image, image.peek() as peek:
        assert peek.scandir("/") == []
        assert read(peek, "/x") is None


def test_many_layers_and_bounds(tmp_path: Path) -> None:
    tars = [TarBuilder().directory("d/").file(f"d/{number}", b"%d" % number) for number in range(100)]
    write_layout(tmp_path, build_image(tars))
    with ocifast.open(f"oci:{tmp_path}:app") as image:
        for number in (99, 90, 50, 0):
            with image.peek() as peek:
                assert peek.read_bytes(f"/d/{number}") == b"%d" % number
                # Not after every one of many layers it is looked whether they are enough.
                assert 100 - number <= peek.layers_read <= 2 * (100 - number) + 1
        limits = _core.Limits(entries=150)
        with image.peek(options=ocifast.FlattenOptions(limits=limits)) as peek:
            assert peek.read_bytes("/d/99") == b"99"
            with pytest.raises(LayerError, match="more than 150"):
                peek.read_bytes("/d/0")


async def _both(where: str) -> tuple[bytes, list[Any]]:
    image = await ocifast.aio.open(where)
    with image:
        return await ocifast.aio.read_bytes(image, "/etc/motd"), await ocifast.aio.scandir(image, "/opt/app")


def test_from_asyncio(where: str) -> None:
    import asyncio

    content, entries = asyncio.run(_both(where))
    assert content == b"high"
    assert [entry.path for entry in entries] == ["/opt/app/new", "/opt/app/sub"]

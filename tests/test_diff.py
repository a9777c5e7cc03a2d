"""`ocifast diff` and `ocifast.diff`: what differs, what is read of it, and what is said."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

import ocifast
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ocifast import aio
from ocifast.cli.display import format_size
from ocifast.difference import Change, compare
from ocifast.errors import CancelledError, DigestMismatchError, UsageError

from tests.support.images import BuiltImage, Layer, build_image, write_layout, wrong_digest
from tests.support.layers import TarBuilder
from tests.support.registry import Registry
from tests.support.run import ocifast as command
from tests.support.run import try_ocifast

BASE = (
    TarBuilder()
    .directory("etc")
    .file("etc/same", b"same")
    .file("etc/mode", b"m")
    .file("etc/owner", b"o")
    .file("etc/size", b"12")
    .file("etc/text", b"one")
    .file("etc/type", b"t")
    .symlink("link", "etc/same")
    .device("null", "char", 1, 3)
    .file("attributes", b"", xattrs={"user.a": b"1"})
    .file("time", b"", mtime=5)
    .file("linked", b"l")
    .hard_link("other", "linked")
    .file("old/below", b"gone")
)
FIRST = TarBuilder().file("only-first", b"12345")
SECOND = (
    TarBuilder()
    .file("etc/mode", b"m", mode=0o600)
    .file("etc/owner", b"o", uid=7, gid=8)
    .file("etc/size", b"123")
    .file("etc/text", b"two")
    .symlink("etc/type", "same")
    .symlink("link", "etc/text")
    .device("null", "char", 1, 5)
    .file("attributes", b"", xattrs={"user.a": b"2"})
    .file("time", b"", mtime=6)
    .whiteout("other")
    .file("other", b"l")
    .whiteout("old")
    .file("new/x\x1b[2J", bytes(2000))
)
CHANGES = [
    ("/attributes", "changed", ("xattrs",)),
    ("/etc/mode", "changed", ("mode",)),
    ("/etc/owner", "changed", ("owner",)),
    ("/etc/size", "changed", ("size", "content")),
    ("/etc/text", "changed", ("content",)),
    ("/etc/type", "changed", ("type", "mode")),
    ("/link", "changed", ("target",)),
    ("/new", "added", ()),
    ("/new/x\x1b[2J", "added", ()),
    ("/null", "changed", ("device",)),
    ("/old", "removed", ()),
    ("/old/below", "removed", ()),
    ("/only-first", "removed", ()),
    ("/other", "changed", ("hard_link",)),
]
TEXT = """\
~ /attributes  xattrs
~ /etc/mode  mode 0644 -> 0600
~ /etc/owner  owner 0:0 -> 7:8
~ /etc/size  size 2 B -> 3 B, content
~ /etc/text  content
~ /etc/type  type file -> symlink, mode 0644 -> 0777
~ /link  target etc/same -> etc/text
+ /new/
+ /new/x\\x1b[2J  2.0 kB
~ /null  device
- /old/
- /old/below  4 B
- /only-first  5 B
~ /other  hard link
"""
STAT = """\
             NAMES     BEFORE      AFTER
added            2          -     2.0 kB
removed          3        9 B          -
changed          9        9 B        9 B
layers    1 shared, of 2 and 2
"""


def found(changes: tuple[Change, ...]) -> list[tuple[str, str, tuple[str, ...]]]:
    """The changes without the entries."""
    return [(change.path, change.kind, change.fields) for change in changes]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """Two images with one base."""
    images = {"one": build_image([BASE, FIRST]), "two": build_image([BASE, SECOND])}
    write_layout(tmp_path / "pair", images)
    return f"oci:{tmp_path}/pair:one", f"oci:{tmp_path}/pair:two"


def test_what_differs(pair: tuple[str, str]) -> None:
    difference = ocifast.diff(*pair)
    assert found(difference.changes) == CHANGES
    assert difference.shared_layers == 1
    with ocifast.open(pair[0]) as one, ocifast.open(pair[1]) as two:
        assert difference.digests == (one.digest, two.digest)
        assert ocifast.diff(one, two) == difference
        with one.flatten() as first, two.flatten() as second:
            # From two stores, where every content has to be read.
            assert compare(first, second) == difference.changes
            for change in difference.changes:
                assert change.before == (first.stat(change.path, follow=False) if change.kind != "added" else None)
                assert change.after == (second.stat(change.path, follow=False) if change.kind != "removed" else None)
        with pytest.raises(UsageError, match="closed"):
            compare(first, second)
        with pytest.raises(UsageError, match="those that are open"):
            ocifast.diff(one, two, platform="linux/amd64")
    timed = [*CHANGES, ("/time", "changed", ("mtime",))]
    assert found(ocifast.diff(*pair, times=True).changes) == timed
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    back = ocifast.diff(pair[1], pair[0])
    assert found(back.changes) == [(path, turned[kind], fields) for path, kind, fields in CHANGES]


def test_diff_in_asyncio(pair: tuple[str, str]) -> None:
    async def both() -> None:
        difference, found = await asyncio.gather(aio.diff(*pair, times=True), aio.usage(pair[0], "/etc"))
        assert difference == ocifast.diff(*pair, times=True)
        assert found == ocifast.usage(pair[0], "/etc")

    asyncio.run(both())


def test_work_that_is_called_off(pair: tuple[str, str]) -> None:
    for work in (
        lambda: ocifast.diff(*pair, cancelled=lambda: True),
        lambda: ocifast.usage(pair[0], cancelled=lambda: True),
    ):
        with pytest.raises(CancelledError, match="was stopped"):
            work()


def test_diff_for_people(pair: tuple[str, str]) -> None:
    assert command("diff", *pair).decode() == TEXT
    assert command("diff", "--stat", *pair).decode() == STAT
    assert command("diff", "--times", *pair).decode() == TEXT + "~ /time  mtime\n"
    assert command("diff", pair[0], pair[0]).decode() == ""


def test_diff_as_json(pair: tuple[str, str]) -> None:
    told = json.loads(command("diff", "--json", *pair))
    assert [(one["path"], one["kind"], tuple(one["fields"])) for one in told["changes"]] == CHANGES
    entries = {one["path"]: one for one in json.loads(command("ls", "-R", "--json", pair[1]))["entries"]}
    for change in told["changes"]:
        expected = (
            None if change["kind"] == "removed" else {**entries[change["path"]], "inode": change["after"]["inode"]}
        )
        assert change["after"] == expected
        assert (change["before"] is None) == (change["kind"] == "added")
    brief = json.loads(command("diff", "--json", "--stat", *pair))
    assert brief == {**told, "changes": []}
    del brief["first_digest"], brief["second_digest"]
    assert brief == {
        "first": pair[0],
        "second": pair[1],
        "shared_layers": 1,
        "differs": True,
        "added": 2,
        "removed": 3,
        "changed": 9,
        "added_bytes": 2000,
        "removed_bytes": 9,
        "changes": [],
    }


def test_the_exit_status_is_as_asked_for(pair: tuple[str, str]) -> None:
    for words, status in [
        ((), 0),
        (("--exit-code",), 1),
        (("--exit-code", "--stat"), 1),
        (("--exit-code", "--json"), 1),
    ]:
        done = try_ocifast("diff", *words, *pair)
        assert (done.returncode, done.stderr) == (status, b"")
    assert try_ocifast("diff", "--exit-code", pair[1], pair[1]).returncode == 0
    gone = try_ocifast("diff", pair[0], "oci:/no/where:app")
    assert (gone.returncode, gone.stderr.count(b"\n")) == (1, 1)


def asked(registry: Registry, first: BuiltImage, second: BuiltImage) -> tuple[list[int], list[str]]:
    """How often a diff of two images fetched each layer of the first and those above of the second; its lines."""
    names = [registry.put(image, f"diff/{number}:1") for number, image in enumerate((first, second))]
    before = len(registry.requests())
    lines = command("diff", "--no-cache", *names).decode().splitlines()
    gets = [line for line in registry.requests()[before:] if "GET" in line]
    layers = dict.fromkeys(layer.digest for image in (first, second) for layer in image.layers)
    return [sum(digest in line for line in gets) for digest in layers], lines


def test_what_both_have_is_read_once(registry: Registry) -> None:
    files = [TarBuilder().file(f"file{number}", bytes([number]) * 100) for number in range(4)]
    first = build_image([files[0], files[1], files[2]])
    assert asked(registry, first, build_image([files[0], files[1], files[3]])) == (
        [1, 1, 1, 1],
        ["- /file2  100 B", "+ /file3  100 B"],
    )
    # One image goes on where the other ends.
    assert asked(registry, first, build_image([files[0], files[1]])) == ([1, 1, 1], ["- /file2  100 B"])
    assert asked(registry, build_image([files[0]]), first) == ([1, 1, 1], ["+ /file1  100 B", "+ /file2  100 B"])
    # Nothing in common but a blob at another place.
    assert asked(registry, build_image([files[0], files[1]]), build_image([files[1]])) == ([1, 1], ["- /file0  100 B"])
    # No layer at all.
    assert asked(registry, build_image([]), build_image([files[1]])) == ([1], ["+ /file1  100 B"])
    # A base in other clothes is that of the first image.
    dressed = [Layer(files[0], compression="zstd"), Layer(files[3])]
    assert asked(registry, build_image(files[:1]), build_image(dressed)) == ([1, 0, 1], ["+ /file3  100 B"])
    # The same layers in other clothes: nothing is read.
    other = build_image([Layer(tar, compression="zstd") for tar in files[:3]], config={"Env": ["A=1"]})
    assert asked(registry, first, other) == ([0] * 6, [])


def test_a_damaged_layer_is_named_with_its_image(tmp_path: Path) -> None:
    damaged = Layer(TarBuilder().file("x"), digest=wrong_digest(b"x"))
    write_layout(tmp_path, {"one": build_image([BASE, FIRST]), "two": build_image([BASE, damaged])})
    one, two = f"oci:{tmp_path}:one", f"oci:{tmp_path}:two"
    for names in ((one, two), (two, one)):
        with pytest.raises(DigestMismatchError) as caught:
            ocifast.diff(*names)
        assert str(caught.value).startswith(f"{two}: ")


SIZE = 1 << 20
HOLES: list[tuple[str, list[tuple[int, bytes]], bool]] = [
    ("zeros that are data", [(0, bytes(4096)), (8192, b"x" * 512)], True),
    ("the same in two pieces", [(8192, b"x" * 256), (8448, b"x" * 256)], True),
    ("another byte", [(8192, b"x" * 511 + b"y")], False),
    ("another place", [(8704, b"x" * 512)], False),
    ("nothing at all", [], False),
]


@pytest.mark.parametrize(("what", "extents", "same"), HOLES)
def test_holes_are_zeros(tmp_path: Path, what: str, extents: list[tuple[int, bytes]], same: bool) -> None:
    assert what
    one = TarBuilder().sparse("f", [(8192, b"x" * 512), (SIZE, b"")], SIZE)
    two = TarBuilder().sparse("f", [*extents, (SIZE, b"")], SIZE)
    write_layout(tmp_path, {"one": build_image([one]), "two": build_image([two])})
    changes = ocifast.diff(f"oci:{tmp_path}:one", f"oci:{tmp_path}:two").changes
    assert found(changes) == ([] if same else [("/f", "changed", ("content",))])


def test_holes_cost_nothing(tmp_path: Path) -> None:
    """Two files that say that they have a terabyte each: who reads holes does not come back."""
    tars = [TarBuilder().sparse("f", [(0, text), (1 << 40, b"")], 1 << 40) for text in (b"a" * 512, b"b" * 512)]
    write_layout(tmp_path, {"one": build_image([tars[0]]), "two": build_image([tars[1]])})
    assert len(ocifast.diff(f"oci:{tmp_path}:one", f"oci:{tmp_path}:two").changes) == 1


NAMES = st.sampled_from(["a", "b", "a.b", "d/a", "d/b", "d-e"])
ENTRIES = st.lists(
    st.one_of(
        st.tuples(st.just("file"), NAMES, st.sampled_from([b"", b"x", b"y", b"zz"])),
        st.tuples(st.just("link"), NAMES, st.sampled_from([b"a", b"b"])),
        st.tuples(st.just("mode"), NAMES, st.sampled_from([b"", b"x"])),
        st.tuples(st.just("white"), NAMES, st.just(b"")),
        st.tuples(st.just("hard"), NAMES, st.just(b"")),
    ),
    max_size=6,
)


def layer_of(entries: list[tuple[str, str, bytes]]) -> TarBuilder:
    """A layer that can be applied to anything."""
    tar = TarBuilder().directory("d").file("target", b"t")
    for kind, name, data in entries:
        if kind == "file":
            tar.file(name, data)
        elif kind == "link":
            tar.symlink(name, data)
        elif kind == "mode":
            tar.file(name, data, mode=0o600, uid=1)
        elif kind == "white":
            tar.whiteout(name)
        else:
            tar.hard_link(name, "target")
    return tar


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTRIES, max_size=2), st.lists(ENTRIES, max_size=2), st.lists(ENTRIES, max_size=2))
def test_both_ways_to_compare_agree_with_the_canonical_texts(
    tmp_path_factory: pytest.TempPathFactory,
    base: list[list[tuple[str, str, bytes]]],
    above: list[list[tuple[str, str, bytes]]],
    other: list[list[tuple[str, str, bytes]]],
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    images = [build_image([layer_of(entries) for entries in (*base, *more)]) for more in (above, other)]
    write_layout(folder, {"one": images[0], "two": images[1]})
    names = f"oci:{folder}:one", f"oci:{folder}:two"
    difference = ocifast.diff(*names, times=True)
    with ExitStack() as stack:
        first, second = (stack.enter_context(ocifast.open(name)) for name in names)
        one, two = (stack.enter_context(image.flatten()) for image in (first, second))
        lines = [{line.split(b" ")[0]: line for line in tree.dump().splitlines()} for tree in (one, two)]
        plain = {
            path.decode() for path in lines[0].keys() | lines[1].keys() if lines[0].get(path) != lines[1].get(path)
        }
        assert {change.path for change in difference.changes} == plain
        if first.diff_ids != second.diff_ids:
            again = compare(one, two, times=True)
            assert found(again) == found(difference.changes)


def test_layers_alone(tmp_path: Path, registry: Registry) -> None:
    layers = [Layer(TarBuilder().file(name, name.encode())) for name in "abcde"]
    a, b, c, d, e = layers
    one, other = build_image([a, b, c, d]), build_image([a, c, e, d, b])
    where = f"oci:{write_layout(tmp_path, one)}:app"
    reference = registry.put(other, "diff/layers:1")
    before = len(registry.requests())
    told = json.loads(command("diff", "--json", "--layers", where, reference))
    asked = " ".join(registry.requests()[before:])
    assert not any(layer.digest in asked for layer in layers)
    found = [(row["kind"], row["first"], row["second"], row["diff_id"]) for row in told["layers"]]
    assert found == [
        ("same", 0, 0, a.diff_id),
        ("removed", 1, None, b.diff_id),
        ("same", 2, 1, c.diff_id),
        ("added", None, 2, e.diff_id),
        ("same", 3, 3, d.diff_id),
        ("added", None, 4, b.diff_id),
    ]
    assert (told["differs"], told["first_digest"], told["second_digest"]) == (True, one.digest, other.digest)
    lines = command("diff", "--layers", where, reference).decode().splitlines()
    assert [line.split()[0] for line in lines] == ["=", "-", "=", "+", "=", "+"]
    assert lines[1] == f"-    1    -  {len(b.blob):>7} B  {b.diff_id}"
    done = try_ocifast("diff", "--layers", "--exit-code", where, reference)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 6)
    done = try_ocifast("diff", "--layers", "--exit-code", where, where)
    assert (done.returncode, done.stderr) == (0, b"")
    assert try_ocifast("diff", "--layers", "--times", where, where).returncode == 2
    with ocifast.open(where) as image:
        assert [change.kind for change in ocifast.compare_layers(image, image)] == ["same"] * 4


LOW = TarBuilder().directory("etc").file("etc/base", b"b").file("other", b"o")
OLD = (
    TarBuilder()
    .directory("app", mode=0o700)
    .file("app/run", b"one", mode=0o755)
    .file("app/twice", b"first")
    .file("app/twice", b"second")
    .file("app/same", b"same", uid=1)
    .symlink("app/link", "run")
    .hard_link("app/base", "etc/base")
    .device("app/null", "char", 1, 3)
    .file("app/gone", bytes(1500))
    .whiteout("etc/old")
    .opaque("app/below")
)
NEW = (
    TarBuilder()
    .directory("app")
    .file("app/run", b"two", mode=0o755, mtime=9)
    .file("app/twice", b"second")
    .file("app/same", b"same", uid=1, mtime=9)
    .symlink("app/link", "same")
    .hard_link("app/base", "other")
    .device("app/null", "char", 1, 5)
    .file("app/new\x1b", b"n", xattrs={"user.a": b"1"})
    .whiteout("etc/base")
    .opaque("app/below")
    .directory("app/below")
)
BY_LAYER = """\
=    0    0  {low}
=    2    1  {second}
>    1    2  {first}
~    3    3  {new}
    ~ /app/  mode 0700 -> 0755
    ~ /app/base  target etc/base -> other
    + /app/below/
    - /app/gone  1.5 kB
    ~ /app/link  target run -> same
    + /app/new\\x1b  1 B
    ~ /app/null  device
    ~ /app/run  content
    + /etc/base  whiteout
    - /etc/old  whiteout
-    4    -  {alone}
    - /alone  5 B
=    5    4  {top}
+    -    5  {more}
    + /more  4 B
    + /name  link to /more
"""


def test_files_by_layer(tmp_path: Path, registry: Registry) -> None:
    """Two layers in one place, two that changed places, one that is alone in each image; what both have is not read."""
    layers = {
        "low": Layer(LOW),
        "first": Layer(TarBuilder().file("first", b"1")),
        "second": Layer(TarBuilder().file("second", b"2")),
        "old": Layer(OLD),
        "new": Layer(NEW, compression="zstd"),
        "alone": Layer(TarBuilder().file("alone", b"alone")),
        "top": Layer(TarBuilder().file("top", b"t")),
        "more": Layer(TarBuilder().file("more", b"more").hard_link("name", "more")),
    }
    one, other = (
        build_image([layers[name] for name in names.split()])
        for names in ("low first second old alone top", "low second first new top more")
    )
    where, reference = (registry.put(image, f"diff/{n}-by-layer:1") for n, image in enumerate((one, other)))
    before = len(registry.requests())
    lines = command("diff", "--no-cache", "--by-layer", where, reference).decode()
    asked = " ".join(line for line in registry.requests()[before:] if "GET" in line)
    read = {name for name, layer in layers.items() if layer.digest in asked}
    assert read == {"old", "new", "alone", "more"}
    heads = {name: f"{format_size(len(layer.blob)):>9}  {layer.diff_id}" for name, layer in layers.items()}
    assert lines == BY_LAYER.format(**heads)
    told = json.loads(command("diff", "--json", "--by-layer", where, reference))
    rows = [(row["kind"], row["first"], row["second"], len(row["changes"])) for row in told["layers"]]
    assert rows == [
        ("same", 0, 0, 0),
        ("same", 2, 1, 0),
        ("moved", 1, 2, 0),
        ("changed", 3, 3, 10),
        ("removed", 4, None, 1),
        ("same", 5, 4, 0),
        ("added", None, 5, 2),
    ]
    changed = told["layers"][3]
    assert (changed["first_diff_id"], changed["second_diff_id"]) == (layers["old"].diff_id, layers["new"].diff_id)
    assert (changed["added"], changed["removed"], changed["changed"]) == (3, 2, 5)
    entries = {
        entry["path"]: entry for entry in json.loads(command("ls", "--json", "--layer", "3", reference))["entries"]
    }
    for change in changed["changes"]:
        if change["kind"] != "removed" and change["path"] != "/app/below":
            assert change["after"] == entries[change["path"]]
    brief = json.loads(command("diff", "--json", "--stat", "--by-layer", where, reference))
    assert [row.pop("changes") for row in brief["layers"]] == [[]] * 7
    assert brief["layers"] == [{key: row[key] for key in row if key != "changes"} for row in told["layers"]]
    counted = command("diff", "--stat", "--by-layer", where, reference).decode().splitlines()
    assert counted[3] == f"~    3    3  {heads['new']}  3 added, 2 removed, 5 changed"
    assert [len(counted), counted[0]] == [7, lines.splitlines()[0]]
    timed = ocifast.diff_layers(where, reference, times=True)
    assert [(change.path, change.fields) for change in timed.layers[3].changes if "mtime" in change.fields] == [
        ("/app/run", ("content", "mtime")),
        ("/app/same", ("mtime",)),
    ]


def test_by_layer_the_exit_status_and_nothing_to_read(pair: tuple[str, str]) -> None:
    for words, status in [((), 0), (("--exit-code",), 1), (("--exit-code", "--stat", "--json"), 1)]:
        assert try_ocifast("diff", "--by-layer", *words, *pair).returncode == status
    done = try_ocifast("diff", "--by-layer", "--exit-code", pair[0], pair[0])
    assert (done.returncode, [line[:11] for line in done.stdout.decode().splitlines()]) == (
        0,
        ["=    0    0", "=    1    1"],
    )
    assert try_ocifast("diff", "--by-layer", "--layers", *pair).returncode == 2
    found = asyncio.run(aio.diff_layers(*pair))
    assert found == ocifast.diff_layers(*pair)
    with ocifast.open(pair[0]) as one, ocifast.open(pair[1]) as two:
        assert ocifast.diff_layers(one, two) == found
        assert found.digests == (one.digest, two.digest)


def test_by_layer_a_damaged_layer_is_named_with_its_image(tmp_path: Path) -> None:
    damaged = Layer(TarBuilder().file("x"), digest=wrong_digest(b"x"))
    write_layout(tmp_path, {"one": build_image([BASE, FIRST]), "two": build_image([BASE, damaged])})
    one, two = f"oci:{tmp_path}:one", f"oci:{tmp_path}:two"
    for names in ((one, two), (two, one)):
        with pytest.raises(DigestMismatchError) as caught:
            ocifast.diff_layers(*names)
        assert str(caught.value).startswith(f"{two}: ")
    # What both have is not read, damaged or not.
    assert not ocifast.diff_layers(two, two).differs

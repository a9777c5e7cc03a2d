"""`ocifast du` and `ocifast.usage`: what layers bring, what is wasted, what is large, what is there twice."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import ocifast
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ocifast.errors import PathNotFoundError, UsageError
from ocifast.footprint import Duplicate, HiddenFile, LargeFile, LargeFolder

from tests.support.images import Layer, build_image, write_layout
from tests.support.layers import TarBuilder
from tests.support.run import ocifast as command
from tests.support.run import try_ocifast

LAYERS = [
    TarBuilder()
    .file("bin/tool", b"t" * 4000)
    .hard_link("bin/alias", "bin/tool")
    .file("lib/a", b"a" * 3000)
    .file("lib/b", b"b" * 2000)
    .file("lib/deep/c", b"c" * 1000)
    .file("var/twice", b"x" * 10)
    .file("var/twice", b"y" * 20)
    .symlink("usr", "lib")
    .file("empty"),
    # A file is replaced, one is hidden, and one loses its last name while the other name stays.
    TarBuilder().file("lib/a", b"A" * 3500).whiteout("lib/b").whiteout("bin/alias").file("copy", b"t" * 4000),
    # A folder is hidden with all that is in it; another becomes a file.
    TarBuilder().opaque("lib").file("lib/new", b"n" * 50).whiteout("var").file("var", b"v").file("copy2", b"t" * 4000),
]
ROWS = [(7, 10030, 5, 6030), (2, 7500, 1, 3500), (3, 4051, 0, 0)]
"""Files, bytes, hidden files, hidden bytes of each layer: counted by hand."""
HIDDEN = [
    HiddenFile("/lib/a", 3500, 1, 2, False),
    HiddenFile("/lib/a", 3000, 0, 1, True),
    HiddenFile("/lib/b", 2000, 0, 1, False),
    HiddenFile("/lib/deep/c", 1000, 0, 2, False),
    HiddenFile("/var/twice", 20, 0, 2, False),
    HiddenFile("/var/twice", 10, 0, 0, True),
]
TEXT = """\
path        /
files       12.1 kB
wasted      9.5 kB (44.2 %)
duplicates  8.0 kB (66.4 %)

LAYER  DIFF ID            BLOB     FILES      BYTES     WASTED
    0  {0}  {3:>9}         7    10.0 kB     6.0 kB
    1  {1}  {4:>9}         2     7.5 kB     3.5 kB
    2  {2}  {5:>9}         3     4.1 kB        0 B

  FOLDERS
   4.0 kB  /bin/
     50 B  /lib/

    FILES  LAYER
   4.0 kB      0  /bin/tool
   4.0 kB      1  /copy

   WASTED  LAYER  GONE IN
   3.5 kB      1        2 hidden    /lib/a
   3.0 kB      0        1 replaced  /lib/a

    SPARE  TIMES  SAME CONTENT
   8.0 kB      3  /bin/tool
                  /copy
                  /copy2
"""


@pytest.fixture
def where(tmp_path: Path) -> str:
    """The image of `LAYERS`."""
    return f"oci:{write_layout(tmp_path / 'du', build_image(LAYERS))}:app"


def test_where_the_bytes_are(where: str) -> None:
    found = ocifast.usage(where)
    assert [(one.files, one.bytes, one.hidden_files, one.hidden_bytes) for one in found.layers] == ROWS
    assert (found.path, found.bytes, found.hidden_bytes, found.duplicate_bytes) == ("/", 12051, 9530, 8000)
    assert list(found.hidden) == HIDDEN
    assert list(found.files) == [
        LargeFile("/bin/tool", 4000, 0),
        LargeFile("/copy", 4000, 1),
        LargeFile("/copy2", 4000, 2),
        LargeFile("/lib/new", 50, 2),
        LargeFile("/var", 1, 2),
        LargeFile("/empty", 0, 0),
    ]
    assert list(found.folders) == [LargeFolder("/bin", 4000), LargeFolder("/lib", 50)]
    assert list(found.duplicates) == [Duplicate(("/bin/tool", "/copy", "/copy2"), 3, 4000)]
    assert found.duplicates[0].spare_bytes == 8000
    with ocifast.open(where) as image:
        assert [(one.layer, one.diff_id) for one in found.layers] == list(
            zip(image.layers, image.diff_ids, strict=True)
        )
        assert ocifast.usage(image) == found
        with pytest.raises(UsageError, match="not for one that is open"):
            ocifast.usage(image, platform="linux/amd64")


def test_below_a_path(where: str) -> None:
    # The link is followed.
    for path in ("lib", "/lib/", "/usr", b"/usr"):
        found = ocifast.usage(where, path)
        assert (found.path, found.bytes, found.hidden_bytes) == ("/lib", 50, 9500)
        assert [(one.files, one.bytes, one.hidden_bytes) for one in found.layers] == [
            (3, 6000, 6000),
            (1, 3500, 3500),
            (1, 50, 0),
        ]
        assert [one.path for one in found.files] == ["/lib/new"]
        assert (found.folders, found.duplicates) == ((), ())
        assert list(found.hidden) == [one for one in HIDDEN if one.path.startswith("/lib/")]
    # A file, and what had its name before.
    assert [one.path for one in ocifast.usage(where, "/copy").files] == ["/copy"]
    assert list(ocifast.usage(where, "/var").hidden) == [one for one in HIDDEN if one.path.startswith("/var/")]
    with pytest.raises(PathNotFoundError):
        ocifast.usage(where, "/li")


def test_lists_end_where_they_shall(where: str) -> None:
    whole = ocifast.usage(where, top=100)
    for top in range(8):
        found = ocifast.usage(where, top=top)
        for name in ("files", "folders", "hidden", "duplicates"):
            assert getattr(found, name) == getattr(whole, name)[:top]
        assert (found.layers, found.duplicate_bytes) == (whole.layers, whole.duplicate_bytes)
    with pytest.raises(UsageError, match="-1 is no number"):
        ocifast.usage(where, top=-1)


def test_du_for_people(where: str) -> None:
    with ocifast.open(where) as image:
        ids = [diff_id.removeprefix("sha256:")[:12] for diff_id in image.diff_ids]
        sizes = [f"{layer.size} B" for layer in image.layers]
    assert command("du", "--top", "2", where).decode() == TEXT.format(*ids, *sizes)
    assert max(map(len, command("du", where).decode().splitlines())) <= 80


def test_du_as_json(where: str) -> None:
    told = json.loads(command("du", "--json", where, "/lib"))
    with ocifast.open(where) as image:
        layers = list(
            zip(image.layers, image.diff_ids, [(3, 6000, 3, 6000), (1, 3500, 1, 3500), (1, 50, 0, 0)], strict=True)
        )
        assert told == {
            "reference": where,
            "digest": image.digest,
            "path": "/lib",
            "bytes": 50,
            "hidden_bytes": 9500,
            "duplicate_bytes": 0,
            "layers": [
                {
                    "digest": layer.digest,
                    "diff_id": diff_id,
                    "size": layer.size,
                    "files": row[0],
                    "bytes": row[1],
                    "hidden_files": row[2],
                    "hidden_bytes": row[3],
                }
                for layer, diff_id, row in layers
            ],
            "files": [{"path": "/lib/new", "bytes": 50, "layer": 2}],
            "folders": [],
            "hidden": [vars(one) for one in HIDDEN if one.path.startswith("/lib/")],
            "duplicates": [],
        }


def test_an_empty_image_and_a_wrong_path(tmp_path: Path, where: str) -> None:
    write_layout(tmp_path, build_image([]))
    assert command("du", f"oci:{tmp_path}:app").decode().splitlines()[:4] == [
        "path        /",
        "files       0 B",
        "wasted      0 B (0.0 %)",
        "duplicates  0 B (0.0 %)",
    ]
    done = try_ocifast("du", where, "/no\nwhere")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert where.encode() in done.stderr


def test_holes_take_nothing(tmp_path: Path) -> None:
    """Who reads holes, or counts them, does not come back, or says a terabyte."""
    tar = TarBuilder()
    for name in ("one", "two"):
        tar.sparse(name, [(0, b"a" * 512), (1 << 40, b"")], 1 << 40)
    write_layout(tmp_path, build_image([Layer(tar)]))
    found = ocifast.usage(f"oci:{tmp_path}:app")
    assert (found.bytes, found.duplicate_bytes) == (1024, 512)


NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a", "d/e/b"])
ENTRIES = st.lists(st.tuples(st.sampled_from(["file", "white", "opaque"]), NAMES, st.integers(1, 4)), max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=4))
def test_what_layers_bring_is_there_or_wasted(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[tuple[str, str, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("du")
    tars, brought = [], []
    for entries in layers:
        tar, files = TarBuilder(), Counter[str]()
        for kind, name, size in entries:
            if kind == "file":
                tar.file(name, bytes([size]) * size)
                files.update(files=1, bytes=size)
            elif kind == "white":
                tar.whiteout(name)
            else:
                tar.opaque("d/e" if name.startswith("d/e") else "d")
        tars.append(tar)
        brought.append((files["files"], files["bytes"]))
    write_layout(folder, build_image(tars))
    found = ocifast.usage(f"oci:{folder}:app", top=1000)
    assert [(one.files, one.bytes) for one in found.layers] == brought
    with ExitStack() as stack:
        image = stack.enter_context(ocifast.open(f"oci:{folder}:app"))
        tree = stack.enter_context(image.flatten())
        there = {entry.path: entry for entry in tree if entry.type == "file"}
        assert {file.path: file.bytes for file in found.files} == {path: one.size for path, one in there.items()}
        same = Counter(tree.read_bytes(path) for path in there)
        assert {one.bytes: one.count for one in found.duplicates} == {
            len(data): count for data, count in same.items() if count > 1
        }
        assert {one.path: one.bytes for one in found.folders} == {
            entry.path: sum(one.size for path, one in there.items() if path.startswith(entry.path + "/"))
            for entry in tree
            if entry.type == "directory" and entry.path != "/"
        }
    assert [(one.hidden_files, one.hidden_bytes) for one in found.layers] == [
        (
            sum(one.layer == number for one in found.hidden),
            sum(one.bytes for one in found.hidden if one.layer == number),
        )
        for number in range(len(layers))
    ]
    assert sum(one.files - one.hidden_files for one in found.layers) == len(there)
    for one in found.hidden:
        # It was there under this name, and the layer that is named has something to do with its going.
        names = {name for kind, name, size in layers[one.layer] if kind == "file" and size == one.bytes}
        assert one.path.removeprefix("/") in names
        assert one.by >= one.layer
        assert layers[one.by]
